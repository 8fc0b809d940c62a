"""Reads saved answers of Reddit's API, and of the search services that copy it (Pushshift, Arctic Shift).

Where a dump has a line per record, an answer nests its records: a page of comments is a listing of the post
and a listing of comments, whose replies are listings again. People save one answer per file, a list of them,
or one per line; all are read here, and the records in them as `reddit` reads those of dumps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from input_pipeline.sources import fields, lines, media, reddit
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Post, Reply

_LONG = 2**20  # bytes; a list on one line that is longer is read element by element
_ANSWER = re.compile(r'\{\s*"(?:kind|data|json|error|message)"\s*:')


def read(
    path: str | Path, library: media.Library, durations: reddit.Durations | None = None
) -> Iterator[Post | Reply | Rejected]:
    """Yields the posts and comments of every answer in a file, in their order, and Rejected for all else in it.

    The origin of a record is 'file:answer.record': the line of the answer (or its index, where it runs over
    several lines) and the place of the record in it. An answer without records yields nothing.

    Args:
        path: .json, .ndjson, .gz or .zst: one answer, a JSON list of answers, or an answer per line.
        library: images by the last path component of the post's URL, videos by their YouTube id.
        durations: gives the seconds of a YouTube video.

    Raises:
        UserError: the file is missing or cannot be opened.
    """
    for item in _answers(Path(path)):
        if isinstance(item, Rejected):
            yield item
        else:
            yield from _records(*item, library, durations)


def _answers(path: Path) -> Iterator[tuple[str, Any] | Rejected]:
    if not _line_by_line(path):
        yield from lines.read_list(path, _ANSWER)
        return
    file = fields.writable(str(path))
    for item in lines.read_raw(path):
        if isinstance(item, Rejected):
            yield item
            continue
        origin = f"{file}:{item[0]}"
        value = lines.parse(item[1], origin)
        yield value if isinstance(value, Rejected) else (origin, value)


def _line_by_line(path: Path) -> bool:
    """Whether the first line is an answer by itself, and not a long list that is better taken in parts."""
    first = next(lines.read_raw(path), None)
    if not isinstance(first, tuple):
        return False
    line = first[1].strip(b"\xef\xbb\xbf \t\r")
    if len(line) > _LONG and line.startswith(b"["):
        return False
    # Broken or too deep, a whole answer still ends as one; that of an indented answer's first line does not.
    whole = len(line) > 2 and line[:1] + line[-1:] in (b"{}", b"[]")
    return whole or not isinstance(lines.parse(line, ""), Rejected)


def _records(
    origin: str, answer: Any, library: media.Library, durations: reddit.Durations | None
) -> Iterator[Post | Reply | Rejected]:
    waiting = [answer]  # the next one last; threads are deeper than Python calls may be
    count = 0
    while waiting:
        thing = waiting.pop()
        inner = _inside(thing)
        if inner is not None:
            waiting.extend(reversed(inner))
            continue
        count += 1
        place = f"{origin}.{count}"
        kind, data = (thing.get("kind"), thing.get("data")) if isinstance(thing, dict) else (None, None)
        record = data if kind in ("t1", "t3") else thing
        if not isinstance(record, dict):
            yield Rejected(place, "", "read", "not a JSON object where a record should be")
        elif kind == "t1" or (kind != "t3" and "body" in record):
            yield reddit.reply(record, place)
            if isinstance(record.get("replies"), dict | list):  # '' where there are none
                waiting.append(record["replies"])
        elif kind == "t3" or "title" in record:
            yield reddit.post(record, place, library, durations)
        else:
            yield _neither(place, kind, record)


def _inside(thing: Any) -> list[Any] | None:
    """Returns what a list, a listing or a search answer holds, None for anything else."""
    if isinstance(thing, list):
        return thing
    if not isinstance(thing, dict):
        return None
    data = thing.get("data")
    if (
        isinstance(thing.get("json"), dict) and "kind" not in thing
    ):  # the answer to a request for more comments
        return None if thing["json"].get("errors") else [thing["json"]]
    if isinstance(data, list):
        return data
    if isinstance(data, dict) and thing.get("kind") in ("Listing", None):
        for key in ("children", "things"):
            if isinstance(data.get(key), list):
                return data[key]
    return None


def _neither(place: str, kind: Any, record: dict[str, Any]) -> Rejected:
    if kind == "more":
        return Rejected(place, "", "read", "comments left out by the API", kind="skipped")
    if kind == "Listing":
        return Rejected(place, "", "read", "listing without its children")
    if any(record.get(key) for key in ("error", "message", "json")):
        return Rejected(place, "", "read", "the API answered with an error")
    if isinstance(kind, str):
        return Rejected(place, "", "read", "neither a post nor a comment", kind="skipped")
    return Rejected(place, "", "read", "not an answer of the API")
