"""LLaVA and LLaVA-NeXT: a vision tower, a projector and a decoder; image features are spliced in by a gather."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from input_pipeline.anyres import NEWLINE, ORDERS, Anyres, check_pinpoints
from input_pipeline.errors import UserError
from input_pipeline.images import MODES
from jaxllava.models.clip import ClipVision, ClipVisionConfig
from jaxllava.models.config import ModelConfig, check_choice, dtype_of
from jaxllava.models.encoder import VisionTower, feature_depths
from jaxllava.models.eva import EvaVision, EvaVisionConfig
from jaxllava.models.llama import Cache, Llama, LlamaConfig
from jaxllava.models.projector import Projector, projector_depth
from jaxllava.models.siglip import SiglipVision, SiglipVisionConfig

Params = dict[str, Any]
TOWERS: dict[type, type[VisionTower]] = {
    ClipVisionConfig: ClipVision,
    SiglipVisionConfig: SiglipVision,
    EvaVisionConfig: EvaVision,
}


@dataclasses.dataclass(frozen=True)
class LlavaConfig(ModelConfig):
    """`feature_layer` counts as Hugging Face's hidden_states.

    `image_token` is the id that fills an image's positions. It is never embedded, so it may lie behind the
    vocabulary, as in original LLaVA checkpoints, which have no row for it.

    With `pinpoints` the model is a LLaVA-NeXT: it has an `image_newline` parameter, and in image mode "anyres" reads a
    picture as several views (`input_pipeline.anyres`); `anyres_order` settles ties as the original or as Hugging Face.
    """

    vision: ClipVisionConfig | SiglipVisionConfig | EvaVisionConfig
    decoder: LlamaConfig
    image_token: int
    projector: str = "mlp2x_gelu"
    feature_layer: int | tuple[int, ...] = -2  # several stand side by side
    feature_select: str = "patch"
    image_mode: str = (
        "square"  # how pictures become pixels: one of `input_pipeline.images.MODES`, or "anyres"
    )
    pinpoints: tuple[tuple[int, ...], ...] = ()
    anyres_order: str = "hf"

    def __post_init__(self) -> None:
        check_choice("feature_select", self.feature_select, ("patch", "cls_patch"))
        check_choice("image_mode", self.image_mode, (*MODES, "anyres"))
        check_choice("anyres_order", self.anyres_order, ORDERS)
        if self.image_mode == "anyres" and not self.pinpoints:
            raise UserError("image_mode 'anyres' needs a LLaVA-NeXT model, one with pinpoints.")
        if self.pinpoints:
            try:
                check_pinpoints(self.pinpoints, self.vision.image_size)
            except ValueError as error:
                raise UserError(str(error)) from error
            if self.image_tokens != self.vision.patches:
                raise UserError(
                    f"LLaVA-NeXT: feature_select {self.feature_select!r} gives {self.image_tokens} features for "
                    f"{self.vision.patches} patches; each patch needs its own."
                )
        depths = feature_depths(self.vision.layers, self.feature_layer)
        width = self.vision.hidden_size * len(depths)
        if projector_depth(self.projector) == 0 and width != self.decoder.hidden_size:
            raise UserError(
                f"projector 'identity' needs equal widths: vision {width}, "
                f"decoder {self.decoder.hidden_size}."
            )
        if self.image_token < 0:
            raise UserError(f"image_token {self.image_token} is negative; give `<image>` an id of its own.")

    @property
    def image_tokens(self) -> int:
        """Features of one square picture (one view): with anyres a picture takes several times as many positions."""
        return self.vision.tokens_of(self.feature_select)

    @property
    def anyres(self) -> Anyres | None:
        """The geometry of a picture's views; None where a picture is one square."""
        if self.image_mode != "anyres":
            return None
        side = self.vision.image_size // self.vision.patch_size
        pinpoints = check_pinpoints(self.pinpoints, self.vision.image_size)
        return Anyres(pinpoints, self.vision.image_size, side, self.anyres_order)  # type: ignore[arg-type]

    @property
    def film_mode(self) -> str:
        """How frames of videos become pixels."""
        return self.image_mode

    def module(self) -> LlavaModel:
        """The model that this describes."""
        return LlavaModel(self)


