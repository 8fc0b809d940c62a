"""The pictures of a question, opened before the model is asked: one that cannot be read costs its own question
only.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from input_pipeline.images import ImageError, open_image
from input_pipeline.video import SUFFIXES, VideoError, is_video, read_frames
from jaxllava.evaluate.tasks.task import Clip, Media
from jaxllava.videos import Video


class MediaError(ValueError):
    """`reason` names the file, and what is wrong with it."""


def locate(folder: Path, stem: str, suffixes: Sequence[str] = SUFFIXES) -> Path:
    """folder/stem with the first suffix of which there is a file; where there is none, with the first suffix.

    Releases name videos without saying how they were stored. A folder of frames and a .npy of them count as well.
    """
    for candidate in (stem, *(stem + suffix for suffix in (*suffixes, ".npy"))):
        if stem and os.path.exists(folder / candidate):  # noqa: PTH110 (Path.exists raises for long names)
            return folder / candidate
    return folder / (stem + suffixes[0])


def open_media(
    media: Sequence[Media], frames: int, tell: Callable[[str], None] = lambda what: None, fps: float = 0.0
) -> list[Image.Image | Video]:
    """Upright RGB images: one for each picture, `frames` for each video. With `fps` a video is one thing instead, of so
    many frames a second, which are decoded when a model looks at them (it is opened here). What is wrong with one that
    can still be shown is told. Raises MediaError.
    """
    found: list[Image.Image | Video] = []
    for one in media:
        try:
            if fps and (video := _video(one, fps)):
                next(iter(dataclasses.replace(video, most=1).frames()))
                found.append(video)
            elif isinstance(one, Clip):
                found += read_frames(one.path, frames, one.start, one.end, tell)
            elif isinstance(one, Path) and is_video(one):
                found += read_frames(one, frames, tell=tell)
            else:
                found.append(open_image(one))
        except (ImageError, VideoError) as error:
            path = one.path if isinstance(one, Clip) else one
            name = str(path) if isinstance(path, Path) else "a picture inside the release"
            raise MediaError(f"{name}: {error.reason}") from error
    return found


def _video(one: Media, fps: float) -> Video | None:
    if isinstance(one, Clip):
        return Video(one.path, fps, start=one.start, end=one.end)
    return Video(one, fps) if isinstance(one, Path) and is_video(one) else None
