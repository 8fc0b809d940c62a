"""One attention function for every model."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxllava.models.config import check_choice

IMPLEMENTATIONS = ("xla", "cudnn")

# Finite, so that a row which may attend to nothing gives a uniform average and not NaN.
_MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mask: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
    causal: bool = False,
    window: int = 0,
    implementation: str = "xla",
) -> jax.Array:
    """Scaled dot-product attention with grouped queries.

    Args:
      query: [B, T, H, D]; scaled here by D**-0.5.
      key, value: [B, S, K, D] with H a multiple of K; query head h reads key head h // (H // K).
      mask: bool [B, T, S], True where the query may attend. All given restrictions hold together.
      segment_ids: int [B, T] for self-attention (T == S): a token attends only within its own segment.
      positions: int [B, T], with `causal`: the order within a segment. None means the order in the row.
      causal: attend only to the same or an earlier place.
      window: with `causal`: to places fewer than this many back, 0 is to all.
      implementation: "xla" (reference, softmax in float32) or "cudnn" (NVIDIA GPU, half precision only).

    Returns [B, T, H, D] in the dtype of `query`.
    """
    check_choice("attention implementation", implementation, IMPLEMENTATIONS)
    batch, length, heads, dim = query.shape
    kv_heads = key.shape[2]
    allowed = _allowed(
        length, key.shape[1], mask, segment_ids, positions, causal, window
    )  # [B or 1, T, S] or None

    if implementation == "cudnn":
        bias_mask = (
            None if allowed is None else jnp.broadcast_to(allowed[:, None], (batch, 1, *allowed.shape[1:]))
        )
        return jax.nn.dot_product_attention(query, key, value, mask=bias_mask, implementation="cudnn")

    grouped = query.reshape(batch, length, kv_heads, heads // kv_heads, dim)  # [B, T, K, G, D]
    scores = jnp.einsum("btkgd,bskd->bkgts", grouped, key, preferred_element_type=jnp.float32)
    scores = scores * dim**-0.5
    if allowed is not None:
        scores = jnp.where(allowed[:, None, None], scores, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)  # [B, K, G, T, S]
    out = jnp.einsum("bkgts,bskd->btkgd", weights, value)
    return out.reshape(batch, length, heads, dim).astype(query.dtype)


def _allowed(
    length: int,
    keys: int,
    mask: jax.Array | None,
    segment_ids: jax.Array | None,
    positions: jax.Array | None,
    causal: bool,
    window: int,
) -> jax.Array | None:
    parts = [] if mask is None else [mask]
    if segment_ids is not None:
        parts.append(segment_ids[:, :, None] == segment_ids[:, None, :])
    if causal:
        if positions is None:
            back = jnp.arange(length)[:, None] + (keys - length) - jnp.arange(keys)[None, :]
            back = back[None]
        else:
            back = positions[:, :, None] - positions[:, None, :]  # [B or 1, T, S]: how far back each key lies
        parts.append(back >= 0)
        if window:
            parts.append(back < window)
    if not parts:
        return None
    allowed = parts[0]
    for part in parts[1:]:
        allowed = allowed & part
    return allowed
