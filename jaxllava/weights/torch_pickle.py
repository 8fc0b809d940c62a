"""Reads the tensors of a torch `.bin` file without torch, and without running anything that the file says.

A `.bin` file is a zip archive: a pickle that describes tensors, and their raw storages. The pickle is read by an
unpickler that knows the few names which state dicts need and refuses every other (as torch's `weights_only=True` does).
Storages are mapped, not read: a tensor takes memory when it is looked at.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from input_pipeline.errors import UserError

_DTYPES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip entry: the lengths of its name and of its extra field


class _Storage(NamedTuple):
    dtype: Any
    key: str
    count: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild_tensor(storage: _Storage, offset: int, shape: Any, stride: Any, *_: Any) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


def _rebuild_parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    return tensor


class _Refused(Exception):
    pass


_KNOWN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module in ("torch", "torch.storage") and name in _DTYPES:
            return _DTYPES[name]
        raise _Refused(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count = pid
        if kind != "storage":
            raise _Refused(f"a {kind}")
        return _Storage(dtype, str(key), int(count))


def _named(found: Any, prefix: str = "", within: int = 4) -> list[tuple[str, _Tensor]] | None:
    """The tensors of a dict, those of dicts in it as `outer.inner`; None where it holds anything else."""
    if not isinstance(found, dict) or not within:
        return None
    named: list[tuple[str, _Tensor]] = []
    for name, value in found.items():
        inner = (
            [(prefix + str(name), value)]
            if isinstance(value, _Tensor)
            else _named(value, f"{prefix}{name}.", within - 1)
        )
        if inner is None:
            return None
        named += inner
    return named


class TorchFile(Mapping[str, np.ndarray]):
    """The tensors of one `.bin` or `.pth` file by name, as arrays on the mapped file. Those of a dict within
    (`{"model": state_dict}`) are named `model.NAME`.

    UserError for a file that is no torch archive, is cut, holds anything else than tensors, or names code to run.
    """

    def __init__(self, path: str | Path):
        self._path = Path(path)
        try:
            with zipfile.ZipFile(self._path) as archive:
                self._entries = {item.filename: item for item in archive.infolist()}
                (self._root,) = [n.removesuffix("data.pkl") for n in self._entries if n.endswith("/data.pkl")]
                order = self._entries.get(f"{self._root}byteorder")
                if order is not None and archive.read(order) != b"little":
                    raise UserError(f"{path}: was written on a big-endian machine; save it again on another.")
                found = _Unpickler(io.BytesIO(archive.read(f"{self._root}data.pkl"))).load()
        except _Refused as error:
            raise UserError(
                f"{path}: names {error}, which a checkpoint of weights does not need; it is not read."
            ) from error
        except UserError:
            raise
        except Exception as error:  # a damaged pickle may ask for anything: nothing of it is run
            raise UserError(
                f"{path}: not a readable torch file ({error}); a file of torch < 1.6 must be saved again."
            ) from error
        named = _named(found)
        if named is None:
            raise UserError(f"{path}: holds more than named tensors; save its state_dict alone.")
        self._tensors: dict[str, _Tensor] = dict(named)
        if len(self._tensors) != len(named):
            raise UserError(f"{path}: names a tensor twice; save its state_dict alone.")

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        storage = self._storage(tensor.storage)
        width = storage.itemsize
        last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=True))
        empty = 0 in tensor.shape
        if tensor.offset < 0 or min(tensor.stride, default=0) < 0 or (not empty and last >= len(storage)):
            raise UserError(f"{self._path}: {name} reaches outside its storage.")
        if empty:
            return np.zeros(tensor.shape, storage.dtype)
        strides = tuple(stride * width for stride in tensor.stride)
        return np.lib.stride_tricks.as_strided(
            storage[tensor.offset :], tensor.shape, strides, writeable=False
        )

    def _storage(self, storage: _Storage) -> np.ndarray:
        entry = self._entries.get(f"{self._root}data/{storage.key}")
        dtype = np.dtype(storage.dtype)
        if entry is None or entry.compress_type != zipfile.ZIP_STORED:
            raise UserError(f"{self._path}: its storage {storage.key} is missing or compressed.")
        with self._path.open("rb") as file:
            file.seek(entry.header_offset)
            name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        start = entry.header_offset + _LOCAL_HEADER.size + name + extra
        if entry.file_size < storage.count * dtype.itemsize:
            raise UserError(f"{self._path}: its storage {storage.key} is cut.")
        if not storage.count:
            return np.zeros(0, dtype)
        return np.memmap(self._path, dtype, "r", start, (storage.count,))

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
