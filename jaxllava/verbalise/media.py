"""The media that are put into words: which there are, what each is (the hash of its bytes), and what is said in it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from input_pipeline.errors import UserError
from input_pipeline.sources import captions, fields
from input_pipeline.sources import media as sources
from input_pipeline.video import SUFFIXES

VIDEOS = (*SUFFIXES, ".npy")
# Of caption files beside a video, as yt-dlp names them: ID.en.vtt; a plain ID.srt is what people make by hand.
_LANGUAGES = (".en", "", ".en-orig", ".en-US", ".en-GB")


@dataclass(frozen=True)
class Medium:
    """One video or picture.

    `name` is what the results call it: its path below the folder that was given, or its file name. `stamp` is its
    size and time of change, '' where it cannot be looked at.
    """

    name: str
    path: Path
    is_picture: bool
    stamp: str

    @property
    def id(self) -> str:
        """What stands for its bytes without reading them: as long as it is the same, so are they."""
        return f"{self.stamp} {self.path}"


def find(videos: Sequence[Path] = (), images: Sequence[Path] = ()) -> list[Medium]:
    """The media of files and of folders with all below them, in order of their names.

    A file that is given by itself may have any suffix; of folders only those with a known one count. Raises UserError
    where one is missing, a folder holds none, or two have the same name.
    """
    found: dict[str, Medium] = {}
    for flag, roots, suffixes in (("--videos", videos, VIDEOS), ("--images", images, sources.IMAGE_SUFFIXES)):
        for root in roots:
            if not root.exists():
                raise UserError(f"{flag} {root}: no such file or folder")
            paths = list(_below(root, suffixes)) if root.is_dir() else [root]
            if not paths:
                raise UserError(f"{flag} {root}: holds no file with a suffix of {', '.join(suffixes)}")
            for path in paths:
                inside = path.relative_to(root) if root.is_dir() else Path(root.name)
                name = fields.writable(inside.as_posix())
                medium = Medium(name, path.absolute(), flag == "--images", stamp(path))
                other = found.setdefault(name, medium)
                if other.path != medium.path:
                    raise UserError(
                        f"{flag} {root}: {other.path} and {medium.path} would both be called {name}; give a folder "
                        "above both"
                    )
    return [found[name] for name in sorted(found)]


def sha256(medium: Medium) -> str:
    """Of its bytes, hex. Raises OSError."""
    with medium.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def speech(medium: Medium, tell: Callable[[str], None] = lambda what: None) -> str:
    """What is said in a video, of the English caption file beside it; '' where there is none. One that cannot be
    read is told.
    """
    if medium.is_picture:
        return ""
    for language in _LANGUAGES:
        for suffix in captions.FORMATS:
            path = medium.path.with_name(f"{medium.path.stem}{language}.{suffix}")
            if path != medium.path and os.path.isfile(path):  # noqa: PTH113 (does not raise for long names)
                try:
                    if said := captions.transcript(captions.read(path)):
                        return said
                except captions.CaptionsError as error:
                    tell(str(error))
    return ""


def _below(root: Path, suffixes: Sequence[str]) -> list[Path]:
    return [
        Path(folder) / name
        for folder, names in sources.walk(root)
        for name in names
        if name.lower().endswith(tuple(suffixes)) and not name.startswith(".")
    ]


def stamp(path: Path) -> str:
    """Size and time of change of a file; '' where it cannot be looked at."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"
