"""Ctrl-C and SIGTERM become a flag that a loop reads between steps, so that nothing is cut in the middle of a write."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

LEVELS = {signal.SIGINT: 1, signal.SIGTERM: 2}
# A Ctrl-C may come twice: from the terminal to all of its processes, and forwarded by the launcher, which is one too.
SAME = 1.0  # seconds in which signals are one


class Preempted(KeyboardInterrupt):
    """SIGTERM: the machine is taken away. What was done is saved, which is success."""


class Interrupt:
    """`level` is 0, or that of the first signal (`LEVELS`); a second one, `SAME` seconds later or more, raises
    KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.level = 0
        self._since = 0.0

    @property
    def requested(self) -> bool:
        return self.level > 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if not self.requested:
            self.level, self._since = LEVELS[signal.Signals(number)], time.monotonic()
        elif time.monotonic() - self._since >= SAME:
            raise KeyboardInterrupt


def error(level: int, step: int) -> KeyboardInterrupt:
    """What to raise once the state of `step` is saved."""
    kind = Preempted if level == LEVELS[signal.SIGTERM] else KeyboardInterrupt
    return kind(f"saved at step {step}")


@contextmanager
def handled(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """SIGINT and SIGTERM go to `handle` inside the block. Only the main thread may set it: elsewhere it is inert."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in LEVELS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred() -> Iterator[Interrupt]:
    """Defers SIGINT and SIGTERM inside the block."""
    interrupt = Interrupt()
    with handled(interrupt.handle):
        yield interrupt


@contextmanager
def noted(then: Callable[[int], object] = lambda number: None) -> Iterator[list[int]]:
    """Yields a list to which each SIGINT and SIGTERM inside the block is added, and calls `then` with each."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)
        then(number)

    with handled(handle):
        yield received
