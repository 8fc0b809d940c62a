"""Frames of a video: a few evenly spread ones, or those that are shown at every second, as pictures or as JPEG.

Of a file or its bytes, of a .npy array of frames, of a folder of pictures. Frames are upright RGB pictures; a file
that breaks off gives what can be decoded of it. docs/video.md says how times and frames are chosen.
"""

from __future__ import annotations

import io
import math
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from input_pipeline.video_arrays import MAGIC, PICTURES, ArrayFrames, FolderFrames
from input_pipeline.video_file import (
    BACKWARDS,
    BROKEN,
    LATE,
    LIMITS,
    NOT_A_VIDEO,
    SUFFIXES,
    Film,
    Limits,
    VideoError,
    open_video,
    shown,
)

__all__ = [
    "BACKWARDS",
    "BROKEN",
    "ENDS_EARLY",
    "LIMITS",
    "PICTURES",
    "SUFFIXES",
    "Limits",
    "VideoError",
    "encode_frames",
    "frames",
    "is_video",
    "read_frames",
]

ENDS_EARLY = "a video breaks off or its pictures end early, another frame is shown again"
_MOST_DECODED = 3000  # frames from a key frame to a wanted one: more is no video but a trap


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
        raise VideoError(NOT_A_VIDEO) from error


def _read(
    path: Path, count: int, start: float | None, end: float | None, tell: Callable[[str], None]
) -> list[Image.Image]:
    if not os.path.exists(path):  # noqa: PTH110 (Path.exists raises for names that no file can have)
        raise VideoError("no such file")
    if path.is_dir() or path.suffix.lower() == ".npy":
        if start is not None or end is not None:
            raise VideoError("a stretch of frames without times")
        read = FolderFrames(path) if path.is_dir() else ArrayFrames(path)
        return [read(int(middle)) for middle in _middles(count, len(read))]
    found, early = _of_file(path, count, start, end)
    if early:
        tell(ENDS_EARLY)
    return found


def frames(
    source: str | Path | bytes,
    fps: float | None = 1.0,
    most: int | None = None,
    *,
    start: float = 0.0,
    end: float | None = None,
    side: int | None = None,
    limits: Limits = LIMITS,
    threads: int = 1,
    tell: Callable[[str], None] = lambda what: None,
) -> Iterator[tuple[float, Image.Image]]:
    """Yields (time, frame): the frames that are shown at `start`, `start + 1 / fps`, ... seconds of a video.

    A video is decoded once, in order, and a few frames are held, however long it is. Time 0 is the first frame's.
    Frames have the times at which they are meant to be shown (presentation timestamps), so that rates may vary; at
    a constant rate that is `n` times `fps` these are every n-th frame, as the original LLaMA-VID takes them.

    Args:
        source: a file, its bytes, a .npy array of frames or a folder of pictures. The last two have no clock: they
            are taken as a video of `fps` frames a second (of 1 where `fps` is None).
        fps: frames a second; above the video's own rate frames repeat. None: every frame, with its own time.
        most: where that gives more frames than this, the frames in the middle of as many equal parts instead.
        start, end: seconds; only what is shown from `start` until before `end`.
        side: a shorter side above this many pixels is brought to it while decoding.
        limits: what one video may cost.
        threads: of the decoder; 0 is one for each processor.
        tell: called with what is wrong with a video that can still be shown: `ENDS_EARLY`, `BROKEN`, `BACKWARDS`.

    Yields: seconds, rising; RGB pictures, upright, on white, their pixels square.

    Raises:
        VideoError: at the first frame, or where a limit is reached.
    """
    if fps is not None and not 0 < fps < math.inf:
        raise ValueError(f"{fps} frames a second of a video")
    if most is not None and most < 1:
        raise ValueError(f"{most} frames of a video")
    if _has_no_clock(source):
        return _without_clock(source, fps or 1.0, most, start, end, side)
    return _with_clock(source, fps, most, start, end, side, limits, threads, tell)


def encode_frames(
    source: str | Path | bytes,
    fps: float = 1.0,
    most: int = 3600,
    side: int | None = None,
    quality: int = 92,
    limits: Limits = LIMITS,
    tell: Callable[[str], None] = lambda what: None,
) -> tuple[list[bytes], list[float]]:
    """Returns the frames that `frames` chooses as JPEG files (of full colour), and their times in seconds.

    The same source gives the same bytes with the same versions of PyAV and Pillow; with `side` on every processor.
    A frame that is shown at several times is the same object in the list. Raises VideoError.
    """
    pictures: list[bytes] = []
    times: list[float] = []
    last: Image.Image | None = None
    for at, image in frames(source, fps, most, side=side, limits=limits, tell=tell):
        if image is not last:
            encoded, last = _jpeg(image, quality), image
        pictures.append(encoded)
        times.append(at)
    return pictures, times


