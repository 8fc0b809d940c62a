"""A teacher behind an endpoint: many requests in flight in one thread, behind a plain generator.

Three threads: the caller's takes requests, looks into the cache and yields; one has the asyncio loop that asks; one
writes the cache. An answer is in the cache before the caller sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from input_pipeline.errors import UserError
from jaxllava.teacher import pace
from jaxllava.teacher.cache import Cache
from jaxllava.teacher.endpoint import Endpoint
from jaxllava.teacher.messages import Answer, Failure, Request
from jaxllava.teacher.replies import Again, Reply, Stop
from jaxllava.teacher.settings import Settings
from jaxllava.teacher.tokens import most_tokens, prompt_tokens

LONGEST_WAIT = 600.0  # seconds; an endpoint that asks for more (a day's quota) ends the run
LEAST_IN_A_ROW = 32  # requests given up one after another, and none answered: the endpoint is down

Result = Answer | Failure | None  # None: not asked, for the run stops


class Remote:
    """A `Teacher`. The limits of its settings hold for all that it is ever asked."""

    def __init__(self, settings: Settings, cache: Cache | None = None, first_wait: float = 1.0) -> None:
        """`first_wait`: seconds before a second try, at most; doubles with each."""
        self.settings = settings
        self._cache = cache
        self._first_wait = first_wait
        self._spent = 0.0

    @property
    def model(self) -> str:
        return self.settings.model

    @property
    def spent(self) -> float:
        """What was spent so far; a try whose answer was lost counts with the most that it may have cost."""
        return self._spent

    def ask(self, requests: Iterable[Request]) -> Iterator[Answer | Failure]:
        """See `Teacher.ask`. At most twice `in_flight` requests are held at a time; equal ones are asked once.

        Raises UserError where there is no key or package and some request is not kept; and, after what is in flight has
        come in, where no request would be answered (a wrong key, no such model, no quota, an endpoint that is down),
        the cost limit is reached, or the cache cannot be written.
        """
        room = 2 * self.settings.in_flight
        waiting: dict[str, list[str]] = {}  # keys by the identity of what was asked
        held = 0
        source = iter(requests)
        kept_any = False
        for request in source:  # who asks only for what is kept needs no key
            if (kept := self._kept(request.identity(self.model), request.key)) is None:
                source = itertools.chain([request], source)
                break
            kept_any = True
            yield kept
        else:
            return
        is_over = False
        work = _Work(self.settings, self._cache, self._first_wait, self._spent)
        work.works = kept_any
        self._compare(work.place)
        try:
            while True:
                done = None
                if held >= room or is_over or work.stopped is not None:
                    if not waiting:
                        break
                    done = work.results.get()
                else:
                    with contextlib.suppress(queue.Empty):
                        done = work.results.get_nowait()
                if done is not None:
                    self._spent = work.spent
                    identity, result = done
                    keys = waiting.pop(identity)
                    held -= len(keys)
                    if result is not None:
                        yield replace(result, key=keys[0])
                        for key in keys[1:]:
                            yield _repeated(result, key)
                    continue
                try:
                    request = next(source)
                except StopIteration:
                    is_over = True
                    continue
                identity = request.identity(self.model)
                if (kept := self._kept(identity, request.key)) is not None:
                    work.works = True
                    yield kept
                    continue
                held += 1
                if identity in waiting:
                    waiting[identity].append(request.key)
                else:
                    waiting[identity] = [request.key]
                    work.take(identity, request)
        finally:
            work.close()
            self._spent = work.spent
        if work.stopped is not None:
            raise work.stopped

    def _compare(self, place: str) -> None:
        """Warns where the answers that are kept came from elsewhere: a cache goes by the model's name alone."""
        if self._cache is None or (first := self._cache.first_place(self.model, place)) == place:
            return
        print(
            f"warning: answers of {self.model!r} in {self._cache.folder} are those of {first}, and {place} is asked "
            "now: it is taken for the same model; name another --cache if it is not",
            file=sys.stderr,
        )

    def _kept(self, identity: str, key: str) -> Answer | Failure | None:
        return None if self._cache is None else self._cache.get(identity, key)


def _repeated(result: Answer | Failure, key: str) -> Answer | Failure:
    """For a request that was equal to another in flight: it cost nothing."""
    return replace(result, key=key, kept=True) if isinstance(result, Answer) else replace(result, key=key)


