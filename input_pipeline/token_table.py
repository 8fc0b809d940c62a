"""Every sample of a split as tokens and labels, computed once and cached under a hash of what it depends on.

A table is a folder of .npy files that are mapped, not read: a million conversations cost no memory until their rows are
built. An image is one mark in it, and becomes its positions when a sample is asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from input_pipeline.conversation import Template
from input_pipeline.encoding import IGNORE, Encoded
from input_pipeline.errors import UserError
from input_pipeline.token_chunks import MARK, Job, Progress, Skipped, chunks
from input_pipeline.tokenizer import IMAGE_TOKEN
from input_pipeline.types import Record

FORMAT = 2  # of the folder; another one is another cache
_STALE_HOURS = 24.0  # an unfinished table that nobody wrote to for so long is a crashed run's
# Per-token and per-sample arrays, each one file. `offsets` is one longer than there are samples.
DTYPES: dict[str, Any] = {
    "tokens": np.int32,
    "supervised": np.bool_,
    "offsets": np.int64,
    "images": np.int32,
    "words": np.int32,
    "record": np.int64,
}


@dataclass(frozen=True, eq=False)
class TokenTable:
    """N samples: sample i is `[offsets[i]:offsets[i + 1]]` of tokens and supervised, with each image as one MARK.

    It pickles to its path, for worker processes, where it has one.
    """

    tokens: np.ndarray  # int32 [T]
    supervised: np.ndarray  # bool [T]: the token is a label
    offsets: np.ndarray  # int64 [N + 1]
    images: np.ndarray  # int32 [N]
    words: np.ndarray  # int32 [N]: whitespace-separated words of all turns, by which LLaVA groups samples
    record: np.ndarray  # int64 [N]: the sample's record number in its split
    image_tokens: int  # positions that an image takes
    image_id: int  # the token that stands in them
    skipped: dict[str, int]  # samples left out, by reason
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]: tokens of each sample, its images' positions included."""
        return np.diff(self.offsets) + self.images.astype(np.int64) * (self.image_tokens - 1)

    def __getitem__(self, index: int) -> Encoded:
        """Sample `index` with its images' positions written out."""
        span = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        marked = np.asarray(self.tokens[span])
        is_image = marked == MARK
        tokens = np.where(is_image, np.int32(self.image_id), marked)
        labels = np.where(self.supervised[span], marked, np.int32(IGNORE))
        images = int(self.images[index])
        if images:
            times = np.where(is_image, self.image_tokens, 1)
            tokens, labels, is_image = (np.repeat(values, times) for values in (tokens, labels, is_image))
        image_index = np.full(len(tokens), -1, np.int32)
        image_index[is_image] = np.arange(images * self.image_tokens, dtype=np.int32)
        return Encoded(tokens, labels, image_index, images)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path:
            return open_table, (self.path,)
        return TokenTable, tuple(getattr(self, field.name) for field in fields(self))


class _GrowingArray:
    """A .npy file that is written from its start to its end. numpy leaves room in its head for any length."""

    def __init__(self, path: Path, dtype: Any) -> None:
        self._file, self._dtype, self._length = path.open("wb"), np.dtype(dtype), 0
        self._head()

    def _head(self) -> None:
        shape = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._length,),
        }
        np.lib.format.write_array_header_1_0(self._file, shape)

    def append(self, values: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(values, self._dtype).tobytes())
        self._length += len(values)

    def close(self) -> None:
        """Writes the final length; when this returns, the file will outlive a machine that stops."""
        start = self._file.tell() - self._length * self._dtype.itemsize
        self._file.seek(0)
        self._head()
        assert self._file.tell() == start, "the head of a .npy file grew"
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def _image_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The id that fills an image's positions; one without `<image>` has no images to fill."""
    found = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    return found if isinstance(found, int) else 0


