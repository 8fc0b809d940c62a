"""Adapters: their maths against torch, what is added and merged, and a step on a mesh above kernels in four bits."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from input_pipeline.errors import UserError
from jaxllava import lora, optimizer, quantize, rules, sharding
from jaxllava.models.clip import ClipVisionConfig
from jaxllava.models.linear import ADAPTER, Linear, keeps_dtype
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llava import LlavaConfig, LlavaModel, init_params
from jaxllava.weights.adapters import with_lora
from jaxllava.weights.lazy import Tensor

pytestmark = pytest.mark.usefixtures("compiled_quickly")

RANK, ALPHA = 4, 6.0
BODY = ((r"decoder/layers/.*", (RANK, ALPHA, 0.0)), (r".*", None))
NF4 = ((r"(vision|decoder)/layers/.*", "nf4"), (r".*", None))
WHO_TRAINS = ((r".*lora_[ab]|projector/.*", 1.0), (r".*", None))
VISION = ClipVisionConfig(16, 32, 3, 2, image_size=16, patch_size=8)
CONFIG = LlavaConfig(VISION, LlamaConfig(40, 32, 64, 2, 4, kv_heads=2), image_token=5)
UP, DOWN = "decoder/layers/mlp/up_proj", "decoder/layers/mlp/down_proj"


def random(shape, seed: int = 0, size: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * size).astype(np.float32)


def trained(params: dict, seed: int = 3) -> dict:
    """With B away from zero, as after some steps."""
    return rules.unflatten(
        {
            path: random(leaf.shape, seed + i, 0.2) if path.endswith("lora_b") else leaf
            for i, (path, leaf) in enumerate(rules.flatten(params).items())
        }
    )


def batch_of(rows: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tokens = rng.integers(6, 40, (rows, 12)).astype(np.int32)
    index = np.full(tokens.shape, -1, np.int32)
    index[:, 2:6] = np.arange(4)
    return {
        "tokens": tokens,
        "positions": np.broadcast_to(np.arange(12, dtype=np.int32), tokens.shape).copy(),
        "pixels": rng.normal(size=(rows, 1, 16, 16, 3)).astype(np.float32),
        "image_index": index,
    }


@partial(jax.jit, static_argnums=0)
def logits(config: LlavaConfig, params: dict, batch: dict, rngs: Any = None) -> jax.Array:
    def run(model: LlavaModel) -> jax.Array:
        return model.logits(
            model(batch["tokens"], batch["positions"], None, batch["pixels"], batch["image_index"])
        )

    return LlavaModel(config).apply({"params": params}, method=run, rngs=rngs)


@pytest.fixture(scope="module")
def base() -> dict:
    """Weights large enough that an adapter's part of a logit is no rounding error."""
    fresh = rules.flatten(jax.jit(partial(init_params, CONFIG))(jax.random.key(0)))
    return rules.unflatten(
        {path: leaf + random(leaf.shape, i, 0.2) for i, (path, leaf) in enumerate(fresh.items())}
    )


# -- the layer ---------------------------------------------------------------------------------------------------------


def test_without_more_leaves_the_layer_is_dense_bit_for_bit():
    x = random((2, 5, 12))
    for bias in (True, False):
        for dtype in (None, jnp.float32, jnp.bfloat16):
            ours, theirs = (cls(7, use_bias=bias, dtype=dtype) for cls in (Linear, nn.Dense))
            params = theirs.init(jax.random.key(1), x)
            jax.tree.map(np.testing.assert_array_equal, ours.init(jax.random.key(1), x), params)
            expected = theirs.apply(params, x)
            found = ours.apply(params, x, rngs={"dropout": jax.random.key(2)})
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


def layer_params(rate: float = 0.0) -> dict[str, np.ndarray]:
    return {
        "kernel": random((12, 7), 1),
        "bias": random((7,), 2),
        "lora_a": random((12, RANK), 3),
        "lora_b": random((RANK, 7), 4),
        "lora_scale": np.float32(ALPHA / RANK),
        "lora_dropout": np.float32(rate),
    }


