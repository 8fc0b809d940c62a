"""How fast, how many at once, and what headers say of it."""

from __future__ import annotations

import asyncio
import email.utils
import time

import pytest

from jaxllava.teacher import pace
from jaxllava.teacher.endpoint import retry_after


def test_a_pace_is_kept_whatever_is_taken() -> None:
    limit = pace.Pace(600)  # ten a second, ten ahead
    waits = [limit.take(1) for _ in range(30)]
    assert waits[:10] == pytest.approx([0.0] * 10, abs=0.05)
    assert waits[10:] == pytest.approx([0.1 * i for i in range(20)], abs=0.1)
    limit.give_back(30)
    assert limit.take(1) == 0.0
    assert [pace.Pace(0).take(1e9) for _ in range(3)] == [0.0] * 3


def test_more_than_a_minute_holds_goes_through_in_its_time() -> None:
    limit = pace.Pace(60)
    assert limit.take(120) == 0.0  # the first; those behind it pay
    assert limit.take(1) == pytest.approx(119, abs=0.1)


def test_waits_double_and_come_apart() -> None:
    for tries, most in ((1, 1.0), (2, 2.0), (4, 8.0), (20, pace.LONGEST), (10_000, pace.LONGEST)):
        waits = [pace.backoff(tries, 1.0) for _ in range(50)]
        assert most / 2 <= min(waits) < max(waits) <= most and len(set(waits)) == 50


def test_a_gate_lets_fewer_through_and_then_more() -> None:
    async def run() -> list[int]:
        gate, seen = pace.Gate(8), []
        inside = 0

        async def one() -> None:
            nonlocal inside
            await gate.enter()
            inside += 1
            seen.append(inside)
            await asyncio.sleep(0.001)
            inside -= 1
            gate.answered()
            gate.leave()

        await asyncio.gather(*(one() for _ in range(40)))
        assert max(seen) == 8 and gate.limit == 8
        sent = time.monotonic()
        for _ in range(3):  # three that were under way together are one word
            gate.slow(sent, 0.05)
        assert gate.limit == 4 and 0 < gate.closed_for() <= 0.05
        for _ in range(5):
            gate.slow(time.monotonic(), 0.0)
        assert gate.limit == 1
        seen.clear()
        await asyncio.gather(*(one() for _ in range(3)))
        first = list(seen)
        await asyncio.gather(*(one() for _ in range(40)))
        assert max(first) < 8 == gate.limit
        # Those that are sent away while they wait leave no place behind.
        tasks = [asyncio.ensure_future(one()) for _ in range(20)]
        await asyncio.sleep(0)
        for task in tasks[8:15]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.wait_for(one(), 1)
        return seen

    assert max(asyncio.run(run())) <= 8


def test_retry_after() -> None:
    assert retry_after({}) is None
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert retry_after({"retry-after-ms": "250", "retry-after": "1"}) == 0.25
    assert retry_after(
        {"retry-after": email.utils.formatdate(time.time() + 30, usegmt=True)}
    ) == pytest.approx(30, abs=2)
    assert retry_after({"retry-after": email.utils.formatdate(time.time() - 30, usegmt=True)}) == 0.0
    for strange in ("soon", "", "nan", "inf", "Sun, 99 Foo 2026"):
        assert retry_after({"retry-after": strange}) is None
