"""Prefill, decode, sampling and candidate scoring, on the device with static shapes.

Lengths are rounded up to a few sizes (`bucket`), so that the number of compilations is bounded whatever the
prompts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllava.models.clip import normalise
from jaxllava.models.llama import Cache, init_cache, is_unstacked
from jaxllava.models.llava import LlavaModel, Params

# Candidate tokens scored against one prefilled prompt at a time; more go in several passes over the same
# cache.
MAX_CANDIDATE_SLOTS = 1024

# Pairs of query and key of a row and head that a prefill has at a time: the scores of a prompt of 65,536 positions, a
# film of nine hours, would take no chip's memory whole. Prompts of 4096 positions are run at once.
MAX_PAIRS = 2**24


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompts:
    """A batch of prompts, padded on either side.

    tokens int32 [B, P]; valid bool [B, P], False on padding; image_index int32 [B, P] into the row's M *
    image_tokens features, -1 for text, NEWLINE for LLaVA-NeXT's newline; images uint8 [B, M, H, W, 3] or float,
    already normalised, or what a LLaMA-VID kept of its slots, float [B, N, image_tokens, W]; M, the views of all
    pictures of a row, may be 0.
    """

    tokens: jax.Array | np.ndarray
    valid: jax.Array | np.ndarray
    image_index: jax.Array | np.ndarray
    images: jax.Array | np.ndarray


def bucket(size: int, smallest: int = 32) -> int:
    """The next of smallest x (1, 1.5, 2, 3, 4, 6, ...): two sizes per doubling, at most half a prompt of
    padding.
    """
    step = smallest
    while True:
        if size <= step:
            return step
        if size <= step + step // 2:
            return step + step // 2
        step *= 2


def stack_prompts(
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
    pad_id: int,
    rows_to: int | None = None,
    width: int = 0,
    left: bool = True,
) -> Prompts:
    """Pads prompts into one batch, on the left unless told otherwise.

    Args: rows: (tokens [L], image_index [L], images [m, ...]) each; rows_to: repeat the last row up to this many, so
    that the last batch has the shape of the others; width: of the batch, 0 is the bucket of the longest.
    """
    rows = rows + [rows[-1]] * ((rows_to or len(rows)) - len(rows))
    width = width or bucket(max(len(tokens) for tokens, _, _ in rows))
    most = max(len(images) for _, _, images in rows)
    slots = most if most < 2 else bucket(most, 2)
    tokens = np.full((len(rows), width), pad_id, np.int32)
    image_index = np.full((len(rows), width), -1, np.int32)
    valid = np.zeros((len(rows), width), bool)
    shown = max((images for _, _, images in rows), key=len)
    pixels = np.zeros((len(rows), slots, *shown.shape[1:]), shown.dtype)
    for i, (row, index, images) in enumerate(rows):
        place = slice(width - len(row), None) if left else slice(len(row))
        tokens[i, place] = row
        image_index[i, place] = index
        valid[i, place] = True
        pixels[i, : len(images)] = images
    return Prompts(tokens, valid, image_index, pixels)


def _applied(model: LlavaModel, params: Params) -> Any:
    """`model.apply` on these params, without its type: what it returns depends on the method."""
    return partial(model.apply, {"params": params})


def prefill(
    model: LlavaModel, params: Params, prompts: Prompts, slots: int
) -> tuple[jax.Array, Cache, jax.Array]:
    """Runs the prompts into a cache of `slots` slots. Returns (last hidden [B, D], cache, lengths [B])."""
    apply = _applied(model, params)
    valid = jnp.asarray(prompts.valid)
    batch, width = valid.shape
    features = None
    if prompts.images.shape[1]:
        images = jnp.asarray(prompts.images)
        pixels = normalise(images, model.config.vision) if images.dtype == jnp.uint8 else images
        features = apply(pixels, method="encode_images")
    embeds = apply(prompts.tokens, features, prompts.image_index, method="embed")
    places = jnp.arange(width)
    positions = jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)  # [B, P]
    # [B]: the last real token, on whichever side the padding is
    last = jnp.max(jnp.where(valid, places, -1), axis=1)
    stacked = not is_unstacked(params["decoder"]["layers"])
    cache = init_cache(model.config.decoder, batch, slots, stacked)
    known = jnp.pad(valid, ((0, 0), (0, slots - width)))  # [B, S]
    block = _block(width, slots)

    def run(state: tuple[jax.Array, Cache], start: jax.Array) -> tuple[tuple[jax.Array, Cache], None]:
        found, cache = state
        cut = partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=block, axis=1)
        mask = known[:, None, :] & (jnp.arange(slots) <= start + jnp.arange(block)[:, None])  # [B, block, S]
        hidden, cache = apply(cut(embeds), cut(positions), cache, start, mask, method="extend")
        own = jnp.clip(last - start, 0, block - 1)
        here = jnp.take_along_axis(hidden, own[:, None, None], axis=1)[:, 0]
        return (jnp.where((last // block * block == start)[:, None], here, found), cache), None

    state = (jnp.zeros((batch, embeds.shape[-1]), embeds.dtype), cache)
    if block == width:
        (hidden, cache), _ = run(state, jnp.int32(0))
    else:
        (hidden, cache), _ = jax.lax.scan(run, state, jnp.arange(0, width, block))
    return hidden, cache, valid.sum(axis=1)


def _block(width: int, slots: int) -> int:
    """Queries at a time: a divisor of `width`, halved until its pairs with `slots` are at most MAX_PAIRS."""
    block = width
    while block * slots > MAX_PAIRS and block % 2 == 0:
        block //= 2
    return block


def first_greatest(logits: jax.Array) -> jax.Array:
    """argmax over the last axis, int32: a greatest value, then the first place of it. XLA's own search for
    both at once is ten times as slow on CPUs.
    """
    count = logits.shape[-1]
    greatest = jnp.max(logits, axis=-1, keepdims=True)
    places = jnp.where(logits == greatest, jnp.arange(count, dtype=jnp.int32), count - 1)
    return jnp.min(places, axis=-1)


def sample(logits: jax.Array, keys: jax.Array, temperature: jax.Array, top_p: jax.Array) -> jax.Array:
    """Draws ids int [B] from logits [B, V] at a temperature > 0, within the smallest set of mass >= top_p.

    temperature, top_p: one number, or [B, 1]. keys [B]: each row has its own, so that its draw does not depend on what
    else is in the batch.
    """
    logits = logits / temperature
    descending = jnp.sort(logits, axis=-1)[:, ::-1]
    before = jnp.cumsum(jax.nn.softmax(descending, axis=-1), axis=-1) - jax.nn.softmax(descending, axis=-1)
    kept = jnp.sum(before < top_p, axis=-1, keepdims=True)  # [B, 1]; at least the first, unless top_p is 0
    threshold = jnp.take_along_axis(descending, jnp.maximum(kept - 1, 0), axis=-1)
    return jax.vmap(jax.random.categorical)(keys, jnp.where(logits < threshold, -jnp.inf, logits))


@partial(jax.jit, static_argnames=("model", "new_slots", "greedy"))
def _decode(
    params: Params,
    prompts: Prompts,
    limit: jax.Array,
    keys: jax.Array,
    temperature: jax.Array,
    top_p: jax.Array,
    end_ids: jax.Array,
    *,
    model: LlavaModel,
    new_slots: int,
    greedy: bool,
) -> tuple[jax.Array, jax.Array]:
    apply = _applied(model, params)
    batch, width = prompts.tokens.shape
    hidden, cache, lengths = prefill(model, params, prompts, width + new_slots)
    slots = jnp.arange(width + new_slots)
    limit = jnp.broadcast_to(limit, (batch,))
    valid = jnp.pad(jnp.asarray(prompts.valid), ((0, 0), (0, new_slots)), constant_values=True)

    def choose(hidden: jax.Array, step: jax.Array) -> jax.Array:
        logits = apply(hidden, method="logits")  # f32 [B, V]
        if greedy:
            return first_greatest(logits)
        at_step = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
        return sample(logits, at_step, temperature, top_p).astype(jnp.int32)

    # Step t holds the token that goes to place t: written out, and not yet run through the model.
    def running(state: tuple) -> jax.Array:
        step, _, done, _, _ = state
        return (step < jnp.max(limit)) & ~jnp.all(done)

    def advance(state: tuple) -> tuple:
        step, hidden, done, out, cache = state
        token = jnp.where(done, end_ids[0], choose(hidden, step))
        out = out.at[:, step].set(token)
        done = done | jnp.isin(token, end_ids) | (step + 1 >= limit)
        embeds = apply(token[:, None], None, None, method="embed")  # [B, 1, D]
        mask = valid & (slots <= width + step)  # [B, S]
        hidden, cache = apply(
            embeds, (lengths + step)[:, None], cache, width + step, mask[:, None], method="extend"
        )
        return step + 1, hidden[:, 0], done, out, cache

    out = jnp.full((batch, new_slots), end_ids[0], jnp.int32)
    state = (jnp.int32(0), hidden, jnp.zeros(batch, bool), out, cache)
    _, _, _, out, _ = jax.lax.while_loop(running, advance, state)
    ended = jnp.isin(out, end_ids)
    counts = jnp.where(ended.any(axis=1), jnp.argmax(ended, axis=1), limit)
    return out, jnp.minimum(counts, limit)


def lower(model: LlavaModel, params: Params, prompts: Prompts, new_slots: int) -> Any:
    """Greedy generation of up to `new_slots` tokens, lowered and not compiled: of arrays' shapes or of arrays."""
    one = lambda dtype: jax.ShapeDtypeStruct((), dtype)
    key = jax.eval_shape(lambda: jax.random.key(0))
    floats = (one(jnp.float32), one(jnp.float32))
    ends = jax.ShapeDtypeStruct((1,), jnp.int32)
    options: dict[str, Any] = {"model": model, "new_slots": new_slots, "greedy": True}
    return _decode.lower(params, prompts, one(jnp.int32), key, *floats, ends, **options)


