"""Rows on disk, divided into buckets: how `prepare` brings together what belongs together in flat memory.

A stage that reads writes every row to the bucket of its key; the next stage takes one bucket at a time, from
all files. The rows of a file lie in compressed blocks of one bucket each, and an index at its end tells
where. A file appears under its name only when it is complete.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import zstandard

from input_pipeline.partial import partial_of
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Post, Reply

_BUFFER = 32 * 2**20  # bytes of rows that wait for their blocks, over all buckets
_TAIL = struct.Struct("<Q")  # the length of the index, at the very end of a file


class Gone(msgspec.Struct, frozen=True, array_like=True, tag="gone"):
    """A post that was rejected because its media is gone: its comments are counted with it."""

    source: str
    id: str
    origin: str
    reason: str
    title: str = ""

    @classmethod
    def of(cls, item: Rejected) -> Gone:
        """Of a rejection of kind 'gone'."""
        return cls(item.source, item.id, item.origin, item.reason)


class SpecRow(msgspec.Struct, frozen=True, array_like=True, tag="spec"):
    """A record that comes from no post: its split's name, what decides its half, and its JSON-able spec."""

    name: str
    split_key: str
    origin: str
    spec: dict[str, Any]


Row = Post | Reply | Gone | SpecRow

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[Row])


def order_of(key: str, seed: int) -> int:
    """The place of a key in the order of all keys, in [0, 2**64): a stable hash, equal on every machine."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest(), "big")


def bucket_of(order: int, buckets: int) -> int:
    """The bucket of a place: buckets are ranges of the order, so that bucket after bucket is in order."""
    return order * buckets >> 64


class Writer:
    """Writes rows to buckets. Use it as a context manager; on an error nothing is left."""

    def __init__(self, path: Path, buckets: int) -> None:
        self._path, self._partial = path, partial_of(path)
        self._file = self._partial.open("wb")
        self._waiting: list[list[bytes]] = [[] for _ in range(buckets)]
        self._size = 0
        self._index: dict[int, list[tuple[int, int]]] = {}
        self._compressor = zstandard.ZstdCompressor(level=1)

    def add(self, bucket: int, row: Row) -> None:
        """Adds a row; the rows of a bucket keep their order."""
        data = _ENCODER.encode(row)
        self._waiting[bucket].append(data)
        self._size += len(data)
        if self._size > _BUFFER:
            self._flush()

    def _flush(self) -> None:
        for bucket, rows in enumerate(self._waiting):
            if rows:
                # 0xdd begins a msgpack array with a length of four bytes.
                block = self._compressor.compress(struct.pack(">BI", 0xDD, len(rows)) + b"".join(rows))
                self._index.setdefault(bucket, []).append((self._file.tell(), len(block)))
                self._file.write(block)
                rows.clear()
        self._size = 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
            index = _ENCODER.encode(self._index)
            self._file.write(index + _TAIL.pack(len(index)))
        self._file.close()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)


def read(path: Path, bucket: int) -> Iterator[Row]:
    """Yields the rows of one bucket, in the order in which they were added."""
    decompressor = zstandard.ZstdDecompressor()
    with path.open("rb") as file:
        file.seek(-_TAIL.size, 2)
        (size,) = _TAIL.unpack(file.read(_TAIL.size))
        file.seek(-_TAIL.size - size, 2)
        index = msgspec.msgpack.decode(file.read(size), type=dict[int, list[tuple[int, int]]])
        for offset, length in index.get(bucket, []):
            file.seek(offset)
            yield from _DECODER.decode(decompressor.decompress(file.read(length)))


class PostLog:
    """Posts one after another in a file, each to be found by its place. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self._path, self._partial = path, partial_of(path)
        self._file = self._partial.open("wb")
        self._compressor = zstandard.ZstdCompressor(level=1)

    def add(self, post: Post) -> tuple[int, int]:
        """Adds a post and returns its place: (offset, length) in bytes."""
        data = self._compressor.compress(_ENCODER.encode(post))
        place = self._file.tell(), len(data)
        self._file.write(data)
        return place

    def __enter__(self) -> PostLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)


_POST = msgspec.msgpack.Decoder(Post)


def read_post(path: Path, place: tuple[int, int]) -> Post:
    """Reads the post at a place of a PostLog."""
    with path.open("rb") as file:
        file.seek(place[0])
        return _POST.decode(zstandard.ZstdDecompressor().decompress(file.read(place[1])))


def read_posts(path: Path, places: list[tuple[int, int]]) -> Iterator[Post]:
    """Yields the posts at several places of a PostLog, in that order."""
    decompressor = zstandard.ZstdDecompressor()
    with path.open("rb") as file:
        for offset, length in places:
            file.seek(offset)
            yield _POST.decode(decompressor.decompress(file.read(length)))
