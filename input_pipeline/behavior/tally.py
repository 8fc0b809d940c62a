"""What a run of `prepare` did, counted: every record read, rejected and dropped, and a few of each to look at.

Each task of a stage keeps a Ledger: lines for quarantine.jsonl and dropped.jsonl in files of its own, and a
Tally of bounded size. The tally is written last, so that a task whose tally is there is done.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec

from input_pipeline.behavior.clean import Drop
from input_pipeline.partial import partial_of
from input_pipeline.sources.rejected import Rejected

_SAMPLES = 8  # of each reason; chosen by hash, so that any division of the work shows the same
_EXCERPT = 300  # characters

REJECTED, DROPS, TALLY = ".rejected.jsonl", ".drops.jsonl", ".tally.json"


class Sample(msgspec.Struct, frozen=True, array_like=True, order=True):
    """One thing that was dropped, to be looked at."""

    rank: int
    post_id: str
    comment_id: str
    source: str
    origin: str
    text: str


class Tally(msgspec.Struct):
    """Counts that add up over tasks."""

    records: dict[str, int] = {}  # {file or folder: records read}
    kinds: dict[str, str] = {}  # {file or folder: kind of input}
    passed: dict[str, int] = {}  # {reason: records that a reader was told to pass over}
    rejected: dict[str, dict[str, dict[str, int]]] = {}  # {file or folder: {kind: {reason: n}}}
    gone_posts: int = 0
    read: dict[str, tuple[int, int]] = {}  # {source: (posts, comments)}
    drops: dict[
        str, dict[str, dict[str, tuple[int, int]]]
    ] = {}  # {step: {reason: {source: (posts, comments)}}}
    samples: dict[str, dict[str, list[Sample]]] = {}  # {step: {reason: a few}}
    splits: dict[str, tuple[int, int]] = {}  # {split: (records, bytes)}
    told_scenes: int = 0  # posts that were given scenes in words
    films: dict[str, int] = {}  # {what is wrong with films of which frames are shown all the same: films}

    def add(self, other: Tally) -> None:
        """Adds another tally to this one."""
        for file, count in other.records.items():
            self.records[file] = self.records.get(file, 0) + count
        self.kinds.update(other.kinds)
        for reason, count in other.passed.items():
            self.passed[reason] = self.passed.get(reason, 0) + count
        for file, kinds in other.rejected.items():
            for kind, reasons in kinds.items():
                mine = self.rejected.setdefault(file, {}).setdefault(kind, {})
                for reason, count in reasons.items():
                    mine[reason] = mine.get(reason, 0) + count
        self.gone_posts += other.gone_posts
        self.told_scenes += other.told_scenes
        for source, counts in other.read.items():
            self.read[source] = _plus(self.read.get(source), counts)
        for step, reasons in other.drops.items():
            for reason, sources in reasons.items():
                mine = self.drops.setdefault(step, {}).setdefault(reason, {})
                for source, counts in sources.items():
                    mine[source] = _plus(mine.get(source), counts)
        for step, reasons in other.samples.items():
            for reason, samples in reasons.items():
                mine = self.samples.setdefault(step, {}).setdefault(reason, [])
                mine[:] = heapq.nsmallest(_SAMPLES, [*mine, *samples])
        for split, counts in other.splits.items():
            self.splits[split] = _plus(self.splits.get(split), counts)
        for what, count in other.films.items():
            self.films[what] = self.films.get(what, 0) + count


def _plus(a: tuple[int, int] | None, b: tuple[int, int]) -> tuple[int, int]:
    return b if a is None else (a[0] + b[0], a[1] + b[1])


def total(tallies: Iterable[Tally]) -> Tally:
    """Returns the sum of tallies."""
    result = Tally()
    for tally in tallies:
        result.add(tally)
    return result


def load(path: Path) -> Tally:
    """Reads the tally of a task that is done."""
    return msgspec.json.decode(path.read_bytes(), type=Tally)


def _partial(path: str) -> BinaryIO:
    return partial_of(path).open("wb")


class Ledger:
    """The books of one task, at `base` + REJECTED, DROPS and TALLY. Use it as a context manager."""

    def __init__(self, base: Path) -> None:
        self._base = str(base)
        self.tally = Tally()
        self._lines = {suffix: _partial(self._base + suffix) for suffix in (REJECTED, DROPS)}
        self._encoder = msgspec.json.Encoder()

    def reject(self, item: Rejected, file: str = "") -> None:
        """Books a record that cannot be used, for statistics under `file` (its own unless told)."""
        kinds = self.tally.rejected.setdefault(file or item.file, {}).setdefault(item.kind, {})
        kinds[item.reason] = kinds.get(item.reason, 0) + 1
        if item.kind == "gone" and item.source:
            self.tally.gone_posts += 1
        line = item.origin.rpartition(":")[2]
        row = {
            "file": item.file,
            "record": int(line) if line.isdigit() else 0,
            "id": item.id,
            "stage": item.stage,
            "kind": item.kind,
            "reason": item.reason,
        }
        self._lines[REJECTED].write(self._encoder.encode(row) + b"\n")

    def tell(self, what: str) -> None:
        """Books what is wrong with a film of which frames are shown all the same."""
        self.tally.films[what] = self.tally.films.get(what, 0) + 1

    def drop(self, drop: Drop) -> None:
        """Books what a step of the funnel took out."""
        counts = (int(drop.comment_id is None), drop.comments)
        sources = self.tally.drops.setdefault(drop.step, {}).setdefault(drop.reason, {})
        sources[drop.source] = _plus(sources.get(drop.source), counts)
        row = {
            "step": drop.step,
            "reason": drop.reason,
            "source": drop.source,
            "post_id": drop.post_id,
            "comment_id": drop.comment_id,
            "comments": drop.comments,
            "origin": drop.origin,
        }
        self._lines[DROPS].write(self._encoder.encode(row) + b"\n")

        rank = zlib.crc32(f"{drop.post_id}/{drop.comment_id}".encode())
        samples = self.tally.samples.setdefault(drop.step, {}).setdefault(drop.reason, [])
        if len(samples) < _SAMPLES or rank <= samples[-1].rank:
            text = drop.text[:_EXCERPT]
            sample = Sample(rank, drop.post_id, drop.comment_id or "", drop.source, drop.origin, text)
            samples.append(sample)
            samples.sort()
            del samples[_SAMPLES:]

    def read(self, source: str, posts: int, comments: int) -> None:
        """Books what a source brought to the funnel."""
        self.tally.read[source] = _plus(self.tally.read.get(source), (posts, comments))

    def records(self, file: str, kind: str, count: int) -> None:
        """Books how many records a file had, and of which kind of input it is."""
        self.tally.kinds[file] = kind
        self.tally.records[file] = self.tally.records.get(file, 0) + count

    def passed(self, reason: str, count: int) -> None:
        """Books records that were passed over as asked."""
        self.tally.passed[reason] = self.tally.passed.get(reason, 0) + count

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for suffix, file in self._lines.items():
            file.close()
            partial = partial_of(self._base + suffix)
            if kind is None:
                partial.replace(self._base + suffix)
            else:
                partial.unlink(missing_ok=True)
        if kind is None:
            partial = partial_of(self._base + TALLY)
            partial.write_bytes(msgspec.json.encode(self.tally))
            partial.replace(self._base + TALLY)
