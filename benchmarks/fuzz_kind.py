"""What is said of a reader under test, so that files for it can be made and its findings counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from benchmarks import fuzz_files as files
from input_pipeline.sources import media
from input_pipeline.sources.lines import Passed

Read = Callable[[Path, media.Library], Iterator[Any]]


class Wrong(AssertionError):
    """What a reader yielded is not as it should be."""


def _one_each(records: list[Any], items: list[Any]) -> tuple[int, int]:
    return len(records), len(items)


def _id_of(item: Any) -> str:
    return item.id


def _weight(item: Any) -> int:
    return item.count if isinstance(item, Passed) else 1


@dataclass(frozen=True)
class Kind:
    """One reader, and how its files are made.

    Fields:
        record: draws a sound record.
        read: reads a file.
        write, layouts: make a file of records, in one of these layouts.
        lines: the layouts with a record to a line, where a line that is broken is the only one to be lost.
        parts: the dicts of a record that may be spoilt without a change in the number of records; None: all of it.
        kept: keys in them that would change the number.
        count: how many records a sound record is.
        account: (records, items) -> (how many records there are, how many are accounted for), where `count` is None.
        size: records a file.
        packs: whether the file may be .gz or .zst.
        apart: whether what is wrong with one record leaves the others as they are.
        names: (record) -> names that must come through, as `told` says them of what is yielded, where the record is
            sound, whatever is wrong with its neighbours. None: not looked at.
        weight: (item) -> how many records it accounts for.
        refuses: whether the file as a whole may be refused: a UserError, one line that names it.
        is_binary: whether most files are to be spoilt by their bytes, and lightly.
        is_named: whether the files must have the names that they have.
    """

    record: Callable[[Random], Any]
    read: Read
    write: files.Write = files.as_json
    layouts: tuple[str, ...] = ("lines",)
    lines: tuple[str, ...] = ("lines",)
    parts: Callable[[Any], list[Any]] | None = None
    kept: tuple[str, ...] = ()
    count: Callable[[Any], int] | None = None
    account: Callable[[list[Any], list[Any]], tuple[int, int]] = _one_each
    size: int = 50
    packs: bool = True
    apart: bool = True
    names: Callable[[Any], Iterable[str]] | None = None
    told: Callable[[Any], str] = _id_of
    weight: Callable[[Any], int] = _weight
    refuses: bool = False
    is_binary: bool = False
    is_named: bool = False
