"""Published architectures by name: what a recipe is planned and measured for where no checkpoint is at hand."""

from __future__ import annotations

from collections.abc import Callable

from input_pipeline.errors import UserError, nearest
from jaxllava.models.clip import ClipVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llama_vid import LlamaVidConfig, llama_vid, llama_vid_long
from jaxllava.models.llava import LlavaConfig, llava_1_5
from jaxllava.models.siglip import SiglipVisionConfig


def _llava_v1(size: str) -> LlavaConfig:
    """LLaVA v1: CLIP ViT-L/14 at 224 pixels, a linear projector, Vicuna."""
    later = llava_1_5(size)
    vision = ClipVisionConfig(1024, 4096, 24, 16, image_size=224, patch_size=14)
    return later.replace(vision=vision, projector="linear", image_mode="square")


def _siglip_qwen() -> LlavaConfig:
    """SigLIP so400m/14 at 384 pixels with Qwen2.5-1.5B."""
    vision = SiglipVisionConfig(1152, 4304, 27, 16, image_size=384, patch_size=14)
    decoder = LlamaConfig(
        151936, 1536, 8960, 28, 12, kv_heads=2, rope_theta=1e6, rms_eps=1e-6, tie_embeddings=True,
        max_positions=32768, family="qwen2", qkv_bias=True,
    )  # fmt: skip
    return LlavaConfig(
        vision, decoder, image_token=151665, feature_select="cls_patch", image_mode="stretch"
    ).with_dtypes("bfloat16")


def _of_pictures(size: str, image_size: int) -> LlamaVidConfig:
    """LLaMA-VID's models of pictures, which keep all patches."""
    return llama_vid(size, image_size=image_size).replace(compress="none")


PRESETS: dict[str, Callable[[], LlavaConfig]] = {
    "llava-v1-7b": lambda: _llava_v1("7b"),
    "llava-v1-13b": lambda: _llava_v1("13b"),
    "llava-v1.5-7b": lambda: llava_1_5("7b"),
    "llava-v1.5-13b": lambda: llava_1_5("13b"),
    "llama-vid-7b": lambda: llama_vid("7b"),
    "llama-vid-13b": lambda: llama_vid("13b"),
    "llama-vid-7b-image-224": lambda: _of_pictures("7b", 224),
    "llama-vid-7b-image-336": lambda: _of_pictures("7b", 336),
    "llama-vid-13b-image-224": lambda: _of_pictures("13b", 224),
    "llama-vid-13b-image-336": lambda: _of_pictures("13b", 336),
    "llama-vid-7b-long": lambda: llama_vid_long("7b"),
    "llama-vid-13b-long": lambda: llama_vid_long("13b"),
    "siglip-so400m-qwen2.5-1.5b": _siglip_qwen,
}


def preset(name: str) -> LlavaConfig:
    """The config of that name; weights are float32, the computation bfloat16. Raises UserError for another."""
    if name not in PRESETS:
        raise UserError(f"config.architecture: {name!r} is not known.{nearest(name, PRESETS)}")
    return PRESETS[name]()
