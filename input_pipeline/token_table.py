"""Every sample of a split as tokens and labels, computed once and cached under a hash of what it depends on.

A table is a folder of .npy files that are mapped, not read: a million conversations cost no memory until their rows are
built. An image is one mark in it, and becomes its positions when a sample is asked for.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from input_pipeline.encoding import IGNORE, Encoded
from input_pipeline.errors import UserError
from input_pipeline.token_chunks import MARK, PARTS, SIZES, Job, Progress, Skipped, chunks
from input_pipeline.tokenizer import IMAGE_TOKEN

FORMAT = 3  # of the folder; another one is another cache
_STALE_HOURS = 24.0  # an unfinished table that nobody wrote to for so long is a crashed run's
# Each array is one file. The sizes of parts become offsets, which are one longer.
DTYPES: dict[str, Any] = {SIZES.get(name, name): dtype for name, dtype in PARTS.items()}


@dataclass(frozen=True, eq=False)
class Sample(Encoded):
    """A sample with its media's positions written out, and what they show.

    frames int32 [images]: the record's images to read. Where questions are asked, `image_index` counts the features of
    slots, else those of frames: slot_frame, slot_question int32 [S] are places in `frames` and in `questions`, whose
    members are int32 ids.
    """

    frames: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    slot_frame: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    slot_question: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    questions: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True, eq=False)
class TokenTable:
    """N samples, whose parts are `part[offsets[i]:offsets[i + 1]]` of what is held for all; a picture or video is one
    MARK among the tokens.

    It pickles to its path, for worker processes, where it has one.
    """

    tokens: np.ndarray  # int32 [T]
    supervised: np.ndarray  # bool [T]: the token is a label
    offsets: np.ndarray  # int64 [N + 1]
    frames: np.ndarray  # int32 [F]: images of the record that are read
    frame_offsets: np.ndarray  # int64 [N + 1]
    mark_start: np.ndarray  # int32 [K]: of each mark its first frame, as a place among the sample's,
    mark_count: np.ndarray  # int32 [K]: how many frames it shows,
    mark_question: np.ndarray  # int32 [K]: and in which turn of the human it stands
    mark_offsets: np.ndarray  # int64 [N + 1]
    questions: np.ndarray  # int32 [Q]: ids of all turns of the human, where a model asks them
    question_offsets: np.ndarray  # int64 [turns + 1]
    asked_offsets: np.ndarray  # int64 [N + 1]: into the turns
    words: np.ndarray  # int32 [N]: whitespace-separated words of all turns, by which LLaVA groups samples
    record: np.ndarray  # int64 [N]: the sample's record number in its split
    image_tokens: int  # positions that a frame takes, each time that it is shown
    image_id: int  # the token that stands in them
    asks: bool  # whether frames are looked at with questions
    skipped: dict[str, int]  # samples left out, by reason
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.words)

    @functools.cached_property
    def images(self) -> np.ndarray:
        """int64 [N]: frames that each sample reads."""
        return np.diff(self.frame_offsets)

    @functools.cached_property
    def slots(self) -> np.ndarray:
        """int64 [N]: how often each sample shows a frame."""
        before = np.concatenate([[0], np.cumsum(self.mark_count, dtype=np.int64)])
        return np.diff(before[self.mark_offsets])

    @property
    def turns(self) -> np.ndarray:
        """int64 [N]: questions of each sample."""
        return np.diff(self.asked_offsets)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]: tokens of each sample, its images' positions included."""
        return np.diff(self.offsets) - np.diff(self.mark_offsets) + self.slots * self.image_tokens

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` with its media's positions written out."""
        span = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        marks = slice(int(self.mark_offsets[index]), int(self.mark_offsets[index + 1]))
        start, count = self.mark_start[marks], self.mark_count[marks]
        marked = np.asarray(self.tokens[span])
        is_image = marked == MARK
        tokens = np.where(is_image, np.int32(self.image_id), marked)
        labels = np.where(self.supervised[span], marked, np.int32(IGNORE))
        times = np.ones(len(tokens), np.int64)
        times[is_image] = count * self.image_tokens
        tokens, labels, is_image = (np.repeat(values, times) for values in (tokens, labels, is_image))
        slot_frame = np.concatenate(
            [
                np.zeros(0, np.int32),
                *(np.arange(s, s + c, dtype=np.int32) for s, c in zip(start, count, strict=True)),
            ]
        )
        slot = np.arange(len(slot_frame)) if self.asks else slot_frame
        places = slot[:, None] * self.image_tokens + np.arange(self.image_tokens)
        image_index = np.full(len(tokens), -1, np.int32)
        image_index[is_image] = places.ravel()
        frames = self.frames[int(self.frame_offsets[index]) : int(self.frame_offsets[index + 1])]
        return Sample(
            tokens,
            labels,
            image_index,
            len(frames),
            frames=np.asarray(frames),
            slot_frame=slot_frame,
            slot_question=np.repeat(self.mark_question[marks], count),
            questions=tuple(self._questions(index)),
        )

    def _questions(self, index: int) -> Iterator[np.ndarray]:
        for turn in range(int(self.asked_offsets[index]), int(self.asked_offsets[index + 1])):
            yield self.questions[int(self.question_offsets[turn]) : int(self.question_offsets[turn + 1])]

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


def build(job: Job, progress: Progress | None = None) -> TokenTable:
    """Encodes every record, in memory. Too long ones are cut at `max_tokens`; ones that would lose an image are
    skipped."""
    skipped = Skipped()
    parts: dict[str, list[np.ndarray]] = {name: [] for name in PARTS}
    for chunk in chunks(job, 0, progress):
        skipped.add(chunk)
        for name, values in chunk.arrays.items():
            parts[name].append(values)
    joined: dict[str, Any] = {
        name: np.concatenate([np.zeros(0, dtype), *parts[name]]) for name, dtype in PARTS.items()
    }
    for sizes, offsets in SIZES.items():
        joined[offsets] = np.concatenate([np.zeros(1, np.int64), np.cumsum(joined.pop(sizes))])
    return TokenTable(**joined, **_described(job), skipped=skipped.counts)


def _described(job: Job) -> dict[str, Any]:
    asks = job.asker is not None
    return {"image_tokens": job.image_tokens, "image_id": _image_id(job.tokenizer), "asks": asks}


def _write(job: Job, folder: Path, workers: int, progress: Progress | None) -> None:
    """Encodes every record into the files of a table; memory does not grow with their number."""
    skipped = Skipped()
    totals = dict.fromkeys(SIZES, 0)
    files = {name: _GrowingArray(folder / f"{name}.npy", dtype) for name, dtype in DTYPES.items()}
    for offsets in SIZES.values():
        files[offsets].append(np.zeros(1, np.int64))
    with contextlib.closing(chunks(job, workers, progress)) as parts:
        for chunk in parts:
            skipped.add(chunk)
            for name, values in chunk.arrays.items():
                if name in SIZES:
                    ends = totals[name] + np.cumsum(values)
                    totals[name] = int(ends[-1]) if len(ends) else totals[name]
                    values = ends
                files[SIZES.get(name, name)].append(values)
    for file in files.values():
        file.close()
    said = {
        **_described(job),
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
        asks=said["asks"],
        skipped=said["skipped"],
        path=path,
    )


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def cached(
    cache_dir: Path, job: Job, data_hash: str, progress: Progress | None = None, workers: int = 0
) -> TokenTable:
    """What `build` gives as files in `cache_dir`, or an earlier result where data, tokenizers, template and lengths are
    the same.

    The folder appears under its name when it is whole. Several runs and hosts may fill one cache at a time: the first
    one to end is taken.

    Args: data_hash: of the job's records. workers: processes that encode; the files do not depend on it.
    """
    key = json.dumps(
        [
            FORMAT,
            data_hash,
            tokenizer_hash(job.tokenizer),
            repr(job.template),
            job.image_tokens,
            job.max_tokens,
            job.reference_quirks,
            job.most_frames,
            job.asker.hash if job.asker else None,
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
