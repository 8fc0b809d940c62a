"""Per-item results in a file of JSON lines that grows as they come, so that an interrupted evaluation goes on.

The first line says of what the rest are results; a file of anything else is never added to.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from input_pipeline.errors import UserError

Row = dict[str, Any]


class ItemLog:
    """The rows of one measure of one checkpoint, by the values of their `keys`. In memory alone without a path.

    Args:
        path: of the file; its folder is made.
        header: {kind of thing: {"name": for messages, ...}}: all but the names has to be as in the file.
        keys: the fields that tell a row from the others.
        remedy: for the message where the file is of something else; "" names another --out.

    A row that cannot be read is as one that is not there. What is behind the last line end was being written when the
    run ended, and is cut off.

    Raises: UserError where the file holds results of another header, or is no such file.
    """

    def __init__(
        self,
        path: Path | None,
        header: Mapping[str, Mapping[str, Any]],
        keys: Sequence[str] = ("id", "number"),
        remedy: str = "",
    ) -> None:
        self.path, self.keys = path, tuple(keys)
        self._remedy = remedy or f"give another --out, or remove {path.parent if path else ''}"
        header = json.loads(json.dumps(header))  # as a file gives it back
        self.rows: dict[tuple[Any, ...], Row] = {}
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            data = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); {self._remedy}") from None
        whole = data[: data.rfind(b"\n") + 1]  # a line without its end was being written
        if not whole:
            path.write_text(json.dumps(header) + "\n")
            return
        first, *rest = whole.decode("utf-8", "replace").splitlines()
        head = _parsed(first)
        if head is None:
            raise UserError(f"{path}: line 1 does not say of what the results are; {self._remedy}")
        self._check(head, header)
        for line in rest:
            row = _parsed(line)
            if row is not None and all(
                key in row and not isinstance(row[key], list | dict) for key in self.keys
            ):
                self.rows[self._key(row)] = row
        if len(whole) < len(data):
            with path.open("r+b") as file:
                file.truncate(len(whole))

    def _key(self, row: Row) -> tuple[Any, ...]:
        return tuple(row[key] for key in self.keys)

    def _check(self, found: Row, header: Mapping[str, Mapping[str, Any]]) -> None:
        for kind, wanted in header.items():
            held = found.get(kind)
            if not isinstance(held, dict) or _unnamed(held) != _unnamed(wanted):
                raise UserError(
                    f"{self.path}: holds results of {kind} {_described(held)}, and this run is of "
                    f"{kind} {_described(wanted)}; {self._remedy}"
                )

    def add(self, rows: Iterable[Row]) -> None:
        """Keeps rows, and writes them before it returns."""
        rows = list(rows)
        if self.path is not None:
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            with self.path.open("a") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        self.rows |= {self._key(row): row for row in rows}


def _parsed(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _unnamed(part: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != "name"}


def _described(part: Any) -> str:
    if not isinstance(part, Mapping):
        return "unknown"
    values = ", ".join(f"{key} {str(value)[:16]}" for key, value in part.items() if key != "name")
    return f"{part['name']} ({values})" if part.get("name") else f"({values})"
