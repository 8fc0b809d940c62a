"""The whole of `jaxllava evidence`: the quickstart's corpus and base, and the arms of the paper's ablations. `:tiny` is
for tests.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import prepare, quickstart
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
    if tiny:
        config.seeds = 2
        config.finetune.steps = 2
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
