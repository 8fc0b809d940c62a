"""Streaming of JSON objects out of whole, broken and compressed files."""

from __future__ import annotations

import codecs
import gzip
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.errors import UserError
from input_pipeline.sources import fields, lines, llava_json, media, reddit, reddit_api, text
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Reply

_ROWS = [{"id": str(i), "text": "é" * i} for i in range(5)]
_NDJSON = "".join(json.dumps(row) + "\n" for row in _ROWS).encode()


def _good(items: list) -> list:
    return [item[1] for item in items if not isinstance(item, Rejected)]


def _bad(items: list) -> list[tuple[str, str]]:
    return [(item.origin.rpartition("/")[2], item.reason) for item in items if isinstance(item, Rejected)]


def test_plain_gz_and_long_window_zst_give_the_same(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=31)
    compressed = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    contents = {
        "a.ndjson": _NDJSON,
        "a.gz": gzip.compress(_NDJSON),
        "a.zst": compressed.compress(_NDJSON) + compressed.flush(),
    }
    with pytest.raises(zstandard.ZstdError):  # or the file would prove nothing about the window
        zstandard.ZstdDecompressor().decompressobj().decompress(contents["a.zst"])
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
        items: list[Any] = list(lines.read_objects(tmp_path / name))
        assert _good(items) == _ROWS, name
        assert [item[0] for item in items] == [f"{tmp_path / name}:{n}" for n in range(1, 6)]


def test_each_bad_line_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b'\xef\xbb\xbf{"a":1}\n\n{"a":\n[1]\n\xff\xfe{}\n' + b"[" * 100_000 + b'\n{"a":2}')
    items = list(lines.read_objects(path))
    assert _good(items) == [{"a": 1}, {"a": 2}]
    assert _bad(items) == [
        ("a.ndjson:3", "line is not JSON"),
        ("a.ndjson:4", "line is not a JSON object"),
        ("a.ndjson:5", "line is not UTF-8"),
        ("a.ndjson:6", "line is not JSON"),
    ]


def test_an_overlong_line_is_skipped_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_MAX_LINE", 16)
    path = tmp_path / "a.ndjson"
    path.write_bytes(b'{"a":1}\n' + b"x" * 100 + b'\n{"a":2}\n' + b'{"a":"345678"}\n')
    items = list(lines.read_objects(path))
    assert _good(items) == [{"a": 1}, {"a": 2}, {"a": "345678"}]
    assert _bad(items) == [("a.ndjson:2", "line is too long")]


