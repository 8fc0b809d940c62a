"""The pack plan: which samples share a row of the batch. Offline, seeded, a pure function of the lengths.

An online packer's output depends on how many workers feed it; a plan made beforehand does not, so the batch at step k
is a function of (data, config, k) alone.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class PackPlan:
    """Row r holds the samples `samples[starts[r]:starts[r + 1]]`, in order, in `row_lengths[r]` positions."""

    samples: np.ndarray  # int32 [N]
    starts: np.ndarray  # int64 [R + 1]
    row_lengths: np.ndarray  # int32 [R]
    fill: float  # share of the rows' token positions that hold a token

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.samples[self.starts[row] : self.starts[row + 1]]


def mixture(sizes: Sequence[int], weights: Sequence[float], seed: int, epochs: float = 1.0) -> np.ndarray:
    """Epochs of a mixture: int32 [N, 2] of (table, sample), all of table 0 so often, the others by their weights.

    Each table is gone through pass by pass, so that no sample comes again before all others have come. The last
    pass, and every pass but table 0's first, is in a new order. `weights` (1, 1) with 2.2 epochs is the paper's.
    """
    if len(sizes) != len(weights):
        raise ValueError("one weight per table")
    return _pairs(
        [
            _taken(table, size, round(sizes[0] * epochs * weights[table] / weights[0]), seed)
            for table, size in enumerate(sizes)
        ]
    )


def mixture_by_epoch(
    sizes: Sequence[int], weights: Sequence[float], seed: int, epochs: float = 1.0
) -> list[np.ndarray]:
    """`mixture` cut into epochs, for batches that do not reach from one into the next; the last is whole too.

    Returns int32 [N_e, 2] of (table, sample) for each of the ceil(epochs) epochs.
    """
    if len(sizes) != len(weights):
        raise ValueError("one weight per table")
    count = max(int(np.ceil(epochs)), 1)
    bounds = [
        [round(epoch * sizes[0] * weight / weights[0]) for epoch in range(count + 1)] for weight in weights
    ]
    taken = [_taken(table, size, bounds[table][-1], seed) for table, size in enumerate(sizes)]
    return [
        _pairs([taken[table][cuts[epoch] : cuts[epoch + 1]] for table, cuts in enumerate(bounds)])
        for epoch in range(count)
    ]


def _taken(table: int, size: int, wanted: int, seed: int) -> np.ndarray:
    """int [wanted] samples of one table, pass by pass."""
    rng = np.random.default_rng((seed, table))
    passes = [np.arange(size)] if table == 0 and wanted >= size else []
    while size and len(passes) * size < wanted:
        passes.append(rng.permutation(size))
    return np.concatenate([np.zeros(0, np.int64), *passes])[:wanted]


def _pairs(taken: Sequence[np.ndarray]) -> np.ndarray:
    parts = [np.stack([np.full(len(samples), table), samples], axis=1) for table, samples in enumerate(taken)]
    return np.concatenate(parts).astype(np.int32)


def plan(lengths: np.ndarray, images: np.ndarray, row_tokens: int, row_images: int, *, seed: int) -> PackPlan:
    """Packs samples into rows of `row_tokens` positions and `row_images` images, by the better of two ways.

    `_best_fit` sorts and is nearly optimal where a row holds two or three samples; `_draw_and_close` draws samples as
    the seed has it and is nearly optimal where a row holds more. docs/results has both on LLaVA-1.5's mixture.

    Args: lengths, images: int [N]. A sample must fit into an empty row (ValueError names it otherwise).
    """
    lengths, images = np.asarray(lengths, np.int64), np.asarray(images, np.int64)
    too_big = np.flatnonzero((lengths > row_tokens) | (images > row_images))
    if len(too_big):
        first = int(too_big[0])
        raise ValueError(
            f"sample {first} ({lengths[first]} tokens, {images[first]} images) does not fit into a row of "
            f"{row_tokens} tokens and {row_images} images"
        )
    order = np.random.default_rng(seed).permutation(len(lengths))
    rows = _best_fit(order, lengths, images, row_tokens, row_images)
    if lengths.sum() * 3 <= row_tokens * len(
        lengths
    ):  # else a pair leaves nothing to draw, and it takes long
        rows = min(_draw_and_close(order, lengths, images, row_tokens, row_images), rows, key=len)
    samples = np.asarray([sample for row in rows for sample in row], np.int32)
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]).astype(np.int64)
    fill = float(lengths.sum()) / max(len(rows) * row_tokens, 1)
    return PackPlan(samples, starts, np.full(len(rows), row_tokens, np.int32), fill)


def fill_up(plan: PackPlan, multiple: int) -> PackPlan:
    """The plan with empty rows behind it, so that whole batches of `multiple` rows hold each sample once."""
    more = -len(plan) % multiple
    rows = len(plan) + more
    return PackPlan(
        plan.samples,
        np.append(plan.starts, np.full(more, plan.starts[-1])),
        np.append(plan.row_lengths, np.full(more, plan.row_lengths[-1:])).astype(np.int32)
        if more
        else plan.row_lengths,
        plan.fill * len(plan) / max(rows, 1),
    )


def rows_per_step(samples_per_step: int, samples: int, rows: int) -> int:
    """As many rows as hold about `samples_per_step` samples: a multiple of 8, at least 8.

    Of the plan alone, so that a step is the same on any mesh; 8 divides over the devices of a host.
    """
    return max(8 * round(samples_per_step * rows / max(samples, 1) / 8), 8)


def _best_fit(
    order: np.ndarray, lengths: np.ndarray, images: np.ndarray, row_tokens: int, row_images: int
) -> list[list[int]]:
    """Longest sample first, each into the fullest row that has room for it and its images.

    Open rows lie in stacks by (image room, token room); `rooms[i]` is the sorted token rooms whose stack is not empty.
    """
    order = order[np.argsort(-lengths[order], kind="stable")]
    stacks: list[dict[int, list[int]]] = [{} for _ in range(row_images + 1)]
    rooms: list[list[int]] = [[] for _ in range(row_images + 1)]
    rows: list[list[int]] = []
    shortest = int(lengths.min(initial=row_tokens))
    for sample, length, count in zip(
        order.tolist(), lengths[order].tolist(), images[order].tolist(), strict=True
    ):
        best, place = row_tokens + 1, -1
        for image_room in range(count, row_images + 1):
            at = bisect.bisect_left(rooms[image_room], length)
            if at < len(rooms[image_room]) and rooms[image_room][at] < best:
                best, place = rooms[image_room][at], image_room
        if place < 0:
            row, room, image_room = len(rows), row_tokens, row_images
            rows.append([])
        else:
            room, image_room = best, place
            row = stacks[place][best].pop()
            if not stacks[place][best]:
                rooms[place].pop(bisect.bisect_left(rooms[place], best))
        rows[row].append(sample)
        room, image_room = room - length, image_room - count
        if room >= shortest:
            stack = stacks[image_room].setdefault(room, [])
            if not stack:
                bisect.insort(rooms[image_room], room)
            stack.append(row)
    return rows


def _draw_and_close(
    order: np.ndarray, lengths: np.ndarray, images: np.ndarray, row_tokens: int, row_images: int
) -> list[list[int]]:
    """Draws samples in order until about two and a half more would fit, then closes the row with the best pair.

    What is drawn is as mixed as the data, so that long and short samples run out together; and among many samples there
    is nearly always a pair that fills the rest exactly.
    """
    left = _Left(order, lengths, images, row_tokens, row_images)
    stop_at = 2.5 * float(lengths.mean()) if len(lengths) else 0.0
    rows: list[list[int]] = []
    at, drawn = 0, order.tolist()
    sizes, counts = lengths.tolist(), images.tolist()
    while True:
        row: list[int] = []
        room, image_room = row_tokens, row_images
        while at < len(drawn) and (not row or room > stop_at):
            sample = drawn[at]
            if not left.has(sample):
                at += 1
                continue
            if sizes[sample] > room or counts[sample] > image_room:
                break
            left.take(sample)
            row.append(sample)
            room, image_room = room - sizes[sample], image_room - counts[sample]
        if not row:
            return rows
        while closing := left.best_pair(room, image_room):
            for length, count in closing:
                row.append(left.pop(length, count))
                room, image_room = room - length, image_room - count
        rows.append(row)


class _Left:
    """The samples not yet placed, counted by (images, length)."""

    def __init__(
        self, order: np.ndarray, lengths: np.ndarray, images: np.ndarray, row_tokens: int, row_images: int
    ) -> None:
        self._lengths, self._images = lengths.tolist(), images.tolist()
        self._placed = bytearray(len(lengths))
        self._kinds = sorted({int(count) for count in np.unique(images)})
        self._counts = {
            kind: np.bincount(lengths[images == kind], minlength=row_tokens + 1) for kind in self._kinds
        }
        self._stacks: dict[tuple[int, int], list[int]] = {}
        for sample in order[::-1].tolist():
            self._stacks.setdefault((self._lengths[sample], self._images[sample]), []).append(sample)
        self._range = np.arange(row_tokens + 1)
        # nearest[r][x]: the greatest length up to x that a sample of at most r images has, and of how many images.
        self._nearest = [np.zeros(0, np.int64)] * (row_images + 1)
        self._renew(0)

    def _renew(self, images: int) -> None:
        """After the last sample of a length went: who has room for `images` looks for another one."""
        there = np.zeros(len(self._range), bool)
        for room in range(len(self._nearest)):
            if room in self._counts:
                there = there | (self._counts[room] > 0)
            if room >= images:
                self._nearest[room] = np.maximum.accumulate(np.where(there, self._range, 0))

    def has(self, sample: int) -> bool:
        return not self._placed[sample]

    def take(self, sample: int) -> None:
        length, images = self._lengths[sample], self._images[sample]
        self._placed[sample] = 1
        self._counts[images][length] -= 1
        if not self._counts[images][length]:
            self._renew(images)

    def pop(self, length: int, images: int) -> int:
        """Takes any sample of this length and number of images."""
        stack = self._stacks[length, images]
        while self._placed[stack[-1]]:
            stack.pop()
        sample = stack.pop()
        self.take(sample)
        return sample

    def best_pair(self, room: int, image_room: int) -> list[tuple[int, int]]:
        """The (length, images) of one or two samples that fill the room best; of equals the most common ones."""
        if not self._nearest[image_room][room]:
            return []
        best, weight, found = 0, 0, []
        for kind in self._kinds:
            if kind > image_room:
                break
            counts = self._counts[kind]
            (ones,) = np.nonzero(counts[: room + 1])
            if not len(ones):
                continue
            others = self._nearest[image_room - kind][room - ones]
            # A length that the first one of the pair used up may not be there for the second.
            alone = (others == ones) & (counts[ones] < 2)
            for other in self._kinds:
                if other != kind and other <= image_room - kind:
                    alone &= self._counts[other][ones] == 0
            others = np.where(alone, 0, others)
            totals = ones + others
            top = int(totals.max())
            if top < best:
                continue
            (at,) = np.nonzero(totals == top)
            partners = np.zeros(len(at), np.int64)
            for other in self._kinds:
                if other <= image_room - kind:
                    partners += self._counts[other][others[at]]
            weights = counts[ones[at]] * np.maximum(partners, 1)
            pick = int(weights.argmax())
            if top > best or weights[pick] > weight:
                best, weight = top, int(weights[pick])
                found = [(int(ones[at[pick]]), kind), (int(others[at[pick]]), image_room - kind)]
        if not found:
            return []
        (length, kind), (other_length, other_room) = found
        pair = [(length, kind)]
        if other_length:
            held = [
                (int(self._counts[other][other_length]) - (other == kind and other_length == length), other)
                for other in self._kinds
                if other <= other_room
            ]
            pair.append((other_length, max(held)[1]))
        return pair
