"""The decoder against transformers, float32, absolute tolerance 2e-5."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from input_pipeline.errors import UserError
from jaxllava.models.attention import attention
from jaxllava.models.llama import Context, Llama, LlamaConfig, init_cache, init_llama
from jaxllava.models.rope import RopeScaling
from tests.jaxllava import tiny_models as tiny

TOLERANCE = {"rtol": 0, "atol": 2e-5}
CONFIGS = {
    "gqa": tiny.DECODER,
    "mha": tiny.DECODER.replace(kv_heads=6),
    "mqa": tiny.DECODER.replace(kv_heads=1),
    "tied": tiny.DECODER.replace(tie_embeddings=True),
    "wide_heads": tiny.DECODER.replace(head_dim=16),
    "mistral": tiny.DECODER.replace(family="mistral", sliding_window=5),
    "mistral_v2": tiny.DECODER.replace(family="mistral", rope_theta=1e6),
    "qwen2": tiny.DECODER.replace(family="qwen2", qkv_bias=True, tie_embeddings=True),
    "qwen3": tiny.DECODER.replace(family="qwen3", qk_norm=True, head_dim=16),
    "linear": tiny.DECODER.replace(rope_scaling=RopeScaling("linear", 4.0)),
    "dynamic": tiny.DECODER.replace(rope_scaling=RopeScaling("dynamic", 3.0), max_positions=10),
    "dynamic_short": tiny.DECODER.replace(rope_scaling=RopeScaling("dynamic", 3.0)),
    "llama3": tiny.DECODER.replace(
        rope_scaling=RopeScaling("llama3", 8.0, original_max_positions=64), head_dim=16
    ),
    "yarn": tiny.DECODER.replace(
        rope_scaling=RopeScaling("yarn", 4.0, original_max_positions=64), head_dim=16
    ),
    "yarn_mscale": tiny.DECODER.replace(
        rope_scaling=RopeScaling(
            "yarn",
            8.0,
            original_max_positions=32,
            beta_fast=8.0,
            mscale=0.7,
            mscale_all_dim=1.2,
            truncate=False,
        ),
        head_dim=32,
    ),
}


def _tokens(rows: int = 2, length: int = 17, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(6, 101, size=(rows, length)).astype(np.int32)


def _logits(
    config: LlamaConfig, params: dict, tokens: np.ndarray, positions=None, segment_ids=None
) -> jax.Array:
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape) if positions is None else positions

    return _run(params, tokens, positions, segment_ids, config)


@partial(jax.jit, static_argnums=4)
def _run(params: dict, tokens, positions, segment_ids, config: LlamaConfig) -> jax.Array:
    def run(model: Llama) -> jax.Array:
        return model.logits(model(model.embed(tokens), positions, segment_ids))

    return Llama(config).apply({"params": params}, method=run)


@pytest.mark.parametrize("name", CONFIGS)
def test_parity(name: str) -> None:
    config = CONFIGS[name]
    reference = tiny.torch_llama(config)
    params, tokens = tiny.params_of(reference, config), _tokens()
    with torch.no_grad():
        expected = reference(tiny.to_torch(tokens).long(), output_hidden_states=True)
    np.testing.assert_allclose(_logits(config, params, tokens), tiny.numpy(expected.logits), **TOLERANCE)
    hidden = jax.jit(
        lambda p, t: Llama(config).apply(
            {"params": p}, method=lambda m: m(m.embed(t), jnp.broadcast_to(jnp.arange(17), t.shape))
        )
    )(params, tokens)
    np.testing.assert_allclose(hidden, tiny.numpy(expected.hidden_states[-1]), **TOLERANCE)
    assert ("lm_head" in params) == (not config.tie_embeddings)


def test_packed_equals_separate() -> None:
    config = tiny.DECODER
    params = tiny.random_params(config)
    first, second = _tokens(1, 7, 1), _tokens(1, 9, 2)
    packed = np.concatenate([first, second, np.zeros((1, 4), np.int32)], axis=1)
    segments = np.array([[1] * 7 + [2] * 9 + [0] * 4], np.int32)
    positions = np.array([[*range(7), *range(9), *range(4)]], np.int32)
    got = _logits(config, params, packed, positions, segments)
    np.testing.assert_allclose(got[:, :7], _logits(config, params, first), **TOLERANCE)
    np.testing.assert_allclose(got[:, 7:16], _logits(config, params, second), **TOLERANCE)
    assert np.isfinite(got).all()  # padding must not make NaN, or its gradient would


@pytest.mark.parametrize(
    ("side", "name"),
    [("left", "gqa"), ("right", "gqa"), ("left", "mistral"), ("right", "mistral"), ("left", "yarn")],
)
def test_cache_equals_full_forward(side: str, name: str) -> None:
    """Prefill of unequal prompts, then one token at a time, against the uncached forward pass of each row."""
    config = CONFIGS[name]
    params = tiny.random_params(config)
    lengths, width, steps = [9, 5], 9, 4
    whole = [_tokens(1, n + steps, seed=n)[0] for n in lengths]
    valid = np.zeros((2, width + steps), bool)
    valid[:, width:] = True
    prompt, positions = np.zeros((2, width), np.int32), np.zeros((2, width), np.int32)
    for row, n in enumerate(lengths):
        place = slice(width - n, width) if side == "left" else slice(0, n)
        prompt[row, place], positions[row, place], valid[row, place] = whole[row][:n], np.arange(n), True
    slots = np.arange(width + steps)

    @jax.jit
    def run(params, tokens, positions, cache, start, mask):
        def body(model: Llama):
            hidden, new = model.extend(model.embed(tokens), positions, cache, start, mask)
            return model.logits(hidden), new

        return Llama(config).apply({"params": params}, method=body)

    def extend(cache, tokens, positions, start):
        mask = valid[:, None, :] & (slots[None, None, :] <= start + np.arange(tokens.shape[1])[None, :, None])
        return run(params, tokens, positions, cache, start, mask)

    full = [_logits(config, params, row[None])[0] for row in whole]
    logits, cache = extend(init_cache(config, 2, width + steps), prompt, positions, 0)
    for row, n in enumerate(lengths):
        place = slice(width - n, width) if side == "left" else slice(0, n)
        np.testing.assert_allclose(logits[row, place], full[row][:n], **TOLERANCE)
    for step in range(steps):
        tokens = np.stack([whole[row][n + step] for row, n in enumerate(lengths)])[:, None]
        logits, cache = extend(cache, tokens, np.array(lengths)[:, None] + step, width + step)
        for row, n in enumerate(lengths):
            np.testing.assert_allclose(logits[row, 0], full[row][n + step], **TOLERANCE)


def test_scan_equals_layers_one_by_one() -> None:
    """Applying single-layer models to slices of the stacked params gives the scanned model."""
    config = tiny.DECODER
    params = tiny.random_params(config)
    tokens = _tokens()
    positions = np.broadcast_to(np.arange(17), tokens.shape)
    x = Llama(config).apply({"params": params}, tokens, method="embed")
    one = Llama(config.replace(layers=1))

    def body(m, y):
        return m.layers((y, None), jnp.arange(1), Context(positions))[0][0]

    for i in range(config.layers):
        piece = params | {"layers": jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], params["layers"])}
        x = one.apply({"params": piece}, x, method=body)
    x = one.apply({"params": params | {"layers": {}}}, x, method=lambda m, y: m.logits(m.norm(y)))
    np.testing.assert_allclose(x, _logits(config, params, tokens), **TOLERANCE)


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_gradients(remat: str) -> None:
    params, tokens = tiny.random_params(tiny.DECODER), _tokens()
    gradient = jax.jit(jax.grad(lambda p, c: (_logits(c, p, tokens) ** 2).mean()), static_argnums=1)
    plain, again = gradient(params, tiny.DECODER), gradient(params, tiny.DECODER.replace(remat=remat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, again)


def test_bfloat16_compute_keeps_float32_logits() -> None:
    config = tiny.DECODER.replace(dtype="bfloat16")
    params = jax.jit(lambda key: init_llama(config, key))(jax.random.key(0))
    logits = _logits(config, params, _tokens())
    exact = _logits(tiny.DECODER, params, _tokens())
    assert logits.dtype == jnp.float32 and params["norm"]["scale"].dtype == jnp.float32
    np.testing.assert_allclose(logits, exact, atol=0.02)
    assert not np.array_equal(logits, exact)


def test_attention_is_grouped_and_masked() -> None:
    """Against a plain loop over heads in float64."""
    rng = np.random.default_rng(0)
    query, key, value = (
        rng.normal(size=(2, n, h, 8)).astype(np.float32) for n, h in ((5, 6), (7, 2), (7, 2))
    )
    mask = rng.random((2, 5, 7)) < 0.5
    mask[:, :, 0] = True
    got = attention(query, key, value, mask=mask)
    for b in range(2):
        for h in range(6):
            scores = query[b, :, h].astype(np.float64) @ key[b, :, h // 3].T.astype(np.float64) / np.sqrt(8)
            weights = np.where(mask[b], np.exp(scores), 0)
            expected = weights / weights.sum(-1, keepdims=True) @ value[b, :, h // 3]
            np.testing.assert_allclose(got[b, :, h], expected, atol=1e-6)
    blind = attention(query, key, value, mask=np.zeros((2, 5, 7), bool))
    assert np.isfinite(blind).all()


def test_attention_orders() -> None:
    """Causal by positions equals causal by place where positions count up; a shorter query is the end."""
    rng = np.random.default_rng(1)
    query, key, value = (rng.normal(size=(1, 6, 2, 4)).astype(np.float32) for _ in range(3))
    by_place = attention(query, key, value, causal=True)
    by_position = attention(query, key, value, causal=True, positions=jnp.arange(6)[None])
    np.testing.assert_array_equal(by_place, by_position)
    np.testing.assert_allclose(attention(query[:, 4:], key, value, causal=True), by_place[:, 4:], atol=1e-6)
    library = jax.nn.dot_product_attention(query, key, value, is_causal=True)
    np.testing.assert_allclose(by_place, library, atol=1e-6)


def test_config_json() -> None:
    config = LlamaConfig(100, 48, 96, 2, 6)
    assert config.kv_heads == 6 and config.head_dim == 8
    assert LlamaConfig.from_json(config.to_json()) == config
    for change, message in (
        ({"head_dims": 8}, "head_dim"),
        ({"layers": "2"}, "expected int"),
        ({"tie_embeddings": 1}, "expected bool"),
        ({"remat": "al"}, "remat"),
        ({"kv_heads": 4}, "kv_heads"),
        ({"attention": "flash"}, "cudnn"),
    ):
        with pytest.raises(UserError, match=message):
            LlamaConfig.from_json(config.to_json() | change)
    with pytest.raises(UserError, match="missing keys layers"):
        LlamaConfig.from_json({k: v for k, v in config.to_json().items() if k != "layers"})
