"""A small modern base: a SigLIP tower with a Qwen2.5 or Qwen3 decoder of 0.5B to 1.7B, after LLaVA-NeXT's scripts.

    configs/siglip_qwen.py:stage=1     --config.vision_tower=SIGLIP --config.decoder=QWEN --config.data=DIR
    configs/siglip_qwen.py:stage=2     --config.base=STAGE1 --config.data=DIR

Published (`LLaVA-VL/LLaVA-NeXT`: `scripts/train/pretrain_siglip.sh`, `finetune_si.sh`, `direct_finetune_clip.sh`, all
written for Qwen2-7B-Instruct on siglip-so400m-patch14-384): learning rate 1e-3, then 1e-5 with 2e-6 for the tower; who
trains (projector; then everything); mlp2x_gelu on layer -2; the template qwen_1_5; one epoch, warm-up 0.03, cosine, no
decay, bf16; 128 GPUs x 1 x 2 = 256 samples a step in stage 2.

Our choice: the small decoder; a batch of 256 in stage 1 (the script leaves the number of GPUs open; LLaVA-1.5's); one
view of a picture, stretched as SigLIP was trained, and rows of 2048 (published: anyres up to nine tiles and 32768).
`tower` is the tower's name at google/siglip-* and tells how many positions a picture takes.
"""

from __future__ import annotations

from functools import partial

from ml_collections import ConfigDict

from configs.arguments import parse
from configs.llava_scripts import recipe

# google/siglip-NAME: positions of a picture, (pixels // patch) ** 2
TOWERS = {
    "so400m-patch14-384": 729,
    "base-patch16-384": 576,
    "base-patch16-256": 256,
    "base-patch16-224": 196,
}
# The pooling head and the norm behind the last layer are never looked at.
ALL = (
    (r"vision/(head|post_layernorm)/.*", None),
    (r"vision/.*", 0.2),  # --mm_vision_tower_lr 2e-6 of 1e-5
    (r"(projector|decoder)/.*", 1.0),
)


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: stage=1|2, tower=so400m-patch14-384|base-patch16-..., padded."""
    given = parse(
        arg,
        stage="1",
        tower="so400m-patch14-384",
        padded=False,
        choices={"stage": ("1", "2"), "tower": TOWERS},
    )
    of_siglip = partial(
        recipe,
        architecture="siglip-so400m-qwen2.5-1.5b" if given.tower.startswith("so400m") else "",
        image_tokens=TOWERS[given.tower],
        image_mode="stretch",
        batch=256,
        padded=given.padded,
    )
    if given.stage == "1":
        return of_siglip("align", lr=1e-3, template="plain")
    config = of_siglip("instruct", lr=1e-5, template="chatml", by_modality=True)
    config.lr_rules = ALL
    return config
