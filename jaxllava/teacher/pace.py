"""How fast, how many at once, and for how much money: all in one asyncio loop."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque

from jaxllava.teacher.settings import Settings

LONGEST = 60.0  # seconds between two tries, where the endpoint asks for no more


def backoff(tries: int, first: float) -> float:
    """Seconds before the next try: doubling, with jitter, so that those that failed together come apart."""
    return min(LONGEST, first * 2 ** min(tries - 1, 30)) * random.uniform(0.5, 1.0)


class Pace:
    """A token bucket that is one second deep: the next may start when what has started before is paid for.

    Whoever takes from it has its place at once, so that the order is that of asking.
    """

    def __init__(self, per_minute: float) -> None:
        """`per_minute`: 0 is no limit."""
        self._each = 60.0 / per_minute if per_minute else 0.0  # seconds
        self._next = 0.0

    def take(self, amount: float) -> float:
        """Seconds to wait before this amount may go."""
        if not self._each:
            return 0.0
        now = time.monotonic()
        start = max(self._next, now - 1.0)
        self._next = start + amount * self._each
        return max(0.0, start - now)

    def give_back(self, amount: float) -> None:
        """Of what was taken, so much was not used (less than 0: more was)."""
        self._next -= amount * self._each


class Gate:
    """Lets at most so many through at once, fewer after the endpoint said that it is too much.

    As TCP does it: half as many after each such word, one more for each round of answers.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed_until = 0.0
        self._slowed = 0.0

    @property
    def limit(self) -> int:
        """How many may be inside now."""
        return int(self._limit)

    async def enter(self) -> None:
        while self._inside >= self.limit:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._wake()
                raise
        self._inside += 1
        if self._inside < self.limit:
            self._wake()

    def leave(self) -> None:
        self._inside -= 1
        self._wake()

    def closed_for(self) -> float:
        """Seconds until tries may go out again."""
        return max(0.0, self._closed_until - time.monotonic())

    def slow(self, sent: float, wait: float) -> None:
        """A try that went out at `sent` (time.monotonic) was too much: none goes out for `wait` seconds."""
        now = time.monotonic()
        self._closed_until = max(self._closed_until, now + wait)
        if sent > self._slowed:  # one that was already under way tells nothing new
            self._slowed = now
            self._limit = max(1.0, self._limit / 2)

    def answered(self) -> None:
        self._limit = min(float(self._most), self._limit + 4 / self._limit)

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


class Budget:
    """What may be spent: a request goes out only if its worst case fits in what is left."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reserved = 0.0
        self._settled = asyncio.Event()
        # What an endpoint counted for a prompt, over what was thought at most.
        self._factor = 1.0
        self.spent = 0.0

    def worst(self, prompt_tokens: int, max_tokens: int) -> float:
        return self._settings.cost(prompt_tokens * self._factor, max_tokens)

    async def reserve(self, prompt_tokens: int, max_tokens: int) -> float | None:
        """Waits until the worst case fits and takes it out; None if it does not fit with nothing else under way."""
        most = self._settings.max_cost
        while True:
            amount = self.worst(prompt_tokens, max_tokens)
            if not most or self.spent + self._reserved + amount <= most:
                self._reserved += amount
                return amount
            if self._reserved <= most * 1e-9:  # not 0: sums of floats
                return None
            self._settled.clear()
            await self._settled.wait()

    def settle(self, reserved: float, paid: float) -> None:
        self._reserved -= reserved
        self.spent += paid
        self._settled.set()

    def learn(self, thought: int, counted: int) -> None:
        """A prompt was thought to have so many tokens at most, and the endpoint counted so many."""
        if thought:
            self._factor = max(self._factor, counted / thought)
