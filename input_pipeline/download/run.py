"""Fetches the pictures that records link to into a folder: only when asked to, politely, and as often as needed.

Nothing else in the project touches the network. The folder is then given to `prepare` as a folder of media, which
finds the pictures by name. Running it again goes on where it stopped; `download.jsonl` in the folder says what
became of every URL. Each host is asked at its own pace; one thread reads what is wanted, a few ask the hosts.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from input_pipeline.download import robots
from input_pipeline.download.fetch import Answer, Fetcher
from input_pipeline.download.http import Http, target_of
from input_pipeline.download.log import (
    NAME_TAKEN,
    OTHER_NAME_TAKEN,
    DiskError,
    Entry,
    Ledger,
    url_key,
)
from input_pipeline.download.queue import TICK, Host, Queue, Stop, Task
from input_pipeline.download.settings import Settings
from input_pipeline.download.wanted import Wanted, stem_of, unwanted_reason, wanted_of
from input_pipeline.errors import UserError

__all__ = ["Settings", "Summary", "Wanted", "download", "unwanted_reason", "wanted_of"]

Progress = Callable[..., object]  # progress(done, total so far, note)

_PATIENCE = 3.0  # seconds that threads have to end after a stop; what still resolves a name is left to itself


@dataclass(frozen=True)
class Summary:
    """What a run did.

    `counts` is by outcome of this run: ok, gone, refused, failed. `known` counts what was not asked for: 'ok',
    'gone' and 'refused' by an earlier run, 'there' in the folder though no log knows it, 'repeated' in the input.
    `reasons` counts (outcome, reason). `stopped` is '' or why the run ended before all was asked for.
    """

    counts: Counter[str]
    known: Counter[str]
    reasons: Counter[tuple[str, str]]
    bytes: int  # received
    seconds: float
    hosts: int  # that were asked
    stopped: str = ""

    def text(self) -> str:
        """The summary in three or four lines."""
        lines = [
            ", ".join(f"{self.counts[name]} {name}" for name in ("ok", "gone", "refused", "failed"))
            + f"; {self.bytes / 1e6:.1f} MB from {self.hosts} hosts in {self.seconds:.0f} s",
            "not asked for: "
            + (", ".join(f"{count} {name}" for name, count in sorted(self.known.items())) or "none"),
        ]
        if self.reasons:
            common = self.reasons.most_common(5)
            lines.append("why: " + ", ".join(f"{count} {why} ({name})" for (name, why), count in common))
        if self.stopped:
            lines.append(f"stopped early: {self.stopped}; run it again to go on")
        elif self.counts["failed"]:
            lines.append("what failed is asked for again by the next run")
        return "\n".join(lines)


def download(
    wanted: Iterable[Wanted], folder: str | Path, settings: Settings, progress: Progress | None = None
) -> Summary:
    """Fetches what is wanted and is not in the folder yet.

    SIGINT and SIGTERM end the run within seconds; the summary then has `stopped='interrupted'`. A second signal
    raises KeyboardInterrupt at once.

    Args:
        wanted: read as it is needed; it may be of any length.
        folder: made if it is missing.
        settings: `contact` must be set.
        progress: called now and then, from this thread, with (done, read so far, a note).

    Raises:
        UserError: settings that make no sense, a folder that cannot be written to, or another run in it.
    """
    settings.check()
    with Ledger(Path(folder)) as ledger:
        run = _Run(ledger, settings, progress)
        with _signals(run):
            return run.go(wanted)


class _Interrupted(BaseException):
    """Leaves a reader of the input that a signal has come upon."""


class _Run:
    def __init__(self, ledger: Ledger, settings: Settings, progress: Progress | None) -> None:
        self.ledger, self.settings, self.progress = ledger, settings, progress
        self.stop = Stop()
        self.queue = Queue(settings, self.stop)
        self.client = Http(settings)
        self.fetcher = Fetcher(ledger.folder, settings, self.client, self._spend)
        self.mutex = threading.Lock()  # of the counts
        self.read = self.received = self.hosts = 0
        self.ended = threading.Event()
        self.reading = self.interrupted = False
        self.error: BaseException | None = None
        self.counts: Counter[str] = Counter()
        self.known: Counter[str] = Counter()
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.start = self.reported = time.monotonic()

    def go(self, wanted: Iterable[Wanted]) -> Summary:
        count = max(self.settings.hosts_in_parallel, self.settings.connections_per_host)
        # Daemons: a name server that does not answer must not keep the program from ending.
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
        watch = threading.Thread(target=self._watch, daemon=True)
        for thread in (watch, *threads):
            thread.start()
        try:
            self._feed(wanted)
            self.queue.close()
            while not self.stop.why and (alive := [thread for thread in threads if thread.is_alive()]):
                alive[0].join(TICK)
                self._report()
        except BaseException:
            self.stop.set("an error")
            raise
        finally:
            end = time.monotonic() + _PATIENCE
            for thread in threads:
                thread.join(max(0.0, end - time.monotonic()))
            with self.mutex:  # what still runs must not write any more
                self.ended.set()
            watch.join()
            self.client.close()
        try:
            if self.error is not None:
                raise self.error
            if linked := self.ledger.link():
                self.counts["ok"] += linked
        except DiskError as error:
            raise UserError(f"{error}; make room or set the rights, then run it again") from None
        self._report(now=True)
        seconds = time.monotonic() - self.start
        return Summary(
            self.counts, self.known, self.reasons, self.received, seconds, self.hosts, self.stop.why
        )

    # What the reading thread does.

    def _feed(self, wanted: Iterable[Wanted]) -> None:
        items = iter(wanted)
        try:
            while not self.stop.why:
                self.reading = True
                item = next(items, None)
                self.reading = False
                if item is None:
                    return
                self._offer(item)
                self.read += 1
                self._report()
        except _Interrupted:
            pass
        except DiskError as error:
            self._fail(error)
        finally:
            self.reading = False

    def _offer(self, item: Wanted) -> None:
        key = url_key(item.url)
        entry = self.ledger.get(key)
        target = target_of(item.url, self.settings)
        if entry is not None and self._settled(entry, refused=isinstance(target, str)):
            self._again(item, key, entry)
        elif isinstance(target, str):
            self.ledger.mark(key, item.name)
            self._record(item.url, key, item.name, Answer("refused", target, policy=True))
        elif not item.name:
            self.ledger.mark(key, item.name)
            self._record(item.url, key, item.name, Answer("refused", "no name to store it under"))
        elif not self.ledger.claim(key, item.name):
            self.ledger.mark(key, item.name)
            self._record(item.url, key, item.name, Answer("refused", NAME_TAKEN))
        elif found := self.ledger.find(item.name):
            self.ledger.write(item.url, found, "ok", reason="was in the folder")
            self.ledger.mark(key, found, "ok")
            self.known["there"] += 1
        else:
            self.ledger.mark(key, item.name)
            self.queue.put(Task(item.url, key, item.name, target), self._report)

    def _settled(self, entry: Entry, refused: bool) -> bool:
        """Whether what is known of a URL stands."""
        if entry.status == "ok":
            return (self.ledger.folder / entry.name).is_file()
        if entry.status == "refused":
            return refused or entry.policy in ("", self.settings.policy)
        return entry.status in ("asked", "gone")

    def _again(self, item: Wanted, key: bytes, entry: Entry) -> None:
        """Takes note of a URL that was seen before; it may be wanted under a further name."""
        if entry.status in ("ok", "asked") and item.name and stem_of(item.name) != stem_of(entry.name):
            if not self.ledger.claim(key, item.name):
                self._record(item.url, key, item.name, Answer("refused", OTHER_NAME_TAKEN))
                return
            if not self.ledger.find(item.name):
                self.ledger.alias(item.url, key, item.name)
                return
        self.known["repeated" if entry.status == "asked" else entry.status] += 1

    def _report(self, now: bool = False) -> None:
        moment = time.monotonic()
        if self.progress is not None and (now or moment - self.reported > 0.2):
            self.reported = moment
            with self.mutex:
                words = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()) if count)
            self.progress(self.read - self.queue.pending, self.read, words)

    # What the asking threads do.

    def _work(self) -> None:
        try:
            while taken := self.queue.take():
                host, task = taken
                asked = True
                try:
                    asked = self._serve(host, task)
                finally:
                    self.queue.release(host, asked)
        except BaseException as error:
            self._fail(error)

    def _serve(self, host: Host, task: Task) -> bool:
        """Does the next thing for a task. False where the host was not asked for it."""
        if host.closed:
            self._settle(task, host.closed)
            return False
        if host.rules is not None and not host.rules.allow(task.target.url):
            self._settle(task, Answer("refused", "robots.txt does not allow it", policy=True))
            return False
        if not host.asked:
            host.asked = True
            with self.mutex:
                self.hosts += 1
        if self.settings.respect_robots and host.rules is None:
            self._read_rules(host, task)
        else:
            self._route(host, task, self.fetcher.fetch(task.target.url, task.name))
        return True

    def _read_rules(self, host: Host, task: Task) -> None:
        found = robots.read(self.client, self.settings, task.target.origin, self.queue.pace)
        if isinstance(found, Answer):
            if found.verdict == "refused":
                host.closed = found
            elif found.verdict == "retry" and task.tries >= self.settings.retries:
                host.closed = Answer("failed", found.reason, found.http)
            self._route(host, task, found)
            return
        host.rules, host.failures = found, 0
        if found.delay > self.settings.max_wait:
            host.closed = Answer("failed", "robots.txt asks for a longer wait than max_wait")
        self.queue.again(host, task)

    def _route(self, host: Host, task: Task, answer: Answer) -> None:
        """Does what an answer asks for."""
        if answer.verdict == "stopped" or (self.stop.why and answer.verdict == "retry"):
            return
        host.failures = host.failures + 1 if answer.down or answer.slow else 0
        if host.failures >= self.settings.host_failures and not host.closed:
            host.closed = Answer("failed", "host failed too often in a row")
        if answer.verdict == "moved":
            self._move(task, answer)
        elif answer.verdict == "retry":
            self._retry(host, task, answer)
        else:
            self._settle(task, answer)

    def _retry(self, host: Host, task: Task, answer: Answer) -> None:
        task.tries += 1
        wait = answer.wait
        if wait is None:
            jitter = random.Random(f"{self.settings.seed} {task.url} {task.tries}").uniform(0.5, 1.5)
            wait = min(self.settings.backoff * 2 ** min(task.tries - 1, 30) * jitter, self.settings.max_wait)
        too_long = wait > self.settings.max_wait
        if too_long and answer.slow:
            # To come back sooner than told would be rude.
            host.closed = host.closed or Answer(
                "failed", "host asks for a longer wait than max_wait", answer.http
            )
        if too_long or host.closed or task.tries > self.settings.retries:
            self._settle(task, Answer("failed", answer.reason, answer.http))
        else:
            self.queue.later(host, task, wait, whole_host=answer.slow)

    def _move(self, task: Task, answer: Answer) -> None:
        """Follows a redirect: the host that it names has a pace and rules of its own."""
        target = target_of(answer.location, self.settings)
        task.hops += 1
        if task.hops > self.settings.max_redirects:
            self._settle(task, Answer("refused", "too many redirects", answer.http, policy=True))
        elif isinstance(target, str):
            self._settle(task, Answer("refused", f"redirect: {target}", answer.http, policy=True))
        else:
            task.target = target
            self.queue.move(task)

    def _settle(self, task: Task, answer: Answer) -> None:
        self._record(task.url, task.key, answer.name or task.name, answer)
        self.queue.finish(stored=answer.verdict == "ok")

    def _record(self, url: str, key: bytes, name: str, answer: Answer) -> None:
        with self.mutex:
            if self.ended.is_set():
                return
            policy = self.settings.policy if answer.policy else ""
            values = {field: getattr(answer, field) for field in ("http", "bytes", "sha256", "type")}
            self.ledger.write(url, name, answer.verdict, reason=answer.reason, policy=policy, **values)
            if answer.verdict == "ok":
                self.ledger.mark(key, name, "ok")
            self.counts[answer.verdict] += 1
            if answer.reason:
                self.reasons[answer.verdict, answer.reason] += 1

    def _spend(self, count: int) -> bool:
        with self.mutex:
            self.received += count
            limit = self.settings.max_total_bytes
            if limit is None or self.received < limit:
                return True
        self.stop.set("max_total_bytes is reached")
        return False

    def _fail(self, error: BaseException) -> None:
        self.error = self.error or error
        self.stop.set("an error")

    def _watch(self) -> None:
        """Holds deadlines, and cuts what is under way after a stop."""
        while not self.ended.wait(TICK):
            if self.stop.why:
                self.client.stop()
            self.client.sweep()


@contextmanager
def _signals(run: _Run) -> Iterator[None]:
    """Makes SIGINT and SIGTERM stop the run. Inert outside the main thread."""

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        if run.interrupted:
            raise KeyboardInterrupt
        run.interrupted = True
        run.stop.set("interrupted")  # no locks here: the thread that holds one may be this one
        if run.reading:
            raise _Interrupted

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
