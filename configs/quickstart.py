"""The whole of `jaxllava quickstart`: corpus, cleaning, tokenizer, models, stages, evaluation. `:tiny` is for tests."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import prepare
from configs import train as train_config
from configs.arguments import parse

ARMS = ("ad", "behavior", "shuffled")


def _stage(name: str, **changes) -> ConfigDict:
    config = train_config.get_config(f"stage={name}")
    config.weight_decay = 0.05
    config.b2 = 0.98
    config.row_tokens = 256
    config.row_images = 4
    config.loss_chunks = 1
    config.mesh = (1, 1, 1)
    config.template = config.template or "v1_bare"
    config.update(changes)
    return config


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: `tiny` shrinks every stage to seconds (it learns nothing)."""
    tiny = parse(arg, tiny=False).tiny
    config = ConfigDict()
    config.seed = 0
    config.seeds = 1  # how often the arms are trained, with seeds 0, 1, ...
    config.plaza = dict(posts=2400, instruct=3000, texts=6000)
    config.prepare = prepare.get_config()
    config.vocab_size = 1024

    config.vision = dict(
        hidden_size=128, intermediate_size=512, layers=4, heads=4, image_size=64, patch_size=16
    )
    config.text = dict(hidden_size=64, intermediate_size=256, layers=2, heads=2, max_positions=32)
    config.decoder = dict(
        hidden_size=128, intermediate_size=384, layers=4, heads=4, kv_heads=4, initializer_range=0.08
    )

    everything = dict(lr_rules=train_config.EVERYTHING, sharding_rules="replicated")
    config.clip = _stage(
        "align", stage="clip", batch=64, row_tokens=32, steps=240, lr=1e-3, template="plain", **everything
    )
    config.language = _stage(
        "instruct",
        stage="language",
        mixture=(("text_train", 1.0), ("chat_train", 1.0)),
        lr_rules=train_config.DECODER,
        row_images=0,
        batch=8,
        steps=300,
        lr=3e-3,
    )
    config.align = _stage("align", batch=8, steps=60, lr=2e-3)
    config.instruct = _stage("instruct", batch=8, steps=300, lr=2e-3)
    config.arm = _stage("behavior", batch=8, steps=250, lr=2e-3)
    config.evaluate = dict(posts=400, questions=300, samples=6, new_tokens=96)

    if tiny:
        config.plaza = dict(posts=60, instruct=40, texts=60, chats=60)
        config.vocab_size = 400
        for name in ("clip", "language", "align", "instruct", "arm"):
            config[name].update(steps=2, batch=4)
        for model in ("vision", "text", "decoder"):
            config[model].update(hidden_size=32, intermediate_size=64, layers=2, heads=2)
        config.decoder.kv_heads = 2
        config.evaluate.update(posts=6, questions=6, samples=2, new_tokens=8)
    return config
