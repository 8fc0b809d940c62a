"""Judged results on disk: `TASK/judged-JUDGE/result.json` below --out."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import msgspec

from input_pipeline.errors import UserError, in_one_line

RESULT = "result.json"


class _Figure(msgspec.Struct):
    mean: float
    low: float
    high: float
    n: int


class _Named(msgspec.Struct):
    count: int
    first: list[str]


_Some = dict[str, _Named]


class Kept(msgspec.Struct):
    """What tables take of a result that is read back."""

    task: str
    setting: str
    figures: dict[str, _Figure]
    failures: list[str]
    questions: int
    asked: int
    no_figures: str = msgspec.field(name="no figures")
    not_answered: _Some = msgspec.field(name="not answered")
    rejected: _Some
    problems: _Some

    def __post_init__(self) -> None:
        if not all(one.first for one in (*self.not_answered.values(), *self.rejected.values())):
            raise ValueError("what is left out is not named")


class _How(msgspec.Struct):
    temperature: float | None = None
    max_tokens: int | None = None


class _Judged(Kept):
    judge: str
    judge_of_papers: str = msgspec.field(name="judge of the papers")
    headline: str
    ours: str
    how: _How = msgspec.field(default_factory=_How)


def folder_name(judge: str) -> str:
    """judged-NAME for a folder; names that no folder can have get a hash."""
    plain = re.sub(r"[^A-Za-z0-9._@+=-]+", "-", judge).strip("-.")[-60:]
    if plain != judge:
        plain += f"-{hashlib.sha256(judge.encode()).hexdigest()[:8]}"
    return f"judged-{plain.lstrip('-.')}"


def read_back(path: Path) -> Any:
    """A JSON file's value, all of which can be printed. Raises ValueError, RecursionError and OSError."""
    value = json.loads(path.read_text("utf-8"))
    json.dumps(value, ensure_ascii=False).encode()  # JSON can spell half of a pair of code units
    return value


def results_in(out: Path) -> list[dict[str, Any]]:
    """All judged results below --out. Raises UserError where one cannot be read."""
    found = []
    for path in sorted(out.glob(f"*/judged-*/{RESULT}")):
        try:
            result = read_back(path)
            msgspec.convert(result, _Judged)
        except (ValueError, OSError, RecursionError) as error:
            raise UserError(
                f"{path} cannot be read ({in_one_line(error)}); remove it and judge again"
            ) from None
        found.append(result)
    return found


def forget(folder: Path) -> None:
    """Removes a task's judged figures: it is about to have more answers."""
    for path in folder.glob(f"judged-*/{RESULT}"):
        path.unlink()
