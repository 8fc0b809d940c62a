"""The whole of `jaxllava quickstart`: corpus, cleaning, tokenizer, models, stages, evaluation. `:tiny` is for tests."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import prepare
from configs import train as train_config
from configs.arguments import parse

ARMS = ("ad", "behavior", "shuffled")


def small_stage(name: str, **changes) -> ConfigDict:
    """A stage of configs/train.py with what the quickstart's small models have in common."""
    config = train_config.get_config(f"stage={name}")
    config.weight_decay = 0.05
    config.b2 = 0.98
    config.row_tokens = 256
    config.batch = 8
    config.method_rules = train_config.MUON
    config.row_images = 4
    config.loss_chunks = 1
    config.devices = 1  # too small to share
    config.template = config.template or "v1_bare"
    config.update(changes)
    return config


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: `tiny` shrinks every stage to seconds (it learns nothing)."""
    tiny = parse(arg, tiny=False).tiny
    config = ConfigDict()
    config.seed = 0
    config.seeds = 1  # how often the arms are trained, with seeds 0, 1, ...
    config.plaza = dict(posts=2400, instruct=4000, texts=8000, chats=12000, films=0)
    config.prepare = prepare.get_config()
    config.prepare.template = "image_behavior_v1"  # few words, for a decoder of two layers
    config.vocab_size = 1024

    # "dots": on a CPU, keeping every layer's attention weights costs more than computing them again.
    remat = "dots"
    config.vision = dict(
        hidden_size=128, intermediate_size=512, layers=4, heads=4, image_size=64, patch_size=16, remat=remat
    )
    config.text = dict(
        hidden_size=64, intermediate_size=256, layers=2, heads=2, max_positions=32, remat=remat
    )
    config.decoder = dict(
        hidden_size=128,
        intermediate_size=384,
        layers=2,
        heads=4,
        kv_heads=4,
        initializer_range=0.08,
        remat=remat,
    )

    everything = dict(lr_rules=train_config.EVERYTHING, sharding_rules="replicated")
    config.clip = small_stage(
        "align",
        stage="clip",
        mixture=(("ad_train", 1.0), ("caption_train", 1.0)),  # posts' titles, and captions of other pictures
        batch=64,
        row_tokens=32,
        steps=240,
        lr=1e-3,
        template="plain",
        **everything,
    )
    config.language = small_stage(
        "instruct",
        stage="language",
        mixture=(("chat_train", 1.0), ("text_train", 0.3)),
        lr_rules=train_config.DECODER,
        row_tokens=128,
        row_images=0,
        steps=1100,
        lr=2e-3,
    )
    config.align = small_stage("align", steps=100, lr=2e-3)
    config.instruct = small_stage("instruct", row_tokens=160, steps=400, lr=2e-3)
    # Many small steps of Adam: what a picture has to do with its comments is learnt by updates, not by tokens.
    config.arm = small_stage(
        "behavior", batch=2, row_images=2, steps=3600, lr=1.5e-3, method_rules=train_config.ADAM
    )
    config.evaluate = ConfigDict(dict(posts=400, questions=300, samples=6, new_tokens=140))

    if tiny:
        config.plaza = dict(posts=60, instruct=40, texts=60, chats=60, films=0)
        config.vocab_size = 400
        for stage in (config.clip, config.language, config.align, config.instruct, config.arm):
            stage.update(steps=2, batch=4)
        for model in (config.vision, config.text, config.decoder):
            model.update(hidden_size=32, intermediate_size=64, layers=2, heads=2)
        config.decoder.update(kv_heads=2)
        config.evaluate.update(posts=6, questions=6, samples=2, new_tokens=8)
    return config
