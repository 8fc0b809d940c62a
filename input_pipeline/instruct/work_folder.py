"""A folder to work in, beside the one that is to appear as a whole."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from input_pipeline.errors import UserError


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """An empty folder beside `out`, of this run alone; what a killed run left in it goes, and so does it at the end."""
    out.parent.mkdir(parents=True, exist_ok=True)
    work = out.with_name(f".{out.name}.partial")
    work.mkdir(exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{out}: another run is writing it; wait for its end") from None
        for left in work.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            elif left.name != "lock":
                left.unlink()
        try:
            yield work
        finally:
            shutil.rmtree(work)
