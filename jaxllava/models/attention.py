"""One attention function for every model, in several implementations that give the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from input_pipeline.errors import UserError
from jaxllava.models import layout, splash
from jaxllava.models.config import check_choice

IMPLEMENTATIONS = ("auto", "xla", "cudnn", "splash")

# Finite, so that a row which may attend to nothing gives a uniform average and not NaN.
_MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)
_BLOCK = 128  # queries, see `_blocks_pay`


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
      segment_ids: int [B, T] for self-attention (T == S): a token attends only within its own segment. Padding is
        a segment of its own (0).
      positions: int [B, T], with `causal`: the order within a segment. None means the order in the row.
      causal: attend only to the same or an earlier place.
      window: with `causal`: to places fewer than this many back, 0 is to all.
      implementation:
        "xla": the reference, everywhere; softmax in float32.
        "splash": TPUs, see `splash`. No mask, no positions; T == S, a multiple of 128. On a CPU it is interpreted,
          for tests; when a machine without a TPU compiles for one, the mesh in context says so
          (`layout.device_in_context`).
        "cudnn": NVIDIA GPUs from Ampere on, bfloat16 or float16, D a multiple of 8 up to 128; see `cudnn_arguments`.
        "auto": splash, else cudnn, where it can run on the devices in context with these shapes and dtypes, else xla.

    Under a mesh in context (`layout`), splash and cudnn run on each device's part of the batch and the heads. Returns
    [B, T, H, D] in the dtype of `query`. Raises UserError for an implementation that is named but cannot run.
    """
    check_choice("attention implementation", implementation, IMPLEMENTATIONS)
    more = {"mask": mask, "segment_ids": segment_ids, "positions": positions}
    if implementation == "auto":
        implementation = choose(query, key, more)
    elif implementation in _REFUSALS and (reason := _REFUSALS[implementation](query, key, more)):
        raise UserError(
            f"attention {implementation!r} cannot run here: {reason}. Set attention to 'auto' or 'xla'."
        )

    if implementation == "splash":
        interpret = layout.device_in_context()[0] != "tpu"

        def by_splash(q: jax.Array, k: jax.Array, v: jax.Array, given: dict[str, jax.Array]) -> jax.Array:
            return splash.splash_attention(
                q, k, v, given.get("segment_ids"), causal=causal, window=window, interpret=interpret
            )

        return layout.on_each_device(by_splash, query, key, value, more)

    if implementation == "cudnn":

        def by_cudnn(q: jax.Array, k: jax.Array, v: jax.Array, given: dict[str, jax.Array]) -> jax.Array:
            arguments = cudnn_arguments(q, k, causal=causal, window=window, **given)
            return jax.nn.dot_product_attention(q, k, v, **arguments, implementation="cudnn")

        return layout.on_each_device(by_cudnn, query, key, value, more)

    length = query.shape[1]
    if _blocks_pay(query, key, more, causal):
        parts = []
        for start in range(0, length, _BLOCK):
            end = min(start + _BLOCK, length)
            back = (length if not window else window - 1 + _BLOCK) // _BLOCK * _BLOCK
            first = max(0, start - back)  # the first place that a query of this block may see
            seen = None if segment_ids is None else segment_ids[:, first:end]
            allowed = _allowed(end - first, end - first, None, seen, None, causal, window)
            allowed = None if allowed is None else allowed[:, start - first :]
            parts.append(_xla(query[:, start:end], key[:, first:end], value[:, first:end], allowed))
        return jnp.concatenate(parts, axis=1)
    return _xla(
        query, key, value, _allowed(length, key.shape[1], mask, segment_ids, positions, causal, window)
    )


def _blocks_pay(query: jax.Array, key: jax.Array, more: Mapping[str, jax.Array | None], causal: bool) -> bool:
    """Whether to go by blocks of queries: on CPUs, whose caches hold a block's weights and not a row's, and where the
    upper half of the weights is not needed.
    """
    in_order = causal and more["mask"] is None and more["positions"] is None
    long = query.shape[1] == key.shape[1] >= 2 * _BLOCK
    return in_order and long and layout.device_in_context()[0] == "cpu"


