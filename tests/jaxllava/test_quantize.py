"""Kernels in four bits: the levels, the error, which kernels, and the layer that reads them."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from input_pipeline.errors import UserError
from jaxllava import quantize, rules
from jaxllava.models.linear import Linear, keeps_dtype
from jaxllava.models.llama import Llama, LlamaConfig, init_llama

BODY = ((r".*layers/.*", "nf4"), (r".*", None))
DECODER = LlamaConfig(32, 64, 128, 2, 2)


@pytest.fixture(scope="module")
def decoder() -> dict:
    return jax.jit(partial(init_llama, DECODER))(jax.random.key(0))


def kernel_of(shape=(3, 256, 24), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def whole(leaves: dict, dtype=jnp.float32) -> np.ndarray:
    return np.asarray(quantize.dequantize(leaves["kernel_codes"], leaves["kernel_scales"], dtype))


def test_the_levels_are_quantiles_of_the_normal_distribution():
    """QLoRA's equation 4: each half has its own even steps of probability, up to the same end."""
    end = 0.9677083
    below = norm.ppf(np.linspace(end, 0.5, 8)[:-1])
    above = norm.ppf(np.linspace(end, 0.5, 9)[:-1])
    expected = np.concatenate([-below, [0.0], above[::-1]]) / norm.ppf(end)
    np.testing.assert_allclose(quantize.LEVELS, np.sort(expected), atol=1e-6)


def test_values_on_the_levels_come_back_exactly():
    rng = np.random.default_rng(1)
    picks = rng.integers(0, 16, (2, 4, 64, 5))
    picks[..., 0, :] = 15  # each block reaches its scale
    scales = 2.0 ** rng.integers(-4, 4, (2, 4, 1, 5))
    exact = (quantize.LEVELS[picks] * scales).astype(np.float32).reshape(2, 256, 5)
    leaves = quantize.quantize(exact)
    np.testing.assert_array_equal(leaves["kernel_scales"], scales[:, :, 0])
    np.testing.assert_array_equal(whole(leaves), exact)
    codes = np.asarray(leaves["kernel_codes"])
    np.testing.assert_array_equal(codes & 15, picks.reshape(2, 256, 5)[:, 0::2])
    np.testing.assert_array_equal(codes >> 4, picks.reshape(2, 256, 5)[:, 1::2])


