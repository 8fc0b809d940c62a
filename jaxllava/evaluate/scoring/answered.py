"""What a benchmark's metric takes and gives: answered questions in, figures with intervals out.

Every metric of this package is a function `(rows) -> Scored`. It scores an answer as the benchmark's official
scorer does, also one that the official rule cannot parse; such answers are named in `problems`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from input_pipeline.errors import UserError
from jaxllava.evaluate.metrics import Estimate

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Answered:
    """A question's truth and a model's answer.

    Attributes:
        id: of the question; unique within a benchmark.
        truth: as the task's loader gives it; JSON-able.
        answer: the model's text (generation), the chosen candidate (choice), or a number (expectation).
        scores: one log-probability per candidate, in the order of `meta["candidates"]`; () where none.
        meta: what the metric needs besides (category, picture, candidates, ...); each metric says what.
    """

    id: str
    truth: Any
    answer: Any
    scores: tuple[float, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """A benchmark's figures, its headline first, and the answers with which something was wrong.

    Attributes:
        figures: name -> value with its 95 % interval, in the unit that the papers' tables use.
        problems: what is wrong, and what was done about it -> the ids, in their order. An entry without ids
            concerns the whole (a figure that could not be computed).
    """

    figures: dict[str, Estimate]
    problems: dict[str, list[str]] = field(default_factory=dict)


class Problems(dict[str, list[str]]):
    """Collects ids under what is wrong with them."""

    def note(self, what: str, id: str) -> None:
        self.setdefault(what, []).append(id)


def check(benchmark: str, rows: Sequence[Answered]) -> None:
    """Raises a UserError for no rows and for an id that occurs twice."""
    if not rows:
        raise UserError(f"{benchmark}: no answered questions to score")
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise UserError(f"{benchmark}: question {row.id!r} occurs twice; score each question once")
        seen.add(row.id)


def broken(benchmark: str, row: Answered, what: str) -> UserError:
    """Returns the error for a row whose truth or meta a metric cannot use."""
    return UserError(f"{benchmark}: question {row.id!r}: {what}")


def meta(benchmark: str, row: Answered, key: str) -> Any:
    """Returns row.meta[key]; a UserError names the question and the key where it is missing."""
    if key not in row.meta:
        raise broken(benchmark, row, f"its meta has no {key!r}, which this benchmark's figures need")
    return row.meta[key]


def text(benchmark: str, row: Answered, problems: Problems, consequence: str) -> str:
    """Returns the answer's text, and notes it where it is empty; `consequence` says how it is scored."""
    if row.answer is None:
        answer = ""
    elif isinstance(row.answer, str):
        answer = row.answer
    else:
        raise broken(benchmark, row, f"its answer is a {type(row.answer).__name__}, not a text")
    if not answer.strip():
        problems.note(f"empty answer: {consequence}", row.id)
    return answer


def number(benchmark: str, row: Answered, value: Any, what: str) -> float:
    """Returns a finite number; a UserError names the question otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise broken(benchmark, row, f"its {what} is {value!r}, not a finite number")
    return float(value)


def groups(keys: Iterable[Key]) -> dict[Key, list[int]]:
    """Returns key -> the positions that have it, in the order of first occurrence."""
    found: dict[Key, list[int]] = {}
    for index, key in enumerate(keys):
        found.setdefault(key, []).append(index)
    return found
