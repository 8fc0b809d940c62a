"""Continuous batching: one thread owns the device, and answers begin and end in its slots one by one.

Every round it puts at most one waiting request into a free slot, has the device write a token of all slots (or some,
where a token takes next to no time), and while that runs deals with the tokens of the round before. A request that
ends, or whose client is gone, frees its slot.
"""

from __future__ import annotations

import copy
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from input_pipeline.errors import UserError
from jaxllava.prompts import Row
from jaxllava.serving.errors import RequestError, unavailable
from jaxllava.serving.text import Writing
from jaxllava.slots import STEPS

ROUND = 0.02  # seconds of steps of a round, about: what streams come in, and a request that arrives waits for
State = Literal["loading", "ready", "stopping", "stopped", "failed"]


class Ended(NamedTuple):
    """The end of an answer: the whole text, "stop" or "length", and the tokens of prompt and answer."""

    text: str
    finish: str
    prompt: int
    new: int


Event = str | Ended | RequestError  # a piece of text, the end, or why there is none


@dataclass(eq=False)
class Job:
    """One answer to be written. `tell` is called with every event, in the engine's thread."""

    row: Row
    new: int
    temperature: float
    top_p: float
    seed: int
    stop: tuple[str, ...]
    tell: Callable[[Event], None]
    streams: bool = False
    over: bool = False
    issued: int = 0  # tokens that the device was told to write
    writing: Writing = field(init=False)


