"""`manifest.json` of a model folder: shape, dtype and hash of every tensor, so that a changed one is found out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.errors import UserError

NAME = "manifest.json"
Entry = dict[str, Any]  # {"shape": [...], "dtype": name, "sha256": hex}


def entry(parts: Iterable[np.ndarray], shape: Iterable[int], dtype: Any) -> Entry:
    """What the manifest says of a tensor of this shape and dtype that comes in parts along its first axis.

    The hash is of its bytes in C order, whatever order the parts have in memory.
    """
    digest = hashlib.sha256()
    for part in parts:
        # A view as bytes: hashlib knows no bfloat16.
        digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return {"shape": list(shape), "dtype": str(np.dtype(dtype)), "sha256": digest.hexdigest()}


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
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise UserError(f"{path}: not a manifest of tensors; remove it.")
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
