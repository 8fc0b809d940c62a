"""Decoding against transformers.generate, and scoring against the plain forward pass."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxllava import generate as generation
from jaxllava.models import llama
from jaxllava.models.clip import normalise
from jaxllava.models.llava import LlavaModel
from tests.jaxllava import tiny_models as tiny
from tests.jaxllava.test_models_llama import CONFIGS as FAMILY

pytestmark = pytest.mark.usefixtures("compiled_quickly")

CONFIG = tiny.LLAVA
MODEL = LlavaModel(CONFIG)
COUNT = CONFIG.image_tokens
Row = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def reference():
    return tiny.torch_llava(CONFIG)


@pytest.fixture(scope="module")
def params(reference):
    return tiny.params_of(reference, CONFIG)


def _row(text: int, images: int, seed: int) -> Row:
    """A prompt of `text` text tokens with its images behind the first of them."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(6, 101, size=text + images * COUNT).astype(np.int32)
    index = np.full(len(tokens), -1, np.int32)
    tokens[1 : 1 + images * COUNT] = CONFIG.image_token
    index[1 : 1 + images * COUNT] = np.arange(images * COUNT)
    return tokens, index, rng.integers(0, 255, size=(images, 28, 28, 3), dtype=np.uint8)


ROWS = [_row(9, 1, 0), _row(4, 0, 1), _row(30, 2, 2)]


def _torch_inputs(rows: list[Row]) -> dict[str, torch.Tensor]:
    width = max(len(tokens) for tokens, _, _ in rows)
    ids = np.zeros((len(rows), width), np.int64)
    mask = np.zeros_like(ids)
    for i, (tokens, _, _) in enumerate(rows):
        ids[i, width - len(tokens) :], mask[i, width - len(tokens) :] = tokens, 1
    pixels = np.asarray(normalise(jnp.asarray(np.concatenate([images for _, _, images in rows]))))
    inputs = {"input_ids": tiny.to_torch(ids), "attention_mask": tiny.to_torch(mask)}
    return inputs | ({"pixel_values": tiny.to_torch(pixels.transpose(0, 3, 1, 2))} if len(pixels) else {})


@jax.jit
def _full_logits(params, tokens: np.ndarray, index: np.ndarray, images: np.ndarray) -> jax.Array:
    """The plain forward pass; padding on the right is in the future of every real token."""
    pixels = normalise(images)[None] if len(images) else None

    def run(model: LlavaModel) -> jax.Array:
        return model.logits(model(tokens[None], jnp.arange(len(tokens))[None], None, pixels, index[None]))[0]

    return MODEL.apply({"params": params}, method=run)


def test_greedy_equals_transformers(reference, params) -> None:
    """80 tokens, unequal prompts with none, one and two images, no EOS: token for token."""
    with torch.no_grad():
        expected = reference.generate(
            **_torch_inputs(ROWS), max_new_tokens=80, min_new_tokens=80, do_sample=False, eos_token_id=None,
            pad_token_id=0,
        )[:, -80:].numpy()  # fmt: skip
    prompts = generation.stack_prompts(ROWS, pad_id=0)
    tokens, counts = generation.generate(MODEL, params, prompts, max_new_tokens=80, end_ids=())
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_array_equal(counts, 80)
    assert len(np.unique(expected)) > 5  # not one token over and over


@pytest.mark.parametrize(
    "name",
    [
        "mistral",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("qwen2", "qwen3", "dynamic", "llama3", "yarn")),
    ],
)
def test_greedy_equals_transformers_in_every_family(name: str) -> None:
    """70 tokens, token for token, past Mistral's window and past where `dynamic` begins to stretch."""
    config = CONFIG.replace(decoder=FAMILY[name].replace(max_positions=24 if name == "dynamic" else 4096))
    reference = tiny.torch_llava(config)
    params = tiny.params_of(reference, config)
    with torch.no_grad():
        expected = reference.generate(
            **_torch_inputs(ROWS), max_new_tokens=70, min_new_tokens=70, do_sample=False, eos_token_id=None,
            pad_token_id=0,
        )[:, -70:].numpy()  # fmt: skip
    prompts = generation.stack_prompts(ROWS, pad_id=0)
    tokens, _ = generation.generate(LlavaModel(config), params, prompts, max_new_tokens=70, end_ids=())
    np.testing.assert_array_equal(tokens, expected)
    assert len(np.unique(expected)) > 5


