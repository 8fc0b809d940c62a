"""ScienceQA: multiple-choice questions of school science, half of them with a picture.

The release (lupantech/ScienceQA, data/scienceqa) is problems.json, an object of problem id to {"question",
"choices", "answer" (index), "hint", "image" (null or a file name), "subject", "grade", "lecture",
"solution", "split"}; pid_splits.json, an object of split to ids; and images/{split}/{id}/image.png. LLaVA's
eval.zip adds llava_test_CQM-A.json, the test in conversation form.

Two prompts: `scienceqa` and `scienceqa_img` (the problems with a picture) have LLaVA-1.5's, context,
question, "A. ..." lines, to be answered with a letter; the two layouts of it give the same prompts.
`scienceqa_lea` has the first LLaVA's QCM-LEA form (scripts/convert_sqa_to_llava.py), to be answered with
lecture, explanation and "The answer is B.": its figures are of models trained on its training split for 12
epochs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jaxllava.evaluate.scoring import letters
from jaxllava.evaluate.tasks.llava_layout import (
    LETTER,
    LETTERS,
    SCRIPT_TOKENS,
    existing,
    numbered,
    options,
    read_json,
    records_of,
    text_of,
)
from jaxllava.evaluate.tasks.llava_reported import zero_shot
from jaxllava.evaluate.tasks.task import Finetune, Generate, Item, Rejected, Reported, Task

_LLAVA = "llava_test_CQM-A.json"
_SUBJECTS = ("natural science", "social science", "language science")


def load(folder: Path, split: str, *, pictured: bool = False) -> Iterator[Item | Rejected]:
    """Items in LLaVA-1.5's form; only those with a picture where `pictured`."""
    llava = folder / _LLAVA
    if split == "test" and llava.exists():
        problems = read_json(p, dict) if (p := folder / "problems.json").exists() else {}
        found = (_of_llava(one, folder, problems) for one in numbered(llava, records_of(llava)))
    else:
        found = (_of_release(*one, folder, split) for one in _problems(folder, split))
    yield from (one for one in found if isinstance(one, Rejected) or one.media or not pictured)


def load_lea(folder: Path, split: str) -> Iterator[Item | Rejected]:
    """Items in the QCM form; `meta["taught"]` is the LEA answer."""
    for where, id, problem in _problems(folder, split):
        item = _of_release(where, id, problem, folder, split)
        if isinstance(item, Item):
            prompt, taught = _qcm_lea(problem)
            line = item.meta["line"] | ({"prompt": f"<image>\n{prompt}"} if item.media else {})
            meta = {**item.meta, "line": line, "taught": taught}
            item = Item(item.id, prompt, item.media, item.truth, meta=meta)
        yield item


def _problems(folder: Path, split: str) -> Iterator[tuple[str, str, Any]]:
    problems = read_json(folder / "problems.json", dict)
    for id in records_of(folder / "pid_splits.json", split):
        yield f"{folder / 'problems.json'}:{id}", str(id), problems.get(str(id))


def _of_release(where: str, id: str, problem: Any, folder: Path, split: str) -> Item | Rejected:
    meta = _meta(problem)
    if isinstance(meta, str):
        return Rejected(where, meta)
    hint = problem.get("hint") or ""
    # As LLaVA's file has it: a problem without a hint has no line of context.
    question = f"Context: {hint}\n{problem['question']}" if hint else problem["question"]
    image = f"{id}/{problem['image']}" if meta["image"] else ""
    return _item(folder, split, id, options(question, meta["choices"]), image, problem["answer"], meta)


def _of_llava(
    record: tuple[str, dict[str, Any]] | Rejected, folder: Path, problems: Mapping[str, Any]
) -> Item | Rejected:
    if isinstance(record, Rejected):
        return record
    where, line = record
    turns = line.get("conversations")
    if not isinstance(line.get("id"), str | int) or not isinstance(turns, list) or len(turns) < 2:
        return Rejected(where, "no id or no two turns")
    said = [turn.get("value") if isinstance(turn, dict) else None for turn in turns[:2]]
    if not isinstance(said[0], str) or not isinstance(said[1], str):
        return Rejected(where, "a turn without a text")
    question = said[0].replace("<image>", "").strip()
    # Without problems.json the choices are the lines that begin with the letters in turn, at the end.
    lines = question.split("\n")
    count = next((n for n in range(len(LETTERS), 1, -1) if _are_choices(lines[-n:])), 0)
    meta: dict[str, Any] | str = {"choices": [one[3:] for one in lines[-count:]], "image": "image" in line}
    truth: int | str = said[1].strip()
    if problem := problems.get(str(line["id"])):
        meta = _meta(problem)
        if isinstance(meta, str):
            return Rejected(where, f"problems.json: {meta}")
        truth = problem["answer"]
    elif not count or truth not in tuple(LETTERS[:count]):
        return Rejected(where, "no choices, or an answer that is none of them")
    image = text_of(line, "image") or ""
    return _item(folder, "test", str(line["id"]), question, image, truth, meta)


