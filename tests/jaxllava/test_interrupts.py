"""Signals as a flag that a loop reads."""

from __future__ import annotations

import os
import signal

import pytest

from jaxllava import interrupts


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_the_first_signal_says_what_to_do_and_its_echo_says_nothing_more(monkeypatch):
    """A terminal sends Ctrl-C to all of its processes, and a launcher sends it on: what is being saved goes on."""
    now = [100.0]
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: now[0])
    with interrupts.deferred() as interrupt:
        assert not interrupt.requested
        send(signal.SIGTERM)
        assert interrupt.level == 2
        now[0] += 0.9 * interrupts.SAME
        send(signal.SIGINT)
        assert interrupt.level == 2
        now[0] += 0.1 * interrupts.SAME + 1e-6
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_handlers_come_back():
    before = [signal.getsignal(number) for number in interrupts.LEVELS]
    with pytest.raises(ValueError, match="x"), interrupts.deferred():
        assert signal.getsignal(signal.SIGTERM) not in before
        raise ValueError("x")
    assert [signal.getsignal(number) for number in interrupts.LEVELS] == before


def test_a_preemption_is_told_from_a_ctrl_c():
    assert isinstance(interrupts.error(2, 7), interrupts.Preempted)
    assert type(interrupts.error(1, 7)) is KeyboardInterrupt
