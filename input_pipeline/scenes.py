"""Scenes of a video: where it is cut, and for each scene a frame that stands for it.

Cuts are found by PySceneDetect in the change of hue, saturation, brightness and edges between frames. The frame of
a scene is the one with the least motion, as in LAMBDA, which measures that with GMFlow, a network; here it is
OpenCV's DIS optical flow on small grey pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from input_pipeline.video_file import LIMITS, Film, Limits, VideoError, open_video

ENDS_EARLY = "a video breaks off, its last scene ends there"
TOO_MANY = "a video has more scenes than are kept, the last one reaches to its end"
_SIDE = 144  # pixels of the short side that cuts are looked for in; PySceneDetect takes about as many
_FLOW_SIDE = 72  # of the pictures that motion is measured in
_TICK = 1_000_000  # of PySceneDetect's clock, a second
_FLAT = 4.0  # of 255: the standard deviation of the grey of a picture that shows nothing


@dataclass(frozen=True)
class Cut:
    """A scene: seconds from the first frame; `keyframe` is the time of the frame that stands for it."""

    start: float
    end: float
    keyframe: float


def find_scenes(source: str | Path | bytes, **options: Any) -> list[Cut]:
    """The scenes that `scenes` yields, without their pictures. Raises VideoError."""
    return [cut for cut, _ in scenes(source, pictures=False, **options)]


def scenes(
    source: str | Path | bytes,
    threshold: float = 27.0,
    edges: float = 1.0,
    shortest: float = 0.6,
    most: int = 500,
    *,
    end: float | None = None,
    looks: float = 4.0,
    side: int | None = None,
    pictures: bool = True,
    limits: Limits = LIMITS,
    tell: Callable[[str], None] = lambda what: None,
) -> Iterator[tuple[Cut, Image.Image | None]]:
    """Yields each scene of a video with its frame, when the scene is over: one picture at a time is held.

    Scenes cover the video from 0 to its end without gaps; one without cuts is one scene. Every frame is decoded
    once.

    Args:
        source: a file or its bytes.
        threshold: the change from one frame to the next that is a cut: the mean of the changes of hue (of 180),
            saturation, brightness and edges (of 255 each). 27 is PySceneDetect's; LAMBDA's 0.3 would be 76.5.
        edges: the weight of edges beside the others' 1; PySceneDetect's own is 0.
        shortest: seconds; a cut that follows another in less is none.
        most: scenes; the last one reaches to the end.
        end: seconds; what comes later is left out.
        looks: times a second that motion is measured, each time from one frame to the next.
        side: as of `video.frames`, of the pictures.
        pictures: whether these are wanted at all.
        limits, tell: as of `video.frames`.

    Yields: the scene, and its frame or None. A frame that shows nothing (black, or one colour) stands for a scene
    only if all that were looked at do.

    Raises:
        VideoError: at the first scene, or where a limit is reached.
    """
    with open_video(source, limits, tell=tell) as film:
        yield from _scenes(film, threshold, edges, shortest, most, end, looks, side, pictures)


def _scenes(
    film: Film,
    threshold: float,
    edges: float,
    shortest: float,
    most: int,
    end: float | None,
    looks: float,
    side: int | None,
    pictures: bool,
) -> Iterator[tuple[Cut, Image.Image | None]]:
    import cv2
    from scenedetect.common import FrameTimecode, Timecode
    from scenedetect.detector import FlashFilter
    from scenedetect.detectors import ContentDetector

    line = film.timeline()
    rate = Fraction(film.stream.average_rate or 25)
    detector = ContentDetector(
        threshold=threshold,
        min_scene_len=float(shortest),
        weights=ContentDetector.Components(1.0, 1.0, 1.0, edges),
        filter_mode=FlashFilter.Mode.SUPPRESS,  # a cut is told at once, not when the next one has not come
    )
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    stop = line.end if end is None else min(end, line.end)
    best: _Look | None = None
    shape: tuple[int, ...] = ()
    start, found, before, looked, at = 0.0, 0, None, float("-inf"), 0.0
    for at, frame in film.frames():
        if at >= stop and best is not None:
            break
        small = np.asarray(film.picture(frame, _SIDE, quick=True))  # [h, w, 3]
        shape = shape or small.shape
        if small.shape != shape:  # a stream may change its size
            small = cv2.resize(small, shape[1::-1])
        clock = FrameTimecode(Timecode(round(max(at, 0.0) * _TICK), Fraction(1, _TICK)), rate)
        cut = bool(detector.process_frame(clock, cv2.cvtColor(small, cv2.COLOR_RGB2BGR)))
        if cut and best is not None:
            if found + 1 < most:
                yield best.of(start, at)
                best, start, found, before = None, at, found + 1, None
            else:
                film.tell(TOO_MANY)
        grey = _grey(small)
        if best is None or (before is not None and at >= looked + 1 / looks):
            # The first frame of a scene has none before it: it stands for a scene of one frame only.
            look = _Look(
                at, grey.std() < _FLAT, float("inf") if before is None else _motion(flow, before, grey)
            )
            if best is None or (look.flat, look.motion) < (best.flat, best.motion):
                look.picture = film.picture(frame, side) if pictures else None
                best = look
            looked = at if before is not None else looked
        before = grey
    if best is None:
        raise VideoError("no frame can be decoded")
    if line.starts and at < stop and film.short_of(line.starts[-1]):
        film.tell(ENDS_EARLY)
        stop = at
    elif (end is None or end > line.end) and film.breaks_off(line):
        film.tell(ENDS_EARLY)
    yield best.of(start, max(stop, start, best.at))


@dataclass
class _Look:
    at: float
    flat: bool
    motion: float
    picture: Image.Image | None = None

    def of(self, start: float, end: float) -> tuple[Cut, Image.Image | None]:
        return Cut(start, end, self.at), self.picture


def _grey(picture: np.ndarray) -> np.ndarray:
    """uint8 [h, w], `_FLOW_SIDE` on the short side."""
    import cv2

    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    scale = _FLOW_SIDE / min(grey.shape)
    if scale >= 1:
        return grey
    return cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _motion(flow: Any, before: np.ndarray, after: np.ndarray) -> float:
    """How far a point moves on the average, in pixels of the small pictures. `flow` is OpenCV's DIS."""
    if min(after.shape) < 16:  # of less DIS makes no patches
        return float(np.abs(after.astype(int) - before).mean())
    moved = flow.calc(before, after, None)
    return float(np.hypot(moved[..., 0], moved[..., 1]).mean())
