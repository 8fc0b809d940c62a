"""LLaVA's own batches, one sample a row, for comparison with packing.

`group_by_modality_length` is the sampler of LLaVA's training (`llava/train/llava_trainer.py`), with which its published
models were made. `padded_plan` makes rows of its order.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence

import numpy as np

from input_pipeline.packing import PackPlan

Permutation = Callable[[int], np.ndarray]  # n -> the numbers below n in a random order


def group_by_length(lengths: np.ndarray, *, batch: int, world: int, permutation: Permutation) -> np.ndarray:
    """Samples in random order, sorted by length inside each stretch of `batch * world` and dealt to `world` parts.

    Args:
        lengths: int [N], used with their sign.
        batch: samples of one part of a global batch.
        world: parts of a global batch (devices times accumulation).

    Returns: int64 [N] sample numbers; each stretch of `batch * world` is one global batch, part by part.
    """
    order = np.asarray(permutation(len(lengths)), np.int64)
    size = batch * world
    dealt: list[int] = []
    for start in range(0, len(order), size):
        part = order[start : start + size]
        part = part[np.argsort(-lengths[part], kind="stable")]
        dealt.extend(_deal(part.tolist(), lengths[part].tolist(), world))
    return np.asarray(dealt, np.int64)


def _deal(samples: list[int], lengths: list[int], world: int) -> list[int]:
    """Each sample goes to the part with the least length so far that has room; a short stretch is dealt in turn."""
    if len(samples) % world:
        return [sample for part in range(world) for sample in samples[part::world]]
    room = len(samples) // world
    parts: list[list[int]] = [[] for _ in range(world)]
    sums = [(0, part) for part in range(world)]  # a heap; of equal sums the first part
    for sample, length in zip(samples, lengths, strict=True):
        total, part = sums[0]
        parts[part].append(sample)
        if len(parts[part]) == room:
            heapq.heappop(sums)
        else:
            heapq.heapreplace(sums, (total + length, part))
    return [sample for part in parts for sample in part]


def group_by_modality_length(
    lengths: np.ndarray, *, batch: int, world: int, permutation: Permutation
) -> np.ndarray:
    """LLaVA's order of samples, in which a global batch has either images or none.

    Samples with images and those without are grouped by length apart from one another, and their global batches
    shuffled. The last one of either kind, full or not, goes to the end; there both are one stretch sorted by sample
    number, which is why the end alone may mix the kinds and may be longer than a batch. `permutation` is asked for the
    samples with images, those without, and the batches, in that order.

    Args:
        lengths: int [N], words of all turns, negative for a sample without images; 0 is a ValueError.
        batch, world: see `group_by_length`, which is what a data set of one kind falls back to.

    Returns: int64 [N].
    """
    lengths = np.asarray(lengths, np.int64)
    if not lengths.all():
        raise ValueError(f"sample {int(np.argmin(np.abs(lengths)))} has length 0, which is of neither kind")
    if (lengths > 0).all() or (lengths < 0).all():
        return group_by_length(lengths, batch=batch, world=world, permutation=permutation)
    size = batch * world
    batches: list[np.ndarray] = []
    ends: list[np.ndarray] = []
    for kind in (np.flatnonzero(lengths > 0), np.flatnonzero(lengths < 0)):
        order = group_by_length(np.abs(lengths[kind]), batch=batch, world=world, permutation=permutation)
        cut = [kind[order[start : start + size]] for start in range(0, len(order), size)]
        batches.extend(cut[:-1])
        ends.append(cut[-1])
    shuffled = [batches[int(number)] for number in permutation(len(batches))]
    return np.concatenate([*shuffled, np.sort(np.concatenate(ends))])


def padded_plan(
    epochs: Sequence[int],
    share: float,
    lengths: np.ndarray,
    images: np.ndarray,
    words: np.ndarray,
    *,
    batch: int,
    row_tokens: int,
    pad_multiple: int,
    seed: int,
    grouped: bool,
) -> PackPlan:
    """One sample a row, epoch by epoch, in batches as long as their longest sample.

    An epoch's last batch is filled up with empty rows, so that the plan is whole batches: row r is of batch
    r // `batch` in every run of it, on every host.

    Args:
        epochs: samples in each epoch, which stand one behind the other in the arrays.
        share: how much of the last epoch there is, in (0, 1]; it is ordered whole and cut.
        lengths, images, words: int [N] of each sample: tokens, images, words of its turns.
        batch: rows of a global batch; where 8 divides it, it is dealt to 8 parts as on LLaVA's 8 devices.
        row_tokens: the most positions of a row; no sample may have more.
        pad_multiple: a batch's length is a multiple of it (or `row_tokens`), so that few programs are compiled.
        grouped: by modality and length, as LLaVA's stage 2; else in random order, as its stage 1.
    """
    if lengths.max(initial=0) > row_tokens:
        raise ValueError(
            f"sample {int(lengths.argmax())} has {lengths.max()} tokens, more than a row's {row_tokens}"
        )
    world = math.gcd(batch, 8)
    signed = np.where(images > 0, 1, -1) * np.maximum(words, 1)
    slots: list[np.ndarray] = []  # of each row its sample, or -1
    first = 0
    for epoch, count in enumerate(epochs):
        permutation = np.random.default_rng((seed, epoch)).permutation
        if grouped:
            order = group_by_modality_length(
                signed[first : first + count], batch=batch // world, world=world, permutation=permutation
            )
        else:
            order = permutation(count)
        if epoch == len(epochs) - 1:
            order = order[: round(share * count)]
        slots += [order + first, np.full(-len(order) % batch, -1)]
        first += count
    rows = np.concatenate([np.zeros(0, np.int64), *slots])
    held = np.where(rows >= 0, lengths[rows], 0) if len(rows) else rows
    longest = held.reshape(-1, batch).max(axis=1)
    row_lengths = np.minimum(-(-longest // pad_multiple) * pad_multiple, row_tokens).repeat(batch)
    starts = np.concatenate([[0], np.cumsum(rows >= 0)]).astype(np.int64)
    fill = float(held.sum()) / max(int(row_lengths.sum()), 1)
    return PackPlan(rows[rows >= 0].astype(np.int32), starts, row_lengths.astype(np.int32), fill)
