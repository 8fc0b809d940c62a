"""The pack plan: which samples share a row of the batch. Offline, seeded, a pure function of the lengths.

An online packer's output depends on how many workers feed it; a plan made beforehand does not, so the batch at step k
is a function of (data, config, k) alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PackPlan:
    """Row r holds the samples `samples[starts[r]:starts[r + 1]]`, in order."""

    samples: np.ndarray  # int64 [N]
    starts: np.ndarray  # int64 [R + 1]
    fill: float  # share of the rows' token positions that hold a token

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.samples[self.starts[row] : self.starts[row + 1]]


def mixture(
    sizes: Sequence[int], weights: Sequence[float], seed: int, epochs: float = 1.0
) -> list[tuple[int, int]]:
    """Epochs of a mixture as (table, sample) pairs: table 0 so often, the others in proportion to their weights.

    Each table is gone through pass by pass, so that no sample comes again before all others have come. The last
    pass, and every pass but table 0's first, is in a new order. `weights` (1, 1) with 2.2 epochs is the paper's.
    """
    if len(sizes) != len(weights):
        raise ValueError("one weight per table")
    pairs: list[tuple[int, int]] = []
    for table, size in enumerate(sizes):
        wanted = round(sizes[0] * epochs * weights[table] / weights[0])
        rng = np.random.default_rng((seed, table))
        taken = list(range(size)) if table == 0 and wanted >= size else []
        while size and len(taken) < wanted:
            taken.extend(rng.permutation(size)[: wanted - len(taken)].tolist())
        pairs.extend((table, sample) for sample in taken)
    return pairs


def plan(
    lengths: np.ndarray,
    images: np.ndarray,
    row_tokens: int,
    row_images: int,
    *,
    seed: int,
    window: int = 4096,
) -> PackPlan:
    """First-fit-decreasing over (tokens, images) inside seeded windows of `window` samples.

    lengths, images: int [N]. A sample must fit into an empty row (ValueError names it otherwise). Sorting inside
    windows of a shuffled order keeps the rows' contents random over the whole data set.
    """
    too_big = np.flatnonzero((lengths > row_tokens) | (images > row_images))
    if len(too_big):
        first = int(too_big[0])
        raise ValueError(
            f"sample {first} ({lengths[first]} tokens, {images[first]} images) does not fit into a row of "
            f"{row_tokens} tokens and {row_images} images"
        )
    order = np.random.default_rng(seed).permutation(len(lengths))
    rows: list[list[int]] = []
    for start in range(0, len(order), window):
        block = order[start : start + window]
        block = block[np.argsort(-lengths[block], kind="stable")]
        rows.extend(_first_fit(block, lengths, images, row_tokens, row_images))
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)])
    samples = np.asarray([sample for row in rows for sample in row], np.int64)
    fill = float(lengths.sum()) / max(len(rows) * row_tokens, 1)
    return PackPlan(samples, starts.astype(np.int64), fill)


def _first_fit(
    block: np.ndarray, lengths: np.ndarray, images: np.ndarray, row_tokens: int, row_images: int
) -> list[list[int]]:
    """First row with room for each sample. The rows' rooms are arrays, so that the search is one comparison."""
    token_room = np.full(len(block), row_tokens)
    image_room = np.full(len(block), row_images)
    rows: list[list[int]] = []
    for sample in block:
        open_rows = len(rows) + 1  # one empty row is always on offer
        fits = (token_room[:open_rows] >= lengths[sample]) & (image_room[:open_rows] >= images[sample])
        row = int(np.argmax(fits))
        if row == len(rows):
            rows.append([])
        rows[row].append(int(sample))
        token_room[row] -= lengths[sample]
        image_room[row] -= images[sample]
    return rows
