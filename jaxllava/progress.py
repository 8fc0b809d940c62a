"""A progress bar for every stage, and what each stage took."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

Report = Callable[..., None]  # report(done, total, note="")


@functools.cache
def _stderr() -> TextIO | None:
    """A copy of stderr of our own: what stderr is may be changed under the bar by what it tells of."""
    if sys.stderr is not sys.__stderr__:  # somebody wants to have it
        return None
    return os.fdopen(os.dup(2), "w", buffering=1)


@contextmanager
def bar(title: str) -> Iterator[Report]:
    """A bar on stderr; the block calls `report(done, total, note)`.

    It is drawn from the first report on, so that a mistake found before is one line and nothing else.
    """
    # On a terminal the bar moves; in a log each line costs space, so it is drawn rarely.
    interval = 0.1 if sys.stderr.isatty() else 15.0
    drawn: list[tqdm] = []

    def report(done: int, total: int, note: str = "") -> None:
        if not drawn:
            drawn.append(
                tqdm(
                    total=1,
                    desc=title,
                    mininterval=interval,
                    bar_format="{desc:<42}{percentage:3.0f}%|{bar:24}| {elapsed} {postfix}",
                    dynamic_ncols=True,
                    file=_stderr(),
                )
            )
        drawn[0].total = max(total, 1)
        drawn[0].set_postfix_str(note, refresh=False)
        drawn[0].update(done - drawn[0].n)

    try:
        yield report
        for it in drawn:
            it.update(it.total - it.n)
    finally:
        for it in drawn:
            it.close()


class Stages:
    """Numbered stages with a bar each. Their seconds are kept in a file and add up over interrupted runs."""

    def __init__(self, count: int, timings: Path):
        self.count = count
        self.number = 0
        self.timings = timings
        self.seconds: dict[str, float] = json.loads(timings.read_text()) if timings.exists() else {}

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[Report]:
        self.number += 1
        started = time.monotonic()
        try:
            with bar(f"[{self.number:2d}/{self.count}] {title}") as report:
                yield report
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 1)
            self.timings.write_text(json.dumps(self.seconds, indent=1))
