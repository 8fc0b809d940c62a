"""LLaVA v1 (*Visual Instruction Tuning*): CLIP ViT-L/14 at 224 pixels, a linear projector, Vicuna.

    configs/llava_v1.py:stage=1          projector alone, on image-caption pairs (CC-595K; later LCS-558K)
    configs/llava_v1.py:stage=2          decoder and projector, on the 158K instructions, three epochs
    configs/llava_v1.py:stage=2,paper    with the paper's batch
    configs/llava_v1.py:stage=2,lora     adapters in place of the decoder (the 80K instructions, one epoch); also qlora

`size=13b` has the same settings.
`padded` makes batches as LLaVA's own code does. Sources: `scripts/pretrain.sh`, `finetune_full_schedule.sh`,
`finetune_lora.sh`, `finetune_qlora.sh` of `haotian-liu/LLaVA` c121f04, and the paper's appendix.
"""

from __future__ import annotations

from functools import partial

from ml_collections import ConfigDict

from configs.arguments import parse
from configs.llava_scripts import recipe, with_lora
from input_pipeline.errors import UserError


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: size=7b|13b, stage=1|2, paper, lora, qlora, padded."""
    given = parse(
        arg,
        size="7b",
        stage="1",
        paper=False,
        lora=False,
        qlora=False,
        padded=False,
        choices={"size": ("7b", "13b"), "stage": ("1", "2")},
    )
    of_v1 = partial(
        recipe,
        architecture=f"llava-v1-{given.size}",
        image_tokens=256,
        image_mode="square",  # --image_aspect_ratio is not named
        padded=given.padded,
    )
    adapters = given.lora or given.qlora
    if given.stage == "1":
        if adapters or given.paper:
            raise UserError("configs/llava_v1.py: lora, qlora and paper are of stage=2.")
        config = of_v1("align", lr=2e-3, batch=128, template="plain")  # 16 x 8
        config.projector = "linear"
        return config
    config = of_v1(
        "instruct",
        lr=2e-5,
        # The paper's appendix says 32, the released script 16 x 8; the default is what can be run again as it stands.
        batch=32 if given.paper else 128,
        template="vicuna_v1",
        epochs=1 if adapters else 3,
    )
    if adapters:  # train.py's defaults of rank and alpha; no --mm_projector_lr
        with_lora(config, rank=64, alpha=16, lr=2e-5, projector_lr=2e-5, quantized=given.qlora)
    return config
