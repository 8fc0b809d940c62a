"""Rows to batches: the part of the global batch at step k that one host's devices hold, read ahead by Grain.

The batch at step k is a function of (rows, seed, k) alone. How many hosts share it, and how many threads and processes
read it, changes nothing; the position of a run is the step.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grain
import numpy as np
from absl import flags

from input_pipeline.loader import Batch, RandomAccess

ENDLESS = 1 << 40  # batches; Grain wants to know a length


@dataclass
class HostBatches:
    """Random access to this host's part of the batch at each step (from 0).

    Each pass over the rows has an order of its own, unless the rows say that theirs is one (`rows.ordered`). positions:
    int [n], which rows of the global batch this host holds.
    """

    rows: RandomAccess
    global_batch: int
    positions: np.ndarray
    seed: int
    _orders: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, step: Any) -> Batch:
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
            for old in [n for n in self._orders if n < number - 1]:
                self._orders.pop(old, None)  # another thread may have done it
            self._orders[number] = order
        return order

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_orders": {}}  # a process that reads ahead makes them itself


class Stream(Iterator[Batch]):
    """Endless host batches from step `start` on (0 is the first step's); close it to end what reads ahead.

    threads: of each process. workers: processes that read ahead, 0 is none; their number changes nothing.
    """

    def __init__(
        self,
        rows: RandomAccess,
        *,
        global_batch: int,
        seed: int,
        positions: np.ndarray | None = None,
        start: int = 0,
        threads: int = 2,
        workers: int = 0,
    ):
        if positions is None:
            positions = np.arange(global_batch)
        source: Any = HostBatches(rows, global_batch, positions, seed)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        dataset = grain.MapDataset.source(source)[start:].to_iter_dataset(options)
        if workers:
            if not flags.FLAGS.is_parsed():  # Grain's processes read a flag of their own
                flags.FLAGS(sys.argv[:1])
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
            )
        self._iterator: Any = iter(dataset)

    def __next__(self) -> Batch:
        return next(self._iterator)

    def close(self) -> None:
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def to_device(
    batch: Mapping[str, np.ndarray], sharding: Any, rows: int, positions: np.ndarray | None = None
) -> dict[str, Any]:
    """Host batches to global arrays [rows, ...]; each host gives the rows at `positions` (None: it has all)."""
    import jax

    if positions is None or len(positions) == rows:
        return {name: jax.device_put(np.asarray(value), sharding) for name, value in batch.items()}
    place = {int(position): number for number, position in enumerate(positions)}

    def part(value: np.ndarray, index: Any) -> np.ndarray:
        first, behind, _ = index[0].indices(rows)
        return value[place[first] : place[first] + behind - first]

    return {
        name: jax.make_array_from_callback(
            (rows, *value.shape[1:]), sharding, lambda index, value=value: part(value, index)
        )
        for name, value in batch.items()
    }
