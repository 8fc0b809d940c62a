"""What the compiler makes of a model on eight devices: parameters travel, activations stay where their rows are."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxllava import rules, sharding
from jaxllava.models.clip import ClipVision, ClipVisionConfig
from jaxllava.models.layout import cut_by_batch, mesh_in_context
from jaxllava.models.llama import Llama, LlamaConfig, init_llama

BATCH, LENGTH = 16, 24
# No two sizes are alike, so that a shape in the compiled text says what it is.
DECODER = LlamaConfig(96, 64, 160, 2, 4, kv_heads=2, head_dim=8, initializer_range=0.2, remat="full")
TOWER = ClipVisionConfig(64, 160, 2, 4, image_size=20, patch_size=4, remat="full")
MOVES = ("all-gather", "all-reduce", "all-to-all", "reduce-scatter", "collective-permute")


def _moved(
    mesh: Mesh, loss: Any, params: Any, *rows: jax.ShapeDtypeStruct
) -> list[tuple[str, tuple[int, ...]]]:
    """(collective, shape) of every array that a gradient step moves between devices."""
    used = [
        r for r in sharding.LLAVA_RULES if any(re.fullmatch(r[0], path) for path in rules.flatten(params))
    ]
    shardings = sharding.param_shardings(params, mesh, used)
    with jax.set_mesh(mesh):
        step = jax.jit(jax.grad(loss), in_shardings=(shardings, *[sharding.batch_sharding(mesh)] * len(rows)))
        text = step.lower(params, *rows).compile().as_text()
    found = []
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if match := re.search(rf"= (.*?) ({'|'.join(MOVES)})(-start)?\(", line):
            for dims in re.findall(r"\[([\d,]*)\]", re.sub(r"\{.*?\}", "", match[1])):
                found.append((match[2], tuple(int(size) for size in dims.split(",") if size)))
    return found


def _decoder_moves(shape: tuple[int, int, int]) -> list[tuple[str, tuple[int, ...]]]:
    model = Llama(DECODER)

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        def run(model: Llama, tokens: jax.Array) -> jax.Array:
            return model.logits(
                model(model.embed(tokens), jnp.broadcast_to(jnp.arange(LENGTH), tokens.shape))
            )

        logits: Any = model.apply({"params": params["decoder"]}, tokens, method=run)
        return jnp.sin(logits).sum()

    params = jax.eval_shape(lambda: {"decoder": init_llama(DECODER, jax.random.key(0))})
    return _moved(sharding.make_mesh(shape), loss, params, jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32))


def test_a_decoder_under_fsdp_gathers_parameters_and_nothing_else():
    moved = _decoder_moves((1, 8, 1))
    gathered = {shape for kind, shape in moved if kind == "all-gather"}
    # q and o, k and v, gate and up, down, the embedding and the head.
    assert gathered == {(64, 32), (32, 64), (64, 16), (64, 160), (160, 64), (96, 64), (64, 96)}
    # Gradients are summed (and cut); nothing of a batch's shape goes anywhere.
    assert {kind for kind, _ in moved} <= {"all-gather", "all-reduce", "reduce-scatter"}
    assert not [shape for _, shape in moved if len(shape) > 2 and LENGTH in shape]


@pytest.mark.parametrize("shape", [(2, 4, 1), (2, 2, 2), (1, 4, 2)])
def test_no_device_sees_rows_of_others(shape):
    """With tensor parallelism activations are summed over tensor: of the device's own rows."""
    own = BATCH // (shape[0] * shape[1])
    activations = [s for _, s in _decoder_moves(shape) if len(s) > 2 and LENGTH in s]
    assert bool(activations) == (shape[2] > 1)
    assert {s[0] for s in activations} <= {own}


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 2, 4)])
def test_a_device_keeps_its_part_of_a_row_between_layers(shape):
    """What the layers leave for the backward pass is cut along the row over tensor; values and gradients are equal."""
    model = Llama(DECODER)
    params = {"decoder": init_llama(DECODER, jax.random.key(0))}
    rng = np.random.default_rng(0)
    embeds = jnp.asarray(rng.normal(size=(BATCH, LENGTH, 64)), jnp.float32)
    segments = jnp.asarray(np.repeat([1, 2, 0], LENGTH // 3)[None].repeat(BATCH, 0))
    positions = jnp.tile(jnp.arange(LENGTH // 3), 3)[None].repeat(BATCH, 0)

    def loss(params: Any, embeds: jax.Array) -> tuple[jax.Array, jax.Array]:
        hidden: Any = model.apply({"params": params["decoder"]}, embeds, positions, segments)
        return jnp.sin(hidden).sum(), hidden

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    expected = gradient(params, embeds)
    mesh = sharding.make_mesh(shape)
    laid_out = jax.device_put(params, sharding.param_shardings(params, mesh, sharding.LLAVA_RULES))
    with jax.set_mesh(mesh):
        lowered = gradient.lower(laid_out, jax.device_put(embeds, sharding.batch_sharding(mesh)))
        compiled = lowered.compile()
        found = compiled(laid_out, jax.device_put(embeds, sharding.batch_sharding(mesh)))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * float(jnp.abs(other).max()))
    own, text = BATCH // (shape[0] * shape[1]), compiled.as_text() or ""
    assert f"f32[2,{own},{LENGTH // shape[2]},64]" in text
    assert f"f32[2,{own},{LENGTH},64]" not in text


def test_a_tower_under_fsdp_keeps_its_activations():
    model = ClipVision(TOWER)
    pixels = jax.ShapeDtypeStruct((BATCH, 20, 20, 3), jnp.float32)
    params = jax.eval_shape(
        lambda: {"vision": model.init(jax.random.key(0), jnp.zeros(pixels.shape))["params"]}
    )

    def loss(params: Any, pixels: jax.Array) -> jax.Array:
        features: Any = model.apply({"params": params["vision"]}, pixels, method=ClipVision.features)
        return jnp.sin(features).sum()

    moved = _moved(sharding.make_mesh((1, 8, 1)), loss, params, pixels)
    assert {(64, 64), (64, 160), (160, 64)} <= {shape for kind, shape in moved if kind == "all-gather"}
    assert not [shape for _, shape in moved if 26 in shape[1:-1] or 25 in shape[1:-1]]


def test_without_a_mesh_that_fits_nothing_is_held():
    x = jnp.zeros((8, 2, 3))
    assert mesh_in_context() is None and cut_by_batch(x) is x
    with jax.set_mesh(sharding.make_mesh((2, 2, 2))):
        assert mesh_in_context() is not None
        odd = jnp.zeros((6, 2))
        assert cut_by_batch(odd) is odd
        inside = jax.shard_map(lambda part: cut_by_batch(part) + 1, in_specs=P("data"), out_specs=P("data"))
        np.testing.assert_array_equal(inside(x), x + 1)
        assert jax.jit(cut_by_batch)(x).sharding.shard_shape(x.shape) == (2, 2, 3)
    with jax.set_mesh(Mesh(np.asarray(jax.devices()), ("x",))):
        assert cut_by_batch(x) is x
