"""Grain pipelines from finished rows to host batches to global `jax.Array`s.

Everything is a `grain.MapDataset`: which rows batch k of host h holds is arithmetic. So the global batch at step k is
the same, row by row, for any number of hosts and workers, and the position of a run is one integer.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

import grain
import numpy as np
from absl import flags

from input_pipeline.errors import UserError
from input_pipeline.rows import Row

ENDLESS = 1 << 40  # batches; Grain wants to know a length


class RandomAccess(Protocol):
    """What `grain.MapDataset.source` reads."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> Any: ...


class Batches(Iterator[Row]):
    """Endless host batches. Close it (or use it as a context manager): worker processes end with it."""

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator
        self._closed = False

    def __next__(self) -> Row:
        """Raises UserError for a record that cannot be read and a worker that died."""
        if self._closed:
            raise ValueError("these batches are closed")
        try:
            return next(self._iterator)
        except UserError as error:  # Grain puts a paragraph about tracebacks behind its line
            raise UserError(str(error).split("\n")[0]) from error
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            raise UserError(
                f"a worker process that reads the data died ({str(error).split('. ')[0]}); if memory is short, lower "
                "config.workers"
            ) from error

    def close(self) -> None:
        """Ends threads and worker processes. A second time does nothing."""
        if not self._closed:
            self._closed = True
            self._iterator.close()

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass
class HostBatches:
    """Random access to one host's part of the global batch at each step (from 0): a function of (rows, seed, step).

    Every pass over the rows has an order of its own, unless theirs is fixed (`rows.ordered`). positions: int [n], the
    rows of the global batch that this host's devices hold.
    """

    rows: RandomAccess
    global_batch: int
    positions: np.ndarray
    seed: int
    _orders: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, step: Any) -> Row:
        """Arrays [n, ...]."""
        numbers = int(step) * self.global_batch + self.positions
        passes, places = np.divmod(numbers, len(self.rows))
        made = [
            self.rows[int(self._order(int(number))[place])]
            for number, place in zip(passes, places, strict=True)
        ]
        return {name: np.stack([row[name] for row in made]) for name in made[0]}

    def _order(self, number: int) -> np.ndarray:
        order = self._orders.get(number)
        if order is None:
            if getattr(self.rows, "ordered", False):
                order = np.arange(len(self.rows))
            else:
                order = np.random.default_rng((self.seed, number)).permutation(len(self.rows))
            for old in [n for n in tuple(self._orders) if n < number - 1]:
                self._orders.pop(old, None)  # another thread may have done it
            self._orders[number] = order
        return order

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_orders": {}}  # a process that reads ahead makes them itself


def batches(
    rows: RandomAccess,
    *,
    global_batch: int,
    seed: int,
    positions: np.ndarray | None = None,
    start: int = 0,
    threads: int = 2,
    workers: int = 0,
) -> Batches:
    """Endless host batches from step `start` on (0 is the first step's), read ahead.

    Rows with a true attribute `ordered` keep their order, which a padded plan has made already; they must be whole
    batches, since those of one batch have one length. Others come in an order of the seed and the epoch.

    Args:
        rows: finished rows; where workers read them, they are pickled.
        global_batch: rows of a step, over all hosts.
        positions: int [n], which of them this host gives (`jaxllava.sharding.rows_of_host`); None is all.
        seed: of the order.
        threads: that make batches, in this process or in each worker.
        workers: processes that read ahead; 0 is none. The batches do not depend on it.
    """
    if getattr(rows, "ordered", False) and len(rows) % global_batch:
        raise ValueError(f"{len(rows)} rows in a fixed order are not whole batches of {global_batch}")
    own = np.arange(global_batch) if positions is None else positions
    source: Any = HostBatches(rows, global_batch, own, seed)
    # The start is cut off here: Grain cannot set the position of an iterator of several workers.
    dataset = grain.MapDataset.source(source)[start:]
    stream = dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))
    if workers:
        if (
            not flags.FLAGS.is_parsed()
        ):  # Grain reads flags of its own, which a program without absl never parsed
            flags.FLAGS(["jaxllava"], known_only=True)
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        stream = stream.mp_prefetch(options, _Worker(os.getpid()))
    return Batches(iter(stream))


class _Worker:
    """What a worker process does first."""

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def __call__(self, number: int, count: int) -> None:
        del number, count
        # Ctrl-C is for the parent, which closes its workers. So is SIGTERM, which a machine that is taken away sends
        # to every process: the parent has steps to finish before it saves.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        threading.Thread(target=self._end_with_parent, daemon=True).start()
        import jax

        jax.config.update("jax_platforms", "cpu")  # Grain imports jax; the accelerator is the parent's

    def _end_with_parent(self) -> None:
        """A parent that was killed closes nothing."""
        while os.getppid() == self._parent:
            time.sleep(2)
        os._exit(1)


def to_device(
    batch: Mapping[str, np.ndarray], sharding: Any, rows: int, positions: np.ndarray | None = None
) -> dict[str, Any]:
    """Host batches to global arrays [rows, ...]; this host gives the rows at `positions` (None: it has all)."""
    import jax

    # Not on several hosts that all hold all rows: there jax would compare their arrays first, at every step.
    if sharding.is_fully_addressable:
        return {name: jax.device_put(np.asarray(value), sharding) for name, value in batch.items()}
    held = range(rows) if positions is None else positions.tolist()
    place = {position: number for number, position in enumerate(held)}

    def part(value: np.ndarray, index: Any) -> np.ndarray:
        first, behind, _ = index[0].indices(rows)
        return value[place[first] : place[first] + behind - first]

    return {
        name: jax.make_array_from_callback(
            (rows, *value.shape[1:]), sharding, lambda index, value=value: part(value, index)
        )
        for name, value in batch.items()
    }
