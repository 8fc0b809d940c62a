"""SigLIP's vision tower against transformers, float32, absolute tolerance 2e-5."""

from __future__ import annotations

import json
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from input_pipeline.errors import UserError
from jaxllava.models.clip import ClipVisionConfig, normalise
from jaxllava.models.siglip import SiglipVision, SiglipVisionConfig, init_siglip
from jaxllava.rules import flatten, unflatten
from tests.jaxllava import tiny_models as tiny

# 31 is no multiple of 9: 3 x 3 patches, and four pixels at the edge that nothing reads.
CONFIG = SiglipVisionConfig(32, 72, 4, 4, image_size=31, patch_size=9)
SO400M = SiglipVisionConfig(1152, 4304, 27, 16, image_size=384, patch_size=14)
TOLERANCE = {"rtol": 0, "atol": 2e-5}


def _reference(config: SiglipVisionConfig) -> Any:
    torch.manual_seed(0)  # for what the constructor draws
    model = transformers.SiglipVisionModel(
        transformers.SiglipVisionConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
            hidden_act=config.activation,
            layer_norm_eps=config.layer_norm_eps,
            vision_use_head=config.head,
        )
    )
    tiny.randomize(model, std=0.15)
    return model


def _params_of(model: torch.nn.Module, config: SiglipVisionConfig) -> dict[str, Any]:
    """The torch weights in our tree, by hand."""
    state = {name: tiny.numpy(value) for name, value in model.state_dict().items()}

    def dense(name: str) -> dict[str, np.ndarray]:
        return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}

    def layer(index: int) -> dict[str, Any]:
        at = f"encoder.layers.{index}"
        return {
            "attn": {n: dense(f"{at}.self_attn.{n}") for n in ("q_proj", "k_proj", "v_proj", "out_proj")},
            "mlp": {n: dense(f"{at}.mlp.{n}") for n in ("fc1", "fc2")},
            "ln1": norm(f"{at}.layer_norm1"),
            "ln2": norm(f"{at}.layer_norm2"),
        }

    params = {
        "embeddings": {
            "patch_embedding": {
                "kernel": state["embeddings.patch_embedding.weight"].transpose(2, 3, 1, 0),  # OIHW -> HWIO
                "bias": state["embeddings.patch_embedding.bias"],
            },
            "position_embedding": state["embeddings.position_embedding.weight"],
        },
        "layers": jax.tree.map(lambda *leaves: np.stack(leaves), *map(layer, range(config.layers))),
        "post_layernorm": norm("post_layernorm"),
    }
    if config.head:
        kernels = np.split(state["head.attention.in_proj_weight"], 3)
        biases = np.split(state["head.attention.in_proj_bias"], 3)
        params["head"] = {
            "probe": state["head.probe"],
            "attention": {
                name: {"kernel": kernel.T, "bias": bias}
                for name, kernel, bias in zip(("q_proj", "k_proj", "v_proj"), kernels, biases, strict=True)
            }
            | {"out_proj": dense("head.attention.out_proj")},
            "layernorm": norm("head.layernorm"),
            "mlp": {n: dense(f"head.mlp.{n}") for n in ("fc1", "fc2")},
        }
    return params


def _pixels(config: SiglipVisionConfig, seed: int = 0) -> np.ndarray:
    size = config.image_size
    return np.random.default_rng(seed).normal(size=(3, size, size, 3)).astype(np.float32)


def _run_reference(model: Any, pixels: np.ndarray) -> Any:
    with torch.no_grad():
        return model(tiny.to_torch(pixels.transpose(0, 3, 1, 2)), output_hidden_states=True)


def _random_params(config: SiglipVisionConfig) -> dict[str, Any]:
    """Weights large enough that every part counts."""
    rng = np.random.default_rng(0)
    shapes = flatten(jax.eval_shape(lambda: init_siglip(config, jax.random.key(0))))
    return unflatten(
        {path: (rng.normal(size=leaf.shape) * 0.25 + path.endswith("scale")).astype(np.float32)
         for path, leaf in shapes.items()}
    )  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [CONFIG, CONFIG.replace(image_size=27, activation="gelu"), CONFIG.replace(head=False)],
    ids=["rest", "multiple", "headless"],
)
def test_parity(config: SiglipVisionConfig) -> None:
    reference, pixels = _reference(config), _pixels(config)
    params, expected = _params_of(reference, config), _run_reference(reference, pixels)
    fresh = jax.eval_shape(lambda: init_siglip(config, jax.random.key(0)))
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, fresh)

    hidden, pooled = jax.jit(SiglipVision(config).apply)({"params": params}, pixels)
    assert hidden.shape == (3, config.patches, 32) == (3, 9, 32)
    np.testing.assert_allclose(hidden, tiny.numpy(expected.last_hidden_state), **TOLERANCE)
    if config.head:
        np.testing.assert_allclose(pooled, tiny.numpy(expected.pooler_output), **TOLERANCE)
    else:
        assert pooled is None and expected.pooler_output is None


