"""Rows in buckets on disk: each comes back once, in its bucket, in order; a file is whole or not there."""

from __future__ import annotations

import struct
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.behavior import spill
from input_pipeline.behavior.spill import Gone, PostLog, Row, SpecRow, Writer, bucket_of, order_of
from input_pipeline.partial import partial_of
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Comment, Post, Reply, Scene, Span

_BROKEN = (OSError, ValueError, OverflowError, struct.error, zstandard.ZstdError)

_TEXT = st.text(max_size=20)
_TIME = st.none() | st.floats(allow_nan=False, allow_infinity=False)
_COMMENT = st.builds(
    Comment, _TEXT, _TEXT, st.none() | _TEXT, st.none() | st.integers(-(2**63), 2**63 - 1), _TIME
)
_POST = st.builds(
    Post,
    id=_TEXT,
    source=st.sampled_from(["reddit", "youtube", "other"]),
    title=_TEXT,
    origin=_TEXT,
    media=st.lists(_TEXT, max_size=2).map(tuple),
    created=_TIME,
    nsfw=st.booleans(),
    views=st.none() | st.integers(0, 2**40),
    comments=st.lists(_COMMENT, max_size=3).map(tuple),
    replay=st.lists(st.builds(Span, st.just(0.5), st.just(1.0), st.just(0.25)), max_size=2).map(tuple),
    scenes=st.lists(st.builds(Scene, _TEXT, tags=st.lists(_TEXT, max_size=2).map(tuple)), max_size=2).map(
        tuple
    ),
)
_ROW: st.SearchStrategy[Any] = st.one_of(
    _POST,
    st.builds(Reply, _TEXT, _TEXT, _COMMENT),
    st.builds(Gone, _TEXT, _TEXT, _TEXT, _TEXT, _TEXT),
    st.builds(SpecRow, _TEXT, _TEXT, _TEXT, st.dictionaries(_TEXT, st.lists(_TEXT, max_size=2), max_size=2)),
)


def _write(path: Path, buckets: int, rows: list[tuple[int, Row]]) -> None:
    with Writer(path, buckets) as out:
        for bucket, row in rows:
            out.add(bucket, row)


def _reply(number: int, text: str = "x") -> Reply:
    return Reply("reddit", "p", Comment(f"c{number}", text))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), _ROW), max_size=12), st.sampled_from([1, 100, 2**25]))
def test_rows_come_back_by_bucket_in_order(rows: list[tuple[int, Row]], room: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill, "_BUFFER", room)
        path = Path(folder) / "a.rows"
        _write(path, 4, rows)
        for bucket in range(4):
            assert list(spill.read(path, bucket)) == [row for home, row in rows if home == bucket]
        assert list(spill.read(path, 4)) == []
        assert [file.name for file in Path(folder).iterdir()] == ["a.rows"]


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    _write(tmp_path / "a.rows", 3, [])
    assert [list(spill.read(tmp_path / "a.rows", bucket)) for bucket in range(3)] == [[], [], []]


def test_rows_wait_together_and_not_beyond_the_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "_BUFFER", 10_000)
    with Writer(tmp_path / "a.rows", 4) as out:
        for number in range(1000):
            out.add(number % 4, _reply(number, "some words to make it longer"))
            assert out._size <= 10_000
        assert out._index  # some blocks are written, of many rows each
        assert all(len(blocks) < 10 for blocks in out._index.values())
    found = list(spill.read(tmp_path / "a.rows", 2))
    assert found == [_reply(number, "some words to make it longer") for number in range(2, 1000, 4)]


def test_a_rejection_of_media_keeps_what_is_counted() -> None:
    item = Rejected("RS:7", "p", "media", "media is gone", "gone", "reddit")
    gone = Gone.of(item)
    assert (gone.source, gone.id, gone.origin, gone.reason) == ("reddit", "p", "RS:7", "media is gone")


# --- the order ------------------------------------------------------------------------------------


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(1, 1024))
def test_buckets_are_ranges_of_the_order(a: int, b: int, buckets: int) -> None:
    low, high = sorted((a, b))
    assert 0 <= bucket_of(low, buckets) <= bucket_of(high, buckets) < buckets


@pytest.mark.parametrize("buckets", [1, 2, 7, 1024])
def test_the_whole_order_is_divided_evenly(buckets: int) -> None:
    for bucket in range(buckets):
        assert bucket_of((2 * bucket + 1) * 2**63 // buckets, buckets) == bucket
    assert (bucket_of(0, buckets), bucket_of(2**64 - 1, buckets)) == (0, buckets - 1)


def test_the_order_is_the_same_on_every_machine() -> None:
    # These places decide which record is where: other values would make another data set of the same input.
    assert order_of("reddit/abc", 0) == 8821590123693998424
    assert len({order_of(key, seed) for key in ("reddit/abc", "reddit/abd", "") for seed in (0, 1)}) == 6


def test_keys_spread_over_the_buckets() -> None:
    counts = Counter(bucket_of(order_of(f"reddit/{number}", 0), 8) for number in range(8000))
    assert len(counts) == 8
    assert all(850 < count < 1150 for count in counts.values())


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_nothing_is_left_after_an_error(
    tmp_path: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill, "_BUFFER", 1)
    with pytest.raises(error), Writer(tmp_path / "a.rows", 2) as out:
        out.add(0, _reply(0))
        assert [path.name for path in tmp_path.iterdir()] == [partial_of("a.rows").name]
        raise error
    with pytest.raises(error), PostLog(tmp_path / "a.posts") as log:
        log.add(Post("p", "reddit", "t", "f:1"))
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_an_earlier_file_as_it_was(tmp_path: Path) -> None:
    _write(tmp_path / "a.rows", 1, [(0, _reply(0))])
    with pytest.raises(RuntimeError), Writer(tmp_path / "a.rows", 1) as out:
        out.add(0, _reply(1))
        raise RuntimeError
    assert list(spill.read(tmp_path / "a.rows", 0)) == [_reply(0)]


def test_a_cut_file_is_never_read_as_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "a.rows"
    _write(path, 2, [(number % 2, _reply(number)) for number in range(20)])
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(_BROKEN):
            list(spill.read(path, 0))


# --- posts by their place -------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(_POST, max_size=6), st.randoms())
def test_posts_are_found_by_their_place(posts: list[Post], random: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.posts"
        with PostLog(path) as log:
            placed = [(log.add(post), post) for post in posts]
        random.shuffle(placed)
        assert [spill.read_post(path, place) for place, _ in placed] == [post for _, post in placed]
        assert list(spill.read_posts(path, [place for place, _ in placed])) == [post for _, post in placed]
        assert [file.name for file in Path(folder).iterdir()] == ["a.posts"]


def test_a_cut_log_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.posts"
    with PostLog(path) as log:
        place = log.add(Post("p", "reddit", "a title of some words", "f:1"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(_BROKEN):
        spill.read_post(path, place)
    with pytest.raises(_BROKEN):
        list(spill.read_posts(path, [place]))
