"""Reads anybody's own data: a table whose columns are mapped to the fields of posts or of comments.

CSV and TSV (quoted as RFC 4180 has it; UTF-8, or UTF-16 with its byte order mark), JSON lines, JSON lists and
parquet; all but parquet also as .gz and .zst.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from input_pipeline.errors import UserError, nearest
from input_pipeline.sources import cells, fields, lines, media
from input_pipeline.sources import rows as tables
from input_pipeline.sources.rejected import Rejected
from input_pipeline.sources.rows import Row
from input_pipeline.types import Comment, Post, Reply

POST_FIELDS = (
    "id", "title", "media", "community", "author", "created", "nsfw", "likes", "views", "like_rate", "duration",
    "url", "description", "categories", "asr", "replay", "scenes", "comments",
)  # fmt: skip
COMMENT_FIELDS = ("post_id", "id", "text", "score", "author", "created")
_SEPARATOR = "comments_separator"
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}

_MAX_RECORD = 16 * 2**20  # characters; what is longer is an unclosed quote, and memory is what would suffer
_FLAW, _OVERLONG = "\udcff", "\ud800\n"  # no decoder gives these: bytes that are no text, and a cut line
_LIST_OF_PYTHON = re.compile(r"""\[\s*['"{\[]""")


@dataclass(frozen=True)
class Columns:
    """Which column of a table holds which of our fields; a field that is not named is its namesake's.

    Fields of posts (`read_posts`): id and at least one of title and media are needed.
        media: a file name, path, URL or YouTube link, or a list of them (JSON text where cells are text).
        created: epoch seconds, or ISO 8601 text (UTC where it has no zone).
        nsfw: true, 1 or yes.
        like_rate: in [0, 1]; without it likes/views.
        duration: seconds.
        categories: a list, or text with commas.
        scenes: a list of objects, see `cells.scenes`.
        replay: a list of numbers, for equal parts of `duration` (of one second each without it), or of
            {"start", "end", "value"} in seconds.
        comments: a list of texts or of {"text", "score", "author", "id", "created"}, or text that is split at
            `comments_separator`; without a separator, text is one comment.

    Fields of comments (`read_comments`): post_id, text, score, author, id, created; the first two are needed.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    comments_separator: str = ""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Columns:
        """Makes it of {our field: their column}, with 'comments_separator' among the fields.

        Raises:
            UserError: a field that does not exist, or a column that is no name.
        """
        known = {*POST_FIELDS, *COMMENT_FIELDS, _SEPARATOR}
        for name, column in config.items():
            if name not in known:
                raise UserError(f"columns: no field {name!r}.{nearest(str(name), known)}")
            if not isinstance(column, str) or (not column and name != _SEPARATOR):
                raise UserError(f"columns: {name}={column!r} is not the name of a column")
        return cls(
            {key: value for key, value in config.items() if key != _SEPARATOR}, config.get(_SEPARATOR, "")
        )


def read_posts(
    path: str | Path, columns: Columns, library: media.Library, source: str = "other"
) -> Iterator[Post | Rejected]:
    """Yields a Post per row.

    A row that names media of which the library holds none is Rejected with kind 'gone'; one that names none
    gives `media=()`. Rows that are not as long as the header, or not text in the file's encoding, are Rejected.

    Args:
        path: .csv, .tsv, .tab, .jsonl, .ndjson, .json, .parquet or .pq.
        columns: what their columns hold.
        library: where the media lie.
        source: 'other', or 'reddit' or 'youtube' for their thresholds.

    Raises:
        UserError: the file is missing or of another format, or `columns` and the file's columns do not fit; the
            message names the file, the column and those it has.
    """
    mapping = _mapping(path, columns, POST_FIELDS, (("id",), ("title", "media")))
    return _posts(path, mapping, columns.comments_separator, library, source)


def read_comments(path: str | Path, columns: Columns, source: str = "other") -> Iterator[Reply | Rejected]:
    """Yields a Reply per row of a table of comments; `id` defaults to 'post id#record'.

    Arguments and errors are those of `read_posts`.
    """
    mapping = _mapping(path, columns, COMMENT_FIELDS, (("post_id",), ("text",)))
    return _replies(path, mapping, source)


def _mapping(
    path: str | Path, columns: Columns, known: tuple[str, ...], needed: tuple[tuple[str, ...], ...]
) -> dict[str, str]:
    """Returns {field: column} for all fields, having checked them against the file."""
    for name in columns.names:
        if name not in known:
            raise UserError(f"columns of {path}: {name!r} does not belong here.{nearest(name, known)}")
    mapping = {name: columns.names.get(name, name) for name in known}
    found = header(path)
    if not found:
        return mapping  # broken or empty: the reader says so
    for name, column in mapping.items():
        if found.count(column) > 1:
            raise UserError(f"{path}: has more than one column {column!r}; rename all but one")
        if column not in found and name in columns.names:
            raise UserError(f"{path}: no column {column!r} (for {name!r}); it has {tables.listed(found)}")
    for names in needed:
        if not any(mapping[name] in found for name in names):
            raise UserError(
                f"{path}: no column for {' or '.join(map(repr, names))}; it has {tables.listed(found)}. "
                f"Name it under columns"
            )
    return mapping


def _posts(
    path: str | Path, mapping: dict[str, str], separator: str, library: media.Library, source: str
) -> Iterator[Post | Rejected]:
    for item in rows(path, set(mapping.values())):
        if isinstance(item, Rejected):
            yield item
        else:
            row = {name: item[1].get(column) for name, column in mapping.items()}
            yield _post(item[0], row, separator, library, source)


def _post(origin: str, row: Row, separator: str, library: media.Library, source: str) -> Post | Rejected:
    post_id, title = _name(row, "id"), (_name(row, "title") or "")
    names = cells.texts(row["media"])
    if not post_id:
        return Rejected(origin, "", "fields", "row without an id", source=source)
    if not title and not names:
        return Rejected(origin, post_id, "fields", "row without a title or media", source=source)
    comments = _comments(row["comments"], separator, post_id)
    if comments is None:
        return Rejected(
            origin, post_id, "fields", "comments look like a list but are not JSON", source=source
        )
    found = [ref for name in names if (ref := library.find(cells.media_name(name)))]
    if names and not found:
        return Rejected(origin, post_id, "media", "media is gone", kind="gone", source=source)
    likes, views, rate = (
        fields.integer(row, "likes"),
        fields.integer(row, "views"),
        fields.number(row, "like_rate"),
    )
    duration, categories = fields.number(row, "duration"), cells.unpacked(row["categories"])
    return Post(
        id=post_id,
        source=source,
        title=title,
        origin=origin,
        media=tuple(found),
        community=_name(row, "community") or "",
        author=_name(row, "author") or None,
        created=cells.seconds_since_epoch(row, "created"),
        nsfw=fields.flag(row, "nsfw"),
        likes=likes,
        views=views,
        like_rate=rate if rate is not None and 0 <= rate <= 1 else cells.share(likes, views),
        duration=duration if duration is not None and duration >= 0 else None,
        comments=comments,
        url=_name(row, "url") or "",
        description=fields.text(row, "description") or "",
        categories=tuple(cells.texts(categories.split(",") if isinstance(categories, str) else categories)),
        asr=" ".join(cells.texts(row["asr"])),
        replay=cells.spans(row["replay"], duration=duration),
        scenes=cells.scenes(row["scenes"]),
    )


def _name(row: Row, key: str) -> str | None:
    """A text without blanks around it; a whole number that became a float has its own name."""
    value = row.get(key)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    words = fields.text(row, key)
    return None if words is None else words.strip()


def _comments(value: Any, separator: str, post_id: str) -> tuple[Comment, ...] | None:
    """Returns the comments, or None for what was a list before it became text."""
    value = cells.unpacked(value)
    if isinstance(value, str):
        if separator:
            value = [part for part in value.split(separator) if part.strip()]
        elif _LIST_OF_PYTHON.match(value.lstrip()):
            return None
        else:
            value = [value] if value.strip() else []
    found: list[Comment] = []
    for n, item in enumerate(cells.as_list(value)):
        row = item if isinstance(item, dict) else {"text": item}
        if (words := fields.text(row, "text")) is not None:
            found.append(_comment(row, words, f"{post_id}#{n}"))
    return tuple(found)


def _comment(row: Row, words: str, default_id: str) -> Comment:
    return Comment(
        id=_name(row, "id") or default_id,
        text=words,
        author=_name(row, "author") or None,
        score=fields.integer(row, "score"),
        created=cells.seconds_since_epoch(row, "created"),
    )


def _replies(path: str | Path, mapping: dict[str, str], source: str) -> Iterator[Reply | Rejected]:
    for item in rows(path, set(mapping.values())):
        if isinstance(item, Rejected):
            yield item
            continue
        origin = item[0]
        row = {name: item[1].get(column) for name, column in mapping.items()}
        post_id, words = _name(row, "post_id"), fields.text(row, "text")
        if not post_id:
            yield Rejected(
                origin, _name(row, "id") or "", "fields", "comment without a post id", source=source
            )
        elif words is None:
            yield Rejected(origin, _name(row, "id") or "", "fields", "comment without a text", source=source)
        else:
            yield Reply(source, post_id, _comment(row, words, f"{post_id}#{origin.rpartition(':')[2]}"))


# --- CSV ---------------------------------------------------------------------------------------------------


def header(path: str | Path) -> tuple[str, ...]:
    """Returns the names of a table's columns, () where they cannot be read: `rows` will tell why."""
    suffix = tables.suffix_of(path)
    if suffix in _DELIMITERS:
        delimiter = _DELIMITERS[suffix]
    elif suffix in (*tables.JSON_SUFFIXES, *tables.PARQUET_SUFFIXES):
        return tables.header(path)
    else:
        raise UserError(f"{path}: unknown format; a table is a .csv, .tsv, .jsonl, .json or .parquet file")
    for _, record in _records(Path(path), delimiter):
        return _header(record) if isinstance(record, list) else ()
    return ()


def rows(path: str | Path, wanted: Collection[str] | None = None) -> Iterator[tuple[str, Row] | Rejected]:
    """Yields ('file:record', row) per row of any table, and Rejected for what is broken.

    A record of CSV is named by its first line. Bytes of 0 are taken out, blank lines passed over.

    Args:
        path: as `read_posts` has it.
        wanted: the columns to read, all by default (only parquet saves time by it).
    """
    delimiter = _DELIMITERS.get(tables.suffix_of(path))
    return tables.read(path, wanted) if delimiter is None else _csv_rows(Path(path), delimiter)


def _csv_rows(path: Path, delimiter: str) -> Iterator[tuple[str, Row] | Rejected]:
    names: tuple[str, ...] | None = None
    file = fields.as_text(str(path))  # a name need not be UTF-8
    for number, record in _records(path, delimiter):
        origin = f"{file}:{number}"
        if isinstance(record, str):
            yield Rejected(origin, "", "read", record if names else "the header cannot be read")
            if names is None:
                return  # without it no row means anything
        elif names is None:
            names = _header(record)
        elif len(record) != len(names):
            yield Rejected(origin, "", "read", "row has another number of fields than the header")
        else:
            yield origin, dict(zip(names, record, strict=True))
    if names is None:
        yield Rejected(f"{file}:0", "", "read", "file is empty")


def _header(record: list[str]) -> tuple[str, ...]:
    return tuple((fields.as_text(name) or "").strip() for name in record)


def _records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """Yields (line, fields) per record, or (line, reason) where it is broken."""
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_RECORD))
    with lines.open_bytes(path) as raw:
        source = None
        try:
            source = _Lines(io.TextIOWrapper(raw, _encoding(raw), errors=_mark_error(), newline=""))
            yield from _split(source, delimiter)
        except lines.BROKEN:
            number = source.number + 1 if source else 0
            yield number, "compressed file is broken: all after this row is lost"


