"""`jaxllava evaluate --tasks`: asks a model a benchmark's questions, scores its answers, leaves them in the
benchmark's format.

In the output folder each task has one of its own: `answers-HOST.jsonl` (grows while the model is asked),
`result.json` (figures and counts), `llava_answers.jsonl` (LLaVA's form of answers), and the benchmark's
submission. Scoring is done anew each time from the answers, so it costs nothing to repeat.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from input_pipeline.errors import UserError
from input_pipeline.partial import partial_of
from jaxllava import hosts
from jaxllava.api import Model
from jaxllava.evaluate import answers as answer_files
from jaxllava.evaluate.answers import Answers
from jaxllava.evaluate.ask import Asking, ask
from jaxllava.evaluate.scoring.answered import Answered
from jaxllava.evaluate.tasks.task import Item, Questions, Task, candidates_of, need_ends

Report = Callable[..., None]
_NAMED = 5  # ids that a result names of each kind of problem
_BARRIER = 24 * 60.0  # minutes that hosts wait for one another at the end of a task


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is asked for, by the flags of the command line. `limit` 0 is all questions."""

    data_root: Path
    out: Path
    setting: str = "zero-shot"
    limit: int = 0
    restart: bool = False
    host: int = 0
    hosts: int = 1


def run(
    tasks: Sequence[Task],
    questions: Mapping[str, Questions],
    model: Model,
    checkpoint: str,
    how: Asking,
    plan: Plan,
    report: Report,
) -> list[dict[str, Any]]:
    """Runs tasks one after another on their `questions` (by name); returns their results (see `result`), which
    it also writes.

    `checkpoint` is the identity of the model's weights. Every host has to call it; the first one writes what
    is not answers, and it alone has results to return.
    """
    results = []
    begun: set[Path] = set()
    for number, task in enumerate(tasks):
        found = questions[task.name]
        asked = limited(found.items, plan.limit)
        stories = read_stories(task, plan) if plan.setting.endswith("story") else None
        this = dataclasses.replace(how, stories=stories)
        folder, kept = plan.out / task.name, plan.out / (task.answers or task.name)
        if plan.restart and plan.host == 0 and kept not in begun:
            answer_files.remove(kept)
        begun.add(kept)
        _barrier(plan, f"{task.name} begins")
        answers = Answers(kept, identity(task, found, model, checkpoint, this, plan), plan.host)
        _barrier(plan, f"{task.name} was read")  # or one host's first answers would change another's share

        def progress(done: int, total: int, name: str = task.name, number: int = number) -> None:
            report(int((number + done / max(total, 1)) * 1000), len(tasks) * 1000, name)

        waiting = [item for item in asked if not answers.is_answered(item.id)]
        started = time.monotonic()
        ends = need_ends(task, found.items)
        ask(task, model, waiting[plan.host :: plan.hosts], answers, this, progress, ends)
        seconds = time.monotonic() - started
        _barrier(plan, f"{task.name} was asked")
        if plan.host == 0:
            final = Answers(kept, answers.identity) if plan.hosts > 1 else answers
            results.append(result(task, found, asked, final, plan) | {"seconds": round(seconds, 1)})
            folder.mkdir(exist_ok=True)
            _write_json(folder / "result.json", results[-1])
            _write_files(task, asked, final, folder, checkpoint)
    return results


def _barrier(plan: Plan, what: str) -> None:
    if plan.hosts > 1:
        hosts.barrier(what, _BARRIER)


def limited(items: Sequence[Item], limit: int) -> list[Item]:
    """About `limit` items, the same at every call, drawn by a hash of their ids; all where it is 0.

    Items of one `meta["group"]` (two questions of one picture that count together) are taken or left as one.
    """
    if not limit or limit >= len(items):
        return list(items)
    group = lambda item: str(item.meta.get("group", item.id))
    drawn = sorted({group(i) for i in items}, key=lambda g: hashlib.sha256(g.encode()).digest())
    sizes = Counter(map(group, items))
    chosen: set[str] = set()
    count = 0
    for name in drawn:
        if count >= limit:
            break
        chosen.add(name)
        count += sizes[name]
    return [item for item in items if group(item) in chosen]


def read_stories(task: Task, plan: Plan) -> dict[str, str]:
    """FOLDER/stories.jsonl: {"id", "story"} lines, Video-4096's verbalisations of the videos."""
    path = plan.data_root / task.folder / "stories.jsonl"
    if not path.is_file():
        raise UserError(
            f"--setting {plan.setting}: {path} is not there; it has a line for each question: "
            '{"id": ..., "story": ...}'
        )
    stories: dict[str, str] = {}
    for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
                stories[str(row["id"])] = str(row["story"])
            except (ValueError, KeyError, TypeError):
                raise UserError(f'{path}:{number}: not a line {{"id": ..., "story": ...}}') from None
    return stories


