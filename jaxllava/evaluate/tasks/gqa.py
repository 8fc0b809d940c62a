"""GQA, testdev_balanced: questions on real pictures that are composed from scene graphs; one short answer
each.

The release (questions1.2.zip, images.zip of cs.stanford.edu/people/dorarad/gqa) is an object of question id
to {"imageId", "question", "answer", "types": {"structural", "semantic", "detailed"}, ...}. LLaVA unpacks it
in gqa/data, and its eval.zip adds gqa/llava_gqa_testdev_balanced.jsonl, whose ids are the release's. The
prediction file that GQA's eval.py reads, with LLaVA's full stops and case gone, is the submission.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxllava.evaluate.scoring import vqa
from jaxllava.evaluate.scoring.answered import Answered
from jaxllava.evaluate.tasks.llava_layout import (
    LOADER_TOKENS,
    Asked,
    existing,
    first_of,
    question_file,
    read_json,
    said,
    short,
    text_of,
    write_json,
)
from jaxllava.evaluate.tasks.llava_reported import zero_shot
from jaxllava.evaluate.tasks.task import Finetune, Generate, Item, Rejected, Task

_FILES = {"testdev": "testdev_balanced_questions.json", "train": "train_balanced_questions.json"}
_PLACES = ("data", "data/questions1.2", "data/questions", "questions1.2", "questions", ".")


def load(folder: Path, split: str) -> Iterator[Item | Rejected]:
    path = first_of(folder, *(f"{place}/{_FILES[split]}" for place in _PLACES))
    release: dict[str, Any] = read_json(path, dict) if path else {}
    images = existing(folder, "data/images", "images")
    llava = folder / "llava_gqa_testdev_balanced.jsonl"
    if split == "testdev" and llava.exists():
        for one in question_file(llava):
            yield one if isinstance(one, Rejected) else _of_llava(one, images, release, bool(path))
        return
    for id, question in release.items():
        yield _of_release(f"{path}:{id}", id, question, images)


def _of_llava(asked: Asked, images: Path, release: dict[str, Any], truths: bool) -> Item | Rejected:
    if not truths:  # asked all the same: there are answers to write out
        return Item(str(asked.id), asked.text, (images / asked.image,))
    question = release.get(str(asked.id))
    if not isinstance(question, dict):
        return Rejected(asked.where, "the release has no question of this id")
    item = _of_release(asked.where, str(asked.id), question, images)
    if isinstance(item, Rejected):
        return item
    return Item(item.id, asked.text, (images / asked.image,), item.truth, meta=item.meta)


def _of_release(where: str, id: str, question: Any, images: Path) -> Item | Rejected:
    if not isinstance(question, dict):
        return Rejected(where, "not a JSON object")
    text, answer, image = (text_of(question, key) for key in ("question", "answer", "imageId"))
    if text is None or image is None:
        return Rejected(where, "no question or no imageId")
    if answer is None:
        return Rejected(where, "no answer")
    types = question.get("types")
    meta = (
        {key: types[key] for key in ("structural", "semantic") if types.get(key)}
        if isinstance(types, dict)
        else {}
    )
    return Item(id, short(text), (images / f"{image}.jpg",), answer, meta=meta)


def submit(rows: Sequence[Answered], folder: Path) -> Path:
    """testdev_balanced_predictions.json: [{"questionId", "prediction"}], lower case, without full stops at the end."""
    predictions = [{"questionId": row.id, "prediction": said(row).rstrip(".").lower()} for row in rows]
    return write_json(folder, "testdev_balanced_predictions.json", predictions)


def _taught(item: Item) -> str:
    return item.truth


TASKS: tuple[Task, ...] = (
    Task(
        name="gqa",
        family="llava",
        title="GQA, testdev balanced",
        metric="exact match, %",
        folder="gqa",
        needs={split: (f"**/{file}", "**/images/*") for split, file in _FILES.items()},
        get="questions1.2.zip and images.zip from https://cs.stanford.edu/people/dorarad/gqa/download.html "
        "(CC BY 4.0), unpacked in gqa/data.",
        load=load,
        protocol=Generate(LOADER_TOKENS),
        score=vqa.gqa,
        submit=submit,
        split="testdev",
        tested="fixture",
        reported=zero_shot(
            "gqa", "GQA's training questions are in the mixture that LLaVA-1.5 and later are trained on"
        ),
        finetune=Finetune(_taught),
    ),
)
