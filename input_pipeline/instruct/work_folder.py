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
    work = out.with_name(f".{out.name}.partial")
    try:
        work.mkdir(parents=True, exist_ok=True)
        held = (work / "lock").open("w")
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror}); give another folder") from None
    with held as lock:
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