def encode_at(
    source: str | Path | bytes,
    times: Sequence[float],
    side: int | None = None,
    quality: int = 92,
    limits: Limits = LIMITS,
    tell: Callable[[str], None] = lambda what: None,
) -> tuple[list[bytes], list[float]]:
    """As `encode_frames`, of the frames that are shown at some times (seconds, rising). Those behind the end of a video
    that breaks off show its last frame. Raises VideoError.
    """
    pictures: list[bytes] = []
    last = None
    with open_video(source, limits, tell=tell) as film:
        for _, frame, ended in shown(film, times, film.timeline()):
            if ended:
                film.tell(ENDS_EARLY)
            if frame is not last or not pictures:
                last, encoded = frame, _jpeg(film.picture(frame, side), quality)
            pictures.append(encoded)
    return pictures, list(times)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()


def _with_clock(
    source: str | Path | bytes,
    fps: float | None,
    most: int | None,
    start: float,
    end: float | None,
    side: int | None,
    limits: Limits,
    threads: int,
    tell: Callable[[str], None],
) -> Iterator[tuple[float, Image.Image]]:
    with open_video(source, limits, threads, tell) as film:
        line = film.timeline()
        stop = max(line.end, 1e-3)
        if end is not None and end <= stop:
            stop = end
        elif film.breaks_off(line):
            film.tell(ENDS_EARLY)
        if stop <= start:
            raise VideoError("no frames in the stretch")
        if fps is None:
            count = bisect_left(line.starts, stop) - bisect_left(line.starts, start - film.slack)
        else:
            count = max(1, math.ceil((stop - start - 2 * film.slack) * fps))
        if most is not None and count > most:
            wanted = (start + middle for middle in _middles(most, stop - start))
        elif fps is None:
            yield from _every(film, start - film.slack, stop, side, line.starts[-1] if line.starts else 0.0)
            return
        else:
            wanted = (start + number / fps for number in range(count))
        last = image = None
        for at, frame, ended in shown(film, wanted, line):
            if ended:
                film.tell(ENDS_EARLY)
                return
            if image is None or frame is not last:
                last, image = frame, film.picture(frame, side)
            yield at, image


def _every(
    film: Film, start: float, stop: float, side: int | None, last: float
) -> Iterator[tuple[float, Image.Image]]:
    at, none = 0.0, True
    for at, frame in film.frames():
        if at >= stop:
            break
        if at >= start:
            none = False
            yield at, film.picture(frame, side)
    if none:
        raise VideoError("no frame can be decoded")
    if at < stop and film.short_of(last):
        film.tell(ENDS_EARLY)


def _middles(count: int, length: float) -> list[float]:
    return [(i + 0.5) * length / count for i in range(count)]


def _has_no_clock(source: str | Path | bytes) -> bool:
    if isinstance(source, bytes):
        return source.startswith(MAGIC)
    path = Path(source)
    return path.suffix.lower() == ".npy" or os.path.isdir(path)  # noqa: PTH112 (does not raise)


def _without_clock(
    source: str | Path | bytes,
    fps: float,
    most: int | None,
    start: float,
    end: float | None,
    side: int | None,
) -> Iterator[tuple[float, Image.Image]]:
    read = (
        FolderFrames(Path(source))
        if not isinstance(source, bytes) and Path(source).is_dir()
        else ArrayFrames(source)
    )
    count = len(read)
    first = max(0, math.ceil(start * fps - 1e-6))
    last = count if end is None else min(count, math.ceil(end * fps - 1e-6))
    if first >= last:
        raise VideoError("no frames in the stretch")
    chosen = range(first, last)
    if most is not None and len(chosen) > most:
        chosen = [first + int(middle) for middle in _middles(most, last - first)]
    for number in chosen:
        image = read(number)
        if side is not None and min(image.size) > side:
            scale = side / min(image.size)
            wide, high = (max(1, round(length * scale)) for length in image.size)
            image = image.resize((wide, high), Image.Resampling.BICUBIC)
        yield number / fps, image


def _of_file(
    path: Path, count: int, start: float | None, end: float | None
) -> tuple[list[Image.Image], bool]:
    with open_video(path) as film:
        length = film.claimed() or max(film.timeline().end, 1e-3)
        low = 0.0 if start is None else start
        high = length if end is None else min(end, length)
        if high <= low:
            raise VideoError("no frames in the stretch")
        return _at(film, [low + t for t in _middles(count, high - low)])


def _at(film: Film, wanted: list[float]) -> tuple[list[Image.Image], bool]:
    """The frames that are shown at the wanted times, past the end of what can be decoded the last one; whether that
    was so. Each is sought by itself: files of gigabytes are not read as a whole for eight frames.
    """
    found: list[Image.Image] = []
    shown: Any = None
    early = False
    for time in wanted:
        before, ended = None, True
        film.seek(time)
        for number, (at, frame) in enumerate(film.frames()):
            ended = at <= time
            if at - time > 1e-6 and before is not None:
                break
            before = frame
            if not ended:
                break
            if number >= _MOST_DECODED:  # what is here now is another one than the wanted
                raise VideoError("too many frames without a key frame")
        shown = before or shown
        if shown is not None:
            early |= ended and time - film.end_of(shown) > LATE
            found.append(film.picture(shown))
    if not found:
        raise VideoError("no frame can be decoded")
    missing = len(wanted) - len(found)
    return [found[0]] * missing + found, early or missing > 0