def _xla(query: jax.Array, key: jax.Array, value: jax.Array, allowed: jax.Array | None) -> jax.Array:
    """allowed: bool [B or 1, T, S]."""
    batch, length, heads, dim = query.shape
    kv_heads = key.shape[2]
    grouped = query.reshape(batch, length, kv_heads, heads // kv_heads, dim)  # [B, T, K, G, D]
    if length == 1:
        return _one_query(grouped, key, value, allowed).reshape(batch, 1, heads, dim).astype(query.dtype)
    scores = jnp.einsum("btkgd,bskd->bkgts", grouped, key, preferred_element_type=jnp.float32) * dim**-0.5
    if allowed is not None:
        scores = jnp.where(allowed[:, None, None], scores, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)  # [B, K, G, T, S]
    out = jnp.einsum("bkgts,bskd->btkgd", weights, value)
    return out.reshape(batch, length, heads, dim).astype(query.dtype)


def _one_query(grouped: jax.Array, key: jax.Array, value: jax.Array, allowed: jax.Array | None) -> jax.Array:
    """A generated token's attention: grouped [B, 1, K, G, D] to [B, K, 1, G, D].

    Written as products and not as einsum, which takes the operands in an order of its own: what a cache holds,
    [B, K, S, D] in memory, is read as it lies where the key is the left operand, and the value the right one.
    """
    scores = jax.lax.dot_general(
        key, grouped, (((3,), (4,)), ((0, 2), (0, 2))), preferred_element_type=jnp.float32
    )  # [B, K, S, 1, G]
    scores = jnp.moveaxis(scores, 2, 4) * key.shape[-1] ** -0.5
    if allowed is not None:
        scores = jnp.where(allowed[:, None, :, None], scores, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)  # [B, K, 1, G, S]
    return jax.lax.dot_general(weights, value, (((4,), (1,)), ((0, 1), (0, 2))))


def choose(query: jax.Array, key: jax.Array, more: Mapping[str, jax.Array | None]) -> str:
    """What "auto" means for these arrays on the devices in context. `more`: as in `attention`, by name."""
    platform, _ = layout.device_in_context()
    if platform == "tpu" and _splash_refusal(query, key, more) is None:
        return "splash"
    return "cudnn" if _cudnn_refusal(query, key, more) is None else "xla"


def cudnn_arguments(
    query: jax.Array,
    key: jax.Array,
    *,
    mask: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
    causal: bool = False,
    window: int = 0,
) -> dict[str, Any]:
    """What `jax.nn.dot_product_attention` must be told, as far as its cuDNN kernel can: keyword arguments.

    The order in the row (T == S) and a window without segments are the kernel's own: it skips what they exclude.
    Segments are not: of packed rows the public function knows one length per row (`query_seq_lengths`) and no
    offsets, so that they become a mask bool [B, 1, T, S], which cuDNN reads as a bias. The causal half is still
    skipped.
    """
    batch, length, keys = query.shape[0], query.shape[1], key.shape[1]
    is_causal = causal and positions is None and length == keys
    # The kernel takes a window only without a bias.
    own_window = is_causal and window and mask is None and segment_ids is None
    in_mask = causal and not own_window and (window > 0 or not is_causal)
    allowed = _allowed(length, keys, mask, segment_ids, positions, in_mask, window)
    if allowed is not None:
        allowed = jnp.broadcast_to(allowed[:, None], (batch, 1, length, keys))
    return {
        "mask": allowed,
        "is_causal": is_causal,
        "local_window_size": (window - 1, 0) if own_window else None,
    }


def _splash_refusal(query: jax.Array, key: jax.Array, more: Mapping[str, jax.Array | None]) -> str | None:
    if layout.device_in_context()[0] not in ("tpu", "cpu"):
        return "it is a TPU's kernel"
    if more["mask"] is not None or more["positions"] is not None:
        return "it takes segments and the order in the row, but no mask and no positions"
    return splash.refusal(query.shape, key.shape)


def _cudnn_refusal(query: jax.Array, key: jax.Array, more: Mapping[str, jax.Array | None]) -> str | None:
    platform, kind = layout.device_in_context()
    if platform != "gpu" or not kind.startswith("NVIDIA"):
        return f"it needs an NVIDIA GPU, and this is {kind!r}"
    if (capability := _compute_capability()) < (8, 0):
        return f"it needs an NVIDIA GPU of compute capability 8.0 or later, and this is {capability}"
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it computes in bfloat16 or float16, and config.dtype is {query.dtype}"
    if query.shape[-1] > 128 or query.shape[-1] % 8:
        return f"it takes heads of a multiple of 8 up to 128 numbers, and these have {query.shape[-1]}"
    if any(array is not None for array in more.values()) and (query.shape[1] % 2 or key.shape[1] % 2):
        return f"with segments it takes even lengths, got {query.shape[1]} and {key.shape[1]}"
    return None


_REFUSALS = {"splash": _splash_refusal, "cudnn": _cudnn_refusal}


def _compute_capability() -> tuple[int, ...]:
    return tuple(int(part) for part in jax.devices()[0].compute_capability.split("."))


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
