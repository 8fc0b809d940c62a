"""BLIFT from parquet and JSON, whole and broken."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from input_pipeline.errors import UserError
from input_pipeline.sources import blift, cells, media, rows
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Post

_SCHEMA = pa.schema(
    {
        "url": pa.string(),
        "permalink": pa.string(),
        "comments": pa.list_(pa.string()),
        "num_comments": pa.int64(),
        "subreddit": pa.string(),
        "title": pa.string(),
    }
)
_ROW: dict[str, Any] = {
    "url": "https://i.redd.it/sea.jpg?width=640&amp;s=1",
    "permalink": "/r/pics/comments/abc12/the_sea/",
    "comments": ["so blue &amp; wide", None, "[deleted]"],
    "num_comments": 3,
    "subreddit": "pics",
    "title": " The &lt;sea&gt; ",
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> media.Library:
    folder = tmp_path_factory.mktemp("media")
    for name in ("sea.jpg", "dQw4w9WgXcQ.jpg"):
        (folder / name).write_bytes(b"x")
    return media.build([folder], tmp_path_factory.mktemp("index") / "media.sqlite")


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema = _SCHEMA, **options: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, schema), path, **options)
    return path


def test_parquet_and_json_give_the_same_posts(tmp_path: Path, library: media.Library) -> None:
    row = {**_ROW, "permalink": "https://www.reddit.com/r/videos/comments/Xy_9?ref=1", "comments": None}
    rows = [_ROW, {**row, "url": "https://www.youtube.com/watch?a=b&v=dQw4w9WgXcQ"}, {**row, "url": None}]
    _write(tmp_path / "a.parquet", rows)
    (tmp_path / "a.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.json").write_text(json.dumps(rows))
    read = [list(blift.read(tmp_path / name, library)) for name in ("a.parquet", "a.json", "b.json")]
    first, second, third = read[0]
    assert isinstance(first, Post)
    assert isinstance(second, Post)
    assert isinstance(third, Post)
    assert (first.id, first.source, first.title, first.community) == ("abc12", "reddit", "The <sea>", "pics")
    assert first.origin == f"{tmp_path}/a.parquet:1"
    assert [media.name_of(reference) for reference in first.media] == ["sea.jpg"]
    assert [(c.id, c.text, c.score) for c in first.comments] == [
        ("abc12#0", "so blue & wide", None),
        ("abc12#2", "[deleted]", None),
    ]
    assert (first.likes, first.like_rate, first.created) == (None, None, None)
    assert (second.id, second.comments) == ("Xy_9", ())
    assert [media.name_of(reference) for reference in second.media] == ["dQw4w9WgXcQ.jpg"]
    assert third.media == ()
    for others in read[1:]:
        assert [msgspec.structs.replace(p, origin="") for p in others if isinstance(p, Post)] == [
            msgspec.structs.replace(p, origin="") for p in read[0] if isinstance(p, Post)
        ]


def test_what_people_add_is_taken(tmp_path: Path, library: media.Library) -> None:
    when = datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC)
    more = {
        "ups": 7, "likes": 9, "upvote_ratio": 0.93, "created_utc": when.replace(tzinfo=None), "over_18": True,
        "author": "ann", "title": "[deleted by user]", "image": b"\xff" * 9, "price": decimal.Decimal("1.5"),
    }  # fmt: skip
    pq.write_table(pa.Table.from_pylist([{**_ROW, **more}]), tmp_path / "a.parquet")
    (post,) = blift.read(tmp_path / "a.parquet", library)
    wanted = {
        "likes": 7, "like_rate": 0.93, "created": when.timestamp(), "nsfw": True, "author": "ann",
        "removed": "title",
    }  # fmt: skip
    assert {key: getattr(post, key) for key in wanted} == wanted
    (item,) = rows.read(tmp_path / "a.parquet")
    assert not isinstance(item, Rejected)
    assert item[1]["price"] == 1.5


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        ({"permalink": "/r/pics/"}, "bad", "permalink without a post id"),
        ({"permalink": None}, "bad", "permalink without a post id"),
        ({"title": None}, "bad", "post without a title"),
        ({"comments": "one"}, "bad", "comments are not a list"),
        ({"url": "https://i.redd.it/none.jpg"}, "gone", "media is gone"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path, library: media.Library, change: Any, kind: str, reason: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({**_ROW, **change}) + "\n" + json.dumps(_ROW))
    first, second = blift.read(path, library)
    assert isinstance(first, Rejected)
    assert (first.kind, first.reason, first.source, first.origin) == (kind, reason, "reddit", f"{path}:1")
    assert isinstance(second, Post)


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_missing_columns_are_the_users_mistake(tmp_path: Path, library: media.Library, name: str) -> None:
    row = {"title": "x", "link": "y"}
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / name)
    else:
        (tmp_path / name).write_text(json.dumps(row))
    with pytest.raises(UserError, match=r"no column url, permalink, comments; it has title, link"):
        list(blift.read(tmp_path / name, library))


def test_files_that_are_none_of_these(tmp_path: Path, library: media.Library) -> None:
    for name, message in (
        ("no.parquet", "no such file"),
        ("a.txt", "unknown format"),
        ("a.parquet.gz", "unpack"),
    ):
        with pytest.raises(UserError, match=message):
            list(blift.read(tmp_path / name, library))
    path = tmp_path / "a.parquet"
    for data in (b"", b"PAR1", b"nothing of it" * 100):
        path.write_bytes(data)
        assert list(blift.read(path, library)) == [Rejected(f"{path}:0", "", "read", "file is not parquet")]


def test_a_broken_row_group_gives_what_is_before_and_loses_no_other(
    tmp_path: Path, library: media.Library
) -> None:
    rows = [{**_ROW, "permalink": f"/comments/p{n}/", "title": f"{n:x>400}"} for n in range(60)]
    options = dict(
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        data_page_size=1000,
        write_batch_size=2,
    )
    path = _write(tmp_path / "a.parquet", rows, row_group_size=20, write_page_checksum=True, **options)
    data = path.read_bytes()
    at = data.index(f"{35:x>400}".encode()) + 50
    path.write_bytes(data[:at] + b"?" + data[at + 1 :])
    items = list(blift.read(path, library, batch_rows=4))
    (bad,) = [item for item in items if isinstance(item, Rejected)]
    assert bad.reason == "the rest of a row group is broken"
    lost = int(bad.origin.rpartition(":")[2]) - 1
    assert 24 <= lost <= 35  # the rest of group 20 to 39, from the page or batch of the damage
    assert items.index(bad) == lost
    good = [(item.id, item.origin) for item in items if isinstance(item, Post)]
    assert good == [(f"p{n}", f"{path}:{n + 1}") for n in (*range(lost), *range(40, 60))]


def test_a_row_that_cannot_be_decoded_is_named(tmp_path: Path, library: media.Library) -> None:
    texts = pa.array([b"fine", b"\xff\xfe", b"good"], pa.binary()).cast(pa.string(), safe=False)
    table = pa.Table.from_pylist([_ROW] * 3, _SCHEMA).drop_columns("title").append_column("title", texts)
    pq.write_table(table, tmp_path / "a.parquet")
    items = list(blift.read(tmp_path / "a.parquet", library))
    assert [item.title if isinstance(item, Post) else (item.origin, item.reason) for item in items] == [
        "fine",
        (f"{tmp_path}/a.parquet:2", "row cannot be decoded"),
        "good",
    ]


def test_a_broken_page_does_not_take_all_memory(tmp_path: Path, library: media.Library) -> None:
    path = _write(tmp_path / "a.parquet", [_ROW] * 9, compression="none", use_dictionary=False)
    sound = path.read_bytes()
    pool = pa.default_memory_pool()
    peak = pool.max_memory() or 0  # of all that ran before
    for at in range(4, 60):  # in and around the head of the first page, where its size stands
        path.write_bytes(sound[:at] + b"\xfe\xff\xff\xff\x0f" + sound[at + 5 :])
        assert list(blift.read(path, library))
    assert (pool.max_memory() or 0) < max(peak, 2**23) + 1


def test_large_row_groups_are_read_through_a_buffer(
    tmp_path: Path, library: media.Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(
        tmp_path / "a.parquet", [{**_ROW, "title": f"{n:x>400}"} for n in range(300)], use_dictionary=False
    )
    sound = list(blift.read(path, library))
    sizes: list[int] = []
    opened = pq.ParquetFile
    monkeypatch.setattr(
        pq, "ParquetFile", lambda raw, **o: sizes.append(o.get("buffer_size", 0)) or opened(raw, **o)
    )
    monkeypatch.setattr(rows, "_LARGE_GROUP", 100)
    assert list(blift.read(path, library)) == sound
    assert max(sizes) > 0


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_list_is_one_in_any_encoding(tmp_path: Path, library: media.Library, encoding: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([_ROW, _ROW], indent=1), encoding)
    assert [post.id for post in blift.read(path, library) if isinstance(post, Post)] == ["abc12"] * 2


def test_no_more_than_the_batch_is_decoded_ahead(
    tmp_path: Path, library: media.Library, monkeypatch: Any
) -> None:
    path = _write(tmp_path / "a.parquet", [_ROW] * 50)
    sizes: list[int] = []
    decode = rows._decoded
    monkeypatch.setattr(rows, "_decoded", lambda batch: sizes.append(batch.num_rows) or decode(batch))
    next(iter(blift.read(path, library, batch_rows=8)))
    assert sizes == [8]
    assert len(list(blift.read(path, library, batch_rows=8))) == 50


@pytest.mark.parametrize(
    ("link", "name"),
    [
        ("https://youtu.be/dQw4w9WgXcQ?t=3", "dQw4w9WgXcQ"),
        ("http://m.youtube.com/watch?feature=share&v=dQw4w9WgXcQ#t=1", "dQw4w9WgXcQ"),
        ("https://www.youtube.com/shorts/dQw4w9WgXcQ", "dQw4w9WgXcQ"),
        ("youtube.com/attribution_link?a=x&u=%2Fwatch%3Fv%3DdQw4w9WgXcQ%26feature", "dQw4w9WgXcQ"),
        ("https://notyoutube.com/watch?v=dQw4w9WgXcQ", "watch"),
        ("https://imgur.com/a/b.jpg?x=/c.png", "b.jpg"),
        ("folder\\cat.jpg", "cat.jpg"),
        ("https://[broken", ""),
        ("", ""),
    ],
)
def test_what_a_link_names(link: str, name: str) -> None:
    assert cells.media_name(link) == name


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(5, 5.0), ("5.5", 5.5), ("2021-01-31", 1612051200.0), ("20210131", 1612051200.0),
     ("2021-01-31T01:00:00+01:00", 1612051200.0), ("0001-01-01", None), ("soon", None), (float("nan"), None)],
)  # fmt: skip
def test_times(value: Any, seconds: float | None) -> None:
    assert cells.seconds_since_epoch({"t": value}, "t") == seconds


_junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None))
    | st.just("&#" + "9" * 5000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
_keys = st.sampled_from([*blift.NEEDED, *blift.OPTIONAL])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(_keys, _junk) | _junk, max_size=6))
def test_no_json_raises_and_every_line_is_told_of(
    tmp_path: Path, library: media.Library, records: list[Any]
) -> None:
    path = tmp_path / "a.jsonl"
    found = [json.dumps(_ROW)] + [json.dumps({**_ROW, **r} if isinstance(r, dict) else r) for r in records]
    path.write_text("\n".join(found))
    items = list(blift.read(path, library))
    assert len(items) == len(found)
    for item in items:
        msgspec.json.encode(item)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_parquet_raises(tmp_path: Path, library: media.Library, data: st.DataObject) -> None:
    content = bytearray(
        _write(tmp_path / "a.parquet", [_ROW] * 9, row_group_size=3, write_page_checksum=True).read_bytes()
    )
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a.parquet").write_bytes(content)
    try:
        items = list(blift.read(tmp_path / "a.parquet", library))
    except UserError as error:  # the name of a column may be hit
        assert "no column" in str(error)
    else:
        assert items