def test_the_layer_and_its_gradients_are_peft_s():
    """Against torch computing the two small layers beside the frozen one."""
    params, x = layer_params(), random((2, 5, 12), 5)
    frozen, low, high = (
        torch.nn.Linear(12, 7),
        torch.nn.Linear(12, RANK, False),
        torch.nn.Linear(RANK, 7, False),
    )
    for layer, name in ((frozen, "kernel"), (low, "lora_a"), (high, "lora_b")):
        layer.weight.data = torch.from_numpy(params[name].T.copy())
    frozen.bias.data = torch.from_numpy(params["bias"])
    there = torch.from_numpy(x).requires_grad_()
    expected = frozen(there) + high(low(there)) * (ALPHA / RANK)
    expected.square().sum().backward()

    def loss(params: dict, x: jax.Array) -> jax.Array:
        return (Linear(7).apply({"params": params}, x) ** 2).sum()

    found = Linear(7).apply({"params": params}, x)
    np.testing.assert_allclose(found, expected.detach(), rtol=1e-5, atol=1e-5)
    grads, inputs = jax.grad(loss, argnums=(0, 1))(params, x)
    np.testing.assert_allclose(grads["lora_a"], low.weight.grad.numpy().T, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(grads["lora_b"], high.weight.grad.numpy().T, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(inputs, there.grad.numpy(), rtol=1e-5, atol=1e-3)
    assert grads["lora_scale"] == grads["lora_dropout"] == 0


def test_dropout_falls_on_the_adapter_s_inputs_alone():
    params, x = layer_params(0.25), np.ones((2000, 12), np.float32)
    plain = Linear(7).apply({"params": params}, x)
    np.testing.assert_array_equal(plain, Linear(7).apply({"params": params | {"lora_dropout": 0.0}}, x))
    # The identity in A's and B's place shows what is left of each input.
    eye = {"lora_a": np.eye(12, dtype=np.float32), "lora_b": np.eye(12, dtype=np.float32)}
    shown = {
        "kernel": np.zeros((12, 12), np.float32),
        "lora_scale": np.float32(1),
        "lora_dropout": np.float32(0.25),
    }
    apply = jax.jit(lambda key, p: Linear(12, use_bias=False).apply({"params": p}, x, rngs={"dropout": key}))
    left = np.asarray(apply(jax.random.key(0), {**shown, **eye}))
    assert set(np.unique(left)) == {0.0, np.float32(1) / np.float32(0.75)}
    assert abs((left == 0).mean() - 0.25) < 0.01
    np.testing.assert_array_equal(left, apply(jax.random.key(0), {**shown, **eye}))
    assert (left != apply(jax.random.key(1), {**shown, **eye})).any()
    none = apply(jax.random.key(0), {**shown, **eye, "lora_dropout": np.float32(0)})
    np.testing.assert_array_equal(none, x)


def test_layers_of_a_scan_drop_different_inputs_and_only_under_an_rng(base):
    where = ((r"decoder/layers/mlp/up_proj/kernel", (RANK, ALPHA, 0.5)), (r".*", None))
    params = trained(lora.add(base, where, jax.random.key(1)))
    flat = rules.flatten(params)
    # Two equal layers: were they to drop the same inputs, their adapters would do the same.
    batch = batch_of(1)
    run = partial(logits, CONFIG)
    one, other = (run(params, batch, {"dropout": jax.random.key(k)}) for k in (0, 1))
    assert not np.allclose(one, other, atol=1e-3) and not np.allclose(one, run(params, batch), atol=1e-3)
    np.testing.assert_array_equal(one, run(params, batch, {"dropout": jax.random.key(0)}))
    off = rules.unflatten(flat | {f"{UP}/lora_dropout": jnp.zeros(2)})
    np.testing.assert_array_equal(run(params, batch), run(off, batch))

    class Body(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            return x, Linear(12, use_bias=False, name="up")(x)

    split = {"params": True, "dropout": True}  # as the decoder and the towers have it
    scanned: Any = nn.scan(Body, variable_axes={"params": 0}, split_rngs=split, length=2)
    eye = np.stack([np.eye(12, dtype=np.float32)] * 2)
    leaves = {
        "kernel": 0 * eye,
        "lora_a": eye,
        "lora_b": eye,
        "lora_scale": np.ones(2),
        "lora_dropout": np.full(2, 0.5),
    }
    _, shown = scanned().apply(
        {"params": {"up": leaves}}, jnp.ones((50, 12)), None, rngs={"dropout": jax.random.key(0)}
    )
    assert (shown[0] != shown[1]).any()


# -- adding ------------------------------------------------------------------------------------------------------------


def test_adapters_stand_beside_the_kernels_that_the_rules_choose(base):
    chosen = (
        (r"decoder/layers/attn/(q|v)_proj/kernel", (2, 8, 0.1)),
        (r"projector/.*", (3, 3, 0)),
        (r".*", None),
    )
    flat, before = rules.flatten(lora.add(base, chosen, jax.random.key(0))), rules.flatten(base)
    new = {path: leaf for path, leaf in flat.items() if path not in before}
    modules = (
        "decoder/layers/attn/q_proj",
        "decoder/layers/attn/v_proj",
        "projector/linear_1",
        "projector/linear_2",
    )
    assert set(new) == {f"{module}/{name}" for module in modules for name in ADAPTER}
    assert all(flat[path] is leaf for path, leaf in before.items())
    assert all(leaf.dtype == jnp.float32 for leaf in new.values()) and all(map(keeps_dtype, new))
    assert [new[f"decoder/layers/attn/v_proj/{name}"].shape for name in ADAPTER] == [
        (2, 32, 2),
        (2, 2, 16),
        (2,),
        (2,),
    ]
    assert [new[f"projector/linear_1/{name}"].shape for name in ADAPTER] == [(16, 3), (3, 32), (), ()]
    np.testing.assert_array_equal(new["decoder/layers/attn/q_proj/lora_scale"], [4.0, 4.0])
    np.testing.assert_array_equal(new["decoder/layers/attn/q_proj/lora_dropout"], np.float32([0.1, 0.1]))
    run = partial(logits, CONFIG)
    np.testing.assert_array_equal(run(rules.unflatten(flat), batch_of()), run(base, batch_of()))


def test_a_fresh_adapter_starts_as_peft_s():
    shapes = {"layers": {"up_proj": {"kernel": jax.ShapeDtypeStruct((3, 400, 8), jnp.float32)}}}
    made = lora.adapters(shapes, ((r".*", (64, 16, 0.0)),), jax.random.key(0))["layers"]["up_proj"]
    torch.manual_seed(0)
    there = torch.empty(64, 400)
    torch.nn.init.kaiming_uniform_(there, a=5**0.5)
    bound = 400**-0.5
    assert bound * 0.999 < np.abs(made["lora_a"]).max() < bound and there.abs().max() < bound
    np.testing.assert_allclose(np.std(made["lora_a"]), there.std(), rtol=0.02)
    assert (made["lora_a"][0] != made["lora_a"][1]).any() and not made["lora_b"].any()


def test_an_adapter_depends_on_its_path_and_the_key_alone(base):
    whole = rules.flatten(lora.adapters(base, BODY, jax.random.key(7)))
    only = ((rf"{UP}/kernel", (RANK, ALPHA, 0.0)), (r".*", None))
    backwards = rules.unflatten(dict(reversed(list(rules.flatten(base).items()))))
    for params in (base, backwards, quantize.apply(base, NF4, 16)):
        alone = rules.flatten(lora.adapters(params, only, jax.random.key(7)))
        assert len(alone) == 4
        np.testing.assert_array_equal(alone[f"{UP}/lora_a"], whole[f"{UP}/lora_a"])
    other = rules.flatten(lora.adapters(base, only, jax.random.key(8)))
    assert (other[f"{UP}/lora_a"] != whole[f"{UP}/lora_a"]).any()
    gate = whole["decoder/layers/mlp/gate_proj/lora_a"]
    assert (gate != whole[f"{UP}/lora_a"]).any()


def test_adapters_are_made_in_place_with_the_same_numbers_on_a_mesh(base):
    key, mesh = jax.random.key(7), sharding.make_mesh((2, 2, 2))
    shapes = jax.eval_shape(lambda: lora.add(quantize.apply(base, NF4, 16), BODY, key))
    new = jax.eval_shape(lambda: lora.adapters(shapes_of(base), BODY, key))
    places = rules.flatten(sharding.param_shardings(shapes, mesh, sharding.LLAVA_RULES))
    own = rules.unflatten({path: places[path] for path in rules.flatten(new)})
    made = jax.jit(lambda key: lora.adapters(shapes_of(base), BODY, key), out_shardings=own)(key)
    here = lora.adapters(base, BODY, key)
    jax.tree.map(np.testing.assert_array_equal, made, here)
    assert rules.flatten(made)[f"{UP}/lora_a"].sharding.spec == jax.P(None, "fsdp", None)


def shapes_of(params: dict) -> dict:
    return jax.eval_shape(lambda: params)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (((r"decoder/layers/.*", (4, 8, 0)),), "no rule of config.lora_rules matches decoder/lm_head/kernel"),
        (((r".*", (4, 8, 0)),), r"decoder/lm_head/kernel an adapter.*put \('decoder/lm_head/kernel', None\)"),
        (((r"decoder/layer/.*", (4, 8, 0)), (r".*", None)), "match no parameter"),
        (((r".*", (0, 8, 0)),), "whole rank of at least 1"),
        (((r".*", (4, 8)),), r"\(rank, alpha, dropout\)"),
        (((r".*", (4, 8, 1.0)),), "0 <= dropout < 1"),
        (((r".*", "nf4"),), r"\(rank, alpha, dropout\)"),
    ],
)
def test_rules_that_cannot_work_are_one_clear_error(base, chosen, message):
    with pytest.raises(UserError, match=message):
        lora.add(base, chosen, jax.random.key(0))


def test_no_rules_add_nothing_and_none_is_added_twice(base):
    assert lora.add(base, (), jax.random.key(0)) == base
    with pytest.raises(UserError, match="has an adapter already"):
        lora.add(lora.add(base, BODY, jax.random.key(0)), BODY, jax.random.key(0))
    assert lora.has_dropout(((".*", None), ("x", (1, 1, 0.1)))) and not lora.has_dropout(BODY)


# -- merging -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantized", [False, True])
def test_a_merged_model_gives_the_logits_of_the_adapted_one(base, quantized):
    under = quantize.apply(base, NF4, 16) if quantized else base
    where = "(decoder|vision)/layers|projector"
    params = trained(
        lora.add(under, ((rf"({where})/.*", (RANK, ALPHA, 0.3)), (r".*", None)), jax.random.key(1))
    )
    merged = lora.merge(params, "float32")
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(jnp.shape, base)
    run, batch = partial(logits, CONFIG), batch_of()
    adapted = run(params, batch)
    np.testing.assert_allclose(run(merged, batch), adapted, rtol=0, atol=1e-5)
    assert np.abs(adapted - run(lora.strip(params), batch)).max() > 0.02
    assert rules.flatten(lora.strip(params)).keys() == rules.flatten(under).keys()


def test_merging_is_what_a_converted_adapter_gets(base, tmp_path: Path):
    """An adapter folder in PEFT's layout, of the same numbers, through `weights.adapters`."""
    params = trained(lora.add(base, BODY, jax.random.key(1)))
    flat, names = rules.flatten(params), {}
    halves, tensors = {}, {}
    for layer in range(2):
        for part in ("up_proj", "down_proj"):
            name, module = f"model.layers.{layer}.mlp.{part}", f"decoder/layers/mlp/{part}"
            names[f"{name}.weight"] = (f"{module}/kernel", layer)
            tensors[f"{name}.weight"] = Tensor.of(np.asarray(flat[f"{module}/kernel"][layer]).T)
            for half in ("A", "B"):
                leaf = np.asarray(flat[f"{module}/lora_{half.lower()}"][layer])
                halves[f"base_model.model.{name}.lora_{half}.weight"] = leaf.T.copy()
    save_file(halves, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA}))
    merged = rules.flatten(lora.merge(params))
    for name, tensor in with_lora(tmp_path, tensors).items():
        path, layer = names[name]
        np.testing.assert_allclose(merged[path][layer].T, tensor.read(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_every_kind_of_array_is_merged_alike(base, quantized, dtype):
    half = {"decoder": {"layers": {"mlp": base["decoder"]["layers"]["mlp"]}}, "projector": base["projector"]}
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), half)
    under = quantize.apply(half, ((r"decoder/.*", "nf4"), (r".*", None)), 16) if quantized else half
    params = trained(lora.add(under, BODY, jax.random.key(1)))
    there = lora.merge(jax.tree.map(jnp.asarray, params), dtype)
    here = lora.merge(jax.tree.map(np.asarray, params), dtype)
    places = sharding.param_shardings(params, sharding.make_mesh((2, 2, 2)), sharding.LLAVA_RULES)
    spread = lora.merge(jax.tree.map(jax.device_put, params, places), dtype)
    flat, kernel = rules.flatten(spread), f"{DOWN}/kernel"
    axes = (
        ("tensor", "fsdp") if quantized else (("tensor", "fsdp"), None)
    )  # codes and scales have a layout of their own
    assert flat[kernel].sharding.spec == jax.P(None, *axes)
    assert flat[kernel].dtype == jnp.dtype(dtype or "bfloat16")
    assert isinstance(rules.flatten(here)[kernel], np.ndarray)
    # One rounding apart: a sum's order is the compiler's.
    close = partial(np.testing.assert_allclose, **({"rtol": 0, "atol": 2e-7} if dtype else {"rtol": 2**-7}))
    for other in (there, spread):
        jax.tree.map(lambda x, y: close(np.float32(x), np.float32(y)), here, other)
    if not quantized:
        a, b = (np.float64(rules.flatten(params)[f"{DOWN}/lora_{part}"]) for part in "ab")
        exact = np.float64(rules.flatten(half)[kernel]) + ALPHA / RANK * a @ b
        tolerance = 1e-6 if dtype else 2**-8 * np.abs(exact).max()
        np.testing.assert_allclose(np.float64(flat[kernel]), exact, rtol=0, atol=tolerance)


