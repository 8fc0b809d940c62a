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
from input_pipeline.errors import UserError
from input_pipeline.instruct.symbolic import Symbolic
from input_pipeline.sources import media, table
from input_pipeline.sources.rejected import Rejected
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


def _without_last(kind: fuzz_readers.Kind) -> fuzz_readers.Kind:
    def read(path: Path, library: media.Library) -> Iterator[Any]:
        items = list(kind.read(path, library))
        last = max((at for at, item in enumerate(items) if isinstance(item, Symbolic)), default=None)
        return iter(
            [Rejected(f"{path}:1", "", "read", "lost") if at == last else i for at, i in enumerate(items)]
        )

    return dataclasses.replace(kind, read=read)


def test_a_sound_record_that_is_lost_beside_a_broken_one_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = _without_last(fuzz_readers.KINDS["instruct_jsonl"])
    monkeypatch.setitem(fuzz_readers.KINDS, "instruct_jsonl", kind)
    assert "sound, but not there" in " ".join(fuzz_readers.fuzz("instruct_jsonl", 600).failures)


@pytest.mark.parametrize("said", ["{path}: two\nlines", "it is broken", "{path}" + "a" * 2000])
def test_a_file_that_is_not_refused_in_one_clear_line_is_noticed(
    monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    def read(path: Path, library: media.Library) -> Iterator[Any]:
        raise UserError(said.format(path=path))

    kind = dataclasses.replace(fuzz_readers.KINDS["judge_rules"], read=read)
    monkeypatch.setitem(fuzz_readers.KINDS, "judge_rules", kind)
    assert "not one clear line" in fuzz_readers.fuzz("judge_rules", 1).failures[0]
