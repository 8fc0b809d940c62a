"""Rows of tables as the `datasets` library and others export them: parquet, JSON lines and JSON lists.

Every row comes as JSON has it, whatever the file's own types are, and with the place that it has in the file.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from input_pipeline.errors import UserError
from input_pipeline.sources import fields, lines
from input_pipeline.sources.rejected import Rejected

Row = dict[str, Any]

PARQUET_SUFFIXES = (".parquet", ".pq")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
_LARGE_GROUP = 64 * 2**20  # bytes of a row group of a parquet file, before compression
_PEEK = 1000  # objects whose keys stand for the columns of a JSON file
# Where reading goes on after a broken element of a list.
_RECORD = re.compile(r'\{\s*"(?:url|permalink|video_id|id|title|post_id)"\s*:')


def suffix_of(path: str | Path) -> str:
    """Returns a file's suffix in lower case, without that of its compression."""
    name = Path(path).name.lower()
    return PurePosixPath(name.removesuffix(".gz").removesuffix(".zst")).suffix


def header(path: str | Path) -> tuple[str, ...]:
    """Returns the names of a table's columns, () where they cannot be read: `read` will tell why.

    JSON has no header: there it is every key of the first 1000 objects.
    """
    path = Path(path)
    if _format(path) == "parquet":
        with lines.open_bytes(path) as raw:
            file = _open_parquet(raw)
            return tuple(file.schema_arrow.names) if file else ()
    keys: dict[str, None] = {}
    for item in itertools.islice(_json_rows(path), _PEEK):
        if not isinstance(item, Rejected):
            keys |= dict.fromkeys(item[1])
    return tuple(keys)


def read(
    path: str | Path, wanted: Collection[str] | None = None, batch_rows: int = 1024
) -> Iterator[tuple[str, Row] | Rejected]:
    """Yields ('file:record', row) for each row of a parquet or JSON file, and Rejected for what is broken.

    Values are such as JSON has; times are seconds since the epoch, where they have no zone taken as UTC.

    Args:
        path: .parquet, .jsonl or .json.
        wanted: the columns to read, all by default (JSON objects always come whole).
        batch_rows: how many rows of a parquet file are held in memory at a time.

    Raises:
        UserError: the file is missing or of another format.
    """
    path = Path(path)
    return _parquet_rows(path, wanted, batch_rows) if _format(path) == "parquet" else _json_rows(path)


def _format(path: Path) -> str:
    suffix = suffix_of(path)
    if suffix in PARQUET_SUFFIXES:
        if suffix != path.suffix.lower():
            raise UserError(f"{path}: parquet is compressed in itself; unpack the file")
        return "parquet"
    if suffix in JSON_SUFFIXES:
        return "json"
    raise UserError(f"{path}: unknown format; give a .parquet, .jsonl or .json file")


def _json_rows(path: Path) -> Iterator[tuple[str, Row] | Rejected]:
    for item in lines.read_list(path, _RECORD) if _is_list(path) else lines.read_objects(path):
        if isinstance(item, Rejected) or isinstance(item[1], dict):
            yield item
        else:
            yield Rejected(item[0], "", "read", "element is not an object")


def _is_list(path: Path) -> bool:
    """Whether a .json file holds a list: what `to_json` writes under that name are lines."""
    return suffix_of(path) == ".json" and lines.head(path, 4096).startswith(b"[")


def _open_parquet(raw: IO[bytes]) -> pq.ParquetFile | None:
    """Opens a file such that neither a large row group nor a broken page is held in memory as a whole.

    Without a buffer a row group's columns are read at once; with one they are read page by page, and then a broken
    page may claim to have gigabytes and gets them. So only files with large row groups are buffered.
    """
    options: dict[str, Any] = {"pre_buffer": False, "page_checksum_verification": True}
    try:
        file = pq.ParquetFile(raw, **options)
        groups = (file.metadata.row_group(group) for group in range(file.num_row_groups))
        # What is said of single columns is not asked for: where it is broken, Arrow ends the process.
        if any(group.total_byte_size > _LARGE_GROUP for group in groups):
            file = pq.ParquetFile(raw, buffer_size=2**20, **options)
    except Exception:  # corrupt files raise more than Arrow's own errors
        return None
    return file


def _parquet_rows(
    path: Path, wanted: Collection[str] | None, batch_rows: int
) -> Iterator[tuple[str, Row] | Rejected]:
    with lines.open_bytes(path) as raw:
        file = _open_parquet(raw)
        if file is None:
            yield Rejected(f"{fields.as_text(str(path))}:0", "", "read", "file is not parquet")
            return
        source = fields.as_text(str(path))  # a name need not be UTF-8
        columns = None if wanted is None else [name for name in file.schema_arrow.names if name in wanted]
        number = 0
        for group in range(file.num_row_groups):
            first = number
            batches = _batches(file, group, columns, batch_rows)
            while True:
                try:
                    batch = next(batches, None)
                except Exception:  # see above
                    yield Rejected(f"{source}:{number + 1}", "", "read", "the rest of a row group is broken")
                    number = max(number, first + file.metadata.row_group(group).num_rows)
                    break
                if batch is None:
                    break
                for row in _batch_rows(batch):
                    number += 1
                    origin = f"{source}:{number}"
                    yield (
                        Rejected(origin, "", "read", "row cannot be decoded")
                        if row is None
                        else (origin, row)
                    )


def _batches(
    file: pq.ParquetFile, group: int, columns: list[str] | None, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    yield from file.iter_batches(batch_rows, row_groups=[group], columns=columns, use_threads=False)


def _batch_rows(batch: pa.RecordBatch) -> Iterator[Row | None]:
    odd = [column.name for column in batch.schema if not _is_json(column.type)]
    for row in _decoded(batch):
        if row is not None:
            for name in odd:
                row[name] = _as_json(row[name])
        yield row


def _decoded(batch: pa.RecordBatch) -> list[Row | None]:
    try:
        return batch.to_pylist()  # type: ignore[return-value]
    except Exception:  # text that is not UTF-8, times that Python lacks: look for the row
        if batch.num_rows == 1:
            return [None]
    return [row for n in range(batch.num_rows) for row in _decoded(batch.slice(n, 1))]


def _is_json(kind: pa.DataType) -> bool:
    """Whether values of this type come as JSON has them."""
    if pa.types.is_struct(kind):
        return all(_is_json(kind.field(n).type) for n in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _is_json(kind.value_type)
    tests = ("is_string", "is_large_string", "is_integer", "is_floating", "is_boolean", "is_null")
    return any(getattr(pa.types, test)(kind) for test in tests)


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(inner) for inner in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")  # older writers do not mark text as such
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, date):
        value = value if isinstance(value, datetime) else datetime.combine(value, time())
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    return value if value is None or isinstance(value, str | int | float | bool) else None


def listed(names: Collection[str]) -> str:
    """Returns the names of columns for a message, some of them where there are many."""
    clean = [fields.as_text(name) or "''" for name in itertools.islice(names, 40)]
    return ", ".join(clean) + (f" and {len(names) - 40} more" if len(names) > 40 else "")
