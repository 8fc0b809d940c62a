"""Small films: a few drawn scenes, one behind the other with hard cuts, as H.264 in mp4.

Within a scene the picture drifts, grows or shrinks a little and flickers, and comes almost to rest once: there is a
frame of least motion for those who look for one. Motion is drawn without looking at what a scene shows.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from input_pipeline.errors import UserError
from input_pipeline.plaza import draw, scene
from input_pipeline.plaza.scene import Scene

SIDE = draw.SIDE  # pixels
FPS = 10
SCENES = (3, 6)  # fewest and most of a film
_SECONDS = (2.0, 4.0)  # shortest and longest scene
_ENCODER = "libx264"
# Equal frames give equal bytes: one thread, no dates or versions of the muxer, and no macroblock tree (with it
# x264 coded one film in ten otherwise from run to run).
_CODEC_OPTIONS = {"crf": "31", "preset": "veryfast", "threads": "1", "g": "40", "x264-params": "mbtree=0"}
_FILE_OPTIONS = {"movflags": "+faststart", "fflags": "+bitexact"}


@dataclass(frozen=True)
class Shot:
    """One scene of a film.

    Fields:
        scene: what it shows.
        frames: how many, at `FPS`.
        rest: where it moves least, as a share of its length.
        zoom: how much larger than life it is shown at its start and at its end, 1 or more.
        path: (x, y) of the window at start and end, as shares of the room that the zoom leaves.
        flicker: (swing of the brightness, its period in frames).
    """

    scene: Scene
    frames: int
    rest: float
    zoom: tuple[float, float]
    path: tuple[tuple[float, float], tuple[float, float]]
    flicker: tuple[float, float]

    def speed(self) -> np.ndarray:
        """How fast it moves in each frame, float64 [frames]: 0.05 at rest, up to 1."""
        at = (np.arange(self.frames) + 0.5) / self.frames
        return 0.05 + 0.95 * np.minimum(1.0, np.abs(at - self.rest) / 0.4) ** 1.5


@dataclass(frozen=True)
class Film:
    """Shots in order."""

    shots: tuple[Shot, ...]

    @property
    def scenes(self) -> tuple[Scene, ...]:
        return tuple(shot.scene for shot in self.shots)

    @property
    def spans(self) -> list[tuple[float, float]]:
        """(start, end) of each scene in seconds."""
        ends = list(itertools.accumulate(shot.frames for shot in self.shots))
        return [(start / FPS, end / FPS) for start, end in zip([0, *ends], ends, strict=False)]

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.spans[-1][1]

    @property
    def rests(self) -> list[float]:
        """When each scene moves least, in seconds."""
        return [
            start + shot.rest * (end - start)
            for shot, (start, end) in zip(self.shots, self.spans, strict=True)
        ]


def sample(rng: np.random.Generator) -> Film:
    """Draws a film of 3 to 6 scenes of 2 to 4 seconds. Neighbours differ in mood, so that every cut is seen."""
    shots: list[Shot] = []
    for _ in range(int(rng.integers(SCENES[0], SCENES[1] + 1))):
        shown = scene.sample(rng)
        while shots and shown.mood == shots[-1].scene.mood:
            shown = scene.sample(rng)
        low, high = sorted(rng.uniform(1.03, 1.16, 2).tolist())
        (x, y), (to_x, to_y) = rng.uniform(0, 1, (2, 2)).tolist()
        shots.append(
            Shot(
                scene=shown,
                frames=round(FPS * rng.uniform(*_SECONDS)),
                rest=float(rng.uniform(0.2, 0.8)),
                zoom=(low, high) if rng.random() < 0.5 else (high, low),
                path=((x, y), (to_x, to_y)),
                flicker=(float(rng.uniform(0.02, 0.06)), float(rng.uniform(5, 12))),
            )
        )
    return Film(tuple(shots))


def frames(film: Film) -> Iterator[Image.Image]:
    """Draws a film's frames in order, RGB [96, 96]. The same film always gives the same pixels."""
    for shot in film.shots:
        picture = draw.render(shot.scene)
        speed = shot.speed()
        done = (np.cumsum(speed) - speed / 2) / speed.sum()  # shares of the way, [frames]
        swing, period = shot.flicker
        light = 1 + swing * speed * np.sin(2 * np.pi * np.arange(shot.frames) / period)
        for share, gain in zip(done.tolist(), light.tolist(), strict=True):
            zoom, x, y = (
                start + (end - start) * share for start, end in (shot.zoom, *zip(*shot.path, strict=True))
            )
            side = SIDE / zoom
            left, top = x * (SIDE - side), y * (SIDE - side)
            seen = picture.resize(
                (SIDE, SIDE), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
            )
            yield ImageEnhance.Brightness(seen).enhance(gain)


def check_encoder() -> None:
    """Raises UserError where PyAV cannot write H.264."""
    from av import Codec

    try:
        Codec(_ENCODER, "w")
    except ValueError as error:
        raise UserError(
            f"plaza: this PyAV cannot write films, its FFmpeg has no {_ENCODER}; `pip install av` brings one that has, "
            "or set films=0"
        ) from error


def write(film: Film, path: Path) -> None:
    """Encodes a film as H.264 in mp4 without sound; the index stands in front, as in what sites serve.

    The same film gives the same bytes with the same PyAV.
    """
    import av

    with contextlib.closing(av.open(str(path), "w", format="mp4", options=_FILE_OPTIONS)) as container:
        stream = container.add_stream(_ENCODER, rate=FPS, options=_CODEC_OPTIONS)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(frames(film)):
            frame = av.VideoFrame.from_image(picture)
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