def test_a_donated_kernel_s_memory_is_used_again(base):
    params = trained(lora.add(base, BODY, jax.random.key(1)))
    expected = jax.tree.map(np.asarray, lora.merge(params))
    on_host = jax.tree.map(np.array, params)
    there = jax.tree.map(jnp.array, params)
    kernel = rules.flatten(there)[f"{UP}/kernel"]
    at = kernel.unsafe_buffer_pointer()
    merged = lora.merge(there, donate=True)
    assert kernel.is_deleted() and rules.flatten(merged)[f"{UP}/kernel"].unsafe_buffer_pointer() == at
    jax.tree.map(np.testing.assert_array_equal, merged, expected)
    assert not rules.flatten(merged)["projector/linear_1/kernel"].is_deleted()
    again = lora.merge(on_host, donate=True)
    assert rules.flatten(again)[f"{UP}/kernel"] is rules.flatten(on_host)[f"{UP}/kernel"]
    jax.tree.map(np.testing.assert_array_equal, again, expected)


def test_without_adapters_a_tree_is_handed_on(base):
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (lora.merge(base), base)), strict=True))
    quantised = quantize.apply(base, NF4, 16)
    flat, codes = rules.flatten(lora.merge(quantised)), rules.flatten(quantised)
    whole = quantize.dequantize(codes[f"{UP}/kernel_codes"], codes[f"{UP}/kernel_scales"], jnp.bfloat16)
    np.testing.assert_array_equal(flat[f"{UP}/kernel"], whole)


