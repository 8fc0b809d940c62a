"""All pictures of a run in words, in one SQLite file: annotations lie in any order in several files, and memory is to
stay flat.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from input_pipeline.instruct import symbolic
from input_pipeline.instruct.symbolic import Symbolic

_SCHEMA = """
CREATE TABLE pictures (id TEXT PRIMARY KEY, image TEXT, width REAL, height REAL, origin TEXT);
CREATE TABLE listed (id TEXT, file INTEGER, PRIMARY KEY (id, file)) WITHOUT ROWID;
CREATE TABLE categories (key TEXT PRIMARY KEY, name TEXT);
CREATE TABLE captions (picture TEXT, text TEXT);
CREATE TABLE boxes (picture TEXT, category TEXT, numbers TEXT, form TEXT);
"""
_INDEXES = """
CREATE INDEX captions_of ON captions (picture);
CREATE INDEX boxes_of ON boxes (picture);
"""


class Pool:
    """Filled once by the readers (`add_...`, then `close`), and then read in order of the ids."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._new = not self.path.exists()
        # A teacher may take its requests, and with them what is read here, in a thread of its own.
        self._connection = sqlite3.connect(self.path, check_same_thread=False)
        if self._new:
            self._connection.execute("PRAGMA journal_mode = OFF")
            self._connection.execute("PRAGMA synchronous = OFF")
            self._connection.executescript(_SCHEMA)

    def add_picture(
        self,
        name: str,
        image: str,
        size: tuple[float | None, float | None] = (None, None),
        origin: str = "",
        number: int | None = None,
    ) -> None:
        """Adds a picture. Of one that is there already the file stays, and a size is added where it had none.

        `number`: of the file of annotations that lists it, for `is_of`.
        """
        self._connection.execute(
            "INSERT INTO pictures VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
            "width = COALESCE(width, excluded.width), height = COALESCE(height, excluded.height)",
            (name, image, *size, origin),
        )
        if number is not None:
            self._connection.execute("INSERT OR IGNORE INTO listed VALUES (?, ?)", (name, number))

    def is_of(self, name: str, number: int) -> bool:
        """Whether the file of annotations with this number has listed the picture."""
        query = "SELECT 1 FROM listed WHERE id = ? AND file = ?"
        return bool(self._connection.execute(query, (name, number)).fetchone())

    def add_caption(self, name: str, text: str) -> None:
        """One caption of the picture `name`, which may be added later."""
        self._connection.execute("INSERT INTO captions VALUES (?, ?)", (name, text))

    def add_box(self, name: str, category: str, numbers: Any, form: str) -> None:
        """One box, as `symbolic.box` takes it; a category is a name, or '\\0' and a key of `add_category`."""
        row = (name, category, json.dumps(numbers), form)
        self._connection.execute("INSERT INTO boxes VALUES (?, ?, ?, ?)", row)

    def add_category(self, key: str, name: str) -> bool:
        """What a key among the boxes stands for. Returns whether it stood for nothing before, else it goes on so."""
        query = "INSERT OR IGNORE INTO categories VALUES (?, ?)"
        return self._connection.execute(query, (key, name)).rowcount == 1

    def finish(self) -> None:
        """Makes what was added ready to be read."""
        self._connection.executescript(_INDEXES)
        self._connection.commit()

    def close(self) -> None:
        """Closes the file."""
        self._connection.commit()
        self._connection.close()

    def __len__(self) -> int:
        return self._connection.execute("SELECT COUNT(*) FROM pictures").fetchone()[0]

    def __contains__(self, name: str) -> bool:
        return bool(self._connection.execute("SELECT 1 FROM pictures WHERE id = ?", (name,)).fetchone())

    def strays(self) -> Iterator[tuple[str, int]]:
        """(picture, annotations) of every picture that has annotations and was never named itself."""
        for table in ("captions", "boxes"):
            yield from self._connection.execute(
                f"SELECT picture, COUNT(*) FROM {table} WHERE picture NOT IN (SELECT id FROM pictures) "
                "GROUP BY picture ORDER BY picture"
            )

    def read(self, most_boxes: int = symbolic.MOST_BOXES) -> Iterator[Symbolic]:
        """Yields every picture in order of the ids, also those of which nothing is told."""
        names = dict(self._connection.execute("SELECT key, name FROM categories"))
        rows = self._connection.execute("SELECT * FROM pictures ORDER BY id")
        for name, image, width, height, origin in rows:
            captions = self._connection.execute(
                "SELECT text FROM captions WHERE picture = ? ORDER BY rowid", (name,)
            )
            boxes = self._connection.execute(
                "SELECT category, numbers, form FROM boxes WHERE picture = ? ORDER BY rowid", (name,)
            )
            yield symbolic.describe(
                name,
                image,
                [text for (text,) in captions],
                [
                    (
                        names.get(category[1:], "") if category.startswith("\0") else category,
                        json.loads(numbers),
                        form,
                    )
                    for category, numbers, form in boxes
                ],
                (width, height),
                origin,
                most_boxes,
            )
