"""Writing a folder so that half of one never looks whole."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from input_pipeline.errors import UserError
from jaxllava import hosts

WAIT_MINUTES = 30.0  # for the slowest host's part of the weights


@contextlib.contextmanager
def whole_folder(target: str | Path) -> Iterator[Path]:
    """Gives a temporary folder beside `target`, which takes its name when the block ends without an error.

    A model folder (one with a config.json) that is already there is replaced; any other non-empty folder is a
    UserError. On several hosts every host gets the same path, and the first one makes and renames it.
    """
    target = Path(target).absolute()
    if (
        target.exists()
        and not (target / "config.json").is_file()
        and (target.is_file() or any(target.iterdir()))
    ):
        raise UserError(f"{target} exists and is not a model folder; remove it or choose another name.")
    temporary = target.with_name(f".{target.name}.unfinished")
    first = jax.process_index() == 0
    if first:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
    _wait("made")
    try:
        yield temporary
    except BaseException:
        if first:
            _remove(temporary)
        raise
    _wait("written")
    if first:
        old = target.with_name(f".{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        temporary.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    _wait("renamed")


def _remove(folder: Path, attempts: int = 40) -> None:
    """Also where a writer in the background, which does not know of the failure yet, still adds to it."""
    for _ in range(attempts):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)


def _wait(what: str) -> None:
    hosts.barrier(f"the model folder, {what}", WAIT_MINUTES)
