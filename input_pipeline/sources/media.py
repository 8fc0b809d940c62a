"""Finds media by name in local folders and tar shards (webdataset). Nothing is ever fetched here.

All that lies under the roots is listed once into a small SQLite file. A worker asks that file, so that no
process holds the names of millions of pictures.
"""

from __future__ import annotations

import os
import sqlite3
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from input_pipeline.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
# What links say of things of which an image may lie in the folder.
LINK_SUFFIXES = (*IMAGE_SUFFIXES, ".gifv", ".mp4", ".webm", ".jfif", ".heic")

_INFO = ".info.json"  # what yt-dlp leaves of a video
FILM_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp")
_INDEXED = (*IMAGE_SUFFIXES, *FILM_SUFFIXES, _INFO)
_IN_TAR = ".tar::"  # 'shard.tar::offset:size:member' refers to a member without a second listing
_ALIKE = 16  # files whose names differ in the case of letters alone
_SCHEMA = """
CREATE TABLE media (name TEXT, stem TEXT, folder TEXT, ref TEXT, kind TEXT);
"""
_INDEXES = """
CREATE INDEX by_name ON media (name, ref);
CREATE INDEX by_stem ON media (stem, ref);
"""


def url_name(url: str) -> str:
    """Returns the last path component of a URL, without its query ('' where there is none)."""
    try:
        return PurePosixPath(unquote(urlsplit(url).path)).name
    except ValueError:  # such as an unclosed [ in the host
        return ""


def read(reference: str) -> bytes:
    """Returns the bytes of a file, or of a member of a tar shard. Raises OSError where it cannot be read."""
    path, mark, member = reference.partition(_IN_TAR)
    if not mark:
        return Path(reference).read_bytes()
    offset, size, _ = member.split(":", 2)
    with Path(path + ".tar").open("rb") as file:
        file.seek(int(offset))
        data = file.read(int(size))
    if len(data) != int(size):
        raise OSError(f"{path}.tar is cut")
    return data


def name_of(reference: str) -> str:
    """Returns the file name of a reference, without the folders before it."""
    _, mark, member = reference.partition(_IN_TAR)
    return PurePosixPath(member.split(":", 2)[2] if mark else reference).name


_Entry = tuple[str, str, str, str, str]


class Library:
    """The images and films under some roots, by name. It pickles to the path of its index."""

    def __init__(self, index: str | Path) -> None:
        self.index = str(index)
        self._connection: sqlite3.Connection | None = None

    def __getstate__(self) -> str:
        return self.index

    def __setstate__(self, index: str) -> None:
        self.__init__(index)

    def film(self, *names: str) -> str | None:
        """Returns the reference of the film called by the first of these names (with a suffix or without) that one
        has; as of `find`.
        """
        return next(filter(None, (self.find(name, kind="film") for name in names)), None)

    def find(self, name: str, folder: str | Path | None = None, kind: str = "image") -> str | None:
        """Returns the reference of the image called `name`, whose suffix may differ or be missing.

        The case of letters may differ too; where several do, one that has it right is preferred (ids of YouTube
        and imgur tell upper from lower case), then the first in the order of references.

        Args:
            name: a file name, with or without its suffix.
            folder: look in this folder alone.
            kind: "image" or "film".
        """
        if not name:
            return None
        lower = name.lower()
        # A name may be a stem already, and a stem may hold dots ("Mr. X vs. 2.0"): only a known suffix goes.
        stem = lower[: -len(PurePosixPath(lower).suffix)] if lower.endswith(LINK_SUFFIXES) else lower
        where, more = (" AND folder = ?", (os.path.normpath(folder),)) if folder is not None else ("", ())
        for column, value in (("name", lower), ("stem", lower), ("stem", stem)):
            rows = self._open().execute(
                f"SELECT ref FROM media WHERE {column} = ? AND kind = ?{where} ORDER BY ref LIMIT {_ALIKE}",
                (value, kind, *more),
            )
            found = [row[0] for row in rows]
            if found:
                exact = name if column == "name" else name[: len(value)]
                return next((ref for ref in found if name_of(ref).startswith(exact)), found[0])
        return None

    def info(self, video: str) -> str | None:
        """Returns the reference of yt-dlp's info file of a video, by the id of the video."""
        name = f"{video}{_INFO}"
        rows = self._open().execute("SELECT ref FROM media WHERE name = ? ORDER BY ref", (name.lower(),))
        found = [row[0] for row in rows]
        return next((ref for ref in found if name_of(ref) == name), next(iter(found), None))

    def references(self) -> Iterator[str]:
        """Yields the reference of every image, in order."""
        for (reference,) in self._open().execute("SELECT ref FROM media WHERE kind = 'image' ORDER BY ref"):
            yield reference

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            # Read only, and without locks, which shared file systems are bad at.
            uri = f"{Path(self.index).resolve().as_uri()}?immutable=1"
            self._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
        return self._connection


def build(roots: Iterable[str | Path], index: str | Path) -> Library:
    """Lists every image under the roots into the file `index` and returns it.

    Args:
        roots: folders (with all below them) and .tar files.
        index: made anew.

    Raises:
        UserError: a root is missing, or a tar file is broken; the message names it.
    """
    path = Path(index)
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.executescript(_SCHEMA)
        for root in dict.fromkeys(map(str, roots)):
            connection.executemany("INSERT INTO media VALUES (?, ?, ?, ?, ?)", _rows(root))
        connection.executescript(_INDEXES)
    connection.close()
    return Library(path)


def of_folder(folder: str | Path, index: str | Path) -> Library:
    """A library of one folder, which may be missing: then it is empty."""
    return build([folder] if Path(folder).exists() else [], index)


def walk(root: str | Path) -> Iterator[tuple[str, list[str]]]:
    """Yields (folder, names of its files) for a folder and all below it, links followed, in order."""
    been: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in been:  # a link to a folder above it
            folders.clear()
            continue
        been.add(real)
        folders.sort()
        yield folder, sorted(names)


def _rows(root: str) -> Iterator[_Entry]:
    path = Path(root)
    if path.is_file() and path.suffix == ".tar":
        yield from _members(path)
    elif path.is_dir():
        for folder, names in walk(root):
            for name in names:
                if not _is_text(name):
                    continue  # no record, being UTF-8, can name it
                if name.lower().endswith(_INDEXED):
                    yield _row(name, folder, str(Path(folder) / name))
                elif name.endswith(".tar"):
                    yield from _members(Path(folder) / name)
    else:
        raise UserError(f"{root}: no such folder or .tar file (of media)")


def _members(path: Path) -> Iterator[_Entry]:
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isfile() and _is_text(member.name) and member.name.lower().endswith(_INDEXED):
                    name = PurePosixPath(member.name).name
                    yield _row(
                        name,
                        str(path),
                        f"{path.with_suffix('')}{_IN_TAR}{member.offset_data}:{member.size}:{name}",
                    )
            # tarfile takes whatever is no header for the end; the true one is a block of zeros.
            with path.open("rb") as file:
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("cut or damaged before its end")
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{path}: not a sound tar file ({error}); make it again or take it away") from None


def _is_text(name: str) -> bool:
    """Whether a file name is UTF-8; Python keeps other bytes as lone surrogates."""
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def _row(name: str, folder: str, reference: str) -> _Entry:
    lower = name.lower()
    kinds = (("image", IMAGE_SUFFIXES), ("film", FILM_SUFFIXES))
    kind = next((kind for kind, suffixes in kinds if lower.endswith(suffixes)), "")
    stem = PurePosixPath(lower).stem if kind else ""
    return lower, stem, os.path.normpath(folder), reference, kind
