"""LLaVA-1.5's evaluation files: what they hold, what LLaVA puts behind a question, and the forms of
submissions.

The tree is `playground/data/eval` of haotian-liu/LLaVA after its docs/Evaluation.md: a folder for each
benchmark with a question file, JSON lines {"question_id", "image", "text", "category"}, whose `text` is the
prompt without the picture. So `--data-root playground/data/eval` is all that people need who have it. Where
the question file is missing, the tasks form the same prompts from the benchmark's own release.

An item's `meta["line"]` holds what a line of LLaVA's answers.jsonl has otherwise than `question_id` = the
item's id and `prompt` = the item's prompt: the id as a number, an image's id that several questions share,
further keys.
"""

from __future__ import annotations

import codecs
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from input_pipeline.errors import UserError
from input_pipeline.partial import partial_of
from input_pipeline.sources import lines
from jaxllava.evaluate.scoring.answered import Answered
from jaxllava.evaluate.tasks.task import Item, Rejected

# Interface strings of LLaVA-1.5: they are in its training data, so answers depend on every letter of them.
SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."

LETTERS = "ABCDEFGH"
LOADER_TOKENS = (
    128  # max_new_tokens of model_vqa_loader.py; model_vqa.py, _science.py and _mmbench.py have 1024
)
SCRIPT_TOKENS = 1024

_MARKS = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"), (codecs.BOM_UTF8, "utf-8-sig"))


@dataclass(frozen=True)
class Asked:
    """A line of a question file. `id` is as the file has it, a number or a text; `where` is 'file:line'."""

    where: str
    id: int | str
    image: str
    text: str
    category: str


def short(question: str) -> str:
    return f"{question}\n{SHORT}"


def options(question: str, choices: Sequence[str]) -> str:
    """The question with its choices behind it, one a line: "A. cat"."""
    return "\n".join([question, *(f"{k}. {choice}" for k, choice in zip(LETTERS, choices, strict=False))])


# --- reading ---


def first_of(folder: Path, *names: str) -> Path | None:
    """The first of these names that folder has."""
    there = os.path.exists  # Path.exists raises for names that are too long for a file
    return next((folder / name for name in names if there(folder / name)), None)


def existing(folder: Path, *names: str) -> Path:
    """The first of these names that folder has, else the first: the runner reports a picture that is missing."""
    return first_of(folder, *names) or folder / names[0]


def read_json(path: Path, kind: type) -> Any:
    """The value of a JSON file. Raises UserError where it cannot be read or is no `kind` (list or dict)."""
    try:
        data = path.read_bytes()
        codec = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
        value = json.loads(data.decode(codec))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check --data-root") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file ({error}); download it again") from None
    if not isinstance(value, kind):
        wanted = "object" if kind is dict else "list"
        raise UserError(f"{path}: holds no JSON {wanted}; it is not the file of that name of the release")
    return value


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]] | Rejected]:
    """('file:line', object) of each line of a JSON-lines file; Rejected for a line that is none."""
    for found in lines.read_objects(path):
        yield found if isinstance(found, tuple) else Rejected(found.origin, found.reason)


def question_file(path: Path) -> list[Asked | Rejected]:
    """The lines of a question file of LLaVA, in their order. Raises UserError where no line is one."""
    found = [one if isinstance(one, Rejected) else _asked(*one) for one in read_lines(path)]
    if not any(isinstance(one, Asked) for one in found):
        why = f" ({found[0].where}: {found[0].reason})" if found and isinstance(found[0], Rejected) else ""
        raise UserError(
            f"{path}: not a question file of LLaVA, JSON lines with question_id, image, text{why}"
        )
    return found


def _asked(where: str, line: dict[str, Any]) -> Asked | Rejected:
    missing = [key for key in ("question_id", "image", "text") if line.get(key) in (None, "")]
    if missing:
        return Rejected(where, f"no {missing[0]}")
    id, image, text = line["question_id"], line["image"], line["text"]
    if not isinstance(id, int | str) or isinstance(id, bool):
        return Rejected(where, "question_id is neither a number nor a text")
    if not isinstance(image, str) or not isinstance(text, str):
        return Rejected(where, "image or text is no text")
    if not text.strip():
        return Rejected(where, "an empty question")
    if "<image>" in text:
        return Rejected(where, "<image> inside the question")
    return Asked(where, id, image, text, str(line.get("category") or ""))


def text_of(record: Mapping[str, Any], key: str) -> str | None:
    """record[key] where it is a text that is not blank."""
    value = record.get(key)
    return value if isinstance(value, str) and value.strip() else None


def numbered(path: Path, records: Iterable[Any]) -> Iterator[tuple[str, dict[str, Any]] | Rejected]:
    """('file:index', record) of each record of a list that is an object; Rejected for the others."""
    for index, record in enumerate(records):
        where = f"{path}:{index}"
        yield (where, record) if isinstance(record, dict) else Rejected(where, "not a JSON object")


def records_of(path: Path, key: str = "") -> list[Any]:
    """The list of a JSON file, or that under `key` of its object. Raises UserError where there is none."""
    if not key:
        return read_json(path, list)
    found = read_json(path, dict).get(key)
    if not isinstance(found, list):
        raise UserError(f"{path}: has no list {key!r}; it is not the file of that name of the release")
    return found


def ten_answers(record: Mapping[str, Any]) -> list[str]:
    """The answers of people to a question of VQAv2, VizWiz (objects) or TextVQA (texts); [] where it has none."""
    answers = record.get("answers")
    if not isinstance(answers, list):
        return []
    found = [answer.get("answer") if isinstance(answer, dict) else answer for answer in answers]
    return [answer for answer in found if isinstance(answer, str)]


def commonest(item: Item) -> str:
    """What is taught of a question with several people's answers: the commonest, the first of equals."""
    return Counter(item.truth).most_common(1)[0][0]


def numbered_ids() -> Callable[[str], str]:
    """A function that makes ids unique: the first "x" becomes "x/1", the second "x/2"."""
    counts: dict[str, Iterator[int]] = {}
    return lambda id: f"{id}/{next(counts.setdefault(id, itertools.count(1)))}"


# --- submissions ---


def said(row: Answered) -> str:
    return str(row.answer or "").strip()


def write_text(folder: Path, name: str, text: str) -> Path:
    """Writes folder/name, whole or not at all."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(path)
    partial.write_text(text, encoding="utf-8")
    return partial.replace(path)


def write_json(folder: Path, name: str, value: Any, indent: int | None = None) -> Path:
    return write_text(folder, name, json.dumps(value, indent=indent))
