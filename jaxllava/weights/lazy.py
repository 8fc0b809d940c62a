"""Weights that are not read yet: a `Tensor` of a checkpoint, a `Leaf` of a parameter tree.

A conversion goes through them one layer of one parameter at a time, so that its memory does not depend on the model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np

from input_pipeline.errors import UserError
from jaxllava.rules import Params, flatten, unflatten


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """Shape, numpy dtype, and a function that reads the array."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @classmethod
    def of(cls, array: Any) -> Tensor:
        """An array in memory (numpy or jax)."""
        return cls(tuple(array.shape), np.dtype(array.dtype), lambda: np.asarray(array))

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def astype(self, dtype: Any) -> Tensor:
        new = np.dtype(dtype)
        return self if new == self.dtype else Tensor(self.shape, new, lambda: _cast(self.read(), new))

    def transposed(self, axes: tuple[int, ...] | None) -> Tensor:
        """The axes in another order; None leaves them."""
        if axes is None:
            return self
        return Tensor(tuple(self.shape[a] for a in axes), self.dtype, lambda: _transposed(self.read(), axes))

    def reshaped(self, shape: tuple[int, ...]) -> Tensor:
        return Tensor(shape, self.dtype, lambda: self.read().reshape(shape))


def _cast(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):
        found = array.astype(dtype)
    if dtype == np.float16 and not np.isfinite(found).all() and np.isfinite(array).all():
        raise UserError(
            f"a weight of {np.abs(array).max():.3g} does not fit float16; use bfloat16 or float32."
        )
    return found


def _transposed(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """In C order. Matrices go by 64 rows at a time, which fit the cache: about three times as fast as numpy's copy."""
    # As integers: numpy moves a bfloat16 with a call each, and holds the interpreter's lock over it.
    plain = array.view(f"u{array.dtype.itemsize}")
    if axes != (1, 0):
        return np.ascontiguousarray(plain.transpose(axes)).view(array.dtype)
    out = np.empty(array.shape[::-1], plain.dtype)
    for start in range(0, len(array), 64):
        out[:, start : start + 64] = plain[start : start + 64].T
    return out.view(array.dtype)


def read_ahead(tensors: Iterable[Tensor]) -> Iterator[np.ndarray]:
    """The arrays of some tensors in order; while one is used the next one is read, so two are in memory."""
    with ThreadPoolExecutor(1) as reader:
        following: Future[np.ndarray] | None = None
        for tensor in tensors:
            upcoming = reader.submit(tensor.read)
            if following is not None:
                yield following.result()
            following = upcoming
        if following is not None:
            yield following.result()


@dataclasses.dataclass(frozen=True, eq=False)
class Leaf:
    """A parameter as pieces: one for each layer where layers are stacked on the first axis, else a single one."""

    pieces: tuple[Tensor, ...]
    stacked: bool

    @classmethod
    def of(cls, array: Any, path: str) -> Leaf:
        """An array in memory (numpy or jax); `path` tells whether it stacks layers."""
        if not is_stacked(path):
            return cls((Tensor.of(array),), False)
        shape, dtype = tuple(array.shape[1:]), np.dtype(array.dtype)
        # The index is bound now: a closure over the loop variable would read the last layer every time.
        pieces = [Tensor(shape, dtype, lambda i=i: np.asarray(array[i])) for i in range(array.shape[0])]
        return cls(tuple(pieces), True)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.pieces), *self.pieces[0].shape) if self.stacked else self.pieces[0].shape

    @property
    def dtype(self) -> np.dtype:
        """Of the pieces; the wider one where they differ."""
        found = self.pieces[0].dtype
        for piece in self.pieces[1:]:
            found = found if piece.dtype == found else np.promote_types(found, piece.dtype)
        return found

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def astype(self, dtype: Any) -> Leaf:
        return Leaf(tuple(piece.astype(dtype) for piece in self.pieces), self.stacked)

    def parts(self) -> Iterator[np.ndarray]:
        """The pieces, read one after another, in the leaf's dtype."""
        dtype = self.dtype
        return read_ahead(piece.astype(dtype) for piece in self.pieces)

    def read(self) -> np.ndarray:
        """The whole parameter."""
        if not self.stacked:
            return self.pieces[0].read()
        whole = np.empty(self.shape, self.dtype)
        for i, part in enumerate(self.parts()):
            whole[i] = part
        return whole


def is_stacked(path: str) -> bool:
    """Whether a parameter has a leading axis of layers."""
    return "layers" in path.split("/")


def lazy(params: Params) -> Params:
    """A tree of arrays (or of Leaf) as a tree of Leaf."""
    return unflatten(
        {
            path: leaf if isinstance(leaf, Leaf) else Leaf.of(leaf, path)
            for path, leaf in flatten(params).items()
        }
    )


def read(leaves: Params, put: Callable[[np.ndarray], Any] = lambda array: array) -> Params:
    """A tree of Leaf as a tree of arrays, read one after another; `put` may bring each to a device."""
    return unflatten({path: put(leaf.read()) for path, leaf in flatten(leaves).items()})


def astype(leaves: Params, dtype: Any) -> Params:
    """A tree of Leaf in another float dtype."""
    return unflatten({path: leaf.astype(dtype) for path, leaf in flatten(leaves).items()})


def total_bytes(tensors: Mapping[str, Tensor] | Params) -> int:
    return sum(leaf.nbytes for leaf in flatten(dict(tensors)).values())


# What safetensors calls the dtypes.
SAFETENSORS_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


def dtype_named(name: str) -> np.dtype:
    """The numpy dtype of "bfloat16", "float32", ... (numpy alone does not know the first)."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)
