"""The order in which hosts are asked: a bounded queue for each, and a pace that every request keeps to.

A host that waits holds up no thread: threads take whichever host has its turn next.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from input_pipeline.download.fetch import Answer
from input_pipeline.download.http import Target
from input_pipeline.download.robots import Rules
from input_pipeline.download.settings import Settings

TICK = 0.05  # seconds between two looks at what no one is woken for: signals and deadlines

_HOSTS = 1024  # whose state is kept; beyond it, those that have nothing to do are forgotten


@dataclass
class Stop:
    """Why a run ends early, '' while it does not. It is set without a lock, as a signal may do it."""

    why: str = ""

    def set(self, why: str) -> None:
        """The first reason stays."""
        self.why = self.why or why


@dataclass
class Task:
    """One picture to fetch. A redirect changes its target."""

    url: str
    key: bytes
    name: str
    target: Target
    tries: int = 0
    hops: int = 0


@dataclass
class Host:
    """The tasks of one host, and what is known of it."""

    name: str
    queue: deque[Task] = field(default_factory=deque)
    waiting: list[tuple[float, int, Task]] = field(default_factory=list)  # a heap by the time of the next try
    active: int = 0
    next_at: float = 0.0  # no request before
    turn: tuple[float, float] = (0.0, 0.0)  # what next_at was before and after the last turn was taken
    listed: float | None = None  # its time in the order of hosts
    failures: int = 0  # in a row: it could not be reached, or asked to be left alone
    closed: Answer | None = None  # what every URL of it gets in this run
    rules: Rules | None = None
    asked: bool = False

    def size(self) -> int:
        """How many tasks there are, with those under way."""
        return len(self.queue) + len(self.waiting) + self.active

    def ready_at(self) -> float | None:
        """When it has something to do; None where it has nothing."""
        if self.queue:
            due = 0.0
        elif self.waiting:
            due = self.waiting[0][0]
        else:
            return None
        return 0.0 if self.closed else max(self.next_at, due)


class Queue:
    """All hosts. One thread puts tasks in; others take them, and give each back in one of four ways.

    After `take`: `finish` (its outcome is known), `again` (at once), `later` or `move`; then always `release`.
    """

    def __init__(self, settings: Settings, stop: Stop) -> None:
        self.settings, self.stop = settings, stop
        self.pending = 0  # tasks that were put in and have no outcome
        self.stored = 0
        self._change = threading.Condition()
        self._hosts: OrderedDict[str, Host] = OrderedDict()
        self._order: list[tuple[float, int, Host]] = []  # a heap by when they have something to do
        self._turn = 0  # breaks ties in the heaps
        self._active = 0
        self._closed = False

    def put(self, task: Task, idle: Callable[[], None]) -> None:
        """Adds a task; waits while its host, or all together, have too many. `idle` is called meanwhile."""
        limit = self.settings.queue
        with self._change:
            while not self.stop.why and (
                self._host(task.target.host).size() >= limit or self.pending >= 10 * limit
            ):
                self._change.wait(TICK)
                idle()
            host = self._host(task.target.host)
            host.queue.append(task)
            self.pending += 1
            self._list(host)

    def close(self) -> None:
        """Says that no more tasks come."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    def take(self) -> tuple[Host, Task] | None:
        """Waits for a host's turn and returns its next task; None when all is done or stopped."""
        with self._change:
            while not self.stop.why and (self.pending or not self._closed):
                wait = 4 * TICK
                if self._order:
                    now = time.monotonic()
                    at, _, host = self._order[0]
                    if host.listed != at:  # it was listed anew, for another time
                        heapq.heappop(self._order)
                        continue
                    if at > now:
                        wait = min(wait, at - now)
                    elif self._room():
                        heapq.heappop(self._order)
                        host.listed = None
                        if (task := self._start(host, now)) is not None:
                            return host, task
                        continue
                self._change.wait(wait)
            self._change.notify_all()
            return None

    def release(self, host: Host, asked: bool) -> None:
        """Ends what `take` began. Where the host was not asked, its turn is given back."""
        with self._change:
            if not asked and host.next_at == host.turn[1]:
                host.next_at = host.turn[0]
            host.active -= 1
            self._active -= 1
            self._list(host)

    def finish(self, stored: bool) -> None:
        """Counts a task whose outcome is known."""
        with self._change:
            self.pending -= 1
            self.stored += stored
            self._change.notify_all()

    def again(self, host: Host, task: Task) -> None:
        """Puts a task back as the next of its host, a full interval from now."""
        with self._change:
            host.next_at = max(host.next_at, time.monotonic() + self._interval(host))
            host.queue.appendleft(task)

    def later(self, host: Host, task: Task, wait: float, whole_host: bool) -> None:
        """Puts a task back for a time when `wait` seconds have gone by; with `whole_host`, all the host's tasks."""
        due = time.monotonic() + wait
        with self._change:
            if whole_host:
                host.next_at = max(host.next_at, due)
            self._turn += 1
            heapq.heappush(host.waiting, (due, self._turn, task))

    def move(self, task: Task) -> None:
        """Hands a task to the host of its target. This never waits, for that host's own tasks may do the same."""
        with self._change:
            host = self._host(task.target.host)
            host.queue.appendleft(task)
            self._list(host)

    def pace(self, name: str) -> None:
        """Waits for a host's turn, for a request that no task stands for."""
        with self._change:
            host = self._host(name)
            start = max(time.monotonic(), host.next_at)
            host.next_at = start + self._interval(host)
        while not self.stop.why and (left := start - time.monotonic()) > 0:
            time.sleep(min(TICK, left))

    # All below are called with the lock held.

    def _room(self) -> bool:
        """Whether one more file fits under the limit: each request under way may become one."""
        limit = self.settings.max_files
        if limit is not None and self.stored >= limit:
            self.stop.set("max_files is reached")
        return limit is None or self.stored + self._active < limit

    def _start(self, host: Host, now: float) -> Task | None:
        ready = host.ready_at()
        if ready is None or ready > now:
            self._list(host)
            return None
        due = host.waiting and (host.waiting[0][0] <= now or not host.queue)
        task = heapq.heappop(host.waiting)[2] if due else host.queue.popleft()
        host.active += 1
        self._active += 1
        host.turn = host.next_at, now + self._interval(host)
        host.next_at = host.turn[1]
        self._list(host)
        return task

    def _host(self, name: str) -> Host:
        host = self._hosts.get(name)
        if host is None:
            now = time.monotonic()
            if len(self._hosts) >= _HOSTS:
                idle = (other for other in self._hosts.values() if not other.size() and other.next_at <= now)
                if (oldest := next(idle, None)) is not None:
                    del self._hosts[oldest.name]
            host = self._hosts[name] = Host(name)
        self._hosts.move_to_end(name)
        return host

    def _list(self, host: Host) -> None:
        """Puts a host that has something to do where it belongs in the order."""
        alone = self.settings.respect_robots and host.rules is None  # until the rules are known
        if host.active >= (1 if alone else self.settings.connections_per_host):
            return
        at = host.ready_at()
        if at is not None and at != host.listed:
            self._turn += 1
            host.listed = at
            heapq.heappush(self._order, (at, self._turn, host))
            self._change.notify_all()

    def _interval(self, host: Host) -> float:
        return max(1 / self.settings.requests_per_second, host.rules.delay if host.rules else 0.0)