class _Work:
    """What goes on in the loop's thread while `ask` runs."""

    def __init__(self, settings: Settings, cache: Cache | None, first_wait: float, spent: float) -> None:
        self.results: queue.SimpleQueue[tuple[str, Result]] = queue.SimpleQueue()
        self.stopped: BaseException | None = None
        self._settings, self._cache, self._first_wait = settings, cache, first_wait
        self._endpoint = Endpoint(settings)
        self._gate = pace.Gate(settings.in_flight)
        self._requests = pace.Pace(settings.requests_per_minute)
        self._tokens = pace.Pace(settings.tokens_per_minute)
        self._budget = pace.Budget(settings)
        self._budget.spent = spent
        self.works = False  # somebody was answered, now or in an earlier run
        self._answers = 0
        self._answered = 0.0  # time.monotonic of the last answer
        self._lost = 0  # requests in a row that were given up
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._halt = asyncio.Event()  # set together with `stopped`
        self._writer = ThreadPoolExecutor(1, "teacher-cache")
        self._thread = threading.Thread(target=self._run, name="teacher", daemon=True)
        self._thread.start()

    @property
    def spent(self) -> float:
        return self._budget.spent

    @property
    def place(self) -> str:
        """The endpoint's host and port."""
        return self._endpoint.where

    def take(self, identity: str, request: Request) -> None:
        self._loop.call_soon_threadsafe(self._begin, identity, request)

    def close(self) -> None:
        """Ends what is still under way."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._writer.shutdown()

    # ------------------------------------------------------------ in the loop's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._endpoint.open()
        except Exception as error:
            self._stop(error)
        self._loop.run_forever()
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._loop.run_until_complete(self._endpoint.close())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _begin(self, identity: str, request: Request) -> None:
        task = self._loop.create_task(self._one(identity, request))
        self._tasks.add(task)  # the loop itself holds it weakly
        task.add_done_callback(self._tasks.discard)

    async def _one(self, identity: str, request: Request) -> None:
        result: Result = None
        try:
            result = await self._answer(request)
            if self._cache is not None and (isinstance(result, Answer) or (result and result.is_paid)):
                result = await self._loop.run_in_executor(self._writer, self._cache.put, identity, result)
        except asyncio.CancelledError:
            return
        except BaseException as error:
            result = None
            self._stop(error)
        self.results.put((identity, result))

    def _stop(self, error: BaseException) -> None:
        """No try goes out any more; those that are out are waited for."""
        if self.stopped is None:
            self.stopped = error
        self._halt.set()

    async def _answer(self, request: Request) -> Result:
        counted = tries = 0
        looked = 0.0
        while True:
            await self._gate.enter()
            looked = looked or time.monotonic()
            try:
                sent, reply = await self._send(request)
            finally:
                self._gate.leave()
            if reply is None:
                return None
            tries += 1
            if isinstance(reply, Answer):
                self._gate.answered()
                self._answers += 1
                self.works = True
                self._answered, self._lost = time.monotonic(), 0
                return reply
            if isinstance(reply, Failure):
                # Where nobody was ever answered, a fault of every request looks like one of each.
                self._count_lost(reply, reply.reason == "forbidden" or not (self.works or reply.is_final))
                return reply
            if isinstance(reply, Stop):
                self._stop(UserError(f"{self._where} {reply.why}{self._kept()}"))
                return None
            assert isinstance(reply, Again)
            # Too many at once, while others got through since the last try, is a matter of turns.
            counted += not (reply.slows and self._answered > looked)
            looked = time.monotonic()
            attempts = self._settings.attempts
            if reply.is_empty and not request.temperature:
                attempts = min(attempts, 2)  # it would say the same for ever
            if counted >= attempts:
                failure = Failure(request.key, reply.reason, reply.detail)
                self._count_lost(failure, reply.is_down)
                return failure
            await self._rest(reply, tries, sent)

    async def _send(self, request: Request) -> tuple[float, Reply | None]:
        """One try, inside the gate, when limits allow it. Returns when it went out, and None if it did not."""
        thought = most_tokens(request.messages) if self._settings.max_cost else 0
        reserved = await self._budget.reserve(thought, request.max_tokens)
        if reserved is None:
            self._stop(self._too_dear(self._budget.worst(thought, request.max_tokens)))
            return 0.0, None
        paid = 0.0
        try:
            tokens = 0
            if self._settings.tokens_per_minute:
                tokens = prompt_tokens(request.messages) + request.max_tokens
            wait = max(self._requests.take(1), self._tokens.take(tokens))
            if wait > 0:
                await self._sleep(wait)
            while (wait := self._gate.closed_for()) > 0 and not self._halt.is_set():
                await self._sleep(wait)
            if self._halt.is_set():
                return 0.0, None
            sent = time.monotonic()
            reply, used = await self._endpoint.attempt(request)
            if used is not None:
                paid = self._settings.cost(*used)
                self._budget.learn(thought, used[0])
                self._tokens.give_back(tokens - sum(used))
            elif isinstance(reply, Answer) or (isinstance(reply, Again) and reply.may_cost):
                paid = reserved
            return sent, reply
        finally:
            self._budget.settle(reserved, paid)

    async def _rest(self, reply: Again, tries: int, sent: float) -> None:
        """Waits before the next try, and makes others wait where the endpoint has too much to do."""
        wait = pace.backoff(tries, self._first_wait)
        if reply.wait is not None:
            if reply.wait > LONGEST_WAIT:
                hours = f"{reply.wait / 3600:.1f} h" if reply.wait >= 3600 else f"{reply.wait / 60:.0f} min"
                self._stop(UserError(f"{self._where} asks to wait {hours}; run again then{self._kept()}"))
                return
            # Those that were told the same time should not all come back in one moment.
            wait = max(wait, reply.wait + pace.backoff(1, self._first_wait) / 2)
        if reply.slows:
            self._gate.slow(sent, wait if reply.wait is None else reply.wait)
        await self._sleep(wait)

    def _count_lost(self, last: Failure, is_down: bool) -> None:
        """Stops the run where nothing gets through. Args: is_down: the failure says more of the endpoint."""
        self._lost = self._lost + 1 if is_down else 0
        if self._lost >= max(LEAST_IN_A_ROW, 2 * self._settings.in_flight):
            self._stop(
                UserError(
                    f"{self._where}: {self._lost} requests in a row were given up, the last for: {last.reason} "
                    f"({last.detail}); see that it works, then run again{self._kept()}"
                )
            )

    async def _sleep(self, seconds: float) -> None:
        """Shorter where the run stops."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._halt.wait(), seconds)

    @property
    def _where(self) -> str:
        return f"{self._settings.model} at {self._endpoint.where}"

    def _kept(self) -> str:
        if self._cache is not None:
            return f" (answers so far are kept in {self._cache.folder})"
        return " (--cache DIR would keep answers)"

    def _too_dear(self, worst: float) -> UserError:
        most = self._settings.max_cost
        return UserError(
            f"--max-cost {most:g}: {self.spent:.4g} is spent on {self._answers} answers, and the next request may cost "
            f"{worst:.4g}; run again with a higher --max-cost to go on{self._kept()}"
        )
