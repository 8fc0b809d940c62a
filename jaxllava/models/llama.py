"""The decoder of Llama 1 to 3, Vicuna, Mistral, Qwen2 and Qwen3, with a static key-value cache.

A family is a config: grouped queries, stretched positions, a sliding window, biases, normed queries and keys. Equal to
`transformers` (tests/jaxllava/test_models_llama.py). Layers are stacked and scanned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from input_pipeline.errors import UserError
from jaxllava.models.attention import IMPLEMENTATIONS, attention
from jaxllava.models.config import REMAT_POLICIES, ModelConfig, check_choice, dtype_of
from jaxllava.models.layout import (
    cut_by_batch,
    cut_by_place,
    cut_by_vocabulary,
    summed_by_place,
    whole_places,
)
from jaxllava.models.linear import Linear
from jaxllava.models.rope import RopeScaling, frequencies, rotate

Params = dict[str, Any]
# {"k", "v"}: [layers, B, K, S, head_dim], or a tuple of as many [B * K, S, head_dim] where the layers' parameters
# are apart (`unstack`); with a sliding window also "positions": int32 [1, B, S]
Cache = dict[str, Any]
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # model_type of a config.json


@dataclasses.dataclass(frozen=True)
class LlamaConfig(ModelConfig):
    """`kv_heads` 0 means as many as `heads`; `head_dim` 0 means hidden_size / heads. Both are filled in.

    Args:
        family: the name under which Hugging Face knows such a model; the other fields say all that it means.
        qkv_bias: queries, keys and values have biases (Qwen2). qk_norm: queries and keys are normed per head (Qwen3).
        sliding_window: a token sees this many tokens, itself included; 0 is all (Mistral 7B v0.1 has 4096).
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int = 0
    head_dim: int = 0
    rope_theta: float = 10000.0
    rms_eps: float = 1e-5
    tie_embeddings: bool = False
    initializer_range: float = 0.02  # deviation of fresh matrices; about hidden_size ** -0.5 suits small ones
    max_positions: int = 4096
    family: str = "llama"
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False
    qk_norm: bool = False
    sliding_window: int = 0
    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: str = "none"
    attention: str = "xla"

    def __post_init__(self) -> None:
        if not self.kv_heads:
            object.__setattr__(self, "kv_heads", self.heads)
        if not self.head_dim:
            if self.hidden_size % self.heads:
                raise UserError(
                    f"Llama: hidden_size {self.hidden_size} is not a multiple of heads {self.heads}."
                )
            object.__setattr__(self, "head_dim", self.hidden_size // self.heads)
        if self.heads % self.kv_heads:
            raise UserError(f"Llama: heads {self.heads} is not a multiple of kv_heads {self.kv_heads}.")
        check_choice("decoder family", self.family, FAMILIES)
        check_choice("remat policy", self.remat, REMAT_POLICIES)
        check_choice("attention implementation", self.attention, IMPLEMENTATIONS)
        for name in (self.dtype, self.param_dtype):
            dtype_of(name)

    def stretched(self, factor: float) -> LlamaConfig:
        """This decoder with positions divided by `factor` (linear scaling), and room for as many times more of them.

        Itself where it is so stretched already. Raises UserError for a factor below 1, or another scaling in place.
        """
        wanted = RopeScaling("linear", factor)
        if self.rope_scaling == wanted:
            return self
        if self.rope_scaling is not None:
            raise UserError(
                f"the decoder's positions are stretched already ({self.rope_scaling.kind}, factor "
                f"{self.rope_scaling.factor:g}), and {factor:g} is another factor; take 0 to leave them so."
            )
        return self.replace(rope_scaling=wanted, max_positions=int(self.max_positions * factor))


class RmsNorm(nn.Module):
    """Root-mean-square norm, computed in float32. [..., D] -> [..., D] in the config's dtype."""

    config: LlamaConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), dtype_of(self.config.param_dtype))
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.config.rms_eps)
        return (y * scale.astype(jnp.float32)).astype(dtype_of(self.config.dtype))


