"""CLIP against transformers, float32, absolute tolerance 2e-5."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from input_pipeline.errors import UserError
from jaxllava.models.clip import ClipConfig, ClipModel, ClipVision, ClipVisionConfig
from tests.jaxllava import tiny_models as tiny

CONFIG = ClipConfig(tiny.VISION, tiny.TEXT, projection_dim=24)
TOLERANCE = {"rtol": 0, "atol": 2e-5}


def _inputs(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    pixels = rng.normal(size=(3, 28, 28, 3)).astype(np.float32)
    tokens = rng.integers(1, 58, size=(4, 11)).astype(np.int32)
    tokens[[0, 1, 2, 3], [10, 4, 7, 2]] = CONFIG.text.eos_id
    return pixels, tokens


def _nchw(pixels: np.ndarray) -> torch.Tensor:
    return tiny.to_torch(pixels.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("eos_id", [59, 2])
def test_contrastive_parity(activation: str, eos_id: int) -> None:
    config = CONFIG.replace(
        vision=CONFIG.vision.replace(activation=activation),
        text=CONFIG.text.replace(activation=activation, eos_id=eos_id),
    )
    reference = tiny.torch_clip(config)
    params, (pixels, tokens) = tiny.params_of(reference, config), _inputs()
    with torch.no_grad():
        expected = reference(input_ids=tiny.to_torch(tokens).long(), pixel_values=_nchw(pixels))
        image = reference.get_image_features(_nchw(pixels)).pooler_output
        text = reference.get_text_features(tiny.to_torch(tokens).long()).pooler_output
    model, variables = ClipModel(config), {"params": params}

    @jax.jit
    def run(variables: Any, pixels: jax.Array, tokens: jax.Array) -> Any:
        return (
            model.apply(variables, pixels, method="image_features"),
            model.apply(variables, tokens, method="text_features"),
            model.apply(variables, pixels, tokens),
            model.apply(variables, pixels, tokens, method="logits"),
        )

    got_image, got_text, units, logits = run(variables, pixels, tokens)
    np.testing.assert_allclose(got_image, tiny.numpy(image), **TOLERANCE)
    np.testing.assert_allclose(got_text, tiny.numpy(text), **TOLERANCE)
    np.testing.assert_allclose(units[0], tiny.numpy(expected.image_embeds), **TOLERANCE)
    np.testing.assert_allclose(units[1], tiny.numpy(expected.text_embeds), **TOLERANCE)
    # Logits are cosines times the scale (about 17): the tolerance of the cosines, scaled.
    np.testing.assert_allclose(
        logits, tiny.numpy(expected.logits_per_image), rtol=0, atol=2e-5 * float(units[2])
    )


@pytest.mark.parametrize("layer", [-1, -2, -4, -5, 0, 2, 4])
def test_feature_layers(layer: int) -> None:
    reference = tiny.torch_clip(CONFIG)
    params, (pixels, _) = tiny.params_of(reference, CONFIG)["vision"], _inputs()
    with torch.no_grad():
        expected = reference.vision_model(_nchw(pixels), output_hidden_states=True).hidden_states[layer]

    @jax.jit
    def run(p: dict, x: jax.Array) -> list[jax.Array]:
        model = ClipVision(CONFIG.vision)
        return [
            model.apply({"params": p}, x, layer, select, method="features")
            for select in ("cls_patch", "patch")
        ]

    whole, patches = run(params, pixels)
    np.testing.assert_allclose(whole, tiny.numpy(expected), **TOLERANCE)
    np.testing.assert_allclose(patches, tiny.numpy(expected)[:, 1:], **TOLERANCE)


def test_unused_layers_are_not_computed() -> None:
    """NaN in the last block and the final norm must not reach the features of layer -2."""
    params = tiny.random_params(CONFIG)["vision"]
    spoilt = jax.tree.map(lambda x: x, params)
    spoilt["layers"] = jax.tree.map(lambda x: jnp.asarray(x).at[-1].set(jnp.nan), params["layers"])
    spoilt["post_layernorm"] = jax.tree.map(lambda x: x * jnp.nan, params["post_layernorm"])
    pixels = _inputs()[0]
    model = ClipVision(CONFIG.vision)
    run = jax.jit(
        lambda p, layer: model.apply({"params": p}, pixels, layer, method="features"), static_argnums=1
    )
    np.testing.assert_array_equal(run(spoilt, -2), run(params, -2))
    assert np.isnan(run(spoilt, -1)).all()
    # All four layers' weights come in; the loop steps over three.
    text = run.lower(params, -2).as_text()
    assert "tensor<4x32x64xf32>" in text and "tensor<3x32x64xf32>" in text
    assert "tensor<3x32x64xf32>" not in run.lower(params, -1).as_text()


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_changes_nothing(remat: str) -> None:
    params, (pixels, _) = tiny.random_params(CONFIG)["vision"], _inputs()

    def loss(p: dict, config: ClipVisionConfig) -> jax.Array:
        return (ClipVision(config).apply({"params": p}, pixels, -2, method="features") ** 2).sum()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    plain, again = gradient(params, CONFIG.vision), gradient(params, CONFIG.vision.replace(remat=remat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), plain, again)
    assert not jnp.any(plain["layers"]["mlp"]["fc1"]["kernel"][-1])  # the unused layer has no gradient


def test_bad_configs_are_user_errors() -> None:
    with pytest.raises(UserError, match="quick_gelu"):
        ClipVisionConfig(32, 64, 2, 4, activation="quick_glu")
    with pytest.raises(UserError, match="multiple"):
        ClipVisionConfig(32, 64, 2, 4, image_size=30)
    with pytest.raises(UserError, match="feature_layer 9"):
        ClipVision(CONFIG.vision).apply({"params": {}}, jnp.zeros((1, 28, 28, 3)), 9, method="features")
    with pytest.raises(UserError, match="pixels"):
        ClipVision(CONFIG.vision).apply({"params": {}}, jnp.zeros((1, 3, 28, 28)))
