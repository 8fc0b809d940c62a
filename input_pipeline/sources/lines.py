"""Streams lines and JSON objects out of line-delimited and list files, plain, .gz or .zst, however broken they are.

Compressed files are read in small bites: a few bytes can expand to very many, and memory is to stay flat.
Files in UTF-16 or UTF-32 (Windows writes them) are known by their byte-order mark and read as well.
"""

from __future__ import annotations

import codecs
import io
import itertools
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zstandard

from input_pipeline.errors import UserError
from input_pipeline.sources import fields
from input_pipeline.sources.rejected import Rejected

_MAX_LINE = 64 * 2**20  # bytes; beyond it the file is not line-delimited, and memory is what would suffer
_CHUNK = 2**18  # fits the cache of a processor
_BITE = 256  # bytes of a .zst file at a time: a block of 4 bytes may hold 128 KiB, so 8 MiB at most come out
BROKEN = (zstandard.ZstdError, EOFError, OSError, zlib.error)  # what a cut or corrupt compressed file raises
_SEPARATORS = re.compile(r"[\s,]*")
_NEXT_OBJECT = re.compile(r'\{\s*"(?:id|image|conversations|model|text|video)"\s*:')
_BLANK = b" \t\r\n\xef\xbb\xbf"
_BRACE = ord("{")
_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Passed:
    """Sound records of a file that were left out as a whole, too many to be named one by one.

    `origin` is the file.
    """

    origin: str
    count: int
    reason: str


def open_bytes(path: Path) -> IO[bytes]:
    """Opens a plain, .gz or .zst file for reading its bytes as they are. Raises UserError where it is missing."""
    raw = open_raw(path)
    if path.suffix in (".zst", ".gz"):
        return io.BufferedReader(_Stream(raw, decompressed(raw, path.suffix)), _CHUNK)
    return raw


def open_raw(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path in the config") from None
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path}: cannot be read as a file ({error.strerror})") from None


def decompressed(raw: IO[bytes], suffix: str) -> Iterator[bytes]:
    """Yields the bytes of a file, decompressed, in pieces of 8 MiB at most."""
    if suffix == ".zst":
        return _gathered(_from_zstd(raw))
    return _from_gzip(raw) if suffix == ".gz" else iter(lambda: raw.read(_CHUNK), b"")


def _from_zstd(raw: IO[bytes]) -> Iterator[bytes]:
    """Decompresses all frames. A last frame that is cut is an error: zstandard's own reader just ends there."""
    # Monthly dumps are compressed with --long=31; the default decoder refuses windows that large.
    decoder = (new := zstandard.ZstdDecompressor(max_window_size=2**31)).decompressobj()
    inside = False  # a frame has begun and not ended
    while data := raw.read(_BITE):
        while data:
            yield decoder.decompress(data)
            data, inside = decoder.unused_data, not decoder.eof
            if decoder.eof:
                decoder = new.decompressobj()
    if inside:
        raise zstandard.ZstdError("the last frame is cut")


def _from_gzip(raw: IO[bytes]) -> Iterator[bytes]:
    """Decompresses all members; zeros between and after them are padding."""
    decoder, inside = zlib.decompressobj(31), False
    while data := raw.read(2**16):
        while data := data if inside else data.lstrip(b"\0"):
            yield decoder.decompress(data, _CHUNK)
            while decoder.unconsumed_tail:
                yield decoder.decompress(decoder.unconsumed_tail, _CHUNK)
            data, inside = decoder.unused_data, not decoder.eof
            if decoder.eof:
                decoder = zlib.decompressobj(31)
    if inside:
        raise EOFError("the last member is cut")


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Joins small pieces; what came before an error is yielded before it is raised."""
    held: list[bytes] = []
    size = 0
    try:
        for piece in pieces:
            held.append(piece)
            size += len(piece)
            if size >= _CHUNK:
                yield b"".join(held)
                held.clear()
                size = 0
    except BROKEN:
        yield b"".join(held)
        raise
    yield b"".join(held)


def as_utf8(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Turns UTF-16 and UTF-32 with a byte-order mark into UTF-8; all else passes as it is."""
    head = b""
    try:
        while len(head) < 4 and (chunk := next(chunks, None)) is not None:
            head += chunk
    except BROKEN:
        yield head
        raise
    codec = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if codec is None:
        yield head
        yield from chunks
        return
    decoder = codecs.getincrementaldecoder(codec)(errors="replace")
    for chunk in itertools.chain([head], chunks):
        yield decoder.decode(chunk).encode()
    yield decoder.decode(b"", final=True).encode()


def head(path: Path, size: int) -> bytes:
    """Returns the beginning of a file as UTF-8, without a byte-order mark and blanks; what cannot be read is left out.

    Raises:
        UserError: the file is missing or cannot be opened.
    """
    found = b""
    with open_raw(path) as raw:
        try:
            for chunk in as_utf8(decompressed(raw, path.suffix)):
                found += chunk
                if len(found) >= size:
                    break
        except BROKEN:  # whoever reads the file will tell of it
            pass
    return found[:size].lstrip(_BLANK)


