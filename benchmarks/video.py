"""Speed of the ways from a film to the vision model's pixels: `python -m benchmarks.video [film ...]`.

Encodes its own films (H.264, 30 s, a camera that moves over drawn pictures) and reads each in several ways to 224
pixels for CLIP, once a second and every frame. Each reading is a process of its own on one core with one thread; the
ways take turns. Prints frames per second of the processor (the median of the rounds), seconds of film in such a second,
that rate over OpenCV's, and the mean difference of the pixels from ours (of 255). OpenCV and decord are measured where
they are installed; nothing of the library needs decord.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from input_pipeline.images import preprocess
from input_pipeline.video import frames

SIZE = 224
KEPT = 16  # frames whose pixels are compared
FILMS = ((320, 240), (1280, 720))
Way = Callable[[str, bool], Iterator[Image.Image]]  # of a path, and whether every frame is wanted


def ours(path: str, every: bool) -> Iterator[Image.Image]:
    return (image for _, image in frames(path, None if every else 1.0))


def ours_small(path: str, every: bool) -> Iterator[Image.Image]:
    return (image for _, image in frames(path, None if every else 1.0, side=SIZE))


def plain(path: str, every: bool) -> Iterator[Image.Image]:
    """PyAV as its documentation shows it: every n-th decoded frame's `to_image`."""
    import av

    with av.open(path) as container:
        stream = container.streams.best("video")
        assert isinstance(stream, av.VideoStream) and stream.average_rate
        stream.codec_context.thread_count = 1
        step = 1 if every else round(stream.average_rate)
        for number, frame in enumerate(container.decode(stream)):
            if number % step == 0:
                yield frame.to_image()


def opencv(path: str, every: bool) -> Iterator[Image.Image]:
    import cv2

    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    step = 1 if every else round(capture.get(cv2.CAP_PROP_FPS))
    number = 0
    while capture.grab():
        if number % step == 0:
            yield Image.fromarray(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
        number += 1


def decord(path: str, every: bool) -> Iterator[Image.Image]:
    """As LLaMA-VID reads, but 64 frames at a time: all 900 of a film in 720p are 2.5 GB."""
    import decord  # pyright: ignore[reportMissingImports]

    reader = decord.VideoReader(path, num_threads=1)
    wanted = range(0, len(reader), 1 if every else round(reader.get_avg_fps()))
    for start in range(0, len(wanted), 64):
        for frame in reader.get_batch(list(wanted[start : start + 64])).asnumpy():
            yield Image.fromarray(frame)


WAYS: dict[str, Way] = {
    "jaxllava": ours,
    "jaxllava, side=224": ours_small,
    "PyAV, to_image": plain,
    "OpenCV": opencv,
    "decord": decord,
}


def film(width: int, height: int, seconds: int, folder: Path, rate: int = 30) -> Path:
    """A cut every 4 s, x264's defaults."""
    import av

    from jaxllava.bench.pictures import draw  # imports more than the processes that are measured need

    path = folder / f"{width}x{height}.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(seconds * rate):
            shot, place = divmod(number, 4 * rate)
            if place == 0:
                drawn = Image.open(io.BytesIO(draw(width * 5 // 4, height * 5 // 4, shot)))
                picture = np.asarray(drawn.convert("RGB"))
            y, x = place * (height // 4) // (4 * rate), (4 * rate - place) * (width // 4) // (4 * rate)
            part = np.ascontiguousarray(picture[y : y + height, x : x + width])
            frame = av.VideoFrame.from_ndarray(part, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read(way: str, path: str, every: bool, pixels: Path) -> None:
    """One reading, in this process; prints [frames, seconds of the processor]."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    kept, count = [], 0
    for image in WAYS[way](path, every):  # imports what it needs, which is not measured
        preprocess(image, SIZE)
        break
    start = time.process_time()
    for image in WAYS[way](path, every):
        found = preprocess(image, SIZE)
        count += 1
        if len(kept) < KEPT:
            kept.append(found)
    spent = time.process_time() - start
    np.save(pixels, np.stack(kept))
    print(json.dumps([count, spent]))


def installed(way: str) -> bool:
    import importlib.util

    return importlib.util.find_spec({"OpenCV": "cv2", "decord": "decord"}.get(way, "av")) is not None


def measure(path: Path, every: bool, rounds: int, folder: Path) -> list[dict]:
    """A row for each way, read in turn."""
    ways = [way for way in WAYS if installed(way)]
    spent: dict[str, list[float]] = {way: [] for way in ways}
    counts: dict[str, int] = {}
    pixels: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        for way in ways:
            stored = folder / "pixels.npy"
            command = [sys.executable, "-m", "benchmarks.video", "--read", way, str(path), str(stored)]
            done = subprocess.run(
                [*command, *(["--every"] if every else [])], capture_output=True, text=True, check=False
            )
            if done.returncode:
                print(f"{way} fails on {path.name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
                continue
            counts[way], seconds = json.loads(done.stdout.strip().splitlines()[-1])
            spent[way].append(seconds)
            pixels[way] = np.load(stored).astype(int)
    import av

    with av.open(str(path)) as container:
        length = (container.duration or 0) / 1_000_000
    base = statistics.median(spent["OpenCV"]) if spent.get("OpenCV") else None
    rows = []
    for way in ways:
        if not spent[way]:
            continue
        median = statistics.median(spent[way])
        both = min(len(pixels[way]), len(pixels["jaxllava"]))
        rows.append(
            {
                "film": path.name,
                "frames": "all" if every else "1 fps",
                "way": way,
                "given": counts[way],
                "frames/s/core": round(counts[way] / median, 1),
                "film s/s": round(length / median, 1),
                "x OpenCV": round(base / median * counts[way] / counts["OpenCV"], 2) if base else None,
                "mean difference": round(
                    float(np.abs(pixels[way][:both] - pixels["jaxllava"][:both]).mean()), 2
                ),
                "spread": round((max(spent[way]) - min(spent[way])) / median, 2),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("films", nargs="*", type=Path, help="further films")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=30, help="of the drawn films")
    parser.add_argument("--out", type=Path, help="a JSON file of the figures")
    parser.add_argument("--read", nargs=3, metavar=("WAY", "FILM", "PIXELS"), help=argparse.SUPPRESS)
    parser.add_argument("--every", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        read(args.read[0], args.read[1], args.every, Path(args.read[2]))
        return
    for way in WAYS:
        if not installed(way):
            print(f"{way} is not installed: its rows are left out", file=sys.stderr)
    columns = (
        "film",
        "frames",
        "way",
        "given",
        "frames/s/core",
        "film s/s",
        "x OpenCV",
        "mean difference",
        "spread",
    )
    print("| " + " | ".join(columns) + " |\n|" + "---|" * 3 + "--:|" * (len(columns) - 3))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in [*(film(*size, args.seconds, folder) for size in FILMS), *args.films]:
            for every in (False, True):
                for row in measure(path, every, args.rounds, folder):
                    rows.append(row)
                    print("| " + " | ".join(str(row[column]) for column in columns) + " |", flush=True)
    if args.out:
        from importlib.metadata import PackageNotFoundError, version

        versions = {}
        for package in ("av", "pillow", "numpy", "opencv-python-headless", "decord", "eva-decord"):
            try:
                versions[package] = version(package)
            except PackageNotFoundError:
                versions[package] = None
        found = {
            "command": "python -m benchmarks.video",
            "machine": f"{os.cpu_count()}-core {platform.machine()}, Python {platform.python_version()}",
            "rounds": args.rounds,
            "versions": versions,
            "rows": rows,
        }
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
