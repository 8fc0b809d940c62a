"""The Q-Former against transformers' InstructBlipQFormerModel, float32, absolute tolerance 2e-5."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers

from input_pipeline.errors import UserError
from jaxllava.models.qformer import QFormer, QFormerConfig
from jaxllava.rules import Params
from tests.jaxllava import tiny_models as tiny

CONFIG = QFormerConfig(24, 48, 4, 4, vocab_size=60, max_positions=16, queries=3, vision_size=32)


def reference_of(config: QFormerConfig, seed: int = 0) -> transformers.InstructBlipQFormerModel:
    model = transformers.InstructBlipQFormerModel(
        transformers.InstructBlipQFormerConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_positions,
            cross_attention_frequency=config.cross_every,
            encoder_hidden_size=config.vision_size,
            layer_norm_eps=config.layer_norm_eps,
        )
    )
    tiny.randomize(model, seed)
    return model


def bert_names(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The reference's weights as LAVIS's Q-Former and LLaMA-VID name them, under `bert.`."""
    state = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    rename = lambda name: (
        name.replace("embeddings.layernorm", "embeddings.LayerNorm")
        .replace(".attention.attention.", ".attention.self.")
        .replace(".crossattention.attention.", ".crossattention.self.")
    )
    return {f"bert.{rename(name)}": value for name, value in state.items()}


def params_of(model: torch.nn.Module, config: QFormerConfig, query: np.ndarray) -> Params:
    from jaxllava.weights.tables import Entry, qformer_table

    table = [*qformer_table("bert.", config, "q"), Entry("query", "q/query")]
    tree = jax.eval_shape(
        QFormer(config).init,
        jax.random.key(0),
        np.zeros((1, 2, config.vision_size), np.float32),
        np.zeros((1, 1), np.int32),
        np.ones((1, 1), bool),
    )["params"]
    expected = {f"q/{path}": leaf.shape for path, leaf in tiny.flat(tree).items()}
    return tiny.to_params({**bert_names(model), "query": query}, table, expected, "torch")["q"]


def inputs(config: QFormerConfig, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    vision = rng.normal(size=(3, 5, config.vision_size)).astype(np.float32)
    text = rng.integers(1, config.vocab_size, size=(3, 7)).astype(np.int32)
    valid = np.arange(7)[None] < np.array([7, 4, 1])[:, None]
    query = rng.normal(size=(1, config.queries, config.hidden_size)).astype(np.float32)
    return vision, text, valid, query


@pytest.mark.parametrize("changes", [{}, {"layers": 6, "cross_every": 3}, {"layers": 2, "cross_every": 1}])
def test_parity(changes: dict[str, Any]) -> None:
    config = CONFIG.replace(**changes)
    reference = reference_of(config)
    vision, text, valid, query = inputs(config)
    params = params_of(reference, config, query)
    with torch.no_grad():
        expected = reference(
            input_ids=tiny.to_torch(text).long(),
            attention_mask=tiny.to_torch(np.concatenate([np.ones((3, 3), bool), valid], axis=1)).long(),
            query_embeds=tiny.to_torch(query).expand(3, -1, -1),
            encoder_hidden_states=tiny.to_torch(vision),
        ).last_hidden_state[:, : config.queries]
    run = jax.jit(lambda p, *x: QFormer(config).apply({"params": p}, *x))
    np.testing.assert_allclose(run(params, vision, text, valid), tiny.numpy(expected), rtol=0, atol=2e-5)
    # What pads a question is not read.
    other = np.where(valid, text, 9)
    np.testing.assert_allclose(run(params, vision, other, valid), tiny.numpy(expected), rtol=0, atol=2e-5)


def test_mistakes() -> None:
    with pytest.raises(UserError, match="groups of cross_every 3"):
        CONFIG.replace(cross_every=3)
    with pytest.raises(UserError, match="multiple of heads"):
        CONFIG.replace(heads=5)
    vision, _, _, _ = inputs(CONFIG)
    text = np.ones((3, 17), np.int32)
    with pytest.raises(UserError, match="17 tokens: the Q-Former has 16 positions"):
        QFormer(CONFIG).init(jax.random.key(0), vision, text, text > 0)
