"""Finds the file of a piece of media in a local folder. Nothing is ever fetched."""

from __future__ import annotations

import functools
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
# What links say of things of which an image may lie in the folder.
LINK_SUFFIXES = (*IMAGE_SUFFIXES, ".gifv", ".mp4", ".webm", ".jfif", ".heic")


def url_name(url: str) -> str:
    """Returns the last path component of a URL, without its query ('' where there is none)."""
    try:
        return PurePosixPath(unquote(urlsplit(url).path)).name
    except ValueError:  # such as an unclosed [ in the host
        return ""


def find(folder: str, name: str) -> str | None:
    """Returns the path of the image called `name` in `folder`; the suffix may differ or be missing."""
    names, stems = _listing(folder)
    if not name:
        return None
    lower = name.lower()
    # A name may be a stem already, and a stem may hold dots ("Mr. X vs. 2.0"): only a known suffix is cut off.
    stem = lower[: -len(PurePosixPath(lower).suffix)] if lower.endswith(LINK_SUFFIXES) else lower
    found = names.get(lower) or stems.get(lower) or stems.get(stem)
    return str(Path(folder) / found) if found else None


@functools.lru_cache(maxsize=64)
def _listing(folder: str) -> tuple[dict[str, str], dict[str, str]]:
    """File names by lower-case name and by lower-case stem; the folder is read once per process."""
    path = Path(folder)
    found = sorted(f.name for f in path.iterdir()) if path.is_dir() else []
    found = [name for name in found if name.lower().endswith(IMAGE_SUFFIXES)]
    names = {name.lower(): name for name in reversed(found)}
    stems = {PurePosixPath(name).stem.lower(): name for name in reversed(found)}
    return names, stems


def forget() -> None:
    """Drops the cached listings; called when a run starts, as folders may have changed since the last."""
    _listing.cache_clear()
