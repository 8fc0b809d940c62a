"""LLaMA-VID: EVA-CLIP-G, InstructBLIP's Q-Former and Vicuna v1.5; a frame of a video is two tokens.

    configs/llama_vid.py:size=7b,stage=1           projector and context projections, on LCS-558K and WebVid
    configs/llama_vid.py:size=7b,stage=2           decoder, projector and Q-Former, on mix-665K and Video-ChatGPT
    configs/llama_vid.py:size=7b,stage=3           decoder and projector, on films of up to nine hours, a frame a second
    configs/llama_vid.py:size=7b,data=image,...    the models of pictures, of 224 or (`pixels=336`) 336 pixels

Stage 1 starts from `--config.vision_tower` (eva_vit_g.pth), `--config.decoder`, `--config.qformer`
(instruct_blip_vicuna7b_trimmed.pth) and `--config.question_tokenizer` (bert-base-uncased), stage 2 from stage 1's
workdir as `--config.base`. `grid=N`: content tokens of N x N windows, where the published scripts have them (2 for
videos, 4 for pictures). Without it a frame's content is one token, and a picture's all of its patches. `padded` makes
batches as LLaVA's own code does.

Stage 3 starts from stage 2's workdir. What its frozen tower and Q-Former keep of frames is computed once, into
`--config.features`, as the original computes what the tower sees; docs/plan.md tells what its rows take.

Sources: `scripts/video/train/stage_1_2_full_*.sh`, `stage_3_full_v7b_224_longvid.sh` and
`scripts/image_only/train/stage_1_2_full_*.sh` of `dvlab-research/LLaMA-VID` b3d3ae2. 13B on pictures of 224 pixels has
no script, and takes what 336 has.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.arguments import parse
from configs.behavior_llava import LLM_AND_PROJECTOR
from configs.llava_scripts import recipe
from input_pipeline.errors import UserError

# (tokens, frames) of a packed row by (data, stage, tokens of a frame), full on lengths like the data's
# (tests/configs/test_recipes.py). Clips of WebVid are some 18 s of one question, those of ActivityNet two minutes.
ROWS = {
    ("video", "1", 2): (512, 112),
    ("video", "1", 5): (1024, 136),
    ("video", "2", 2): (4096, 320),
    ("video", "2", 5): (4096, 320),
    ("image", "1", 257): (4096, 15),
    ("image", "1", 577): (3584, 6),
    ("image", "1", 17): (512, 16),
    ("image", "2", 257): (4096, 8),
    ("image", "2", 577): (4096, 8),
    ("image", "2", 17): (4096, 16),
}
# Frames of a video, at most, evenly spread. The scripts have a frame a second and cut behind 2048 tokens; the data of
# 13B and of grid:2 ends at five minutes (*_maxtime_5min.json).
FRAMES = 300


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: size=7b|13b, stage=1|2|3, data=video|image, pixels=224|336, grid=0, padded."""
    given = parse(
        arg,
        size="7b",
        stage="1",
        data="video",
        pixels="224",
        grid=0,
        padded=False,
        choices={
            "size": ("7b", "13b"),
            "stage": ("1", "2", "3"),
            "data": ("video", "image"),
            "pixels": ("224", "336"),
        },
    )
    published = (
        ("video", "224", 0),
        ("video", "224", 2),
        ("image", "224", 0),
        ("image", "224", 4),
        ("image", "336", 0),
    )
    if (given.data, given.pixels, given.grid) not in published:
        raise UserError(
            f"configs/llama_vid.py: data={given.data},pixels={given.pixels},grid={given.grid} has no script; there are "
            + "; ".join(f"data={data},pixels={pixels},grid={grid}" for data, pixels, grid in published)
        )
    if given.stage == "3":
        if (given.data, given.pixels, given.grid) != published[0]:
            raise UserError("configs/llama_vid.py: stage=3 is of data=video,pixels=224,grid=0 alone")
        return long_video(given.size)
    return {"1": align, "2": instruct}[given.stage](given)


def align(given: ConfigDict) -> ConfigDict:
    """Stage 1. `qformer_pretrain_freeze` of --bert_type: the Q-Former with its queries and norm is frozen."""
    config = recipe(
        "align",
        architecture=architecture(given),
        lr=1e-3,  # --learning_rate 1e-3
        batch=256,  # 32 x 8; 16 x 2 x 8 with grid:2
        rows=ROWS[given.data, "1", frame_tokens(given)],
        image_mode="square",  # no --image_aspect_ratio
        template="plain_guided",  # --version plain_guided
        padded=given.padded,
    )
    config.compress = compress(given)
    config.image_size = int(given.pixels)  # of --image_processor
    return with_frames(config, given)


def instruct(given: ConfigDict) -> ConfigDict:
    """Stage 2. `qformer_pretrain` of --bert_type: all but the tower trains."""
    large = given.size == "13b"
    image = given.data == "image"
    batch = (64 if image else 32) if large else 128
    config = recipe(
        "instruct",
        architecture=architecture(given),
        lr=2e-5,  # --learning_rate 2e-5
        # 7B 16 x 8 (pictures of 224), 8 x 2 x 8 (336), 4 x 4 x 8 (videos); 13B 2 x 4 x 8 (pictures), 2 x 2 x 8
        batch=batch,
        # 13B takes fewer samples a step: shorter rows are more of them, for more devices
        rows=(2048, 320) if large and not image else ROWS[given.data, "2", frame_tokens(given)],
        image_mode="pad",  # --image_aspect_ratio pad
        template="imgsp_v1",  # --version imgsp_v1
        padded=given.padded,
        by_modality=True,  # --group_by_modality_length True
    )
    if image and not given.grid:
        config.sample_tokens = 4096  # --model_max_length 4096; 2048 in the others
    return with_frames(config, given)


def architecture(given: ConfigDict) -> str:
    """A name in `jaxllava.models.presets`; grid:N has none of its own."""
    if given.grid:
        return ""
    return f"llama-vid-{given.size}" + (f"-image-{given.pixels}" if given.data == "image" else "")


def compress(given: ConfigDict) -> str:
    """--compress_type; the scripts of pictures have none."""
    if given.grid:
        return f"grid:{given.grid}"
    return "mean" if given.data == "video" else "none"


def frame_tokens(given: ConfigDict) -> int:
    """Positions of a frame: its context token and its content."""
    if given.grid:
        return 1 + given.grid**2
    return 2 if given.data == "video" else 1 + (int(given.pixels) // 14) ** 2


def with_frames(config: ConfigDict, given: ConfigDict) -> ConfigDict:
    """--video_fps 1 is of `jaxllava prepare`; a sample's frames fit its row."""
    if given.padded:
        config.row_tokens = max(config.row_tokens, config.sample_tokens)
        config.row_images = FRAMES if given.data == "video" else 1
    if given.data == "video":
        config.clip_frames = min(FRAMES, config.row_images)
    return config


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
    config.qformer_class = "hidden"  # stored features are without it (extract_video_features_subtitles.py)
    config.features = (
        "features"  # computed once, as the original does beforehand (its --video_folder holds them)
    )
    config.workers = 1  # --dataloader_num_workers 1
    # -- memory: a row's logits are 8 GB in float32
    config.loss_chunks = 32
    return config
