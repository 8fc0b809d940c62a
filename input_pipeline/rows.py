"""Finished rows of a batch, built from a plan, token tables and the images of records."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from input_pipeline.encoding import IGNORE
from input_pipeline.errors import UserError
from input_pipeline.frame_cache import FrameCache
from input_pipeline.images import PAD_COLOR, ImageError, open_image, preprocess
from input_pipeline.packing import PackPlan
from input_pipeline.token_table import TokenTable
from input_pipeline.types import Record, Turn

Row = dict[str, np.ndarray]


@dataclass
class ImageReader:
    """Decodes and preprocesses the images of records; keeps up to `keep_bytes` of them, since small sets come round
    often. What it keeps does not travel to worker processes."""

    size: int
    mode: str = "square"
    pad_color: tuple[int, int, int] = PAD_COLOR
    film_mode: str = ""  # of frames of clips; "" is `mode`
    keep_bytes: int = 256 * 2**20
    _kept: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, repr=False, compare=False)
    _bytes: int = field(default=0, repr=False, compare=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False, compare=False)

    def __call__(
        self, table: int, number: int, records: Sequence[Record], frames: np.ndarray | None = None
    ) -> np.ndarray:
        """uint8 [images of the record, or those at `frames`, size, size, 3]

        Args: table, number: of the record, by which it is kept; records: where it is read; frames: always the same of
        a record.
        Raises: UserError naming the record whose picture cannot be read.
        """
        kept = self._kept.get((table, number))
        if kept is not None:
            return kept
        images = list(self.each(number, records, frames))
        stacked = np.stack(images) if images else np.zeros((0, self.size, self.size, 3), np.uint8)
        with self._lock:  # Grain reads with several threads
            if (table, number) not in self._kept and self._bytes + stacked.nbytes <= self.keep_bytes:
                self._kept[table, number] = stacked
                self._bytes += stacked.nbytes
        return stacked

    def each(
        self, number: int, records: Sequence[Record], frames: np.ndarray | None = None
    ) -> Iterator[np.ndarray]:
        """`__call__`, picture by picture: uint8 [size, size, 3]."""
        record = records[number]
        filmed = {place for clip in record.clips for place in range(clip.first, clip.first + len(clip.times))}
        for place in range(len(record.images)) if frames is None else frames.tolist():
            mode = (self.film_mode if place in filmed else "") or self.mode
            try:
                yield preprocess(open_image(record.images[place]), self.size, mode, self.pad_color)
            except ImageError as error:
                raise UserError(
                    f"record {number} ({record.id}) of {records!r:.200}: its picture cannot be read "
                    f"({error}); prepare the data set again"
                ) from error

    def __getstate__(self) -> dict[str, Any]:
        names = ("size", "mode", "pad_color", "film_mode", "keep_bytes")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)


@dataclass(frozen=True)
class Asked:
    """Room for the questions of a row: `slots` pairs of a frame and a question, `questions` of them of at most `tokens`
    tokens. (A row has more slots than frames where several turns look at one picture.)
    """

    slots: int
    questions: int
    tokens: int

    @classmethod
    def of(cls, plan: PackPlan, tables: Sequence[TokenTable], pairs: np.ndarray) -> Asked:
        """The least room that holds every row of a plan: a pure function of it, rounded up a little so that a plan of
        other data often compiles to the same program."""
        numbers = pairs[plan.samples]
        most = {}
        for name in ("slots", "turns"):
            values = np.zeros(len(numbers) + 1, np.int64)
            for number, table in enumerate(tables):
                here = np.flatnonzero(numbers[:, 0] == number)
                values[here + 1] = getattr(table, name)[numbers[here, 1]]
            sums = np.cumsum(values)
            most[name] = int(np.max(sums[plan.starts[1:]] - sums[plan.starts[:-1]], initial=1))
        longest = max((int(np.diff(t.question_offsets).max(initial=1)) for t in tables), default=1)
        up = lambda value, step: -(-max(value, 1) // step) * step
        return cls(up(most["slots"], 8), up(most["turns"], 4), up(longest, 16))


@dataclass(frozen=True)
class KeptFrames:
    """What a frozen tower and Q-Former give of samples' slots, computed once (`jaxllava.kept`). `width` and `dtype` are
    the tower's.
    """

    cache: FrameCache
    width: int
    dtype: Any

    @staticmethod
    def key(table: TokenTable, sample: int) -> str:
        """A table's folder is named by the hash of all that decides its samples."""
        assert table.path is not None
        return f"{table.path.name}/{sample}"

    def is_missing(self, table: TokenTable, sample: int) -> bool:
        """Whether a sample shows something, and what is kept of it is not there."""
        return bool(table.slots[sample]) and self.cache.read(self.key(table, sample)) is None

    def __call__(self, table: TokenTable, sample: int) -> np.ndarray:
        """[slots, image_tokens, W]. UserError where it is not there."""
        found = self.cache.read(self.key(table, sample))
        if found is None:
            raise UserError(
                f"{self.cache.path(self.key(table, sample))}: the features of a sample are gone or damaged; start the "
                "run again, which makes them anew"
            )
        return found


