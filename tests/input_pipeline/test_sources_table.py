"""Tables of anybody's own columns."""

from __future__ import annotations

import csv
import gzip
import io
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
from input_pipeline.sources import media, table
from input_pipeline.sources.rejected import Rejected
from input_pipeline.sources.table import Columns
from input_pipeline.types import Comment, Post, Reply, Span

_FLAT = {
    "id": "p1", "title": "Sea", "media": "https://x.org/sea.png?w=1", "community": "pics", "author": "ann",
    "created": "2021-01-31", "nsfw": "true", "likes": "30", "views": "1200", "duration": "10", "url": "https://x.org",
    "description": "blue", "categories": "a, b", "asr": "waves", "replay": "[0.5, 1]",
    "comments": '["so blue", {"text": "wet", "score": 3, "author": "bob", "id": "c9"}]',
}  # fmt: skip


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> media.Library:
    folder = tmp_path_factory.mktemp("media")
    for name in ("sea.jpg", "dQw4w9WgXcQ.jpg"):
        (folder / name).write_bytes(b"x")
    return media.build([folder], tmp_path_factory.mktemp("index") / "media.sqlite")


def _csv(rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _rows(path: Path, content: str | bytes) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    items = list(table.rows(path))
    bad = [(item.origin.rpartition(":")[2], item.reason) for item in items if isinstance(item, Rejected)]
    return [item[1] for item in items if not isinstance(item, Rejected)], bad


def test_all_formats_give_the_same_post(tmp_path: Path, library: media.Library) -> None:
    nested = {**_FLAT, **{key: json.loads(_FLAT[key]) for key in ("replay", "comments")}, "nsfw": True,
              "likes": 30, "views": 1200, "duration": 10.0, "categories": ["a", "b"]}  # fmt: skip
    nested["comments"] = [{"text": "so blue"}, nested["comments"][1]]
    contents = {
        "a.csv": _csv([_FLAT]).encode(),
        "a.tsv": _csv([_FLAT], "\t").encode("utf-16"),
        "a.csv.gz": gzip.compress(_csv([_FLAT]).encode()),
        "a.jsonl": json.dumps(nested).encode(),
        "a.json": json.dumps([nested]).encode(),
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    pq.write_table(pa.Table.from_pylist([nested]), tmp_path / "a.parquet")
    for name in (*contents, "a.parquet"):
        (post,) = table.read_posts(tmp_path / name, Columns(), library)
        assert isinstance(post, Post), (name, post)
        assert [media.name_of(reference) for reference in post.media] == ["sea.jpg"]
        assert msgspec.structs.replace(post, media=(), origin="") == Post(
            id="p1",
            source="other",
            title="Sea",
            origin="",
            community="pics",
            author="ann",
            created=1612051200.0,
            nsfw=True,
            likes=30,
            views=1200,
            like_rate=0.025,
            duration=10.0,
            comments=(Comment("p1#0", "so blue"), Comment("c9", "wet", "bob", 3)),
            url="https://x.org",
            description="blue",
            categories=("a", "b"),
            asr="waves",
            replay=(Span(0.0, 5.0, 0.5), Span(5.0, 10.0, 1.0)),
        ), name


def test_columns_are_mapped(tmp_path: Path, library: media.Library) -> None:
    (tmp_path / "a.csv").write_text("pid,headline,talk,likes\n1,Hi,one | two |,4\n")
    columns = Columns.from_config(
        {"id": "pid", "title": "headline", "comments": "talk", "comments_separator": "|"}
    )
    (post,) = table.read_posts(tmp_path / "a.csv", columns, library, "youtube")
    assert post == Post(
        id="1",
        source="youtube",
        title="Hi",
        origin=f"{tmp_path}/a.csv:2",
        likes=4,
        comments=(Comment("1#0", "one "), Comment("1#1", " two ")),
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"titel": "x"}, "no field 'titel'. Did you mean 'title'"),
        ({"title": 3}, "title=3 is not the name of a column"),
        ({"title": "headline"}, r"no column 'headline' \(for 'title'\); it has id, caption, x, x"),
        ({}, "no column for 'title' or 'media'; it has id, caption"),
        ({"title": "x"}, "more than one column 'x'"),
        ({"title": "caption", "post_id": "id"}, "'post_id' does not belong here"),
    ],
)
def test_mistakes_in_the_map_are_named(
    tmp_path: Path, library: media.Library, config: Any, message: str
) -> None:
    (tmp_path / "a.csv").write_text("id,caption,x,x\n1,2,3,4\n")
    with pytest.raises(UserError, match=message):
        table.read_posts(tmp_path / "a.csv", Columns.from_config(config), library)


