"""Writes records as the files that readers take, each in the ways in which such files are found."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.fuzz_damage import dumps

Write = Callable[[Random, list[Any], str], dict[str, bytes]]  # (rng, records, layout) -> {file name: content}


def as_json(rng: Random, rows: list[Any], layout: str, broken: float = 0.2) -> dict[str, bytes]:
    """A list, or a record to a line. In a share `broken` of the files lone surrogates are bytes that are not UTF-8."""
    ascii_only = rng.random() > broken
    if layout == "list":
        indent = rng.choice((None, None, 1))
        return {"a.json": dumps(rows, ensure_ascii=ascii_only, indent=indent)}
    return {"a.jsonl": b"\n".join(dumps(row, ensure_ascii=ascii_only) for row in rows) + b"\n"}


def answers(wrap: Callable[[list[Any]], Any]) -> Write:
    """Records in answers of an API: one per line, in a list, or one alone."""

    def write(rng: Random, rows: list[Any], layout: str) -> dict[str, bytes]:
        if layout == "one":
            return {"a.json": dumps(wrap(rows), indent=rng.choice((None, 1)))}
        some = []
        while rows:
            size = rng.randint(1, 5)
            some.append(wrap(rows[:size]))
            rows = rows[size:]
        return as_json(rng, some, layout, broken=0)

    return write


def pairs(rng: Random, rows: list[Any], layout: str) -> dict[str, bytes]:
    """LAMBDA's questions, and their answers in a file of their own."""
    sides = {"q": [], "a": []}
    for row in rows:
        row = row if isinstance(row, dict) else {}
        sides["q"].append(row.get("question"))
        sides["a"].append(row.get("answer"))
    if rng.random() < 0.5:
        rng.shuffle(sides["a"])
    return {f"bs_{side}.json": dumps(found) for side, found in sides.items()}


def _cell(value: Any) -> str:
    if isinstance(value, str | float | int) or value is None:
        return "" if value is None else str(value)[:9000]
    return dumps(value).decode("utf-8", "surrogatepass")


