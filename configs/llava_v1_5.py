"""LLaVA-1.5: CLIP ViT-L/14 at 336 pixels, an MLP of two layers, Vicuna v1.5. 7B and 13B have the same settings.

    configs/llava_v1_5.py:size=7b,stage=1          projector alone, on LCS-558K
    configs/llava_v1_5.py:size=7b,stage=2          decoder and projector, on mix-665K
    configs/llava_v1_5.py:size=7b,stage=2,lora     adapters in place of the decoder; qlora: on weights of 4 bits

Stage 1 starts from `--config.vision_tower` and `--config.decoder`, stage 2 from stage 1's workdir as `--config.base`.
To tune a finished LLaVA-1.5 on a task (`finetune_task.sh`, `finetune_task_lora.sh`) take stage 2 with it as the base.
`padded` makes batches as LLaVA's own code does. Sources: `scripts/v1_5/pretrain.sh`, `finetune.sh`, `finetune_lora.sh`
of `haotian-liu/LLaVA` c121f04.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.arguments import parse
from configs.llava_scripts import recipe, with_lora
from input_pipeline.errors import UserError


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: size=7b|13b, stage=1|2, lora, qlora, padded."""
    given = parse(
        arg,
        size="7b",
        stage="1",
        lora=False,
        qlora=False,
        padded=False,
        choices={"size": ("7b", "13b"), "stage": ("1", "2")},
    )
    adapters = given.lora or given.qlora
    architecture = f"llava-v1.5-{given.size}"
    if given.stage == "1":
        if adapters:
            raise UserError("configs/llava_v1_5.py: lora and qlora are of stage=2.")
        # pretrain.sh names no --image_aspect_ratio, so it is square, and groups nothing.
        return recipe(
            "align",
            architecture=architecture,
            lr=1e-3,
            batch=256,  # 32 x 8
            image_tokens=576,
            image_mode="square",
            template="plain",
            padded=given.padded,
        )
    config = recipe(
        "instruct",
        architecture=architecture,
        lr=2e-5,
        batch=128,  # 16 x 8
        image_tokens=576,
        image_mode="pad",  # --image_aspect_ratio pad
        template="vicuna_v1",  # --version v1
        padded=given.padded,
        by_modality=True,  # --group_by_modality_length True
    )
    if adapters:
        # --lora_r 128 --lora_alpha 256 --learning_rate 2e-4 --mm_projector_lr 2e-5. LLaVA-1.5 published no QLoRA: the
        # same with the switch --bits 4 of v1's finetune_qlora.sh.
        with_lora(config, rank=128, alpha=256, lr=2e-4, projector_lr=2e-5, quantized=given.qlora)
    return config
