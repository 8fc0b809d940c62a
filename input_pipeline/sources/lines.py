"""Streams JSON objects out of line-delimited and list files, plain, .gz or .zst, however broken they are."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import zstandard

from input_pipeline.errors import UserError
from input_pipeline.sources.rejected import Rejected

_MAX_LINE = 64 * 2**20  # bytes; beyond it the file is not line-delimited, and memory is what would suffer
_CHUNK = 2**20
_SEPARATORS = re.compile(r"[\s,]*")
_NEXT_OBJECT = re.compile(r'\{\s*"(?:id|image|conversations|model|text|video)"\s*:')


def open_bytes(path: Path) -> IO[bytes]:
    """Opens a plain, .gz or .zst file for reading. Raises UserError where it is missing."""
    try:
        raw = path.open("rb")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path in the config") from None
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path}: cannot be read as a file ({error.strerror})") from None
    if path.suffix == ".zst":
        # Monthly dumps are compressed with --long=31; the default decoder refuses windows that large.
        decoder = zstandard.ZstdDecompressor(max_window_size=2**31)
        return io.BufferedReader(decoder.stream_reader(raw, read_across_frames=True, closefd=True), _CHUNK)
    if path.suffix == ".gz":
        return gzip.open(raw)  # type: ignore[return-value]
    return raw


def read_objects(path: str | Path) -> Iterator[tuple[str, dict[str, Any]] | Rejected]:
    """Yields ('path:line', object) for every line that is a JSON object, and Rejected for every other line.

    Blank lines are passed over. A compressed file that breaks off yields its good lines, then one Rejected.
    """
    path = Path(path)
    number = 0
    with open_bytes(path) as file:
        while True:
            number += 1
            origin = f"{path}:{number}"
            try:
                line = file.readline(_MAX_LINE)
                overlong = len(line) == _MAX_LINE and not line.endswith(b"\n")
                while overlong and (rest := file.readline(_MAX_LINE)):
                    if rest.endswith(b"\n"):
                        break
            except (zstandard.ZstdError, EOFError, OSError, zlib.error):
                yield Rejected(origin, "", "read", "compressed file is broken: all after this line is lost")
                return
            if not line:
                return
            if overlong:
                yield Rejected(origin, "", "read", "line is too long")
            elif line.strip(b" \t\r\n\xef\xbb\xbf"):
                yield _parse(line, origin)


def _parse(line: bytes, origin: str) -> tuple[str, dict[str, Any]] | Rejected:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Rejected(origin, "", "read", "line is not UTF-8")
    except (ValueError, RecursionError):
        return Rejected(origin, "", "read", "line is not JSON")
    if not isinstance(value, dict):
        return Rejected(origin, "", "read", "line is not a JSON object")
    return origin, value


def read_list(path: str | Path) -> Iterator[tuple[str, Any] | Rejected]:
    """Yields ('path:index', element) for each element of a JSON list; a sound list takes constant memory.

    After a broken element it goes on at the next thing that looks like a record. JSON lines are read as well.
    """
    path = Path(path)
    decoder = json.JSONDecoder()
    with open_bytes(path) as file:
        window = _Window(io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace"))
        first = window.peek()
        if first not in ("[", "{"):
            reason = "file is neither a JSON list nor JSON lines" if first else "file is empty"
            yield Rejected(f"{path}:0", "", "read", reason)
            return
        if first == "[":
            window.at += 1
        for index in itertools.count():
            if window.peek() in ("]", ""):
                return
            origin = f"{path}:{index}"
            while True:
                try:
                    value, window.at = decoder.raw_decode(window.text, window.at)
                except (ValueError, RecursionError) as error:
                    if _cut_short(error, window.text) and window.more():
                        continue
                    yield Rejected(origin, "", "read", "element is not JSON")
                    if not window.skip_to(_NEXT_OBJECT):
                        return
                else:
                    yield origin, value
                break


class _Window:
    """The part of a long text that is looked at, and where."""

    def __init__(self, file: IO[str]) -> None:
        self.file, self.text, self.at = file, "", 0

    def more(self) -> bool:
        """Reads on, forgetting what is behind; False at the end of the file."""
        chunk = self.file.read(_CHUNK)
        self.text, self.at = self.text[self.at :] + chunk, 0
        return bool(chunk)

    def peek(self) -> str:
        """Moves to the next character that is neither blank nor comma and returns it, '' at the end."""
        while True:
            self.at = _SEPARATORS.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def skip_to(self, pattern: re.Pattern[str]) -> bool:
        """Moves beyond this place to the next match; False where there is none."""
        self.at += 1
        while not (match := pattern.search(self.text, self.at)):
            self.at = max(self.at, len(self.text) - 64)  # a match may straddle the end
            if not self.more():
                return False
        self.at = match.start()
        return True


def _cut_short(error: Exception, text: str) -> bool:
    """Whether the decoder may have failed only because the window ends in the middle of an element."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos > len(text) - 16
