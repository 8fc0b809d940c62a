"""TextVQA, val: questions that need the text in a picture; ten people's answers each.

The release (textvqa.org) is TextVQA_0.5.1_{val,train}.json, {"data": [{"question_id", "image_id",
"question", "answers": [10 texts]}]}, TextVQA_Rosetta_OCR_v0.2_{val,train}.json, {"data": [{"image_id",
"ocr_tokens"}]}, and train_val_images.zip, which unpacks as train_images/. LLaVA's eval.zip adds
textvqa/llava_textvqa_val_v051_ocr.jsonl: the question with a capital at the start and the rest in small
letters, the tokens on a line of their own, and the picture's id as the question's, so that truths are
looked up by picture and question, as its eval_textvqa.py does.

`textvqa` is LLaVA-1.5's reported setting, tokens and all; `textvqa_no_ocr` leaves their line out.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from jaxllava.evaluate.scoring import vqa
from jaxllava.evaluate.tasks.llava_layout import (
    LOADER_TOKENS,
    SHORT,
    Asked,
    commonest,
    existing,
    numbered,
    numbered_ids,
    question_file,
    records_of,
    short,
    ten_answers,
    text_of,
)
from jaxllava.evaluate.tasks.llava_reported import zero_shot
from jaxllava.evaluate.tasks.task import Finetune, Generate, Item, Rejected, Task

_OCR_LINE = "Reference OCR token: "
_LLAVA = "llava_textvqa_val_v051_ocr.jsonl"

Truths = dict[tuple[str, str], list[str]]  # (picture, question in small letters) -> answers


def load(folder: Path, split: str, *, ocr: bool) -> Iterator[Item | Rejected]:
    truths: Truths = {}
    asked: list[Asked | Rejected] = []
    path = folder / f"TextVQA_0.5.1_{split}.json"
    llava = folder / _LLAVA
    if path.exists() or not llava.exists():
        asked = list(_release(path, truths))
    if split == "val" and llava.exists():
        yield from (one for one in asked if isinstance(one, Rejected))
        asked = question_file(llava)
    elif ocr:
        asked = _with_tokens(folder, split, asked)
    new_id = numbered_ids()
    for one in asked:
        yield one if isinstance(one, Rejected) else _item(folder, one, new_id(str(one.id)), truths, path, ocr)


def _release(path: Path, truths: Truths) -> Iterator[Asked | Rejected]:
    for one in numbered(path, records_of(path, "data")):
        if isinstance(one, Rejected):
            yield one
            continue
        where, record = one
        image, question, answers = (
            text_of(record, "image_id"),
            text_of(record, "question"),
            ten_answers(record),
        )
        if image is None or question is None:
            yield Rejected(where, "no image_id or no question")
        elif len(answers) < 10:
            yield Rejected(where, "fewer than ten answers")
        else:
            truths[image, question.lower()] = answers
            yield Asked(where, image, f"{image}.jpg", short(question.capitalize()), "default")


def _with_tokens(folder: Path, split: str, asked: list[Asked | Rejected]) -> list[Asked | Rejected]:
    path = folder / f"TextVQA_Rosetta_OCR_v0.2_{split}.json"
    tokens: dict[str, Any] = {
        record["image_id"]: record.get("ocr_tokens") or []
        for record in records_of(path, "data")
        if isinstance(record, dict) and text_of(record, "image_id")
    }
    found: list[Asked | Rejected] = []
    for one in asked:
        if isinstance(one, Asked):
            if one.id not in tokens:
                found.append(Rejected(one.where, f"{path.name} does not have the picture"))
                continue
            question = one.text.removesuffix(f"\n{SHORT}")
            text = short(f"{question}\n{_OCR_LINE}{', '.join(tokens[str(one.id)])}")
            one = Asked(one.where, one.id, one.image, text, one.category)
        found.append(one)
    return found


def _item(folder: Path, asked: Asked, id: str, truths: Truths, path: Path, ocr: bool) -> Item | Rejected:
    question, lines = asked.text.split("\n")[0], asked.text.split("\n")
    answers = truths.get((str(asked.id), question.lower()))
    if answers is None and truths:
        return Rejected(asked.where, f"{path.name} has no such question on the picture")
    prompt = asked.text if ocr else "\n".join(line for line in lines if not line.startswith(_OCR_LINE))
    picture = existing(folder, f"train_images/{asked.image}", f"train_val_images/train_images/{asked.image}")
    return Item(id, prompt, (picture,), answers, meta={"line": {"question_id": asked.id}})


_GET = (
    "TextVQA_0.5.1_val.json from https://textvqa.org/dataset (CC BY 4.0) in textvqa, and "
    "https://dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip as textvqa/train_images."
)


def _needs(ocr: bool) -> dict[str, tuple[str, ...]]:
    needs = {}
    for split in ("val", "train"):
        tokens = (
            ()
            if not ocr
            else ("*[oO][cC][rR]*",)
            if split == "val"
            else ("TextVQA_Rosetta_OCR_v0.2_train.json",)
        )
        needs[split] = (f"TextVQA_0.5.1_{split}.json", *tokens, "**/train_images/*")
    return needs


TASKS: tuple[Task, ...] = (
    Task(
        name="textvqa",
        family="llava",
        title="TextVQA, val, with OCR tokens",
        metric="VQA accuracy, %",
        folder="textvqa",
        needs=_needs(True),
        get=f"{_GET} Also {_LLAVA} of LLaVA's eval.zip, or TextVQA_Rosetta_OCR_v0.2_val.json of the same page.",
        load=partial(load, ocr=True),
        protocol=Generate(LOADER_TOKENS),
        score=vqa.textvqa,
        split="val",
        tested="fixture",
        reported=zero_shot("textvqa", "LLaVA-1.5's prompt holds the OCR tokens; of LLaVA-1.6 it is not said"),
        finetune=Finetune(commonest),
    ),
    Task(
        name="textvqa_no_ocr",
        family="llava",
        title="TextVQA, val, without OCR tokens",
        metric="VQA accuracy, %",
        folder="textvqa",
        needs=_needs(False),
        get=_GET,
        load=partial(load, ocr=False),
        protocol=Generate(LOADER_TOKENS),
        score=vqa.textvqa,
        split="val",
        tested="fixture",
        finetune=Finetune(commonest),
        note="LLaVA-1.5's reported figures have the OCR tokens in the prompt: textvqa.",
    ),
)