@pytest.mark.parametrize("layer", [-1, -2, -5, 0, 3, (-2,), (0, -2, 1), (-1, -3)])
@pytest.mark.parametrize("select", ["patch", "cls_patch"])
def test_feature_layers(layer: int | tuple[int, ...], select: str) -> None:
    reference, pixels = _reference(CONFIG), _pixels(CONFIG)
    states = _run_reference(reference, pixels).hidden_states
    wanted = (layer,) if isinstance(layer, int) else layer
    expected = np.concatenate([tiny.numpy(states[one]) for one in wanted], axis=-1)
    model = SiglipVision(CONFIG)
    got = jax.jit(lambda p, x: model.apply({"params": p}, x, layer, select, method="features"))(
        _params_of(reference, CONFIG), pixels
    )
    assert got.shape == (3, CONFIG.tokens_of(select), 32 * len(wanted))
    np.testing.assert_allclose(got, expected[:, 1:] if select == "patch" else expected, **TOLERANCE)


@pytest.mark.parametrize(("layer", "strategy"), [(-1, "full"), (-2, "default"), ([-2, -1], "default")])
def test_features_are_what_transformers_llava_reads(layer: int | list[int], strategy: str) -> None:
    """The tower inside a LlavaModel, its projector taken out."""
    reference = _reference(CONFIG)
    decoder = transformers.LlamaConfig(
        vocab_size=11, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    llava: Any = transformers.LlavaModel(
        transformers.LlavaConfig(vision_config=reference.config, text_config=decoder)
    ).eval()
    llava.vision_tower.load_state_dict(reference.state_dict())
    llava.multi_modal_projector = torch.nn.Identity()
    pixels = _pixels(CONFIG)
    with torch.no_grad():
        expected = llava.get_image_features(
            tiny.to_torch(pixels.transpose(0, 3, 1, 2)),
            vision_feature_layer=layer,
            vision_feature_select_strategy=strategy,
        ).pooler_output
    chosen = (
        layer if isinstance(layer, int) else tuple(layer),
        "patch" if strategy == "default" else "cls_patch",
    )
    run = jax.jit(lambda p, x: SiglipVision(CONFIG).apply({"params": p}, x, *chosen, method="features"))
    got: Any = run(_params_of(reference, CONFIG), pixels)
    np.testing.assert_allclose(got, np.stack([tiny.numpy(one) for one in expected]), **TOLERANCE)


def test_unread_pixels_do_not_count() -> None:
    params, pixels = _random_params(CONFIG), _pixels(CONFIG)
    spoilt = pixels.copy()
    spoilt[:, 27:], spoilt[:, :, 27:] = np.nan, np.nan
    run = jax.jit(SiglipVision(CONFIG).apply)
    for got, expected in zip(run({"params": params}, spoilt), run({"params": params}, pixels), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_unused_layers_are_not_computed() -> None:
    """NaN in the last block, the final norm and the head must not reach the features of layer -2."""
    params, pixels = _random_params(CONFIG), _pixels(CONFIG)
    spoilt = dict(params)
    spoilt["layers"] = jax.tree.map(lambda x: jnp.asarray(x).at[-1].set(jnp.nan), params["layers"])
    for part in ("post_layernorm", "head"):
        spoilt[part] = jax.tree.map(lambda x: x * jnp.nan, params[part])
    model = SiglipVision(CONFIG)
    run = jax.jit(
        lambda p, layer: model.apply({"params": p}, pixels, layer, method="features"), static_argnums=1
    )
    np.testing.assert_array_equal(run(spoilt, -2), run(params, -2))
    np.testing.assert_array_equal(run(spoilt, (0, -2)), run(params, (0, -2)))
    assert np.isnan(run(spoilt, -1)).all()
    # All four layers' weights come in; the loop steps over three.
    text = run.lower(params, -2).as_text()
    assert "tensor<4x32x72xf32>" in text and "tensor<3x32x72xf32>" in text
    assert "tensor<3x32x72xf32>" not in run.lower(params, -1).as_text()


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_changes_nothing(remat: str) -> None:
    params, pixels = _random_params(CONFIG), _pixels(CONFIG)

    def loss(p: dict, config: SiglipVisionConfig) -> jax.Array:
        hidden, pooled = cast(Any, SiglipVision(config).apply({"params": p}, pixels))
        return (hidden**2).sum() + (pooled**2).sum()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    plain, again = gradient(params, CONFIG), gradient(params, CONFIG.replace(remat=remat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), plain, again)
    # Every parameter counts, but for the biases of keys: they move all scores of a query alike.
    dead = {path for path, leaf in flatten(plain).items() if np.abs(leaf).max() < 1e-3}
    assert dead <= {"layers/attn/k_proj/bias", "head/attention/k_proj/bias"}


def test_bfloat16() -> None:
    half = CONFIG.replace(dtype="bfloat16", param_dtype="bfloat16")
    params, pixels = init_siglip(CONFIG, jax.random.key(0)), _pixels(CONFIG)
    expected = jax.jit(SiglipVision(CONFIG).apply)({"params": params}, pixels)
    fresh = init_siglip(half, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("bfloat16")}
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    got = jax.jit(SiglipVision(half).apply)({"params": rounded}, pixels)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == jnp.bfloat16
        np.testing.assert_allclose(one.astype(jnp.float32), other, rtol=0, atol=0.1)
    features = jax.eval_shape(
        lambda p: SiglipVision(half).apply({"params": p}, pixels, -2, method="features"), rounded
    )
    assert features.dtype == jnp.bfloat16 and features.shape == (3, 8, 32)


def test_so400m_shapes() -> None:
    """google/siglip-so400m-patch14-384: 428 million weights, 27 x 27 patches."""
    params = jax.eval_shape(lambda: init_siglip(SO400M, jax.random.key(0)))
    model, pixels = SiglipVision(SO400M), jax.ShapeDtypeStruct((2, 384, 384, 3), jnp.float32)
    hidden, pooled = jax.eval_shape(lambda p, x: model.apply({"params": p}, x), params, pixels)
    assert hidden.shape == (2, 729, 1152) and pooled.shape == (2, 1152)
    with torch.device("meta"):
        reference = transformers.SiglipVisionModel(
            transformers.SiglipVisionConfig(
                hidden_size=1152,
                intermediate_size=4304,
                num_hidden_layers=27,
                num_attention_heads=16,
                image_size=384,
                patch_size=14,
            )
        )
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
    assert count == sum(p.numel() for p in reference.parameters())
    assert SO400M.patches == SO400M.tokens_of("cls_patch") == 729 and SO400M.tokens_of("patch") == 728
    assert params["head"]["probe"].shape == (1, 1, 1152)
    features = jax.eval_shape(
        lambda p, x: model.apply({"params": p}, x, -2, "patch", method="features"), params, pixels
    )
    assert features.shape == (2, SO400M.tokens_of("patch"), 1152)


@pytest.mark.parametrize("layer", [-2, (0, -1)])
def test_init_by_features(layer: int | tuple[int, ...]) -> None:
    """A LLaVA initialises its tower through `features`: all parameters, and the width it will read."""
    got, params = jax.eval_shape(
        lambda x: SiglipVision(CONFIG).init_with_output(jax.random.key(0), x, layer, method="features"),
        jax.ShapeDtypeStruct((1, 31, 31, 3), jnp.float32),
    )
    assert got.shape == (1, 8, 32 * np.size(layer))
    fresh = jax.eval_shape(lambda: init_siglip(CONFIG, jax.random.key(0)))
    assert jax.tree.map(np.shape, params["params"]) == jax.tree.map(np.shape, fresh)


def test_initial_scales() -> None:
    """Xavier's bounds, and the probe's as torch counts its fans."""
    params = flatten(init_siglip(CONFIG.replace(hidden_size=128), jax.random.key(0)))
    bounds = {
        "layers/attn/q_proj/kernel": (6 / 256) ** 0.5,
        "layers/mlp/fc1/kernel": (6 / 200) ** 0.5,
        "head/attention/out_proj/kernel": (6 / 256) ** 0.5,
        "head/probe": (6 / 256) ** 0.5,
    }
    for path, bound in bounds.items():
        assert 0.9 * bound < float(jnp.abs(params[path]).max()) <= bound, path
    reference: Any = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(num_hidden_layers=1))
    bound = (6 / (2 * 768)) ** 0.5
    assert 0.9 * bound < float(reference.head.probe.detach().abs().max()) <= bound


def test_normalise_and_positions() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), dtype=np.uint8)
    np.testing.assert_allclose(normalise(jnp.asarray(images), CONFIG), images / 127.5 - 1, atol=1e-6)
    clip = ClipVisionConfig(32, 64, 2, 4)
    plain = normalise(jnp.asarray(images))
    np.testing.assert_array_equal(plain, normalise(jnp.asarray(images), clip))
    other = clip.replace(mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    expected = (images / 255 - np.asarray(other.mean)) / np.asarray(other.std)
    np.testing.assert_allclose(normalise(jnp.asarray(images), other), expected, atol=1e-6)
    assert (clip.tokens_of("patch"), clip.tokens_of("cls_patch")) == (256, 257)


def test_config_round_trip_and_errors() -> None:
    config = CONFIG.replace(head=False, mean=(0.4, 0.5, 0.6))
    assert SiglipVisionConfig.from_json(json.dumps(config.to_json())) == config
    with pytest.raises(UserError, match="gelu_pytorch_tanh"):
        CONFIG.replace(activation="gelu_tanh")
    with pytest.raises(UserError, match="no room"):
        CONFIG.replace(image_size=8)
    with pytest.raises(UserError, match="feature_layer -6"):
        SiglipVision(CONFIG).apply({"params": {}}, jnp.zeros((1, 31, 31, 3)), -6, method="features")
    with pytest.raises(UserError, match="pixels"):
        SiglipVision(CONFIG).apply({"params": {}}, jnp.zeros((1, 27, 27, 3)))
