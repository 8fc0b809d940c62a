"""EVA-CLIP-G's vision tower, which LLaMA-VID, BLIP-2 and InstructBLIP see through.

Equal to `transformers` InstructBlipVisionModel without its last norm (tests/jaxllava/test_models_eva.py). Beside
CLIP's: a patch convolution with bias, no norm before the layers and none behind them, exact GELU, no bias of the keys.
The published tower is EVA's first 39 of 40 layers, and LLaMA-VID reads what the last of them gives.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import ClassVar, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import truncated_normal

from jaxllava.models.config import dtype_of
from jaxllava.models.encoder import Params, VisionTower, VisionTowerConfig, embed_patches


@dataclasses.dataclass(frozen=True)
class EvaVisionConfig(VisionTowerConfig):
    """EVA's vision tower. LLaMA-VID reads its pixels with CLIP's processor."""

    activation: str = "gelu"
    layer_norm_eps: float = 1e-6
    # A field here: it tells the config.json of this tower from CLIP's.
    key_bias: bool = dataclasses.field(default=False, kw_only=True)  # pyright: ignore

    class_tokens: ClassVar[int] = 1

    def kernel_init(self, name: str) -> nn.initializers.Initializer:
        """As EVA starts, but that what closes a block is scaled by the depth of the tower and not of the block."""
        scale = (2 * self.layers) ** -0.5 if name in ("out_proj", "fc2") else 1.0
        return truncated_normal(0.02 * scale)


class _Embeddings(nn.Module):
    config: EvaVisionConfig

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        c = self.config
        dtype, param_dtype = dtype_of(c.dtype), dtype_of(c.param_dtype)
        init = truncated_normal(0.02)
        patches = embed_patches(c, pixels, use_bias=True, kernel_init=init)  # [B, N, D]
        # With the leading ones that they have in every checkpoint.
        cls = self.param("class_embedding", init, (1, 1, c.hidden_size), param_dtype)
        table = self.param("position_embedding", init, (1, 1 + c.patches, c.hidden_size), param_dtype)
        cls = jnp.broadcast_to(cls.astype(dtype), (pixels.shape[0], 1, c.hidden_size))
        return jnp.concatenate([cls, patches], axis=1) + table.astype(dtype)  # [B, 1+N, D]


class EvaVision(VisionTower):
    """The vision tower.

    `__call__(pixels [B, H, W, 3] float, normalised)` gives (last hidden state [B, 1+N, D], None).
    `features(pixels, layer, select)` gives the hidden state that is read; its "patch" is [B, N, D].
    """

    config: EvaVisionConfig

    def embed(self, pixels: jax.Array) -> jax.Array:
        return _Embeddings(self.config, name="embeddings")(pixels)

    def finish(self, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        return x, None


@partial(jax.jit, static_argnums=0)  # what its parameters do not need of the forward pass falls away
def init_eva(config: EvaVisionConfig, key: jax.Array) -> Params:
    """Fresh parameters of an EvaVision."""
    pixels = jnp.zeros((1, config.image_size, config.image_size, 3))
    return cast(Params, EvaVision(config).init(key, pixels)["params"])
