"""The scenes of a medium, and a picture of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from input_pipeline import scenes, video
from input_pipeline.images import open_image

# A part of what decides the results: change it where `scenes.scenes` would find others.
HOW = "cuts of PySceneDetect at 27 with edges, the frame of least motion and its time"

# start, end and the frame's own time in seconds, an upright RGB picture
Keyframe = tuple[float | None, float | None, float | None, Image.Image]


def keyframes(path: Path, most: int, tell: Callable[[str], None] = lambda what: None) -> list[Keyframe]:
    """The scenes of a video in order, at most so many, each with its key frame.

    Of frames without a clock (.npy) each is a scene without times. What is wrong with a video that can still be shown
    is told. Raises VideoError.
    """
    if path.suffix.lower() == ".npy":
        return [(None, None, None, frame) for frame in video.read_frames(path, min(_frames(path), most))]
    found = scenes.scenes(path, most=most, tell=tell)
    return [(cut.start, cut.end, cut.keyframe, picture) for cut, picture in found if picture is not None]


def of_picture(path: Path) -> list[Keyframe]:
    """A picture is one scene without times. Raises ImageError."""
    return [(None, None, None, open_image(path))]


def _frames(path: Path) -> int:
    """The length of an array; 1 for what is none, which `read_frames` then names."""
    try:
        return max(len(np.load(path, mmap_mode="r", allow_pickle=False)), 1)
    except (OSError, ValueError, EOFError, TypeError):
        return 1
