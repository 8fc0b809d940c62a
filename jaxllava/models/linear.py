"""The linear layer of every model here: a plain kernel, one in four bits, and a low-rank adapter beside either."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from jaxllava.quantize import dequantize

# Leaves that stay in the dtype that they come in, whatever dtype a model's other frozen parameters are held in.
ADAPTER = ("lora_a", "lora_b", "lora_scale", "lora_dropout")
QUANTIZED = ("kernel_codes", "kernel_scales")


def keeps_dtype(path: str) -> bool:
    """Whether the parameter at `path` is one that no change of a model's dtype may touch."""
    return path.rpartition("/")[2] in (*ADAPTER, *QUANTIZED)


def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[..., in] times [in, out]."""
    return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


@partial(jax.checkpoint, prevent_cse=False)
def _quantized_product(x: jax.Array, codes: jax.Array, scales: jax.Array) -> jax.Array:
    # The backward pass dequantises anew: else a scan would keep the full kernels of all layers for it.
    return _product(x, dequantize(codes, scales, x.dtype))


class Linear(nn.Module):
    """`nn.Dense` with more forms of parameters: [..., in] -> [..., features], the same numbers from the same ones.

    Fresh parameters are `kernel` [in, features] and `bias` [features]; no other is ever made here. What is found:

    - `kernel_codes` uint8 [in / 2, features] and `kernel_scales` float32 [in / block, features] in place of `kernel`:
      dequantised here, into the compute dtype, so that one layer's kernel is whole at a time (`jaxllava.quantize`).
    - `lora_a` [in, r], `lora_b` [r, features], `lora_scale` [] and `lora_dropout` [], all float32 (`jaxllava.lora`):
      adds lora_scale * dropout(x) @ lora_a @ lora_b, computed in the compute dtype (Hu et al. 2021; PEFT's LoRA
      layer). Inputs are dropped only under an rng named "dropout". Scale and rate get no gradient.

    Stacked layers have these leaves stacked too; the scan slices them.
    """

    features: int
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        kernel = bias = None
        quantized = self.has_variable("params", "kernel_codes")
        if not quantized:
            shape = (inputs.shape[-1], self.features)
            kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), self.param_dtype)
        x, kernel, bias = promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        assert x is not None
        if quantized:
            y = _quantized_product(x, self._leaf("kernel_codes"), self._leaf("kernel_scales"))
        else:
            assert kernel is not None
            y = _product(x, kernel)
        if bias is not None:
            y += jnp.reshape(bias, (1,) * (y.ndim - 1) + (-1,))
        return y + self._adapter(x) if self.has_variable("params", "lora_a") else y

    def _leaf(self, name: str) -> jax.Array:
        return self.get_variable("params", name)

    def _adapter(self, x: jax.Array) -> jax.Array:
        """[..., in] -> [..., features], what the adapter adds."""
        a, b, scale, rate = (self._leaf(name) for name in ADAPTER)
        scale, rate = jax.lax.stop_gradient((scale, rate))
        if self.has_rng("dropout"):
            keep = 1 - rate
            kept = jax.random.bernoulli(self.make_rng("dropout"), keep, x.shape)
            x = jnp.where(kept, x / keep.astype(x.dtype), 0)
        low = _product(x, a.astype(x.dtype))  # [..., r]
        return scale.astype(x.dtype) * _product(low, b.astype(x.dtype))
