"""The transformer encoder that the vision and text towers are made of (`clip.py`, `siglip.py`).

Pre-norm blocks with full attention, as in `transformers` CLIPEncoder and SiglipEncoder. Layers are stacked and
scanned.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from input_pipeline.errors import UserError
from input_pipeline.images import CLIP_MEAN, CLIP_STD
from jaxllava.models.attention import IMPLEMENTATIONS, attention
from jaxllava.models.config import REMAT_POLICIES, ModelConfig, check_choice, dtype_of
from jaxllava.models.layout import cut_by_batch
from jaxllava.models.linear import Linear

Params = dict[str, Any]

ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


@dataclasses.dataclass(frozen=True)
class TowerConfig(ModelConfig):
    """What all towers share, with CLIP's defaults.

    Dtype names: see `config.DTYPES`; remat names: `config.REMAT_POLICIES`.
    """

    key_bias: ClassVar[bool] = True  # whether keys have a bias, as queries and values do

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
        check_choice("tower activation", self.activation, ACTIVATIONS)
        check_choice("remat policy", self.remat, REMAT_POLICIES)
        check_choice("attention implementation", self.attention, IMPLEMENTATIONS)
        for name in (self.dtype, self.param_dtype):
            dtype_of(name)
        if self.hidden_size % self.heads:
            raise UserError(
                f"{type(self).__name__}: hidden_size {self.hidden_size} is not a multiple of heads {self.heads}."
            )

    def kernel_init(self, name: str) -> nn.initializers.Initializer:
        """How a block's kernel starts ("q_proj", ..., "fc2"): as Hugging Face's CLIP does."""
        if name == "out_proj":
            return nn.initializers.normal(self.hidden_size**-0.5)
        if name == "fc1":
            return nn.initializers.normal((2 * self.hidden_size) ** -0.5)
        return nn.initializers.normal(self.hidden_size**-0.5 * (2 * self.layers) ** -0.5)


@dataclasses.dataclass(frozen=True)
class VisionTowerConfig(TowerConfig):
    """A tower over the patches of a square image. `mean` and `std` normalise the pixels, of RGB in [0, 1]."""

    image_size: int = 224
    patch_size: int = 14
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    class_tokens: ClassVar[int] = 0  # positions in front of the patches

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.patch_size <= self.image_size:
            raise UserError(
                f"{type(self).__name__}: image_size {self.image_size} has no room for a patch of patch_size "
                f"{self.patch_size}."
            )

    @property
    def patches(self) -> int:
        """Whole patches of an image; what is left at the right and lower edge is not read."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def pad_color(self) -> tuple[int, int, int]:
        """The colour that pads a picture to a square, RGB 0 to 255: the mean, rounded down as in LLaVA."""
        red, green, blue = (int(255 * value) for value in self.mean)
        return red, green, blue

    def tokens_of(self, select: str) -> int:
        """Positions that `features(..., select)` gives for one image."""
        return self.patches + self.class_tokens - (select == "patch")


class Attention(nn.Module):
    """`__call__(x [B, T, D])` gives [B, T, D]: attention to x itself, or to `memory` [B, S, D] if given."""

    config: TowerConfig

    @nn.compact
    def __call__(self, x: jax.Array, causal: bool = False, memory: jax.Array | None = None) -> jax.Array:
        c = self.config
        width = c.hidden_size
        memory = x if memory is None else memory

        def dense(name: str, y: jax.Array) -> jax.Array:
            bias = name != "k_proj" or c.key_bias
            return Linear(width, bias, dtype=dtype_of(c.dtype), param_dtype=dtype_of(c.param_dtype),
                          kernel_init=c.kernel_init(name), name=name)(y)  # fmt: skip

        def heads(y: jax.Array) -> jax.Array:
            return y.reshape(*y.shape[:2], c.heads, width // c.heads)

        query = heads(dense("q_proj", x))  # [B, T, H, D/H]
        key, value = (heads(dense(name, memory)) for name in ("k_proj", "v_proj"))  # [B, S, H, D/H]
        out = attention(query, key, value, causal=causal, implementation=c.attention)  # [B, T, H, D/H]
        return dense("out_proj", out.reshape(x.shape))


class Mlp(nn.Module):
    """`__call__(x [..., D])` gives [..., D]."""

    config: TowerConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config

        def dense(name: str, width: int, y: jax.Array) -> jax.Array:
            return Linear(width, dtype=dtype_of(c.dtype), param_dtype=dtype_of(c.param_dtype),
                          kernel_init=c.kernel_init(name), name=name)(y)  # fmt: skip

        hidden = ACTIVATIONS[c.activation](dense("fc1", c.intermediate_size, x))
        return dense("fc2", c.hidden_size, hidden)


def layer_norm(c: TowerConfig, name: str) -> nn.LayerNorm:
    # use_fast_variance loses digits to cancellation: E[x^2] - E[x]^2.
    return nn.LayerNorm(
        epsilon=c.layer_norm_eps,
        dtype=dtype_of(c.dtype),
        param_dtype=dtype_of(c.param_dtype),
        use_fast_variance=False,
        name=name,
    )


class _Block(nn.Module):
    config: TowerConfig
    collect: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, causal: bool) -> tuple[jax.Array, jax.Array | None]:
        x = cut_by_batch(x)
        x = x + Attention(self.config, name="attn")(layer_norm(self.config, "ln1")(x), causal)
        x = x + Mlp(self.config, name="mlp")(layer_norm(self.config, "ln2")(x))
        return x, x if self.collect else None


