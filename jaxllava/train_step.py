"""One optimizer step as a pure function, and fingerprints by which two runs are compared bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxllava import rules as rules_lib
from jaxllava.rules import Params

Batch = dict[str, jax.Array]
Sums = dict[str, jax.Array]
# (params, batch, key of the step's dropout) -> (sum of losses, {"weight": sum of weights, ...other sums})
Loss = Callable[[Params, Batch, jax.Array], tuple[jax.Array, Sums]]
Step = Callable[..., tuple[Params, optax.OptState, dict[str, Any]]]


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    seed: int = 0,
    shardings: tuple[Any, Any, Any] | None = None,
    compiler_options: Mapping[str, Any] | None = None,
) -> Step:
    """The jitted `step(trained, opt_state, frozen, batch, number, stop)`; the first two are donated.

    Args of the step: batch: global arrays [B, ...]; number: int32 [], counts from 1; stop: int32 [n], of all hosts
    (see `interrupts`). Gives (trained, opt_state, metrics): "loss", "gradient_norm", "stop" (the greatest),
    "fingerprint" of the batch, and the loss function's sums.

    Losses and gradients are summed over micro-batches and divided once by the total weight. `shardings` are those of
    (trained, opt_state, metrics): with them the state leaves as it came, and gradients are summed in that layout.
    """
    pin = (
        (lambda tree: tree)
        if shardings is None
        else (lambda tree: jax.lax.with_sharding_constraint(tree, shardings[0]))
    )

    @partial(
        jax.jit,
        donate_argnums=(0, 1),
        out_shardings=shardings,
        compiler_options=dict(compiler_options or {}) or None,
    )
    def step(
        trained: Params,
        opt_state: optax.OptState,
        frozen: Params,
        batch: Batch,
        number: jax.Array,
        stop: jax.Array,
    ) -> tuple[Params, optax.OptState, dict[str, Any]]:
        key = jax.random.fold_in(jax.random.key(seed), number)

        def loss_sum(trained: Params, micro: Batch, key: jax.Array) -> tuple[jax.Array, Sums]:
            return loss(rules_lib.merge(trained, frozen), micro, key)

        gradient = jax.value_and_grad(loss_sum, has_aux=True)
        if accumulate == 1:
            (total, sums), grads = gradient(trained, batch, key)
        else:
            # Micro-batch i is every accumulate-th row: each device keeps the rows that it holds.
            cut = lambda x: x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]).swapaxes(0, 1)
            micros = (jax.tree.map(cut, batch), jax.random.split(key, accumulate))

            def one(carry: Any, micro: tuple[Batch, jax.Array]) -> tuple[Any, None]:
                (total, sums), grads = gradient(trained, *micro)
                added = jax.tree.map(jnp.add, carry, ((total, sums), grads))
                return (added[0], pin(added[1])), None

            shapes = jax.eval_shape(gradient, trained, jax.tree.map(lambda x: x[0], micros[0]), key)
            zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            ((total, sums), grads), _ = jax.lax.scan(one, (zero[0], pin(zero[1])), micros)
        scale = 1.0 / jnp.maximum(sums["weight"], 1.0)
        grads = pin(jax.tree.map(lambda g: g * scale, grads))
        updates, opt_state = optimizer.update(grads, opt_state, trained)
        metrics = sums | {
            "loss": total * scale,
            "gradient_norm": optax.tree.norm(grads),
            "stop": stop.max(),
            "fingerprint": fingerprint(batch),
        }
        return optax.apply_updates(trained, updates), opt_state, metrics  # type: ignore[return-value]

    return step


def fingerprint(tree: Any) -> jax.Array:
    """uint32 [2] of every bit of a tree's leaves and their places.

    A sum of mixed integers, which is exact in any order: the same for every layout over devices and hosts.
    """
    total = jnp.zeros(2, jnp.uint32)
    for number, leaf in enumerate(jax.tree.leaves(tree)):
        bits = _bits(leaf)
        place = jnp.zeros((), jnp.uint32)
        for axis, size in enumerate(bits.shape):
            along = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
            place = place * jnp.uint32(size) + along
        for half in range(2):
            salt = jnp.uint32((2 * number + half + 1) * 0x9E3779B9 & 0xFFFFFFFF)
            mixed = _mix(bits + _mix(place ^ salt) * jnp.uint32(0x85EBCA6B))
            total = total.at[half].add(mixed.sum(dtype=jnp.uint32))
    return total


def hexadecimal(value: Any) -> str:
    """A fetched fingerprint as 16 digits."""
    return "".join(f"{int(part):08x}" for part in value)


def _bits(leaf: jax.Array) -> jax.Array:
    """Any leaf as uint32 of the same shape, no bit lost (complex and 64-bit leaves do not occur)."""
    if jnp.issubdtype(leaf.dtype, jnp.bool_):
        return leaf.astype(jnp.uint32)
    width = leaf.dtype.itemsize * 8
    return jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{width}")).astype(jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
    """A bijection of uint32 in which every bit moves about half of the others (two rounds of xor-shift-multiply)."""
    for multiplier in (0x7FEB352D, 0x846CA68B):
        x = (x ^ (x >> 16)) * jnp.uint32(multiplier)
    return x ^ (x >> 15)