def test_eos_stops_each_row_by_itself(reference, params) -> None:
    prompts = generation.stack_prompts(ROWS, pad_id=0)
    free, _ = generation.generate(MODEL, params, prompts, max_new_tokens=40, end_ids=())
    eos = int(free[0, 7])
    firsts = [list(row).index(eos) if eos in row else 40 for row in free.tolist()]
    tokens, counts = generation.generate(MODEL, params, prompts, max_new_tokens=40, end_ids=(eos,))
    np.testing.assert_array_equal(counts, firsts)
    for row, first in enumerate(firsts):
        np.testing.assert_array_equal(tokens[row, :first], free[row, :first])
        assert np.all(tokens[row, first:] == eos)
    with torch.no_grad():
        expected = reference.generate(
            **_torch_inputs(ROWS[:1]), max_new_tokens=40, do_sample=False, eos_token_id=eos, pad_token_id=0
        ).numpy()[0, -firsts[0] - 1 :]
    np.testing.assert_array_equal(tokens[0, : firsts[0] + 1], expected)


def test_side_of_padding_does_not_matter(params) -> None:
    left = generation.stack_prompts(ROWS, pad_id=0)
    shift = lambda x: np.stack(
        [np.roll(r, -(len(r) - n)) for r, n in zip(x, map(len, _tokens()), strict=True)]
    )
    right = generation.Prompts(shift(left.tokens), shift(left.valid), shift(left.image_index), left.images)
    assert right.valid[1, 0] and not right.valid[1, -1]
    ours = generation.generate(MODEL, params, left, max_new_tokens=20, end_ids=())
    np.testing.assert_array_equal(
        generation.generate(MODEL, params, right, max_new_tokens=20, end_ids=())[0], ours[0]
    )


def _tokens() -> list[np.ndarray]:
    return [tokens for tokens, _, _ in ROWS]


def test_neighbours_do_not_matter(params) -> None:
    """A row alone, and in a batch filled up with repeats, answers the same."""
    together, _ = generation.generate(
        MODEL, params, generation.stack_prompts(ROWS, 0, rows_to=4), max_new_tokens=20, end_ids=()
    )
    assert together.shape == (4, 20)
    np.testing.assert_array_equal(together[3], together[2])
    for i, row in enumerate(ROWS):
        alone, _ = generation.generate(
            MODEL, params, generation.stack_prompts([row], 0), max_new_tokens=20, end_ids=()
        )
        np.testing.assert_array_equal(alone[0], together[i])


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_long_prompt_is_read_in_parts(params, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = generation.stack_prompts(ROWS, pad_id=0)
    if side == "right":
        moved = [np.flip(x, axis=1) for x in (prompts.tokens, prompts.valid, prompts.image_index)]
        prompts = generation.Prompts(*moved, prompts.images)
    width = prompts.tokens.shape[1]
    whole = generation.prefill(MODEL, params, prompts, width + 16)
    assert generation._block(width, width + 16) == width
    monkeypatch.setattr(generation, "MAX_PAIRS", 10 * (width + 16))
    assert generation._block(width, width + 16) == 6
    parts = generation.prefill(MODEL, params, prompts, width + 16)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), parts[0::2], whole[0::2]
    )
    real = np.pad(prompts.valid, ((0, 0), (0, 16)))  # of junk on padding nothing is asked
    for key in ("k", "v"):
        for a, b in zip(parts[1][key], whole[1][key], strict=True):
            keep = real.reshape(*real.shape[:1], *([1] * (np.ndim(a) - 3)), real.shape[1], 1)
            np.testing.assert_allclose(np.where(keep, a, 0), np.where(keep, b, 0), atol=1e-5, rtol=1e-5)


def test_few_compilations(params) -> None:
    """Prompt lengths and limits within a bucket share one program; the limit itself is not compiled in."""
    run = lambda text, new: generation.generate(
        MODEL, params, generation.stack_prompts([_row(text, 0, 5)], 0), max_new_tokens=new, end_ids=()
    )
    run(3, 5)
    before = generation._decode._cache_size()
    shorter, longer = run(3, 5)[0], run(3, 30)[0]
    for text in (7, 20, 32):
        run(text, 12)
    assert generation._decode._cache_size() == before
    np.testing.assert_array_equal(shorter[0], longer[0, :5])
    run(33, 5)
    assert generation._decode._cache_size() == before + 1