def _encoding(raw: IO[bytes]) -> str:
    start = raw.peek(4)[:4]  # type: ignore[attr-defined]
    if start in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
        return "utf-32"
    return "utf-16" if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _mark_error() -> str:
    """The name of a handler that puts a mark in place of bytes that cannot be decoded."""
    codecs.register_error("table-flaw", lambda error: (_FLAW, error.end))  # type: ignore[attr-defined]
    return "table-flaw"


def _split(source: _Lines, delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    width = 0
    while True:
        source.begin()
        try:
            record = next(reader, None)
        except csv.Error:
            source.retreat()
            record = "quotes are not as CSV has them"
            # Many a TSV has no quoting at all: there a quote is a character like others.
            parts = source.taken[0].rstrip("\r\n").split(delimiter)
            if delimiter == "\t" and len(parts) == width:
                record = parts
        if record is None:
            return
        if record:
            # A flaw in the header only makes an odd name.
            yield source.number + 1, (source.flaw() if width else "") or record
            width = width or len(record)


class _Lines:
    """The lines of a file for csv.reader, which can be given again when a record turns out broken."""

    def __init__(self, stream: io.TextIOBase) -> None:
        self.stream = stream
        self.number = 0  # of the last line before the record
        self.taken: list[str] = []  # the lines of the record
        self.waiting: deque[str] = deque()
        self.size = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.waiting.popleft() if self.waiting else self._read()
        if not line:
            raise StopIteration
        self.taken.append(line)
        self.size += len(line)
        if self.size > _MAX_RECORD:
            raise csv.Error("the record is too long")
        return line

    def _read(self) -> str:
        line = self.stream.readline(_MAX_RECORD)
        if len(line) == _MAX_RECORD and not line.endswith(("\n", "\r")):
            while (rest := self.stream.readline(_MAX_RECORD)) and not rest.endswith(("\n", "\r")):
                pass
            return _OVERLONG
        return line.replace("\0", "") if "\0" in line else line

    def begin(self) -> None:
        """A record begins."""
        self.number += len(self.taken)
        self.taken, self.size = [], 0

    def retreat(self) -> None:
        """Gives all lines of the record but the first again."""
        self.waiting.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]

    def flaw(self) -> str:
        """What is wrong with the record's lines, '' for nothing."""
        if any(_OVERLONG in line for line in self.taken):
            return "line is too long"
        return "row is not text in the file's encoding" if any(_FLAW in line for line in self.taken) else ""
