"""Ctrl-C and SIGTERM become a flag that a loop reads between steps, so that nothing is cut in the middle of a write."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

LEVELS = {signal.SIGINT: 1, signal.SIGTERM: 2}


class Preempted(KeyboardInterrupt):
    """SIGTERM: the machine is taken away. What was done is saved, which is success."""


class Interrupt:
    """`level` is 0, or that of the first signal (`LEVELS`); a second signal raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.level = 0

    @property
    def requested(self) -> bool:
        return self.level > 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.requested:
            raise KeyboardInterrupt
        self.level = LEVELS[signal.Signals(number)]


def error(level: int, step: int) -> KeyboardInterrupt:
    """What to raise once the state of `step` is saved."""
    kind = Preempted if level == LEVELS[signal.SIGTERM] else KeyboardInterrupt
    return kind(f"saved at step {step}")


@contextmanager
def deferred() -> Iterator[Interrupt]:
    """Defers SIGINT and SIGTERM inside the block. Inert outside the main thread."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {number: signal.signal(number, interrupt.handle) for number in LEVELS}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