def test_buckets() -> None:
    assert [generation.bucket(n) for n in (1, 32, 33, 48, 49, 64, 65, 97, 1000)] == [
        32,
        32,
        48,
        48,
        64,
        64,
        96,
        128,
        1024,
    ]
    assert [generation.bucket(n, 2) for n in (1, 2, 3, 4, 5, 7, 9)] == [2, 2, 3, 4, 6, 8, 12]


def test_sampling_follows_the_distribution() -> None:
    logits = jnp.tile(jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]])), (20000, 1))
    keys = jax.random.split(jax.random.key(0), 20000)
    draw = lambda temperature, top_p: np.bincount(
        np.asarray(generation.sample(logits, keys, temperature, top_p)), minlength=4
    ) / 20000  # fmt: skip
    np.testing.assert_allclose(draw(1.0, 1.0), [0.5, 0.3, 0.15, 0.05], atol=0.015)
    hot = np.array([0.5, 0.3, 0.15, 0.05]) ** 0.5
    np.testing.assert_allclose(draw(2.0, 1.0), hot / hot.sum(), atol=0.015)
    # 0.5 + 0.3 reaches 0.7: two ids stay, in their own proportion (transformers keeps the id that crosses,
    # too).
    np.testing.assert_allclose(draw(1.0, 0.7), [0.625, 0.375, 0, 0], atol=0.015)
    np.testing.assert_allclose(draw(1.0, 0.0), [1, 0, 0, 0])


def test_sampled_text_depends_on_the_key_alone(params) -> None:
    prompts = generation.stack_prompts(ROWS, 0)
    run = lambda seed: generation.generate(
        MODEL, params, prompts, max_new_tokens=16, end_ids=(), temperature=1.0, key=jax.random.key(seed)
    )[0]
    np.testing.assert_array_equal(run(0), run(0))
    assert not np.array_equal(run(0), run(1))


def test_layers_apart_give_the_same(params) -> None:
    """As a CPU holds them: greedy tokens, scores and the way back. Grouped queries and a window are in the config."""
    config = CONFIG.replace(decoder=CONFIG.decoder.replace(sliding_window=12))
    model, prompts = LlavaModel(config), generation.stack_prompts(ROWS, pad_id=0)
    apart = params | {"decoder": llama.unstack(params["decoder"])}
    assert llama.is_unstacked(apart["decoder"]["layers"]) and not llama.is_unstacked(
        params["decoder"]["layers"]
    )
    tokens = [
        generation.generate(model, p, prompts, max_new_tokens=20, end_ids=())[0] for p in (params, apart)
    ]
    np.testing.assert_array_equal(*tokens)
    assert len(np.unique(tokens[0])) > 5
    candidates = [[np.array([7, 9, 11], np.int32), np.array([8], np.int32)]] * 3
    scores = [generation.score(model, p, prompts, candidates)[0] for p in (params, apart)]
    np.testing.assert_allclose(*scores, rtol=1e-5, atol=2e-5)
    jax.tree.map(np.testing.assert_array_equal, llama.stack(apart["decoder"]), params["decoder"])


def test_a_generated_token_copies_no_cache(params) -> None:
    """With layers apart, on a CPU: the loop over tokens writes each cache in place and transposes none of it."""
    apart = params | {"decoder": llama.unstack(params["decoder"])}
    for rows in (1, 3):
        prompts = generation.stack_prompts(ROWS[:rows], pad_id=0)
        scalar = jnp.float32(1)
        text = generation._decode.lower(
            apart, prompts, jnp.int32(8), jax.random.key(0), scalar, scalar, jnp.asarray([-1], jnp.int32),
            model=MODEL, new_slots=32, greedy=True,
        ).compile().as_text()  # fmt: skip
        (body,) = {name for name in re.findall(r"body=%([\w.-]+)", text) if "wide" in name} or {""}
        assert body, "the loop over tokens was not found"
        loop = re.search(rf"^%{re.escape(body)} .*?^}}", text, re.M | re.S)
        assert loop
        slots = prompts.tokens.shape[1] + 32
        shape = rf"f32\[[\d,]*{slots},8\]|f32\[[\d,]*8,{slots}\]"  # heads of 8
        made = [
            line
            for line in loop[0].splitlines()
            if re.search(rf"= ({shape})\S* (?!get-tuple|param|bitcast\()", line)
        ]
        assert made and all("dynamic-update-slice" in line for line in made), made


