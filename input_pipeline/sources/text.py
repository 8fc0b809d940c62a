"""Reads plain text: JSON lines with a "text" field and, where known, an "id"."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from input_pipeline.sources import fields, lines
from input_pipeline.sources.rejected import Rejected


@dataclass(frozen=True)
class Document:
    """One text."""

    id: str
    origin: str
    text: str


def read(path: str | Path) -> Iterator[Document | Rejected]:
    """Yields a Document per line with text in it; the id defaults to 'file name:line'."""
    for item in lines.read_objects(path):
        if isinstance(item, Rejected):
            yield item
            continue
        origin, row = item
        document_id = fields.text(row, "id") or origin.rpartition("/")[2]
        value = fields.text(row, "text")
        if value is None or not value.strip():
            yield Rejected(origin, document_id, "fields", "no text")
        else:
            yield Document(document_id, origin, value.strip())