@pytest.mark.parametrize("suffix", ["zst", "gz"])
def test_a_cut_compressed_file_yields_what_it_can(tmp_path: Path, suffix: str) -> None:
    many = b"".join(json.dumps({"n": i, "x": str(hash((i, 7)))}).encode() + b"\n" for i in range(20_000))
    whole = zstandard.compress(many) if suffix == "zst" else gzip.compress(many)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(whole[: len(whole) // 2])
    items = list(lines.read_objects(path))
    rejected = [item for item in items if isinstance(item, Rejected)]
    assert [item.reason for item in rejected] == ["compressed file is broken: all after this line is lost"]
    assert _good(items)[:100] == [json.loads(line) for line in many.splitlines()[:100]]


def test_frames_follow_each_other_and_a_cut_last_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.zst"
    frames = [zstandard.compress(b'{"n": %d}\n' % n) for n in range(3)]
    path.write_bytes(b"".join(frames))
    assert _good(list(lines.read_objects(path))) == [{"n": 0}, {"n": 1}, {"n": 2}]
    path.write_bytes(b"".join(frames)[:-1])
    *_, last = lines.read_objects(path)
    assert isinstance(last, Rejected)
    assert "broken" in last.reason


@pytest.mark.parametrize("suffix", ["zst", "gz"])
def test_a_cut_compressed_list_yields_what_it_can(tmp_path: Path, suffix: str) -> None:
    text = json.dumps([{"id": str(n), "x": str(hash((n, 7)))} for n in range(20_000)]).encode()
    whole = zstandard.compress(text) if suffix == "zst" else gzip.compress(text)
    path = tmp_path / f"a.json.{suffix}"
    path.write_bytes(whole[: len(whole) // 2])
    *good, last = lines.read_list(path)
    assert isinstance(last, Rejected)
    assert "broken" in last.reason
    assert len(good) > 100


def _cuts(data: bytes) -> dict[str, bytes]:
    return {"a.ndjson": data, "a.gz": gzip.compress(data), "a.zst": zstandard.compress(data)}


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.binary(max_size=12).map(lambda row: b"{" + row.replace(b"\n", b"")), max_size=12),
    ended=st.booleans(),
    chunk=st.integers(1, 30),
    limit=st.integers(4, 20),
)
def test_raw_lines_are_those_of_the_file_whatever_the_chunks(
    tmp_path_factory, rows, ended, chunk, limit
) -> None:
    folder = tmp_path_factory.mktemp("raw")
    original = lines._CHUNK, lines._BITE, lines._MAX_LINE
    lines._CHUNK, lines._BITE, lines._MAX_LINE = chunk, chunk, limit
    expected = [(n, row) if len(row) <= limit else n for n, row in enumerate(rows, 1)]
    try:
        for name, data in _cuts(b"\n".join(rows) + b"\n" * ended).items():
            (folder / name).write_bytes(data)
            items = list(lines.read_raw(folder / name))
            found = [int(i.origin.rpartition(":")[2]) if isinstance(i, Rejected) else i for i in items]
            assert found == expected, name
    finally:
        lines._CHUNK, lines._BITE, lines._MAX_LINE = original


@pytest.mark.parametrize("suffix", ["ndjson", "gz", "zst"])
def test_a_line_of_100_mb_is_never_held(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(_cuts(b'{"a":1}\n{' + b"x" * 100_000_000 + b'\n{"a":2}\n')[f"a.{suffix}"])
    tracemalloc.start()
    try:
        items = list(lines.read_raw(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [item for item in items if not isinstance(item, Rejected)] == [(1, b'{"a":1}'), (3, b'{"a":2}')]
    assert _bad(items) == [(f"a.{suffix}:2", "line is too long")]
    assert peak < 85e6


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_what_expands_a_thousandfold_does_not_fill_the_memory(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(_cuts(b"[" + b" " * 100_000_000 + b"]")[f"a.{suffix}"])
    tracemalloc.start()
    try:
        assert list(lines.read_list(path)) == []
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_an_element_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_MAX_LINE", 1000)
    monkeypatch.setattr(lines, "_CHUNK", 64)
    path = tmp_path / "a.json"
    path.write_text('[{"id": 1}, {"id": "' + "x" * 5000 + '"}, {"id": 3}]')
    items = list(lines.read_list(path))
    assert _good(items) == [{"id": 1}, {"id": 3}]
    assert _bad(items) == [("a.json:1", "element is too long")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("suffix", ["ndjson", "zst"])
def test_what_windows_writes_is_read(tmp_path: Path, encoding: str, suffix: str) -> None:
    mark = "\ufeff" if encoding.endswith("be") else ""
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(_cuts((mark + _NDJSON.decode()).replace("\n", "\r\n").encode(encoding))[f"a.{suffix}"])
    assert _good(list(lines.read_objects(path))) == _ROWS
    assert _good(list(lines.read_list(path))) == _ROWS


def test_a_cut_utf_16_file_loses_its_last_line_only(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(_NDJSON.decode().encode("utf-16")[:-7])
    items = list(lines.read_objects(path))
    assert _good(items) == _ROWS[:-1]
    assert _bad(items) == [("a.ndjson:5", "line is not JSON")]


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=200), suffix=st.sampled_from(["ndjson", "gz", "zst", "cut.gz", "cut.zst"]))
def test_no_bytes_raise(tmp_path_factory, data: bytes, suffix: str) -> None:
    path = tmp_path_factory.mktemp("any") / f"a.{suffix}"
    path.write_bytes(_cuts(data)[f"a.{suffix[4:]}"][:-3] if suffix.startswith("cut.") else data)
    for items in (list(lines.read_raw(path)), list(lines.read_objects(path)), list(lines.read_list(path))):
        assert all(item.reason for item in items if isinstance(item, Rejected))
    if suffix.startswith("cut."):
        assert isinstance(items[-1], Rejected)


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_cut_anywhere_keeps_what_came_before(tmp_path: Path, suffix: str) -> None:
    noise = random.Random(0)
    rows = [{"n": n, "x": f"{noise.getrandbits(256):x}"} for n in range(3000)]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    whole = _cuts(data)[f"a.{suffix}"]
    path = tmp_path / f"a.{suffix}"
    for share in (0.7, 0.9, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        items = list(lines.read_objects(path))
        good = _good(items)
        assert good == rows[: len(good)]
        # A zstd frame gives whole blocks of 128 KiB only.
        assert len(good) > share * len(rows) - 128 * 1024 / (len(data) / len(rows)) - 2
        assert _bad(items) == [
            (f"a.{suffix}:{len(good) + 1}", "compressed file is broken: all after this line is lost")
        ]


def test_padding_after_a_gzip_member_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"{}\n") + b"\0" * 100 + gzip.compress(b"{}") + b"\0" * 9)
    assert _good(list(lines.read_objects(path))) == [{}, {}]
    path.write_bytes(gzip.compress(b"{}\n") + b"junk")
    assert [isinstance(item, Rejected) for item in lines.read_objects(path)] == [False, True]


def test_open_bytes_gives_the_bytes_as_they_are(tmp_path: Path) -> None:
    data = b"\xff\xfe" + random.Random(0).randbytes(3_000_000)
    for name, packed in _cuts(data).items():
        (tmp_path / name).write_bytes(packed)
        with lines.open_bytes(tmp_path / name) as file:
            assert file.read(5) + file.read() == data


def test_lists_that_follow_each_other_are_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1, 2]\n[]\n[[3], 4]\n")
    assert list(lines.read_list(path)) == [
        (f"{path}:{index}", value) for index, value in enumerate([1, 2, [3], 4])
    ]
    path.write_text("[1] and so on")
    assert _bad(list(lines.read_list(path))) == [("a.json:1", "text after the end of the list")]


def test_a_missing_file_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.ndjson: no such file"):
        list(lines.read_objects(tmp_path / "no.ndjson"))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_OBJECTS = st.lists(st.dictionaries(st.text(max_size=5), _JSON, max_size=4), max_size=8)


@settings(max_examples=60, deadline=None)
@given(rows=_OBJECTS, indent=st.sampled_from([None, 1]), chunk=st.integers(1, 40), as_lines=st.booleans())
def test_any_list_is_read_whatever_the_chunks(tmp_path_factory, rows, indent, chunk, as_lines) -> None:
    path = tmp_path_factory.mktemp("list") / "a.json"
    if as_lines and rows:
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        path.write_text(json.dumps(rows, indent=indent))
    original = lines._CHUNK
    lines._CHUNK = chunk
    try:
        items: list[Any] = list(lines.read_list(path))
    finally:
        lines._CHUNK = original
    assert _good(items) == rows
    assert _bad(items) == []
    assert [item[0] for item in items] == [f"{path}:{i}" for i in range(len(rows))]


def test_a_broken_element_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"id": "1", "x": 1}, {"id": "2", "x": ], "y": tru}, {"id": "3", "x": 3}]')
    items = list(lines.read_list(path))
    assert _good(items) == [{"id": "1", "x": 1}, {"id": "3", "x": 3}]
    assert _bad(items) == [("a.json:1", "element is not JSON")]


def test_a_cut_list_yields_its_whole_elements(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"id": "1"}, {"id": "2", "text": "unfinis')
    items = list(lines.read_list(path))
    assert _good(items) == [{"id": "1"}]
    assert _bad(items) == [("a.json:1", "element is not JSON")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "file is empty"), ("<html>", "file is neither a JSON list nor JSON lines")],
)
def test_what_is_no_list_says_so(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    assert _bad(list(lines.read_list(path))) == [("a.json:0", reason)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3),
        (3.9, 3),
        ("12", 12),
        ("x", None),
        (None, None),
        (True, None),
        (float("nan"), None),
        ([1], None),
        (10**30, None),  # msgspec could not write it
        ("1e30", None),
        (2**53, 2**53),
        (-5, -5),
    ],
)
def test_integers_of_all_types(value: object, expected: int | None) -> None:
    assert fields.integer({"n": value}, "n") == expected