# -- training ----------------------------------------------------------------------------------------------------------


def step(
    config: LlavaConfig, who: dict, frozen: dict, batch: dict, key: jax.Array | None
) -> tuple[Any, dict]:
    def loss(who: dict) -> jax.Array:
        rngs = None if key is None else {"dropout": key}
        found = logits(config, rules.merge(who, frozen), batch, rngs)
        picked = jnp.take_along_axis(jax.nn.log_softmax(found[:, :-1]), batch["tokens"][:, 1:, None], axis=-1)
        return -picked.mean()

    return jax.value_and_grad(loss)(who)


@pytest.fixture(scope="module")
def qlora(base):
    chosen = ((r"decoder/layers/.*", (RANK, ALPHA, 0.1)), (r".*", None))
    params = trained(lora.add(quantize.apply(base, NF4, 16), chosen, jax.random.key(1)))
    parts = optimizer.partition(params, WHO_TRAINS)
    key = jax.random.key(5)
    return params, parts, key, jax.jit(partial(step, CONFIG))(*parts, batch_of(), key)


def same(one: dict, other: dict, atol: float) -> None:
    flat = rules.flatten(other)
    assert rules.flatten(one).keys() == flat.keys()
    for path, leaf in rules.flatten(one).items():
        np.testing.assert_allclose(leaf, flat[path], rtol=0, atol=atol, err_msg=path)


