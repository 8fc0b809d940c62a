"""Captions: the formats yt-dlp writes, rows that roll, and what is not said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from input_pipeline.sources import captions
from input_pipeline.sources.captions import CaptionsError, Line

# As YouTube writes an automatic track: each row comes in word by word, stays for a moment, and scrolls up. The
# third cue's new row has just two time tags; the fourth pair says the same again; then there is a pause. An empty
# row holds a blank, written ~ here.
_ROLLING = """WEBVTT
Kind: captions
Language: en

00:00:00.000 --> 00:00:02.000 align:start position:0%
~
so<00:00:00.500><c> here</c><00:00:01.000><c> we</c><00:00:01.500><c> go</c>

00:00:02.000 --> 00:00:02.010 align:start position:0%
so here we go
~

00:00:02.010 --> 00:00:04.000 align:start position:0%
so here we go
one<00:00:02.500><c> more</c><00:00:03.000><c> time</c>

00:00:04.000 --> 00:00:04.010 align:start position:0%
one more time
~

00:00:04.010 --> 00:00:06.000 align:start position:0%
one more time
one<00:00:04.500><c> more</c><00:00:05.000><c> time</c>

00:00:06.000 --> 00:00:06.010 align:start position:0%
one more time
~

00:00:10.000 --> 00:00:12.000 align:start position:0%
~
one<00:00:10.500><c> more</c><00:00:11.000><c> time</c>

00:00:12.000 --> 00:00:12.010 align:start position:0%
one more time
~

