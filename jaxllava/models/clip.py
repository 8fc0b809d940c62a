"""CLIP: the vision tower that LLaVA sees through, the text tower, and the contrastive model of both.

Equal to `transformers` CLIPModel (tests/jaxllava/test_models_clip.py).
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import ClassVar, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import normal

from input_pipeline.errors import UserError
from input_pipeline.images import CLIP_MEAN, CLIP_STD
from jaxllava.models.config import ModelConfig, dtype_of
from jaxllava.models.encoder import (
    Params,
    TowerConfig,
    VisionTower,
    VisionTowerConfig,
    embed_patches,
    encode,
    layer_norm,
)
from jaxllava.models.linear import Linear


@dataclasses.dataclass(frozen=True)
class ClipVisionConfig(VisionTowerConfig):
    """CLIP's vision tower."""

    class_tokens: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.patch_size:
            raise UserError(
                f"CLIP: image_size {self.image_size} is no multiple of patch_size {self.patch_size}."
            )


@dataclasses.dataclass(frozen=True)
class ClipTextConfig(TowerConfig):
    """`eos_id` is where the text is pooled. 2 is CLIP's historical mistake: then the highest id in the row
    pools.
    """

    vocab_size: int = 49408
    max_positions: int = 77
    eos_id: int = 49407


@dataclasses.dataclass(frozen=True)
class ClipConfig(ModelConfig):
    vision: ClipVisionConfig
    text: ClipTextConfig
    projection_dim: int = 512
    logit_scale: float = 2.6592  # initial ln(1 / 0.07)


def normalise(images: jax.Array, config: VisionTowerConfig | None = None) -> jax.Array:
    """uint8 [..., 3] -> float32 by the tower's mean and deviation, CLIP's without a config.

    On the device, so that hosts ship bytes.
    """
    chosen = (CLIP_MEAN, CLIP_STD) if config is None else (config.mean, config.std)
    mean, std = (jnp.asarray(values, jnp.float32) for values in chosen)
    return (images.astype(jnp.float32) / 255.0 - mean) / std


class _VisionEmbeddings(nn.Module):
    config: ClipVisionConfig

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        c = self.config
        dtype, param_dtype = dtype_of(c.dtype), dtype_of(c.param_dtype)
        width = c.hidden_size
        patches = embed_patches(c, pixels, use_bias=False, kernel_init=normal(0.02))  # [B, N, D]
        cls = self.param("class_embedding", normal(width**-0.5), (width,), param_dtype)
        table = self.param("position_embedding", normal(0.02), (1 + c.patches, width), param_dtype)
        cls = jnp.broadcast_to(cls.astype(dtype), (pixels.shape[0], 1, width))
        return jnp.concatenate([cls, patches], axis=1) + table.astype(dtype)  # [B, 1+N, D]


class ClipVision(VisionTower):
    """The vision tower.

    `__call__(pixels [B, H, W, 3] float, normalised)` gives (last hidden state [B, 1+N, D], pooled [B, D]).
    `features(pixels, layer, select)` gives the hidden state that LLaVA reads; its "patch" is [B, N, D].
    """

    config: ClipVisionConfig

    def embed(self, pixels: jax.Array) -> jax.Array:
        x = _VisionEmbeddings(self.config, name="embeddings")(pixels)
        return layer_norm(self.config, "pre_layernorm")(x)

    def finish(self, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        return x, layer_norm(self.config, "post_layernorm")(x[:, 0])


class _TextEmbeddings(nn.Module):
    config: ClipTextConfig

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        c = self.config
        dtype, param_dtype = dtype_of(c.dtype), dtype_of(c.param_dtype)
        table = self.param("token_embedding", normal(0.02), (c.vocab_size, c.hidden_size), param_dtype)
        places = self.param("position_embedding", normal(0.02), (c.max_positions, c.hidden_size), param_dtype)
        return (table[tokens] + places[: tokens.shape[1]]).astype(dtype)


class ClipText(nn.Module):
    """The text tower: `__call__(tokens int [B, L])` gives (last hidden state [B, L, D], pooled at EOS [B,
    D]).
    """

    config: ClipTextConfig

    @nn.compact
    def __call__(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        c = self.config
        if tokens.shape[1] > c.max_positions:
            raise UserError(
                f"CLIP text of {tokens.shape[1]} tokens: the model has {c.max_positions} positions."
            )
        x = _TextEmbeddings(c, name="embeddings")(tokens)
        x, _ = encode(c, x, causal=True, depth=c.layers, initializing=self.is_initializing())
        x = layer_norm(c, "final_layernorm")(x)
        end = jnp.argmax(tokens if c.eos_id == 2 else tokens == c.eos_id, axis=-1)  # [B]
        return x, jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]


class ClipModel(nn.Module):
    """Both towers, their projections and the temperature."""

    config: ClipConfig

    def setup(self) -> None:
        c = self.config

        def projection(tower: TowerConfig) -> Linear:
            return Linear(
                c.projection_dim,
                use_bias=False,
                dtype=dtype_of(tower.dtype),
                param_dtype=dtype_of(tower.param_dtype),
                kernel_init=normal(tower.hidden_size**-0.5),
            )

        self.vision = ClipVision(c.vision)
        self.text = ClipText(c.text)
        self.visual_projection = projection(c.vision)
        self.text_projection = projection(c.text)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(c.logit_scale), (), jnp.float32)

    def image_features(self, pixels: jax.Array) -> jax.Array:
        """pixels [B, H, W, 3] float, normalised -> [B, P] (not normalised to length one)."""
        _, pooled = self.vision(pixels)
        assert pooled is not None
        return self.visual_projection(pooled)

    def text_features(self, tokens: jax.Array) -> jax.Array:
        """tokens int [B, L] -> [B, P] (not normalised to length one)."""
        return self.text_projection(self.text(tokens)[1])

    def __call__(self, pixels: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns (image [B, P], text [B, P], scale []): unit vectors in float32 and exp(logit_scale)."""
        image, text = (_unit(f) for f in (self.image_features(pixels), self.text_features(tokens)))
        return image, text, jnp.exp(self.logit_scale.astype(jnp.float32))

    def logits(self, pixels: jax.Array, tokens: jax.Array) -> jax.Array:
        """Similarities times the scale, float32 [images, texts]; the transpose is `logits_per_text`."""
        image, text, scale = self(pixels, tokens)
        return scale * image @ text.T


def _unit(x: jax.Array) -> jax.Array:
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


@partial(jax.jit, static_argnums=0)  # what its parameters do not need of the forward pass falls away
def init_clip(config: ClipConfig, key: jax.Array) -> Params:
    """Fresh parameters of a ClipModel, initialised as Hugging Face does."""
    size = config.vision.image_size
    pixels, tokens = jnp.zeros((1, size, size, 3)), jnp.zeros((1, 1), jnp.int32)
    return cast(Params, ClipModel(config).init(key, pixels, tokens)["params"])
