"""Reads caption files and turns them into what was said, every word once.

The files are those yt-dlp writes beside a video: WebVTT, SubRip and YouTube's own json3 and srv3. General
subtitle libraries do not serve here. They take a row with two inline time tags, which automatic captions are
full of, for the head of a cue, and they drop a last row that is a number.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from input_pipeline.sources import fields

FORMATS = ("json3", "vtt", "srt", "srv3")  # the best first: json3 never repeats a row

MAX_SIZE = 64 * 2**20  # bytes
_CLOCK = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,3}))?"
_STAMP = re.compile(_CLOCK)
_TIMING = re.compile(rf"\s*{_CLOCK}\s*-->\s*{_CLOCK}")
_NEWLINE = re.compile(r"\r\n|\r|\n")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<\d[\d:.]*>|\{\\[^{}]*\}")
_UNSEEN = re.compile("[\u200b-\u200f\u2060\ufeff]")
_SOUND = re.compile(r"\[[^\[\]]{0,80}\]")
_SOUND_CUE = re.compile(r"\([^()]*\)")
_SPEAKER = re.compile(r"(?:^|(?<=\s))>{2,}")
_PAUSE = 0.5  # seconds; rows that roll stay on the screen without one


class CaptionsError(ValueError):
    """Captions that cannot be read. The message is a constant phrase, so that it can be counted."""


@dataclass(frozen=True)
class Line:
    """One cue: times in seconds, and its rows of plain text, joined by newlines."""

    start: float
    end: float
    text: str


def read(path: str | Path) -> list[Line]:
    """Returns the cues of a file whose suffix is one of `FORMATS`, in its order.

    Raises:
        CaptionsError: the file cannot be read, or holds something else.
    """
    path = Path(path)
    return parse(text_of(path), path.suffix.removeprefix("."))


def text_of(path: Path, what: str = "captions", be: str = "are") -> str:
    """Returns a file's text. Raises CaptionsError, which calls it `what`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError:
        raise CaptionsError(f"{what} cannot be read") from None
    if len(data) > MAX_SIZE:
        raise CaptionsError(f"{what} {be} too large")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CaptionsError(f"{what} {be} not UTF-8") from None


def parse(text: str, format: str) -> list[Line]:
    """Returns the cues of captions in memory; `format` is one of `FORMATS`. Raises CaptionsError as `read` does."""
    if format in ("vtt", "srt"):
        lines = list(_cues(text, blank_ends=format == "vtt"))
    elif format == "json3":
        lines = list(_events(text))
    elif format == "srv3":
        lines = list(_paragraphs(text))
    else:
        raise CaptionsError("captions of an unknown format")
    return [line for line in lines if line.text]


def from_rows(rows: Any) -> list[Line]:
    """Returns the cues of decoded rows {start, end, lines}, times written as in WebVTT (video2dataset's form).

    Raises:
        CaptionsError: it is not a list of such rows.
    """
    if not isinstance(rows, list):
        raise CaptionsError("captions are not a list")
    found = []
    for row in rows:
        words = row.get("lines") if isinstance(row, dict) else None
        if not isinstance(words, list):
            raise CaptionsError("captions without lines")
        start, end = (_STAMP.fullmatch((fields.text(row, key) or "").strip()) for key in ("start", "end"))
        if not (start and end):
            raise CaptionsError("captions without times")
        texts = [word for word in words if isinstance(word, str)]
        found.append(cue(_seconds(start.groups()), _seconds(end.groups()), "\n".join(map(_plain, texts))))
    return [line for line in found if line.text]


def transcript(lines: Iterable[Line]) -> str:
    """Returns the words of the cues on one line.

    Rows that an automatic track shows again while new ones come in below count once. Left out are sounds in
    brackets, cues that are nothing but a parenthesis, and the marks of speakers (>>) and of songs.
    """
    return _speech(" ".join(piece.text for piece in _once(lines)))


def spoken(lines: Iterable[Line]) -> list[Line]:
    """Returns what `transcript` returns cue by cue, each on one line; cues of which nothing is left are left out."""
    found = [Line(piece.start, piece.end, _speech(piece.text)) for piece in _once(lines)]
    return [line for line in found if line.text]