def _dense(config: LlamaConfig, width: int, name: str, bias: bool = False) -> Linear:
    return Linear(
        width,
        use_bias=bias,
        dtype=dtype_of(config.dtype),
        param_dtype=dtype_of(config.param_dtype),
        kernel_init=nn.initializers.normal(config.initializer_range),
        name=name,
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """What every layer sees beside the hidden state. With a cache, `mask` and `write_index` are set."""

    positions: jax.Array  # int [B, T]
    segment_ids: jax.Array | None = None  # int [B, T]
    mask: jax.Array | None = None  # bool [B, T, S]
    # int []: the slot of the first of the T tokens; or int [B], each row's own, of T = 1
    write_index: jax.Array | None = None


def _write(
    whole: jax.Array, new: jax.Array, at: jax.Array, start: Callable[[int, Any], tuple], axis: int
) -> jax.Array:
    """`whole` with `new` written into it from `start(row, slot)` on: once, or for each row of its `axis` where `at`
    [B] gives each a slot of its own. One write a row and not a scatter: each is done in place.
    """
    write = jax.lax.dynamic_update_slice
    if at.ndim == 0:
        return write(whole, new, start(0, at))
    for row, part in enumerate(jnp.split(new, len(at), axis=axis)):
        whole = write(whole, part, start(row, at[row]))
    return whole


def _attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    context: Context,
    cache: Cache,
    layer: jax.Array | None,
) -> tuple[jax.Array, Cache]:
    """Writes new keys and values [B, T, K, Dh] into the cache and attends to all of it: ([B, T, H, Dh], the cache)."""
    assert context.write_index is not None and context.mask is not None
    # Heads stand before slots in a cache, so that the products of one new token read it as it lies.
    new = {"k": key.swapaxes(1, 2), "v": value.swapaxes(1, 2)}  # [B, K, T, Dh]
    new = {name: array.astype(cache[name].dtype) for name, array in new.items()}
    if layer is not None:
        # The whole cache is carried through the scan and written in place: returning one layer's slice per step
        # would copy all of it for every token.
        cache = {
            name: _write(
                cache[name], array[None], context.write_index, lambda row, at: (layer, row, 0, at, 0), axis=1
            )
            for name, array in new.items()
        }
        keys, values = (
            jax.lax.dynamic_index_in_dim(cache[name], layer, keepdims=False).swapaxes(1, 2)
            for name in ("k", "v")
        )  # [B, S, K, Dh]
        return attention(query, keys, values, mask=context.mask), cache
    # Every (row, key head) is a sequence of its own. XLA on CPUs writes to a carried array in place only where the
    # shape that is written is also the one that is read: a batch of 1 dropped in between costs copies of it all.
    batch, length, heads, dim = query.shape
    kv_heads = key.shape[2]
    cache = {
        name: _write(
            cache[name],
            array.reshape(batch * kv_heads, length, dim),
            context.write_index,
            lambda row, at: (row * kv_heads, at, 0),
            axis=0,
        )
        for name, array in new.items()
    }
    grouped = query.reshape(batch, length, kv_heads, heads // kv_heads, dim).swapaxes(1, 2)
    out = attention(
        grouped.reshape(batch * kv_heads, length, heads // kv_heads, dim),
        cache["k"][:, :, None],  # [B * K, S, 1, Dh]
        cache["v"][:, :, None],
        mask=jnp.repeat(context.mask, kv_heads, axis=0),
    )
    out = out.reshape(batch, kv_heads, length, heads // kv_heads, dim).swapaxes(1, 2)
    return out.reshape(batch, length, heads, dim), cache


class _Attention(nn.Module):
    config: LlamaConfig

    @nn.compact
    def __call__(
        self, x: jax.Array, context: Context, cache: Cache | None, layer: jax.Array | None
    ) -> tuple[jax.Array, Cache | None]:
        c = self.config
        batch, length, _ = x.shape

        def heads(name: str, count: int) -> jax.Array:
            flat = _dense(c, count * c.head_dim, name, c.qkv_bias)(x)
            return flat.reshape(batch, length, count, c.head_dim)

        query, key = heads("q_proj", c.heads), heads("k_proj", c.kv_heads)  # [B, T, H or K, Dh]
        value = heads("v_proj", c.kv_heads)
        if c.qk_norm:
            query, key = RmsNorm(c, name="q_norm")(query), RmsNorm(c, name="k_norm")(key)
        frequency, factor = frequencies(
            c.rope_theta, c.head_dim, c.max_positions, c.rope_scaling, context.positions
        )
        query, key = (rotate(part, context.positions, frequency, factor) for part in (query, key))
        if cache is None:
            # A row holds its samples one after another: order in the row is order in the sample.
            out = attention(
                query,
                key,
                value,
                segment_ids=context.segment_ids,
                causal=True,
                window=c.sliding_window,
                implementation=c.attention,
            )
        else:
            out, cache = _attend(query, key, value, context, cache, layer)
        return _dense(c, c.hidden_size, "o_proj")(out.reshape(batch, length, c.heads * c.head_dim)), cache


class _Mlp(nn.Module):
    config: LlamaConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        gate = jax.nn.silu(_dense(c, c.intermediate_size, "gate_proj")(x))
        return _dense(c, c.hidden_size, "down_proj")(gate * _dense(c, c.intermediate_size, "up_proj")(x))


class _Block(nn.Module):
    config: LlamaConfig

    @nn.compact
    def __call__(
        self, carry: tuple[jax.Array, Cache | None], layer: jax.Array | None, context: Context
    ) -> tuple[tuple[jax.Array, Cache | None], None]:
        x, cache = carry
        x = cut_by_place(x)
        attended, cache = _Attention(self.config, name="attn")(
            whole_places(RmsNorm(self.config, name="input_norm")(x)), context, cache, layer
        )
        x = x + summed_by_place(attended)
        widened = _Mlp(self.config, name="mlp")(whole_places(RmsNorm(self.config, name="post_attn_norm")(x)))
        x = x + summed_by_place(widened)
        return (x, cache), None


class Llama(nn.Module):
    """The decoder. Its input is embeddings, so that images can be spliced in first."""

    config: LlamaConfig

    def setup(self) -> None:
        c = self.config
        block = _Block
        if c.remat != "none":
            block = nn.remat(block, policy=REMAT_POLICIES[c.remat], prevent_cse=False)
        scan: Any = nn.scan  # its annotation of in_axes does not know broadcast
        scanned: Any = scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast),
            length=c.layers,
        )
        self.embedding = nn.Embed(
            c.vocab_size,
            c.hidden_size,
            dtype=dtype_of(c.dtype),
            param_dtype=dtype_of(c.param_dtype),
            embedding_init=nn.initializers.normal(self.config.initializer_range),
            name="embed",
        )
        self.layers = scanned(c)
        self.norm = RmsNorm(c)
        if not c.tie_embeddings:
            self.lm_head = _dense(c, c.vocab_size, "lm_head")

    def embed(self, tokens: jax.Array) -> jax.Array:
        """int [B, L] -> [B, L, D] in the compute dtype."""
        table = cut_by_vocabulary(self.embedding.embedding.astype(dtype_of(self.config.dtype)))
        return cut_by_batch(jnp.take(table, tokens, axis=0))

    def __call__(
        self, embeds: jax.Array, positions: jax.Array, segment_ids: jax.Array | None = None
    ) -> jax.Array:
        """Causal forward pass within segments.

        Args: embeds [B, L, D]; positions int [B, L], restarting per sample; segment_ids int [B, L], equal
        within a sample (samples lie one after another in the row; None: one sample a row). Returns [B, L, D],
        normed.
        """
        hidden, _ = self._run(embeds, Context(positions, segment_ids=segment_ids), None)
        return hidden

    def extend(
        self,
        embeds: jax.Array,
        positions: jax.Array,
        cache: Cache,
        write_index: jax.Array | int,
        mask: jax.Array,
    ) -> tuple[jax.Array, Cache]:
        """Appends T tokens to a cache and runs them against it; pure.

        Args:
          embeds: [B, T, D]. positions: int [B, T], the place of each token in its own sequence.
          cache: see `init_cache`; slots write_index .. write_index+T-1 of every row are overwritten.
          write_index: int []; or int [B], a slot for each row, where T is 1. write_index + T must not exceed S (XLA
            would shift the write to fit).
          mask: bool [B, T, S]: which slots each new token may attend to, its own included. Padding of any
            kind, and order, are stated here and nowhere else.

        Returns (hidden [B, T, D], normed; the new cache).
        """
        start = jnp.asarray(write_index, jnp.int32)
        kept = {name: cache[name] for name in ("k", "v")}
        places = {}
        if self.config.sliding_window:
            known = _write(
                cache["positions"],
                positions[None].astype(jnp.int32),
                start,
                lambda row, at: (0, row, at),
                axis=1,
            )
            places = {"positions": known}
            mask = mask & (positions[:, :, None] - known[0][:, None, :] < self.config.sliding_window)
        hidden, new_cache = self._run(embeds, Context(positions, mask=mask, write_index=start), kept)
        assert new_cache is not None
        return hidden, new_cache | places

    def _run(
        self, embeds: jax.Array, context: Context, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        x = embeds.astype(dtype_of(self.config.dtype))
        layers = {} if self.is_initializing() else self.variables["params"]["layers"]
        if is_unstacked(layers):
            x, cache = self._one_by_one(layers, x, context, cache)
        else:
            (x, cache), _ = self.layers((x, cache), jnp.arange(self.config.layers), context)
        return self.norm(cut_by_batch(x)), cache

    def _one_by_one(
        self, layers: Params, x: jax.Array, context: Context, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        """The layers written out, for parameters that are apart; for inference (no remat, no dropout)."""
        block = _Block(self.config, parent=None)
        caches: dict[str, list[jax.Array]] = {name: [] for name in cache or ()}
        for number in range(self.config.layers):
            own = cache and {name: part[number] for name, part in cache.items()}
            variables = {"params": layers[str(number)]}
            (x, own), _ = cast(Any, block.apply(variables, (x, own), None, context))
            for name, part in (own or {}).items():
                caches[name].append(part)
        return x, cache and {name: tuple(parts) for name, parts in caches.items()}

    def head(self) -> jax.Array:
        """The kernel [D, V] of the logits, in the dtype of its parameter."""
        if self.config.tie_embeddings:
            return self.embedding.embedding.T
        return self.lm_head.variables["params"]["kernel"]

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., D] -> float32 [..., V]; the product runs in the compute dtype and is summed in float32."""
        if self.is_initializing() and not self.config.tie_embeddings:
            self.lm_head(hidden)
        dtype = dtype_of(self.config.dtype)
        kernel = self.head().astype(dtype)
        return jnp.matmul(hidden.astype(dtype), kernel, preferred_element_type=jnp.float32)


def init_cache(config: LlamaConfig, batch: int, slots: int, stacked: bool = True) -> Cache:
    """An empty cache {"k", "v"}: zeros [layers, batch, kv_heads, slots, head_dim] in the compute dtype.

    `stacked` as the layers' parameters are; else tuples of [batch * kv_heads, slots, head_dim]. With a sliding window
    also "positions", int32 [1, batch, slots]: of what each slot holds.
    """
    dtype = dtype_of(config.dtype)
    whole = (config.layers, batch, config.kv_heads, slots, config.head_dim)
    part = (batch * config.kv_heads, slots, config.head_dim)
    cache: Cache = {}
    for name in ("k", "v"):
        cache[name] = (
            jnp.zeros(whole, dtype)
            if stacked
            else tuple(jnp.zeros(part, dtype) for _ in range(config.layers))
        )
    if config.sliding_window:
        cache["positions"] = jnp.zeros((1, batch, slots), jnp.int32)
    return cache


def is_unstacked(layers: Params) -> bool:
    """Whether a decoder's {"layers"} are {"0": ..., "1": ...} and not stacked on a leading axis."""
    return "0" in layers


def unstack(params: Params) -> Params:
    """A decoder's parameters with its layers apart: {"layers": {"0": ..., "1": ...}}, the rest as it is.

    The numbers of the model are the same. On CPUs a scan copies each layer's stacked parameters before it multiplies
    with them, which costs a generated token as much again as reading them; apart they are read where they lie.
    """
    layers = params["layers"]
    count = jax.tree.leaves(layers)[0].shape[0]
    apart = {str(number): jax.tree.map(lambda leaf, n=number: leaf[n], layers) for number in range(count)}
    return params | {"layers": apart}


def stack(params: Params) -> Params:
    """What `unstack` was given."""
    layers = [params["layers"][str(number)] for number in range(len(params["layers"]))]
    return params | {"layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)}


@partial(jax.jit, static_argnums=0)  # what its parameters do not need of the forward pass falls away
def init_llama(config: LlamaConfig, key: jax.Array) -> Params:
    """Fresh parameters: {"embed", "layers", "norm", "lm_head" unless tied}."""

    def touch(model: Llama, tokens: jax.Array) -> jax.Array:
        return model.logits(model(model.embed(tokens), tokens))

    variables = Llama(config).init(key, jnp.zeros((1, 1), jnp.int32), method=touch)
    return cast(Params, variables["params"])
