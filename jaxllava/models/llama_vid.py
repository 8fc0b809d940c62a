"""LLaMA-VID: a LLaVA that sees a picture, or each frame of a video, in a few tokens.

For each frame and each question about it: a *context* token, what the question's words find in the frame, and
*content* tokens, the frame's patches averaged (Li, Wang, Jia 2023, section 3; `llamavid/model/llamavid_arch.py` of
dvlab-research/LLaMA-VID b3d3ae2). Both go through projectors of their own and stand in the frame's place as
[context, content ...]. Equal to a transcription in torch (tests/jaxllava/test_models_llama_vid.py).
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from input_pipeline.errors import UserError
from input_pipeline.images import MODES
from jaxllava.models.config import check_choice, dtype_of
from jaxllava.models.encoder import feature_depths
from jaxllava.models.eva import EvaVisionConfig
from jaxllava.models.linear import Linear
from jaxllava.models.llava import LlavaConfig, LlavaModel, llava_1_5
from jaxllava.models.qformer import QFormer, QFormerConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guide:
    """Which frames of a row are looked at, and for which questions. A pair of both is a *slot*.

    frame, query int32 [B, N]: of each slot the row's frame (of M) and the question (of Q). text int32 [B, Q, T]: the
    questions in the Q-Former's vocabulary; valid bool [B, Q, T], False on padding. What stands in slots that no
    position of the row reads does not matter.
    """

    frame: Any
    query: Any
    text: Any
    valid: Any


def content_side(compress: str, side: int) -> int:
    """Content tokens along each side of a frame of `side` x `side` patches. UserError for an unknown `compress`."""
    if compress == "mean":
        return 1
    if compress == "none":
        return side
    match = re.fullmatch(r"grid:([1-9]\d*)", compress)
    if not match or not 1 < int(match[1]) <= side:
        raise UserError(
            f"compress {compress!r} is not known. Valid names: mean, none, grid:N with N from 2 to {side}."
        )
    return side // (
        side // int(match[1])
    )  # as the reference's average pooling counts where N does not divide


@dataclasses.dataclass(frozen=True)
class LlamaVidConfig(LlavaConfig):
    """A LLaVA with `qformer` between tower and decoder.

    `feature_layer` is -1 for EVA (the published scripts say -2, which their EVA tower does not read). The patches that
    attention and content see are those of `feature_select`; the Q-Former sees every position of the tower, or only the
    patches where `qformer_sees_class` is False, as in LLaMA-VID's long videos, whose features were stored without.
    `at_once`: of frames in the tower, and of slots in the Q-Former, of a row; more go in turn, in flat memory.
    """

    qformer: QFormerConfig = dataclasses.field(default_factory=QFormerConfig)
    compress: str = "mean"
    feature_layer: int | tuple[int, ...] = -1
    qformer_sees_class: bool = True
    at_once: int = 16
    frame_mode: str = "square"  # of frames; `image_mode` is of pictures, which LLaMA-VID pads

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pinpoints or self.image_mode == "anyres":
            raise UserError("LLaMA-VID reads one view of a picture: pinpoints and anyres are LLaVA-NeXT's.")
        if len(feature_depths(self.vision.layers, self.feature_layer)) != 1:
            raise UserError("LLaMA-VID reads one layer of its tower: feature_layer is one number.")
        check_choice("frame_mode", self.frame_mode, MODES)
        check_choice("compress", self.compress.partition(":")[0], ("mean", "grid", "none"))
        if self.at_once < 1:
            raise UserError(f"at_once {self.at_once} is below 1.")
        content_side(self.compress, self.side)

    @property
    def film_mode(self) -> str:
        return self.frame_mode

    @property
    def side(self) -> int:
        """Patches along a side of a frame."""
        return self.vision.image_size // self.vision.patch_size

    @property
    def image_tokens(self) -> int:
        """Positions of one slot: the context token and the content tokens."""
        return 1 + content_side(self.compress, self.side) ** 2

    @property
    def bridges(self) -> bool:
        """Whether a linear layer brings the tower's width to the Q-Former's (`vlm_att_bert_proj`)."""
        return self.vision.hidden_size != self.qformer.vision_size

    def module(self) -> LlamaVidModel:
        return LlamaVidModel(self)


class _Context(nn.Module):
    """The three projections around the context token's attention."""

    config: LlamaVidConfig

    def setup(self) -> None:
        c = self.config
        dtypes: dict[str, Any] = {
            "dtype": dtype_of(c.decoder.dtype),
            "param_dtype": dtype_of(c.decoder.param_dtype),
            "kernel_init": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),  # nn.Linear's
        }
        width = c.vision.hidden_size
        self.query_proj = Linear(width, **dtypes)
        self.key_proj = Linear(width, **dtypes)
        self.value_proj = Linear(c.decoder.hidden_size, **dtypes)
        if c.bridges:
            self.vision_proj = Linear(c.qformer.vision_size, **dtypes)

    def bridge(self, features: jax.Array) -> jax.Array:
        """[S, T, W] as wide as the Q-Former looks."""
        return self.vision_proj(features) if self.config.bridges else features

    def attend(self, found: jax.Array, patches: jax.Array) -> jax.Array:
        """What the queries found [S, Q, E], and patches [S, P, W] -> [S, W]: patches by how well they match, the mean
        over the queries.
        """
        query, key = self.query_proj(found), self.key_proj(patches)
        scores = jnp.einsum("sqw,spw->sqp", query, key, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores * patches.shape[-1] ** -0.5, axis=-1)
        return jnp.einsum("sqp,spw->sqw", weights.astype(patches.dtype), patches).mean(axis=1)

    def value(self, context: jax.Array) -> jax.Array:
        """[..., W] -> [..., D]"""
        return self.value_proj(context)


