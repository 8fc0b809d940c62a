"""Every sample of a split as tokens and labels, computed once and cached under a hash of what it depends on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from input_pipeline.conversation import Template
from input_pipeline.encoding import IGNORE, Encoded, encode, encode_text
from input_pipeline.types import Record

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TokenTable:
    """Flat arrays over N samples: sample i is `[offsets[i]:offsets[i + 1]]` of tokens, labels and image_index.

    `record[i]` is the sample's record number in its split. `skipped` counts samples left out, by reason.
    """

    tokens: np.ndarray
    labels: np.ndarray
    image_index: np.ndarray
    offsets: np.ndarray  # int64 [N + 1]
    images: np.ndarray  # int32 [N]
    record: np.ndarray  # int64 [N]
    skipped: dict[str, int]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def __getitem__(self, index: int) -> Encoded:
        span = slice(self.offsets[index], self.offsets[index + 1])
        return Encoded(self.tokens[span], self.labels[span], self.image_index[span], int(self.images[index]))


def encode_record(
    record: Record,
    tokenizer: PreTrainedTokenizerFast,
    template: Template,
    image_tokens: int,
    reference_quirks: bool = False,
) -> Encoded:
    """Tokens and labels of one record; a record of task `text` is a plain document."""
    if record.task == "text":
        return encode_text(record.conversations[0].text, tokenizer)
    return encode(record.conversations, tokenizer, template, image_tokens, reference_quirks=reference_quirks)


def build(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerFast,
    template: Template,
    image_tokens: int,
    max_tokens: int,
    progress: Progress | None = None,
    reference_quirks: bool = False,
) -> TokenTable:
    """Encodes every record. Too long ones are cut at `max_tokens`; ones that would lose an image are skipped."""
    encoded: list[Encoded] = []
    numbers: list[int] = []
    skipped: dict[str, int] = {}

    def skip(reason: str, record: Record) -> None:
        skipped[reason] = skipped.get(reason, 0) + 1
        if skipped[reason] <= 3:
            log.warning("record %s skipped: %s", record.id, reason)

    for number in range(len(records)):
        record = records[number]
        if progress:
            progress(number + 1, len(records))
        try:
            sample = encode_record(record, tokenizer, template, image_tokens, reference_quirks)
        except ValueError as error:
            skip(str(error), record)
            continue
        if record.videos:
            skip("videos cannot be trained on yet", record)
            continue
        if sample.images != len(record.images):
            skip("as many <image> marks as images are needed", record)
            continue
        if len(sample) > max_tokens:
            if (sample.image_index[max_tokens:] >= 0).any():
                skip(f"its images do not fit into {max_tokens} tokens", record)
                continue
            skipped["cut at max_tokens (kept)"] = skipped.get("cut at max_tokens (kept)", 0) + 1
            sample = Encoded(
                sample.tokens[:max_tokens],
                sample.labels[:max_tokens],
                sample.image_index[:max_tokens],
                sample.images,
                sample.note,
            )
        if not (sample.labels[1:] != IGNORE).any():
            skip(sample.note or "nothing in it is supervised", record)
            continue
        encoded.append(sample)
        numbers.append(number)
    lengths = [len(sample) for sample in encoded]
    join = lambda name: np.concatenate([getattr(s, name) for s in encoded] or [np.zeros(0, np.int32)])
    return TokenTable(
        tokens=join("tokens"),
        labels=join("labels"),
        image_index=join("image_index"),
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        images=np.asarray([sample.images for sample in encoded], np.int32),
        record=np.asarray(numbers, np.int64),
        skipped=skipped,
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
) -> TokenTable:
    """`build`, or its earlier result where data, tokenizer, template and lengths are the same."""
    key = json.dumps(
        [data_hash, tokenizer_hash(tokenizer), repr(template), image_tokens, max_tokens, reference_quirks]
    )
    path = cache_dir / f"tokens-{hashlib.sha256(key.encode()).hexdigest()[:20]}.npz"
    fields = ("tokens", "labels", "image_index", "offsets", "images", "record")
    if path.exists():
        with np.load(path) as arrays:
            skipped = json.loads(bytes(arrays["skipped"]).decode())
            return TokenTable(**{name: arrays[name] for name in fields}, skipped=skipped)
    table = build(records, tokenizer, template, image_tokens, max_tokens, progress, reference_quirks)
    cache_dir.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp.npz")  # several runs may fill one cache at a time
    skipped_bytes = np.frombuffer(json.dumps(table.skipped).encode(), np.uint8)
    np.savez(unfinished, skipped=skipped_bytes, **{name: getattr(table, name) for name in fields})
    unfinished.replace(path)
    return table
