"""Rotary positions, plain and stretched: linear, dynamic (NTK), llama3 and yarn, as `transformers` has them."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline.errors import UserError
from jaxllava.models.config import ModelConfig, check_choice

KINDS = ("linear", "dynamic", "llama3", "yarn")


@dataclasses.dataclass(frozen=True)
class RopeScaling(ModelConfig):
    """How a model's positions reach beyond those it was first trained on; names as in a config.json.

    Args:
        kind: linear (positions divided by `factor`), dynamic (the base grows with the sequence), llama3 (long waves
            divided, short ones kept), yarn (a ramp between both, and warmer attention).
        original_max_positions: of llama3 and yarn: the length of first training.
        attention_factor: yarn's factor on cos and sin; 0 means 0.1 ln(factor) + 1, or the quotient that `mscale` and
            `mscale_all_dim` give.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 0
    attention_factor: float = 0.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    truncate: bool = True

    def __post_init__(self) -> None:
        check_choice("rope scaling", self.kind, KINDS)
        if self.factor < 1:
            raise UserError(f"rope scaling: factor {self.factor} is below 1.")
        if self.kind in ("llama3", "yarn") and self.original_max_positions < 1:
            raise UserError(f"rope scaling {self.kind}: original_max_position_embeddings is missing.")


def frequencies(
    theta: float, dim: int, max_positions: int, scaling: RopeScaling | None, positions: jax.Array
) -> tuple[jax.Array, float]:
    """Angles per position, float32 [dim / 2], and the factor on cos and sin.

    Args: dim: of a head. positions: int, those of this call; only `dynamic` looks at them (at the largest).
    """
    exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    plain = np.float32(1.0) / np.float32(theta) ** exponent  # float32 throughout, as torch computes it
    if scaling is None:
        return jnp.asarray(plain), 1.0
    if scaling.kind == "linear":
        return jnp.asarray(plain / np.float32(scaling.factor)), 1.0
    if scaling.kind == "dynamic":
        length = jnp.maximum(positions.max() + 1, max_positions).astype(jnp.float32)
        grown = scaling.factor * length / max_positions - (scaling.factor - 1)
        base = theta * grown ** (dim / (dim - 2))
        return 1.0 / base**exponent, 1.0
    if scaling.kind == "llama3":
        return jnp.asarray(_llama3(plain, scaling)), 1.0
    return jnp.asarray(_yarn(plain, theta, dim, scaling)), _yarn_attention(scaling)


def _llama3(plain: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    turns = scaling.original_max_positions * plain / (2 * math.pi)  # in the length of first training
    smooth = ((turns - low) / (high - low)).astype(np.float32)
    stretched = plain / np.float32(scaling.factor)
    between = (1 - smooth) * stretched + smooth * plain
    return np.where(turns < low, stretched, np.where(turns > high, plain, between)).astype(np.float32)


def _yarn(plain: np.ndarray, theta: float, dim: int, scaling: RopeScaling) -> np.ndarray:
    def place(rotations: float) -> float:
        """The dimension whose wave turns so often in the length of first training."""
        length = scaling.original_max_positions / (rotations * 2 * math.pi)
        return dim * math.log(length) / (2 * math.log(theta))

    low, high = place(scaling.beta_fast), place(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = (np.arange(dim // 2, dtype=np.float32) - low) / (high - low if high != low else 0.001)
    kept = 1 - np.clip(ramp, 0, 1).astype(np.float32)  # 1 where the wave is left as it is
    stretched = plain / np.float32(scaling.factor)
    return (stretched * (1 - kept) + plain * kept).astype(np.float32)


def _yarn_attention(scaling: RopeScaling) -> float:
    if scaling.attention_factor:
        return scaling.attention_factor
    if scaling.factor <= 1:
        return 1.0
    scale = lambda mscale: 0.1 * mscale * math.log(scaling.factor) + 1.0
    if scaling.mscale and scaling.mscale_all_dim:
        return scale(scaling.mscale) / scale(scaling.mscale_all_dim)
    return scale(1.0)


def rotate(x: jax.Array, positions: jax.Array, frequency: jax.Array, factor: float = 1.0) -> jax.Array:
    """Rotates heads by their positions, in the half-split convention of Hugging Face Llama.

    The two halves of each head are the real and imaginary parts (the original Llama code interleaves them).

    Args: x [B, T, H, D]; positions int [B, T]; frequency float32 [D / 2]; factor: on cos and sin. Returns
    [B, T, H, D] in x's dtype; the angles are float32.
    """
    angle = positions[..., None, None].astype(jnp.float32) * frequency  # [B, T, 1, D/2]
    cos, sin = jnp.cos(angle) * factor, jnp.sin(angle) * factor
    real, imag = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([real * cos - imag * sin, imag * cos + real * sin], axis=-1).astype(x.dtype)
