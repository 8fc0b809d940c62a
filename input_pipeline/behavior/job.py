"""What every task of `prepare` has to know, and the small files that tasks leave for one another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from input_pipeline.behavior import spill
from input_pipeline.behavior.arms import Arm
from input_pipeline.behavior.films import Showing
from input_pipeline.behavior.heldout import is_heldout
from input_pipeline.behavior.rules import Rules
from input_pipeline.behavior.tally import TALLY, Tally, load
from input_pipeline.partial import partial_of


@dataclass(frozen=True)
class Job:
    """What every task has to know. `work` is the folder of all files in between."""

    work: str
    buckets: int
    rules: Rules
    arms: tuple[Arm, ...]
    heldout_fraction: float
    seed: int
    version: str = ""  # of the funnel and its thresholds, kept with every record
    max_image_side: int = 0  # of stored images; 0 keeps them as they came
    showing: Showing = field(default_factory=Showing)  # what is shown of posts that have films

    def base(self, stage: str, number: int) -> Path:
        """The path of a task's files, without their suffixes."""
        return Path(self.work) / stage / f"{number:05d}"

    def failure(self) -> Path:
        """Where a task says why it could not be done; with suffix .traceback, if the reason is outside of the run."""
        return Path(self.work) / "failure"

    def evaluation(self) -> Path:
        """Where the fingerprints of evaluation sets lie."""
        return Path(self.work) / "evaluation"

    def told_scenes(self) -> Path:
        """Where the index of scenes in words lies, if there are any."""
        return Path(self.work) / "scenes.sqlite"

    def order(self, key: str) -> int:
        """The place of a key in the order of everything."""
        return spill.order_of(key, self.seed)

    def half(self, key: str) -> str:
        """'train' or 'heldout'."""
        return "heldout" if is_heldout(key, self.heldout_fraction) else "train"


def is_done(job: Job, stage: str, number: int) -> bool:
    """Whether a task has been done, in this run or an earlier one."""
    return Path(f"{job.base(stage, number)}{TALLY}").exists()


def write_value(path: Path, value: Any) -> None:
    """Writes a value as msgpack."""
    partial = partial_of(path)
    partial.write_bytes(msgspec.msgpack.encode(value))
    partial.replace(path)


def read_value(path: Path, kind: Any) -> Any:
    """Reads a value of a type that `write_value` wrote."""
    return msgspec.msgpack.decode(path.read_bytes(), type=kind)


def tallies(job: Job, stage: str, count: int) -> Iterator[Tally]:
    """Yields the tallies of a stage's tasks."""
    for number in range(count):
        yield load(Path(f"{job.base(stage, number)}{TALLY}"))
