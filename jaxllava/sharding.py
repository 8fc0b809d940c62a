"""The device mesh and the ordered (regex -> axes) rules that lay parameters out on it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from input_pipeline.errors import UserError
from jaxllava import rules as rules_lib
from jaxllava.rules import Params

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

Axes = tuple[str | tuple[str, ...] | None, ...]


def _linear(path: str, axes: Axes, kernel: Axes | None = None) -> tuple[tuple[str, Axes], ...]:
    """The rules of linear layers: each form of a kernel [..., in, out], and an adapter along its kernel.

    kernel: axes of the plain kernel, where those are not the ones of its other forms.

    FSDP cuts the rank of the half whose other side is not its own: a whole half on every chip would cost gigabytes
    with its moments.
    """
    *layers, rows, columns = axes
    return (
        (rf"{path}/kernel", kernel or axes),
        (rf"{path}/kernel_(codes|scales)", axes),
        (rf"{path}/lora_a", (*layers, rows, None if rows == "fsdp" else "fsdp")),
        (rf"{path}/lora_b", (*layers, None if columns == "fsdp" else "fsdp", columns)),
    )


# Stacked layers keep their leading axis whole: a scan steps over it. Tensor parallelism cuts the output side of
# column-parallel kernels and the input side of row-parallel ones (Megatron's layout). FSDP cuts the input side of both:
# TPUs scatter what they reduce along the first dimension of a gradient, along the last they would reduce it whole and
# cut it then, at twice the traffic. What has no gradient (codes, scales) is cut where it divides best. The projector is
# laid out like the decoder's MLP, which it feeds.
ROW = ("tensor", "fsdp")
_SEEING = r"(vision/layers|qformer/layers/block_\d+)"  # blocks of the tower, and of LLaMA-VID's Q-Former
LLAVA_RULES: tuple[tuple[str, Axes], ...] = (
    (r"decoder/embed/embedding", ("tensor", "fsdp")),
    (r"decoder/lm_head/kernel", ("fsdp", "tensor")),
    *_linear(r"decoder/layers/attn/(q|k|v)_proj", (None, "fsdp", "tensor")),
    *_linear(r"decoder/layers/attn/o_proj", (None, "tensor", "fsdp"), (None, ROW, None)),
    *_linear(r"decoder/layers/mlp/(gate|up)_proj", (None, "fsdp", "tensor")),
    *_linear(r"decoder/layers/mlp/down_proj", (None, "tensor", "fsdp"), (None, ROW, None)),
    *_linear(r"(projector/linear_1|context/(query|key|value|vision)_proj)", ("fsdp", "tensor")),
    *_linear(r"projector/linear_(?!1/)\d+", ("tensor", "fsdp"), (ROW, None)),
    *_linear(rf"{_SEEING}/(attn|cross)/(q|k|v)_proj", (None, "fsdp", "tensor")),
    *_linear(rf"{_SEEING}/(attn|cross)/out_proj", (None, "tensor", "fsdp"), (None, ROW, None)),
    *_linear(rf"{_SEEING}/mlp(_query|_text)?/fc1", (None, "fsdp", "tensor")),
    *_linear(rf"{_SEEING}/mlp(_query|_text)?/fc2", (None, "tensor", "fsdp"), (None, ROW, None)),
    (r"vision/head/(.*(kernel(_codes|_scales)?|lora_[ab])|probe)|image_newline|qformer/query", ()),
    (r"qformer/word_embedding", (None, "fsdp")),
    (r".*(bias|scale|_embedding|patch_embedding/kernel|lora_dropout)", ()),
)
REPLICATED: tuple[tuple[str, Axes], ...] = ((r".*", ()),)
RULES = {"llava": LLAVA_RULES, "replicated": REPLICATED}  # config.sharding_rules


def make_mesh(
    shape: Sequence[int] = (1, -1, 1), devices: Sequence[Any] | None = None, limit: int = 0
) -> Mesh:
    """A `data x fsdp x tensor` mesh; one size may be -1 for what is left. limit: of the first so many, 0 is all.

    On TPUs neighbours in the mesh are neighbours in the torus. Where they are several slices, only the data axis goes
    from one to another: what it sums, the gradients, is what crosses the network once a step.
    """
    found = list(devices if devices is not None else jax.devices())
    if limit > len(found):
        raise UserError(f"config.devices={limit}: only {len(found)} are here; 0 is all")
    found = found[: limit or None]
    if len(shape) != len(AXES):
        raise UserError(
            f"config.mesh: {tuple(shape)} has {len(shape)} sizes and needs one for each of {', '.join(AXES)}, e.g. "
            "--config.mesh=1,-1,1"
        )
    known = int(np.prod([size for size in shape if size != -1]))
    sizes = [len(found) // known if size == -1 else size for size in shape]
    if list(shape).count(-1) > 1 or int(np.prod(sizes)) != len(found):
        raise UserError(
            f"config.mesh: {tuple(shape)} over {AXES} does not divide {len(found)} devices; their product has to be "
            f"{len(found)}, one size may be -1 for what is left"
        )
    if found[0].platform == "tpu":
        return Mesh(_on_torus(sizes, found), AXES)
    return Mesh(np.asarray(found).reshape(sizes), AXES)


def _on_torus(sizes: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
    """TPUs as an array of these sizes [data, fsdp, tensor]; along data, one slice after the other."""
    slices: dict[int, list[Any]] = {}
    for device in devices:
        slices.setdefault(getattr(device, "slice_index", 0), []).append(device)
    data, *within = sizes
    if data % len(slices) or len({len(found) for found in slices.values()}) > 1:
        held = ", ".join(str(len(found)) for found in slices.values())
        raise UserError(
            f"config.mesh: {tuple(sizes)} over {len(slices)} slices of {held} devices: only the data axis may go from "
            f"slice to slice, and each has to hold as much of it; e.g. --config.mesh={len(slices)},-1,1"
        )
    parts = [_on_one_torus((data // len(slices), *within), slices[index]) for index in sorted(slices)]
    return np.concatenate(parts)


def _on_one_torus(sizes: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
    try:
        return mesh_utils.create_device_mesh(sizes, devices)
    except NotImplementedError:
        # No axis of the torus, nor a product of them, has that size: 2 of 4 x 8 chips is half of an axis.
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)


def local_mesh(weights: int) -> Mesh | None:
    """A mesh of this host's devices to answer with; None where there is one device.

    A model of `weights` bytes is cut over as few devices as leave half of each one's memory to caches and pixels (along
    `tensor`: in decoding, FSDP would gather all of it for every token), and stands as often as that leaves room for.
    """
    devices = jax.local_devices()
    if len(devices) == 1:
        return None
    limit = ((devices[0].memory_stats() or {}) if devices[0].platform != "cpu" else {}).get("bytes_limit")
    parts = 1
    while limit and parts < len(devices) and weights / parts > limit / 2:
        parts *= 2
    parts = parts if len(devices) % parts == 0 else len(devices)
    return make_mesh((len(devices) // parts, 1, parts), devices)


def is_tpu(mesh: Mesh) -> bool:
    return mesh.devices.flat[0].platform == "tpu"


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batches are cut along their first axis over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def whole(mesh: Mesh) -> NamedSharding:
    """What every device has a copy of."""
    return NamedSharding(mesh, PartitionSpec())


def rows_of_host(sharding: NamedSharding, rows: int) -> np.ndarray:
    """Which of a batch's rows this host's devices hold, in order: int [n]. All of them on one host."""
    indices: Any = sharding.addressable_devices_indices_map((rows,)).values()
    held = {row for (index, *_) in indices for row in range(*index.indices(rows))}
    return np.asarray(sorted(held), np.int64)


def of_hosts(mesh: Mesh, value: int) -> jax.Array:
    """int32 [devices]: each host's value at the places of its devices."""
    sharding = NamedSharding(mesh, PartitionSpec(AXES))
    return jax.make_array_from_callback((mesh.size,), sharding, lambda index: np.full(1, value, np.int32))


