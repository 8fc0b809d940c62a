"""What a model keeps of frames, on disk: one file for each video or sample, named by the hash of what made it."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from input_pipeline.errors import UserError


class FrameCache:
    """Arrays [F, ...] by key. Writers may be many: a file appears under its name when it is whole. It pickles small."""

    def __init__(self, folder: str | Path, model: str) -> None:
        """`model`: an identity of the weights that see; what another tower sees is something else. Raises UserError."""
        if Path(folder).is_file():
            raise UserError(f"features: {folder} is a file; name a folder")
        self.folder = Path(folder)
        self.model = model

    def path(self, key: str) -> Path:
        """`key` tells what was seen: a medium's bytes and how its frames were chosen and cut out, or a sample."""
        name = hashlib.sha256(f"{self.model}\0{key}".encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}.features"

    def read(self, key: str) -> np.ndarray | None:
        """The array, mapped; None where it is not there. A damaged file is as good as none."""
        path = self.path(key)
        try:
            with path.open("rb") as file:
                head = json.loads(file.readline())
                start = file.tell()
            dtype = np.dtype(getattr(ml_dtypes, head["dtype"], head["dtype"]))
            shape = tuple(head["shape"])
            if path.stat().st_size != start + int(np.prod(shape)) * dtype.itemsize:
                return None
            return np.memmap(path, dtype, "r", start, shape)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, key: str, parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields the parts [n, ...] on, and keeps them under `key` when the last one has come."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        # The head has to tell the length, which is known at the end: the frames wait in a file of their own.
        with tempfile.TemporaryFile(dir=path.parent) as body:
            shape, dtype = None, ""
            for part in parts:
                body.write(np.ascontiguousarray(part).tobytes())
                shape = (shape[0] + len(part) if shape else len(part), *part.shape[1:])
                dtype = str(part.dtype)
                yield part
            if shape is None:
                return
            body.seek(0)
            # Not named by process: hosts that share a disk may well have the same process ids.
            handle, unfinished = tempfile.mkstemp(".partial", f"{path.name}.", path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(json.dumps({"shape": shape, "dtype": dtype}).encode() + b"\n")
                    while chunk := body.read(1 << 24):
                        file.write(chunk)
                os.replace(unfinished, path)  # noqa: PTH105
            except BaseException:
                Path(unfinished).unlink(missing_ok=True)
                raise

    def put(self, key: str, array: np.ndarray) -> None:
        """`write` of an array that is whole."""
        for _ in self.write(key, [array]):
            pass


def file_key(sha256: str, **how: Any) -> str:
    """What names a video's frames: its bytes' hash, and how they are chosen and made into pixels."""
    return json.dumps([sha256, how], sort_keys=True, default=str)