def test_only_adapters_and_projector_get_a_gradient(qlora):
    _, parts, _, (_, grads) = qlora
    flat = rules.flatten(grads)
    assert {path.rpartition("/")[2] for path in flat if path.startswith("decoder")} == {"lora_a", "lora_b"}
    assert len(flat) == 2 * 7 + 4 and all(np.abs(leaf).max() > 1e-4 for leaf in flat.values())
    assert any(path.endswith("kernel_codes") for path in rules.flatten(parts.frozen))
    quantize.check_frozen(parts.trained)


def test_a_mesh_gives_the_gradient_of_one_device(qlora):
    params, _, key, (loss, grads) = qlora
    mesh = sharding.make_mesh((2, 2, 2))
    places = sharding.param_shardings(params, mesh, sharding.LLAVA_RULES)
    laid_out = optimizer.partition(jax.tree.map(jax.device_put, params, places), WHO_TRAINS)
    codes = rules.flatten(laid_out.frozen)[f"{DOWN}/kernel_codes"]
    assert codes.sharding.shard_shape(codes.shape) == (2, 16, 16)
    batch = jax.device_put(batch_of(), sharding.batch_sharding(mesh))
    together, found = jax.jit(partial(step, CONFIG))(*laid_out, batch, key)
    np.testing.assert_allclose(together, loss, rtol=1e-6)
    same(found, grads, 2e-6)


def test_recomputing_gives_the_same_gradient(qlora):
    _, parts, key, (loss, grads) = qlora
    config = CONFIG.replace(
        vision=CONFIG.vision.replace(remat="full"), decoder=CONFIG.decoder.replace(remat="full")
    )
    again, found = jax.jit(partial(step, config))(*parts, batch_of(), key)
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    same(found, grads, 2e-6)