00:00:12.010 --> 00:00:13.000 align:start position:0%
one more time
&gt;&gt; 42
""".replace("~", " ")


def _said(text: str, format: str) -> str:
    return captions.transcript(captions.parse(text, format))


def test_rows_that_roll_count_once_and_words_said_twice_count_twice() -> None:
    assert _said(_ROLLING, "vtt") == "so here we go one more time one more time one more time 42"


def test_rolling_rows_turned_into_srt_count_once() -> None:
    cues = [
        ("00:00:00,000", "00:00:02,000", "alpha beta"),
        ("00:00:02,000", "00:00:02,010", "alpha beta"),
        ("00:00:02,010", "00:00:04,000", "alpha beta\ngamma"),
        ("00:00:04,000", "00:00:04,010", "gamma"),
    ]
    text = "".join(f"{n}\n{a} --> {b}\n{words}\n\n" for n, (a, b, words) in enumerate(cues, 1))
    assert _said(text, "srt") == "alpha beta gamma"
    assert (
        _said("1\n00:00:00,000 --> 00:00:02,000\nhi\n\n2\n00:00:02,000 --> 00:00:02,010\nhi\n", "srt") == "hi"
    )


def test_rows_that_people_repeat_stay() -> None:
    lines = [
        Line(index, index + 1, text) for index, text in enumerate(["No.", "No.", "Go\naway", "away\nnow"])
    ]
    assert captions.transcript(lines[:2]) == "No. No."
    refrain = [Line(index, index + 1, "la la" if index in (3, 4) else f"row {index}") for index in range(8)]
    assert captions.transcript(refrain).count("la la") == 2
    lines = [Line(index, index + 1, text) for index, text in enumerate(["a", "b\nhey", "hey\nc", "d", "e"])]
    assert captions.transcript(lines) == "a b hey hey c d e"


def test_webvtt_notes_names_and_settings_are_not_said() -> None:
    text = (
        "\ufeffWEBVTT - a title\n\nSTYLE\n::cue { color: red }\n\nNOTE\nnobody says this\n\nfirst\n"
        "00:01.500 --> 00:03.000 line:0\n<v Ann>Tom &amp; <i>Jerry</i> &lt;3\n42\n\nNOTE nor this\n\n"
        "second\r\n1:00:00.000 --> 1:00:01.25\r\nbye\u200b\r\n"
    )
    lines = captions.parse(text, "vtt")
    assert lines == [Line(1.5, 3.0, "Tom & Jerry <3\n42"), Line(3600.0, 3601.25, "bye")]


def test_subrip_numbers_are_told_from_text() -> None:
    text = (
        "1\r\n00:00:01,000 --> 00:00:02,000 X1:1\r\n{\\an8}<font color=red>I <3 you</font>\r\n\r\nstill\r\n\r\n"
        "2\r\n00:00:02,000 --> 00:00:03,000\r\n\r\n3\r\n00:00:03,000 --> 00:00:04,000\r\n1984\r\n"
    )
    assert captions.parse(text, "srt") == [Line(1, 2, "I <3 you\nstill"), Line(3, 4, "1984")]


def test_json3() -> None:
    events: list[Any] = [
        {"tStartMs": 0, "dDurationMs": 9000, "id": 1, "wpWinPosId": 1},
        {
            "tStartMs": 80,
            "dDurationMs": 3000,
            "segs": [{"utf8": "would"}, {"utf8": " you", "tOffsetMs": 160}],
        },
        {"tStartMs": 2000, "aAppend": 1, "segs": [{"utf8": "\n"}]},
        {"tStartMs": 2440, "segs": [{"utf8": "say &amp; \ud800"}, "junk", {"utf8": None}]},
        "junk",
    ]
    lines = captions.parse(json.dumps({"wireMagic": "pb3", "events": events}), "json3")
    assert lines == [Line(0.08, 3.08, "would you"), Line(2.44, 2.44, "say &amp; ?")]
    assert captions.parse('{"wireMagic": "pb3"}', "json3") == []


def test_srv3() -> None:
    text = (
        '<?xml version="1.0"?><timedtext format="3"><head><pen id="1"/></head><body><w t="0"/>'
        '<p t="320" d="1500"><s ac="255">it&#39;s</s><s t="200"> me</s></p><p t="5"/><p t="1750" w="1"> </p>'
        '<p t="2000" d="10">bye</p></body></timedtext>'
    )
    assert captions.parse(text, "srv3") == [Line(0.32, 1.82, "it's me"), Line(2.0, 2.01, "bye")]


def test_sounds_speakers_and_songs_are_not_words() -> None:
    lines = [
        Line(0, 1, "[Music]"),
        Line(1, 2, "(door\ncreaks)"),
        Line(2, 3, ">> ANN: hello [laughs] there"),
        Line(3, 4, "♪ la la ♪"),
        Line(4, 5, "a (short) word, 2 >> 1"),
    ]
    assert captions.transcript(lines) == "ANN: hello there la la a (short) word, 2 1"
    assert captions.transcript([]) == ""


def test_video2datasets_rows() -> None:
    rows = [{"start": "00:00:01.000", "end": "00:00:02.500", "lines": ["&gt;&gt; hi", "there"]}]
    assert captions.from_rows(rows) == [Line(1.0, 2.5, ">> hi\nthere")]
    rows = [{"start": "00:00:03.000", "end": "00:00:02.000", "lines": ["a\ud800", 7, "&#xd800;"]}]
    assert captions.from_rows(rows) == [Line(3.0, 3.0, "a?\n\ufffd")]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ({}, "captions are not a list"),
        (["x"], "captions without lines"),
        ([{"start": "00:00:01.000", "end": None, "lines": []}], "captions without times"),
    ],
)
def test_broken_rows_are_named(rows: Any, reason: str) -> None:
    with pytest.raises(CaptionsError, match=reason):
        captions.from_rows(rows)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.srt", b"<html>not found</html>", "captions without times"),
        ("a.vtt", b"\xff\xfe\x00\x01", "captions are not UTF-8"),
        ("a.json3", b"{", "captions are not JSON"),
        ("a.json3", b"[]", "captions without events"),
        ("a.json3", b'{"events": 3}', "captions without events"),
        ("a.srv3", b"<html><p>hi</p></html>", "captions are not srv3"),
        ("a.txt", b"hello", "captions of an unknown format"),
        ("gone.vtt", None, "captions cannot be read"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, data: bytes | None, reason: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(CaptionsError, match=f"^{reason}$"):
        captions.read(tmp_path / name)


def test_files_are_read_by_their_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.en.vtt").write_text(_ROLLING)
    assert captions.transcript(captions.read(tmp_path / "a.en.vtt")).startswith("so here we go one more")
    (tmp_path / "empty.srt").write_text("\n")
    assert captions.read(tmp_path / "empty.srt") == []
    (tmp_path / "empty.vtt").write_text("\ufeffWEBVTT\n")
    assert captions.read(tmp_path / "empty.vtt") == []


_PIECES = st.sampled_from(
    ["WEBVTT", "\n", "\n\n", "\r", "00:00:01.000 --> 00:00:02.000", "99:99:99,9 --> 0:0:0", "<c>", "<00:00:01.000>",
     "word", "7", "&gt;&gt;", "&#55555555555;", "[", "]", "<timedtext", '<p t="1" d="2">', "</p>", "{\\an8}", "{", '"',
     '{"events": [{"segs": [{"utf8": "a"}]}]}', " ", "\u2028"]
)  # fmt: skip


@given(st.lists(st.one_of(_PIECES, st.text(max_size=5)), max_size=30), st.sampled_from(captions.FORMATS))
def test_any_text_is_captions_or_a_reason(pieces: list[str], format: str) -> None:
    try:
        lines = captions.parse("".join(pieces), format)
    except CaptionsError:
        return
    captions.transcript(lines).encode("utf-8")
    assert all(line.start <= line.end for line in lines)


_ROWS = st.text("abc ", min_size=1, max_size=8).map(str.strip).filter(bool)


@given(st.lists(_ROWS, min_size=2, max_size=12))
def test_any_track_that_rolls_is_said_once(rows: list[str]) -> None:
    cues = []
    for index, row in enumerate(rows):
        above = rows[index - 1] + "\n" if index else ""
        cues += [Line(index, index + 0.99, above + row), Line(index + 0.99, index + 1, row)]
    assert captions.transcript(cues).split() == " ".join(rows).split()


@given(st.lists(_ROWS, max_size=12, unique=True))
def test_a_track_that_does_not_roll_keeps_all(rows: list[str]) -> None:
    lines = [Line(index, index + 1, row) for index, row in enumerate(rows)]
    assert captions.transcript(lines).split() == " ".join(rows).split()
