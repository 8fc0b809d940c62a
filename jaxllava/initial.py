"""What a run starts with: every parameter from its source, on its devices, in its dtype, with its adapter.

Parameters come from the base, from the folders of `config.init`, or are random; those that train are float32 (half
precision cannot hold an update of 2e-5 of a weight), the others `config.frozen_dtype` or quantised. What comes from
folders is read one parameter at a time and goes straight to its devices.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from input_pipeline.errors import UserError
from jaxllava import lora, quantize
from jaxllava import optimizer as optimizer_lib
from jaxllava import rules as rules_lib
from jaxllava import sharding as sharding_lib
from jaxllava.models.linear import keeps_dtype
from jaxllava.rules import Params
from jaxllava.weights.lazy import Leaf
from jaxllava.weights.source import open_checkpoint

Init = Callable[[jax.Array], Params]


def sources(shapes: Params, config: ConfigDict, given: Params | None) -> dict[str, Leaf]:
    """The leaf that each given parameter is read from, by path: of `config.init`'s folders, then of the base.

    Raises a UserError for one that is missing or of another shape. What is absent here is random.
    """
    flat = rules_lib.flatten(shapes)
    found: dict[str, Leaf] = {}
    if given is not None:
        for path, leaf in rules_lib.flatten(given).items():
            if path not in flat or tuple(leaf.shape) != tuple(flat[path].shape):
                needed = tuple(flat[path].shape) if path in flat else "none"
                raise UserError(f"the base's {path} has shape {tuple(leaf.shape)}, the model needs {needed}")
            found[path] = leaf
    folders = rules_lib.match(config.init, flat, "config.init")
    for folder in sorted({Path(value) for value in folders.values() if value is not None}):
        loaded = open_checkpoint(folder).as_llava()
        for path in [path for path, value in folders.items() if value and Path(value) == folder]:
            if path not in loaded or loaded[path].shape != tuple(flat[path].shape):
                held = loaded[path].shape if path in loaded else "nothing"
                raise UserError(f"config.init: {folder} holds {held} for {path}, needed {flat[path].shape}")
            found[path] = loaded[path]
    return found


def final_shapes(init: Init, config: ConfigDict) -> Params:
    """The tree that trains: shapes and dtypes after quantisation, adapters and casts. Nothing is allocated."""

    def make(key: jax.Array) -> Params:
        return _cast(_added(init(key), config, key), config)

    return jax.eval_shape(make, jax.random.key(0))


def initial_params(init: Init, config: ConfigDict, mesh: Mesh, given: Params | None = None) -> Params:
    """The whole tree, laid out by `config.sharding_rules`. given: a base's tree of `Leaf`, or a part."""
    key = jax.random.key(config.seed)
    shapes = jax.eval_shape(init, key)
    wanted = rules_lib.flatten(final_shapes(init, config))
    places = rules_lib.flatten(
        sharding_lib.param_shardings(
            rules_lib.unflatten(wanted), mesh, sharding_lib.RULES[config.sharding_rules]
        )
    )
    read = sources(shapes, config, given)
    quantized = quantize.chosen(rules_lib.flatten(shapes), config.quantize_rules)

    # -- what comes from folders: one at a time -------------------------------------------------------------------
    params: dict[str, jax.Array] = {}
    for path, leaf in read.items():
        if path in quantized:
            for name, part in quantize.quantize(jnp.asarray(leaf.read())).items():
                key_path = path.removesuffix("kernel") + name
                params[key_path] = sharding_lib.put(np.asarray(part), places[key_path])
        else:
            dtype = str(np.dtype(wanted[path].dtype))
            params[path] = sharding_lib.put(leaf.astype(dtype).read(), places[path])

    # -- the rest is computed where it will lie; what is not asked for is never computed ---------------------------
    fresh = sorted(wanted.keys() - params.keys())
    if fresh:

        def make(key: jax.Array) -> dict[str, jax.Array]:
            made = rules_lib.flatten(_cast(_added(init(key), config, key), config))
            return {path: made[path] for path in fresh}

        params |= jax.jit(make, out_shardings={path: places[path] for path in fresh})(key)
    return rules_lib.unflatten(params)


def _added(params: Params, config: ConfigDict, key: jax.Array) -> Params:
    if config.quantize_rules:
        params = quantize.apply(params, config.quantize_rules)
    if config.lora_rules:
        params = lora.add(params, config.lora_rules, key)
    return params


def _cast(params: Params, config: ConfigDict) -> Params:
    trained, frozen = optimizer_lib.partition(params, config.lr_rules)
    quantize.check_frozen(trained)
    flat: dict[str, Any] = rules_lib.flatten(frozen)
    frozen = {
        path: leaf if keeps_dtype(path) else leaf.astype(config.frozen_dtype) for path, leaf in flat.items()
    }
    trained = jax.tree.map(lambda x: x.astype(jnp.float32), trained)
    return rules_lib.merge(trained, rules_lib.unflatten(frozen))
