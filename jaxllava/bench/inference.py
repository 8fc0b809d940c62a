"""Prefill and decoding, at batches of a few sizes, and how near decoding comes to what memory can give."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline.errors import UserError
from jaxllava import generate as generation
from jaxllava.bench.rounds import in_turn, read_ways, row
from jaxllava.bench.sizes import Size
from jaxllava.bench.twin import Twin
from jaxllava.models.llama import unstack
from jaxllava.models.llava import LlavaModel
from jaxllava.rules import Params, flatten

# Smaller weights stay in a processor's cache, and its memory is no bound of theirs.
OUT_OF_CACHE = 100e6
FIRST = 2  # tokens of the short answer that is taken off the long one: what is left is decoding alone
TOLERANCE = 2e-4  # of logits, largest difference


def prompts(size: Size, batch: int, seed: int = 0) -> generation.Prompts:
    """Random text of one length."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(6, size.config.decoder.vocab_size - 100, (batch, size.prompt)).astype(np.int32)
    side = size.config.vision.image_size
    return generation.Prompts(
        tokens,
        np.ones(tokens.shape, bool),
        np.full(tokens.shape, -1, np.int32),
        np.zeros((batch, 0, side, side, 3), np.uint8),
    )


@partial(jax.jit, static_argnames=("model",))
def _prefilled(params: Params, given: generation.Prompts, *, model: LlavaModel) -> tuple[jax.Array, Any]:
    slots = given.tokens.shape[1]
    hidden, cache, _ = generation.prefill(model, params, given, slots)
    logits: Any = model.apply({"params": params}, hidden, method="logits")
    return logits, cache


def _answers(
    model: LlavaModel, params: Params, given: generation.Prompts, slots: int, count: int
) -> jax.Array:
    one = jnp.float32(1.0)
    nothing = jnp.asarray([-1], jnp.int32)
    tokens, _ = generation._decode(
        params, given, jnp.int32(count), jax.random.key(0), one, one, nothing,
        model=model, new_slots=generation.bucket(slots), greedy=True,
    )  # fmt: skip
    return tokens


def measure(
    size: Size, params: Params, parts: tuple[str, ...], twin: Twin | None, rounds: int
) -> list[dict[str, Any]]:
    """Lines of the result. Raises a UserError where the two sides do not give the same answers."""
    model = size.config.module()
    on_cpu = jax.default_backend() == "cpu"
    if on_cpu:  # as `jaxllava.load` holds them here
        params = params | {"decoder": unstack(params["decoder"])}
    found = []
    read = {path: leaf for path, leaf in flatten(params["decoder"]).items() if not path.startswith("embed/")}
    weights = sum(leaf.size * leaf.dtype.itemsize for leaf in read.values())
    for batch in size.batches:
        given = prompts(size, batch)
        if twin:
            _check(model, params, given, size.new, twin)
        if "prefill" in parts:
            ways: dict[str, Any] = {"ours": lambda given=given: _prefilled(params, given, model=model)}
            if twin:
                ways["theirs"] = lambda given=given: twin.prefill(np.asarray(given.tokens))
            seconds = in_turn(ways, rounds)
            rates = {name: [batch * size.prompt / s for s in each] for name, each in seconds.items()}
            found.append(row("prefill", f"batch {batch}", "tokens/s", rates["ours"], rates.get("theirs")))
        if "decode" in parts:
            found.append(
                _decode(
                    size,
                    model,
                    params,
                    given,
                    twin,
                    rounds,
                    weights if on_cpu and weights > OUT_OF_CACHE else 0,
                )
            )
    return found


def _decode(
    size: Size,
    model: LlavaModel,
    params: Params,
    given: generation.Prompts,
    twin: Twin | None,
    rounds: int,
    weights: int,
) -> dict[str, Any]:
    """One line: `new` - FIRST tokens, as the difference of two answers. weights: bytes that each token reads, or 0."""
    batch = len(given.tokens)
    ways: dict[str, Any] = {
        f"ours {count}": lambda count=count: _answers(model, params, given, size.new, count)
        for count in (FIRST, size.new)
    }
    if twin:
        tokens = np.asarray(given.tokens)
        answer = twin.generate
        ways |= {f"theirs {n}": lambda n=n: answer(tokens, n) for n in (FIRST, size.new)}
    if weights:
        amount = 256 << 20
        ways["read"] = read_ways(amount)
    seconds = in_turn(ways, rounds)

    def rates(side: str) -> list[float]:
        both = zip(seconds[f"{side} {FIRST}"], seconds[f"{side} {size.new}"], strict=True)
        # A round that was disturbed may have a long answer faster than the short one: then the answer as a whole.
        return [batch * (size.new - FIRST) / (long - short if long > short else long) for short, long in both]

    found = row("decode", f"batch {batch}", "tokens/s", rates("ours"), rates("theirs") if twin else None)
    if weights:
        bound = [batch * amount / s / weights for s in seconds["read"]]  # tokens/s
        found["bandwidth_gb_s"] = round(amount / min(seconds["read"]) / 1e9, 1)
        found["weights_mb"] = round(weights / 1e6, 1)
        # Each side at its best: a disturbed read would flatter the decoder.
        found["share_of_bandwidth"] = max(rates("ours")) / max(bound)
    return found


def _check(model: LlavaModel, params: Params, given: generation.Prompts, count: int, twin: Twin) -> None:
    logits = np.asarray(_prefilled(params, given, model=model)[0])
    theirs = twin.prefill(np.asarray(given.tokens))
    off = float(np.abs(logits - theirs).max())
    if not off < TOLERANCE:
        raise UserError(
            f"bench: the logits of both sides differ by {off:.2g}; at most {TOLERANCE} is allowed"
        )
    tokens = np.asarray(_answers(model, params, given, count, count))[:, :count]
    same = tokens == twin.generate(np.asarray(given.tokens), count)
    # Random weights have near ties: a token may part, and then all behind it.
    if not same[:, : count // 8].all():
        raise UserError(f"bench: greedy answers of both sides differ ({same.mean():.0%} of tokens are equal)")
