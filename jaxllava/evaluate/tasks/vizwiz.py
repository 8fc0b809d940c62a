"""VizWiz-VQA: what blind people asked about their own photos; many cannot be answered.

The release (vizwiz.org) is Annotations.zip with {train,val,test}.json, a list of {"image", "question",
"answers": [{"answer"}], "answer_type", "answerable"} (the test without answers), and a zip of pictures a
split. LLaVA has test.json and test/ in vizwiz/, and its eval.zip adds vizwiz/llava_test.jsonl: the
questions in their order from 0, with a capital at the start and the rest in small letters (Python's
`capitalize`), and its own line about unanswerable ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxllava.evaluate.scoring import vqa
from jaxllava.evaluate.scoring.answered import Answered
from jaxllava.evaluate.tasks.llava_layout import (
    LOADER_TOKENS,
    UNANSWERABLE,
    commonest,
    existing,
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


def load(folder: Path, split: str) -> Iterator[Item | Rejected]:
    llava = folder / "llava_test.jsonl"
    if split == "test" and llava.exists():
        for one in question_file(llava):
            if isinstance(one, Rejected):
                yield one
            else:
                yield _item(folder, split, one.id, one.image, one.text, None, {})
        return
    path = existing(folder, f"{split}.json", f"Annotations/{split}.json", f"annotations/{split}.json")
    for index, one in enumerate(numbered(path, records_of(path))):
        if isinstance(one, Rejected):
            yield one
            continue
        where, record = one
        image, question, answers = text_of(record, "image"), text_of(record, "question"), ten_answers(record)
        if image is None or question is None:
            yield Rejected(where, "no image or no question")
        elif split != "test" and len(answers) < 2:
            yield Rejected(where, "fewer than two answers")
        else:
            kind = text_of(record, "answer_type")
            prompt = short(f"{question.capitalize()}\n{UNANSWERABLE}")
            truth = answers if split != "test" else None
            yield _item(folder, split, index, image, prompt, truth, {"answer_type": kind} if kind else {})


def _item(
    folder: Path, split: str, id: int | str, image: str, prompt: str, truth: list[str] | None, meta: dict
) -> Item:
    picture = existing(folder, f"{split}/{image}", f"images/{split}/{image}", f"images/{image}")
    meta = {**meta, "image": image, "line": {"question_id": id}}
    return Item(str(id), prompt, (picture,), truth, meta=meta)


def submit(rows: Sequence[Answered], folder: Path) -> Path:
    """vizwiz.json: [{"image", "answer"}], answers as M4C's evaluator normalises them, as LLaVA sends them."""
    answers = [{"image": row.meta["image"], "answer": vqa.m4c(said(row))} for row in rows]
    return write_json(folder, "vizwiz.json", answers)


_GET = (
    "Annotations.zip and the split's pictures from https://vizwiz.org/tasks-and-datasets/vqa/ (CC BY 4.0): {0}.json "
    "and {0}/ in vizwiz."
)

TASKS: tuple[Task, ...] = (
    Task(
        name="vizwiz",
        family="llava",
        title="VizWiz-VQA, val",
        metric="VQA accuracy, %",
        folder="vizwiz",
        needs={"val": ("**/val.json", "**/val/*"), "train": ("**/train.json", "**/train/*")},
        get=_GET.format("val"),
        load=load,
        protocol=Generate(LOADER_TOKENS),
        score=vqa.vizwiz,
        submit=submit,
        split="val",
        tested="fixture",
        finetune=Finetune(commonest),
        note="LLaVA reports the test, which only the server can score: vizwiz_test.",
    ),
    Task(
        name="vizwiz_test",
        family="llava",
        title="VizWiz-VQA, test",
        metric="VQA accuracy, %",
        folder="vizwiz",
        needs={"test": ("**/*test.json*", "**/test/*")},
        get=_GET.format("test"),
        load=load,
        protocol=Generate(LOADER_TOKENS),
        score=vqa.vizwiz,
        submit=submit,
        tested="fixture",
        reported=zero_shot("vizwiz_test"),
        note="The truths are hidden: the file is for https://eval.ai/web/challenges/challenge-page/1911.",
    ),
)
