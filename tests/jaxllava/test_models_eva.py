"""EVA's tower against transformers' InstructBlipVisionModel, float32, absolute tolerance 2e-5."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
import transformers

from jaxllava.models.eva import EvaVision, EvaVisionConfig, init_eva
from jaxllava.rules import flatten
from jaxllava.weights import fused, lazy, tables
from tests.jaxllava import tiny_models as tiny

CONFIG = EvaVisionConfig(32, 64, 5, 4, image_size=28, patch_size=7)


def reference_of(config: EvaVisionConfig) -> transformers.InstructBlipVisionModel:
    model = transformers.InstructBlipVisionModel(
        transformers.InstructBlipVisionConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
            layer_norm_eps=config.layer_norm_eps,
            hidden_act=config.activation,
            qkv_bias=True,
        )
    )
    tiny.randomize(model)
    for layer in model.encoder.layers:  # the middle third is the keys' bias, which EVA does not have
        with torch.no_grad():
            layer.self_attn.qkv.bias[config.hidden_size : 2 * config.hidden_size] = 0
    return model


def eva_names(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The reference's weights as `eva_vit_g.pth` names them."""
    found = {}
    for name, value in model.state_dict().items():
        name = (
            name.replace("embeddings.class_embedding", "cls_token")
            .replace("embeddings.position_embedding", "pos_embed")
            .replace("embeddings.patch_embedding", "patch_embed.proj")
            .replace("encoder.layers.", "blocks.")
            .replace("self_attn.projection", "attn.proj")
            .replace("self_attn.", "attn.")
            .replace("layer_norm", "norm")
        )
        array = value.detach().numpy()
        if name.startswith("post_"):  # no tower of ours has it
            continue
        if name.endswith("qkv.bias"):
            query, _, value_ = np.split(array, 3)
            found[name.replace("qkv.bias", "q_bias")] = query
            found[name.replace("qkv.bias", "v_bias")] = value_
        else:
            found[name] = array
    return found


@pytest.mark.parametrize("layer", [-1, -3, 0])
def test_parity(layer: int) -> None:
    reference = reference_of(CONFIG)
    params = tiny.to_params(eva_names(reference), tables.table_of(CONFIG), tables.shapes(CONFIG), "torch")
    pixels = np.random.default_rng(0).normal(size=(3, 28, 28, 3)).astype(np.float32)
    with torch.no_grad():
        hidden = tiny.to_torch(pixels.transpose(0, 3, 1, 2).copy())
        states = [reference.embeddings(hidden)]
        for block in reference.encoder.layers:
            states.append(block(states[-1]))

    @jax.jit
    def run(p: dict, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        model = EvaVision(CONFIG)
        whole = model.apply({"params": p}, x, layer, "cls_patch", method="features")
        patches = model.apply({"params": p}, x, layer, "patch", method="features")
        return whole, patches

    whole, patches = run(params, pixels)
    np.testing.assert_allclose(whole, tiny.numpy(states[layer]), rtol=0, atol=2e-5)
    np.testing.assert_array_equal(patches, whole[:, 1:])


def test_published_size_and_json() -> None:
    config = EvaVisionConfig(1408, 6144, 39, 16)
    params = jax.eval_shape(lambda key: init_eva(config, key), jax.random.key(0))
    count = sum(int(np.prod(leaf.shape)) for leaf in flatten(params).values())
    width, mlp = 1408, 6144
    block = 4 * width**2 + 3 * width + 4 * width + 2 * width * mlp + mlp + width  # no bias of the keys
    assert count == 39 * block + width * (3 * 14 * 14 + 1) + width * (1 + 257)
    assert EvaVisionConfig.from_json(config.to_json()) == config


def test_the_fused_projection_comes_back() -> None:
    names = eva_names(reference_of(CONFIG))
    tensors = {name: lazy.Tensor.of(array) for name, array in names.items()}
    back = fused.join_eva(fused.split_fused(tensors))
    assert {name: tensor.shape for name, tensor in back.items()} == {n: a.shape for n, a in names.items()}
    for name, tensor in back.items():
        np.testing.assert_array_equal(tensor.read(), names[name])
