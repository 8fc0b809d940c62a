"""VQAv2: open questions on COCO pictures, ten people's answers each.

The release (visualqa.org) is v2_OpenEnded_mscoco_{val2014,train2014,test-dev2015,test2015}_questions.json,
{"questions": [{"question_id", "image_id", "question"}]}, and
v2_mscoco_{val2014,train2014}_annotations.json, {"annotations": [{"question_id", "answers": [{"answer"}],
"answer_type", "question_type"}]}, under vqav2/, with COCO's picture folders. LLaVA's eval.zip adds
vqav2/llava_vqav2_mscoco_{test-dev2015,test2015}.jsonl. The server of the test wants an answer for every
question of test2015, "" where test-dev does not ask it.
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
    commonest,
    existing,
    first_of,
    numbered,
    question_file,
    records_of,
    said,
    short,
    ten_answers,
    text_of,
    write_json,
)
from jaxllava.evaluate.tasks.llava_reported import zero_shot
from jaxllava.evaluate.tasks.task import Finetune, Generate, Item, Rejected, Task

_COCO = {"val": "val2014", "train": "train2014", "test-dev": "test-dev2015"}
_PICTURES = {"val": "val2014", "train": "train2014", "test-dev": "test2015"}
_ALL = ("llava_vqav2_mscoco_test2015.jsonl", "v2_OpenEnded_mscoco_test2015_questions.json")


def load(folder: Path, split: str) -> Iterator[Item | Rejected]:
    if split == "test-dev":
        yield from _test(folder)
        return
    annotations: dict[int, dict[str, Any]] = {}
    path = folder / f"v2_mscoco_{_COCO[split]}_annotations.json"
    for one in numbered(path, records_of(path, "annotations")):
        if isinstance(one, Rejected):
            yield one
        elif isinstance(id := one[1].get("question_id"), int):
            annotations[id] = one[1]
        else:
            yield Rejected(one[0], "no question_id")
    for asked in _release(folder, split):
        if isinstance(asked, Rejected):
            yield asked
            continue
        annotation = annotations.get(int(asked.id))
        truth = ten_answers(annotation or {})
        if annotation is None or len(truth) < 2:
            yield Rejected(asked.where, "no annotation" if annotation is None else "fewer than two answers")
            continue
        meta = {key: annotation[key] for key in ("answer_type", "question_type") if text_of(annotation, key)}
        yield _item(folder, split, asked, truth, meta)


def _test(folder: Path) -> Iterator[Item | Rejected]:
    every = first_of(folder, *_ALL)
    path = folder / "llava_vqav2_mscoco_test-dev2015.jsonl"
    for asked in question_file(path) if path.exists() else _release(folder, "test-dev"):
        if isinstance(asked, Rejected):
            yield asked
        else:
            yield _item(folder, "test-dev", asked, None, {"every_question": str(every)} if every else {})


def _release(folder: Path, split: str) -> Iterator[Asked | Rejected]:
    path = folder / f"v2_OpenEnded_mscoco_{_COCO[split]}_questions.json"
    for one in numbered(path, records_of(path, "questions")):
        if isinstance(one, Rejected):
            yield one
            continue
        where, record = one
        id, image, text = record.get("question_id"), record.get("image_id"), text_of(record, "question")
        if not isinstance(id, int) or not isinstance(image, int) or text is None:
            yield Rejected(where, "no question_id, image_id or question")
        else:
            yield Asked(where, id, f"COCO_{_PICTURES[split]}_{image:012}.jpg", short(text), "default")


def _item(folder: Path, split: str, asked: Asked, truth: list[str] | None, meta: dict[str, Any]) -> Item:
    picture = existing(folder, f"{_PICTURES[split]}/{asked.image}", asked.image)
    return Item(str(asked.id), asked.text, (picture,), truth, meta=meta | {"line": {"question_id": asked.id}})


def submit(rows: Sequence[Answered], folder: Path) -> Path:
    """vqav2.json: [{"question_id", "answer"}], answers as M4C's evaluator normalises them, as LLaVA sends them.

    Where the list of all questions of the test was beside the questions, those that were not asked get "".
    """
    answers = {row.meta["line"]["question_id"]: vqa.m4c(said(row)) for row in rows}
    ids = list(answers)
    if every := next((row.meta["every_question"] for row in rows if row.meta.get("every_question")), None):
        ids = [id for id in _every_id(Path(every)) if id not in answers]
        ids = list(answers) + ids
    return write_json(
        folder, "vqav2.json", [{"question_id": id, "answer": answers.get(id, "")} for id in ids]
    )


def _every_id(path: Path) -> list[int | str]:
    if path.suffix == ".jsonl":
        return [one.id for one in question_file(path) if isinstance(one, Asked)]
    return [one["question_id"] for one in records_of(path, "questions")]


def _needs(split: str) -> tuple[str, ...]:
    files = (
        f"v2_OpenEnded_mscoco_{_COCO[split]}_questions.json",
        f"v2_mscoco_{_COCO[split]}_annotations.json",
    )
    return (*files, f"{_PICTURES[split]}/*")


TASKS: tuple[Task, ...] = (
    Task(
        name="vqav2",
        family="llava",
        title="VQAv2, val2014",
        metric="VQA accuracy, %",
        folder="vqav2",
        needs={split: _needs(split) for split in ("val", "train")},
        get="Questions and annotations of https://visualqa.org/download.html (CC BY 4.0), unzipped in vqav2, and "
        "COCO's pictures (http://images.cocodataset.org/zips/val2014.zip) as vqav2/val2014.",
        load=load,
        protocol=Generate(LOADER_TOKENS),
        score=vqa.vqav2,
        submit=submit,
        split="val",
        tested="fixture",
        finetune=Finetune(commonest),
        note="LLaVA reports test-dev, which only the server can score: vqav2_test.",
    ),
    Task(
        name="vqav2_test",
        family="llava",
        title="VQAv2, test-dev",
        metric="VQA accuracy, %",
        folder="vqav2",
        needs={"test-dev": ("*mscoco_test-dev2015*.json*", "test2015/*")},
        get="LLaVA's eval.zip (docs/Evaluation.md of https://github.com/haotian-liu/LLaVA) or the test questions of "
        "https://visualqa.org/download.html (CC BY 4.0) in vqav2, and COCO's pictures "
        "(http://images.cocodataset.org/zips/test2015.zip) as vqav2/test2015.",
        load=load,
        protocol=Generate(LOADER_TOKENS),
        score=vqa.vqav2,
        submit=submit,
        split="test-dev",
        tested="fixture",
        reported=zero_shot(
            "vqav2_test",
            "VQAv2's training questions are in the mixture that LLaVA-1.5 and later are trained on",
        ),
        note="The truths are hidden: the file is for https://eval.ai/web/challenges/challenge-page/830.",
    ),
)
