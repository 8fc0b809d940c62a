"""What is measured: models of a few sizes, and how long their prompts, answers and rows are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from configs import train as train_config
from input_pipeline.errors import UserError
from jaxllava.models.clip import ClipVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llava import LlavaConfig, init_params, llava_1_5

PARTS = ("train", "prefill", "decode", "images", "input", "conversion")
LORA = ((r"decoder/layers/.*kernel", (128, 256.0, 0.0)), (r".*", None))
# A way to train: (who trains, adapters).
WAYS: dict[str, tuple[Any, Any]] = {
    "full": (train_config.ALL_BUT_TOWER, ()),
    "stage 1": (train_config.PROJECTOR, ()),
    "LoRA": (((r".*lora_(a|b)", 1.0), (r"projector/.*", 1.0), (r".*", None)), LORA),
}


@dataclass(frozen=True)
class Size:
    """Args: prompt, new: tokens of a prompt and of an answer. rows: of a packed batch. ways: names of `WAYS`."""

    config: LlavaConfig
    prompt: int
    new: int
    rows: int
    row_tokens: int
    ways: tuple[str, ...]
    batches: tuple[int, ...] = (1, 8)
    remat: str = "none"


def _tiny() -> LlavaConfig:
    """The quickstart's own model."""
    vision = ClipVisionConfig(128, 512, 4, 4, image_size=64, patch_size=16)
    return LlavaConfig(vision, LlamaConfig(1024, 128, 384, 2, 4, initializer_range=0.08), image_token=5)


def _cpu() -> LlavaConfig:
    """8 layers of 512, LLaVA's vocabulary, and pictures of a ninth of LLaVA-1.5's positions."""
    vision = ClipVisionConfig(256, 1024, 4, 4, image_size=112, patch_size=14)
    return LlavaConfig(vision, LlamaConfig(32064, 512, 1408, 8, 8, initializer_range=0.04), image_token=32000)


def _1b() -> LlavaConfig:
    """TinyLlama's shape behind LLaVA-1.5's tower."""
    decoder = LlamaConfig(32064, 2048, 5632, 22, 32, kv_heads=4)
    return llava_1_5("7b").replace(decoder=decoder).with_dtypes("bfloat16", "float32")


SIZES = {
    "tiny": lambda: Size(_tiny(), 64, 256, 8, 256, ("full",)),
    "cpu": lambda: Size(_cpu(), 128, 64, 4, 512, ("full",), remat="dots"),
    "1b": lambda: Size(_1b(), 1024, 128, 4, 4096, ("full",), remat="full"),
    "7b": lambda: Size(llava_1_5("7b"), 1024, 128, 4, 4096, ("stage 1", "LoRA"), remat="full"),
}


def check_memory(name: str, size: Size, parts: tuple[str, ...], twin: bool) -> None:
    """Raises a UserError where the memory at hand is less than weights, gradients and moments need at the same time."""
    shapes = jax.eval_shape(lambda: init_params(size.config, jax.random.key(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    on_cpu = jax.default_backend() == "cpu"
    width = 4 if on_cpu or size.config.decoder.dtype == "float32" else 2
    trains, full = "train" in parts, "train" in parts and "full" in size.ways
    answers = bool({"prefill", "decode"} & set(parts))
    each = width * (answers or "conversion" in parts or (twin and trains))
    each += width * (answers and on_cpu)  # layers apart
    each += 16 * full or width * trains  # master copy, gradient and two moments, or what is frozen
    each += twin * (answers or trains or "conversion" in parts) * 4 + twin * full * 12
    needed, held = count * each, memory()
    if held is not None and needed > held:
        smaller = [other for other in SIZES if other != name][: list(SIZES).index(name)]
        raise UserError(
            f"--size {name} needs about {needed / 2**30:.1f} GiB for {', '.join(parts)}"
            f"{' on both sides' if twin else ''}, and this machine has {held / 2**30:.1f} GiB free; "
            + (
                f"take --size {smaller[-1]}, or --only with fewer parts"
                if smaller
                else "take --only with fewer parts"
            )
        )


def memory() -> int | None:
    """Bytes that a model may take here: of the first accelerator, else what Linux calls available."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