@pytest.mark.parametrize("block", [64, 16])
def test_every_value_goes_to_its_nearest_level(block):
    kernel = kernel_of()
    leaves = quantize.quantize(kernel, block)
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in leaves.items()} == {
        "kernel_codes": ((3, 128, 24), jnp.uint8),
        "kernel_scales": ((3, 256 // block, 24), jnp.float32),
    }
    blocks = kernel.reshape(3, -1, block, 24)
    scales = np.abs(blocks).max(axis=2, keepdims=True)
    nearest = np.abs(blocks[..., None] - quantize.LEVELS * scales[..., None]).min(axis=-1)
    error = np.abs(whole(leaves) - kernel).reshape(blocks.shape)
    np.testing.assert_allclose(error, nearest, atol=1e-6)
    # Half of the widest gap between levels bounds it.
    assert (error <= 0.5 * np.diff(quantize.LEVELS).max() * scales + 1e-6).all()


def test_zeros_stay_zeros_and_half_precision_comes_in_and_out():
    kernel = kernel_of().astype(jnp.bfloat16)
    kernel[1, :64, 3] = 0
    leaves = quantize.quantize(kernel)
    assert np.isfinite(whole(leaves)).all() and not whole(leaves)[1, :64, 3].any()
    assert (leaves["kernel_codes"][1, :32, 3] == 0x77).all()  # the level of zero, twice
    np.testing.assert_array_equal(whole(leaves, jnp.bfloat16), whole(leaves).astype(jnp.bfloat16))


def test_stacked_layers_are_quantised_each_by_itself():
    kernel = kernel_of()
    stacked, second = quantize.quantize(kernel), quantize.quantize(kernel[1])
    for name, leaf in second.items():
        np.testing.assert_array_equal(stacked[name][1], leaf)


def test_rules_choose_kernels_of_linear_layers(decoder):
    params = decoder
    flat = rules.flatten(quantize.apply(params, BODY))
    before = rules.flatten(params)
    assert {path for path in before if path not in flat} == {
        f"layers/{name}_proj/kernel"
        for name in ("attn/q", "attn/k", "attn/v", "attn/o", "mlp/gate", "mlp/up", "mlp/down")
    }
    for name, leaf in quantize.quantize(before["layers/mlp/down_proj/kernel"]).items():
        np.testing.assert_array_equal(flat[f"layers/mlp/down_proj/{name}"], leaf)
    assert flat["lm_head/kernel"] is before["lm_head/kernel"]
    # The same paths and shapes stand for it, and what is done is not done again.
    quantised = rules.unflatten(flat)
    assert quantize.kernel_shapes(quantised) == quantize.kernel_shapes(params)
    shapes = jax.eval_shape(partial(quantize.apply, rules=BODY), params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(
        lambda x: (x.shape, x.dtype), quantised
    )
    assert quantize.apply(params, ()) == params
    assert [path for path in flat if keeps_dtype(path)] == [path for path in flat if "kernel_" in path]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ((("layers/.*", "nf4"),), "no rule of config.quantize_rules matches lm_head/kernel"),
        (((".*", "nf4"),), r"lm_head/kernel .* put \('lm_head/kernel', None\) in front"),
        (((".*", "int4"),), "'int4' is not known"),
        (((".*", None), ("x", "nf4")), "match no parameter"),
    ],
)
def test_rules_that_cannot_work_are_one_clear_error(decoder, chosen, message):
    with pytest.raises(UserError, match=message):
        quantize.apply(decoder, chosen)


def test_a_kernel_that_does_not_fit_is_named():
    params = {"layers": {"mlp": {"up_proj": {"kernel": jnp.ones((2, 96, 8))}}}}
    with pytest.raises(UserError, match=r"layers/mlp/up_proj/kernel.* 96 inputs are no multiple .* 64"):
        quantize.chosen(params, ((".*", "nf4"),))
    with pytest.raises(UserError, match="96 inputs"):
        quantize.quantize(np.ones((96, 8)))
    with pytest.raises(UserError, match="even"):
        quantize.quantize(np.ones((96, 8)), block=3)


def test_four_bits_cannot_train(decoder):
    params = quantize.apply(decoder, BODY)
    with pytest.raises(UserError, match=r"layers/attn/k_proj/kernel.*cannot be trained"):
        quantize.check_frozen(params)
    quantize.check_frozen({"lm_head": params["lm_head"]})


def test_the_layer_computes_with_what_the_codes_stand_for():
    x = kernel_of((2, 5, 256), seed=3)
    kernel, bias = kernel_of((256, 24)), kernel_of((24,))
    leaves = quantize.quantize(kernel)
    for dtype in (jnp.float32, jnp.bfloat16):
        layer = Linear(24, dtype=dtype)
        plain = layer.apply({"params": {"kernel": whole(leaves), "bias": bias}}, x)
        np.testing.assert_array_equal(layer.apply({"params": {**leaves, "bias": bias}}, x), plain)
    cast = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), leaves)
    with pytest.raises(TypeError, match="uint8"):
        Linear(24).apply({"params": {**cast, "bias": bias}}, x)


@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_the_backward_pass_does_not_keep_all_layers_kernels(remat):
    """What a compiled gradient needs beside its arguments grows far less per layer than by a dequantised layer."""
    embeds = jax.ShapeDtypeStruct((1, 8, 128), jnp.float32)
    needs, kernels = [], 0
    for layers in (4, 12):
        config = DECODER.replace(
            hidden_size=128, head_dim=64, intermediate_size=256, layers=layers, remat=remat
        )
        shapes = jax.eval_shape(partial(init_llama, config), jax.random.key(0))
        sizes = quantize.kernel_shapes(shapes).items()
        kernels = sum(4 * int(np.prod(shape[1:])) for path, shape in sizes if "layers" in path)

        def loss(embeds: jax.Array, params: dict, config=config) -> jax.Array:
            return (Llama(config).apply({"params": params}, embeds, jnp.arange(8)[None]) ** 2).sum()

        quantised = jax.eval_shape(partial(quantize.apply, rules=BODY), shapes)
        compiled = jax.jit(jax.grad(loss)).lower(embeds, quantised).compile()
        needs.append(compiled.memory_analysis().temp_size_in_bytes)
    assert (needs[1] - needs[0]) / 8 < kernels / 3