def generate(
    model: LlavaModel,
    params: Params,
    prompts: Prompts,
    *,
    max_new_tokens: int | Sequence[int],
    end_ids: Sequence[int],
    temperature: float = 0.0,
    top_p: float = 1.0,
    key: jax.Array | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Continues each prompt until one of `end_ids` (there may be none) or `max_new_tokens`, one number or one a row.

    Args: temperature 0 is greedy; otherwise `key` decides the draws: [B] a row's own, or one key that is split
    among them.
    Returns (tokens int32 [B, the most new tokens], filled with the first end id behind the end; counts int32
    [B] of tokens before the end).
    """
    most = max_new_tokens if isinstance(max_new_tokens, int) else max(max_new_tokens)
    key = jax.random.key(0) if key is None else key
    if temperature > 0 and key.ndim == 0:
        key = jax.random.split(key, len(prompts.tokens))
    tokens, counts = _decode(
        params,
        prompts,
        jnp.asarray(max_new_tokens, jnp.int32),
        key,
        jnp.float32(temperature if temperature > 0 else 1.0),
        jnp.float32(top_p),
        jnp.asarray(list(end_ids) or [-1], jnp.int32),
        model=model,
        new_slots=bucket(most),
        greedy=temperature <= 0,
    )
    return np.asarray(tokens)[:, :most], np.asarray(counts)


@partial(jax.jit, static_argnames=("model", "slots"))
def _start(
    params: Params, prompts: Prompts, *, model: LlavaModel, slots: int
) -> tuple[jax.Array, Cache, jax.Array]:
    return prefill(model, params, prompts, slots)


@partial(jax.jit, static_argnames=("model", "greedy"))
def _score(
    params: Params,
    hidden: jax.Array,
    cache: Cache,
    lengths: jax.Array,
    valid: jax.Array,
    candidates: jax.Array,
    *,
    model: LlavaModel,
    greedy: bool,
) -> tuple[jax.Array, jax.Array | None]:
    """Of candidates int [B, C, T] after a row's prefilled prompt: log-probs f32 [B, C, T], and if `greedy`
    whether each token is the one that greedy generation takes there, bool [B, C, T]. Junk on padding.

    All candidates of a row stand one after another behind the prompt in the same cache, and the mask hides
    them from each other: the prompt's keys and values are neither recomputed nor copied.
    """
    apply = _applied(model, params)
    batch, count, length = candidates.shape
    width = valid.shape[1]
    logits = apply(hidden, method="logits")  # [B, V]
    first = jnp.take_along_axis(jax.nn.log_softmax(logits), candidates[:, :, 0], axis=1)[
        :, :, None
    ]  # [B, C, 1]
    taken = candidates[:, :, :1] == first_greatest(logits)[:, None, None] if greedy else None  # [B, C, 1]
    if length == 1:
        return first, taken
    fed = length - 1  # the last token of a candidate predicts nothing that is asked for
    total = count * fed
    tokens = candidates[:, :, :-1].reshape(batch, total)
    place = jnp.arange(total)
    positions = lengths[:, None] + (place % fed)[None]  # [B, C * fed]
    own = (place[:, None] // fed == place[None] // fed) & (place[:, None] >= place[None])
    rest = cache["k"][0].shape[-2] - width - total
    mask = jnp.concatenate(
        [
            jnp.broadcast_to(valid[:, None], (batch, total, width)),
            jnp.broadcast_to(own[None], (batch, total, total)),
            jnp.zeros((batch, total, rest), bool),
        ],
        axis=2,
    )  # [B, C * fed, S]
    embeds = apply(tokens, None, None, method="embed")
    out, _ = apply(embeds, positions, cache, width, mask, method="extend")

    def pick(pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array | None]:
        hidden, target = pair  # [B, D], [B]
        logits = apply(hidden, method="logits")
        logs = jnp.take_along_axis(jax.nn.log_softmax(logits), target[:, None], axis=1)[:, 0]
        return logs, target == first_greatest(logits) if greedy else None

    # A few positions at a time: all logits at once would be [B, C * T, V].
    targets = candidates[:, :, 1:].reshape(batch, total)
    later = jax.lax.map(pick, (out.swapaxes(0, 1), targets.T), batch_size=min(64, total))  # [C * fed, B] each
    return jax.tree.map(
        lambda one, rest: jnp.concatenate([one, rest.T.reshape(batch, count, fed)], axis=2),
        (first, taken),
        later,
    )


def score(
    model: LlavaModel, params: Params, prompts: Prompts, candidates: list[list[np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of candidate continuations; each prompt (with its images) is run once.

    Args: candidates[b][c]: token ids int [n >= 1] of candidate c after prompt b; C is the same for all rows.
    Returns (sums float64 [B, C] in nats, token counts int [B, C]); sums / counts is the mean per token.
    """
    sums, counts, _ = continuations(model, params, prompts, candidates, greedy=False)
    return sums, counts


def continuations(
    model: LlavaModel,
    params: Params,
    prompts: Prompts,
    candidates: list[list[np.ndarray]],
    greedy: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `score`, and bool [B, C]: whether greedy generation would write the candidate (all False if not
    `greedy`).
    """
    counts = np.array([[len(tokens) for tokens in row] for row in candidates])  # [B, C]
    longest = int(counts.max())
    length = longest if longest < 2 else bucket(longest, 2)
    total = counts.shape[1]
    at_once = max(1, min(total, MAX_CANDIDATE_SLOTS // max(1, length - 1)))
    padded = np.zeros((counts.shape[0], -(-total // at_once) * at_once, length), np.int32)
    for b, row in enumerate(candidates):
        for c, tokens in enumerate(row):
            padded[b, c, : len(tokens)] = tokens
    slots = prompts.tokens.shape[1] + at_once * (length - 1)
    hidden, cache, lengths = _start(params, prompts, model=model, slots=slots)
    parts = [
        _score(params, hidden, cache, lengths, jnp.asarray(prompts.valid), part, model=model, greedy=greedy)
        for part in np.split(padded, padded.shape[1] // at_once, axis=1)
    ]
    logs = np.concatenate([np.asarray(logs, np.float64) for logs, _ in parts], axis=1)[:, :total]  # [B, C, T]
    real = np.arange(length) < counts[:, :, None]
    taken = np.zeros(counts.shape, bool)
    if greedy:
        taken = np.concatenate([np.asarray(taken) for _, taken in parts], axis=1)[:, :total]  # [B, C, T]
        taken = np.asarray((taken | ~real).all(axis=2))
    return np.where(real, logs, 0.0).sum(axis=2), counts, taken
