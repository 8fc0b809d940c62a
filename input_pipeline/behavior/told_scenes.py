"""Scenes in words that `jaxllava verbalise` wrote, given to the posts whose media they are of.

A file of them is read once into a small SQLite index, which workers ask, so that no process holds them all.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import msgspec
from msgspec.structs import replace

from input_pipeline.errors import UserError
from input_pipeline.partial import partial_of
from input_pipeline.sources import cells, fields, media
from input_pipeline.types import Post, Scene

BY = ("sha256", "name")


class Told(msgspec.Struct, frozen=True, array_like=True):
    """What is known of one medium: its scenes, and what is said in it ('' where that is not known)."""

    scenes: tuple[Scene, ...]
    asr: str = ""


class ToldScenes:
    """Scenes by the hash of the medium's bytes, or by its name. It pickles to the path of its index."""

    def __init__(self, index: str | Path) -> None:
        self.index = str(index)
        self._connection: sqlite3.Connection | None = None
        ((self.by,),) = self._open().execute("SELECT way FROM made")

    def __getstate__(self) -> str:
        return self.index

    def __setstate__(self, index: str) -> None:
        self.__init__(index)

    def scenes_of(self, key: str) -> Told | None:
        """What is known of a medium: by its sha256 in hex, or by its file name without folders and suffix."""
        rows = self._open().execute("SELECT told FROM scenes WHERE key = ?", (key,)).fetchall()
        return msgspec.msgpack.decode(rows[0][0], type=Told) if rows else None

    def tell(self, post: Post, sha256: str) -> Post:
        """The post with the scenes of its medium in place of its own, and with what is said where it lacks that.

        Args:
            post: one whose media have been found.
            sha256: of its first medium's bytes, hex. By name, its medium's name and its id count: a thumbnail
                stands for its video.
        """
        names = [PurePosixPath(media.name_of(reference)).stem for reference in post.media[:1]]
        keys = [sha256] if self.by == "sha256" else [*names, post.id]
        told = next(filter(None, map(self.scenes_of, keys)), None)
        return replace(post, scenes=told.scenes, asr=post.asr or told.asr) if told else post

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            # Read only, and without locks, which shared file systems are bad at.
            uri = f"{Path(self.index).resolve().as_uri()}?immutable=1"
            self._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
        return self._connection


def build(path: str | Path, by: str, index: Path) -> None:
    """Reads a file of `jaxllava verbalise` into an index, whole or not at all.

    Raises UserError where there is no such file, a line of it is no such line, or two media of different content have
    the same name and scenes are to be found by name.
    """
    unfinished = partial_of(index)
    unfinished.unlink(missing_ok=True)
    with sqlite3.connect(unfinished) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("CREATE TABLE made (way TEXT)")
        connection.execute("INSERT INTO made VALUES (?)", (by,))
        connection.execute("CREATE TABLE scenes (key TEXT PRIMARY KEY, sha256 TEXT, name TEXT, told BLOB)")
        for name, sha256, told in _read(Path(path)):
            key = sha256 if by == "sha256" else PurePosixPath(name).stem
            row = (key, sha256, name, msgspec.msgpack.encode(told))
            if connection.execute("INSERT OR IGNORE INTO scenes VALUES (?, ?, ?, ?)", row).rowcount:
                continue
            ((other, called),) = connection.execute("SELECT sha256, name FROM scenes WHERE key = ?", (key,))
            if other != sha256:
                raise UserError(
                    f"{path}: {called} and {name} have the same name and differ; scenes_by='sha256' tells them apart"
                )
    connection.close()
    unfinished.rename(index)


def load(index: Path) -> ToldScenes | None:
    """The index that `build` left; None where there is none."""
    return ToldScenes(index) if index.exists() else None


def _read(path: Path) -> Iterator[tuple[str, str, Told]]:
    """(name, sha256, what is told) of every medium."""
    if not path.is_file():
        raise UserError(f"{path}: no such file (named under 'scenes' in the prepare config)")
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            row = row if isinstance(row, dict) else {}
            name, sha256 = fields.text(row, "media"), fields.text(row, "sha256")
            if not (name and sha256 and isinstance(row.get("scenes"), list)):
                raise UserError(f"{path}:{number}: not a line of jaxllava verbalise; make the file again")
            yield name, sha256, Told(cells.scenes(row["scenes"]), fields.text(row, "asr") or "")