def _are_choices(lines: list[str]) -> bool:
    return all(line.startswith(f"{letter}. ") for letter, line in zip(LETTERS, lines, strict=False))


def _meta(problem: Any) -> dict[str, Any] | str:
    """What the scorer needs of a problem, or what is wrong with it."""
    if not isinstance(problem, dict):
        return "no such problem"
    choices, answer = problem.get("choices"), problem.get("answer")
    if text_of(problem, "question") is None:
        return "no question"
    if not isinstance(choices, list) or not 2 <= len(choices) <= 5:
        return "not two to five choices"
    if not isinstance(answer, int) or not 0 <= answer < len(choices):
        return "answer is no index of a choice"
    meta = {"choices": [str(c) for c in choices], "image": bool(problem.get("image"))}
    meta["hint"] = bool(problem.get("hint"))
    if problem.get("subject") in _SUBJECTS:
        meta["subject"] = problem["subject"]
    grade = str(problem.get("grade") or "").removeprefix("grade")
    if grade.isdigit() and 1 <= int(grade) <= 12:
        meta["grade"] = problem["grade"]
    return meta


def _item(
    folder: Path, split: str, id: str, question: str, image: str, truth: int | str, meta: Mapping[str, Any]
) -> Item:
    prompt = f"{question}\n{LETTER}"
    media = (existing(folder, f"images/{split}/{image}", f"images/{image}"),) if image else ()
    line = {"prompt": f"<image>\n{prompt}"} if image else {}
    letter = LETTERS[truth] if isinstance(truth, int) else truth
    return Item(id, prompt, media, letter, meta={**meta, "line": line})


def _qcm_lea(problem: Mapping[str, Any]) -> tuple[str, str]:
    """Prompt and answer of QCM-LEA, letter for letter: two blanks become one, once, and its headings go everywhere."""
    choices = " ".join(f"({k}) {choice}" for k, choice in zip(LETTERS, problem["choices"], strict=False))
    context = (problem.get("hint") or "").strip() or "N/A"
    prompt = f"Question: {problem['question']}\nContext: {context}\nOptions: {choices}"
    reasons = f"{problem.get('lecture') or ''} {problem.get('solution') or ''}"
    answer = f"Answer: {reasons} The answer is {LETTERS[problem['answer']]}."
    bare = lambda text, heading: text.replace("  ", " ").strip().replace(heading, "")
    return bare(prompt, "Question: "), bare(answer, "Answer: ")


def _letter(item: Item) -> str:
    return item.truth


def _taught(item: Item) -> str:
    return item.meta["taught"]


_NEEDS = {split: ("problems.json", "pid_splits.json", f"images/{split}") for split in ("test", "train")}
_GET = (
    "problems.json, pid_splits.json and images/ of data/scienceqa of https://github.com/lupantech/ScienceQA "
    "(CC BY-NC-SA 4.0) in scienceqa."
)

TASKS: tuple[Task, ...] = (
    Task(
        name="scienceqa",
        family="llava",
        title="ScienceQA",
        metric="accuracy, %",
        folder="scienceqa",
        needs=_NEEDS,
        get=_GET,
        load=load,
        protocol=Generate(SCRIPT_TOKENS),
        score=letters.scienceqa,
        tested="real data",
        finetune=Finetune(_letter),
        note="LLaVA-1.5 reports the problems with a picture: scienceqa_img.",
    ),
    Task(
        name="scienceqa_img",
        family="llava",
        title="ScienceQA, the problems with a picture",
        metric="accuracy, %",
        folder="scienceqa",
        needs=_NEEDS,
        get=_GET,
        load=partial(load, pictured=True),
        protocol=Generate(SCRIPT_TOKENS),
        score=letters.scienceqa,
        tested="real data",
        reported=zero_shot("scienceqa_img", "SQA-I of LLaVA's tables"),
        finetune=Finetune(_letter),
    ),
    Task(
        name="scienceqa_lea",
        family="llava",
        title="ScienceQA, with lecture and explanation (QCM-LEA)",
        metric="accuracy, %",
        folder="scienceqa",
        needs=_NEEDS,
        get=_GET,
        load=load_lea,
        protocol=Generate(SCRIPT_TOKENS),
        score=letters.scienceqa,
        tested="real data",
        reported={
            "fine-tuned": Reported(
                {
                    "LLaVA": 90.92,
                    "LLaVA 7B": 89.84,
                    "LLaVA with GPT-4 (complement)": 90.97,
                    "LLaVA with GPT-4 (judge)": 92.53,
                    "LLaMA-Adapter": 85.19,
                    "MM-CoT base": 84.91,
                    "MM-CoT large": 91.68,
                },
                best="MM-CoT large",
                note="Not fine-tuned: GPT-4 82.69, GPT-3.5 73.97, with chain of thought 75.17; people 88.40",
            )
        },
        finetune=Finetune(_taught, epochs=12.0, lr=2e-5, batch=128),
        note="Epochs, rate and batch are LLaVA's own (scripts/finetune_sqa.sh).",
    ),
)