def test_mistakes_in_the_path_are_named(tmp_path: Path, library: media.Library) -> None:
    for name, message in (
        ("no.csv", "no such file"),
        ("a.xlsx", "unknown format"),
        ("no.parquet", "no such file"),
    ):
        with pytest.raises(UserError, match=message):
            table.read_posts(tmp_path / name, Columns(), library)


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        ({"id": " "}, "bad", "row without an id"),
        ({"title": "", "media": ""}, "bad", "row without a title or media"),
        ({"media": "none.jpg"}, "gone", "media is gone"),
        ({"comments": "['a' 'b']"}, "bad", "comments look like a list but are not JSON"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(
    tmp_path: Path, library: media.Library, change: Any, kind: str, reason: str
) -> None:
    (tmp_path / "a.csv").write_text(_csv([{**_FLAT, **change}, _FLAT]))
    first, second = table.read_posts(tmp_path / "a.csv", Columns(), library)
    assert isinstance(first, Rejected)
    assert (first.kind, first.reason, first.source) == (kind, reason, "other")
    assert isinstance(second, Post)


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"media": ""}, "media", ()),
        ({"title": ""}, "title", ""),
        ({"like_rate": "0.5"}, "like_rate", 0.5),
        ({"like_rate": "50"}, "like_rate", 0.025),
        ({"likes": "many"}, "like_rate", None),
        ({"comments": "[removed]"}, "comments", (Comment("p1#0", "[removed]"),)),
        ({"comments": ""}, "comments", ()),
        ({"created": "1e99"}, "created", None),
        ({"created": "12.5"}, "created", 12.5),
        ({"nsfw": "no"}, "nsfw", False),
        ({"duration": "-1"}, "duration", None),
        (
            {"replay": '[{"start": 1, "end": 3, "value": 0.5}, {"start": 3, "end": 1, "value": 1}]'},
            "replay",
            (Span(1.0, 3.0, 0.5),),
        ),
    ],
)
def test_values(tmp_path: Path, library: media.Library, change: Any, field: str, value: Any) -> None:
    (tmp_path / "a.csv").write_text(_csv([{**_FLAT, **change}]))
    (post,) = table.read_posts(tmp_path / "a.csv", Columns(), library)
    assert getattr(post, field) == value


def test_media_may_be_a_list_of_names_and_links(tmp_path: Path, library: media.Library) -> None:
    names = ["a/sea.jpg", "none.jpg", "https://youtu.be/dQw4w9WgXcQ"]
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": 7.0, "media": names}))
    (post,) = table.read_posts(tmp_path / "a.jsonl", Columns(), library)
    assert isinstance(post, Post)
    assert post.id == "7"
    assert [media.name_of(reference) for reference in post.media] == ["sea.jpg", "dQw4w9WgXcQ.jpg"]