def put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A host's array to its devices; on several hosts each gives the parts that its own devices hold."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def spread(leaf: jax.Array, mesh: Mesh) -> jax.Array:
    """A leaf that lives on the whole mesh: as it is where it does already, else a copy on every device."""
    if leaf.sharding.device_set == set(mesh.devices.flat):
        return leaf
    return put(np.asarray(leaf), NamedSharding(mesh, PartitionSpec()))


def param_shardings(params: Params, mesh: Mesh | AbstractMesh, rules: Sequence[tuple[str, Axes]]) -> Params:
    """A tree of NamedShardings. An axis that does not divide its dimension is left out (that dimension is whole).

    A rule of `LLAVA_RULES` may match nothing: no model has all the parts and forms that they lay out.
    """
    flat = rules_lib.flatten(params)
    idle = [r for r in LLAVA_RULES if not any(re.fullmatch(r[0], path) for path in flat)]
    axes = rules_lib.match([rule for rule in rules if rule not in idle], flat, "config.sharding_rules")
    shardings = {}
    for path, leaf in flat.items():
        names = axes[path] or (None,) * len(leaf.shape)
        if len(names) != len(leaf.shape):
            raise UserError(f"config.sharding_rules gives {path} of shape {leaf.shape} the axes {names}")
        spec = _spec(names, leaf.shape, mesh)
        shardings[path] = NamedSharding(mesh, PartitionSpec(*spec))
    return rules_lib.unflatten(shardings)


def _spec(names: Axes, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> list[Any]:
    """The axes as far as they divide. Of several on one dimension, one that does not goes to the last dimension."""
    spec: list[Any] = []
    dropped: list[str] = []
    for name, size in zip(names, shape, strict=True):
        kept: list[str] = []
        for each in name if isinstance(name, tuple) else [name] if name else []:
            if size % math.prod(mesh.shape[axis] for axis in (*kept, each)) == 0:
                kept.append(each)
            elif isinstance(name, tuple):
                dropped.append(each)
        spec.append(tuple(kept) if len(kept) > 1 else kept[0] if kept else None)
    if dropped and spec[-1] is None and shape[-1] % mesh.shape[dropped[0]] == 0:
        spec[-1] = dropped[0]
    return spec
