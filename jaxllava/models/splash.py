"""Attention on TPUs: JAX's own Pallas kernel, which never holds the [T, T] scores and skips what is masked.

The kernel is `jax.experimental.pallas.ops.tpu.splash_attention`. This module gives it the shapes, the scale, the mask
and the block sizes that it wants; `attention.attention` is what models call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

LANES = 128  # the width of a TPU's vector registers: lengths are multiples of it
MAX_BLOCK = 512  # positions that are worked on at once; at 512 the published TPU recipes are near their best
MAX_HELD = (
    4096  # keys that the backward pass holds beside them; twice as many do not go into a v5p's vector memory
)
MOST_COPIES = 16  # of the queries' gradient, see `held_length`


def refusal(query: tuple[int, ...], key: tuple[int, ...]) -> str | None:
    """Why the kernel cannot take these shapes ([B, T, H, D] and [B, S, K, D]); None if it can."""
    if query[1] != key[1]:
        return f"it is self-attention only, got {query[1]} queries and {key[1]} keys"
    if query[1] % LANES:
        return f"the length {query[1]} is no multiple of {LANES}"
    return None


def block_length(length: int) -> int:
    """The largest multiple of 128 up to MAX_BLOCK that divides `length`."""
    return max(size for size in range(LANES, min(length, MAX_BLOCK) + 1, LANES) if length % size == 0)


def held_length(length: int) -> int:
    """Keys that the backward pass holds at once: the fewest whole blocks that leave at most MOST_COPIES.

    The fused kernel writes a copy of the queries' gradient for each part of the keys, to be summed: of 65,536 positions
    in blocks of 512 they would be 128 copies, 64 GiB for the 32 heads of a 7B.
    """
    block = block_length(length)
    sizes = [size for size in range(block, max(MAX_HELD, block) + 1, block) if length % size == 0]
    return next((size for size in sizes if length // size <= MOST_COPIES), sizes[-1])


def splash_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array | None,
    *,
    causal: bool,
    window: int,
    interpret: bool,
) -> jax.Array:
    """As `attention.attention`, on one device and for shapes without a `refusal`.

    Args: query [B, T, H, D], key and value [B, T, K, D] of one dtype; segment_ids int [B, T] or None; `interpret` runs
    the kernel step by step in plain JAX, for any device: slow, and for tests. Returns [B, T, H, D].
    """
    _, length, heads, dim = query.shape
    block = block_length(length)
    if causal:
        shape = (length, length)
        mask = masks.LocalMask(shape, (window - 1, 0), 0) if window else masks.CausalMask(shape)
    else:
        mask = masks.FullMask((length, length))
    # Made anew in each trace: the block tables inside are arrays of the trace that makes them.
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=kernels.BlockSizes(
            block_q=block,
            block_kv=block,
            block_kv_compute=block,
            block_q_dkv=block,
            block_kv_dkv=held_length(length),
            block_kv_dkv_compute=block,
            use_fused_bwd_kernel=True,
        ),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    # The kernel does not scale. In float32, so that half precision rounds the query once.
    query = (query.astype(jnp.float32) * dim**-0.5).astype(query.dtype)
    # A TPU lays out the last dimension in whole lanes anyway, so that padding a head of 64 costs next to nothing.
    padding = [(0, 0), (0, 0), (0, 0), (0, -dim % LANES)]
    query, key, value = (
        jnp.pad(part, padding).swapaxes(1, 2) for part in (query, key, value)
    )  # [B, H, T, D']
    ids = None
    if segment_ids is not None:
        # Padding is a segment like others: no row of the scores is without a place that it may see.
        ids = kernels.SegmentIds(segment_ids.astype(jnp.int32), segment_ids.astype(jnp.int32))
    out: Any = jax.vmap(kernel)(query, key, value, ids)  # not the pair that it can return too
    return out.swapaxes(1, 2)[..., :dim]


def kernel_flops(name: str, shapes: Sequence[tuple[int, ...]]) -> float | None:
    """FLOPs of one call of the kernel in a compiled program, by its name and the shapes of its operands.

    Causal, without a window (which would skip more): all blocks of positions on and below the diagonal, whole. Forward
    two products of matrices, the fused backward five, in blocks of as many keys as it holds. None for another kernel.
    """
    # The queries: the largest operand, [H, T, D] or under vmap [B, H, T, D]; segments are [T, LANES].
    wide = [
        shape for shape in shapes if len(shape) >= 3 and all(n > 0 and n % LANES == 0 for n in shape[-2:])
    ]
    if "splash" not in name or not wide:
        return None
    *heads, length, dim = max(wide, key=math.prod)
    backward = "dkv" in name
    block = held_length(length) if backward else block_length(length)
    blocks = length // block
    pairs = blocks * (blocks + 1) / 2 * block**2
    return (10.0 if backward else 4.0) * pairs * math.prod(heads) * dim
