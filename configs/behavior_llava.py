"""Behavior-LLaVA: receiver behaviour and visual instructions one to one, for 2.2 epochs.

    configs/behavior_llava.py:arm=behavior,size=13b      --config.base=LLAVA --config.data=DIR
    configs/behavior_llava.py:arm=ad,size=13b            the control: the same media without the behaviour
    configs/behavior_llava.py:arm=shuffled,size=13b      another control: everybody's behaviour dealt to other posts

`base=llava_v1_5` (the default) starts from a LLaVA-1.5; `base=llama_vid` is the paper's own base.

The paper (arXiv 2405.00942) gives the mixture, its ratio and the 2.2 epochs (section 3.3). It gives no learning rate,
batch size, length or number of frames. Those are taken from, in this order: the authors' released `train.sh`
(`behavior-in-the-wild/ad-memorability` 182dd89), the stage 2 of the base.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.arguments import parse
from configs.llava_scripts import recipe

ARMS = ("behavior", "ad", "shuffled")
# LLM and projector train (`qformer_pretrain_freeze_all` in train.sh); the tower, the Q-Former, its queries and
# projections do not. The paper's sentence that all but the visual encoder is frozen is read as a slip for the reverse.
LLM_AND_PROJECTOR = ((r"(decoder|projector)/.*", 1.0), (r".*", None))


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: arm=behavior|ad|shuffled, base=llava_v1_5|llama_vid, size=7b|13b, padded."""
    given = parse(
        arg,
        arm="behavior",
        base="llava_v1_5",
        size="13b",  # the only one in the paper's tables
        padded=False,
        choices={"arm": ARMS, "base": ("llava_v1_5", "llama_vid"), "size": ("7b", "13b")},
    )
    llama_vid = given.base == "llama_vid"
    # Samples of a step: the stage 2 of the base. LLaMA-VID's (video) has 4 x 4 x 8 for 7B and 2 x 2 x 8 for 13B;
    # train.sh's 4 on each of the 8 GPUs that its evaluation takes for granted would be 32 as well. LLaVA-1.5's has 128.
    batch = 32 if llama_vid and given.size == "13b" else 128
    config = recipe(
        given.arm,
        architecture=f"llama-vid-{given.size}" if llama_vid else f"llava-v1.5-{given.size}",
        lr=2e-5,  # train.sh, and the stage 2 of both bases
        batch=batch,
        image_tokens=576,
        image_mode="pad",
        template="imgsp_v1" if llama_vid else "vicuna_v1",
        # Of the behaviour; the instructions come as often (1:1). What an epoch of the mixture is, the paper leaves
        # open: this reads it as a pass over the 730k behaviour samples.
        epochs=2.2,
        padded=given.padded,
        by_modality=True,
    )
    config.lr_rules = LLM_AND_PROJECTOR
    if llama_vid and not given.padded:
        config.row_images = 16  # two tokens a frame: pictures and not tokens are what a row is short of
    # The paper picks its checkpoint by comments' perplexity and likes/views on a set that was held out.
    config.validation = ((f"{given.arm}_heldout", 1.0),)
    config.validation_rows = 256
    config.keep_best = 1
    config.export_best = True
    return config
