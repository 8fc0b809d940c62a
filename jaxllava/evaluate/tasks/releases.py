"""Reads the small files in which benchmarks are released: tables, JSON, lines of text, whatever wrote them.

A bad record never ends a reading: it is yielded as Rejected, with the file and the line (of JSON: the place
in the list) where it stood. A file that as a whole is not what it should be raises UserError.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from input_pipeline.errors import UserError, nearest
from input_pipeline.sources import lines as jsonl
from jaxllava.evaluate.tasks.task import Rejected

_MARKS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig"))


class _Undecoded(UserError):
    """A file with bytes that are not of the encoding that it begins in."""


def text(path: Path) -> str:
    """A file's text: UTF-8 or, with a byte-order mark, UTF-16; bytes that are neither are read as Latin-1."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read as a file ({error.strerror})") from None
    codec = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(codec)
    except UnicodeDecodeError:
        if codec != "utf-8":
            raise _Undecoded(f"{path}: begins as {codec} and is not; get the file anew") from None
        return data.decode("latin-1")


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """('file:line', line) of each line that is not blank, without the blanks around it."""
    for number, line in enumerate(text(path).splitlines(), 1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def json_value(path: Path, kind: type | tuple[type, ...] = (dict, list)) -> Any:
    """A JSON file's value, which has to be a `kind`."""
    try:
        value = json.loads(text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); get the file anew") from None
    if not isinstance(value, kind):
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise UserError(f"{path}: holds a {type(value).__name__} where a {names} is expected")
    return value


def objects(path: Path, own: Sequence[str] = ()) -> Iterator[tuple[str, dict[str, Any]] | Rejected]:
    """('file:place', object) of a list of objects, of an object of objects by its keys, or of lines of JSON.

    Objects of the second kind get their key as "id" where they have none. One that has all the keys of `own` is no
    such object, but a single line.
    """
    try:
        found = json.loads(text(path))
    except (ValueError, RecursionError, _Undecoded):
        yield from _json_lines(path)
        return
    alone = isinstance(found, dict) and bool(own) and set(own) <= set(found)
    if isinstance(found, dict) and (alone or not any(isinstance(value, dict) for value in found.values())):
        found = [found]  # one line of JSON
    if not isinstance(found, dict | list):
        raise UserError(f"{path}: holds no list of objects; it is not the file of that name of the release")
    for key, value in found.items() if isinstance(found, dict) else enumerate(found, 1):
        if isinstance(value, dict):
            yield f"{path}:{key}", ({"id": key} | value if isinstance(found, dict) else value)
        else:
            yield Rejected(f"{path}:{key}", "not an object")


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]] | Rejected]:
    none = True
    for found in jsonl.read_objects(path):
        none &= not isinstance(found, tuple)
        yield found if isinstance(found, tuple) else Rejected(found.origin, found.reason)
    if none:
        raise UserError(f"{path}: neither JSON nor lines of JSON; get the file anew")


def table(
    path: Path,
    columns: Mapping[str, Sequence[str]],
    optional: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[tuple[str, dict[str, str]] | Rejected]:
    """('file:line', {our name: cell}) of a table with a header, separated by commas, semicolons, tabs or
    blanks.

    Which of them is told by the header. `columns` and `optional` give for each of our names the names that
    the release's columns go by; names are compared without case, and cells come without the blanks around
    them. A cell of an optional column that is not there is "".
    """
    rows = _rows(path)
    _, header = next(rows, (0, []))
    header = [name.lower() for name in header]
    place = {name: _column(header, names) for name, names in columns.items()}
    if missing := [columns[name][0] for name, at in place.items() if at is None]:
        raise UserError(f"{path}: no column {missing[0]!r}.{nearest(missing[0], header)}")
    place |= {name: _column(header, names) for name, names in (optional or {}).items()}
    for where, row in rows:
        if len(row) < len(header):
            yield Rejected(where, "too few cells")
        else:
            yield where, {name: "" if at is None else row[at] for name, at in place.items()}


def _rows(path: Path) -> Iterator[tuple[Any, list[str]]]:
    """('file:line', cells) of each row that is not empty, the header first."""
    content = text(path)
    header = next((line for line in content.splitlines() if line.strip()), "")
    delimiter = next((mark for mark in (",", ";", "\t") if mark in header), "")
    if not delimiter:
        yield from ((where, line.split()) for where, line in lines(path))
        return
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter)
    try:
        for row in reader:
            cells = [cell.strip().strip('"').strip() for cell in row]
            if any(cells):
                yield f"{path}:{reader.line_num}", cells
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not a table ({error}); get the file anew") from None


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    return next((header.index(name.lower()) for name in names if name.lower() in header), None)


def number(value: Any) -> float | None:
    """A finite number, of a number or of text; None where it is none."""
    if isinstance(value, bool):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def names(cell: Any) -> list[str]:
    """The names in a cell that holds several: a list, Python's or JSON's text of one, or text with ; | or commas."""
    if isinstance(cell, str):
        if cell.strip().startswith("["):
            try:
                cell = ast.literal_eval(cell.strip())
            except (ValueError, SyntaxError):
                cell = cell.strip().strip("[]")
        if isinstance(cell, str):
            mark = next((m for m in (";", "|", "\n") if m in cell), ",")
            cell = [part.strip().strip("'\"") for part in cell.split(mark)]
    if not isinstance(cell, list | tuple):
        return []
    return [str(name).strip() for name in cell if str(name).strip()]


def first_of(folder: Path, *patterns: str) -> Path | None:
    """The first file in order of its name that the first pattern with any matches."""
    for pattern in patterns:
        if found := sorted(folder.glob(pattern)):
            return found[0]
    return None


def needed(folder: Path, *patterns: str) -> Path:
    """As `first_of`; raises UserError where nothing matches."""
    found = first_of(folder, *patterns)
    if found is None:
        raise UserError(f"{folder} has no {' or '.join(patterns)}")
    return found


def word_of(names_of: Mapping[str, Sequence[str]]) -> Callable[[str], str]:
    """A function from a release's name of a class to ours, else ""; case, blanks and signs do not count."""
    plain = lambda name: "".join(c for c in name.lower() if c.isalnum())
    known = {plain(other): word for word, others in names_of.items() for other in (word, *others)}
    return lambda name: known.get(plain(name), "")