class Engine:
    """Answers of one model, `slots` at a time. Thread-safe; nothing else may use the model's device meanwhile, but
    within `device`.
    """

    def __init__(self, slots: int, queue: int) -> None:
        """queue: requests that may wait beyond those in slots."""
        self.slots, self.queue = slots, queue
        self.state: State = "loading"
        self.length = 0
        self.served = 0
        self.device = threading.Lock()
        self.finished = threading.Event()  # the thread has ended
        self.error: BaseException | None = None
        self._change = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: dict[int, Job] = {}  # by slot
        self._admitted = 0
        self._abandoned = False
        self._told = lambda: None
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------ any thread

    def start(
        self, load: Callable[[], Any], length: int | None, warm_up: bool, told: Callable[[], None]
    ) -> None:
        """Starts the thread. load: opens the `Model`; length: places of a prompt and its answer, None: as many as the
        model has (of more than those `error` becomes a UserError); told: called there whenever `state` has changed.
        """
        self._told = told
        run = lambda: self._run(load, length, warm_up)
        self._thread = threading.Thread(target=run, name="engine", daemon=True)
        self._thread.start()

    def admit(self) -> None:
        """Takes a place in the queue, which `leave` gives back. RequestError where there is none."""
        with self._change:
            if self.state == "loading":
                raise unavailable("The model is being loaded. Try again later.", "model_loading")
            if self.state in ("stopping", "stopped"):
                raise unavailable("The server is shutting down.", "shutting_down")
            if self.state == "failed":
                raise unavailable("The engine has failed; see the server's log.", "engine_failed")
            if self._admitted >= self.slots + self.queue:
                raise RequestError(
                    "Too many requests are waiting. Try again later.",
                    None,
                    "queue_full",
                    429,
                    "rate_limit_error",
                )
            self._admitted += 1

    def leave(self) -> None:
        with self._change:
            self._admitted -= 1
            self._change.notify_all()

    def submit(self, job: Job) -> None:
        """Puts a job behind those that wait."""
        with self._change:
            if self.state in ("ready", "stopping"):  # it was admitted before
                self._waiting.append(job)
                self._change.notify_all()
                return
        job.tell(unavailable("The engine has ended.", "engine_failed"))

    def cancel(self, job: Job) -> None:
        """Ends a job whose answer nobody waits for."""
        with self._change:
            job.over = True
            self._change.notify_all()

    @property
    def counts(self) -> dict[str, int]:
        with self._change:
            return {"running": len(self._running), "waiting": max(0, self._admitted - len(self._running))}

    def drain(self) -> None:
        """Takes no more requests; the thread ends when those that were admitted have left."""
        with self._change:
            if self.state != "failed":
                self.state = "stopping"
            self._change.notify_all()

    def abandon(self) -> None:
        """Tells those whose answers are not finished that they will not be. The thread ends after its round."""
        with self._change:
            left = [job for job in (*self._running.values(), *self._waiting) if not job.over]
            for job in left:
                job.over = True
            self._abandoned = True
            self._change.notify_all()
        for job in left:
            job.tell(unavailable("The server is shutting down.", "shutting_down"))

    # ------------------------------------------------------------ the engine's thread

    def _run(self, load: Callable[[], Any], length: int | None, warm_up: bool) -> None:
        loaded = False
        try:
            self._prepare(load(), length, warm_up)
            loaded = True
            with self._change:
                if self.state == "loading":
                    self.state = "ready"
            self._told()
            while self._round():
                pass
            self.state = "stopped"
        except BaseException as error:  # of whatever kind: nobody may wait for a thread that is gone
            if loaded:
                traceback.print_exc()
            self.error = error
            with self._change:
                self.state = "failed"
                left = [*self._running.values(), *self._waiting]
                self._running.clear()
                self._waiting.clear()
            for job in left:
                if not job.over:
                    job.tell(unavailable("The engine has failed; see the server's log.", "engine_failed"))
        finally:
            self.finished.set()
            self._told()

    def _prepare(self, model: Any, length: int | None, warm_up: bool) -> None:
        self.model = model
        most = model.config.decoder.max_positions
        if length and length > most:
            raise UserError(
                f"--max-length {length}: this model has {most} positions; give at most {most}, or leave it out"
            )
        self.length = length or most
        # Requests are tokenized in another thread, and a tokenizer is one thread's while it does that.
        tokenizer = copy.deepcopy(model.tokenizer)
        self._decode = lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True))
        self._ends = frozenset(model.end_ids)
        self._slots = model.slots(self.slots, self.length)
        # What the device was told and has not been waited for: tokens, of how many steps, and whose they are.
        self._outstanding: deque[tuple[Any, int, list[tuple[int, Job]]]] = deque()
        self._steps, self._pace, self._last = (
            1,
            ROUND,
            0.0,
        )  # of a round; seconds each; when the last round ended
        if warm_up:
            self._warm_up()

    def _warm_up(self) -> None:
        """Compiles what most requests need: steps, and prompts of up to 256 positions, and those with one picture.

        Other widths are compiled when they are first met.
        """
        config = self.model.config
        side = config.vision.image_size
        picture = np.zeros((1, side, side, 3), np.uint8)
        texts = sorted({self._slots.width(size) for size in range(1, min(self.length, 256) + 1)})
        kept = (
            bool(getattr(config, "qformer", None)) or config.anyres is not None
        )  # other shapes than a picture's
        seen = [] if kept else sorted({self._slots.width(config.image_tokens + size) for size in (32, 96)})
        for shown, widths in ((picture[:0], texts), (picture, seen)):
            for width in widths:
                if self.state != "loading":  # told to stop
                    return
                row = (np.zeros(width, np.int32), np.full(width, -1, np.int32), shown)
                self._slots.begin(0, row)
        np.asarray(self._slots.advance(True))

    def _round(self) -> bool:
        """False when there is nothing left to do, and there will be nothing."""
        with self._change:
            while not self._clear() and not self._outstanding:
                if self._abandoned or (self.state == "stopping" and not self._admitted):
                    return False
                self._change.wait()
            free = [slot for slot in range(self.slots) if slot not in self._running]
            begun = self._waiting.popleft() if self._waiting and free else None
            if begun:
                self._running[free[0]] = begun
            running = dict(self._running)
        before = len(self._outstanding)
        with self.device:
            if begun:
                begun.writing = Writing(self._decode, (*begun.stop, self.model.ending))
                first = self._slots.begin(free[0], begun.row, begun.seed, begun.temperature, begun.top_p)
                begun.issued = 1
                self._outstanding.append((first, 1, [(0, begun)]))
            writing = [(slot, job) for slot, job in running.items() if job.issued < job.new]
            if writing:
                most = max(job.new - job.issued for _, job in writing)
                steps = min(self._steps, most)
                tokens = self._slots.advance(any(job.temperature > 0 for job in running.values()), steps)
                for _, job in writing:
                    job.issued += steps
                self._outstanding.append((tokens, steps, writing))
        # The device works on what it was just told while the tokens of the round before become text.
        for _ in range(before):
            tokens, steps, whose = self._outstanding.popleft()
            found = np.asarray(tokens).reshape(-1, np.shape(tokens)[-1])[:steps].tolist()
            for place, job in whose:
                self._take(job, [row[place] for row in found])
        self._keep_pace(begun is not None or not before or not writing)
        return True

    def _keep_pace(self, other: bool) -> None:
        """Sets how many steps a round has: as many as fit into ROUND, so that what a round costs beside them does not
        matter where a step is short. other: the last round had more to it than steps.
        """
        now = time.perf_counter()
        if not other:
            self._pace += 0.2 * ((now - self._last) / self._steps - self._pace)
            self._steps = max(1, min(STEPS, int(ROUND / max(self._pace, 1e-9))))
        self._last = now

    def _clear(self) -> bool:
        """Lets go of jobs that are over. Whether any is left."""
        self._running = {slot: job for slot, job in self._running.items() if not job.over}
        self._waiting = deque(job for job in self._waiting if not job.over)
        return bool(self._running or self._waiting)

    def _take(self, job: Job, tokens: list[int]) -> None:
        """The next tokens of an answer; those behind its end are junk."""
        if job.over:
            return
        writing, text = job.writing, ""
        for token in tokens:
            ended = token in self._ends
            text += "" if ended else writing.add(token)
            if ended or writing.stopped or len(writing.ids) >= job.new:
                self._end(job, text, "stop" if ended else "length")
                return
        if text and job.streams:
            job.tell(text)

    def _end(self, job: Job, text: str, finish: str) -> None:
        writing = job.writing
        text += writing.finish()
        finish = "stop" if writing.stopped else finish
        if text and job.streams:
            job.tell(text)
        with self._change:
            job.over = True
            self.served += 1
        job.tell(Ended(writing.whole(), finish, len(job.row[0]), len(writing.ids)))
