"""A model's answers on disk, a file for each host: all are read, so a run may go on with another number of hosts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxllava.evaluate.item_log import ItemLog, Row

# A row is {"id", "answer", "scores": [...]} or {"id", "error": why there is no answer}, with "notes": [...] where the
# media had faults and could be shown.


def digest(value: Any) -> str:
    """A short hash of something JSON-able."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


class Answers:
    """The answers in one folder, of one `identity` ({what decides them: value}).

    Raises UserError where the folder holds answers of another one. While one host makes this, none may be adding.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str], host: int = 0) -> None:
        header = {what: {"is": value} for what, value in identity.items()}
        remedy = "use another --out, or --restart to begin anew"
        own = folder / f"answers-{host:04d}.jsonl"
        self.identity = dict(identity)
        self.rows: dict[str, Row] = {}
        for path in sorted({own, *folder.glob("answers-*.jsonl")}):
            log = ItemLog(path, header, ("id",), remedy)
            for (id,), row in log.rows.items():
                # Of two hosts' rows, in runs of different numbers of them, an answer stands.
                if "answer" in row or not self.is_answered(id):
                    self.rows[id] = row
            if path == own:
                self._log = log

    def is_answered(self, id: str) -> bool:
        """Whether there is an answer; a question that could not be asked is tried again."""
        return "answer" in self.rows.get(id, {})

    def add(self, rows: Iterable[Row]) -> None:
        """Appends rows; they are on disk when it returns."""
        rows = list(rows)
        self._log.add(rows)
        self.rows |= {row["id"]: row for row in rows}


def remove(folder: Path) -> None:
    """Deletes the answers in a folder, and nothing else."""
    for path in folder.glob("answers-*.jsonl"):
        path.unlink()
