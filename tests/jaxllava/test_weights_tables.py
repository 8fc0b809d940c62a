"""The weight tables: exact round trips, and one error that lists everything that does not fit."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from input_pipeline.errors import UserError
from jaxllava.models.clip import ClipConfig
from jaxllava.rules import Params
from jaxllava.weights import tables
from tests.jaxllava import tiny_models as tiny

CLIP = ClipConfig(tiny.VISION, tiny.TEXT, projection_dim=24)


@pytest.fixture(scope="module")
def params() -> Params:
    return tiny.random_params(tiny.LLAVA)


@pytest.fixture
def tensors(params: Params) -> dict[str, np.ndarray]:
    return dict(tiny.from_params(params, tables.llava_table(tiny.LLAVA), tables.shapes(tiny.LLAVA)))


def _read(tensors: dict[str, np.ndarray]) -> Params:
    return tiny.to_params(tensors, tables.llava_table(tiny.LLAVA), tables.shapes(tiny.LLAVA), "file")


@pytest.mark.parametrize(
    ("table", "config"),
    [
        (tables.llava_table, tiny.LLAVA),
        (tables.llava_table, tiny.LLAVA.replace(projector="mlp3x_gelu")),
        (tables.llava_table, tiny.LLAVA.replace(projector="linear")),
        (tables.llava_table, tiny.LLAVA.replace(decoder=tiny.DECODER.replace(tie_embeddings=True))),
        (tables.clip_table, CLIP),
        (tables.llama_table, tiny.DECODER),
    ],
)
def test_round_trip_is_exact(table, config) -> None:
    rows, shapes = table(config), tables.shapes(config)
    tree = tiny.random_params(config)
    again = tiny.to_params(dict(tiny.from_params(tree, rows, shapes)), rows, shapes, "file")
    jax.tree.map(np.testing.assert_array_equal, again, tree)
    assert sum(np.size(leaf) for leaf in jax.tree.leaves(tree)) == sum(
        tensor.size for _, tensor in tiny.from_params(tree, rows, shapes).items()
    )


def test_names_are_the_4x_disk_spelling(tensors: dict[str, np.ndarray]) -> None:
    for name in (
        "vision_tower.vision_model.embeddings.class_embedding",
        "vision_tower.vision_model.pre_layrnorm.weight",
        "vision_tower.vision_model.encoder.layers.3.self_attn.out_proj.bias",
        "multi_modal_projector.linear_2.weight",
        "language_model.model.layers.0.post_attention_layernorm.weight",
        "language_model.lm_head.weight",
    ):
        assert name in tensors
    assert tensors["vision_tower.vision_model.embeddings.patch_embedding.weight"].shape == (32, 3, 14, 14)
    assert all(tensor.flags.c_contiguous for tensor in tensors.values())


def test_all_problems_are_listed_at_once(tensors: dict[str, np.ndarray]) -> None:
    del tensors["language_model.model.norm.weight"]
    tensors["image_newline"] = np.zeros(48, np.float32)
    with pytest.raises(
        UserError, match=r"file: 2 .*no place for image_newline; missing language_model.model.norm"
    ):
        _read(tensors)


def test_wrong_shapes_are_listed(tensors: dict[str, np.ndarray]) -> None:
    name = "language_model.model.layers.1.mlp.gate_proj.weight"
    tensors[name] = tensors[name].T
    tensors["multi_modal_projector.linear_1.bias"] = np.zeros((48, 1), np.float32)
    with pytest.raises(UserError) as error:
        _read(tensors)
    assert name in str(error.value) and "multi_modal_projector.linear_1.bias" in str(error.value)
    assert "(3, 48, 96)" in str(error.value)


def test_a_missing_layer_and_a_layer_too_many(tensors: dict[str, np.ndarray]) -> None:
    moved = {name.replace(".layers.2.", ".layers.7."): value for name, value in tensors.items()}
    with pytest.raises(UserError) as error:
        _read(moved)
    assert "no place for language_model.model.layers.7.input_layernorm.weight" in str(error.value)
    assert "missing language_model.model.layers.2.input_layernorm.weight" in str(error.value)


def test_old_buffers_are_ignored(tensors: dict[str, np.ndarray], params: Params) -> None:
    tensors["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(4, np.float32)
    tensors["vision_tower.vision_model.embeddings.position_ids"] = np.arange(5)[None]
    jax.tree.map(np.testing.assert_array_equal, _read(tensors), params)


def test_faulty_tables_are_errors(params: Params) -> None:
    rows, shapes = tables.llava_table(tiny.LLAVA), tables.shapes(tiny.LLAVA)
    twice = [*rows, dataclasses.replace(rows[0], name="other")]
    with pytest.raises(UserError, match="class_embedding stands in 2 rows"):
        tiny.from_params(params, twice, shapes)
    with pytest.raises(UserError, match="no row for vision/embeddings/class_embedding"):
        tiny.from_params(params, rows[1:], shapes)
    with pytest.raises(UserError, match="row a/b names no parameter"):
        tiny.from_params(params, [*rows, tables.Entry("x", "a/b")], shapes)


def test_params_that_do_not_fit_are_errors(params: Params) -> None:
    rows, shapes = tables.llava_table(tiny.LLAVA), tables.shapes(tiny.LLAVA)
    with pytest.raises(UserError, match="missing projector/linear_1/bias"):
        tiny.from_params({k: v for k, v in params.items() if k != "projector"}, rows, shapes)
    with pytest.raises(UserError, match="no place for extra"):
        tiny.from_params(params | {"extra": np.zeros(3)}, rows, shapes)
    with pytest.raises(UserError, match=r"decoder/norm/scale has shape \(3,\)"):
        decoder = params["decoder"] | {"norm": {"scale": np.zeros(3)}}
        tiny.from_params(params | {"decoder": decoder}, rows, shapes)