@dataclass
class PackedRows:
    """Random access to finished rows of a plan; see the row in `__getitem__`."""

    tables: Sequence[TokenTable]
    records: Sequence[Sequence[Record]]
    pairs: np.ndarray  # int32 [N, 2]: (table, sample) of each number in the plan
    plan: PackPlan
    row_images: int
    image_tokens: int
    read_images: ImageReader
    pad_id: int
    ordered: bool = False  # the plan's order is that of training; otherwise the loader shuffles the rows
    asked: Asked | None = None  # for models that look at pictures with questions
    kept: KeptFrames | None = None  # what such a model gave of the samples' slots, in place of their pictures

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: Any) -> Row:
        """One row: tokens, targets, positions, segment_ids, image_index, sources int32 [L], weights f32 [L],
        images uint8 [M, S, S, 3].

        `targets` are shifted here, inside each sample, so that no sample's last token is asked to predict the next
        sample's first. Segment 0 is padding. An image's features stand at image_slot * image_tokens in the row.
        `sources` is the table (the entry of the mixture) of each token's sample, 0 in padding. A row without samples
        has weight 0 everywhere.

        With `asked` also slot_frame, slot_question int32 [N], places among the row's images and questions, and
        questions int32 [Q, T] with question_valid bool [Q, T]; `image_index` counts the features of slots then. With
        `kept` these and the images are not there, and `pooled` [N, image_tokens, W] is.
        """
        length = int(self.plan.row_lengths[int(index)])
        size = self.read_images.size
        row: Row = {
            "tokens": np.full(length, self.pad_id, np.int32),
            "targets": np.zeros(length, np.int32),
            "weights": np.zeros(length, np.float32),
            "positions": np.zeros(length, np.int32),
            "segment_ids": np.zeros(length, np.int32),
            "image_index": np.full(length, -1, np.int32),
            "sources": np.zeros(length, np.int32),
        }
        room = self.asked
        if self.kept and room:
            row["pooled"] = np.zeros((room.slots, self.image_tokens, self.kept.width), self.kept.dtype)
        else:
            row["images"] = np.zeros((self.row_images, size, size, 3), np.uint8)
        if room and not self.kept:
            row["slot_frame"] = np.zeros(room.slots, np.int32)
            row["slot_question"] = np.zeros(room.slots, np.int32)
            row["questions"] = np.zeros((room.questions, room.tokens), np.int32)
            row["question_valid"] = np.zeros((room.questions, room.tokens), np.bool_)
        start = image = slot = turn = 0
        for segment, pair in enumerate(self.plan[int(index)].tolist(), start=1):
            table, sample = self.pairs[pair].tolist()
            encoded = self.tables[table][sample]
            span = slice(start, start + len(encoded))
            row["tokens"][span] = encoded.tokens
            targets = np.append(encoded.labels[1:], IGNORE)
            row["targets"][span] = np.where(targets == IGNORE, 0, targets)
            row["weights"][span] = targets != IGNORE
            row["positions"][span] = np.arange(len(encoded))
            row["segment_ids"][span] = segment
            row["sources"][span] = table
            first = (slot if self.asked else image) * self.image_tokens
            row["image_index"][span] = np.where(encoded.image_index >= 0, encoded.image_index + first, -1)
            slots = slice(slot, slot + len(encoded.slot_frame))
            if encoded.images and self.kept:
                row["pooled"][slots] = self.kept(self.tables[table], sample)
            elif encoded.images:
                record = int(self.tables[table].record[sample])
                row["images"][image : image + encoded.images] = self.read_images(
                    table, record, self.records[table], encoded.frames
                )
            if room and not self.kept:
                row["slot_frame"][slots] = encoded.slot_frame + image
                row["slot_question"][slots] = encoded.slot_question + turn
                for number, ids in enumerate(encoded.questions, start=turn):
                    row["questions"][number, : len(ids)] = ids
                    row["question_valid"][number, : len(ids)] = True
            start += len(encoded)
            image += encoded.images
            slot += len(encoded.slot_frame)
            turn += len(encoded.questions)
        return row


@dataclass(frozen=True)
class Titles(Sequence[Record]):
    """What stands beside each record's one image, as a plain document: a post's title, else the first answer."""

    records: Sequence[Record]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Record:
        record = self.records[index]
        if len(record.images) != 1:
            raise UserError(
                f"record {record.id} ({record.task}) has {len(record.images)} images and a contrastive stage needs "
                "one each; take splits of posts or captions for config.mixture"
            )
        answers = (turn.text for turn in record.conversations if turn.role == "gpt")
        return Record(record.id, "text", (), (Turn("gpt", record.meta.get("title") or next(answers)),))


@dataclass
class ImageTextPairs:
    """Random access to (image, caption) pairs for contrastive training."""

    tables: Sequence[TokenTable]  # of `Titles`
    records: Sequence[Sequence[Record]]
    pairs: np.ndarray  # int32 [N, 2]: (table, sample)
    text_tokens: int
    read_images: ImageReader
    pad_id: int
    end_id: int

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: Any) -> Row:
        """images uint8 [S,S,3], tokens int32 [T], text_length int32: the caption's tokens incl. `<s>` and `</s>`."""
        table, sample = self.pairs[int(index)].tolist()
        encoded = self.tables[table][sample]
        record = int(self.tables[table].record[sample])
        tokens = np.full(self.text_tokens, self.pad_id, np.int32)
        length = min(len(encoded), self.text_tokens)
        tokens[:length] = encoded.tokens[:length]
        tokens[length - 1] = self.end_id  # a cut caption still ends in </s>, whose state is its feature
        images = self.read_images(table, record, self.records[table])
        return {"images": images[0], "tokens": tokens, "text_length": np.asarray(length, np.int32)}
