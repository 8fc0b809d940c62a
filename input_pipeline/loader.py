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
from types import TracebackType
from typing import Any, Protocol

import grain
import numpy as np
from absl import flags

from input_pipeline.errors import UserError
from input_pipeline.rows import Row


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


def batches(
    rows: RandomAccess,
    *,
    global_batch: int,
    seed: int,
    start: int = 0,
    host: int = 0,
    hosts: int = 1,
    threads: int = 2,
    workers: int = 0,
) -> Batches:
    """Endless host batches from step `start` on. Host h has the h-th of `hosts` equal stretches of each global batch.

    Rows with a true attribute `ordered` keep their order, which a padded plan has made already; they must be whole
    batches, since those of one batch have one length. Others come in an order of the seed and the epoch.

    Args:
        rows: finished rows; where workers read them, they are pickled.
        global_batch: rows of a step, over all hosts.
        seed: of the order.
        threads: that read rows, in this process or in each worker.
        workers: processes that read ahead; 0 is none. The batches do not depend on it.
    """
    if global_batch % hosts:
        raise ValueError(f"a global batch of {global_batch} does not divide over {hosts} hosts")
    ordered = getattr(rows, "ordered", False)
    if ordered and len(rows) % global_batch:
        raise ValueError(f"{len(rows)} rows in a fixed order are not whole batches of {global_batch}")
    dataset = grain.MapDataset.source(rows)  # pyright: ignore[reportArgumentType]
    if not ordered:
        dataset = dataset.seed(seed).shuffle()
    # Batch k * hosts + h of a host's size is stretch h of global batch k. The start is cut off here, where it is
    # arithmetic: Grain cannot set the position of an iterator of several workers.
    dataset = dataset.repeat(None).batch(global_batch // hosts, drop_remainder=True)[host::hosts][start:]
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
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes its workers
        threading.Thread(target=self._end_with_parent, daemon=True).start()
        import jax

        jax.config.update("jax_platforms", "cpu")  # Grain imports jax; the accelerator is the parent's

    def _end_with_parent(self) -> None:
        """A parent that was killed closes nothing."""
        while os.getppid() == self._parent:
            time.sleep(2)
        os._exit(1)


def host_part(sharding: Any, global_batch: int) -> tuple[int, int]:
    """(host, hosts) for `batches`: which stretch of a global batch this process's devices hold under `sharding`.

    Not always `jax.process_index()`: a mesh may order devices otherwise, and processes that share a replica (tensor
    parallel over hosts) need the same stretch. UserError where a process's rows are not one stretch of equal size.
    """
    slices = sharding.addressable_devices_indices_map((global_batch,)).values()
    spans = {(part[0].start or 0, global_batch if part[0].stop is None else part[0].stop) for part in slices}
    first, last = min(start for start, _ in spans), max(stop for _, stop in spans)
    size = last - first
    if sum(stop - start for start, stop in spans) != size or first % size or global_batch % size:
        raise UserError(
            f"config.mesh gives a process rows {sorted(spans)} of a batch of {global_batch}, which are not one equal "
            "part; put the data and fsdp axes in the order of the processes"
        )
    return first // size, global_batch // size


def to_device(batch: Mapping[str, np.ndarray], sharding: Any) -> dict[str, Any]:
    """Host batches to global arrays: each host gives its own part of the batch axis."""
    import jax

    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(value))
        for name, value in batch.items()
    }
