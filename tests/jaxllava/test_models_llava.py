"""LLaVA against transformers, float32, absolute tolerance 2e-5; the splice; full sizes by eval_shape."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from input_pipeline.errors import UserError
from jaxllava.models.llava import LlavaConfig, LlavaModel, init_params, llava_1_5
from jaxllava.models.projector import Projector
from tests.jaxllava import tiny_models as tiny
from tests.jaxllava.test_models_llama import CONFIGS as FAMILY

TOLERANCE = {"rtol": 0, "atol": 2e-5}


def _batch(config: LlavaConfig, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two rows with two images each, at different places: (tokens, image_index, pixels)."""
    rng = np.random.default_rng(seed)
    count = config.image_tokens
    tokens = rng.integers(6, 101, size=(2, 2 * count + 8)).astype(np.int32)
    image_index = np.full(tokens.shape, -1, np.int32)
    for row, starts in enumerate(((1, count + 3), (4, count + 6))):
        for image, start in enumerate(starts):
            tokens[row, start : start + count] = config.image_token
            image_index[row, start : start + count] = np.arange(count) + image * count
    return tokens, image_index, rng.normal(size=(2, 2, 28, 28, 3)).astype(np.float32)


def _logits(config: LlavaConfig, params: dict, tokens, image_index, pixels, positions=None, segments=None):
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape) if positions is None else positions

    return _run(params, tokens, positions, segments, pixels, image_index, config)


@partial(jax.jit, static_argnums=6)
def _run(params: dict, tokens, positions, segments, pixels, image_index, config: LlavaConfig) -> jax.Array:
    def run(model: LlavaModel) -> jax.Array:
        return model.logits(model(tokens, positions, segments, pixels, image_index))

    return LlavaModel(config).apply({"params": params}, method=run)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"feature_layer": -1},
        {"feature_layer": 2},
        {"feature_layer": (-3, -1, 0)},
        {"feature_layer": (2, 1), "feature_select": "cls_patch"},
        {"feature_select": "cls_patch"},
        {"tied": True},
        {"family": "mistral"},
        {"family": "qwen2"},
        {"family": "qwen3"},
    ],
    ids=str,
)
def test_parity(change: dict) -> None:
    config = tiny.LLAVA
    if "family" in change:
        config = config.replace(decoder=FAMILY[change["family"]])
    elif change.get("tied"):
        config = config.replace(decoder=config.decoder.replace(tie_embeddings=True))
    else:
        config = config.replace(**change)
    reference = tiny.torch_llava(config)
    params, (tokens, image_index, pixels) = tiny.params_of(reference, config), _batch(config)
    flat = pixels.reshape(-1, *pixels.shape[2:]).transpose(0, 3, 1, 2)
    with torch.no_grad():
        expected = reference(input_ids=tiny.to_torch(tokens).long(), pixel_values=tiny.to_torch(flat)).logits
    got = _logits(config, params, tokens, image_index, pixels)
    np.testing.assert_allclose(got, tiny.numpy(expected), **TOLERANCE)
    assert np.std(tiny.numpy(expected)) > 0.1


def test_text_only_batch_skips_the_tower() -> None:
    reference = tiny.torch_llava(tiny.LLAVA)
    params = tiny.params_of(reference, tiny.LLAVA)
    tokens = np.random.default_rng(0).integers(6, 101, size=(2, 9)).astype(np.int32)
    with torch.no_grad():
        expected = tiny.numpy(reference(input_ids=tiny.to_torch(tokens).long()).logits)
    no_images, nowhere = np.zeros((2, 0, 28, 28, 3), np.float32), np.full((2, 9), -1, np.int32)
    np.testing.assert_allclose(_logits(tiny.LLAVA, params, tokens, nowhere, no_images), expected, **TOLERANCE)
    # Without any tower in params it still runs: the tower is not even traced.
    bare = {"decoder": params["decoder"]}
    np.testing.assert_allclose(_logits(tiny.LLAVA, bare, tokens, nowhere, no_images), expected, **TOLERANCE)
    # A text row beside unused image slots (a mixed batch) gives the same.
    mixed = _logits(tiny.LLAVA, params, tokens, nowhere, np.ones((2, 1, 28, 28, 3), np.float32))
    np.testing.assert_allclose(mixed, expected, **TOLERANCE)