def _once(lines: Iterable[Line]) -> Iterator[Line]:
    """The cues without rows that were on the screen before, each on one line."""
    lines = list(lines)
    rolls = _rolls(lines)
    previous = None
    for line in lines:
        rows = line.text.split("\n")
        kept = _carried(previous, line) if rolls and previous else 0
        piece = " ".join(rows[kept:]).strip()
        if not _SOUND_CUE.fullmatch(piece):
            yield Line(line.start, line.end, piece)
        previous = line


def _speech(text: str) -> str:
    return " ".join(_SPEAKER.sub(" ", _SOUND.sub(" ", text.replace("♪", " "))).split())


def _rolls(lines: list[Line]) -> bool:
    """Whether cues repeat the rows of those before them because the screen scrolls, not because one says so.

    Then nearly every cue begins with what was shown last, and some do so in a second row or for a moment only.
    """
    pairs = list(itertools.pairwise(lines))
    repeats = [after for before, after in pairs if _carried(before, after)]
    return 2 * len(repeats) >= len(pairs) and any(
        "\n" in line.text or line.end - line.start < 0.05 for line in repeats
    )


def _carried(before: Line, after: Line) -> int:
    """Returns how many of the last rows of `before` are the first rows of `after`."""
    if after.start - before.end > _PAUSE:
        return 0
    old, new = before.text.split("\n"), after.text.split("\n")
    sizes = range(min(len(old), len(new)), 0, -1)
    return next((size for size in sizes if old[-size:] == new[:size]), 0)


def _cues(text: str, blank_ends: bool) -> Iterator[Line]:
    """Reads WebVTT, where a blank row ends a cue and notes may follow, or SubRip, where text may hold blank rows."""
    rows = _NEWLINE.split(text)
    heads = [(index, match) for index, row in enumerate(rows) if (match := _TIMING.match(row))]
    if not heads and text.strip() and not text.lstrip().startswith("WEBVTT"):
        raise CaptionsError("captions without times")
    ends = [*(index for index, _ in heads), len(rows)][1:]
    for (index, match), end in zip(heads, ends, strict=True):
        body = rows[index + 1 : end]
        if blank_ends:
            body = body[: body.index("")] if "" in body else body
        elif end < len(rows) and body and body[-1].strip().isdecimal() and not "".join(body[-2:-1]).strip():
            body.pop()  # the number of the next cue
        times = match.groups()
        yield cue(_seconds(times[:4]), _seconds(times[4:]), "\n".join(map(_plain, body)))


def _events(text: str) -> Iterator[Line]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise CaptionsError("captions are not JSON") from None
    events = value.get("events", []) if isinstance(value, dict) else None
    if not isinstance(events, list):
        raise CaptionsError("captions without events")
    for event in events:
        segments = event.get("segs") if isinstance(event, dict) else None
        if not isinstance(segments, list):
            continue  # such as an event that opens a window on the screen
        start = (fields.number(event, "tStartMs") or 0) / 1000
        words = "".join(
            fields.text(segment, "utf8") or "" for segment in segments if isinstance(segment, dict)
        )
        yield cue(start, start + (fields.number(event, "dDurationMs") or 0) / 1000, words)


def _paragraphs(text: str) -> Iterator[Line]:
    """Reads srv3, XML of one flat shape. What a file declares beyond that shape never reaches an XML parser."""
    pieces = re.split(r"<p\b", text)
    if "<timedtext" not in pieces[0]:
        raise CaptionsError("captions are not srv3")
    for piece in pieces[1:]:
        head, _, rest = piece.partition(">")
        words = "" if head.endswith("/") else rest.partition("</p>")[0]
        times = {name: int(digits) / 1000 for name, digits in re.findall(r'\b([td])="(\d{1,12})"', head)}
        start = times.get("t", 0.0)
        yield cue(start, start + times.get("d", 0.0), _plain(words))


def cue(start: float, end: float, text: str) -> Line:
    """A cue with neither blank rows nor characters that cannot be written."""
    text = fields.writable(_UNSEEN.sub("", text))
    rows = (" ".join(row.split()) for row in _NEWLINE.split(text))
    return Line(start, max(start, end), "\n".join(row for row in rows if row))


def _plain(text: str) -> str:
    return fields.unescape(_TAG.sub("", text))


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, fraction = parts
    millis = int((fraction or "0").ljust(3, "0"))
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0) + millis / 1000
