"""Low-rank adapters (LoRA, Hu et al. 2021) as leaves beside the kernels that they adapt, in a plain parameter tree.

Beside `.../up_proj/kernel` [in, out] stand `lora_a` [in, r], `lora_b` [r, out], `lora_scale` [] and `lora_dropout` [],
float32, each with the kernel's leading axis of layers. `models.linear.Linear` computes with them; what leaves a run has
them merged into its kernels. On top of kernels in four bits (`jaxllava.quantize`) this is QLoRA.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline.errors import UserError
from jaxllava import quantize
from jaxllava.models.linear import ADAPTER, QUANTIZED
from jaxllava.rules import Params, flatten, match, unflatten
from jaxllava.rules import merge as joined

Rules = Sequence[tuple[str, Sequence[float] | None]]


def adapters(params: Params, rules: Rules, key: jax.Array) -> Params:
    """The fresh adapters that `config.lora_rules` give a model, alone; see `add`.

    Only the shapes of `params` count. So the leaves of a sharded model are made in place by
    `jax.jit(lambda key: adapters(shapes, rules, key), out_shardings=...)(key)`, with the same numbers on every mesh.
    """
    if not rules:
        return {}
    shapes = quantize.kernel_shapes(params)
    settings = match(rules, shapes, "config.lora_rules")
    present = flatten(params)
    found: dict[str, Any] = {}
    for path, setting in settings.items():
        if setting is None:
            continue
        rank, alpha, dropout = _checked(path, setting)
        module = path.rpartition("/")[0]
        if f"{module}/lora_a" in present:
            raise UserError(
                f"{module} has an adapter already; merge it (jaxllava.lora.merge) before adding one"
            )
        *lead, rows, columns = shapes[path]
        # By path, so that no other adapter's presence changes this one.
        digest = hashlib.blake2s(path.encode(), digest_size=4).digest()
        own = jax.random.fold_in(key, int.from_bytes(digest, "little"))
        # Drawn in [-1, 1), where the arithmetic is exact, and rounded once: no compiler can change a bit of it.
        unit = jax.random.uniform(own, (*lead, rows, rank), jnp.float32, -1.0, 1.0)
        leaves = (
            unit * np.float32(rows**-0.5),
            jnp.zeros((*lead, rank, columns), jnp.float32),
            jnp.full(lead, alpha / rank, jnp.float32),
            jnp.full(lead, dropout, jnp.float32),
        )
        found |= {f"{module}/{name}": leaf for name, leaf in zip(ADAPTER, leaves, strict=True)}
    return unflatten(found)


def add(params: Params, rules: Rules, key: jax.Array) -> Params:
    """The tree with fresh adapters; of shapes, under `jax.eval_shape`, the shapes of that tree.

    Args:
      params: with plain or quantised kernels.
      rules: `config.lora_rules`, an ordered list of regex -> (rank, alpha, dropout) | None over the paths of the linear
        layers' kernels ("decoder/layers/mlp/up_proj/kernel"). An empty list adds nothing.
      key: each adapter is a function of it and of its own path.

    A starts uniform in +-1 / sqrt(in) and B at zero, so that a fresh adapter changes nothing; the scale is alpha / rank
    (PEFT's defaults, with which LLaVA trains). Raises a UserError for a setting that cannot work, for the head, which
    takes no adapter, and as `rules.match` does.
    """
    return joined(params, adapters(params, rules, key))


def _checked(path: str, setting: Sequence[float]) -> tuple[int, float, float]:
    try:
        rank, alpha, dropout = setting
        valid = int(rank) == rank >= 1 and alpha > 0 and 0 <= dropout < 1
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise UserError(
            f"config.lora_rules gives {path} {setting!r}; needed is (rank, alpha, dropout) with a whole rank of at "
            "least 1, alpha above 0 and 0 <= dropout < 1, or None"
        )
    if quantize.is_head(path):
        raise UserError(
            f"config.lora_rules gives {path} an adapter, and the head takes none; put ({path!r}, None) in front"
        )
    rank, alpha, dropout = setting
    return int(rank), float(alpha), float(dropout)


def has_dropout(rules: Rules) -> bool:
    """Whether a step needs an rng "dropout": some adapter of these rules drops inputs."""
    return any(setting is not None and setting[2] > 0 for _, setting in rules)


def strip(params: Params) -> Params:
    """The tree without its adapters: the base model, its kernels as they are."""
    return unflatten(
        {path: leaf for path, leaf in flatten(params).items() if path.rpartition("/")[2] not in ADAPTER}
    )


def merge(params: Params, dtype: Any = None, donate: bool = False) -> Params:
    """The tree with each adapter in its kernel, kernel + scale * A @ B, and no other leaves than a plain model's.

    Computed in float32, layer by layer, and rounded once. Kernels in four bits come out whole, whether adapted or not:
    to them an adapter was trained, so it is added to what they stand for and not to what they were made from.

    Args:
      params: numpy or jax arrays; what lies on a mesh stays as it lies. Other leaves are handed on as they are.
      dtype: of the kernels that change; None is their own, and bfloat16 for those in four bits. (A small adapter is
        partly rounded away in a bfloat16 kernel: ask for float32 where it must not be.)
      donate: adapted kernels are overwritten where their dtype stays, so that no second copy of the model is needed;
        `params` must not be used any more.
    """
    flat = flatten(params)
    found: dict[str, Any] = {}
    for path, leaf in flat.items():
        module, _, name = path.rpartition("/")
        if name not in ("kernel", "kernel_codes"):
            if name not in (*ADAPTER, *QUANTIZED):
                found[path] = leaf
            continue
        beside = {n: flat.get(f"{module}/{n}") for n in ("kernel_scales", *ADAPTER[:3])}
        parts = {n: value for n, value in beside.items() if value is not None}
        if parts:
            own = "bfloat16" if name == "kernel_codes" else leaf.dtype
            leaf = _merged(leaf, parts, jnp.dtype(own if dtype is None else dtype), donate)
        found[f"{module}/kernel"] = leaf
    return unflatten(found)


def _merged(base: Any, parts: dict[str, Any], dtype: Any, donate: bool) -> Any:
    """One kernel, plain or in codes, with `parts` beside it: `kernel_scales` and an adapter, or one of them."""
    in_place = base.dtype == dtype
    if isinstance(base, jax.Array):
        # Codes are cut along the same axes as their kernel.
        return _on_devices(dtype, base.sharding, donate and in_place)(base, parts)
    if base.ndim == 2:
        return np.asarray(_on_host(dtype)(base, parts))
    rows = base.shape[1] * (2 if "kernel_scales" in parts else 1)
    reuse = donate and in_place and base.flags.writeable
    out = base if reuse else np.empty((base.shape[0], rows, base.shape[2]), dtype)
    for i, layer in enumerate(base):
        out[i] = _on_host(dtype)(layer, {name: part[i] for name, part in parts.items()})
    return out


@functools.cache
def _on_host(dtype: Any) -> Any:
    return jax.jit(functools.partial(_matrix, dtype=dtype))


@functools.cache
def _on_devices(dtype: Any, sharding: Any, donate: bool) -> Any:
    def whole(base: jax.Array, parts: dict[str, jax.Array]) -> jax.Array:
        if base.ndim == 2:
            return _matrix(base, parts, dtype)
        layer: Any = lambda i, source: _matrix(source[i], {name: p[i] for name, p in parts.items()}, dtype)
        if base.dtype == dtype:  # one buffer, which may be the donated one
            return jax.lax.fori_loop(0, base.shape[0], lambda i, out: out.at[i].set(layer(i, out)), base)
        return jax.lax.map(lambda i: layer(i, base), jnp.arange(base.shape[0]))

    return jax.jit(whole, out_shardings=sharding, donate_argnums=(0,) if donate else ())


def _matrix(base: jax.Array, parts: dict[str, jax.Array], dtype: Any) -> jax.Array:
    """One layer's kernel [in, out] in `dtype`."""
    if "kernel_scales" in parts:
        kernel = quantize.dequantize(base, parts["kernel_scales"], jnp.float32)
    else:
        kernel = base.astype(jnp.float32)
    if "lora_a" in parts:
        # Accelerators would round the factors to half precision.
        low_rank = jnp.matmul(parts["lora_a"], parts["lora_b"], precision=jax.lax.Precision.HIGHEST)
        kernel = kernel + parts["lora_scale"] * low_rank
    return kernel.astype(dtype)
