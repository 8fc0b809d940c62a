"""Where activations lie on the device mesh, as the models' own code sees it.

Models get no mesh as an argument: whoever traces them puts one in context with `jax.set_mesh(mesh)` (axes data, fsdp
and tensor, as `sharding.make_mesh` makes them). Without one, everything here does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from jaxllava.sharding import AXES, BATCH_AXES

HEAD_AXIS = "tensor"
# (query [B, T, H, D], key [B, S, K, D], value [B, S, K, D], more by name [B, ...]) -> [B, T, H, D]
Kernel = Callable[[jax.Array, jax.Array, jax.Array, dict[str, jax.Array]], jax.Array]


def mesh_in_context() -> AbstractMesh | None:
    """The mesh over which the compiler is free to cut arrays; None where there is none or only one device.

    Inside `jax.shard_map` there is none: arrays are one device's own there.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1 or set(mesh.axis_names) != set(AXES) or set(mesh.axis_types) != {AxisType.Auto}:
        return None
    return mesh


def device_in_context() -> tuple[str, str]:
    """(platform, kind), as ("tpu", "TPU v5 lite") or ("gpu", "NVIDIA H100"): of what is traced for.

    The devices of the mesh in context if there is one: a machine without a TPU that compiles for a TPU topology
    (`jax.experimental.topologies`) traces for TPUs. Else the devices of this process.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        device = jax.devices()[0]
    return device.platform, device.device_kind


def batch_axes(mesh: AbstractMesh, size: int) -> tuple[str, ...] | None:
    """The axes along which a batch of `size` is cut; None where it does not divide (it is whole then)."""
    parts = 1
    for axis in BATCH_AXES:
        parts *= mesh.shape[axis]
    return BATCH_AXES if size % parts == 0 else None


def cut_by_batch(x: jax.Array) -> jax.Array:
    """x [B, ...] itself, held to be cut along the batch over the mesh in context and whole otherwise.

    The compiler is then left only one way to multiply it with a parameter cut over fsdp: to gather the parameter.
    Without this, it may gather the activations instead.
    """
    mesh = mesh_in_context()
    axes = mesh and batch_axes(mesh, x.shape[0])
    if not axes:
        return x
    return jax.lax.with_sharding_constraint(x, P(axes, *[None] * (x.ndim - 1)))


def cut_by_place(x: jax.Array) -> jax.Array:
    """Hidden states [B, L, D] themselves, held to be cut along the batch and, over `tensor`, along the row.

    What lies between attention and MLP needs no other position: where heads and the MLP's width are cut over tensor, a
    device then keeps its part of the row and not all of it (Korthikanti et al. 2022, "sequence parallelism"): the
    states that 32 layers of width 4096 keep of a row of 65,536 are 16 GiB. What tensor parallelism would sum is summed
    and cut at once, and gathered again by `whole_places`: as many bytes as the sum. Where tensor is 1, or does not
    divide the row: as `cut_by_batch`.
    """
    mesh = mesh_in_context()
    axes = mesh and batch_axes(mesh, x.shape[0])
    if not mesh or not axes or not _cuts_places(mesh, x):
        return cut_by_batch(x)
    return jax.lax.with_sharding_constraint(x, P(axes, HEAD_AXIS, None))


def whole_places(x: jax.Array) -> jax.Array:
    """What `cut_by_place` cut, held to be whole along the row; else x itself, and nothing is held.

    Backward the reverse: what comes from the parts of the heads is summed and cut at once.
    """
    mesh = mesh_in_context()
    return _gathered(x) if mesh and _cuts_places(mesh, x) else x


def summed_by_place(x: jax.Array) -> jax.Array:
    """A layer's result [B, L, D], to be added to what `cut_by_place` cut: cut alike; else x itself.

    Backward the reverse: left with a gradient cut along the row, the compiler would compute the whole gradient of a
    kernel whose rows are cut over tensor on every device.
    """
    mesh = mesh_in_context()
    return _scattered(x) if mesh and _cuts_places(mesh, x) else x


@jax.custom_vjp
def _gathered(x: jax.Array) -> jax.Array:
    return cut_by_batch(x)


_gathered.defvjp(lambda x: (cut_by_batch(x), None), lambda _, gradient: (cut_by_place(gradient),))


@jax.custom_vjp
def _scattered(x: jax.Array) -> jax.Array:
    return cut_by_place(x)


_scattered.defvjp(lambda x: (cut_by_place(x), None), lambda _, gradient: (cut_by_batch(gradient),))


def _cuts_places(mesh: AbstractMesh, x: jax.Array) -> bool:
    return mesh.shape[HEAD_AXIS] > 1 and x.shape[1] % mesh.shape[HEAD_AXIS] == 0


def cut_by_vocabulary(table: jax.Array) -> jax.Array:
    """An embedding table [V, D] itself, held to be whole along D over the mesh in context before it is read.

    Read while it is cut along D, it would give every device a slice of D for the tokens of the whole batch.
    """
    mesh = mesh_in_context()
    if mesh is None:
        return table
    axis = HEAD_AXIS if table.shape[0] % mesh.shape[HEAD_AXIS] == 0 else None
    return jax.lax.with_sharding_constraint(table, P(axis, None))


def batch_shards(batch: int) -> int:
    """In how many parts `cut_by_batch` cuts a batch of this size."""
    mesh = mesh_in_context()
    axes = mesh and batch_axes(mesh, batch)
    if not mesh or not axes:
        return 1
    parts = 1
    for axis in axes:
        parts *= mesh.shape[axis]
    return parts


def whole_vocabulary(kernel: jax.Array) -> jax.Array:
    """The head's kernel [D, V] itself, held to be whole along D: gathered here, and not again in a loop."""
    return _vocabulary(kernel, None)


