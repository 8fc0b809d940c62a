"""CLIP: the vision tower that LLaVA sees through, the text tower, and the contrastive model of both.

Equal to `transformers` CLIPModel (tests/jaxllava/test_models_clip.py). Layers are stacked and scanned.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.spmd import with_logical_constraint

from input_pipeline.errors import UserError
from input_pipeline.images import CLIP_MEAN, CLIP_STD
from jaxllava.models.attention import IMPLEMENTATIONS, attention
from jaxllava.models.config import REMAT_POLICIES, ModelConfig, check_choice, dtype_of

Params = dict[str, Any]

ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


@dataclasses.dataclass(frozen=True)
class ClipTowerConfig(ModelConfig):
    """What the two towers share. Dtype names: see `config.DTYPES`; remat names: `config.REMAT_POLICIES`."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    activation: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: str = "none"
    attention: str = "xla"

    def __post_init__(self) -> None:
        check_choice("CLIP activation", self.activation, ACTIVATIONS)
        check_choice("remat policy", self.remat, REMAT_POLICIES)
        check_choice("attention implementation", self.attention, IMPLEMENTATIONS)
        for name in (self.dtype, self.param_dtype):
            dtype_of(name)
        if self.hidden_size % self.heads:
            raise UserError(f"CLIP: hidden_size {self.hidden_size} is not a multiple of heads {self.heads}.")


@dataclasses.dataclass(frozen=True)
class ClipVisionConfig(ClipTowerConfig):
    image_size: int = 224
    patch_size: int = 14

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.patch_size:
            raise UserError(
                f"CLIP: image_size {self.image_size} is no multiple of patch_size {self.patch_size}."
            )

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


@dataclasses.dataclass(frozen=True)
class ClipTextConfig(ClipTowerConfig):
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


def normalise(images: jax.Array) -> jax.Array:
    """uint8 [..., 3] -> float32 by CLIP's mean and deviation. On the device, so that hosts ship bytes."""
    mean, std = jnp.asarray(CLIP_MEAN, jnp.float32), jnp.asarray(CLIP_STD, jnp.float32)
    return (images.astype(jnp.float32) / 255.0 - mean) / std


def _normal(std: float) -> nn.initializers.Initializer:
    return nn.initializers.normal(std)


class _Attention(nn.Module):
    config: ClipTowerConfig

    @nn.compact
    def __call__(self, x: jax.Array, causal: bool) -> jax.Array:
        c = self.config
        batch, length, width = x.shape

        def dense(name: str, std: float) -> nn.Dense:
            return nn.Dense(width, dtype=dtype_of(c.dtype), param_dtype=dtype_of(c.param_dtype),
                            kernel_init=_normal(std), name=name)  # fmt: skip

        def heads(y: jax.Array) -> jax.Array:
            return y.reshape(batch, length, c.heads, width // c.heads)

        std = width**-0.5 * (2 * c.layers) ** -0.5
        query, key, value = (heads(dense(n, std)(x)) for n in ("q_proj", "k_proj", "v_proj"))
        out = attention(query, key, value, causal=causal, implementation=c.attention)  # [B, T, H, D/H]
        return dense("out_proj", width**-0.5)(out.reshape(batch, length, width))


class _Mlp(nn.Module):
    config: ClipTowerConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        dtypes = {"dtype": dtype_of(c.dtype), "param_dtype": dtype_of(c.param_dtype)}
        width = c.hidden_size
        y = nn.Dense(c.intermediate_size, **dtypes, kernel_init=_normal((2 * width) ** -0.5), name="fc1")(x)
        out_std = width**-0.5 * (2 * c.layers) ** -0.5
        return nn.Dense(width, **dtypes, kernel_init=_normal(out_std), name="fc2")(
            ACTIVATIONS[c.activation](y)
        )


def _layer_norm(c: ClipTowerConfig, name: str) -> nn.LayerNorm:
    # use_fast_variance loses digits to cancellation: E[x^2] - E[x]^2.
    return nn.LayerNorm(
        epsilon=c.layer_norm_eps,
        dtype=dtype_of(c.dtype),
        param_dtype=dtype_of(c.param_dtype),
        use_fast_variance=False,
        name=name,
    )


class _Block(nn.Module):
    config: ClipTowerConfig
    collect: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, causal: bool) -> tuple[jax.Array, jax.Array | None]:
        x = with_logical_constraint(x, ("batch", "length", "embed"))
        x = x + _Attention(self.config, name="attn")(_layer_norm(self.config, "ln1")(x), causal)
        x = x + _Mlp(self.config, name="mlp")(_layer_norm(self.config, "ln2")(x))
        return x, x if self.collect else None


def _encode(
    config: ClipTowerConfig,
    x: jax.Array,
    *,
    causal: bool,
    depth: int,
    initializing: bool,
    collect: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """Runs the first `depth` of the stacked layers. Called inside a tower's compact method; x [B, T, D].

    Returns x, and with `collect` also what each layer gave, [depth, B, T, D].
    """
    block = _Block
    if config.remat != "none":
        # The loop of scan already keeps XLA from undoing the recomputation.
        block = nn.remat(block, policy=REMAT_POLICIES[config.remat], prevent_cse=False, static_argnums=(2,))
    length = config.layers if initializing else depth
    scan: Any = nn.scan  # its annotation of in_axes does not know broadcast
    layers: Any = scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=length,
    )
    if length < config.layers:
        # The weights of the layers that are not needed stay in params (a checkpoint has them); they are not
        # run.
        layers = nn.map_variables(layers, "params", lambda p: jax.tree.map(lambda leaf: leaf[:length], p))
    return layers(config, collect, name="layers")(x, causal)


