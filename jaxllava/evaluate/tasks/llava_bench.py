"""LLaVA-Bench: conversation, detailed description and complex reasoning, reviewed by a language model.

In the wild (liuhaotian/llava-bench-in-the-wild on the Hugging Face hub; 24 pictures, 60 questions):
questions.jsonl, a question file of LLaVA; context.jsonl, {"image", "caption"} with a text or a list of
texts; answers_gpt4.jsonl, {"question_id", "text"}, the reference answers; images/. On COCO (in the LLaVA
repository; 30 pictures of val2014, 90 questions): qa90_questions.jsonl, qa90_gpt4_answer.jsonl and, under
llava/eval/table, caps_boxes_coco2014_val_80.jsonl, {"image", "captions", "instances": [{"category",
"bbox"}]}.

A truth is the reference answer. `meta["context"]` is what the reviewer sees in place of the picture, as it
stands between "[Context]" and "[Question]"; `meta["category"]` is the rule of LLaVA's rule.json by which it
reviews.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxllava.evaluate.tasks.llava_layout import SCRIPT_TOKENS, existing, question_file, read_lines, text_of
from jaxllava.evaluate.tasks.llava_reported import zero_shot
from jaxllava.evaluate.tasks.task import Generate, Item, Rejected, Reported, Task

_CATEGORIES = ("conv", "detail", "complex")
_WILD = "llava_bench_"  # in front of a category in the wild, in LLaVA's rules and reviews
CATEGORIES = {  # of reviews, by task
    "llava_bench_wild": tuple(_WILD + category for category in _CATEGORIES),
    "llava_bench_coco": _CATEGORIES,
}
JUDGE = "LLaVA's GPT review, two scores from 1 to 10"


def load_wild(folder: Path, split: str) -> Iterator[Item | Rejected]:
    files = ("questions.jsonl", "answers_gpt4.jsonl", "context.jsonl")
    yield from _load(folder, files, _captions, _WILD, lambda image: existing(folder, f"images/{image}"))


def load_coco(folder: Path, split: str) -> Iterator[Item | Rejected]:
    files = ("qa90_questions.jsonl", "qa90_gpt4_answer.jsonl", "caps_boxes_coco2014_val_80.jsonl")
    # The 2014 release names its pictures otherwise than the questions, which are of the later one.
    picture = lambda image: existing(
        folder, f"val2014/COCO_val2014_{image}", f"val2014/{image}", f"images/{image}", f"val2017/{image}"
    )
    yield from _load(folder, files, _captions_and_boxes, "", picture)


def _load(
    folder: Path,
    files: tuple[str, str, str],
    context_of: Callable[[dict[str, Any]], str | None],
    rule: str,
    picture: Callable[[str], Path],
) -> Iterator[Item | Rejected]:
    questions, references, contexts = (folder / file for file in files)
    answers: dict[str, dict[str, Any]] = {}
    for one in read_lines(references) if references.exists() else ():
        if isinstance(one, Rejected):
            yield one
        elif text_of(one[1], "text") is None:
            yield Rejected(one[0], "a reference without a text")
        else:
            answers[str(one[1].get("question_id"))] = one[1]
    seen: dict[str, str] = {}
    for one in read_lines(contexts) if contexts.exists() else ():
        if isinstance(one, Rejected):
            yield one
        elif (image := text_of(one[1], "image")) is None or (context := context_of(one[1])) is None:
            yield Rejected(one[0], "a context without a picture's name or captions")
        else:
            seen[image] = context
    for one in question_file(questions):
        if isinstance(one, Rejected):
            yield one
        elif one.category not in _CATEGORIES:
            yield Rejected(one.where, "category is none of conv, detail, complex")
        else:
            reference = answers.get(str(one.id), {})
            meta = {"category": rule + one.category, "line": {"question_id": one.id}}
            if one.image in seen:
                meta["context"] = seen[one.image]
            if "answer_id" in reference:
                meta["reference_id"] = reference["answer_id"]
            yield Item(str(one.id), one.text, (picture(one.image),), reference.get("text"), meta=meta)


def _captions(line: dict[str, Any]) -> str | None:
    captions = line.get("caption")
    if isinstance(captions, list) and captions:
        return "\n".join(map(str, captions))
    return text_of(line, "caption")


def _captions_and_boxes(line: dict[str, Any]) -> str | None:
    captions, instances = line.get("captions"), line.get("instances")
    if not isinstance(captions, list) or not captions or not isinstance(instances, list):
        return None
    boxes = [
        f"{one['category']}: {one['bbox']}"
        for one in instances
        if isinstance(one, dict) and {"category", "bbox"} <= set(one)
    ]
    return "\n".join(map(str, captions)) + "\n\n" + "\n".join(boxes)


TASKS: tuple[Task, ...] = (
    Task(
        name="llava_bench_wild",
        family="llava",
        title="LLaVA-Bench (in the wild)",
        metric="score relative to GPT-4's, %",
        folder="llava-bench-in-the-wild",
        needs={"test": ("questions.jsonl", "context.jsonl", "answers_gpt4.jsonl", "images/*")},
        get="https://huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild (Apache-2.0) as "
        "llava-bench-in-the-wild.",
        load=load_wild,
        protocol=Generate(SCRIPT_TOKENS),
        score=None,
        judge=JUDGE,
        tested="fixture",
        size=60,
        reported=zero_shot("llava_bench_wild", "LLaVA: 57.3/52.5/81.7 of conversation, detail, complex"),
    ),
    Task(
        name="llava_bench_coco",
        family="llava",
        title="LLaVA-Bench (COCO)",
        metric="score relative to GPT-4's, %",
        folder="coco2014_val_qa_eval",
        needs={
            "test": (
                "qa90_questions.jsonl",
                "qa90_gpt4_answer.jsonl",
                "caps_boxes_coco2014_val_80.jsonl",
                "*/*.jpg",
            )
        },
        get="playground/data/coco2014_val_qa_eval and llava/eval/table/caps_boxes_coco2014_val_80.jsonl of "
        "https://github.com/haotian-liu/LLaVA (Apache-2.0), both in coco2014_val_qa_eval, and COCO's pictures "
        "(http://images.cocodataset.org/zips/val2014.zip) as coco2014_val_qa_eval/val2014.",
        load=load_coco,
        protocol=Generate(SCRIPT_TOKENS),
        score=None,
        judge=JUDGE,
        tested="fixture",
        size=90,
        reported={
            "zero-shot": Reported(
                {
                    "LLaVA": 85.1,
                    "LLaVA, detail + complex": 81.9,
                    "LLaVA, conversation + 5% detail + 10% complex": 80.5,
                    "LLaVA, conversation only": 73.8,
                    "LLaVA, no tuning": 21.5,
                },
                note="LLaVA: 83.1/75.3/96.5 of conversation, detail, complex",
            )
        },
    ),
)