def test_packed_equals_separate() -> None:
    config = tiny.LLAVA
    params = tiny.params_of(tiny.torch_llava(config), config)
    tokens, image_index, pixels = _batch(config)
    length = tokens.shape[1]
    apart = _logits(config, params, tokens, image_index, pixels)
    shifted = np.where(image_index[1] >= 0, image_index[1] + 2 * config.image_tokens, -1)
    together = _logits(
        config,
        params,
        tokens.reshape(1, -1),
        np.concatenate([image_index[0], shifted])[None],
        pixels.reshape(1, 4, *pixels.shape[2:]),
        np.tile(np.arange(length), 2)[None],
        np.repeat([1, 2], length)[None],
    )
    np.testing.assert_allclose(together[0, :length], apart[0], **TOLERANCE)
    np.testing.assert_allclose(together[0, length:], apart[1], **TOLERANCE)


def test_splice_ignores_the_ids_at_image_positions() -> None:
    config = tiny.LLAVA
    params = tiny.random_params(config)
    tokens, image_index, pixels = _batch(config)
    other = np.where(image_index >= 0, -200, tokens)
    plain = _logits(config, params, tokens, image_index, pixels)
    np.testing.assert_array_equal(_logits(config, params, other, image_index, pixels), plain)

    def loss(p: dict) -> jax.Array:
        return (_logits(config, p, other, image_index, pixels) ** 2).sum()

    grads = jax.jit(jax.grad(loss))(params)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(grads))
    used = np.unique(tokens[image_index < 0])
    moved = np.flatnonzero(np.any(np.asarray(grads["decoder"]["embed"]["embedding"]) != 0, axis=1))
    np.testing.assert_array_equal(moved, used)
    assert jnp.any(grads["vision"]["embeddings"]["class_embedding"] != 0)


def test_projectors() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    np.testing.assert_array_equal(Projector("identity", 8).apply({}, x), x)
    for kind, depth in (("linear", 1), ("mlp2x_gelu", 2), ("mlp3x_gelu", 3)):
        model = Projector(kind, 6)
        params = model.init(jax.random.key(0), x)["params"]
        assert sorted(params) == [f"linear_{i + 1}" for i in range(depth)]
        modules: list[torch.nn.Module] = []
        for i in range(depth):
            layer = torch.nn.Linear(8 if i == 0 else 6, 6)
            layer.weight.data = tiny.to_torch(np.asarray(params[f"linear_{i + 1}"]["kernel"]).T)
            layer.bias.data.zero_()
            modules += [torch.nn.GELU(), layer] if i else [layer]
        expected = torch.nn.Sequential(*modules)(tiny.to_torch(x))
        np.testing.assert_allclose(
            model.apply({"params": params}, x), tiny.numpy(expected), rtol=0, atol=1e-6
        )
    with pytest.raises(UserError, match="mlp2x_gelu"):
        tiny.LLAVA.replace(projector="mlp2x_relu")
    with pytest.raises(UserError, match="identity"):
        tiny.LLAVA.replace(projector="identity")


@pytest.mark.parametrize(("size", "millions"), [("7b", 7063), ("13b", 13351)])
def test_full_size_shapes(size: str, millions: int) -> None:
    """The published sizes trace, forward and parameter count, without allocating anything."""
    config = llava_1_5(size)
    params = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) // 10**6 == millions
    row = jax.ShapeDtypeStruct((2, 640), jnp.int32)
    pixels = jax.ShapeDtypeStruct((2, 1, 336, 336, 3), jnp.float32)
    hidden = jax.eval_shape(
        lambda p, t, x: LlavaModel(config).apply({"params": p}, t, t, t, x, t), params, row, pixels
    )
    assert hidden.shape == (2, 640, config.decoder.hidden_size) and hidden.dtype == jnp.bfloat16
    assert config.image_tokens == 576


def test_config_json_is_nested() -> None:
    config = llava_1_5("7b")
    assert LlavaConfig.from_json(config.to_json()) == config
    data = config.to_json()
    data["vision"]["patchsize"] = 14
    with pytest.raises(UserError, match=r"ClipVisionConfig: unknown key 'patchsize'.*patch_size"):
        LlavaConfig.from_json(data)
    with pytest.raises(UserError, match="negative"):
        config.replace(image_token=-200)
