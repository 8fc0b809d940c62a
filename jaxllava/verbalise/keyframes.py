"""The scenes of a medium, and a picture of each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from input_pipeline import video
from input_pipeline.images import open_image

HOW = "equal stretches of about 5 s"  # a part of what decides the results: change it where the scenes change
_SECONDS = 5.0

Keyframe = tuple[float | None, float | None, Image.Image]  # start and end in seconds, an upright RGB picture


def keyframes(path: Path, most: int, tell: Callable[[str], None] = lambda what: None) -> list[Keyframe]:
    """The scenes of a video in order, at most so many, each with its key frame.

    Frames without a clock (.npy) have scenes without times. What is wrong with a video that can still be shown is
    told. Raises VideoError.
    """
    if path.suffix.lower() == ".npy":
        return [(None, None, frame) for frame in video.read_frames(path, min(_frames(path), most))]
    length = _seconds(path)
    count = min(max(round(length / _SECONDS), 1), most)
    step = length / count
    frames = video.read_frames(path, count, tell=tell)
    return [(i * step, (i + 1) * step, frame) for i, frame in enumerate(frames)]


def of_picture(path: Path) -> list[Keyframe]:
    """A picture is one scene without times. Raises ImageError."""
    return [(None, None, open_image(path))]


def _frames(path: Path) -> int:
    """The length of an array; 1 for what is none, which `read_frames` then names."""
    try:
        return max(len(np.load(path, mmap_mode="r", allow_pickle=False)), 1)
    except (OSError, ValueError, EOFError, TypeError):
        return 1


def _seconds(path: Path) -> float:
    """The length of a video as its file says. Raises VideoError."""
    import av
    from av.error import FFmpegError

    try:
        container = av.open(str(path))
    except (FFmpegError, OSError, ValueError) as error:
        raise video.VideoError("not a video, or broken") from error
    with contextlib.closing(container):
        if not container.streams.video:
            raise video.VideoError("no video stream")
        return video._length(container, container.streams.video[0])[1]