def test_scores_equal_the_full_forward_pass(params) -> None:
    """Candidates of unequal lengths, behind unequal prompts with images, in several passes over the cache."""
    rng = np.random.default_rng(3)
    candidates = [[rng.integers(6, 101, size=n).astype(np.int32) for n in (1, 4, 2, 7, 3)] for _ in ROWS]
    prompts = generation.stack_prompts(ROWS, pad_id=0)
    expected = np.zeros((3, 5))
    for i, (tokens, index, images) in enumerate(ROWS):
        for j, candidate in enumerate(candidates[i]):
            whole = np.pad(np.concatenate([tokens, candidate]), (0, 7 - len(candidate)))
            logits = _full_logits(params, whole, np.pad(index, (0, 7), constant_values=-1), images)
            logs = jax.nn.log_softmax(logits[len(tokens) - 1 : len(tokens) - 1 + len(candidate)])
            expected[i, j] = np.take_along_axis(np.asarray(logs), candidate[:, None], axis=1).sum()
    sums, counts = generation.score(MODEL, params, prompts, candidates)
    np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=2e-5)
    np.testing.assert_array_equal(counts, [[1, 4, 2, 7, 3]] * 3)
    alone, _ = generation.score(
        MODEL, params, prompts, [[row[0]] for row in candidates]
    )  # one token: no decoding
    np.testing.assert_allclose(alone[:, 0], expected[:, 0], rtol=1e-5, atol=2e-5)


def test_greedy_continuations_are_what_generation_writes(params, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = generation.stack_prompts(ROWS, pad_id=0)
    written, _ = generation.generate(MODEL, params, prompts, max_new_tokens=5, end_ids=())
    other = lambda tokens, place: np.where(np.arange(len(tokens)) == place, (tokens + 1) % 101, tokens)
    candidates = [
        [row, row[:1], row[:3], other(row, 0), other(row, 4), other(row[:3], 2), other(row[:1], 0)]
        for row in written
    ]
    monkeypatch.setattr(generation, "MAX_CANDIDATE_SLOTS", 8)  # several passes over the cache
    sums, counts, greedy = generation.continuations(MODEL, params, prompts, candidates)
    np.testing.assert_array_equal(greedy, [[True] * 3 + [False] * 4] * 3)
    scored, lengths = generation.score(MODEL, params, prompts, candidates)
    np.testing.assert_allclose(sums, scored, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(counts, lengths)
    single = generation.continuations(MODEL, params, prompts, [[row[1], row[6]] for row in candidates])[2]
    np.testing.assert_array_equal(single, [[True, False]] * 3)


def test_each_row_has_its_own_limit(params) -> None:
    prompts = generation.stack_prompts(ROWS, pad_id=0)
    whole, _ = generation.generate(MODEL, params, prompts, max_new_tokens=9, end_ids=())
    limits = [2, 9, 5]
    for ends in ((), (int(whole[1, 3]),)):
        alike = [
            generation.generate(MODEL, params, prompts, max_new_tokens=limit, end_ids=ends)
            for limit in limits
        ]
        tokens, counts = generation.generate(MODEL, params, prompts, max_new_tokens=limits, end_ids=ends)
        assert tokens.shape == (3, 9)
        for i, (expected, lengths) in enumerate(alike):
            assert counts[i] == lengths[i]
            np.testing.assert_array_equal(tokens[i, : counts[i]], expected[i, : counts[i]])


def test_scores_in_several_passes(params, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    candidates = [[rng.integers(6, 101, size=n).astype(np.int32) for n in (2, 4, 1, 3, 4)] for _ in ROWS]
    prompts = generation.stack_prompts(ROWS, pad_id=0)
    whole, _ = generation.score(MODEL, params, prompts, candidates)
    monkeypatch.setattr(generation, "MAX_CANDIDATE_SLOTS", 6)
    parts, _ = generation.score(MODEL, params, prompts, candidates)
    np.testing.assert_allclose(parts, whole, rtol=1e-6, atol=1e-6)
