"""Streams the lists inside one large JSON object, such as COCO's annotations, plain, .gz or .zst."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from input_pipeline.sources import fields, lines
from input_pipeline.sources.rejected import Rejected

# The next object, or the end of the list where another list of objects begins behind it.
_NEXT_OBJECT = re.compile(r'\{\s*"\w+"\s*:|\]\s*,\s*"\w+"\s*:\s*\[\s*\{\s*"')
_NUMBER = re.compile(r"[-+.eE\d]*")
_DECODER = json.JSONDecoder()
_LONGEST = 64 * 2**20  # characters of one element


@dataclass(frozen=True)
class _Broken:
    reason: str


def read(path: str | Path, names: Collection[str]) -> Iterator[tuple[str, str, Any] | Rejected]:
    """Yields (name, 'path:name/index', element) for each element of the named lists of one JSON object.

    Memory is that of one element; other members may be of any size if they are lists. An element that is not JSON is
    Rejected, and it goes on at the next object. A file that is no JSON object, or that ends in the middle, yields a
    Rejected for that.
    """
    path = Path(path)
    file = fields.writable(str(path))
    with lines.open_raw(path) as raw:
        try:
            window = lines.Window(lines.as_utf8(lines.decompressed(raw, path.suffix)))
            yield from _members(window, file, names)
        except lines.BROKEN:
            yield Rejected(f"{file}:0", "", "read", "compressed file is broken: all after this place is lost")


def _members(
    window: lines.Window, file: str, names: Collection[str]
) -> Iterator[tuple[str, str, Any] | Rejected]:
    if window.peek() != "{":
        yield Rejected(f"{file}:0", "", "read", "file is not a JSON object")
        return
    window.at += 1
    while (mark := window.peek()) != "}":
        name = _value(window) if mark == '"' else None
        if not isinstance(name, str) or window.peek() != ":":
            yield Rejected(
                f"{file}:0", "", "read", "JSON object is broken or cut: all after this place is lost"
            )
            return
        window.at += 1
        if window.peek() != "[":
            if isinstance(_value(window), _Broken):
                yield Rejected(
                    f"{file}:0", "", "read", "a member of the JSON object is not JSON: all after it is lost"
                )
                return
            continue
        window.at += 1
        for index in itertools.count():
            mark = window.peek()
            if mark == "]":
                window.at += 1
                break
            origin = f"{file}:{name}/{index}"
            if not mark:
                yield Rejected(origin, "", "read", "file is cut: all after this place is lost")
                return
            value = _value(window)
            if isinstance(value, _Broken):
                yield Rejected(origin, "", "read", value.reason)
                if not window.skip_to(_NEXT_OBJECT):
                    return
            elif name in names:
                yield name, origin, value
    window.at += 1
    if window.peek():
        yield Rejected(f"{file}:0", "", "read", "text after the end of the JSON object")


def _value(window: lines.Window) -> Any:
    """Reads the JSON value that begins here."""
    while True:
        try:
            value, end = _DECODER.raw_decode(window.text, window.at)
        except (ValueError, RecursionError) as error:
            waiting = len(window.text) - window.at
            if lines.cut_short(error, window.text):
                if waiting > _LONGEST:
                    return _Broken("element is too long")
                if window.more(waiting):
                    continue
            return _Broken("element is not JSON")
        if isinstance(value, int | float) and _NUMBER.fullmatch(window.text, end) and window.more():
            continue  # the number may go on behind the window
        window.at = end
        return value
