"""A video as something that a prompt shows."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from input_pipeline.images import open_image
from input_pipeline.shown import evenly
from input_pipeline.video import frames
from input_pipeline.video_file import VideoError


@dataclasses.dataclass(frozen=True)
class Video:
    """A video in a prompt: one `<image>` mark stands for all frames that are shown of it.

    source: a file (film, .npy array of frames), its bytes, a folder of pictures, or frames that are chosen already,
    as encoded pictures (which are decoded as they are looked at) or PIL's.
    fps: frames of a second that are shown, as LLaMA-VID's one. most: where that is more, so many evenly spread ones.
    start, end: seconds; of files alone.
    """

    source: str | Path | bytes | Sequence[bytes | Image.Image]
    fps: float = 1.0
    most: int | None = None
    start: float = 0.0
    end: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.source, str):
            object.__setattr__(self, "source", Path(self.source))

    def frames(self) -> Iterator[Image.Image]:
        """RGB pictures, upright, decoded as they are asked for. Raises VideoError, and ImageError of a frame."""
        if isinstance(self.source, bytes | str | Path):
            chosen = frames(self.source, self.fps, self.most, start=self.start, end=self.end)
            yield from (image for _, image in chosen)
        else:
            for i in evenly(range(len(self.source)), self.most or 0):
                yield open_image(self.source[i])

    @property
    def how(self) -> str | None:
        """How frames are chosen, for the key of a cache; None where no bytes name them: a folder, PIL's pictures."""
        match self.source:
            case Path():
                named = not self.source.is_dir()
            case bytes():
                named = True
            case _:
                named = all(isinstance(frame, bytes) for frame in self.source)
        return json.dumps([self.fps, self.most, self.start, self.end]) if named else None

    def sha256(self) -> str:
        """Of the file's bytes, or of the hashes of encoded frames, hex. Raises VideoError where it cannot be read."""
        if isinstance(self.source, bytes):
            return hashlib.sha256(self.source).hexdigest()
        if not isinstance(self.source, Path):
            each = [hashlib.sha256(frame).digest() for frame in self.source if isinstance(frame, bytes)]
            return hashlib.sha256(b"".join(each)).hexdigest()
        try:
            with self.source.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise VideoError(
                "no such file" if isinstance(error, FileNotFoundError) else "cannot be read"
            ) from error

    def __str__(self) -> str:
        return str(self.source) if isinstance(self.source, Path) else "a video"
