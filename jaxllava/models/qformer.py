"""The Q-Former: learned queries that look at an image, guided by a text (InstructBLIP, section 2; LLaMA-VID's decoder).

Equal to `transformers` InstructBlipQFormerModel (tests/jaxllava/test_models_qformer.py): BERT's post-norm blocks over
queries and text side by side, with an MLP of its own for each of both, and cross attention of the queries to the image
in every second block. Blocks are stacked in groups of so many, and scanned.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import normal

from input_pipeline.errors import UserError
from jaxllava.models.attention import attention
from jaxllava.models.config import REMAT_POLICIES, ModelConfig, check_choice, dtype_of
from jaxllava.models.layout import cut_by_batch
from jaxllava.models.linear import Linear


@dataclasses.dataclass(frozen=True)
class QFormerConfig(ModelConfig):
    """As published by default: BERT base with a token more ("[DEC]"), 32 queries, every second block crosses.

    `vision_size` is the width of what the queries look at.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    layers: int = 12
    heads: int = 12
    vocab_size: int = 30523
    max_positions: int = 512
    queries: int = 32
    vision_size: int = 1408
    cross_every: int = 2
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self) -> None:
        check_choice("remat policy", self.remat, REMAT_POLICIES)
        for name in (self.dtype, self.param_dtype):
            dtype_of(name)
        if self.hidden_size % self.heads:
            raise UserError(
                f"Q-Former: hidden_size {self.hidden_size} is not a multiple of heads {self.heads}."
            )
        if self.cross_every < 1 or self.layers % self.cross_every:
            raise UserError(
                f"Q-Former: {self.layers} layers do not divide into groups of cross_every {self.cross_every}."
            )


class _Attention(nn.Module):
    """`__call__(x [B, T, D], memory [B, S, E], mask bool [B, T, S] or None)` -> [B, T, D], with the residual's norm."""

    config: QFormerConfig

    @nn.compact
    def __call__(self, x: jax.Array, memory: jax.Array, mask: jax.Array | None) -> jax.Array:
        c = self.config
        heads = lambda y: y.reshape(*y.shape[:2], c.heads, c.hidden_size // c.heads)
        query = heads(_linear(c, "q_proj", c.hidden_size)(x))  # [B, T, H, D/H]
        key, value = (heads(_linear(c, name, c.hidden_size)(memory)) for name in ("k_proj", "v_proj"))
        out = attention(query, key, value, mask=mask).reshape(x.shape)
        return _norm(c, "norm")(_linear(c, "out_proj", c.hidden_size)(out) + x)


class _Mlp(nn.Module):
    """`__call__(x [..., D])` -> [..., D], with the residual's norm."""

    config: QFormerConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        hidden = jax.nn.gelu(_linear(c, "fc1", c.intermediate_size)(x), approximate=False)
        return _norm(c, "norm")(_linear(c, "fc2", c.hidden_size)(hidden) + x)


def _linear(c: QFormerConfig, name: str, width: int) -> Linear:
    dtypes: dict[str, Any] = {"dtype": dtype_of(c.dtype), "param_dtype": dtype_of(c.param_dtype)}
    return Linear(width, kernel_init=normal(c.initializer_range), name=name, **dtypes)


def _norm(c: QFormerConfig, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(
        epsilon=c.layer_norm_eps,
        dtype=dtype_of(c.dtype),
        param_dtype=dtype_of(c.param_dtype),
        use_fast_variance=False,  # loses digits to cancellation
        name=name,
    )


class _Block(nn.Module):
    config: QFormerConfig
    crosses: bool

    @nn.compact
    def __call__(self, x: jax.Array, vision: jax.Array, mask: jax.Array) -> jax.Array:
        c = self.config
        x = _Attention(c, name="attn")(x, x, mask)
        queries, text = x[:, : c.queries], x[:, c.queries :]
        if self.crosses:
            queries = _Attention(c, name="cross")(queries, vision, None)
        queries, text = _Mlp(c, name="mlp_query")(queries), _Mlp(c, name="mlp_text")(text)
        return jnp.concatenate([queries, text], axis=1)


class _Group(nn.Module):
    """`cross_every` blocks, of which the first one crosses."""

    config: QFormerConfig

    @nn.compact
    def __call__(self, x: jax.Array, vision: jax.Array, mask: jax.Array) -> tuple[jax.Array, None]:
        for i in range(self.config.cross_every):
            x = _Block(self.config, crosses=i == 0, name=f"block_{i}")(cut_by_batch(x), vision, mask)
        return x, None


class QFormer(nn.Module):
    """See `__call__`."""

    config: QFormerConfig

    @nn.compact
    def __call__(self, vision: jax.Array, text: jax.Array, valid: jax.Array) -> jax.Array:
        """What the queries found.

        Args:
          vision: [B, S, E], all of it real.
          text: int [B, L], BERT's ids. valid: bool [B, L], False on padding.

        Returns [B, Q, D]. Raises UserError for a text longer than the positions.
        """
        c = self.config
        batch, length = text.shape
        if length > c.max_positions:
            raise UserError(f"a question of {length} tokens: the Q-Former has {c.max_positions} positions.")
        dtype, param_dtype = dtype_of(c.dtype), dtype_of(c.param_dtype)
        init = normal(c.initializer_range)
        query = self.param("query", init, (1, c.queries, c.hidden_size), param_dtype)
        words = self.param("word_embedding", init, (c.vocab_size, c.hidden_size), param_dtype)
        places = self.param("position_embedding", init, (c.max_positions, c.hidden_size), param_dtype)
        asked = words[text] + places[:length]  # [B, L, D]; queries have no position
        start = jnp.concatenate([jnp.broadcast_to(query, (batch, c.queries, c.hidden_size)), asked], axis=1)
        x = _norm(c, "embeddings_norm")(start.astype(dtype))  # [B, Q+L, D]
        seen = jnp.concatenate([jnp.ones((batch, c.queries), bool), valid], axis=1)  # [B, Q+L]
        mask = jnp.broadcast_to(seen[:, None, :], (batch, x.shape[1], x.shape[1]))
        group = _Group
        if c.remat != "none":
            group = nn.remat(group, policy=REMAT_POLICIES[c.remat], prevent_cse=False)
        scan: Any = nn.scan  # its annotation of in_axes does not know broadcast
        layers: Any = scan(
            group,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=c.layers // c.cross_every,
        )
        x, _ = layers(c, name="layers")(x, vision.astype(dtype), mask)
        return x[:, : c.queries]