class LlavaModel(nn.Module):
    """See `__call__`. Parameters: {"vision", "projector" (absent for identity), "decoder", "image_newline" (NeXT)}."""

    config: LlavaConfig

    def setup(self) -> None:
        c = self.config
        self.vision = cast(Any, TOWERS[type(c.vision)])(c.vision)
        self.projector = Projector(c.projector, c.decoder.hidden_size, c.decoder.dtype, c.decoder.param_dtype)
        self.decoder = Llama(c.decoder)
        if c.pinpoints:
            width = c.decoder.hidden_size
            init = nn.initializers.normal(width**-0.5)
            self.image_newline = self.param("image_newline", init, (width,), dtype_of(c.decoder.param_dtype))

    def encode_images(self, pixels: jax.Array, guide: Any = None) -> jax.Array:
        """pixels float [B, M, H, W, 3], normalised -> [B, M * image_tokens, D]. M may not be 0. A plain LLaVA looks
        at pictures without a question: `guide` is not read (see `llama_vid`).
        """
        del guide
        batch, images, *shape = pixels.shape
        c = self.config
        features = self.vision.features(
            pixels.reshape(batch * images, *shape), c.feature_layer, c.feature_select
        )  # [B * M, P, vision width]
        projected = self.projector(features)  # [B * M, P, D]
        return projected.reshape(batch, images * c.image_tokens, c.decoder.hidden_size)

    def embed(
        self, tokens: jax.Array, features: jax.Array | None, image_index: jax.Array | None
    ) -> jax.Array:
        """Token embeddings with image features in their places.

        Args: tokens int [B, L]; features [B, M * P, D] or None; image_index int [B, L]: the row of `features`
        that belongs here, -1 for text, `NEWLINE` for the newline feature. Returns [B, L, D].
        """
        if features is None or image_index is None:
            return self.decoder.embed(tokens)
        is_image = image_index != -1
        # Any id may stand at an image position (original LLaVA puts -200 there): look up a valid one.
        text = self.decoder.embed(jnp.where(is_image, 0, tokens))
        image = jnp.take_along_axis(features, jnp.maximum(image_index, 0)[..., None], axis=1)  # [B, L, D]
        if self.config.pinpoints:
            newline = self.image_newline.astype(image.dtype)
            image = jnp.where((image_index == NEWLINE)[..., None], newline, image)
        return jnp.where(is_image[..., None], image.astype(text.dtype), text)

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array | None,
        pixels: jax.Array | None,
        image_index: jax.Array | None,
        guide: Any = None,
    ) -> jax.Array:
        """The forward pass of training.

        Args:
          tokens: int [B, L]. positions: int [B, L], restarting per sample. segment_ids: int [B, L], 0 is
          padding. pixels: float [B, M, H, W, 3], normalised with CLIP's mean and std. With M == 0 (or None)
          the batch is text
            only, and the tower is not run.
          image_index: int [B, L] into the row's M * P image features, -1 for text.
          guide: what pictures are looked at for, a `llama_vid.Guide`; of that model alone.

        Returns hidden [B, L, D]; see `logits`.
        """
        features = None if pixels is None or pixels.shape[1] == 0 else self.encode_images(pixels, guide)
        return self.decoder(self.embed(tokens, features, image_index), positions, segment_ids)

    def first_guide(self) -> Any:
        """The smallest guide, with which fresh parameters are made."""
        return None

    def head(self) -> jax.Array:
        """`Llama.head`."""
        return self.decoder.head()

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., D] -> float32 [..., V]."""
        return self.decoder.logits(hidden)

    def extend(
        self,
        embeds: jax.Array,
        positions: jax.Array,
        cache: Cache,
        write_index: jax.Array | int,
        mask: jax.Array,
    ) -> tuple[jax.Array, Cache]:
        """`Llama.extend`."""
        return self.decoder.extend(embeds, positions, cache, write_index, mask)


@partial(jax.jit, static_argnums=0)  # what its parameters do not need of the forward pass falls away
def init_params(config: LlavaConfig, key: jax.Array) -> Params:
    """Fresh parameters, initialised as Hugging Face does. Works under `jax.eval_shape` and `jax.jit`."""
    size = config.vision.image_size
    tokens = jnp.zeros((1, 1), jnp.int32)

    def touch(model: LlavaModel) -> jax.Array:
        pixels = jnp.zeros((1, 1, size, size, 3))
        return model.logits(model(tokens, tokens, tokens, pixels, tokens, model.first_guide()))

    return cast(Params, config.module().init(key, method=touch)["params"])


def llava_1_5(size: str = "7b", dtype: str = "bfloat16", param_dtype: str = "float32") -> LlavaConfig:
    """LLaVA-1.5 as published: CLIP ViT-L/14 at 336 px with Vicuna 7b or 13b, in the Hugging Face vocabulary
    (32064).
    """
    check_choice("LLaVA-1.5 size", size, ("7b", "13b"))
    width, mlp, layers, heads = {"7b": (4096, 11008, 32, 32), "13b": (5120, 13824, 40, 40)}[size]
    vision = ClipVisionConfig(1024, 4096, 24, 16, image_size=336, patch_size=14)
    decoder = LlamaConfig(32064, width, mlp, layers, heads)
    return LlavaConfig(vision, decoder, image_token=32000).with_dtypes(dtype, param_dtype)