def test_comments_of_their_own_table(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("post_id,body,score,created\np1,nice,3,5\n,lost,1,\n")
    good, bad = table.read_comments(tmp_path / "c.csv", Columns({"text": "body"}), "reddit")
    assert good == Reply("reddit", "p1", Comment("p1#2", "nice", None, 3, 5.0))
    assert isinstance(bad, Rejected)
    assert (bad.reason, bad.source) == ("comment without a post id", "reddit")
    with pytest.raises(UserError, match="no column for 'text'; it has post_id, body"):
        table.read_comments(tmp_path / "c.csv", Columns())


# --- CSV ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path: Path, encoding: str, end: str) -> None:
    text = end.join([" id ,t", '1,"a,é\n""b"""', "", "2,😀"])
    assert _rows(tmp_path / "a.csv", text.encode(encoding)) == (
        [{"id": "1", "t": 'a,é\n"b"'}, {"id": "2", "t": "😀"}],
        [],
    )


def test_origins_are_the_first_lines_of_records(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,t\n1,"a\n\nb"\n\n2,c\n')
    assert [item[0] for item in table.rows(path) if not isinstance(item, Rejected)] == [
        f"{path}:2",
        f"{path}:6",
    ]


@pytest.mark.parametrize(
    ("content", "ids", "bad"),
    [
        (b"", "", [("0", "file is empty")]),
        (b"\n\n", "", [("0", "file is empty")]),
        (b"id,t\n1\n2,b\n3,c,d\n4,e\n", "24", [("2", "row has another number of fields than the header"),
                                              ("4", "row has another number of fields than the header")]),
        (b"id,t\n1,\xff\n2,b\n", "2", [("2", "row is not text in the file's encoding")]),
        (b"id,t,\xff\n1,b,\n", "1", []),
        (b"id,t\n1,a\0b\n\0\0\n2,c\n\0", "12", []),
        (b'id,t\n1,"a\n2,b\n3,c\n', "23", [("2", "quotes are not as CSV has them")]),
        (b'id,t\n1,"a\n2,"b"\n3,c\n', "23", [("2", "quotes are not as CSV has them")]),
        (b'id,t\n1,"a" b\n2,c\n', "2", [("2", "quotes are not as CSV has them")]),
        (b'"id,t\n1,a\n', "", [("1", "the header cannot be read")]),
    ],
)  # fmt: skip
def test_broken_records_lose_no_others(tmp_path: Path, content: bytes, ids: str, bad: Any) -> None:
    rows, rejected = _rows(tmp_path / "a.csv", content)
    assert "".join(row["id"] for row in rows) == ids
    assert rejected == bad


def test_tsv_without_quoting(tmp_path: Path) -> None:
    rows, bad = _rows(tmp_path / "a.tsv", 'id\tt\n1\t"Hi" he said\n2\t"quoted\there"\n3\tfive"\n4\t"open\n')
    assert [row["t"] for row in rows] == ['"Hi" he said', "quoted\there", 'five"', '"open']
    assert bad == []


def test_records_that_never_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_MAX_RECORD", 64)
    long_line = "2," + "x" * 200
    open_quote = '3,"' + "\n".join(f"{n},{'y' * 20}" for n in range(4, 9))
    rows, bad = _rows(tmp_path / "a.csv", "\n".join(["id,t", "1,a", long_line, open_quote, "9,z"]))
    assert [row["id"] for row in rows] == ["1", "5", "6", "7", "8", "9"]
    assert bad == [("3", "line is too long"), ("4", "quotes are not as CSV has them")]


def test_long_fields_are_read(tmp_path: Path) -> None:
    rows, bad = _rows(tmp_path / "a.csv", f'id,t\n1,"{"x" * 300_000}"\n')  # csv's own limit is 131072
    assert (len(rows[0]["t"]), bad) == (300_000, [])


def test_a_cut_compressed_file_gives_its_start(tmp_path: Path) -> None:
    data = gzip.compress("".join(["id,t\n", *(f"{n},{n * 7919 % 10007}\n" for n in range(20_000))]).encode())
    rows, bad = _rows(tmp_path / "a.csv.gz", data[: len(data) // 2])
    assert len(rows) > 5000
    assert [row["id"] for row in rows] == [str(n) for n in range(len(rows))]
    assert [reason for _, reason in bad] == ["compressed file is broken: all after this row is lost"]


_cell = st.text(max_size=6) | st.sampled_from(
    ['"', '""', ",", "\n", "\r", "\0", "[", "nan", "1e400", "9" * 5000, "[" * 9999, '{"a":[1]}', "[[1],{}]"]
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.sampled_from(list(_FLAT)), _cell), max_size=6))
def test_every_written_row_is_told_of(tmp_path: Path, library: media.Library, changes: list[Any]) -> None:
    (tmp_path / "a.csv").write_text(_csv([_FLAT, *({**_FLAT, **change} for change in changes)]), newline="")
    items = list(table.read_posts(tmp_path / "a.csv", Columns(), library))
    assert len(items) == 1 + len(changes)
    assert isinstance(items[0], Post)
    for item in items:
        msgspec.json.encode(item)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=60) | st.lists(_cell).map(lambda cells: "".join(cells).encode()),
    st.sampled_from(["csv", "tsv", "json"]),
)
def test_no_bytes_raise(tmp_path: Path, library: media.Library, data: bytes, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(
        (b"" if suffix == "json" else b"id\ttitle\n" if suffix == "tsv" else b"id,title\n") + data
    )
    try:
        items = list(table.read_posts(path, Columns(), library))
    except UserError:
        assert suffix == "json"  # objects without our keys
        return
    for item in items:
        msgspec.json.encode(item)


_junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=4)
    | _cell,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "start", "value", "x"]), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.dictionaries(st.sampled_from([*_FLAT, "like_rate"]), _junk, max_size=5) | _junk, max_size=5)
)
def test_no_json_raises(tmp_path: Path, library: media.Library, records: list[Any]) -> None:
    found = [_FLAT, *({**_FLAT, **record} if isinstance(record, dict) else record for record in records)]
    path = tmp_path / "b.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in found))
    items = list(table.read_posts(path, Columns(), library))
    assert len(items) == len(found)
    for item in items:
        msgspec.json.encode(item)