class _VisionEmbeddings(nn.Module):
    config: ClipVisionConfig

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        c = self.config
        dtype, param_dtype = dtype_of(c.dtype), dtype_of(c.param_dtype)
        width = c.hidden_size
        patches = nn.Conv(
            width,
            (c.patch_size, c.patch_size),
            strides=(c.patch_size, c.patch_size),
            padding="VALID",
            use_bias=False,
            dtype=dtype,
            param_dtype=param_dtype,
            kernel_init=_normal(0.02),
            name="patch_embedding",
        )(pixels)  # [B, h, w, D]
        patches = patches.reshape(pixels.shape[0], c.patches, width)
        cls = self.param("class_embedding", _normal(width**-0.5), (width,), param_dtype)
        table = self.param("position_embedding", _normal(0.02), (1 + c.patches, width), param_dtype)
        cls = jnp.broadcast_to(cls.astype(dtype), (pixels.shape[0], 1, width))
        return jnp.concatenate([cls, patches], axis=1) + table.astype(dtype)


class ClipVision(nn.Module):
    """The vision tower.

    `__call__(pixels [B, H, W, 3] float, normalised)` gives (last hidden state [B, 1+N, D], pooled [B, D]).
    `features(pixels, layer, select)` gives the hidden state that LLaVA reads.
    """

    config: ClipVisionConfig

    @nn.compact
    def __call__(
        self, pixels: jax.Array, depths: tuple[int, ...] | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        c = self.config
        if pixels.shape[1:] != (c.image_size, c.image_size, 3):
            raise UserError(f"CLIP reads [B, {c.image_size}, {c.image_size}, 3] pixels, got {pixels.shape}.")
        first = _layer_norm(c, "pre_layernorm")(_VisionEmbeddings(c, name="embeddings")(pixels))
        x, all_layers = _encode(
            c,
            first,
            causal=False,
            depth=c.layers if depths is None else max(depths),
            initializing=self.is_initializing(),
            collect=depths is not None and len(depths) > 1,
        )
        if depths is None or self.is_initializing():
            return x, _layer_norm(c, "post_layernorm")(x[:, 0])
        if all_layers is not None:
            x = jnp.concatenate([all_layers[d - 1] if d else first for d in depths], axis=-1)
        return x, None

    def features(
        self, pixels: jax.Array, layer: int | tuple[int, ...] = -2, select: str = "patch"
    ) -> jax.Array:
        """Returns `hidden_states[layer]` as Hugging Face counts: 0 is the embeddings, -1 the last output.

        "patch" drops the class token: [B, N, D]; "cls_patch" keeps it: [B, 1+N, D]. Several layers stand side by
        side on the last axis. No layer behind the last one asked for runs.
        """
        depths = feature_depths(self.config.layers, layer)
        hidden, _ = self(pixels, depths)
        if self.is_initializing():  # all layers run, once: only the shape counts
            hidden = jnp.concatenate([hidden] * len(depths), axis=-1)
        return hidden[:, 1:] if select == "patch" else hidden


def feature_depths(layers: int, layer: int | tuple[int, ...]) -> tuple[int, ...]:
    """How many layers to run for each of `hidden_states[layer]`, of a list with layers + 1 entries."""
    wanted = (layer,) if isinstance(layer, int) else tuple(layer)
    depths = tuple(one + layers + 1 if one < 0 else one for one in wanted)
    if not depths or not all(0 <= depth <= layers for depth in depths):
        raise UserError(f"feature_layer {layer} is outside a vision tower of {layers} layers.")
    return depths


class _TextEmbeddings(nn.Module):
    config: ClipTextConfig

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        c = self.config
        dtype, param_dtype = dtype_of(c.dtype), dtype_of(c.param_dtype)
        table = self.param("token_embedding", _normal(0.02), (c.vocab_size, c.hidden_size), param_dtype)
        places = self.param(
            "position_embedding", _normal(0.02), (c.max_positions, c.hidden_size), param_dtype
        )
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
        x, _ = _encode(c, x, causal=True, depth=c.layers, initializing=self.is_initializing())
        x = _layer_norm(c, "final_layernorm")(x)
        end = jnp.argmax(tokens if c.eos_id == 2 else tokens == c.eos_id, axis=-1)  # [B]
        return x, jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]


class ClipModel(nn.Module):
    """Both towers, their projections and the temperature."""

    config: ClipConfig

    def setup(self) -> None:
        c = self.config

        def projection(tower: ClipTowerConfig) -> nn.Dense:
            return nn.Dense(
                c.projection_dim,
                use_bias=False,
                dtype=dtype_of(tower.dtype),
                param_dtype=dtype_of(tower.param_dtype),
                kernel_init=_normal(tower.hidden_size**-0.5),
            )

        self.vision = ClipVision(c.vision)
        self.text = ClipText(c.text)
        self.visual_projection = projection(c.vision)
        self.text_projection = projection(c.text)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(c.logit_scale), (), jnp.float32)

    def image_features(self, pixels: jax.Array) -> jax.Array:
        """pixels [B, H, W, 3] float, normalised -> [B, P] (not normalised to length one)."""
        return self.visual_projection(self.vision(pixels)[1])

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


def init_clip(config: ClipConfig, key: jax.Array) -> Params:
    """Fresh parameters of a ClipModel, initialised as Hugging Face does."""
    size = config.vision.image_size
    pixels, tokens = jnp.zeros((1, size, size, 3)), jnp.zeros((1, 1), jnp.int32)
    return cast(Params, ClipModel(config).init(key, pixels, tokens)["params"])
