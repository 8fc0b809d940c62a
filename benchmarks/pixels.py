"""Speed and exactness of the ways from a JPEG to the vision model's pixels: `python -m benchmarks.pixels`.

Draws its own pictures, runs every way on the same bytes in turn, on one core, and prints for each: pictures per
second of the processor, that rate over the rate of transformers' PIL processor in the same run, and how far its
values are from that processor's (the largest difference, of 255, and the share of values that differ). torch is
needed only for the row that uses it.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable

import numpy as np
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from input_pipeline.images import PAD_COLOR, open_image, preprocess
from jaxllava.bench.pictures import draw

SHAPES = ((640, 480), (480, 640), (640, 427), (1280, 960), (4000, 3000), (3000, 4000))
BICUBIC = Image.Resampling.BICUBIC
Way = Callable[[bytes], np.ndarray]  # from a JPEG to uint8 [size, size, 3]


def decode(data: bytes) -> Image.Image:
    """What a plain Pillow pipeline does: decode, and convert what is not RGB."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def whole_and_kept(width: int, height: int, size: int) -> tuple[int, int, int, int]:
    """(width, height) that the shortest edge's resize gives, and (left, top) of the part that is kept."""
    if width <= height:
        wide, high = size, int(size * height / width)
    else:
        wide, high = int(size * width / height), size
    return wide, high, (wide - size) // 2, (high - size) // 2


def expand(image: Image.Image) -> Image.Image:
    """LLaVA's expand2square."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), PAD_COLOR)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def plain(image: Image.Image, size: int, reducing_gap: float | None = None) -> np.ndarray:
    wide, high, left, top = whole_and_kept(*image.size, size)
    resized = image.resize((wide, high), BICUBIC, reducing_gap=reducing_gap)
    return np.asarray(resized)[top : top + size, left : left + size]


def fractional_box(image: Image.Image, size: int) -> np.ndarray:
    """Only the kept part is resized, wherever its corners fall between the pixels."""
    width, height = image.size
    wide, high, left, top = whole_and_kept(width, height, size)
    across, down = width / wide, height / high
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return np.asarray(image.resize((size, size), BICUBIC, box=box))


def draft(data: bytes, size: int, times: int) -> np.ndarray:
    """libjpeg decodes at 1/2, 1/4 or 1/8, not below `times` the size; the shape is that of the whole picture."""
    image = Image.open(io.BytesIO(data))
    wide, high, left, top = whole_and_kept(*image.size, size)
    image.draft("RGB", (times * wide, times * high))
    return np.asarray(image.resize((wide, high), BICUBIC))[top : top + size, left : left + size]


def pad_after(image: Image.Image, size: int) -> np.ndarray:
    """The content is resized by itself and then laid on the square."""
    side = max(image.size)
    part = (max(1, round(image.width * size / side)), max(1, round(image.height * size / side)))
    square = Image.new("RGB", (size, size), PAD_COLOR)
    square.paste(image.resize(part, BICUBIC), ((size - part[0]) // 2, (size - part[1]) // 2))
    return np.asarray(square)


def with_torch(image: Image.Image, size: int) -> np.ndarray:
    """The call under torchvision's resize, and so under transformers' processors that use it."""
    import torch

    wide, high, left, top = whole_and_kept(*image.size, size)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # [1, 3, H, W]
    resized = torch.nn.functional.interpolate(pixels, (high, wide), mode="bicubic", antialias=True)[0]
    return np.ascontiguousarray(resized.permute(1, 2, 0).numpy()[top : top + size, left : left + size])


def ways(size: int) -> dict[str, dict[str, Way]]:
    """For each mode the ways to it, the reference first."""
    crop = {"height": size, "width": size}
    clip = CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size=crop, do_rescale=False, do_normalize=False
    )
    siglip = SiglipImageProcessorPil(size=crop, do_rescale=False, do_normalize=False)

    def run(processor: CLIPImageProcessorPil | SiglipImageProcessorPil, image: Image.Image) -> np.ndarray:
        return np.asarray(processor(image)["pixel_values"][0]).transpose(1, 2, 0)

    def ours(mode: str) -> Way:
        return lambda data: preprocess(open_image(data), size, mode)

    square: dict[str, Way] = {
        "transformers, PIL": lambda data: run(clip, Image.open(io.BytesIO(data))),
        "jaxllava": ours("square"),
        "Pillow, whole picture": lambda data: plain(decode(data), size),
        "Pillow, fractional box": lambda data: fractional_box(decode(data), size),
        "Pillow, reducing_gap=3": lambda data: plain(decode(data), size, 3.0),
        "Pillow, JPEG draft": lambda data: draft(data, size, 1),
        "Pillow, JPEG draft x 2": lambda data: draft(data, size, 2),
    }
    try:
        import torch

        torch.set_num_threads(1)
        square["torch interpolate"] = lambda data: with_torch(decode(data), size)
    except ImportError:
        print("no torch: its row is left out\n")
    return {
        "square": square,
        "pad": {
            "transformers, PIL": lambda data: run(clip, expand(decode(data))),
            "jaxllava": ours("pad"),
            "Pillow, whole picture": lambda data: plain(expand(decode(data)), size),
            "Pillow, content, then pad": lambda data: pad_after(decode(data), size),
        },
        "stretch": {
            "transformers, PIL": lambda data: run(siglip, Image.open(io.BytesIO(data))),
            "jaxllava": ours("stretch"),
        },
    }


def measure(candidates: dict[str, Way], data: bytes, seconds: float) -> dict[str, tuple[float, int, float]]:
    """Per way: median processor seconds a picture; largest difference from the first way; share that differs."""
    expected = next(iter(candidates.values()))(data).astype(int)
    off = {name: np.abs(way(data) - expected) for name, way in candidates.items()}
    spent: dict[str, list[float]] = {name: [] for name in candidates}
    begin = time.perf_counter()
    # In turn, so that whatever else the machine does slows all of them.
    while time.perf_counter() - begin < seconds * len(candidates) or len(spent[next(iter(spent))]) < 3:
        for name, way in candidates.items():
            start = time.process_time()  # of the processor: what others run on it does not count
            way(data)
            spent[name].append(time.process_time() - start)
    return {
        name: (statistics.median(spent[name]), int(off[name].max()), float((off[name] > 0).mean()))
        for name in candidates
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=336, help="side of the result in pixels")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each row")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn pictures")
    args = parser.parse_args()
    print(f"JPEG of quality 90 to {args.size} pixels, decoding included, one core\n")
    print("| picture | mode | way | pictures/s | x transformers | max difference | differing |")
    print("|---|---|---|--:|--:|--:|--:|")
    for width, height in SHAPES:
        data = draw(width, height, args.seed)
        for mode, candidates in ways(args.size).items():
            rows = measure(candidates, data, args.seconds)
            base = next(iter(rows.values()))[0]
            for name, (spent, largest, share) in rows.items():
                cells = f"{1 / spent:.1f} | {base / spent:.2f} | {largest} | {100 * share:.3f} %"
                print(f"| {width} x {height} | {mode} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