def identity(
    task: Task, found: Questions, model: Model, checkpoint: str, how: Asking, plan: Plan
) -> dict[str, str]:
    """What decides the answers: by name, for the message where an output folder holds others."""
    media = lambda one: one.hex() if isinstance(one, bytes) else str(one).removeprefix(str(plan.data_root))
    asked = [
        [i.id, i.prompt, [t.text for t in i.shots], list(candidates_of(task, i)), [media(m) for m in i.media]]
        for i in found.items
    ]
    return {
        "checkpoint": checkpoint,
        "template": model.template,
        "questions": answer_files.digest(asked),
        "protocol": repr(task.protocol)
        if len(repr(task.protocol)) < 200
        else answer_files.digest(repr(task.protocol)),
        "frames of a video": str(how.frames),
        "stories": answer_files.digest(how.stories) if how.stories is not None else "none",
    }


def scorable(task: Task, items: Sequence[Item], answers: Answers) -> list[Answered]:
    """Items with a truth and an answer, as scorers take them."""
    found = []
    for item in items:
        row = answers.rows.get(item.id, {})
        if item.truth is not None and "answer" in row:
            meta = dict(item.meta) | {"prompt": item.prompt}
            if item.candidates:
                meta["candidates"] = item.candidates
            found.append(Answered(item.id, item.truth, row["answer"], tuple(row.get("scores", ())), meta))
    return found


def result(
    task: Task, found: Questions, asked: Sequence[Item], answers: Answers, plan: Plan
) -> dict[str, Any]:
    """A task's figures with their intervals, and everything that is not in them, counted and named."""
    rows = scorable(task, asked, answers)
    unanswered: dict[str, list[str]] = {}
    for item in asked:
        if not answers.is_answered(item.id):
            why = str(answers.rows.get(item.id, {}).get("error", "not asked"))
            unanswered.setdefault(why.split(":")[0], []).append(f"{item.id}: {why}")
    empty = [item.id for item in asked if answers.rows.get(item.id, {}).get("answer") == ""]
    problems: dict[str, list[str]] = {}
    figures: dict[str, Any] = {}
    why_none = ""
    if task.score is None:
        why_none = f"needs a judge: {task.judge}"
    elif not rows:
        hidden = sum(item.truth is None for item in asked)
        why_none = "the truths are not in the release" if hidden == len(asked) else "no question was answered"
    else:
        try:
            scored = task.score(rows)
            figures = {name: estimate.to_dict() for name, estimate in scored.figures.items()}
            problems |= scored.problems
        except (ValueError, UserError) as error:  # one benchmark's trouble costs the others nothing
            why_none = f"no figure: {error}"
    if empty and not any("empty" in what for what in problems):
        problems["empty"] = empty
    named = lambda groups: {k: {"count": len(v), "first": v[:_NAMED]} for k, v in groups.items()}
    return {
        "task": task.name,
        "setting": plan.setting,
        "metric": task.metric,
        "figures": figures,
        "no figures": why_none,
        "questions": len(found.items),
        "asked": len(asked),
        "answered": sum(answers.is_answered(item.id) for item in asked),
        "scored": len(rows) if figures else 0,
        "not answered": named(unanswered),
        "rejected": named(found.rejected),
        "problems": named(problems),
        "tested on": task.tested,
    }


def _write_files(task: Task, asked: Sequence[Item], answers: Answers, folder: Path, checkpoint: str) -> None:
    """LLaVA's answers.jsonl of all answers, and the benchmark's own submission."""
    rows = [
        Answered(i.id, i.truth, answers.rows[i.id]["answer"], tuple(answers.rows[i.id].get("scores", ())),
                 dict(i.meta) | {"prompt": i.prompt, "candidates": i.candidates, "model_id": checkpoint})
        for i in asked if answers.is_answered(i.id)
    ]  # fmt: skip
    lines = [
        {
            "question_id": r.id,
            "prompt": r.meta["prompt"],
            "text": r.answer,
            "answer_id": answer_files.digest([r.id, checkpoint]),  # LLaVA's are random
            "model_id": checkpoint,
            "metadata": {},
        }
        | r.meta.get("line", {})
        for r in rows
    ]
    path = folder / "llava_answers.jsonl"
    unfinished = partial_of(path)
    unfinished.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    unfinished.rename(path)
    if task.submit and rows:
        task.submit(rows, folder)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    unfinished = partial_of(path)
    unfinished.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    unfinished.rename(path)
