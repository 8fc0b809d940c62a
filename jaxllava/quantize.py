"""Frozen kernels in four bits: NF4, as in QLoRA (Dettmers et al. 2023, section 3 and appendix E).

A kernel [..., in, out] becomes two leaves in its place: `kernel_codes`, two levels in a byte, and `kernel_scales`, the
largest absolute value of each block of inputs. `models.linear.Linear` reads either form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline.errors import UserError, nearest
from jaxllava.rules import Params, flatten, match, unflatten

BLOCK = 64  # inputs that share a scale
METHODS = ("nf4",)
# Quantiles of the normal distribution, with an exact zero and both ends: eight below zero, seven above.
LEVELS = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)
_MIDDLES = (LEVELS[1:] + LEVELS[:-1]) / 2


def kernel_shapes(params: Params) -> dict[str, tuple[int, ...]]:
    """The kernels of a tree's linear layers: path (ending in "/kernel") -> [in, out], or [layers, in, out] if stacked.

    A kernel in four bits goes by the path and shape that it had. Leaves need no more than a shape.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path, leaf in flatten(params).items():
        module, _, name = path.rpartition("/")
        if len(leaf.shape) != 2 + ("layers" in path.split("/")):  # a patch convolution has four axes
            continue
        if name == "kernel":
            found[path] = tuple(leaf.shape)
        elif name == "kernel_codes":
            *lead, half, columns = leaf.shape
            found[f"{module}/kernel"] = (*lead, 2 * half, columns)
    return found


def is_head(path: str) -> bool:
    """Whether a kernel is the decoder's output matrix, which is read bare (`Llama.logits`)."""
    return path.split("/")[-2:] == ["lm_head", "kernel"]


def quantize(kernel: Any, block: int = BLOCK) -> dict[str, jax.Array]:
    """A kernel, float [..., in, out], in NF4; layers one after another, each computed in float32.

    Returns {"kernel_codes": uint8 [..., in / 2, out], "kernel_scales": float32 [..., in / block, out]}: byte i holds
    the level of input 2 i in its low half and that of 2 i + 1 in its high one. Each value goes to its nearest level.
    Raises a UserError unless `block` is even and divides the inputs.
    """
    if problem := _misfit(tuple(kernel.shape), block):
        raise UserError(f"a kernel of shape {tuple(kernel.shape)} cannot be kept in nf4: {problem}")
    return _quantize(kernel, block=block)


def _misfit(shape: tuple[int, ...], block: int) -> str:
    """Why a kernel has no NF4 form, or nothing."""
    if block < 2 or block % 2:
        return f"a block of {block} inputs is not an even number of them"
    if shape[-2] % block:
        return f"its {shape[-2]} inputs are no multiple of the block, {block}"
    return ""


@partial(jax.jit, static_argnames="block")
def _quantize(kernel: jax.Array, *, block: int) -> dict[str, jax.Array]:
    *lead, rows, columns = kernel.shape

    def matrix(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        blocks = kernel.astype(jnp.float32).reshape(rows // block, block, columns)
        scales = jnp.abs(blocks).max(axis=1)  # [in / block, out]
        unit = blocks / jnp.where(scales == 0, 1, scales)[:, None]
        codes = sum((unit > middle).astype(jnp.uint8) for middle in _MIDDLES)
        pairs = jnp.asarray(codes).reshape(rows // 2, 2, columns)
        return pairs[:, 0] | (pairs[:, 1] << 4), scales

    if lead:
        stacked = kernel.reshape(math.prod(lead), rows, columns)
        codes, scales = jax.lax.map(matrix, stacked)
    else:
        codes, scales = matrix(kernel)
    return {
        "kernel_codes": codes.reshape(*lead, rows // 2, columns),
        "kernel_scales": scales.reshape(*lead, rows // block, columns),
    }


def dequantize(codes: jax.Array, scales: jax.Array, dtype: Any) -> jax.Array:
    """The kernel of `quantize`'s leaves, [..., in, out] in `dtype`: level times scale, in float32, then rounded."""
    if codes.dtype != jnp.uint8:
        raise TypeError(f"kernel_codes must be uint8 and were cast to {codes.dtype}")
    *lead, half, columns = codes.shape
    rows = 2 * half
    pairs = jnp.stack([codes & 15, codes >> 4], axis=-2)  # [..., in / 2, 2, out]
    # A tree of selections on the four bits: elementwise, so that it fuses, where a look-up is a gather, which
    # accelerators do one element at a time.
    values: list[Any] = list(LEVELS)
    for bit in range(4):
        is_set = (pairs >> bit) & 1 == 1
        values = [jnp.where(is_set, high, low) for low, high in zip(values[::2], values[1::2], strict=True)]
    levels = values[0].reshape(*lead, scales.shape[-2], rows // scales.shape[-2], columns)
    return (levels * scales[..., None, :]).astype(dtype).reshape(*lead, rows, columns)


def chosen(params: Params, rules: Sequence[tuple[str, str | None]], block: int = BLOCK) -> frozenset[str]:
    """The kernel paths that `config.quantize_rules` (regex over kernel paths -> "nf4" | None) keep in four bits.

    `params` may be shapes: then a caller can quantise each kernel as it is read. Empty rules choose nothing. Raises a
    UserError that names a kernel which does not fit, the head, a method that is not known, or a rule that does nothing.
    """
    if not rules:
        return frozenset()
    shapes = kernel_shapes(params)
    methods = match(rules, shapes, "config.quantize_rules")
    for path, method in methods.items():
        if method is None:
            continue
        if method not in METHODS:
            raise UserError(f"config.quantize_rules: {method!r} is not known.{nearest(str(method), METHODS)}")
        problem = "the head is read bare" if is_head(path) else _misfit(shapes[path], block)
        if problem:
            raise UserError(
                f"config.quantize_rules: {path} of shape {shapes[path]} cannot be kept in nf4: {problem}; "
                f"put ({path!r}, None) in front"
            )
    return frozenset(path for path, method in methods.items() if method is not None)


def apply(params: Params, rules: Sequence[tuple[str, str | None]], block: int = BLOCK) -> Params:
    """The tree with the kernels that the rules choose (see `chosen`) in four bits, one leaf after another.

    Works on shapes under `jax.eval_shape`. What is quantised already stays as it is.
    """
    picked = chosen(params, rules, block)
    found: dict[str, Any] = {}
    for path, leaf in flatten(params).items():
        if path in picked:
            module = path.rpartition("/")[0]
            found |= {f"{module}/{name}": part for name, part in quantize(leaf, block).items()}
        else:
            found[path] = leaf
    return unflatten(found)


def check_frozen(trained: Params) -> None:
    """Raises a UserError if the part of a model that trains has a kernel in four bits, which has no gradient."""
    for path in flatten(trained):
        if path.endswith(("/kernel_codes", "/kernel_scales")):
            kernel = path.rpartition("_")[0]
            raise UserError(
                f"config.lr_rules trains {path}, and a kernel in nf4 cannot be trained; freeze it by "
                f"({kernel + '.*'!r}, None), or put ({kernel!r}, None) in front of config.quantize_rules"
            )
