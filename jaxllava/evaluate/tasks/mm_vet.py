"""MM-Vet: 218 open questions that need several abilities at once, graded by a language model.

The release (mm-vet.zip of yuweihao/MM-Vet) is mm-vet.json, an object of "v1_0" ... to {"imagename",
"question", "answer", "capability"}, where answers join alternatives by <OR> and required parts by <AND>,
and images/. LLaVA's eval.zip adds mm-vet/llava-mm-vet.jsonl with the ids as numbers; its docs unpack the
release in mmvet/, its script reads mm-vet/. The grader takes an object of "v1_0" ... to the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxllava.evaluate.scoring.answered import Answered
from jaxllava.evaluate.tasks.llava_layout import (
    SCRIPT_TOKENS,
    existing,
    first_of,
    question_file,
    read_json,
    said,
    text_of,
    write_json,
)
from jaxllava.evaluate.tasks.llava_reported import zero_shot
from jaxllava.evaluate.tasks.task import Generate, Item, Rejected, Task

_PREFIX = "v1_"
_PLACES = ("mm-vet", "mm-vet/mm-vet", "mmvet/mm-vet", "mmvet")


def load(root: Path, split: str) -> Iterator[Item | Rejected]:
    path = first_of(root, *(f"{place}/mm-vet.json" for place in _PLACES))
    release: dict[str, Any] = read_json(path, dict) if path else {}
    llava = first_of(root, *(f"{place}/llava-mm-vet.jsonl" for place in _PLACES))
    folders = [f"{place}/images" for place in _PLACES]
    if llava:
        for one in question_file(llava):
            if isinstance(one, Rejected):
                yield one
                continue
            picture = existing(root, *(f"{folder}/{one.image}" for folder in folders))
            known = release.get(f"{_PREFIX}{one.id}")
            if path and not isinstance(known, dict):
                yield Rejected(one.where, "mm-vet.json has no question of this id")
                continue
            yield _item(one.id, one.text, picture, known or {})
        return
    for key, known in release.items():
        where = f"{path}:{key}"
        if not isinstance(known, dict) or not key.startswith(_PREFIX):
            yield Rejected(where, "not a question with an id v1_N")
            continue
        image, question = text_of(known, "imagename"), text_of(known, "question")
        if image is None or question is None:
            yield Rejected(where, "no imagename or no question")
            continue
        id = key.removeprefix(_PREFIX)
        picture = existing(root, *(f"{folder}/{image}" for folder in folders))
        yield _item(int(id) if id.isdigit() else id, question, picture, known)


def _item(id: int | str, question: str, picture: Path, known: dict[str, Any]) -> Item:
    meta = {"capability": known.get("capability") or [], "line": {"question_id": id}}
    return Item(str(id), question, (picture,), text_of(known, "answer"), meta=meta)


def submit(rows: Sequence[Answered], folder: Path) -> Path:
    """mm-vet.json: {"v1_0": answer, ...}, for https://huggingface.co/spaces/whyu/MM-Vet_Evaluator."""
    return write_json(folder, "mm-vet.json", {f"{_PREFIX}{row.id}": said(row) for row in rows}, indent=2)


TASKS: tuple[Task, ...] = (
    Task(
        name="mm_vet",
        family="llava",
        title="MM-Vet",
        metric="GPT-4's grade, %",
        folder=".",
        needs={"test": ("mm*vet/**/mm-vet.json", "mm*vet/**/images/*")},
        get="https://github.com/yuweihao/MM-Vet/releases/download/v1/mm-vet.zip (Apache-2.0; pictures of the web), "
        "unpacked as mm-vet.",
        load=load,
        protocol=Generate(SCRIPT_TOKENS),
        score=None,
        judge="MM-Vet's GPT-4 grader, 0 to 1 by examples",
        submit=submit,
        tested="fixture",
        reported=zero_shot("mm_vet"),
    ),
)