def _rows(rows: list[Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """The columns of the first row, which is sound, and the rows as far as they are any."""
    return list(rows[0]), [row if isinstance(row, dict) else {} for row in rows]


def as_csv(rng: Random, rows: list[Any], layout: str) -> dict[str, bytes]:
    """CSV or TSV with every cell in quotes."""
    names, found = _rows(rows)
    out = io.StringIO(newline="")
    writer = csv.writer(
        out,
        delimiter="," if layout == "csv" else "\t",
        lineterminator=rng.choice(("\n", "\r\n")),
        quoting=csv.QUOTE_ALL,
    )
    writer.writerow(names)
    writer.writerows([_cell(row.get(name)) for name in names] for row in found)
    return {f"a.{layout}": out.getvalue().encode("utf-8", "surrogatepass")}


def as_parquet(rng: Random, rows: list[Any], layout: str) -> dict[str, bytes]:
    """Parquet with pages and groups of rows of any size, as several programs write it."""
    names, found = _rows(rows)
    columns = {name: _column(rng, [row.get(name) for row in found]) for name in names}
    options: dict[str, Any] = {
        "row_group_size": rng.choice((7, 1000)),
        "compression": rng.choice(("none", "snappy", "zstd", "gzip")),
        "use_dictionary": rng.random() < 0.5,
        "write_page_checksum": rng.random() < 0.5,
        "data_page_size": rng.choice((64, 2**20)),
    }
    while True:
        out = io.BytesIO()
        try:
            pq.write_table(pa.table(columns), out, **options)
        except pa.ArrowNotImplementedError:  # objects without a key, which parquet lacks
            columns = {
                name: pa.nulls(len(rows)) if _nested(column) else column for name, column in columns.items()
            }
        else:
            return {"a.parquet": out.getvalue()}


def _nested(column: pa.Array) -> bool:
    return pa.types.is_nested(column.type)


def _column(rng: Random, values: list[Any]) -> pa.Array:
    """A column as somebody may have written it: in its own type as far as that goes, or in another one."""
    style = rng.choice(
        ("own",) * 20 + ("text", "bytes", "flawed", "time", "date", "decimal", "float", "none", "words")
    )
    try:
        if style == "own":
            return _own([_plain(value) for value in values])
        if style == "none":
            return pa.nulls(len(values))
        if style == "float":
            return pa.array([float(v) if isinstance(v, int | float) else None for v in values], pa.float64())
        if style in ("time", "date", "decimal"):
            kind = {
                "time": rng.choice(
                    (pa.timestamp("ns"), pa.timestamp("s", "UTC"), pa.duration("s"), pa.time64("us"))
                ),
                "date": rng.choice((pa.date32(), pa.date64())),
                "decimal": pa.decimal128(38, 4),
            }[style]
            whole = [v % 10**9 if isinstance(v, int) else rng.choice((None, 2**40)) for v in values]
            if style == "decimal":
                return pa.array(whole, pa.int64()).cast(kind)
            store = pa.int32() if kind in (pa.date32(),) else pa.int64()
            return pa.array([None if v is None else v % 2**31 for v in whole], store).cast(kind, safe=False)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        pass
    plain = pa.array(
        [None if v is None else _cell(v).encode("utf-8", "surrogatepass") for v in values], pa.binary()
    )
    if style == "bytes":
        return plain
    if style == "flawed":  # marked as text, whatever the bytes are
        return plain.cast(pa.string(), safe=False)
    clean = pa.array([None if v is None else _cell(v).encode("utf-8", "replace").decode() for v in values])
    return clean.dictionary_encode() if style == "words" else clean


def _own(values: list[Any]) -> pa.Array:
    """The type of the first value that has one, and null for what does not fit it."""
    kinds = (pa.array([value]).type for value in values if value)
    kind = next((kind for kind in kinds if not pa.types.is_null(kind)), pa.string())
    fitting = []
    for value in values:
        try:
            fitting.append(pa.scalar(value, kind).as_py())
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            fitting.append(None)
    return pa.array(fitting, kind)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key).encode("utf-8", "replace").decode(): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def as_table(rng: Random, rows: list[Any], layout: str) -> dict[str, bytes]:
    """Whatever a table may be, by its layout."""
    return {"csv": as_csv, "tsv": as_csv, "parquet": as_parquet}.get(layout, as_json)(rng, rows, layout)


def as_track(rng: Random, rows: list[Any], layout: str) -> dict[str, bytes]:
    """A caption file in the format that the layout names."""
    write = {"vtt": _vtt, "srt": _srt, "json3": _json3, "srv3": _srv3}[layout]
    return {f"a.{layout}": write(rows[0])}


def as_video(rng: Random, rows: list[Any], layout: str) -> dict[str, bytes]:
    """yt-dlp's or video2dataset's file of one video."""
    return {"a.info.json": dumps(rows[0], ensure_ascii=rng.random() < 0.8)}


# --- captions


def _clock(milliseconds: Any, comma: str) -> str:
    if type(milliseconds) is not int or not 0 <= milliseconds < 10**7:
        return str(milliseconds)[:200]
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{comma}{rest:03d}"


def _cues(value: Any) -> list[tuple[Any, Any, Any]]:
    rows = value.get("cues") if isinstance(value, dict) else None
    found = []
    for row in rows if isinstance(rows, list) else []:
        row = row if isinstance(row, dict) else {"text": row}
        start, length = row.get("start"), row.get("length")
        end = start + length if type(start) is int and type(length) is int else length
        found.append((start, end, row.get("text")))
    return found


def _vtt(value: Any) -> bytes:
    parts = [
        f"{_clock(a, '.')} --> {_clock(b, '.')} align:start\n<c>{text}</c>\n\n" for a, b, text in _cues(value)
    ]
    return ("WEBVTT\nKind: captions\n\n" + "".join(parts)).encode("utf-8", "surrogatepass")


def _srt(value: Any) -> bytes:
    parts = [
        f"{n}\n{_clock(a, ',')} --> {_clock(b, ',')}\n{text}\n\n"
        for n, (a, b, text) in enumerate(_cues(value), 1)
    ]
    return "".join(parts).encode("utf-8", "surrogatepass")


def _srv3(value: Any) -> bytes:
    escape: Callable[[Any], str] = lambda text: str(text).replace("&", "&amp;").replace("<", "&lt;")
    parts = [f'<p t="{a}" d="{b}">{escape(text)}</p>\n' for a, b, text in _cues(value)]
    return f'<?xml version="1.0"?><timedtext format="3"><body>{"".join(parts)}</body></timedtext>'.encode(
        "utf-8", "surrogatepass"
    )


def _json3(value: Any) -> bytes:
    rows = value.get("cues") if isinstance(value, dict) else value
    events: Any = rows
    if isinstance(rows, list):
        events = [
            {
                "tStartMs": r.get("start"),
                "dDurationMs": r.get("length"),
                "segs": [{"utf8": r.get("text")}, {"utf8": "\n"}],
            }
            if isinstance(r, dict)
            else r
            for r in rows
        ]
    return dumps({"wireMagic": "pb3", "events": events})
