"""Reads what the steps measured, a little behind them, so that the devices always have the next step at hand."""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from input_pipeline.errors import UserError
from jaxllava import flops, metrics
from jaxllava.train_step import hexadecimal

LAG = 2  # steps whose results are not waited for


class _Pending(NamedTuple):
    """A step that the devices may still be working on."""

    step: int
    metrics: dict[str, Any]
    ended: Future[float]
    waited: float  # seconds of the host for its batch
    batch: dict[str, np.ndarray]  # this host's part


class Meter:
    """Writes each step's line, finds what is not a number, and hears of hosts that are asked to stop.

    stop: the highest `interrupts` level that a settled step brought, the same on every host. tokens, seconds: of the
    settled steps without the first, which compiles, unless it is the only one.
    """

    def __init__(
        self,
        log: metrics.Log,
        *,
        workdir: Path,
        rows: int,
        first: int,
        log_every: int,
        rates: np.ndarray,
        sources: Sequence[str],
        cost: flops.Cost | None,
        devices: int,
        report: Callable[[int, str], None],
    ):
        self.log = log
        self.stop, self.tokens, self.seconds = 0, 0, 0.0
        self._workdir, self._rows, self._first, self._log_every = workdir, rows, first, log_every
        self._rates, self._sources, self._report = rates, sources, report
        self._cost, self._devices = cost, devices
        self._pending: collections.deque[_Pending] = collections.deque()
        # The end of a step is seen by a thread that does nothing else: this one may be busy with the next batch.
        self._watcher = ThreadPoolExecutor(1)
        self._ended = time.monotonic()

    def add(self, step: int, found: dict[str, Any], waited: float, batch: dict[str, np.ndarray]) -> None:
        """Takes a step that was given to the devices, and settles the one `LAG` before it."""
        self._pending.append(_Pending(step, found, self._watcher.submit(_end, found), waited, batch))
        if len(self._pending) > LAG:
            self._settle()

    def drain(self) -> None:
        """Settles all: what comes next knows of every step, and everything is in the files."""
        while self._pending:
            self._settle()
        self.log.commit()

    def restart_clock(self) -> None:
        """What was done since the last step does not count as part of the next."""
        self._ended = time.monotonic()

    def _settle(self) -> None:
        oldest = self._pending.popleft()
        fetched = jax.device_get(oldest.metrics)
        now = oldest.ended.result()
        seconds, self._ended = max(now - self._ended, 0.0), max(now, self._ended)
        loss, norm = float(fetched["loss"]), float(fetched["gradient_norm"])
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.log.flush()
            raise UserError(_not_a_number(self._workdir, oldest, loss, norm))
        # [b, M, S, S, 3], of a contrastive stage [b, S, S, 3]; or features that were kept, [b, N, P, W]
        images = oldest.batch.get("pooled", oldest.batch.get("images"))
        assert images is not None
        places = 1 if images.ndim == 4 and "pooled" not in oldest.batch else images.shape[1]
        line = {"step": oldest.step, "lr": float(self._rates[oldest.step - 1])}
        line |= metrics.describe(
            fetched,
            seconds=seconds,
            waited=oldest.waited,
            positions=self._rows * oldest.batch["tokens"].shape[1],
            slots=self._rows * places,
            sources=self._sources,
            cost=self._cost,
            devices=self._devices,
        )
        self.log.write(line | {"batch": hexadecimal(fetched["fingerprint"])})
        self.stop = max(self.stop, int(fetched["stop"]))
        if oldest.step == self._first + 1:
            self.tokens, self.seconds = 0, 0.0
        self.tokens += int(line["tokens"])
        self.seconds += seconds
        if oldest.step % self._log_every == 0 or oldest.step == self._first:
            self.log.flush()
            self._report(oldest.step, f"loss {loss:.3f}")


def _end(found: dict[str, Any]) -> float:
    jax.block_until_ready(found["loss"])
    return time.monotonic()


def _not_a_number(workdir: Path, step: _Pending, loss: float, norm: float) -> str:
    """Keeps the batch of a step that went wrong, this host's part of it, and says where."""
    path = workdir / f"not-a-number-step{step.step}-host{jax.process_index()}.npz"
    np.savez(path, **step.batch)  # pyright: ignore[reportArgumentType]
    what = f"loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
    return (
        f"{what} at step {step.step}; its batch is kept in {path}. Lower config.lr or look at the data; the same "
        "command goes on from the last checkpoint"
    )