class _Stream(io.RawIOBase):
    """A file made of chunks."""

    def __init__(self, raw: IO[bytes], chunks: Iterator[bytes]) -> None:
        self._raw, self._chunks, self._ready = raw, chunks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._ready = memoryview(chunk)
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Unfinished:
    """The pieces of a line that runs over several chunks. One that is too long is not kept."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > _MAX_LINE:
            self._pieces.clear()
        else:
            self._pieces.append(piece)

    def take(self) -> bytes | None:
        """Returns the line, None if it is too long, and begins anew."""
        line = b"".join(self._pieces) if self._size <= _MAX_LINE else None
        self._pieces.clear()
        self._size = 0
        return line


def read_raw(path: str | Path) -> Iterator[tuple[int, bytes] | Rejected]:
    """Yields (line number from 1, line without its end) for every line; blank ones are passed over.

    A line of more than 64 MiB is Rejected without being held, and a compressed file that breaks off yields its
    good lines, then one Rejected. Lines are UTF-8 where the file is sound; that is not checked here.

    Raises:
        UserError: the file is missing or cannot be opened.
    """
    path = Path(path)
    number, limit, unfinished = 0, _MAX_LINE, _Unfinished()
    file = fields.writable(str(path))
    with open_raw(path) as raw:
        # The newline ends a last line that has none.
        chunks = itertools.chain(as_utf8(decompressed(raw, path.suffix)), [b"\n"])
        try:
            for chunk in chunks:
                first, *rest = chunk.split(b"\n")
                unfinished.add(first)
                if not rest:
                    continue
                last = rest.pop()
                for line in itertools.chain([unfinished.take()], rest):
                    number += 1
                    if line is None or len(line) > limit:
                        yield Rejected(f"{file}:{number}", "", "read", "line is too long")
                    elif line and (line[0] == _BRACE or line.strip(_BLANK)):
                        yield number, line
                unfinished.add(last)
        except BROKEN:
            reason = "compressed file is broken: all after this line is lost"
            yield Rejected(f"{file}:{number + 1}", "", "read", reason)


def parse(line: bytes, origin: str) -> Any | Rejected:
    """Returns the JSON value of a line, Rejected where it is not UTF-8 or not JSON."""
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Rejected(origin, "", "read", "line is not UTF-8")
    except (ValueError, RecursionError):
        return Rejected(origin, "", "read", "line is not JSON")


def parse_object(line: bytes, origin: str) -> dict[str, Any] | Rejected:
    """Returns the JSON object of a line, Rejected where it is none."""
    value = parse(line, origin)
    if isinstance(value, dict | Rejected):
        return value
    return Rejected(origin, "", "read", "line is not a JSON object")


def read_objects(path: str | Path) -> Iterator[tuple[str, dict[str, Any]] | Rejected]:
    """Yields ('path:line', object) for every line that is a JSON object, and Rejected for every other line.

    Blank lines are passed over. A compressed file that breaks off yields its good lines, then one Rejected.
    """
    file = fields.writable(str(path))
    for item in read_raw(path):
        if isinstance(item, Rejected):
            yield item
            continue
        origin = f"{file}:{item[0]}"
        value = parse_object(item[1], origin)
        yield value if isinstance(value, Rejected) else (origin, value)


def read_list(
    path: str | Path, resume: re.Pattern[str] = _NEXT_OBJECT
) -> Iterator[tuple[str, Any] | Rejected]:
    """Yields ('path:index', element) for each element of a JSON list; a sound list takes constant memory.

    JSON lines are read as well, and lists that follow each other as one.

    Args:
        path: .json, .gz or .zst.
        resume: what a record looks like; after a broken element it goes on at the next match.
    """
    path = Path(path)
    file = fields.writable(str(path))
    with open_raw(path) as raw:
        try:
            yield from _elements(Window(as_utf8(decompressed(raw, path.suffix))), file, resume)
        except BROKEN:
            yield Rejected(f"{file}:0", "", "read", "compressed file is broken: all after this place is lost")


def _elements(window: Window, file: str, resume: re.Pattern[str]) -> Iterator[tuple[str, Any] | Rejected]:
    decoder = json.JSONDecoder()
    first = window.peek()
    if first not in ("[", "{"):
        reason = "file is neither a JSON list nor JSON lines" if first else "file is empty"
        yield Rejected(f"{file}:0", "", "read", reason)
        if not first or not window.skip_to(resume):  # its first line alone may be broken
            return
    if first == "[":
        window.at += 1
    for index in itertools.count(first not in ("[", "{")):
        origin = f"{file}:{index}"
        while first == "[" and window.peek() == "]":
            window.at += 1
            if window.peek() == "[":
                window.at += 1
            elif window.peek():
                yield Rejected(origin, "", "read", "text after the end of the list")
                return
        if not window.peek():
            return
        while True:
            try:
                value, window.at = decoder.raw_decode(window.text, window.at)
            except (ValueError, RecursionError) as error:
                waiting = len(window.text) - window.at
                reason = "element is not JSON"
                if cut_short(error, window.text):
                    if waiting > _MAX_LINE:
                        reason = "element is too long"
                    elif window.more(waiting):  # as much again, so that a long element is not tried too often
                        continue
                yield Rejected(origin, "", "read", reason)
                if not window.skip_to(resume):
                    return
            else:
                yield origin, value
            break


class Window:
    """The part of a long text that is looked at, and where."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks, self.text, self.at = chunks, "", 0
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        self.error: Exception | None = None

    def more(self, least: int = 1) -> bool:
        """Reads on by at least so many characters, forgetting what is behind; False at the end of the file.

        What comes before a break in a compressed file is read first; the call after that raises the error.
        """
        parts, size, ended = [self.text[self.at :]], 0, False
        while size < least and not ended:
            try:
                data = next(self.chunks, None)
            except BROKEN as error:
                self.error, data = error, None
            ended = data is None
            parts.append(self.decoder.decode(data or b"", final=ended))
            size += len(parts[-1])
        if not size and self.error:
            raise self.error
        self.text, self.at = "".join(parts), 0
        return size > 0

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


def cut_short(error: Exception, text: str) -> bool:
    """Whether the decoder may have failed only because the window ends in the middle of an element."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos > len(text) - 16
