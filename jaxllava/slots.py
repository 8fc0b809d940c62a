"""Answers that begin and end one by one, in the slots of one static cache: what a server decodes with.

A prompt is prefilled by itself, at one of few widths (`generate.bucket`), and written into a slot; a step then writes
one token of every slot. Every slot has its own place, temperature, top_p and key, and no slot sees another's: an answer
is the one that `generate.generate` gives to the prompt alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxllava.generate import Prompts, bucket, first_greatest, prefill, sample, stack_prompts
from jaxllava.models.llama import Cache, init_cache, is_unstacked
from jaxllava.models.llava import LlavaModel, Params

STEPS = 16  # at most, at a time


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _State:
    """Of N slots: the cache of S places, and [N] each: the token that was chosen last and is not in the cache yet, the
    place it goes to, how many were chosen, and how they are drawn (temperature 0 is greedy).
    """

    cache: Cache
    token: jax.Array  # int32
    place: jax.Array  # int32
    chosen: jax.Array  # int32
    key: jax.Array
    temperature: jax.Array  # float32
    top_p: jax.Array  # float32


def _choose(logits: jax.Array, state: _State, draws: jax.Array) -> jax.Array:
    """The next token int32 [N] of logits [N, V]. draws: bool [], whether any that is read is not greedy."""
    greatest = first_greatest(logits)

    def drawn() -> jax.Array:
        at_step = jax.vmap(jax.random.fold_in)(state.key, state.chosen)
        temperature = jnp.where(state.temperature > 0, state.temperature, 1.0)[:, None]
        found = sample(logits, at_step, temperature, state.top_p[:, None]).astype(jnp.int32)
        return jnp.where(state.temperature > 0, found, greatest)

    return jax.lax.cond(draws, drawn, lambda: greatest)  # drawing sorts the vocabulary


@partial(jax.jit, static_argnames=("model", "slots", "length", "stacked"))
def _empty(*, model: LlavaModel, slots: int, length: int, stacked: bool) -> _State:
    ints, floats = jnp.zeros(slots, jnp.int32), jnp.zeros(slots, jnp.float32)
    cache = init_cache(model.config.decoder, slots, length, stacked)
    return _State(cache, ints, ints, ints, jax.random.split(jax.random.key(0), slots), floats, floats + 1)


@partial(jax.jit, static_argnames="model", donate_argnames="state")
def _begin(
    params: Params,
    state: _State,
    prompts: Prompts,
    slot: jax.Array,
    seed: jax.Array,
    temperature: jax.Array,
    top_p: jax.Array,
    *,
    model: LlavaModel,
) -> tuple[_State, jax.Array]:
    """The state with one prompt, padded on the right, in this slot; and its first token."""
    hidden, cache, lengths = prefill(model, params, prompts, prompts.tokens.shape[1])
    # As `Model.generate` draws for the first of its prompts.
    key = jax.random.fold_in(jax.random.key(seed), 0)[None]
    one = _State(cache, lengths, lengths, jnp.zeros(1, jnp.int32), key, temperature[None], top_p[None])
    logits = cast(jax.Array, model.apply({"params": params}, hidden, method="logits"))
    token = _choose(logits, one, temperature > 0)
    one = dataclasses.replace(one, token=token, chosen=jnp.ones(1, jnp.int32))
    # A row is some rows of the arrays whose layers are apart, and the second axis of those that are stacked.
    put = lambda whole, own: jax.lax.dynamic_update_slice(
        whole, own, (slot * len(own), *[0] * (own.ndim - 1))
    )
    inner = lambda whole, own: jax.lax.dynamic_update_slice(whole, own, (0, slot, *[0] * (own.ndim - 2)))
    cache = {
        name: inner(state.cache[name], part) if name == "positions" or not isinstance(part, tuple)
        else tuple(map(put, state.cache[name], part))
        for name, part in cache.items()
    }  # fmt: skip
    rest = {
        field.name: getattr(state, field.name).at[slot].set(getattr(one, field.name)[0])
        for field in dataclasses.fields(_State)
        if field.name != "cache"
    }
    return _State(cache, **rest), token


@partial(jax.jit, static_argnames="model", donate_argnames="state")
def _advance(
    params: Params, state: _State, draws: jax.Array, steps: jax.Array, *, model: LlavaModel
) -> tuple[_State, jax.Array]:
    """`steps` tokens more in every slot, the first rows of int32 [STEPS, N]. What slots write whose answers have ended
    is never read.
    """
    apply: Any = partial(model.apply, {"params": params})
    keys = state.cache["k"]
    length = (keys[0] if isinstance(keys, tuple) else keys).shape[-2]

    def step(number: jax.Array, carry: tuple[_State, jax.Array]) -> tuple[_State, jax.Array]:
        state, out = carry
        embeds = apply(state.token[:, None], None, None, method="embed")  # [N, 1, D]
        mask = jnp.arange(length) <= state.place[:, None]  # [N, S]
        hidden, cache = apply(
            embeds, state.place[:, None], state.cache, state.place, mask[:, None], method="extend"
        )
        token = _choose(apply(hidden[:, 0], method="logits"), state, draws)
        place = jnp.minimum(state.place + 1, length - 1)
        state = dataclasses.replace(state, cache=cache, token=token, place=place, chosen=state.chosen + 1)
        return state, out.at[number].set(token)

    return jax.lax.fori_loop(0, steps, step, (state, jnp.zeros((STEPS, len(state.token)), jnp.int32)))


class Slots:
    """`begin` an answer in a free slot, `advance` all of them by a token. Calls return before the device has finished:
    numpy waits for what they gave.
    """

    def __init__(
        self,
        model: LlavaModel,
        params: Params,
        pad_id: int,
        slots: int,
        length: int,
        context: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        """length: places of a prompt and its answer; context: the mesh in which it computes."""
        self.length = length
        self._model, self._params, self._pad_id, self._context = model, params, pad_id, context
        stacked = not is_unstacked(params["decoder"]["layers"])
        with context():
            self._state = _empty(model=model, slots=slots, length=length, stacked=stacked)

    def width(self, tokens: int) -> int:
        """At which a prompt of so many tokens is prefilled."""
        return min(bucket(tokens), self.length)

    def begin(
        self,
        slot: int,
        row: tuple[np.ndarray, np.ndarray, np.ndarray],
        seed: int = 0,
        temperature: float = 0.0,
        top_p: float = 1.0,
    ) -> jax.Array:
        """Puts a prompt (a row of `Model.read`) into a slot. Returns the first token of its answer, int32 [1]."""
        prompts = stack_prompts([row], self._pad_id, width=self.width(len(row[0])), left=False)
        with self._context():
            self._state, token = _begin(
                self._params,
                self._state,
                prompts,
                np.int32(slot),
                np.uint32(seed),
                np.float32(temperature),
                np.float32(top_p),
                model=self._model,
            )
        return token

    def advance(self, draws: bool, steps: int = 1) -> jax.Array:
        """The next tokens of every slot, in the first `steps` rows of int32 [STEPS, N]; junk where none is being
        answered, and behind the cache's end. draws: whether any of those that are being answered has a temperature.
        """
        with self._context():
            self._state, tokens = _advance(
                self._params, self._state, np.bool_(draws), np.int32(steps), model=self._model
            )
        return tokens
