"""The optimizer and its schedule, and who trains: ordered (regex -> learning-rate multiple | None), None is frozen."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from optax import contrib

from jaxllava import rules as rules_lib
from jaxllava.rules import Params
from jaxllava.sharding import spread


class Partition(NamedTuple):
    """Parameters by fate. Frozen ones get no gradient, no optimizer state and no master copy."""

    trained: Params
    frozen: Params


METHODS = ("adam", "muon")


def partition(params: Params, lr_rules: Any) -> Partition:
    """Splits `params` by `config.lr_rules`."""
    multiples = rules_lib.match(lr_rules, rules_lib.flatten(params), "config.lr_rules")
    trained, frozen = rules_lib.split(params, {path: value is not None for path, value in multiples.items()})
    return Partition(trained, frozen)


def cosine_schedule(config: ConfigDict) -> optax.Schedule:
    """Linear warm-up over ceil(warmup * steps), then cosine to `final_lr_share` of the peak (the reference's is 0)."""
    warmup = -int(-config.warmup * config.steps // 1)
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.lr,
        warmup_steps=warmup,
        decay_steps=max(config.steps, warmup + 1),
        end_value=config.lr * config.get("final_lr_share", 0.0),
    )


def _scale_by_path(multiples: dict[str, float]) -> optax.GradientTransformation:
    def update(updates: Any, state: optax.OptState, params: Any = None):
        del params
        flat = rules_lib.flatten(updates)
        scaled = {path: leaf * multiples[path] for path, leaf in flat.items()}
        return rules_lib.unflatten(scaled), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _muon(scale: float) -> optax.GradientTransformation:
    """Orthogonalised momentum (Jordan et al. 2024) for matrices [..., in, out], stacked layers each by itself."""

    def axes(params: Any) -> Any:
        return jax.tree.map(lambda x: contrib.MuonDimensionNumbers(x.ndim - 2, x.ndim - 1), params)

    # An orthogonal update is larger than Adam's where gradients are noisy: it takes its own multiple of the rate.
    return optax.chain(contrib.scale_by_muon(weight_dimension_numbers=axes), optax.scale(scale))


def _decay_by_path(decays: dict[str, float]) -> optax.GradientTransformation:
    """Adds `decay * parameter` to each update, as optax.add_decayed_weights does with one decay for all."""

    def update(updates: Any, params: Any) -> Any:
        by_path = rules_lib.unflatten(decays)
        return jax.tree.map(lambda u, p, decay: u + decay * p if decay else u, updates, params, by_path)

    return optax.stateless(update)


def make_optimizer(config: ConfigDict, params: Params) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer of the trained part of `params`.

    Decay follows torch's AdamW in the reference: `config.decay_rules` (regex -> multiple of `weight_decay`) over the
    trained parameters; the reference excludes norms and biases. `config.method_rules` (regex -> "adam" | "muon"):
    the reference is all Adam; Muon is for the hidden matrices of models trained from scratch.
    """
    paths = list(rules_lib.flatten(params))
    multiples = rules_lib.match(config.lr_rules, paths, "config.lr_rules")
    trained = {path: value for path, value in multiples.items() if value is not None}
    decays = rules_lib.match(config.decay_rules, paths, "config.decay_rules")
    methods = rules_lib.match(config.method_rules, paths, "config.method_rules")
    schedule = cosine_schedule(config)
    chain = [
        optax.clip_by_global_norm(config.clip_norm),
        optax.partition(
            {  # keys: METHODS
                "adam": optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps, mu_dtype=jnp.float32),
                "muon": _muon(config.muon_scale),
            },
            rules_lib.unflatten({path: methods[path] for path in trained}),
        ),
        _decay_by_path({path: config.weight_decay * decays[path] for path in trained}),
        _scale_by_path(trained),
        optax.scale_by_learning_rate(schedule),
    ]
    return optax.chain(*chain), schedule


def initial_state(optimizer: optax.GradientTransformation, trained: Params, mesh: Mesh) -> optax.OptState:
    """The optimizer's state before the first step, on the whole mesh.

    Not under jit: moments are then laid out as their parameters are. Counters go to every device.
    """
    return jax.tree.map(partial(spread, mesh=mesh), optimizer.init(trained))


def count(params: Params) -> int:
    """Number of scalars in a tree."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(params))
