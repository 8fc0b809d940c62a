"""What can be known to be wrong with the machine before the first step: the workdir, the mesh and batch, the disk."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from input_pipeline.errors import UserError
from jaxllava import rules, sharding
from jaxllava.models.linear import ADAPTER
from jaxllava.rules import Params

SPARE = 64 * 2**20  # bytes of a workdir beside its checkpoints and model


@contextlib.contextmanager
def claimed(workdir: Path) -> Iterator[None]:
    """The workdir, made and locked for this run: a second process in it is a UserError.

    On several hosts the first one has the lock. A network disk that knows no locks is used without.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("a") if jax.process_index() == 0 else None
    except OSError as error:
        raise UserError(
            f"--workdir {workdir}: cannot be written to ({error.strerror or error}); take another folder"
        ) from error
    if lock is None:
        yield
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--workdir {workdir}: another process is training there; wait for its end or take another folder"
            ) from None
        except OSError:  # ENOLCK, ENOTSUP
            pass
        yield


def check_batch(batch: int, accumulate: int, mesh: Mesh) -> None:
    """The rows of a step have to divide over micro-batches and the mesh's data and fsdp axes."""
    shards = math.prod(mesh.shape[axis] for axis in sharding.BATCH_AXES)
    if batch % (accumulate * shards):
        step = accumulate * shards
        near = sorted({max(batch // step, 1) * step, (batch // step + 1) * step})
        raise UserError(
            f"config.batch={batch} does not divide over {shards} data shards (mesh data x fsdp) x {accumulate} "
            f"micro-batches; take {' or '.join(map(str, near))}, or another mesh"
        )


def check_disk(workdir: Path, state: Any, model_bytes: int, checkpoints: int) -> None:
    """The workdir's disk has to hold the checkpoints that are kept, one more while it is written, and the model."""
    one = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    needed = one * (checkpoints + 1) + model_bytes + SPARE
    held = _bytes_under(workdir)
    free = shutil.disk_usage(workdir).free
    if free + held < needed:
        raise UserError(
            f"{workdir}: {_gib(needed)} are needed ({checkpoints + 1} checkpoints of {_gib(one)} and a model of "
            f"{_gib(model_bytes)}), {_gib(free)} are free; make room, take another workdir or a smaller config.keep"
        )


def model_bytes(params: Params, config: ConfigDict) -> int:
    """Bytes of the model that a run leaves: adapters go into their kernels, and kernels in four bits come out whole."""
    total = 0
    for path, leaf in rules.flatten(params).items():
        name = path.rpartition("/")[2]
        if name in ADAPTER or name == "kernel_scales":
            continue
        own = "bfloat16" if name == "kernel_codes" else leaf.dtype
        count = leaf.size * (2 if name == "kernel_codes" else 1)
        total += count * jnp.dtype(config.save_dtype or own).itemsize
    return total


def _bytes_under(folder: Path) -> int:
    """Of its files. Another host may be removing some of them, what a killed run left, at the same time."""
    total = 0
    for where, _, names in os.walk(folder):  # which passes over a folder that is gone
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(where, name).stat().st_size
    return total


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
