"""The model folder."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline.errors import UserError
from jaxllava.models.clip import ClipConfig
from jaxllava.weights import lazy, orbax
from tests.jaxllava import tiny_models as tiny


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory):
    tokenizer = tiny.tokenizer_in(tmp_path_factory.mktemp("tokenizer"))
    config = tiny.llava_for(tokenizer)
    params = tiny.random_params(config)
    params["vision"] = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.bfloat16), params["vision"]
    )  # frozen: half precision
    folder = tmp_path_factory.mktemp("models") / "model"
    orbax.save_model(folder, params, config, tokenizer, "vicuna_v1")
    return folder, params, config, tokenizer


def test_round_trip(saved) -> None:
    folder, params, config, tokenizer = saved
    again, opened = tiny.opened(folder)[0], orbax.open_model(folder)
    found, words, template = opened.config, opened.tokenizer, opened.template
    assert words is not None
    jax.tree.map(np.testing.assert_array_equal, lazy.read(opened.leaves), params)
    assert (found, template) == (config, "vicuna_v1")
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert jax.tree.map(lambda x: x.dtype, again) == jax.tree.map(lambda x: jnp.dtype(x.dtype), params)
    assert words.get_vocab() == tokenizer.get_vocab()
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "manifest.json",
        "params",
        "tokenizer",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_clip_folder(tmp_path: Path, saved) -> None:
    config = ClipConfig(tiny.VISION, tiny.TEXT, projection_dim=24)
    params = tiny.random_params(config)
    orbax.save_model(tmp_path / "clip", params, config, saved[3], "plain")
    again, found = tiny.opened(tmp_path / "clip")
    assert found == config
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_replaces_a_model_and_nothing_else(tmp_path: Path, saved) -> None:
    _, params, config, tokenizer = saved
    zeros = jax.tree.map(jnp.zeros_like, params)
    orbax.save_model(tmp_path / "model", zeros, config, tokenizer, "plain")
    orbax.save_model(tmp_path / "model", params, config, tokenizer, "v1_bare")
    again, template = tiny.opened(tmp_path / "model")[0], orbax.read_config(tmp_path / "model")[1]
    assert template == "v1_bare"
    jax.tree.map(np.testing.assert_array_equal, again, params)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").touch()
    with pytest.raises(UserError, match="not a model folder"):
        orbax.save_model(tmp_path / "other", params, config, tokenizer, "v1_bare")
    with pytest.raises(UserError, match="template"):
        orbax.save_model(tmp_path / "third", params, config, tokenizer, "v2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "other"]


def test_errors(tmp_path: Path, saved) -> None:
    folder, _, _config, _ = saved
    with pytest.raises(UserError, match="not a checkpoint"):
        tiny.opened(tmp_path)[0]
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "params").symlink_to(folder / "params")
    values = json.loads((folder / "config.json").read_text())

    def with_config(values: dict) -> Path:
        (copy / "config.json").write_text(json.dumps(values))
        return copy

    with pytest.raises(UserError, match="decoder/embed/embedding has shape"):
        tiny.opened(with_config(values | {"decoder": values["decoder"] | {"vocab_size": 400}}))[0]
    with pytest.raises(UserError, match="no place for projector/linear_2/bias"):
        tiny.opened(with_config(values | {"projector": "linear"}))[0]
    with pytest.raises(UserError, match="jaxllava model folder"):
        tiny.opened(with_config({"model_type": "llava"}))[0]
    with pytest.raises(UserError, match="feature_layers"):
        tiny.opened(with_config(values | {"feature_layers": -2}))[0]
    (copy / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: not readable JSON"):
        tiny.opened(copy)[0]