def cut_vocabulary(kernel: jax.Array) -> jax.Array:
    """The head's kernel [D, V], or its gradient, held to lie as the parameter does."""
    return _vocabulary(kernel, "fsdp")


def _vocabulary(kernel: jax.Array, axis: str | None) -> jax.Array:
    mesh = mesh_in_context()
    if mesh is None:
        return kernel
    spec = [
        name if name and size % mesh.shape[name] == 0 else None
        for name, size in zip((axis, HEAD_AXIS), kernel.shape, strict=True)
    ]
    return jax.lax.with_sharding_constraint(kernel, P(*spec))


def on_each_device(
    kernel: Kernel,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    more: Mapping[str, jax.Array | None],
) -> jax.Array:
    """Runs an attention kernel that the compiler cannot cut on each device's part of batch and heads.

    Batches are cut over data and fsdp and heads over tensor, each where it divides (else every device does all of
    it). Key and value heads that do not divide over tensor are repeated as often as it takes. `more`: arrays
    [B, ...] or [1, ...] by name; what is None is left out.
    """
    given = {name: array for name, array in more.items() if array is not None}
    mesh = mesh_in_context()
    if mesh is None:
        return kernel(query, key, value, given)
    batch, _, heads, _ = query.shape
    rows = batch_axes(mesh, batch)
    parts = mesh.shape[HEAD_AXIS]
    head_axis = HEAD_AXIS if heads % parts == 0 else None
    if head_axis is not None:
        # Query head h reads key head h // (H // K): a key head that stands there twice serves half as many each.
        repeats = 1
        while key.shape[2] * repeats % parts:
            repeats += 1
        key, value = (array.repeat(repeats, axis=2) if repeats > 1 else array for array in (key, value))
    whole = P(rows, None, head_axis, None)
    specs = {
        name: P(rows if array.shape[0] == batch else None, *[None] * (array.ndim - 1))
        for name, array in given.items()
    }
    # Pallas and cuDNN calls do not say how their results vary over the mesh, hence no check_vma.
    run = jax.shard_map(kernel, in_specs=(whole, whole, whole, specs), out_specs=whole, check_vma=False)
    return run(query, key, value, given)
