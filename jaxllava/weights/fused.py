"""Query, key and value projections that a checkpoint keeps as one tensor, as three of the tables' names and back."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from jaxllava.weights.lazy import Tensor

_FUSED = re.compile(r"(.*)\.(in_proj_|qkv\.)(weight|bias)")
_EVA_BIAS = re.compile(r"(.*\.attn)\.([qv])_bias")
_FUSED_PARTS = ("q_proj", "k_proj", "v_proj")


def split_fused(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torch's MultiheadAttention keeps query, key and value in one tensor, and so does EVA, whose keys have no bias:
    as three of the common names.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if match := _EVA_BIAS.fullmatch(name):
            found[f"{match[1]}.{match[2]}_proj.bias"] = tensor
            continue
        if (match := _FUSED.fullmatch(name)) is None or tensor.shape[0] % 3:
            found[name] = tensor
            continue
        width = tensor.shape[0] // 3
        for i, part in enumerate(_FUSED_PARTS):
            rows = slice(i * width, (i + 1) * width)
            found[f"{match[1]}.{part}.{match[3]}"] = Tensor(
                (width, *tensor.shape[1:]), tensor.dtype, lambda t=tensor, r=rows: t.read()[r]
            )
    return found


def join_fused(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The reverse of `split_fused` for the attention whose names begin with `prefix`."""
    found = dict(tensors)
    for kind in ("weight", "bias"):
        names = [f"{prefix}.{part}.{kind}" for part in _FUSED_PARTS]
        if not all(name in found for name in names):
            continue
        parts = [found.pop(name) for name in names]
        shape = (3 * parts[0].shape[0], *parts[0].shape[1:])
        found[f"{prefix}.in_proj_{kind}"] = Tensor(
            shape, parts[0].dtype, lambda parts=parts: np.concatenate([part.read() for part in parts])
        )
    return found


def join_eva(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of `split_fused` for an EVA tower: `attn.qkv.weight`, `attn.q_bias` and `attn.v_bias`."""
    found = {}
    for name, tensor in tensors.items():
        head, part, kind = name.rpartition(".attn.")[0], *name.rpartition(".attn.")[2].rpartition(".")[::2]
        if head and part in ("q_proj", "v_proj") and kind == "bias":
            found[f"{head}.attn.{part[0]}_bias"] = tensor
        elif head and part in _FUSED_PARTS:
            if part != "q_proj":
                continue
            parts = [tensors[f"{head}.attn.{one}.weight"] for one in _FUSED_PARTS]
            shape = (3 * tensor.shape[0], *tensor.shape[1:])
            found[f"{head}.attn.qkv.weight"] = Tensor(
                shape, tensor.dtype, lambda parts=parts: np.concatenate([one.read() for one in parts])
            )
        else:
            found[name] = tensor
    return found
