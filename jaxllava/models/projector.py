"""From vision features to decoder embeddings (LLaVA's `mm_projector`)."""

from __future__ import annotations

import re

import flax.linen as nn
import jax

from input_pipeline.errors import UserError
from jaxllava.models.config import dtype_of
from jaxllava.models.linear import Linear


def projector_depth(kind: str) -> int:
    """Number of linear layers in 'identity' (0), 'linear' (1) or 'mlpNx_gelu' (N); UserError for anything
    else.
    """
    if kind == "identity":
        return 0
    if kind == "linear":
        return 1
    match = re.fullmatch(r"mlp([1-9]\d*)x_gelu", kind)
    if not match:
        raise UserError(
            f"projector {kind!r} is not known. Valid names: identity, linear, mlp2x_gelu (any mlpNx_gelu)."
        )
    return int(match[1])


class Projector(nn.Module):
    """linear_1, then (exact GELU, linear_i) for i = 2..N, each with bias. [..., vision width] -> [...,
    width].
    """

    kind: str
    width: int
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(dtype_of(self.dtype))
        for i in range(1, projector_depth(self.kind) + 1):
            if i > 1:
                x = jax.nn.gelu(x, approximate=False)
            x = Linear(
                self.width,
                dtype=dtype_of(self.dtype),
                param_dtype=dtype_of(self.param_dtype),
                # torch's default for nn.Linear, with which the reference's projector starts.
                kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
                name=f"linear_{i}",
            )(x)
        return x