def test_text_is_always_encodable() -> None:
    assert fields.text({"t": "a\ud800b"}, "t") == "a?b"
    assert fields.text({"t": 7}, "t") == "7"
    assert fields.text({"t": None}, "t") is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.5, 1.5), ("1514764800", 1514764800.0), (-1, None), (1e15, None), (10**400, None), (None, None)],
)
def test_times(value: object, expected: float | None) -> None:
    assert fields.as_time(value) == expected


def test_escapes_are_undone_unless_they_are_absurd() -> None:
    assert fields.unescape("a &gt; b &amp; c") == "a > b & c"
    absurd = "&#" + "9" * 5000 + ";"
    assert fields.unescape(absurd) == absurd


@settings(max_examples=200)
@given(value=_JSON | st.floats() | st.integers() | st.text(st.characters()))
def test_no_value_raises(value: object) -> None:
    text, number, integer = fields.as_text(value), fields.as_number(value), fields.as_integer(value)
    assert text is None or text.encode("utf-8") is not None
    assert number is None or abs(number) < float("inf")
    assert integer is None or abs(integer) <= 2**53
    assert fields.as_flag(value) in (True, False)
    assert fields.as_time(value) is None or number == fields.as_time(value)


def test_origins_can_be_written_whatever_the_name_of_the_file(tmp_path: Path) -> None:
    """Names in other encodings than UTF-8 come with lone surrogates, which no file of ours can hold."""
    path = tmp_path / "caf\udce9.json"
    path.write_text('{"text": "one", "link_id": "t3_x", "id": "c", "body": "words"}\nbroken\n')
    found = [
        *lines.read_objects(path),
        *lines.read_list(path),
        *reddit.read_comments(path),
        *reddit.read_submissions(path, media.Library(tmp_path / "none.sqlite")),
        *reddit_api.read(path, media.Library(tmp_path / "none.sqlite")),
        *text.read(path),
        *llava_json.read(path, tmp_path),
    ]
    assert len(found) == 14
    assert all("caf?.json" in repr(item) for item in found if not isinstance(item, Reply))
    repr(found).encode()


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_the_head_of_a_file(tmp_path: Path, mark: bytes) -> None:
    data = mark + b' \n[{"a": 1}]'
    (tmp_path / "a.json").write_bytes(data)
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(data, mtime=0)[:-3])
    (tmp_path / "b.json").write_bytes(data.decode("utf-8-sig").encode("utf-16"))
    for name in ("a.json", "a.json.gz", "b.json"):
        assert lines.head(tmp_path / name, 12).startswith(b"[{")
    with pytest.raises(UserError, match="no such file"):
        lines.head(tmp_path / "none.json", 9)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, True), (1, True), (1.0, True), (" Yes", True), ("true", True), ("1", True), (False, False), (2, False),
     (float("nan"), False), ("no", False), ([1], False), (None, False)],
)  # fmt: skip
def test_flags(value: Any, expected: bool) -> None:
    assert fields.as_flag(value) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [("2021-01-31", 1612051200.0), (20210131, 1612051200.0), ("2021-01-31T01:00:00+01:00", 1612051200.0),
     ("0001-01-01T00:00:00+23:59", None), ("soon", None), (5, None), (None, None), ([], None)],
)  # fmt: skip
def test_dates(value: Any, expected: float | None) -> None:
    assert fields.as_date(value) == expected
