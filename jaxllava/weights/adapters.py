"""What comes as a part of a model: LoRA adapters, a projector alone, weight deltas. Each needs its base.

All of it happens on `Tensor`s, so nothing is computed before a tensor is written.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.errors import UserError
from jaxllava.weights.lazy import Tensor
from jaxllava.weights.tables import IGNORED
from jaxllava.weights.tensor_files import TensorFiles, has_model

LORA_CONFIG = "adapter_config.json"
PROJECTOR = "mm_projector.bin"
OTHERS = "non_lora_trainables.bin"
_LORA = re.compile(r"(.+)\.lora_([AB])(?:\.\w+)?\.weight")


def with_lora(directory: Path, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The base's tensors with a PEFT adapter folder merged in: W + alpha / r * B A, computed in float32, in W's dtype.

    `non_lora_trainables.bin` (LLaVA's projector) and whole modules saved with the adapter take the place of the base's.
    """
    path = directory / LORA_CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_text())
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        if rank < 1:
            raise ValueError(f"r is {rank}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a readable LoRA config ({error!r}).") from error
    for key in ("use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern"):
        if config.get(key):
            raise UserError(f"{path}: {key} is not supported; merge this adapter with peft first.")
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    found = dict(base)
    halves: dict[str, dict[str, Tensor]] = {}
    for stored, tensor in TensorFiles(directory).items():
        name = stored.removeprefix("base_model.model.")
        if (match := _LORA.fullmatch(name)) is None:
            found[name] = tensor
        else:
            halves.setdefault(f"{match[1]}.weight", {})[match[2]] = tensor
    others = directory / OTHERS
    if others.is_file():
        found |= _stripped(TensorFiles(directory, files=[others]))
    problems = []
    for name, pair in halves.items():
        if name not in base:
            problems.append(f"{name} is not in the base")
        elif pair.keys() != {"A", "B"}:
            problems.append(f"{name} has only lora_{''.join(pair)}")
        elif (pair["A"].shape, pair["B"].shape) != _halves(base[name].shape, rank):
            shapes = f"{pair['B'].shape} x {pair['A'].shape} in the adapter, with r={rank}"
            problems.append(f"{name} has shape {base[name].shape} in the base, {shapes}")
        else:
            found[name] = _merged(base[name], pair["A"], pair["B"], scale)
    if problems:
        raise UserError(f"{directory}: the adapter does not fit its base: " + "; ".join(sorted(problems)))
    return found


def _halves(shape: tuple[int, ...], rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of A and B for a weight [out, in]."""
    return (rank, *shape[1:]), (shape[0], rank)


def _merged(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    def read() -> np.ndarray:
        low, high = a.read().astype(np.float32), b.read().astype(np.float32)
        return (weight.read().astype(np.float32) + scale * (high @ low)).astype(weight.dtype)

    return Tensor(weight.shape, weight.dtype, read)


def _stripped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes that PEFT's wrapping left in `non_lora_trainables.bin`."""
    names = {name: name.removeprefix("base_model.") for name in tensors}
    if any(name.startswith("model.model.") for name in names.values()):
        names = {stored: name.removeprefix("model.") for stored, name in names.items()}
    return {name: tensors[stored] for stored, name in names.items()}


def is_projector(directory: Path) -> bool:
    """Whether a folder is what LLaVA's first stage leaves: a projector and no model."""
    return (directory / PROJECTOR).is_file() and not has_model(directory)


def with_projector(
    directory: Path, base: Mapping[str, Tensor], also: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """The base's tensors with those of `mm_projector.bin`: the projector, and what `also` names the beginnings of
    (LLaMA-VID's has `vlm_att_*` beside it).
    """
    tensors = TensorFiles(directory, files=[directory / PROJECTOR])
    part = re.compile("|".join(map(re.escape, ("mm_projector.", *also))))
    places = {name: match.start() for name in tensors if (match := part.search(name))}
    if strange := [name for name in tensors if name not in places]:
        raise UserError(
            f"{directory / PROJECTOR}: holds {', '.join(strange)} too (mm_use_im_start_end); only a projector alone "
            "is put into a base."
        )
    kept = {name: tensor for name, tensor in base.items() if "mm_projector." not in name}
    return kept | {"model." + name[place:]: tensors[name] for name, place in places.items()}


def with_delta(delta: Mapping[str, Tensor], base: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Weights from the difference to a base, as in LLaVA's `apply_delta`: their sum where the base has the tensor.

    Embeddings and head may have more rows than the base's: the new ones stand in the delta as they are. So does what
    the base has not (the projector).
    """
    found = dict(delta)
    problems = []
    for name, tensor in base.items():
        if IGNORED.search(name):
            continue
        if name not in delta:
            problems.append(f"{name} is not in the delta")
            continue
        mine, theirs = tensor.shape, delta[name].shape
        grows = name in ("model.embed_tokens.weight", "lm_head.weight") and len(mine) == len(theirs)
        if mine != theirs and not (grows and all(a <= b for a, b in zip(mine, theirs, strict=True))):
            problems.append(f"{name} has shape {tensor.shape} in the base, {delta[name].shape} in the delta")
            continue
        found[name] = _sum(delta[name], tensor)
    if problems:
        raise UserError(f"{origin}: the delta does not fit the base: " + "; ".join(sorted(problems)))
    return found


def _sum(delta: Tensor, base: Tensor) -> Tensor:
    def read() -> np.ndarray:
        whole = delta.read().astype(np.float32)
        whole[tuple(slice(0, n) for n in base.shape)] += base.read().astype(np.float32)
        return whole.astype(delta.dtype)

    return Tensor(delta.shape, delta.dtype, read)
