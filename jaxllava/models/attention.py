"""One attention function for every model, and rotary positions."""

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
      implementation: "xla" (reference, softmax in float32) or "cudnn" (NVIDIA GPU, half precision only).

    Returns [B, T, H, D] in the dtype of `query`.
    """
    check_choice("attention implementation", implementation, IMPLEMENTATIONS)
    batch, length, heads, dim = query.shape
    kv_heads = key.shape[2]
    allowed = _allowed(length, key.shape[1], mask, segment_ids, positions, causal)  # [B or 1, T, S] or None

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
) -> jax.Array | None:
    parts = [] if mask is None else [mask]
    if segment_ids is not None:
        parts.append(segment_ids[:, :, None] == segment_ids[:, None, :])
    if causal:
        if positions is None:
            order = jnp.arange(length)[:, None] + (keys - length) >= jnp.arange(keys)[None, :]
            parts.append(order[None])
        else:
            parts.append(positions[:, :, None] >= positions[:, None, :])
    if not parts:
        return None
    allowed = parts[0]
    for part in parts[1:]:
        allowed = allowed & part
    return allowed


def rotate(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
    """Rotary position embedding in the half-split convention of Hugging Face Llama.

    The two halves of each head are the real and imaginary parts (the original Llama code interleaves them).

    Args: x [B, T, H, D]; positions int [B, T]. Returns [B, T, H, D] in x's dtype; the angles are float32.
    """
    half = x.shape[-1] // 2
    frequency = 1.0 / theta ** (jnp.arange(half, dtype=jnp.float32) / half)  # [D/2]
    angle = positions[..., None, None].astype(jnp.float32) * frequency  # [B, T, 1, D/2]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    real, imag = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([real * cos - imag * sin, imag * cos + real * sin], axis=-1).astype(x.dtype)
