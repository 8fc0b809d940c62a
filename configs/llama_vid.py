"""LLaMA-VID: two tokens a frame. Here its third stage, long films.

    configs/llama_vid.py:size=7b,stage=3      decoder and projector, on films of up to nine hours at a frame a second

Stage 3 starts from stage 2's workdir as `--config.base`. Its pictures are not read: what the frozen tower saw of the
films' frames was kept beforehand (`config.features`), as the original keeps it, [frames, 256, 1408] float16 without the
class token. Sources: `scripts/video/train/stage_3_full_v7b_224_longvid.sh` of `dvlab-research/LLaMA-VID` b3d3ae2;
`llamavid/train/train.py` for the scaling; docs/plan.md for what it takes.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.arguments import parse
from configs.behavior_llava import LLM_AND_PROJECTOR
from configs.llava_scripts import recipe


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: size=7b|13b, stage=3."""
    given = parse(arg, size="7b", stage="3", choices={"size": ("7b", "13b"), "stage": ("3",)})
    return long_video(given.size)


def long_video(size: str) -> ConfigDict:
    """Stage 3. A batch is eight rows of one film each, as long as its longest film: one row a device, of eight.

    The published script is of 7B; 13B takes the same values.
    """
    config = recipe(
        "instruct",
        architecture=f"llama-vid-{size}-long",
        lr=2e-5,
        batch=8,  # --per_device_train_batch_size 1 x 8
        image_tokens=2,  # --video_token 2
        image_mode="pad",  # --image_aspect_ratio pad
        template="imgsp_v1",  # --version imgsp_v1
        padded=True,
        by_modality=True,  # --group_by_modality_length True
    )
    # `qformer_pretrain_freeze_all` of --bert_type: the Q-Former with its queries, norm and three projections is frozen
    # (llamavid_arch.py:130-137); LLM and projector train.
    config.lr_rules = LLM_AND_PROJECTOR
    # -- rows
    config.row_tokens = config.sample_tokens = 65_536  # --model_max_length 65536
    config.row_images = 32_768  # as many frames as two tokens each fill
    config.pad_multiple = 4096  # at most 16 lengths of rows, each a program to compile
    config.rope_factor = (
        16.0  # 65,536 over Vicuna's 4096 positions, linear: no other scaling is written there
    )
    config.features = "features"  # of the films, kept beforehand; the script's --video_folder holds them
    config.workers = 1  # --dataloader_num_workers 1
    # -- memory: a row's logits are 8 GB in float32
    config.loss_chunks = 32
    return config
