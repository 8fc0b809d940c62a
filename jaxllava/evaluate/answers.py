"""A model's answers on disk: JSON lines that grow while it is asked, so that a crash loses nothing that was written.

Every host writes a file of its own in the task's folder and all read all of them: a run may go on with another
number of hosts. The first line of a file says whose answers they are and to what; answers of another model, or
to other questions, are never taken up.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from input_pipeline.errors import UserError

Row = dict[str, Any]  # {"id", "answer", "scores": [...]} or {"id", "error": why there is none}


def digest(value: Any) -> str:
    """A short hash of something JSON-able."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


class Answers:
    """The answers in one folder."""

    def __init__(self, folder: Path, identity: Mapping[str, str], host: int = 0) -> None:
        """Reads what is there; UserError where it is of another identity."""
        self._path = folder / f"answers-{host:04d}.jsonl"
        self.identity = dict(identity)
        self.rows: dict[str, Row] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("answers-*.jsonl")):
            self._read(path)

    def _read(self, path: Path) -> None:
        lines = path.read_bytes().split(b"\n")
        # What stands behind the last line end was being written when the run ended.
        lines.pop()
        if not lines:
            return
        head = _object(lines[0]) or {}
        found = head.get("identity")
        if not isinstance(found, dict):
            raise UserError(f"{path}: its first line does not say whose answers these are; use another --out")
        if differs := [k for k in self.identity if found.get(k) != self.identity[k]]:
            said = "; ".join(f"{k} was {found.get(k)}, is {self.identity[k]}" for k in differs)
            raise UserError(
                f"{path.parent} holds answers of another run ({said}); use another --out, or --restart to begin anew"
            )
        for line in lines[1:]:
            row = _object(line)  # a damaged line is no answer: its question is asked again
            if row is not None and isinstance(row.get("id"), str) and ("answer" in row or "error" in row):
                self.rows[row["id"]] = row

    def is_answered(self, id: str) -> bool:
        """Whether there is an answer; a question that could not be asked is tried again."""
        return "answer" in self.rows.get(id, {})

    def add(self, rows: Iterable[Row]) -> None:
        """Appends rows; they are on disk when it returns."""
        rows = list(rows)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with self._path.open("ab+") as file:
            size = file.seek(0, os.SEEK_END)
            if size == 0:
                text = json.dumps({"identity": self.identity}, ensure_ascii=False) + "\n" + text
            else:
                file.seek(size - 1)
                if file.read(1) != b"\n":  # of a run that was ended in the middle of a line
                    text = "\n" + text
            file.write(text.encode("utf-8", "surrogatepass"))
            file.flush()
            os.fsync(file.fileno())
        self.rows |= {row["id"]: row for row in rows}


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def remove(folder: Path) -> None:
    """Deletes the answers in a folder, and nothing else."""
    for path in folder.glob("answers-*.jsonl"):
        path.unlink()
