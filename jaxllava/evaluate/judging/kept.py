"""Answers that are there to be judged: those of `jaxllava evaluate --tasks`, LLaVA's or LLaMA-VID's files of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from input_pipeline.errors import UserError
from input_pipeline.sources import fields
from jaxllava.evaluate import benchmarks
from jaxllava.evaluate.answers import Answers
from jaxllava.evaluate.scoring.answered import Answered, Problems
from jaxllava.evaluate.tasks import releases
from jaxllava.evaluate.tasks.task import Item, Questions, Rejected, Task

LLAVA = "llava_answers.jsonl"
PREDICTIONS = ("pred.json", "pred")  # a file, or LLaMA-VID's folder of N_i.json


@dataclass(frozen=True)
class Kept:
    """Answered questions of one task.

    Attributes:
        rows: in the order of the release; each has its question in `meta["prompt"]`.
        unanswered: ids, by why.
        questions, asked: how many there are, and how many of them are drawn (--limit).
        of: {"checkpoint", "type of weights", "template"}, as far as known.
        problems: lines of a file that are no answers.
        rejected: what of the release cannot be asked, by reason.
    """

    rows: list[Answered]
    unanswered: dict[str, list[str]]
    questions: int
    asked: int
    of: dict[str, str]
    problems: Problems = field(default_factory=Problems)
    rejected: Mapping[str, Sequence[str]] = field(default_factory=dict)


def predictions(folder: Path) -> Path | None:
    """Where LLaMA-VID's predictions lie in a task's folder, if there are no answers of ours."""
    if any(folder.glob("answers-*.jsonl")):
        return None
    return next((folder / name for name in PREDICTIONS if (folder / name).exists()), None)


def read(task: Task, found: Questions, out: Path, limit: int = 0) -> Kept:
    """The answers to `found` below --out. Raises UserError where there are none, or to other questions."""
    folder = out / (task.answers or task.name)
    asked = benchmarks.limited(found.items, limit)
    if any(folder.glob("answers-*.jsonl")):
        return _ours(task, found, asked, folder)
    path = out / task.name / LLAVA
    if path.exists():
        return _llava(found, asked, path)
    raise UserError(
        f"task {task.name}: no answers in {folder}; ask first (jaxllava evaluate --tasks {task.name} --checkpoint "
        f"MODEL --out {out}), or put LLaVA's answers there as {LLAVA}"
        + (", or LLaMA-VID's as pred.json" if task.family == "video_qa" else "")
    )


def _ours(task: Task, found: Questions, asked: Sequence[Item], folder: Path) -> Kept:
    path = min(folder.glob("answers-*.jsonl"))
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            first = file.readline()
        identity = {what: value["is"] for what, value in json.loads(first).items()}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); remove it and ask again") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(
            f"{path}: line 1 does not say of what the answers are; remove it and ask again"
        ) from None
    if identity.get("questions") != benchmarks.questions_digest(task, found):
        raise UserError(
            f"{path}: holds answers to other questions than --data-root has; give the --data-root that they were asked "
            "with, or ask again with --restart"
        )
    answers = Answers(folder, identity, _host(path))
    rows, unanswered = [], {}
    for item in asked:
        row = answers.rows.get(item.id, {})
        if isinstance(answer := row.get("answer"), str):
            rows.append(_row(item, fields.writable(answer)))
        else:
            why = fields.text(row, "error") or (
                "an answer that is no text" if "answer" in row else "not asked"
            )
            unanswered.setdefault(why.split(":")[0], []).append(f"{item.id}: {why}")
    known = {
        what: fields.writable(str(identity[what]))
        for what in ("checkpoint", "type of weights", "template")
        if what in identity
    }
    return Kept(rows, unanswered, len(found.items), len(asked), known, rejected=found.rejected)


def _host(path: Path) -> int:
    number = path.stem.removeprefix("answers-")
    return int(number) if number.isdigit() else 0


def _row(item: Item, answer: Any, **more: Any) -> Answered:
    meta = dict(item.meta) | {"prompt": item.prompt} | more
    return Answered(item.id, item.truth, answer, meta=meta)


def _llava(found: Questions, asked: Sequence[Item], path: Path) -> Kept:
    """LLaVA's answers.jsonl: {"question_id", "text", "answer_id", "model_id"}; of two to one question the last."""
    problems = Problems()
    said: dict[str, dict[str, Any]] = {}
    for one in releases.objects(path, ("question_id", "text")):
        if isinstance(one, Rejected):
            problems.note(f"a line that is no answer: {one.reason}", one.where)
        elif not isinstance(one[1].get("text"), str) or fields.text(one[1], "question_id") is None:
            problems.note("a line that is no answer: no question_id or text", one[0])
        else:
            said[fields.text(one[1], "question_id") or ""] = one[1]
    rows, unanswered = [], {}
    for item in asked:
        line = said.get(str(item.meta.get("line", {}).get("question_id", item.id)))
        if line is None:
            unanswered.setdefault("not in the file of answers", []).append(item.id)
        else:
            more = {"answer_id": answer_id} if (answer_id := fields.text(line, "answer_id")) else {}
            rows.append(_row(item, fields.writable(line["text"]), **more))
    models = Counter(
        " ".join((fields.text(line, "model_id") or "").split()) or str(path) for line in said.values()
    )
    name = models.most_common(1)[0][0] if models else str(path)
    return Kept(
        rows, unanswered, len(found.items), len(asked), {"checkpoint": name}, problems, found.rejected
    )


def read_predictions(path: Path, limit: int = 0) -> Kept:
    """LLaMA-VID's pred.json, lines {"id", "question", "answer", "pred"}, or its folder of them (N_0.json ...).

    Questions of one id are told apart by a number, as its judge does. Raises UserError where none is there.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    problems = Problems()
    rows: list[Answered] = []
    seen: Counter[str] = Counter()
    taken: set[str] = set()
    for file in files:
        for one in releases.objects(file, ("id", "question", "answer", "pred")):
            if isinstance(one, Rejected):
                problems.note(f"a line that is no prediction: {one.reason}", one.where)
                continue
            where, line = one
            texts = [line.get(key) for key in ("question", "answer", "pred")]
            id = fields.text(line, "id")
            if id is None or not all(isinstance(text, str) for text in texts):
                problems.note("a line that is no prediction: no id, question, answer or pred", where)
                continue
            question, answer, pred = (fields.writable(str(text)) for text in texts)
            row_id = id
            while row_id in taken:  # also where another question has that very id
                seen[id] += 1
                row_id = f"{id}_{seen[id]}"
            taken.add(row_id)
            meta = {"id": id, "question": question, "prompt": question}
            rows.append(Answered(row_id, answer, pred, meta=meta))
    if not rows:
        raise UserError(f"{path}: no predictions of LLaMA-VID, JSON lines with id, question, answer, pred")
    drawn = {one.id for one in benchmarks.limited([Item(row.id, "") for row in rows], limit)}
    chosen = [row for row in rows if row.id in drawn]
    return Kept(chosen, {}, len(rows), len(chosen), {"checkpoint": str(path)}, problems)
