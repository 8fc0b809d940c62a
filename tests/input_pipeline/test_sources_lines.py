"""Streaming of JSON objects out of whole, broken and compressed files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.errors import UserError
from input_pipeline.sources import fields, lines
from input_pipeline.sources.rejected import Rejected

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
        items = list(lines.read_objects(tmp_path / name))
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
        items = list(lines.read_list(path))
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
    ],
)
def test_integers_of_all_types(value: object, expected: int | None) -> None:
    assert fields.integer({"n": value}, "n") == expected


def test_text_is_always_encodable() -> None:
    assert fields.text({"t": "a\ud800b"}, "t") == "a?b"
    assert fields.text({"t": 7}, "t") == "7"
    assert fields.text({"t": None}, "t") is None
