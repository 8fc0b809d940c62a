"""A checkpoint's leaves as arrays where they are to answer: on one device, its layers apart or stacked, or cut
over a mesh.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxllava import sharding
from jaxllava.models.llama import is_unstacked, unstack
from jaxllava.rules import Params, flatten, unflatten
from jaxllava.weights import lazy


def size(leaves: Params) -> int:
    """Bytes of all leaves."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in flatten(leaves).values())


def reads_layers_apart() -> bool:
    """Whether generation here is faster with the decoder's layers apart (see `llama.unstack`)."""
    return jax.default_backend() == "cpu"


def apart(params: Params) -> Params:
    """Parameters with the decoder's layers apart; as they are where that is so."""
    decoder = params["decoder"]
    return params if is_unstacked(decoder["layers"]) else params | {"decoder": unstack(decoder)}


def read(leaves: Params, mesh: Mesh | None) -> Params:
    """A checkpoint's leaves as arrays; layers that are to be apart are read apart, so that nothing is there twice."""
    if mesh is not None:
        places = flatten(sharding.param_shardings(leaves, mesh, sharding.LLAVA_RULES))
        flat = flatten(leaves)
        return unflatten({path: jax.device_put(leaf.read(), places[path]) for path, leaf in flat.items()})
    if not reads_layers_apart():
        return lazy.read(leaves, jnp.asarray)
    found: dict[str, Any] = {}
    for path, leaf in flatten(leaves).items():
        start, layers, end = path.partition("decoder/layers/")
        if layers and not start:
            found |= {f"{layers}{n}/{end}": jnp.asarray(part) for n, part in enumerate(leaf.parts())}
        else:
            found[path] = jnp.asarray(leaf.read())
    return unflatten(found)
