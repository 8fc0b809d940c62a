"""Counts and samples of a run: the same however the work is divided, and on disk whole or not at all."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.behavior import tally
from input_pipeline.behavior.clean import Drop
from input_pipeline.behavior.tally import DROPS, REJECTED, TALLY, Ledger, Tally, load, total
from input_pipeline.partial import partial_of
from input_pipeline.sources.rejected import Rejected

_FEW = st.sampled_from
_ID = st.sampled_from("pqrst")
_DROP = st.builds(
    Drop,
    step=_FEW(["marked", "date"]),
    source=_FEW(["reddit", "youtube"]),
    post_id=_FEW(["p", "q", "r"]) | st.integers(0, 30).map(str),
    origin=_FEW(["RS:1", "RS:2", "v.json"]),
    reason=_FEW(["too old", "marked NSFW"]),
    comment_id=_FEW([None, "", "a", "b"]),
    comments=st.integers(0, 3),
    text=_FEW(["", "some words", "w" * 400]),
)
_REJECTED = st.builds(
    Rejected,
    origin=_FEW(["RS:1", "RS:2", "folder/v.info.json", "a:b:3"]),
    id=_FEW(["", "p"]),
    stage=_FEW(["read", "media"]),
    reason=_FEW(["not JSON", "media is gone"]),
    kind=_FEW(["bad", "gone", "skipped"]),
    source=_FEW(["", "reddit"]),
)
_EVENT = st.one_of(
    st.tuples(st.just("drop"), _DROP),
    st.tuples(st.just("reject"), _REJECTED, _FEW(["", "group"])),
    st.tuples(st.just("read"), _FEW(["reddit", "youtube"]), st.integers(0, 3), st.integers(0, 9)),
    st.tuples(st.just("records"), _FEW(["RS", "RC"]), st.just("reddit"), st.integers(0, 9)),
    st.tuples(st.just("passed"), _FEW(["of another subreddit", "of another kind"]), st.integers(0, 9)),
)


def _book(base: Path, events: list[tuple[Any, ...]]) -> Tally:
    with Ledger(base) as ledger:
        for name, *values in events:
            getattr(ledger, name)(*values)
    return load(Path(f"{base}{TALLY}"))


def _lines(base: Path, suffix: str) -> list[Any]:
    return [json.loads(line) for line in Path(f"{base}{suffix}").read_text().splitlines()]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), _EVENT), max_size=60), st.permutations(range(4)))
def test_sums_and_samples_do_not_depend_on_the_division(events: list[Any], order: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole = _book(Path(folder) / "whole", [event for _, event in events])
        parts = [
            _book(Path(folder) / str(task), [event for home, event in events if home == task])
            for task in order
        ]
        assert total(parts) == whole
        for suffix in (REJECTED, DROPS):
            found = [line for task in order for line in _lines(Path(folder) / str(task), suffix)]
            assert sorted(map(str, found)) == sorted(map(str, _lines(Path(folder) / "whole", suffix)))


@settings(max_examples=50, deadline=None)
@given(st.lists(_DROP, max_size=40))
def test_the_counts_are_those_of_the_lines(drops: list[Drop]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = _book(Path(folder) / "a", [("drop", drop) for drop in drops])
        lines = _lines(Path(folder) / "a", DROPS)
    assert [line["comments"] for line in lines] == [drop.comments for drop in drops]
    for step, reasons in found.drops.items():
        for reason, sources in reasons.items():
            for source, counts in sources.items():
                mine = [x for x in lines if (x["step"], x["reason"], x["source"]) == (step, reason, source)]
                assert mine
                assert counts == (
                    sum(line["comment_id"] is None for line in mine),
                    sum(line["comments"] for line in mine),
                )
    assert len(lines) == len(drops)
    assert all(len(few) <= 8 for reasons in found.samples.values() for few in reasons.values())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), _ID, _ID), min_size=9, max_size=30), st.permutations(range(3)))
def test_samples_of_equal_rank_do_not_depend_on_the_division(
    found: list[tuple[int, str, str]], order: list[int]
) -> None:
    # The same post dropped again and again has one rank: then the other fields decide.
    drops = [(home, Drop("join", "reddit", post, origin, "post read twice")) for home, post, origin in found]
    with tempfile.TemporaryDirectory() as folder:
        whole = _book(Path(folder) / "whole", [("drop", drop) for _, drop in drops])
        parts = [
            _book(Path(folder) / str(task), [("drop", drop) for home, drop in drops if home == task])
            for task in order
        ]
    assert total(parts).samples == whole.samples


def test_samples_are_some_of_what_was_dropped_and_cut(tmp_path: Path) -> None:
    drops = [
        Drop("marked", "reddit", f"p{n}", f"RS:{n}", "too old", f"c{n}", 1, f"{n} " + "w" * 400)
        for n in range(100)
    ]
    forwards = _book(tmp_path / "a", [("drop", drop) for drop in drops]).samples["marked"]["too old"]
    backwards = _book(tmp_path / "b", [("drop", drop) for drop in drops[::-1]]).samples["marked"]["too old"]
    assert forwards == backwards
    assert len(forwards) == 8
    for sample in forwards:
        number = int(sample.post_id[1:])
        assert (sample.comment_id, sample.source, sample.origin) == (f"c{number}", "reddit", f"RS:{number}")
        assert sample.text == drops[number].text[:300]
    assert {sample.post_id for sample in forwards} != {f"p{n}" for n in range(8)}  # not simply the first


def test_a_rejection_is_told_with_its_record(tmp_path: Path) -> None:
    events = [
        ("reject", Rejected("in/RS_2018:12", "abc", "fields", "no title", "bad", "reddit")),
        ("reject", Rejected("v.info.json:x", "", "media", "media is gone", "gone", "youtube"), "videos"),
        ("reject", Rejected("RC:3", "", "media", "media is gone", "gone")),
    ]
    found = _book(tmp_path / "a", events)
    assert found.rejected == {
        "in/RS_2018": {"bad": {"no title": 1}},
        "videos": {"gone": {"media is gone": 1}},
        "RC": {"gone": {"media is gone": 1}},
    }
    assert found.gone_posts == 1  # the last is of no post
    first, second, _ = _lines(tmp_path / "a", REJECTED)
    assert first == {
        "file": "in/RS_2018", "record": 12, "id": "abc", "stage": "fields", "kind": "bad", "reason": "no title",
    }  # fmt: skip
    assert (second["file"], second["record"]) == ("v.info.json", 0)


def test_adding_leaves_the_other_as_it_was() -> None:
    first = Tally(records={"a": 1}, drops={"s": {"r": {"reddit": (1, 2)}}}, splits={"x_train": (1, 10)})
    second = Tally(records={"a": 2}, drops={"s": {"r": {"reddit": (3, 4)}}}, splits={"x_train": (2, 5)})
    found = total([first, second, first])
    assert (found.records, found.drops) == ({"a": 4}, {"s": {"r": {"reddit": (5, 8)}}})
    assert found.splits == {"x_train": (4, 25)}
    assert (first.records, first.drops) == ({"a": 1}, {"s": {"r": {"reddit": (1, 2)}}})
    assert total([]) == Tally()


def test_files_appear_when_they_are_whole_and_the_tally_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[str] = []
    replace = Path.replace

    def watched(self: Path, target: Any) -> Path:
        placed.append(str(target).removeprefix(str(tmp_path / "a")))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    with Ledger(tmp_path / "a") as ledger:
        ledger.read("reddit", 1, 2)
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            partial_of(f"a{suffix}").name for suffix in (DROPS, REJECTED)
        ]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"a{s}" for s in (DROPS, REJECTED, TALLY))
    assert placed[-1] == TALLY
    assert load(tmp_path / f"a{TALLY}") == ledger.tally == Tally(read={"reddit": (1, 2)})


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_after_an_error(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), Ledger(tmp_path / "a") as ledger:
        ledger.drop(Drop("marked", "reddit", "p", "RS:1", "too old"))
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_tally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> bytes:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"), Ledger(tmp_path / "a") as ledger:
        ledger.records("RS", "reddit_posts", 3)
        monkeypatch.setattr(tally.msgspec.json, "encode", full)
    assert not (tmp_path / f"a{TALLY}").exists()
