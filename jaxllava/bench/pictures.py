"""Drawn photographs, and how fast they become a tower's pixels on one processor."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from input_pipeline.errors import UserError
from input_pipeline.images import open_image, preprocess
from jaxllava.bench.rounds import row

SHAPES = (
    (640, 480),
    (480, 640),
    (1280, 960),
    (4000, 3000),
)  # a web picture of either kind, a larger one, a camera's


def draw(width: int, height: int, seed: int) -> bytes:
    """A JPEG of quality 90: waves of colour, blots of eight pixels, and a camera's noise."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [np.sin(x / width * (9 + 3 * i) + i) + np.cos(y / height * (20 - 4 * i)) for i in range(3)]
    blots = generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(blots).resize((width, height), Image.Resampling.BICUBIC), np.float32)
    noise = generator.normal(0, 4, (height, width, 1))
    values = 0.6 * (60 * np.stack(waves, -1) + 128) + 0.4 * smooth + noise  # [H, W, 3]
    buffer = io.BytesIO()
    Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def measure(size: int, against: bool, rounds: int) -> list[dict[str, Any]]:
    """Pictures per second of the processor, decoding included, from JPEGs to `size` pixels a side.

    Against transformers' CLIP image processor (the one on Pillow, whose pixels ours are equal to), as it comes: it
    gives normalised floats, where ours gives bytes that the device normalises. A second line has it give bytes too.
    """
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    sizes: dict[str, Any] = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    whole = CLIPImageProcessorPil(**sizes)
    pixels = CLIPImageProcessorPil(**sizes, do_rescale=False, do_normalize=False)
    found = []
    for width, height in SHAPES:
        data = draw(width, height, 0)
        ways: dict[str, Callable[[], Any]] = {
            "ours": lambda data=data: preprocess(open_image(data), size, "square")
        }
        if against:
            for name, processor in (("as it comes", whole), ("pixels only", pixels)):
                ways[name] = lambda data=data, processor=processor: np.asarray(
                    processor(Image.open(io.BytesIO(data)))["pixel_values"][0]
                )
            if not np.array_equal(ways["ours"](), ways["pixels only"]().transpose(1, 2, 0)):
                raise UserError("bench: the pixels of both sides differ")
        spent: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds + 1):
            for name, way in ways.items():
                start = time.process_time()  # of the processor: what others run on it does not count
                way()
                spent[name].append(time.process_time() - start)
        rates = {name: [1 / max(s, 1e-9) for s in each[1:]] for name, each in spent.items()}
        what = f"{width} x {height} to {size}"
        if not against:
            found.append(row("images", what, "images/s/core", rates["ours"]))
        for name in list(ways)[1:]:
            found.append(row("images", f"{what}, {name}", "images/s/core", rates["ours"], rates[name]))
    return found
