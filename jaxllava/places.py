"""Rows of prompts in batches, and batches on the devices of a mesh."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxllava import sharding
from jaxllava.generate import Prompts, stack_prompts
from jaxllava.prompts import Row


class Places:
    """Where a model's parameters are laid out, and what it is given: a mesh, or the first device (None)."""

    def __init__(self, mesh: Mesh | None) -> None:
        self._mesh = mesh

    def context(self) -> contextlib.AbstractContextManager[Any]:
        """Models find their mesh in the context (see models/layout.py)."""
        return contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh)

    def put(self, array: Any) -> jax.Array:
        """A batch on the devices, cut along its first axis where that divides."""
        if self._mesh is None:
            return jnp.asarray(array)
        spec = (
            sharding.batch_sharding(self._mesh)
            if len(array) % self._shards == 0
            else sharding.whole(self._mesh)
        )
        return jax.device_put(array, spec)

    def stack(self, rows: list[Row], pad_id: int, rows_to: int) -> Prompts:
        """The rows as one batch of at least `rows_to`; of more devices a multiple of the parts it is cut into."""
        if self._mesh is None:
            return stack_prompts(rows, pad_id, rows_to)
        stacked = stack_prompts(rows, pad_id, -(-rows_to // self._shards) * self._shards)
        return jax.device_put(stacked, sharding.batch_sharding(self._mesh))

    @property
    def _shards(self) -> int:
        assert self._mesh is not None
        return self._mesh.shape["data"] * self._mesh.shape["fsdp"]


def keys(key: jax.Array, numbers: Sequence[int]) -> jax.Array:
    """A key for each number, [B]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, np.asarray(numbers, np.uint32))


def alike(rows: list[Row], batch_size: int) -> list[list[int]]:
    """Row numbers in batches of like size (images first, then tokens), so that little is padding."""
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i][2]), len(rows[i][0]), i))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