def encode(
    config: TowerConfig,
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
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,
        length=length,
    )
    if length < config.layers:
        # The weights of the layers that are not needed stay in params (a checkpoint has them); they are not
        # run.
        layers = nn.map_variables(layers, "params", lambda p: jax.tree.map(lambda leaf: leaf[:length], p))
    return layers(config, collect, name="layers")(x, causal)


def embed_patches(
    config: VisionTowerConfig,
    pixels: jax.Array,
    *,
    use_bias: bool,
    kernel_init: nn.initializers.Initializer,
) -> jax.Array:
    """pixels [B, H, W, 3] -> [B, N, D], row by row. Called inside an embedding's compact method."""
    patches = nn.Conv(
        config.hidden_size,
        (config.patch_size, config.patch_size),
        strides=(config.patch_size, config.patch_size),
        padding="VALID",
        use_bias=use_bias,
        dtype=dtype_of(config.dtype),
        param_dtype=dtype_of(config.param_dtype),
        kernel_init=kernel_init,
        name="patch_embedding",
    )(pixels)  # [B, h, w, D]
    return patches.reshape(pixels.shape[0], config.patches, config.hidden_size)


class VisionTower(nn.Module):
    """A vision tower. Subclasses say what stands before the layers (`embed`) and behind them (`finish`).

    `__call__(pixels [B, H, W, 3] float, normalised)` gives (last hidden state [B, T, D], pooled [B, D] or None).
    `features(pixels, layer, select)` gives the hidden state that LLaVA reads.
    """

    config: VisionTowerConfig

    def embed(self, pixels: jax.Array) -> jax.Array:
        """pixels [B, H, W, 3] -> what enters the first layer, [B, T, D]."""
        raise NotImplementedError

    def finish(self, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """What the last layer gave, [B, T, D] -> what `__call__` returns."""
        raise NotImplementedError

    @nn.compact
    def __call__(
        self, pixels: jax.Array, depths: tuple[int, ...] | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        c = self.config
        if pixels.shape[1:] != (c.image_size, c.image_size, 3):
            raise UserError(
                f"{type(self).__name__} reads [B, {c.image_size}, {c.image_size}, 3] pixels, got {pixels.shape}."
            )
        first = self.embed(pixels)
        x, all_layers = encode(
            c,
            first,
            causal=False,
            depth=c.layers if depths is None else max(depths),
            initializing=self.is_initializing(),
            collect=depths is not None and len(depths) > 1,
        )
        if depths is None or self.is_initializing():
            return self.finish(x)
        if all_layers is not None:
            x = jnp.concatenate([all_layers[d - 1] if d else first for d in depths], axis=-1)
        return x, None

    def features(
        self, pixels: jax.Array, layer: int | tuple[int, ...] = -2, select: str = "patch"
    ) -> jax.Array:
        """Returns `hidden_states[layer]` as Hugging Face counts: 0 is the embeddings, -1 what the last layer gave
        (before any norm behind it).

        "cls_patch" keeps every position: [B, T, D]. "patch" drops the first, as `transformers` LLaVA does with its
        strategy "default": [B, T-1, D], without the class token where the tower has one and without the first
        patch where it has none. Several layers stand side by side on the last axis. No layer behind the last one
        asked for runs.
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
