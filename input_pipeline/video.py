"""Frames of a video, evenly spread over it: of a file, of a .npy array of frames, of a folder of pictures.

Frames are upright RGB pictures. PyAV (FFmpeg) decodes; a file that breaks off gives what can be decoded of it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from input_pipeline.images import ImageError, open_image

SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
ENDS_EARLY = "a video breaks off or its pictures end early, another frame is shown again"
_SLACK = 1.0  # seconds that a wanted time may lie behind the last frame's end: containers round their lengths
_MOST_DECODED = 3000  # frames from a key frame to a wanted one: more is no video but a trap


class VideoError(ValueError):
    """A video that cannot be read. `reason` is short and names no path, so that reports can count it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def is_video(path: Path) -> bool:
    return path.suffix.lower() in (*SUFFIXES, ".npy") or os.path.isdir(path)  # noqa: PTH112 (does not raise)


def read_frames(
    path: Path,
    count: int,
    start: float | None = None,
    end: float | None = None,
    tell: Callable[[str], None] = lambda what: None,
) -> list[Image.Image]:
    """`count` frames in the middle of as many equal parts of a video, or of its stretch from `start` to `end`
    in seconds.

    A video of fewer frames gives some twice. Of arrays and folders, which have no clock, a stretch cannot be
    asked for. What is wrong with a video that can still be shown is told: `ENDS_EARLY`.
    Raises VideoError.
    """
    if count < 1:
        raise ValueError(f"{count} frames of a video")
    try:
        return _read(path, count, start, end, tell)
    except (VideoError, ImportError):
        raise
    except (
        Exception
    ) as error:  # libraries raise TypeError, AttributeError ... on headers that lie, the system OSError
        raise VideoError("not a video, or broken") from error


def _read(
    path: Path, count: int, start: float | None, end: float | None, tell: Callable[[str], None]
) -> list[Image.Image]:
    if not os.path.exists(path):  # noqa: PTH110 (Path.exists raises for names that no file can have)
        raise VideoError("no such file")
    if path.is_dir() or path.suffix.lower() == ".npy":
        if start is not None or end is not None:
            raise VideoError("a stretch of frames without times")
        return _of_folder(path, count) if path.is_dir() else _of_array(path, count)
    found, early = _of_file(path, count, start, end)
    if early:
        tell(ENDS_EARLY)
    return found


def _middles(count: int, length: float) -> list[float]:
    return [(i + 0.5) * length / count for i in range(count)]


def _of_array(path: Path, count: int) -> list[Image.Image]:
    """uint8 [frames, H, W, 3] or [frames, 3, H, W], as Behavior-LLaVA's release has them."""
    try:
        frames = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise VideoError("not an array of frames") from error
    if not isinstance(frames, np.ndarray):
        raise VideoError("not an array of frames")
    if frames.dtype != np.uint8 or frames.ndim != 4 or 3 not in (frames.shape[1], frames.shape[3]):
        raise VideoError("an array that is not uint8 frames of three colours")
    if not len(frames):
        raise VideoError("no frames")
    chosen = [np.asarray(frames[int(i)]) for i in _middles(count, len(frames))]
    planar = frames.shape[3] != 3
    return [Image.fromarray(np.ascontiguousarray(f.transpose(1, 2, 0) if planar else f)) for f in chosen]


def _of_folder(path: Path, count: int) -> list[Image.Image]:
    number = lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", p.name)]
    pictures = sorted((p for p in path.iterdir() if p.suffix.lower() in PICTURES), key=number)
    if not pictures:
        raise VideoError("no frames")
    try:
        return [open_image(pictures[int(i)]) for i in _middles(count, len(pictures))]
    except ImageError as error:
        raise VideoError(error.reason) from error


def _of_file(
    path: Path, count: int, start: float | None, end: float | None
) -> tuple[list[Image.Image], bool]:
    import av

    with contextlib.closing(av.open(str(path))) as container:
        if not container.streams.video:
            raise VideoError("no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        first, length = _length(container, stream)
        low = 0.0 if start is None else start
        high = length if end is None else min(end, length)
        if high <= low:
            raise VideoError("no frames in the stretch")
        wanted = [first + low + t for t in _middles(count, high - low)]
        return _at(container, stream, wanted)


def _length(container: Any, stream: Any) -> tuple[float, float]:
    """(time of the first frame, seconds to the end) as the file says; of one that says nothing, as its packets do."""
    base = float(stream.time_base or 0)
    first = (stream.start_time or 0) * base
    if stream.duration and base:
        return first, stream.duration * base
    if container.duration:
        return first, container.duration / 1_000_000
    end = None
    for packet in container.demux(stream):  # undecoded: recordings of hours take no longer than their reading
        if packet.pts is not None:
            end = max(end or 0, packet.pts + (packet.duration or 0))
    if end is None:
        raise VideoError("no frames")
    container.seek(0)
    return first, max(end * base - first, 1e-3)


def _at(container: Any, stream: Any, wanted: list[float]) -> tuple[list[Image.Image], bool]:
    """The frames that are shown at the wanted times, past the end of what can be decoded the last one; whether that
    was so.
    """
    from av.error import FFmpegError

    found: list[Image.Image] = []
    shown: Any = None
    early = False
    for time in wanted:
        ended = True
        try:
            container.seek(int(time / float(stream.time_base)), stream=stream, backward=True)
            before: Any = None
            for number, frame in enumerate(container.decode(stream)):
                later = 0.0 if frame.time is None else frame.time - time
                ended = later <= 0
                if later > 1e-6 and before is not None:
                    break
                before = frame
                if not ended:
                    break
                if number >= _MOST_DECODED:  # what is here now is another one than the wanted
                    raise VideoError("too many frames without a key frame")
            shown = before or shown
        except FFmpegError:
            pass  # what came before it stays
        if shown is not None:
            early |= ended and time - _end(shown) > _SLACK
            found.append(_upright(shown))
    if not found:
        raise VideoError("no frame can be decoded")
    missing = len(wanted) - len(found)
    return [found[0]] * missing + found, early or missing > 0


def _end(frame: Any) -> float:
    """The time at which a frame has been shown for its duration; of a frame without a time there is none."""
    return float("inf") if frame.time is None else frame.time + (frame.duration or 0) * frame.time_base


def _upright(frame: Any) -> Image.Image:
    image = frame.to_image()
    turn = int(getattr(frame, "rotation", 0) or 0) % 360  # degrees counter-clockwise that put it upright
    return image.rotate(turn, expand=True) if turn else image