def build(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerFast,
    template: Template,
    image_tokens: int,
    max_tokens: int,
    progress: Progress | None = None,
    reference_quirks: bool = False,
) -> TokenTable:
    """Encodes every record, in memory. Too long ones are cut at `max_tokens`; ones that would lose an image are
    skipped."""
    job = Job(records, tokenizer, template, image_tokens, max_tokens, reference_quirks)
    skipped = Skipped()
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*DTYPES, "sizes")}
    for chunk in chunks(job, 0, progress):
        skipped.add(chunk)
        for name, values in chunk.arrays.items():
            parts[name].append(values)
    parts["offsets"] = [
        np.zeros(1, np.int64),
        np.cumsum(np.concatenate([np.zeros(0, np.int64), *parts.pop("sizes")])),
    ]
    joined: dict[str, Any] = {
        name: np.concatenate([np.zeros(0, dtype), *parts[name]]).astype(dtype)
        for name, dtype in DTYPES.items()
    }
    return TokenTable(
        **joined, image_tokens=image_tokens, image_id=_image_id(tokenizer), skipped=skipped.counts
    )


def _write(job: Job, folder: Path, workers: int, progress: Progress | None) -> None:
    """Encodes every record into the files of a table; memory does not grow with their number."""
    skipped, total = Skipped(), 0
    files = {name: _GrowingArray(folder / f"{name}.npy", dtype) for name, dtype in DTYPES.items()}
    files["offsets"].append(np.zeros(1, np.int64))
    with contextlib.closing(chunks(job, workers, progress)) as parts:
        for chunk in parts:
            skipped.add(chunk)
            ends = total + np.cumsum(chunk.arrays.pop("sizes"))
            total = int(ends[-1]) if len(ends) else total
            for name, values in {**chunk.arrays, "offsets": ends}.items():
                files[name].append(values)
    for file in files.values():
        file.close()
    said = {
        "image_tokens": job.image_tokens,
        "image_id": _image_id(job.tokenizer),
        "skipped": skipped.counts,
        "bytes": {name: (folder / f"{name}.npy").stat().st_size for name in DTYPES},
    }
    (folder / "table.json").write_text(json.dumps(said, indent=1, sort_keys=True))


def open_table(path: Path) -> TokenTable:
    """Opens a table that `cached` wrote. Its arrays are mapped read-only."""
    try:
        said = json.loads((path / "table.json").read_text())
        for name, size in said["bytes"].items():
            if (path / f"{name}.npy").stat().st_size != size:
                raise ValueError(f"{name}.npy has not its {size} bytes")
        # As plain arrays: each view of a np.memmap costs as much as reading a sample.
        arrays = {name: np.asarray(np.load(path / f"{name}.npy", mmap_mode="r")) for name in DTYPES}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: this cache of tokens is damaged ({error}); delete it to have it made again"
        ) from None
    return TokenTable(
        **arrays,
        image_tokens=said["image_tokens"],
        image_id=said["image_id"],
        skipped=said["skipped"],
        path=path,
    )


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def cached(
    cache_dir: Path,
    records: Sequence[Record],
    data_hash: str,
    tokenizer: PreTrainedTokenizerFast,
    template: Template,
    image_tokens: int,
    max_tokens: int,
    progress: Progress | None = None,
    reference_quirks: bool = False,
    workers: int = 0,
) -> TokenTable:
    """What `build` gives as files in `cache_dir`, or an earlier result where data, tokenizer, template and lengths are
    the same.

    The folder appears under its name when it is whole. Several runs and hosts may fill one cache at a time: the first
    one to end is taken.

    Args: workers: processes that encode; the files do not depend on it.
    """
    key = json.dumps(
        [
            FORMAT,
            data_hash,
            tokenizer_hash(tokenizer),
            repr(template),
            image_tokens,
            max_tokens,
            reference_quirks,
        ]
    )
    path = cache_dir / f"tokens-{hashlib.sha256(key.encode()).hexdigest()[:20]}"
    if not path.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        _sweep(cache_dir, path.name)
        # Not named by process: hosts that share a disk may well have the same process ids.
        unfinished = Path(tempfile.mkdtemp(".partial", f"{path.name}.", cache_dir))
        unfinished.chmod(0o755)
        try:
            job = Job(records, tokenizer, template, image_tokens, max_tokens, reference_quirks)
            _write(job, unfinished, workers, progress)
            try:
                unfinished.rename(path)
            except OSError:
                if not path.exists():
                    raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return open_table(path)


def _sweep(cache_dir: Path, name: str) -> None:
    """Removes what a run that was killed left of this table."""
    for left in cache_dir.glob(f"{name}.*.partial"):
        newest = max((file.stat().st_mtime for file in [left, *left.iterdir()]), default=0.0)
        if time.time() - newest > _STALE_HOURS * 3600:
            shutil.rmtree(left, ignore_errors=True)
