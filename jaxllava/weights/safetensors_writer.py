"""Writes safetensors one tensor at a time: the library's own writer wants a whole file's tensors in memory at once.

The format: the header's length as 8 little-endian bytes, the header as JSON, the tensors' bytes one after another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from jaxllava.weights import manifest
from jaxllava.weights.lazy import SAFETENSORS_DTYPES, Tensor, read_ahead, total_bytes

SHARD_BYTES = 5 * 10**9
_NAMES = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}


def write(
    folder: Path,
    tensors: Mapping[str, Tensor],
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Writes model.safetensors, or numbered shards and their index once the tensors exceed `shard_bytes`.

    A manifest of all tensors stands beside them. `progress` is told the bytes of each tensor that is written.
    """
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    entries: dict[str, manifest.Entry] = {}
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        single = len(shards) == 1
        file = "model.safetensors" if single else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / file, shard, entries, progress)
        weight_map |= dict.fromkeys(shard, file)
    manifest.write(folder, entries)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total_bytes(tensors)}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _write_file(
    path: Path,
    tensors: Mapping[str, Tensor],
    entries: dict[str, manifest.Entry],
    progress: Callable[[int], None],
) -> None:
    # Wide dtypes first, as the library does it, so that every tensor begins at a multiple of its item size.
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the data begin at a multiple of 8
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for (name, tensor), read in zip(tensors.items(), read_ahead(tensors.values()), strict=True):
            array = np.ascontiguousarray(read)
            if array.nbytes != tensor.nbytes or array.dtype != tensor.dtype:
                raise AssertionError(f"{name}: read {array.dtype} {array.shape}, promised {tensor.dtype}")
            entries[name] = manifest.entry([array], tensor.shape, tensor.dtype)
            file.write(array.reshape(-1).view(np.uint8).data)
            progress(tensor.nbytes)
