"""Losses as sums: every one returns (sum of losses, sum of weights), divided once over the global batch.

A mean of per-device or per-micro-batch means weighs tokens by how empty their batch was; sums do not.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxllava.models import layout

Array = jax.Array


def cross_entropy_sum(
    hidden: Array,
    kernel: Array,
    targets: Array,
    weights: Array,
    chunks: int = 8,
    groups: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Token cross entropy of logits = hidden @ kernel, without the whole [B, L, V] of them in memory.

    hidden [B, L, D], kernel [D, V], targets int [B, L], weights f32 [B, L]. With `groups` f32 [B, L, S] (one-hot: which
    source a token is of) the last two results are [S], else []. Returns (sum f32 [], the same by group, weights by
    group); gradients flow from the first alone.

    The sequence is cut into `chunks` that a scan goes over: the logits of one chunk live at a time. Their gradients
    need no more than the logits, so that they are taken in the same pass and nothing is computed twice. Products run
    in hidden's dtype and are summed in float32. The kernel is gathered once, and its gradient is summed over the chips
    once: until then each batch shard keeps its own.
    """
    length = hidden.shape[1]
    while length % chunks:
        chunks -= 1
    # [B, L, 1] or [B, L, S]: a token's weight, in the column of its source
    spread = weights[..., None] if groups is None else weights[..., None] * groups
    total, by_group = cast(tuple[Array, Array], _cross_entropy(chunks, hidden, kernel, targets, spread))
    sums = spread.sum((0, 1))
    return (total, by_group[0], sums[0]) if groups is None else (total, by_group, sums)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cross_entropy(
    chunks: int, hidden: Array, kernel: Array, targets: Array, spread: Array
) -> tuple[Array, Array]:
    """(sum [], sums by group [S])."""
    whole = layout.whole_vocabulary(kernel.astype(hidden.dtype))

    def one(total: Array, chunk: tuple[Array, Array, Array]) -> tuple[Array, None]:
        x, y, w = chunk
        _, losses = _token_losses(x, whole, y)
        return total + _by_group(losses, w), None

    zero = jnp.zeros(spread.shape[2:], jnp.float32)
    by_group, _ = jax.lax.scan(one, zero, _chunked(chunks, hidden, targets, spread))
    return by_group.sum(), by_group


def _forward(
    chunks: int, hidden: Array, kernel: Array, targets: Array, spread: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """The sums, and d total / d (hidden, kernel)."""
    batch, length, width = hidden.shape
    whole = layout.whole_vocabulary(kernel.astype(hidden.dtype))
    shards = layout.batch_shards(batch)
    split = lambda x: layout.cut_by_batch(x.reshape(shards, -1, x.shape[-1]))  # [G, B/G * L/c, ...]

    def one(
        carry: tuple[Array, Array], chunk: tuple[Array, Array, Array]
    ) -> tuple[tuple[Array, Array], Array]:
        total, d_kernel = carry
        x, y, w = chunk  # [B, L/c, D], [B, L/c], [B, L/c, S]
        (shifted, lse), losses = _token_losses(x, whole, y)
        p = jnp.exp(shifted - lse[..., None])
        d_logits = (p - _is(y, p.shape[-1])) * w.sum(-1, keepdims=True)
        d_logits = d_logits.astype(x.dtype)  # [B, L/c, V]
        d_x = jax.lax.dot_general(d_logits, whole, (((2,), (1,)), ((), ())))
        d_kernel += jnp.einsum("gtd,gtv->gdv", split(x), split(d_logits), preferred_element_type=jnp.float32)
        return (total + _by_group(losses, w), layout.cut_by_batch(d_kernel)), d_x

    zero = jnp.zeros(spread.shape[2:], jnp.float32)
    none = layout.cut_by_batch(jnp.zeros((shards, *kernel.shape), jnp.float32))
    (by_group, d_kernel), d_hidden = jax.lax.scan(
        one, (zero, none), _chunked(chunks, hidden, targets, spread)
    )
    d_hidden = jnp.moveaxis(d_hidden, 0, 1).reshape(batch, length, width)
    # One after the other: a compiler that put the reduction off would keep a whole kernel through the backward pass.
    d_hidden, d_kernel = jax.lax.optimization_barrier((d_hidden, layout.cut_vocabulary(d_kernel.sum(0))))
    return (by_group.sum(), by_group), (d_hidden, d_kernel.astype(kernel.dtype))


def _backward(
    chunks: int, gradients: tuple[Array, Array], cotangents: tuple[Array, Array]
) -> tuple[Array, Array, None, None]:
    del chunks
    scale, _ = cotangents
    d_hidden, d_kernel = gradients
    return (d_hidden * scale).astype(d_hidden.dtype), (d_kernel * scale).astype(d_kernel.dtype), None, None


_cross_entropy.defvjp(_forward, _backward)


def _chunked(chunks: int, *arrays: Array) -> Any:
    """[B, L, ...] -> [c, B, L/c, ...]. The cut is along L, so that the batch axis stays sharded as it is."""
    cut = lambda x: jnp.moveaxis(x.reshape(x.shape[0], chunks, -1, *x.shape[2:]), 1, 0)
    return tuple(cut(array) for array in arrays)


def _is(targets: Array, size: int) -> Array:
    return targets[..., None] == jax.lax.broadcasted_iota(targets.dtype, (*targets.shape, size), targets.ndim)


def _token_losses(x: Array, kernel: Array, y: Array) -> tuple[tuple[Array, Array], Array]:
    """((logits less their maximum [B, L, V], log of the sum of their exponentials), losses [B, L]); all float32."""
    logits = jnp.matmul(x, kernel, preferred_element_type=jnp.float32)
    shifted = logits - logits.max(-1, keepdims=True)
    lse = jnp.log(jnp.exp(shifted).sum(-1))
    # Not a gather, which would need a vocabulary that lies on one chip.
    picked = jnp.where(_is(y, logits.shape[-1]), shifted, 0.0).sum(-1)
    return (shifted, lse), lse - picked


def _by_group(losses: Array, weights: Array) -> Array:
    return jnp.einsum("bl,bls->s", losses, weights, precision="highest")


def contrastive_sum(image: Array, text: Array, scale: Array) -> tuple[Array, Array]:
    """CLIP's symmetric cross entropy over the batch: unit features [B, P], scale [] -> (sum over B, B)."""
    logits = scale * image @ text.T  # [B, B]
    diagonal = jnp.diag(logits)
    by_image = jax.nn.logsumexp(logits, axis=1) - diagonal
    by_text = jax.nn.logsumexp(logits, axis=0) - diagonal
    return ((by_image + by_text) / 2).sum(), jnp.float32(len(logits))
