"""Losses as sums: every one returns (sum of losses, sum of weights), divided once over the global batch.

A mean of per-device or per-micro-batch means weighs tokens by how empty their batch was; sums do not.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array


def cross_entropy_sum(
    hidden: Array,
    head: Callable[[Array], Array],
    targets: Array,
    weights: Array,
    chunks: int = 8,
    groups: Array | None = None,
) -> tuple[Array, Array]:
    """Token cross entropy without the whole [B, L, V] of logits in memory.

    hidden [B, L, D], targets int [B, L], weights f32 [B, L] -> (sum f32 [], sum of weights f32 []). The sequence is
    cut into `chunks` that a checkpointed scan goes over: the logits of one chunk live at a time, forward and backward.
    The cut is along L so that the batch axis stays sharded as it is. With `groups` f32 [B, L, S] (one-hot: which
    source a token is of) both sums are [S].
    """
    batch, length, _ = hidden.shape
    while length % chunks:
        chunks -= 1
    cut = lambda x: jnp.moveaxis(x.reshape(batch, chunks, length // chunks, *x.shape[2:]), 1, 0)
    # [B, L] or [B, L, S]: a token's weight, in the column of its source
    spread = weights if groups is None else weights[..., None] * groups

    def one(total: Array, chunk: tuple[Array, Array, Array]) -> tuple[Array, None]:
        x, y, w = chunk  # [B, L/c, D], [B, L/c], [B, L/c] or [B, L/c, S]
        logits = head(x).astype(jnp.float32)  # [B, L/c, V]
        picked = jnp.take_along_axis(logits, y[..., None], axis=-1)[..., 0]
        losses = jax.nn.logsumexp(logits, axis=-1) - picked
        return total + jnp.einsum("bl,bl...->...", losses, w, precision="highest"), None

    zero = jnp.zeros(spread.shape[2:], jnp.float32)
    if chunks == 1:
        total = one(zero, (hidden, targets, spread))[0]
    else:
        total, _ = jax.lax.scan(jax.checkpoint(one), zero, (cut(hidden), cut(targets), cut(spread)))
    return total, spread.sum((0, 1))


def contrastive_sum(image: Array, text: Array, scale: Array) -> tuple[Array, Array]:
    """CLIP's symmetric cross entropy over the batch: unit features [B, P], scale [] -> (sum over B, B)."""
    logits = scale * image @ text.T  # [B, B]
    diagonal = jnp.diag(logits)
    by_image = jax.nn.logsumexp(logits, axis=1) - diagonal
    by_text = jax.nn.logsumexp(logits, axis=0) - diagonal
    return ((by_image + by_text) / 2).sum(), jnp.float32(len(logits))
