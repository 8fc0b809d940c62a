"""What scorers take and give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxllava.evaluate.metrics import Estimate


@dataclass(frozen=True)
class Answered:
    """An item of a task with what the model said.

    `truth` and `meta` are the item's. `answer` is the text that was generated, the candidate that was chosen
    (a list of them, best first, where the task ranks), or a number. `scores` has the log-probability of each
    candidate, in the order of `meta["candidates"]` where the item has its own.
    """

    id: str
    truth: Any
    answer: Any
    scores: tuple[float, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """A benchmark's figures, the headline first, and the ids of answers that its rule could not read, by what
    was wrong.

    Such answers are in the figures as the official scorer has them.
    """

    figures: dict[str, Estimate]
    problems: dict[str, list[str]] = field(default_factory=dict)
