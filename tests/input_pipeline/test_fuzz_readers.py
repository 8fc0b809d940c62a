"""A little of the fuzz run over every reader, and whether it would notice a reader that is wrong."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from benchmarks import fuzz_readers
from input_pipeline.sources import media, table
from input_pipeline.types import Post


@pytest.mark.parametrize("name", list(fuzz_readers.KINDS))
def test_no_file_breaks_a_reader(name: str) -> None:
    tally = fuzz_readers.fuzz(name, 300, seed=1)
    assert tally.failures == []
    assert tally.records >= 300
    assert tally.accepted > 0
    assert tally.rejected.total() > 0


def _raises(items: list[Any]) -> list[Any]:
    raise KeyError("title")


def _changed(**fields: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda items: [replace(i, **fields) if isinstance(i, Post) else i for i in items]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_raises, "KeyError"),
        (lambda items: items[:-1], "yielded or rejected"),
        (lambda items: [*items, items[0]], "yielded or rejected"),
        (_changed(title="a\ud800"), "UnicodeEncodeError"),
        (_changed(created=math.nan), "changes on being written"),
        (_changed(like_rate=math.inf), "changes on being written"),
        (_changed(likes=10**30), "Error"),
        (_changed(comments=["text"]), "Error"),
    ],
)
def test_what_is_wrong_is_noticed_and_can_be_repeated(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[list[Any]], list[Any]],
    message: str,
) -> None:
    def read(path: Path, library: media.Library) -> Iterator[Any]:
        return iter(change(list(table.read_posts(path, table.Columns(), library))))

    name = "table_jsonl_posts"
    kind = dataclasses.replace(fuzz_readers.KINDS[name], read=read)
    monkeypatch.setitem(fuzz_readers.KINDS, name, kind)
    failure = fuzz_readers.fuzz(name, 400).failures[0]
    assert message in failure
    case = int(failure.split("--case ")[1].split(":")[0])
    again = fuzz_readers.Tally()
    library = fuzz_readers.library_in(tmp_path)
    path = fuzz_readers.run(name, tmp_path, library, 0, case, again)
    assert path is not None
    assert path.is_file()
    assert len(again.failures) == 1


def test_text_that_is_not_made_harmless_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("input_pipeline.behavior.statements.harmless", lambda text: text)
    failures = " ".join(fuzz_readers.fuzz("table_jsonl_posts", 2000).failures)
    assert "marks of images" in failures
    assert "[INST]" in failures
