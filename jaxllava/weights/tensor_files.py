"""The tensors of a checkpoint folder by name: safetensors before `.bin`, one file or shards with an index."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from input_pipeline.errors import UserError
from jaxllava.weights.lazy import SAFETENSORS_DTYPES, Tensor
from jaxllava.weights.torch_pickle import TorchFile

# (index, single file) in the order of preference; the stems of models and of LoRA adapters.
_LAYOUTS = tuple(
    (f"{stem}.{suffix}.index.json", f"{stem}.{suffix}")
    for stem, suffix in (
        ("model", "safetensors"),
        ("pytorch_model", "bin"),
        ("adapter_model", "safetensors"),
        ("adapter_model", "bin"),
    )
)


class TensorFiles(Mapping[str, Tensor]):
    """All tensors of a folder's weight files by name; each is read from disk when asked for.

    Args:
        directory: holds model.safetensors or pytorch_model.bin, whole or in shards with their index.
        rename: what a stored name is called here.
        files: read these instead (paths).

    UserError for a missing shard, a file that cannot be read, a tensor that the index names and no file has, and a
    name that is there twice.
    """

    def __init__(
        self,
        directory: Path,
        rename: Callable[[str], str] = lambda name: name,
        files: Iterable[Path] | None = None,
    ):
        self._directory = directory
        indexed: set[str] = set()
        if files is None:
            files, indexed = _find(directory)
        self._origin: dict[str, tuple[Any, str]] = {}  # name -> (open file, name in the file)
        twice = []
        stored_names: set[str] = set()
        for file in files:
            opened, names = _open(file)
            stored_names.update(names)
            for stored in names:
                name = rename(stored)
                twice += [name] if name in self._origin else []
                self._origin[name] = (opened, stored)
        if twice:
            raise UserError(f"{directory}: these tensors are there twice: {', '.join(twice)}")
        if lost := sorted(indexed - stored_names):
            raise UserError(
                f"{directory}: its index names {len(lost)} tensors that no file has ({', '.join(lost[:5])}); "
                "fetch the folder again."
            )

    def __getitem__(self, name: str) -> Tensor:
        opened, stored = self._origin[name]
        if isinstance(opened, TorchFile):
            array = opened[stored]  # mapped, not read
            return Tensor(array.shape, array.dtype, lambda: array)
        part = opened.get_slice(stored)
        if part.get_dtype() not in SAFETENSORS_DTYPES:
            raise UserError(
                f"{self._directory}: {stored} has dtype {part.get_dtype()}, which is not read here."
            )
        dtype = SAFETENSORS_DTYPES[part.get_dtype()]
        return Tensor(tuple(part.get_shape()), dtype, lambda: opened.get_tensor(stored))

    def __iter__(self) -> Iterator[str]:
        return iter(self._origin)

    def __len__(self) -> int:
        return len(self._origin)


def has_model(directory: Path) -> bool:
    """Whether a folder has a model's weight files (an adapter's do not count)."""
    names = [name for layout in _LAYOUTS for name in layout if not name.startswith("adapter")]
    return any((directory / name).is_file() for name in names)


def _find(directory: Path) -> tuple[list[Path], set[str]]:
    """The weight files of a folder, and the names that their index promises."""
    for index, single in _LAYOUTS:
        if (directory / index).is_file():
            try:
                weight_map = json.loads((directory / index).read_text())["weight_map"]
                files = [directory / name for name in sorted(set(weight_map.values()))]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{directory / index}: not a readable index ({error}).") from error
            if missing := [file.name for file in files if not file.is_file()]:
                raise UserError(
                    f"{directory}: these shards are missing: {', '.join(missing)}; fetch them (the index is {index})."
                )
            return files, set(weight_map)
        if (directory / single).is_file():
            return [directory / single], set()
    raise UserError(f"{directory}: has no model.safetensors and no pytorch_model.bin.")


def _open(file: Path) -> tuple[Any, list[str]]:
    if file.suffix != ".safetensors":
        opened = TorchFile(file)
        return opened, list(opened)
    try:
        opened = safe_open(file, framework="numpy")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: not a readable safetensors file ({error}); fetch it again.") from error
    return opened, list(opened.keys())
