"""The whole of `jaxllava evidence`: the quickstart's corpus and base, and the arms of the paper's ablations. `:tiny` is
for tests.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import prepare, quickstart
from configs import train as train_config
from input_pipeline.behavior.rules import SOURCES

# name: (records: "clean" or "unfiltered", split, instruction samples for each of its own samples).
# The paper's ablations (section 4.4 of the appendix in its tables): what is told, how it is mixed, how it is cleaned.
ARMS = {
    "ad": ("clean", "ad", 1.0),
    "shuffled": ("clean", "shuffled", 1.0),
    "likes": ("clean", "likes", 1.0),
    "titles": ("clean", "titles", 1.0),
    "comments": ("clean", "comments", 1.0),
    "behavior": ("clean", "behavior", 1.0),
    "unfiltered": ("unfiltered", "behavior", 1.0),
    "behavior-1to2": ("clean", "behavior", 2.0),
    "behavior-2to1": ("clean", "behavior", 0.5),
}

# Of the experiment on films (--films), name: split. The paper's main model tells likes and comments (`reactions`);
# `behavior` tells replay values too.
FILM_ARMS = {"ad": "ad", "shuffled": "shuffled", "reactions": "reactions", "behavior": "behavior"}


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: as in configs/quickstart.py, of which everything but the arms is taken as it is."""
    config = quickstart.get_config(arg)
    tiny = arg == "tiny"
    config.seeds = 5
    config.jobs = 0  # processes side by side; 0: one for each core
    config.arms = tuple(ARMS)
    config.prepare.arms = tuple(dict.fromkeys(split for kind, split, _ in ARMS.values() if kind == "clean"))
    config.unfiltered = _unfiltered(config.prepare)

    # Supervised training on the true labels of training posts, from the arms' models; fixed beforehand: the arms'
    # own rate and optimizer, and so many steps that all labels are seen once.
    config.finetuned = ("base", "ad", "shuffled", "behavior")
    config.label_shares = (0.1, 1.0)  # of the training posts
    config.finetune = config.arm.copy_and_resolve_references()
    config.finetune.update(stage="labels", row_images=8, steps=330, mixture=(("labels_train", 1.0),))
    for stage in (config.arm, config.finetune):
        stage.update(tensorboard=False, checkpoint_every=1200, keep=1)  # neither changes what is learnt
    config.films = _films(tiny)
    if tiny:
        config.seeds = 2
        config.finetune.steps = 2
    return config


def _films(tiny: bool) -> ConfigDict:
    """The experiment on films, from the same base, which becomes a LLaMA-VID: frames of few tokens, and a Q-Former."""
    config = ConfigDict()
    config.count = 24 if tiny else 1200
    config.arms = tuple(FILM_ARMS)
    config.prepare = prepare.get_config("heldout=0.4" if tiny else "")
    config.prepare.arms = tuple(dict.fromkeys(FILM_ARMS.values()))
    config.prepare.behaviors = ("likes", "comments", "replay")
    config.prepare.template = "image_behavior_v1"  # of films that are lost: their thumbnail
    config.prepare.video.update(show="scenes", side=64)
    config.prepare.video_templates.youtube = "film_turns_v1"
    width = 32 if tiny else 64
    config.model = dict(
        compress="grid:2",
        at_once=64,
        qformer=dict(
            hidden_size=width, intermediate_size=4 * width, layers=2, heads=2, queries=8, max_positions=512
        ),
    )
    # What is new is trained with the rest, on what the base was trained on, and on captions.
    config.base = quickstart.small_stage(
        "instruct",
        stage="films-base",
        mixture=(("instruct_train", 1.0), ("caption_train", 0.5)),
        row_tokens=256,
        steps=400,
        lr=2e-3,
        method_rules=(
            (
                r"decoder/layers/(attn|mlp)/.*kernel|projector/.*kernel|qformer/layers/.*kernel|context/.*kernel",
                "muon",
            ),
            (r".*", "adam"),
        ),
    )
    config.arm = quickstart.small_stage(
        "behavior",
        batch=2,
        row_images=8,
        row_tokens=608,  # of the longest film: none is cut
        steps=2000,
        lr=1.5e-3,
        method_rules=train_config.ADAM,
    )
    config.arm.update(tensorboard=False, checkpoint_every=1200, keep=1)
    if tiny:
        for stage in (config.base, config.arm):
            stage.update(steps=2, batch=4)
    return config


def _unfiltered(recipe: ConfigDict) -> ConfigDict:
    """The same recipe with every threshold of the funnel off. What cannot be read is still missing."""
    config = recipe.copy_and_resolve_references()
    config.arms = ("behavior",)
    off = prepare.get_config().clean
    off.update(drop_nsfw=False, drop_bots=False, drop_deleted=False, drop_duplicate_media=False)
    off.use_word_list = False
    for source in SOURCES:
        off[source].update(
            created_from="",
            exclude_categories=(),
            min_views=0,
            min_words=0,
            max_words=100_000,
            similarity=1.0,  # equal comments are one: less cannot be asked for
            languages=(),
            min_comments=0,
        )
        with off[source].ignore_type():
            off[source].max_duration = None
    config.clean = off
    return config
