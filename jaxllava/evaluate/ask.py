"""Puts a task's questions to a model: in batches of like length, with the media opened beside it, resumable.

A question that cannot be asked (a picture that is missing, a prompt too long, scores that are not numbers)
gets a row that says so; it is never an answer, and never stops the others.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from input_pipeline.errors import UserError
from input_pipeline.tokenizer import IMAGE_TOKEN
from input_pipeline.types import Turn
from jaxllava.api import Model
from jaxllava.evaluate.answers import Answers, Row
from jaxllava.evaluate.media import MediaError, open_media
from jaxllava.evaluate.tasks.task import Generate, Item, Task, candidates_of, need_ends
from jaxllava.videos import Video

Progress = Callable[[int, int], None]
_READERS = 4  # threads that open media; more than two batches are never held


@dataclass(frozen=True)
class Asking:
    """How questions are put, whatever the task: `frames` of a video, as pictures, or with `fps` so many of a second as
    one thing (LLaMA-VID).

    `stories` are texts by item id that go in front of the question ("with story"); an item without one is then
    not asked.
    """

    batch_size: int = 16
    frames: int = 4
    fps: float = 0.0
    stories: Mapping[str, str] | None = None
    seed: int = 0


def ask(
    task: Task,
    model: Model,
    items: Sequence[Item],
    answers: Answers,
    how: Asking,
    progress: Progress | None = None,
    ends: bool | None = None,
) -> None:
    """Asks `items`, and adds the answers as they come.

    Batches are always full, the last one by repeating its last question: one shape for each rounded length. `ends` is
    `need_ends` of all the task's items, where these are only a part of them.
    """
    ends = need_ends(task, items) if ends is None else ends
    done = 0
    with ThreadPoolExecutor(_READERS) as pool:
        for batch, opened in _opened(pool, sorted(items, key=_size), how):
            rows: list[Row] = [
                {"id": item.id, "error": found} for item, found in opened if isinstance(found, str)
            ]
            good = [(item, found.pictures) for item, found in opened if isinstance(found, _Opened)]
            rows += _answered(task, model, good, how, ends)
            notes = {item.id: found.notes for item, found in opened if isinstance(found, _Opened)}
            answers.add(row | ({"notes": notes[row["id"]]} if notes.get(row["id"]) else {}) for row in rows)
            done += len(batch)
            if progress:
                progress(done, len(items))


def _size(item: Item) -> tuple[int, int, str]:
    """What decides the shape of its batch; the id makes the order the same everywhere."""
    text = len(item.prompt) + sum(len(turn.text) for turn in item.shots)
    return len(item.media), text + max(map(len, item.candidates), default=0), item.id


@dataclass(frozen=True)
class _Opened:
    """An item's pictures; `notes` is what is wrong with media that can still be shown."""

    pictures: list[Image.Image | Video]
    notes: list[str]


def _opened(
    pool: ThreadPoolExecutor, items: list[Item], how: Asking
) -> Iterator[tuple[list[Item], list[tuple[Item, _Opened | str]]]]:
    """Batches with their pictures, or why there are none; the next batch is opened while one is asked."""
    batches = [items[i : i + how.batch_size] for i in range(0, len(items), how.batch_size)]
    start = lambda batch: [pool.submit(_open, item, how) for item in batch]
    following = start(batches[0]) if batches else []
    for batch, later in itertools.zip_longest(batches, batches[1:]):
        current, following = following, start(later) if later else []
        yield batch, [(item, future.result()) for item, future in zip(batch, current, strict=True)]


def _open(item: Item, how: Asking) -> _Opened | str:
    if how.stories is not None and item.id not in how.stories:
        return "no story"
    notes: list[str] = []
    try:
        return _Opened(open_media(item.media, how.frames, notes.append, how.fps), notes)
    except MediaError as error:
        return f"media: {error}"


def _answered(
    task: Task, model: Model, good: list[tuple[Item, list[Image.Image | Video]]], how: Asking, ends: bool
) -> list[Row]:
    """Rows of one batch. Where the model refuses it, its halves are tried: one bad question then stands alone."""
    if not good:
        return []
    full = good + [good[-1]] * (how.batch_size - len(good))
    try:
        rows = _asked(task, model, full, how, ends)[: len(good)]
    except UserError as error:
        if len(good) == 1:
            return [{"id": good[0][0].id, "error": f"model: {error}"}]
        half = len(good) // 2
        parts = (good[:half], good[half:])
        return [row for part in parts for row in _answered(task, model, part, how, ends)]
    return rows


def _asked(
    task: Task, model: Model, batch: list[tuple[Item, list[Image.Image | Video]]], how: Asking, ends: bool
) -> list[Row]:
    items = [item for item, _ in batch]
    prompts = [turns(item, len(pictures), how.stories) for item, pictures in batch]
    images = [pictures for _, pictures in batch]
    protocol = task.protocol
    if isinstance(protocol, Generate):
        texts = model.generate(
            prompts,
            images,
            max_new_tokens=protocol.max_new_tokens,
            temperature=protocol.temperature,
            top_p=protocol.top_p,
            seed=[_seed(item, how.seed) for item in items],
            batch_size=how.batch_size,
        )
        return [{"id": item.id, "answer": text} for item, text in zip(items, texts, strict=True)]
    choices = [candidates_of(task, item) for item in items]
    scores = model.score(
        prompts, images, choices, answer_prefix=protocol.prefix, end=ends, batch_size=how.batch_size
    )
    rows: list[Row] = []
    for item, own, found in zip(items, choices, scores, strict=True):
        found = found[: len(own)]
        if not np.isfinite(found).all():
            rows.append({"id": item.id, "error": "model: a score that is not finite"})
        else:
            rows.append({"id": item.id, "answer": protocol.answer(found, own), "scores": found.tolist()})
    return rows


def _seed(item: Item, seed: int) -> int:
    """Of the draws of its answer: the same whatever is asked beside it, on how many hosts and in how many goes."""
    return int.from_bytes(
        hashlib.sha256(f"{seed} {item.id}".encode("utf-8", "surrogatepass")).digest()[:4], "big"
    )


def turns(item: Item, pictures: int, stories: Mapping[str, str] | None = None) -> tuple[Turn, ...]:
    """The conversation up to the answer: examples, then the question with its pictures (and its story) in front."""
    story = f"Story: {stories[item.id]}\n" if stories is not None else ""
    return (*item.shots, Turn("human", f"{IMAGE_TOKEN}\n" * pictures + story + item.prompt))
