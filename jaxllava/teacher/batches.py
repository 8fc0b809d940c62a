"""A provider's batch files as commands use them: from settings to files, and to a line that tells what was done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from input_pipeline.errors import UserError
from jaxllava.teacher import batch_files
from jaxllava.teacher.messages import Answer, Failure, Request
from jaxllava.teacher.open import is_folder, model_name, open_cache
from jaxllava.teacher.settings import Settings

WAITING = "its answer is not there yet"


def write(requests: Iterable[Request], folder: Path, settings: Settings) -> str:
    """Writes what the cache lacks; see `batch_files.write`. Raises UserError for a checkpoint: no provider has it."""
    if is_folder(settings):
        raise UserError(
            f"batch files are for a provider's model, and {settings.model} is a folder; give the command without them"
        )
    cache = open_cache(settings, must_exist=True)
    try:
        done = batch_files.write(requests, settings.model, folder, cache)
    finally:
        if cache is not None:
            cache.close()
    failed = f"; {len(done.failures)} cannot be written" if done.failures else ""
    told = f"{done.requests} requests, {done.kept} of them kept and {done.repeated} repeated{failed}"
    return f"{len(done.files)} batch files in {folder}: {told}"


def read(files: Sequence[Path], folder: Path, settings: Settings) -> str:
    """Reads results of the batch files in `folder` into the cache, which the settings have to name."""
    cache = open_cache(settings)
    assert cache is not None
    try:
        done = batch_files.read(files, folder, cache)
    finally:
        cache.close()
    told = "".join(f"; failed, {reason}: {count}" for reason, count in done.failures.most_common())
    return (
        f"{done.answers} answers and {done.refused} refusals read; {done.missing} without a result, {done.foreign} "
        f"lines of other requests, {done.malformed} lines that are none of a batch's{told}"
    )


class Kept:
    """A `Teacher` that knows what the cache has and nothing else: for whatever asks by what was answered before.

    `lacking` has, in order, what it was asked and could not answer.
    """

    def __init__(self, settings: Settings) -> None:
        self.model = model_name(settings)
        self.lacking: list[Request] = []
        self._cache = open_cache(settings, must_exist=True)

    @property
    def spent(self) -> float:
        return 0.0

    def ask(self, requests: Iterable[Request]) -> Iterator[Answer | Failure]:
        """See `Teacher.ask`."""
        for request in requests:
            kept = None if self._cache is None else self._cache.get(request.identity(self.model), request.key)
            if kept is None:
                self.lacking.append(request)
                yield Failure(request.key, WAITING)
            else:
                yield kept

    def close(self) -> None:
        """Closes the cache."""
        if self._cache is not None:
            self._cache.close()
