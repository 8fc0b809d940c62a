"""Streams JSON objects out of line-delimited and list files, plain, .gz or .zst, however broken they are."""

from __future__ import annotations

import codecs
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
_BROKEN = (zstandard.ZstdError, EOFError, OSError, zlib.error)  # what a cut or corrupt compressed file raises
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
        return io.BufferedReader(_ZstdReader(raw), _CHUNK)
    if path.suffix == ".gz":
        return gzip.open(raw)  # type: ignore[return-value]
    return raw


class _ZstdReader(io.RawIOBase):
    """Reads all frames of a .zst file. A last frame that is cut is an error: zstandard's own reader just ends there."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw, self._decoder = raw, self._new_frame()
        self._input, self._ready = b"", b""
        self._inside = False  # a frame has begun and not ended

    @staticmethod
    def _new_frame() -> Any:
        # Monthly dumps are compressed with --long=31; the default decoder refuses windows that large.
        return zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            self._input = self._input or self._raw.read(4096)  # little at a time: it may expand a great deal
            if not self._input:
                if self._inside:
                    raise zstandard.ZstdError("the last frame is cut")
                return 0
            self._ready = self._decoder.decompress(self._input)
            self._input = self._decoder.unused_data
            self._inside = not self._decoder.eof
            if self._decoder.eof:
                self._decoder = self._new_frame()
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()


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
            except _BROKEN:
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
    with open_bytes(path) as file:
        window = _Window(file)
        try:
            yield from _elements(window, path)
        except _BROKEN:
            yield Rejected(f"{path}:0", "", "read", "compressed file is broken: all after this place is lost")


def _elements(window: _Window, path: Path) -> Iterator[tuple[str, Any] | Rejected]:
    decoder = json.JSONDecoder()
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

    def __init__(self, file: Any) -> None:
        self.file, self.text, self.at = file, "", 0
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")

    def more(self) -> bool:
        """Reads on, forgetting what is behind; False at the end of the file."""
        chunk, data = "", b"."
        while data and not chunk:
            # read1 gives what there is before a break in a compressed file; read would lose it with the error.
            data = self.file.read1(_CHUNK)
            chunk = self.decoder.decode(data, final=not data)
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
