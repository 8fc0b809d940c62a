"""`manifest.json` of a model folder: shape, dtype and hash of every tensor, so that a changed one is found out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.errors import UserError

NAME = "manifest.json"
Entry = dict[str, Any]  # {"shape": [...], "dtype": name, "sha256": hex}


def entry(array: np.ndarray) -> Entry:
    """What the manifest says of a tensor. The hash is of its bytes in C order, whatever order it has in memory."""
    array = np.asarray(array)
    # A view as bytes: hashlib knows no bfloat16.
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "sha256": hashlib.sha256(data.data).hexdigest(),
    }


def recorded(
    tensors: Iterable[tuple[str, np.ndarray]], into: dict[str, Entry]
) -> Iterator[tuple[str, np.ndarray]]:
    """Passes tensors on and notes each in `into`."""
    for name, array in tensors:
        into[name] = entry(array)
        yield name, array


def write(folder: Path, entries: Mapping[str, Entry]) -> None:
    (folder / NAME).write_text(json.dumps(entries, indent=0) + "\n")


def read(folder: Path) -> dict[str, Entry] | None:
    """The entries, or None where the folder has no manifest."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        entries = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not a readable manifest ({error}).") from error
    return entries


def differences(found: Mapping[str, Entry], said: Mapping[str, Entry]) -> list[str]:
    """How a folder's tensors differ from its manifest, a line for each."""
    lines = [f"{name}: in the manifest and not in the folder" for name in sorted(said.keys() - found.keys())]
    lines += [f"{name}: in the folder and not in the manifest" for name in sorted(found.keys() - said.keys())]
    for name in sorted(found.keys() & said.keys()):
        parts = [key for key in ("shape", "dtype", "sha256") if found[name][key] != said[name].get(key)]
        if parts:
            lines.append(f"{name}: another {' and '.join(parts)} than the manifest says")
    return lines
