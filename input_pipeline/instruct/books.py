"""What a run leaves: answers and samples while it works (one SQLite file), and the files at its end."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from input_pipeline.instruct import draws
from input_pipeline.sources import fields
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Turn

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
  key TEXT, draw INTEGER, text TEXT, finish TEXT, reason TEXT, detail TEXT, is_final INTEGER, PRIMARY KEY (key, draw)
);
CREATE TABLE IF NOT EXISTS samples (
  key TEXT PRIMARY KEY, kind TEXT, id TEXT, image TEXT, reference TEXT, split TEXT, turns TEXT, draw REAL, place INTEGER
);
CREATE INDEX IF NOT EXISTS by_kind ON samples (kind, draw, key);
"""


@dataclass(frozen=True)
class Kept:
    """A sample that passed."""

    key: str
    kind: str
    id: str
    image: str
    reference: str
    split: str
    turns: tuple[Turn, ...]


class Books:
    """Answers and samples of one run. Begun anew by each run: a teacher keeps what it has answered."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._connection = sqlite3.connect(
            path, check_same_thread=False
        )  # who asks may take requests in a thread
        self._connection.execute("PRAGMA journal_mode = OFF")
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.executescript(_SCHEMA)
        self._places = 0

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def answer(self, key: str, draw: int, text: str, finish: str) -> None:
        """Keeps an answer; `draw`: which of several to the same question."""
        self._put(key, draw, (text, finish, "", ""), is_final=True)

    def failure(self, key: str, draw: int, reason: str, detail: str, is_final: bool) -> None:
        """Keeps why there is no answer. is_final: asking again would not help."""
        self._put(key, draw, ("", "", reason or "no reason given", detail), is_final)

    def _put(self, key: str, draw: int, said: tuple[str, ...], is_final: bool) -> None:
        row = (fields.writable(key), draw, *map(fields.writable, said), is_final)
        self._connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def settled(self, draw: int) -> int:
        """How many requests have an answer, or the teacher's last word that there is none."""
        row = "SELECT COUNT(*) FROM answers WHERE is_final AND draw = ?"
        return self._connection.execute(row, (draw,)).fetchone()[0]

    def failures(self) -> dict[str, tuple[int, str]]:
        """{reason: (how often, a detail)} of what has no answer yet, the commonest first."""
        rows = self._connection.execute(
            "SELECT reason, COUNT(*), MIN(detail) FROM answers WHERE NOT is_final GROUP BY reason "
            "ORDER BY COUNT(*) DESC, reason"
        )
        return {reason: (count, detail) for reason, count, detail in rows}

    def answered(self, key: str, draw: int) -> tuple[str, str, str, str, int] | None:
        """(text, finish, reason, detail, is_final) of a request; None where the teacher said nothing at all."""
        row = "SELECT text, finish, reason, detail, is_final FROM answers WHERE key = ? AND draw = ?"
        return self._connection.execute(row, (key, draw)).fetchone()

    def keep(self, sample: Kept, draw: float) -> None:
        """Keeps a sample; `draw` is its rank in the mixture."""
        turns = json.dumps([[turn.role, turn.text] for turn in sample.turns], ensure_ascii=False)
        place, self._places = self._places, self._places + 1
        row = (
            sample.key,
            sample.kind,
            sample.id,
            sample.image,
            sample.reference,
            sample.split,
            turns,
            draw,
            place,
        )
        self._connection.execute("INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def counts(self) -> dict[str, int]:
        """Samples of each kind."""
        return dict(self._connection.execute("SELECT kind, COUNT(*) FROM samples GROUP BY kind").fetchall())

    def of_kind(self, kind: str) -> Iterator[Kept]:
        """All samples of a kind, in the order in which they were kept."""
        return self._samples("WHERE kind = ? ORDER BY place", (kind,))

    def mixture(self, counts: Mapping[str, int]) -> Iterator[Kept]:
        """So many of each kind, the lowest draws first, all kinds mixed."""
        self._connection.execute("DROP TABLE IF EXISTS chosen")
        self._connection.execute("CREATE TEMP TABLE chosen (key TEXT PRIMARY KEY)")
        for kind, count in counts.items():
            self._connection.execute(
                "INSERT INTO chosen SELECT key FROM samples WHERE kind = ? ORDER BY draw, key LIMIT ?",
                (kind, count),
            )
        return self._samples("WHERE key IN (SELECT key FROM chosen) ORDER BY draw, key", ())

    def _samples(self, where: str, values: tuple[Any, ...]) -> Iterator[Kept]:
        rows = self._connection.execute(
            f"SELECT key, kind, id, image, reference, split, turns FROM samples {where}", values
        )
        for key, kind, name, image, reference, split, turns in rows:
            yield Kept(
                key,
                kind,
                name,
                image,
                reference,
                split,
                tuple(Turn(role, text) for role, text in json.loads(turns)),
            )


def rank(seed: int, key: str) -> float:
    """A sample's rank in the mixture: of its key alone."""
    return draws.share(seed, "mixture", key)


def thousands(count: int) -> str:
    """A count as LLaVA's files have it in their names: 58k; below a thousand in full."""
    return f"{count // 1000}k" if count >= 1000 else str(count)


def write_llava(path: Path, samples: Iterable[Kept]) -> int:
    """Writes samples as LLaVA JSON, one on a line, and returns how many."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for sample in samples:
            file.write((",\n" if count else "\n") + llava_line(sample))
            count += 1
        file.write("\n]\n")
    return count


def llava_line(sample: Kept) -> str:
    """A sample as LLaVA JSON, on one line."""
    row = {
        "id": sample.id,
        **({"image": sample.image} if sample.image else {}),
        "conversations": [{"from": turn.role, "value": turn.text} for turn in sample.turns],
    }
    return json.dumps(row, ensure_ascii=False)


def quarantine_row(item: Rejected) -> dict[str, Any]:
    """A line of quarantine.jsonl, as `jaxllava prepare` has it."""
    place = item.origin.rpartition(":")[2].rpartition("/")[2]
    return {
        "file": Path(item.file).name,
        "record": int(place) if place.isdigit() else 0,
        "id": item.id,
        "stage": item.stage,
        "kind": item.kind,
        "reason": item.reason,
    }
