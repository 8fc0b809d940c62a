"""Asks a model for the caption and the tags of every scene: full batches over the scenes of several media.

What a question is batched with does not change its answer: only questions of the same rounded length and number of
views share a batch, and all batches are full (the last ones by repeating a question), so that the program and the
shapes are a matter of the question alone. That is also one compiled program for each rounded length.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax

from input_pipeline.behavior import verbalise as pixels
from input_pipeline.errors import UserError, in_one_line
from input_pipeline.images import ImageError
from input_pipeline.tokenizer import plain_encoding
from input_pipeline.video import VideoError
from jaxllava.api import Model
from jaxllava.evaluate.answers import Row
from jaxllava.generate import bucket
from jaxllava.prompts import Row as Prompt
from jaxllava.verbalise import keyframes, words
from jaxllava.verbalise.media import Medium, stamp

_READERS = max(2, min(8, os.cpu_count() or 2))  # threads that open media
_AHEAD = 12  # media that are opened before the model comes to them, each with all its pictures


@dataclass(frozen=True)
class Asking:
    """How scenes are put into words.

    Fields:
        most_scenes: of a video; the templates tell no more than 16.
        batch_size: questions that a model answers at once.
        new_tokens: the longest answer; a caption of one sentence and twenty tags are shorter.
    """

    caption_prompt: str = words.CAPTION_PROMPT
    tags_prompt: str = words.TAGS_PROMPT
    most_scenes: int = 16
    batch_size: int = 16
    new_tokens: int = 128


def check(model: Model, how: Asking) -> None:
    """UserError where a model has no room for a prompt, a picture and an answer."""
    size = model.config.vision.image_size
    for flag, prompt in (("--caption-prompt", how.caption_prompt), ("--tags-prompt", how.tags_prompt)):
        length = model.length(prompt, [(size, size)]) + how.new_tokens
        if length > model.config.decoder.max_positions:
            raise UserError(
                f"{flag}: takes {length} positions with a picture and an answer, and the model has "
                f"{model.config.decoder.max_positions}; give a shorter one"
            )


def ask(
    model: Model,
    media: Sequence[tuple[str, Medium]],
    how: Asking,
    add: Callable[[Row], None],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Puts media, given as (hash of the bytes, medium), into words, and adds a row of each as it is done.

    A row is {"id": hash, "answer": [scene, ...]}, with "notes" where a video had faults, or {"id", "error": why there
    are none}. A scene has its times, the two answers as the model gave them, whether that of the tags ended for its
    length, colours and tone.
    """
    waiting: dict[tuple[int, int], list[_Question]] = {}
    done = 0

    def finish(row: Row) -> None:
        nonlocal done
        add(row)
        done += 1
        if progress:
            progress(done, len(media))

    with ThreadPoolExecutor(_READERS) as pool:
        for id, found in _opened(pool, media, how):
            if isinstance(found, str):
                finish({"id": id, "error": found})
                continue
            job = _Job(id, found, 2 * len(found.scenes))
            questions = list(_questions(model, job, how))
            if error := _too_long(model, questions, how):
                finish({"id": id, "error": error})
                continue
            for question in questions:
                same = waiting.setdefault(question.shape, [])
                same.append(question)
                if len(same) == how.batch_size:
                    _answer(model, same, how, finish)
                    same.clear()
        for _, rest in sorted(waiting.items()):
            if rest:
                _answer(model, rest, how, finish)


@dataclass
class _Found:
    """The scenes of a medium as rows to be completed, their pictures, and what is wrong with it."""

    scenes: list[dict[str, Any]]
    pictures: list[Any]
    notes: list[str]


@dataclass
class _Job:
    id: str
    found: _Found
    open: int  # questions without an answer

    def row(self) -> Row:
        notes = {"notes": self.found.notes} if self.found.notes else {}
        return {"id": self.id, "answer": self.found.scenes} | notes


@dataclass
class _Question:
    job: _Job
    scene: int
    kind: str  # "caption" or "tags"
    row: Prompt

    @property
    def shape(self) -> tuple[int, int]:
        tokens, _, views = self.row
        return bucket(len(tokens)), len(views)


def _opened(
    pool: ThreadPoolExecutor, media: Sequence[tuple[str, Medium]], how: Asking
) -> Iterator[tuple[str, _Found | str]]:
    """The media in order, with their scenes or why there are none; a few are opened while the model is at others."""
    ahead: deque[tuple[str, Future[_Found | str]]] = deque()
    rest = iter(media)
    for id, medium in itertools.islice(rest, _AHEAD):
        ahead.append((id, pool.submit(_open, medium, how)))
    while ahead:
        id, future = ahead.popleft()
        yield id, future.result()
        for following, medium in itertools.islice(rest, 1):
            ahead.append((following, pool.submit(_open, medium, how)))


def _open(medium: Medium, how: Asking) -> _Found | str:
    notes: list[str] = []
    try:
        if medium.is_picture:
            found = keyframes.of_picture(medium.path)
        else:
            found = keyframes.keyframes(medium.path, how.most_scenes, notes.append)
        # The scenes of another file that came under its name would be kept under the wrong hash for ever.
        if stamp(medium.path) != medium.stamp:
            return "media: changed while it was read"
    except (ImageError, VideoError) as error:
        return f"media: {error.reason}"
    except OSError as error:
        return f"media: {error.strerror or error}"
    scenes = []
    for start, end, shown, picture in found:
        seen = pixels.describe(picture)
        times = {"start": _rounded(start), "end": _rounded(end), "keyframe": _rounded(shown)}
        colors = {"foreground": list(seen.foreground), "background": list(seen.background)}
        scenes.append(times | colors | {"tone": seen.tone})
    return _Found(scenes, [picture for *_, picture in found], notes)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _questions(model: Model, job: _Job, how: Asking) -> Iterator[_Question]:
    pictures = job.found.pictures
    for kind, prompt in (("caption", how.caption_prompt), ("tags", how.tags_prompt)):
        for scene, row in enumerate(model.read([prompt] * len(pictures), pictures)):
            yield _Question(job, scene, kind, row)
    job.found.pictures = []  # the rows have what the model needs of them


def _too_long(model: Model, questions: Sequence[_Question], how: Asking) -> str:
    longest = max(len(question.row[0]) for question in questions) + how.new_tokens
    most = model.config.decoder.max_positions
    return (
        f"model: a question takes {longest} positions and the model has fewer ({most})"
        if longest > most
        else ""
    )


def _answer(model: Model, questions: Sequence[_Question], how: Asking, finish: Callable[[Row], None]) -> None:
    full = [question.row for question in questions]
    full += [full[-1]] * (how.batch_size - len(full))
    try:
        answers = model.answer(full, how.new_tokens, batch_size=how.batch_size)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"the device's memory is too small for --batch {how.batch_size} ({in_one_line(error, 120)}); give a "
            "smaller one: the command goes on where it stopped"
        ) from error
    for question, text in zip(questions, answers, strict=False):
        scene = question.job.found.scenes[question.scene]
        scene[question.kind] = text
        if question.kind == "tags":
            scene["tags cut"] = _is_cut(model, text, how)
        question.job.open -= 1
        if not question.job.open:
            finish(question.job.row())


def _is_cut(model: Model, text: str, how: Asking) -> bool:
    """Whether an answer seems to have ended for its length. Its text may have a few tokens less than were written."""
    return len(plain_encoding(model.tokenizer, text, True)[0]) >= how.new_tokens - how.new_tokens // 16


def host_of(id: str, hosts: int) -> int:
    """Which host asks about a medium: a matter of its bytes alone."""
    return int(id[:8], 16) % hosts
