"""Records of a split become tokens and labels, stretch by stretch, by one process or several."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from input_pipeline.asker import Asker
from input_pipeline.conversation import Template
from input_pipeline.encoding import IGNORE, Encoded, encode, encode_text
from input_pipeline.errors import UserError
from input_pipeline.shown import questions, shown
from input_pipeline.types import Record

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]

MARK = -1  # in `tokens`, where a picture or a video stands
CHUNK = 512  # records that are encoded at a time
CUT = "cut at max_tokens (kept)"


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


@dataclass(frozen=True)
class Job:
    """What a worker needs to encode any part of a split."""

    records: Sequence[Record]
    tokenizer: PreTrainedTokenizerFast
    template: Template
    image_tokens: int
    max_tokens: int
    reference_quirks: bool = False
    most_frames: int = 0  # of a video, 0 is all
    asker: Asker | None = None  # for models that look at pictures with a question


# How long the parts of samples are, and the offsets that these sizes become in a table.
SIZES = {
    "sizes": "offsets",  # of tokens and supervised
    "frame_sizes": "frame_offsets",
    "mark_sizes": "mark_offsets",
    "asked_sizes": "asked_offsets",  # questions of a sample
    "question_sizes": "question_offsets",  # tokens of a question
}
PARTS: dict[str, Any] = {
    "tokens": np.int32,
    "supervised": np.bool_,
    "frames": np.int32,
    "mark_start": np.int32,
    "mark_count": np.int32,
    "mark_question": np.int32,
    "questions": np.int32,
    "words": np.int32,
    "record": np.int64,
    **dict.fromkeys(SIZES, np.int64),
}


@dataclass(frozen=True)
class Chunk:
    """A stretch of a split, encoded: arrays by name (sizes in place of offsets), and what was left out."""

    arrays: dict[str, np.ndarray]
    skipped: dict[str, int]
    examples: dict[str, list[str]]  # reason -> ids of the first few


def _encode_chunk(job: Job, start: int, stop: int) -> Chunk:
    """Encodes records `start` to `stop`. Too long ones are cut; ones that would lose an image are left out."""
    parts: dict[str, list[Any]] = {name: [] for name in PARTS}
    skipped: dict[str, int] = {}
    examples: dict[str, list[str]] = {}

    def skip(reason: str, record: Record) -> None:
        skipped[reason] = skipped.get(reason, 0) + 1
        named = examples.setdefault(reason, [])
        if len(named) < 3:
            named.append(record.id)

    for number in range(start, stop):
        record = job.records[number]
        try:
            sample = encode_record(record, job.tokenizer, job.template, 1, job.reference_quirks)
            seen = shown(record, job.template, job.most_frames)
        except ValueError as error:
            skip(str(error), record)
            continue
        if sample.images != len(seen.start):  # a reader of old records, or a quirk that collapses marks
            skip("as many <image> marks as images are needed", record)
            continue
        is_image = sample.image_index >= 0
        widths = np.ones(len(sample), np.int64)
        widths[is_image] = seen.count * job.image_tokens
        ends = np.cumsum(widths)  # each token's last position, from 1
        kept = len(sample)
        if kept and ends[-1] > job.max_tokens:
            kept = int(np.searchsorted(ends, job.max_tokens, side="right"))
            if is_image[kept:].any():
                skip(f"its images do not fit into {job.max_tokens} tokens", record)
                continue
            skipped[CUT] = skipped.get(CUT, 0) + 1
        labelled = sample.labels[:kept] != IGNORE
        if not labelled[1:].any():
            skip(sample.note or "nothing in it is supervised", record)
            continue
        asked = [job.asker(text) for text in questions(record.conversations)] if job.asker else []
        for name, values in (
            ("tokens", np.where(is_image, np.int32(MARK), sample.tokens)[:kept]),
            ("supervised", labelled),
            ("frames", seen.frames),
            ("mark_start", seen.start),
            ("mark_count", seen.count),
            ("mark_question", seen.question),
            ("questions", np.concatenate([np.zeros(0, np.int32), *asked])),
            ("question_sizes", [len(ids) for ids in asked]),
            ("sizes", [kept]),
            ("frame_sizes", [len(seen.frames)]),
            ("mark_sizes", [len(seen.start)]),
            ("asked_sizes", [len(asked)]),
            ("words", [sum(len(turn.text.split()) for turn in record.conversations)]),
            ("record", [number]),
        ):
            parts[name].append(np.asarray(values, PARTS[name]))
    arrays = {name: np.concatenate([np.zeros(0, dtype), *parts[name]]) for name, dtype in PARTS.items()}
    return Chunk(arrays, skipped, examples)


_job: Job | None = None  # of a worker process


def _start_worker(job: Job) -> None:
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt ends
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _job = job


def _work(start: int, stop: int) -> Chunk:
    assert _job is not None
    return _encode_chunk(_job, start, stop)


def chunks(job: Job, workers: int, progress: Progress | None) -> Generator[Chunk]:
    """The whole split in order, whoever encodes it; never more than a few chunks are held."""
    total = len(job.records)
    spans = [(start, min(start + CHUNK, total)) for start in range(0, total, CHUNK)]
    report = progress or (lambda done, total: None)
    if workers <= 1 or len(spans) <= 1:
        for start, stop in spans:
            yield _encode_chunk(job, start, stop)
            report(stop, total)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(spans)), multiprocessing.get_context("spawn"), _start_worker, (job,)
    )
    waiting: deque[tuple[int, Future[Chunk]]] = deque()
    try:
        for start, stop in spans:
            waiting.append((stop, pool.submit(_work, start, stop)))
            if len(waiting) > 2 * workers:
                stop, future = waiting.popleft()
                yield future.result()
                report(stop, total)
        for stop, future in waiting:
            yield future.result()
            report(stop, total)
    except BrokenProcessPool:
        raise UserError(
            "a process that makes tokens of the records died; if memory is short, lower config.workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


class Skipped:
    """Counts what is left out and says it of the first few of each reason."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, chunk: Chunk) -> None:
        for reason, count in chunk.skipped.items():
            for name in chunk.examples.get(reason, [])[: max(3 - self.counts.get(reason, 0), 0)]:
                log.warning("record %s skipped: %s", name, reason)
            self.counts[reason] = self.counts.get(reason, 0) + count
