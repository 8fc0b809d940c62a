"""Frames without a clock: a .npy array of frames, or a folder of pictures. Frame n of N is called for by number."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import numpy as np
from PIL import Image

from input_pipeline.images import ImageError, open_image
from input_pipeline.video_file import SUFFIXES, VideoError

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
MAGIC = b"\x93NUMPY"  # how a .npy file begins


class ArrayFrames:
    """uint8 [frames, H, W, 3] or [frames, 3, H, W], as Behavior-LLaVA's release has them."""

    def __init__(self, source: str | Path | bytes) -> None:
        try:
            self.frames = _of_bytes(source) if isinstance(source, bytes) else np.load(source, mmap_mode="r")
        except (OSError, ValueError, EOFError, TypeError, SyntaxError, OverflowError) as error:
            if not isinstance(source, bytes) and not os.path.exists(source):  # noqa: PTH110 (does not raise)
                raise VideoError("no such file") from None
            raise VideoError("not an array of frames") from error
        if not isinstance(self.frames, np.ndarray):
            raise VideoError("not an array of frames")
        shape = self.frames.shape
        if self.frames.dtype != np.uint8 or len(shape) != 4 or 3 not in (shape[1], shape[3]):
            raise VideoError("an array that is not uint8 frames of three colours")
        if not self.frames.size:
            raise VideoError("no frames")
        self.planar = shape[3] != 3

    def __len__(self) -> int:
        return len(self.frames)

    def __call__(self, number: int) -> Image.Image:
        frame = np.asarray(self.frames[number])
        return Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0) if self.planar else frame))


def _of_bytes(data: bytes) -> np.ndarray:
    """A view of a .npy file's bytes. numpy's own reader would first allocate what the header claims."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = reader(file)
    if dtype.hasobject:
        raise ValueError("an array of pickled objects")
    flat = np.frombuffer(data, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


class FolderFrames:
    """Pictures of a folder, by the numbers in their names."""

    def __init__(self, path: Path) -> None:
        number = lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", p.name)]
        found = list(path.iterdir())
        if any(p.suffix.lower() in SUFFIXES for p in found):
            raise VideoError("a folder of films, not of frames")
        self.pictures = sorted((p for p in found if p.suffix.lower() in PICTURES), key=number)
        if not self.pictures:
            raise VideoError("no frames")

    def __len__(self) -> int:
        return len(self.pictures)

    def __call__(self, number: int) -> Image.Image:
        try:
            return open_image(self.pictures[number])
        except ImageError as error:
            raise VideoError(error.reason) from error