class LlamaVidModel(LlavaModel):
    """As `LlavaModel`, whose positions of pictures are those of slots: `image_index` counts N * image_tokens features.

    Parameters beside LLaVA's: {"qformer", "qformer_norm", "context"}.
    """

    config: LlamaVidConfig

    def setup(self) -> None:
        super().setup()
        c = self.config
        self.qformer = QFormer(c.qformer)
        # torch's nn.LayerNorm, in front of what the Q-Former looks at (BLIP-2's ln_vision)
        self.qformer_norm = nn.LayerNorm(
            epsilon=1e-5,
            dtype=dtype_of(c.qformer.dtype),
            param_dtype=dtype_of(c.qformer.param_dtype),
            use_fast_variance=False,
        )
        self.context = _Context(c)

    def encode_images(self, pixels: jax.Array, guide: Guide | None = None) -> jax.Array:
        """What stands in the slots' positions, [B, N * image_tokens, D].

        pixels: normalised pixels [B, M, H, W, 3] with their guide; or what `compress` gave of them, [B, N,
        image_tokens, W], which needs none.
        """
        if pixels.ndim == 4:
            return self.project(pixels)
        assert guide is not None, "LLaMA-VID looks at a picture for a question"
        return self.project(self.compress(self.see(pixels), guide))

    def see(self, pixels: jax.Array) -> jax.Array:
        """Normalised pixels [B, M, H, W, 3] -> the tower's features [B, M, T, W], class token first if it has one."""
        c = self.config

        def look(model: LlamaVidModel, frames: jax.Array) -> jax.Array:
            batch, count, *shape = frames.shape
            seen = model.vision.features(frames.reshape(batch * count, *shape), c.feature_layer, "cls_patch")
            return seen.reshape(batch, count, *seen.shape[1:])

        return self._in_turn(look, pixels)

    def compress(self, features: jax.Array, guide: Guide) -> jax.Array:
        """Features of frames [B, M, T, W] -> [B, N, image_tokens, W]: each slot's context, and its frame's content.

        A pure function of a frame and a question: what it gives may be kept, where tower and Q-Former are frozen.
        """
        c = self.config
        drop = c.vision.class_tokens if c.feature_select == "patch" else 0

        def ask(model: LlamaVidModel, slots: tuple[jax.Array, jax.Array]) -> jax.Array:
            frame, query = slots  # [B, n]
            batch, count = frame.shape
            seen = jnp.take_along_axis(features, frame[..., None, None], axis=1)  # [B, n, T, W]
            text = jnp.take_along_axis(guide.text, query[..., None], axis=1)  # [B, n, L]
            valid = jnp.take_along_axis(guide.valid, query[..., None], axis=1)
            seen, text, valid = (x.reshape(batch * count, *x.shape[2:]) for x in (seen, text, valid))
            patches = seen[:, drop:]
            shown = seen if c.qformer_sees_class else patches
            shown = model.qformer_norm(model.context.bridge(shown))
            context = model.context.attend(model.qformer(shown, text, valid), patches)  # [S, W]
            pooled = jnp.concatenate([context[:, None].astype(patches.dtype), self._pool(patches)], axis=1)
            return pooled.reshape(batch, count, *pooled.shape[1:])

        return self._in_turn(ask, (guide.frame, guide.query))

    def project(self, pooled: jax.Array) -> jax.Array:
        """[B, N, image_tokens, W] -> [B, N * image_tokens, D]"""
        pooled = pooled.astype(dtype_of(self.config.decoder.dtype))
        context, content = self.context.value(pooled[:, :, :1]), self.projector(pooled[:, :, 1:])
        tokens = jnp.concatenate([context, content], axis=2)
        return tokens.reshape(tokens.shape[0], -1, tokens.shape[-1])

    def _pool(self, patches: jax.Array) -> jax.Array:
        """[S, P, W] -> [S, content tokens, W]: square windows of patches, averaged."""
        c = self.config
        if c.compress == "none":
            return patches
        if c.compress == "mean":
            return patches.mean(axis=1, keepdims=True)
        side, out = c.side, content_side(c.compress, c.side)
        stride = side // int(c.compress.partition(":")[2])
        grid = patches.reshape(-1, side, side, patches.shape[-1])[:, : out * stride, : out * stride]
        windows = grid.reshape(grid.shape[0], out, stride, out, stride, grid.shape[-1])
        return windows.mean(axis=(2, 4)).reshape(grid.shape[0], out * out, grid.shape[-1])

    def _in_turn(self, run: Any, inputs: Any) -> jax.Array:
        """`run(model, inputs)` over parts of the second axis, [B, n, ...] -> [B, n, ...], `at_once` at a time.

        The backward pass computes each part anew.
        """
        c = self.config
        count = jax.tree.leaves(inputs)[0].shape[1]
        if count <= c.at_once or self.is_initializing():
            return run(self, inputs)
        parts = -(-count // c.at_once)

        def cut(x: jax.Array) -> jax.Array:
            pad = [(0, 0), (0, parts * c.at_once - count), *[(0, 0)] * (x.ndim - 2)]
            cut_up = jnp.pad(x, pad).reshape(x.shape[0], parts, c.at_once, *x.shape[2:])
            return jnp.moveaxis(cut_up, 1, 0)  # [parts, B, at_once, ...]

        def step(model: LlamaVidModel, carry: tuple, part: Any) -> tuple[tuple, jax.Array]:
            return carry, run(model, part)

        scan: Any = nn.scan
        loop = scan(
            nn.remat(step, prevent_cse=False),
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True},
        )
        _, out = loop(self, (), jax.tree.map(cut, inputs))  # [parts, B, at_once, ...]
        joined = jnp.moveaxis(out, 0, 1)
        return joined.reshape(joined.shape[0], parts * c.at_once, *joined.shape[3:])[:, :count]

    def first_guide(self) -> Guide:
        one = jnp.zeros((1, 1), jnp.int32)
        return Guide(one, one, jnp.zeros((1, 1, 1), jnp.int32), jnp.ones((1, 1, 1), bool))


def llama_vid(
    size: str = "7b", dtype: str = "bfloat16", param_dtype: str = "float32", image_size: int = 224
) -> LlamaVidConfig:
    """LLaMA-VID as published: EVA-CLIP-G, InstructBLIP's Q-Former, Vicuna 7b or 13b, two tokens a frame."""

    vision = EvaVisionConfig(1408, 6144, 39, 16, image_size=image_size, patch_size=14)
    base = llava_1_5(size)
    return LlamaVidConfig(
        vision, base.decoder, base.image_token, image_mode="pad", qformer=QFormerConfig()
    ).with_dtypes(dtype, param_dtype)


def llama_vid_long(size: str = "7b", dtype: str = "bfloat16", param_dtype: str = "float32") -> LlamaVidConfig:
    """LLaMA-VID's third stage: rows of 65,536 tokens by positions divided by 16, features kept without a class token.

    16 is the row over Vicuna's 4096 positions (`llamavid/train/train.py`: linear scaling by that quotient, rounded up).
    """
    model = llama_vid(size, dtype, param_dtype)
    return model.replace(decoder=model.decoder.stretched(16.0), qformer_sees_class=False)
