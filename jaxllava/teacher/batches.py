"""A provider's batch files as commands use them: what is lacking goes into files, and their results into the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from input_pipeline.errors import UserError
from jaxllava.teacher import batch_files
from jaxllava.teacher.messages import Answer, Failure, Request
from jaxllava.teacher.open import model_name, open_cache
from jaxllava.teacher.settings import Settings

WAITING = "its answer is not there yet"


class Kept:
    """A `Teacher` that has the answers of the cache and no other: for whatever goes by what was answered before.

    requests, lacking: how many it was asked, and how many of them it could not answer; each of these is told to `tell`.
    """

    def __init__(self, settings: Settings, tell: Callable[[Request], None] = lambda request: None) -> None:
        self.model = model_name(settings)
        self.requests = self.lacking = 0
        self._tell = tell
        self._cache = open_cache(settings, must_exist=True)

    @property
    def spent(self) -> float:
        return 0.0

    def ask(self, requests: Iterable[Request]) -> Iterator[Answer | Failure]:
        """See `Teacher.ask`."""
        for request in requests:
            self.requests += 1
            kept = None if self._cache is None else self._cache.get(request.identity(self.model), request.key)
            if kept is None:
                self.lacking += 1
                self._tell(request)
                yield Failure(request.key, WAITING)
            else:
                yield kept


def read(files: Sequence[Path], folder: Path, settings: Settings) -> str:
    """Reads results of the batch files in `folder` into the cache, which the settings have to name."""
    cache = open_cache(settings)
    assert cache is not None
    try:
        done = batch_files.read(files, folder, cache)
    finally:
        cache.close()
    failed = "".join(
        f"; failed, {reason}: {count}{f' ({done.details[reason]})' if reason in done.details else ''}"
        for reason, count in done.failures.most_common()
    )
    return (
        f"{done.answers} answers and {done.refused} refusals read; {done.missing} without a result, {done.foreign} "
        f"lines of other requests, {done.malformed} lines that are none of a batch's{failed}"
    )


def write(ask: Callable[[Kept], object], folder: Path, settings: Settings, limit_name: str) -> str:
    """Writes batch files of what the cache lacks. `ask` asks the teacher that it is given all there is to ask."""
    writer = batch_files.Writer(settings.model, folder, limit_name)
    kept = Kept(settings, writer.add)
    ask(kept)
    done = writer.finish()
    failed = f"; {len(done.failures)} cannot be written" if done.failures else ""
    return (
        f"{len(done.files)} batch files in {folder}: of {kept.requests} requests {kept.requests - kept.lacking} are "
        f"kept, and {done.repeated} are repeated{failed}"
    )


def check_kept(kept: Kept, prefix: str = "") -> None:
    """Raises UserError where results were read and a command has use for none of them."""
    if kept.requests and kept.lacking == kept.requests:
        raise UserError(
            f"--{prefix}batch-in: none of these answers is to what this command asks; give it with the flags that the "
            "batch files were written with (the model's name, the limit of an answer, prompts ...)"
        )
