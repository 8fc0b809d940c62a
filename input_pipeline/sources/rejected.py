"""What a reader yields in place of a record that it cannot use. Nothing is skipped in silence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rejected:
    """One record that was read but cannot be used.

    `origin` is 'file:line' (or 'file:index'), `stage` where it failed ('read', 'fields', 'media', 'image'),
    and `reason` is a short phrase without names or numbers of the record, so that reports can count it.

    `kind` tells how a run takes it: 'bad' is broken input, and too much of it stops the run; 'gone' is sound
    input whose media is not there, normal for dumps of the web; 'skipped' was never meant as a record.
    """

    origin: str
    id: str
    stage: str
    reason: str
    kind: Literal["bad", "gone", "skipped"] = "bad"
    source: str = ""  # 'reddit', 'youtube', ... where the record is a post

    @property
    def file(self) -> str:
        """The file part of `origin`."""
        return self.origin.rpartition(":")[0]
