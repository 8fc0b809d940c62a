"""SigLIP's vision tower, which newer LLaVA models see through.

Equal to `transformers` SiglipVisionModel (tests/jaxllava/test_models_siglip.py). Beside CLIP's: no class token, no
norm before the layers, a patch convolution with bias, and attention pooling instead of the class token.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxllava.models.config import dtype_of
from jaxllava.models.encoder import (
    Attention,
    Mlp,
    Params,
    VisionTower,
    VisionTowerConfig,
    embed_patches,
    layer_norm,
)


@dataclasses.dataclass(frozen=True)
class SiglipVisionConfig(VisionTowerConfig):
    """`image_size` need not be a multiple of `patch_size`: so400m cuts 27 x 27 patches of 14 from 384 pixels."""

    activation: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    image_size: int = 384
    patch_size: int = 14
    head: bool = True  # the pooling head; LLaVA reads none, and its checkpoints may leave it out
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)  # of RGB in [0, 1]
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def kernel_init(self, name: str) -> nn.initializers.Initializer:
        """Xavier for every kernel of a block and of the head, as in big_vision, SigLIP's first home."""
        return nn.initializers.xavier_uniform()


class _Embeddings(nn.Module):
    config: SiglipVisionConfig

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        c = self.config
        patches = embed_patches(c, pixels, use_bias=True, kernel_init=nn.initializers.lecun_normal())
        table = self.param(
            "position_embedding",
            nn.initializers.normal(c.hidden_size**-0.5),
            (c.patches, c.hidden_size),
            dtype_of(c.param_dtype),
        )
        return patches + table.astype(dtype_of(c.dtype))  # [B, N, D]


class _PoolingHead(nn.Module):
    """One learned query looks at all positions: x [B, N, D] -> [B, D]. SiglipMultiheadAttentionPoolingHead."""

    config: SiglipVisionConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        # torch's xavier_uniform_ counts D inputs and D outputs here, jax's would count one input.
        init = nn.initializers.variance_scaling(1.0, "fan_out", "uniform")
        probe = self.param("probe", init, (1, 1, c.hidden_size), dtype_of(c.param_dtype))
        query = jnp.broadcast_to(probe.astype(dtype_of(c.dtype)), (x.shape[0], 1, c.hidden_size))
        # A fused kernel has nothing to gain from a single query.
        x = Attention(c.replace(attention="xla"), name="attention")(query, memory=x)  # [B, 1, D]
        x = x + Mlp(c, name="mlp")(layer_norm(c, "layernorm")(x))
        return x[:, 0]


class SiglipVision(VisionTower):
    """The vision tower.

    `__call__(pixels [B, H, W, 3] float, normalised)` gives (last hidden state behind the last norm [B, N, D],
    pooled [B, D], None without a head). `features(pixels, layer, select)` gives the hidden state that LLaVA
    reads; its "patch" is [B, N-1, D].
    """

    config: SiglipVisionConfig

    def embed(self, pixels: jax.Array) -> jax.Array:
        return _Embeddings(self.config, name="embeddings")(pixels)

    def finish(self, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        x = layer_norm(self.config, "post_layernorm")(x)
        return x, _PoolingHead(self.config, name="head")(x) if self.config.head else None


@partial(jax.jit, static_argnums=0)  # what its parameters do not need of the forward pass falls away
def init_siglip(config: SiglipVisionConfig, key: jax.Array) -> Params:
    """Fresh parameters of a SiglipVision, initialised as big_vision does, apart from its MLP biases' noise of
    1e-6, which are zero here.
    """
    pixels = jnp.zeros((1, config.image_size, config.image_size, 3))
    return cast(Params, SiglipVision(config).init(key, pixels)["params"])
