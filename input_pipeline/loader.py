"""Grain pipelines from packed rows to host batches to global `jax.Array`s.

Everything is a `grain.MapDataset` with `[host::hosts]`, so the global batch at step k is the same for any number of
hosts and workers, and the position of a run is one integer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import grain
import numpy as np

from input_pipeline.encoding import IGNORE
from input_pipeline.images import PAD_COLOR, open_image, preprocess
from input_pipeline.packing import PackPlan
from input_pipeline.token_table import TokenTable
from input_pipeline.types import Record

Batch = dict[str, np.ndarray]


class RandomAccess(Protocol):
    """What `grain.MapDataset.source` reads."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> Any: ...


@dataclass
class ImageReader:
    """Decodes and preprocesses the images of records; keeps up to `keep` of them, since small sets come round often."""

    size: int
    mode: str = "square"
    pad_color: tuple[int, int, int] = PAD_COLOR
    keep: int = 8192
    _kept: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, repr=False)

    def __call__(self, table: int, number: int, records: Sequence[Record]) -> np.ndarray:
        """uint8 [images of the record, size, size, 3]"""
        key = (table, number)
        if key not in self._kept:
            images = [
                preprocess(open_image(data), self.size, self.mode, self.pad_color)
                for data in records[number].images
            ]
            stacked = np.stack(images) if images else np.zeros((0, self.size, self.size, 3), np.uint8)
            if len(self._kept) >= self.keep:
                return stacked
            self._kept[key] = stacked
        return self._kept[key]


@dataclass
class PackedRows:
    """Random access to finished rows of a pack plan; see the device batch in `row`."""

    tables: Sequence[TokenTable]
    records: Sequence[Sequence[Record]]
    pairs: Sequence[tuple[int, int]]  # (table, sample) of each number in the plan
    plan: PackPlan
    row_tokens: int
    row_images: int
    image_tokens: int
    read_images: ImageReader
    pad_id: int

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: Any) -> Batch:
        """One row: tokens, targets, positions, segment_ids, image_index int32 [L], weights f32 [L], images [M,S,S,3].

        `targets` are shifted here, inside each sample, so that no sample's last token is asked to predict the next
        sample's first. Segment 0 is padding. An image's features stand at image_slot * image_tokens in the row.
        """
        length = self.row_tokens
        size = self.read_images.size
        row: Batch = {
            "tokens": np.full(length, self.pad_id, np.int32),
            "targets": np.zeros(length, np.int32),
            "weights": np.zeros(length, np.float32),
            "positions": np.zeros(length, np.int32),
            "segment_ids": np.zeros(length, np.int32),
            "image_index": np.full(length, -1, np.int32),
            "images": np.zeros((self.row_images, size, size, 3), np.uint8),
        }
        start = slot = 0
        for segment, number in enumerate(self.plan[int(index)], start=1):
            table, sample = self.pairs[number]
            encoded = self.tables[table][sample]
            span = slice(start, start + len(encoded))
            row["tokens"][span] = encoded.tokens
            targets = np.append(encoded.labels[1:], IGNORE)
            row["targets"][span] = np.where(targets == IGNORE, 0, targets)
            row["weights"][span] = targets != IGNORE
            row["positions"][span] = np.arange(len(encoded))
            row["segment_ids"][span] = segment
            row["image_index"][span] = np.where(
                encoded.image_index >= 0, encoded.image_index + slot * self.image_tokens, -1
            )
            if encoded.images:
                record = int(self.tables[table].record[sample])
                row["images"][slot : slot + encoded.images] = self.read_images(
                    table, record, self.records[table]
                )
            start += len(encoded)
            slot += encoded.images
        return row


@dataclass
class ImageTextPairs:
    """Random access to (image, caption) pairs for contrastive training."""

    table: TokenTable
    records: Sequence[Record]
    text_tokens: int
    read_images: ImageReader
    pad_id: int
    end_id: int

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: Any) -> Batch:
        """images uint8 [S,S,3], tokens int32 [T], text_length int32: the caption's tokens incl. `<s>` and `</s>`."""
        encoded = self.table[int(index)]
        record = int(self.table.record[int(index)])
        tokens = np.full(self.text_tokens, self.pad_id, np.int32)
        length = min(len(encoded), self.text_tokens)
        tokens[:length] = encoded.tokens[:length]
        tokens[length - 1] = self.end_id  # a cut caption still ends in </s>, whose state is its feature
        images = self.read_images(0, record, self.records)
        return {"images": images[0], "tokens": tokens, "text_length": np.asarray(length, np.int32)}


def batches(
    rows: RandomAccess,
    *,
    global_batch: int,
    seed: int,
    start: int = 0,
    host: int = 0,
    hosts: int = 1,
    threads: int = 2,
) -> Iterator[Batch]:
    """Endless host batches from step `start` on; each epoch has its own order."""
    if global_batch % hosts:
        raise ValueError(f"a global batch of {global_batch} does not divide over {hosts} hosts")
    dataset = (
        grain.MapDataset.source(rows)  # pyright: ignore[reportArgumentType]
        .seed(seed)
        .shuffle()
        .repeat(None)[host::hosts]
        .batch(global_batch // hosts, drop_remainder=True)
        .to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))
    )
    iterator = iter(dataset)
    if start:
        iterator.set_state({"next_index": start})  # type: ignore[arg-type]
    return iterator


def to_device(batch: Mapping[str, np.ndarray], sharding: Any) -> dict[str, Any]:
    """Host batches to global arrays: each host gives its own part of the batch axis."""
    import jax

    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(value))
        for name, value in batch.items()
    }
