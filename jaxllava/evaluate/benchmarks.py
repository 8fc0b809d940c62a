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

import msgspec

from input_pipeline.errors import UserError, in_one_line
from input_pipeline.partial import partial_of
from input_pipeline.video import PICTURES
from jaxllava import hosts
from jaxllava.api import Model
from jaxllava.evaluate import answers as answer_files
from jaxllava.evaluate import stories
from jaxllava.evaluate.answers import Answers
from jaxllava.evaluate.ask import Asking, ask
from jaxllava.evaluate.judging import results as judgings
from jaxllava.evaluate.scoring.answered import Answered
from jaxllava.evaluate.tasks import TASKS
from jaxllava.evaluate.tasks.task import Clip, Item, Questions, Task, candidates_of, need_ends

Report = Callable[..., None]
RESULT = "result.json"
TOTALS = ("results.json", "results.txt")  # of all tasks of a checkpoint, in `Plan.out`
_OF_MODEL = ("checkpoint", "type of weights", "template")  # what all results of one table have in common
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

    Raises UserError before the first question where stories are missing, where `plan.out` holds answers of anything
    else, and where the hosts are about to do different things.
    """
    jobs = [_job(task, questions[task.name], model, checkpoint, how, plan) for task in tasks]
    if plan.restart and plan.host == 0:
        for kept in {job.kept for job in jobs}:
            answer_files.remove(kept)
    _agree(plan, {"tasks": " ".join(job.task.name for job in jobs)})
    for job in jobs:
        Answers(job.kept, job.identity, plan.host)
    _agree(plan, {f"{job.task.name}: {what}": value for job in jobs for what, value in job.identity.items()})
    if plan.host == 0:
        for name in TOTALS:
            (plan.out / name).unlink(missing_ok=True)
    results = []
    for number, job in enumerate(jobs):
        task, found = job.task, job.found
        answers = Answers(job.kept, job.identity, plan.host)
        asked = limited(found.items, plan.limit)
        waiting = [item for item in asked if not answers.is_answered(item.id)]
        # Also a barrier: one host's first answers would change another's share.
        _agree(plan, {f"{task.name}, the questions that --out has no answer to": _ids(waiting)})
        folder = plan.out / task.name
        if plan.host == 0 and waiting:
            (folder / RESULT).unlink(missing_ok=True)  # it would outlive a run that fails
            judgings.forget(folder)

        def progress(done: int, total: int, name: str = task.name, number: int = number) -> None:
            report(int((number + done / max(total, 1)) * 1000), len(tasks) * 1000, name)

        started = time.monotonic()
        ends = need_ends(task, found.items)
        ask(task, model, waiting[plan.host :: plan.hosts], answers, job.how, progress, ends)
        seconds = time.monotonic() - started
        _barrier(plan, f"{task.name} was asked")
        if plan.host == 0:
            final = Answers(job.kept, job.identity) if plan.hosts > 1 else answers
            facts = {what: job.identity[what] for what in _OF_MODEL} | {"seconds": round(seconds, 1)}
            results.append(result(task, found, asked, final, plan) | facts)
            folder.mkdir(exist_ok=True)
            whole = results[-1]["answered"] == len(found.items)
            results[-1]["failures"] += _write_files(task, asked, final, folder, checkpoint, whole)
            _write_json(folder / RESULT, results[-1])
    return results


def gathered(
    results: Sequence[dict[str, Any]], out: Path, like: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """`results` of one command with those that earlier ones left in `out` of other tasks, by the same model and in
    the same setting, in the order of the table. A task's judged figures stand behind its own, or in place of none.

    What is the same is told by `like`, by default the first of the results.
    """
    like = results[0] if like is None else like
    found = {result["task"]: result for result in results}
    for path in sorted(out.glob(f"*/{RESULT}")):
        try:
            earlier = judgings.read_back(path)
            same = all(earlier[key] == like.get(key) for key in (*_OF_MODEL, "setting"))
            if same and msgspec.convert(earlier, judgings.Kept).task in TASKS:
                found.setdefault(earlier["task"], earlier)
        except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
            raise UserError(
                f"{path} cannot be read ({in_one_line(error)}); remove it and evaluate its task again"
            ) from None
    judged: dict[str, list[dict[str, Any]]] = {}
    for one in judgings.results_in(out):
        if all(one.get(key) == like.get(key) for key in (*_OF_MODEL, "setting")):
            judged.setdefault(one["task"], []).append(one)
    every = []
    for name in TASKS:
        own = [found[name]] if name in found else []
        every += [one for one in own if one["figures"] or name not in judged] + judged.get(name, [])
    return every


def write_totals(out: Path, every: Sequence[Mapping[str, Any]], text: str, said: Mapping[str, Any]) -> None:
    """Writes results.json, `said` of the model and `every` result, and results.txt, the table's text.

    What an earlier results.json says of the model, and `said` does not, stays.
    """
    try:
        earlier = json.loads((out / TOTALS[0]).read_text("utf-8"))
        earlier = {key: value for key, value in earlier.items() if key != "results"}
    except (OSError, ValueError, AttributeError):
        earlier = {}
    content = json.dumps({**earlier, **said, "results": list(every)}, indent=1)
    for name, one in zip(TOTALS, (content, text), strict=True):
        unfinished = partial_of(out / name)
        unfinished.write_text(one + "\n", "utf-8")
        unfinished.rename(out / name)


@dataclasses.dataclass(frozen=True)
class _Job:
    """A task that is about to be asked. `kept` is the folder of its answers."""

    task: Task
    found: Questions
    how: Asking
    kept: Path
    identity: dict[str, str]


def _job(task: Task, found: Questions, model: Model, checkpoint: str, how: Asking, plan: Plan) -> _Job:
    told = stories.read(task, plan.data_root, plan.setting) if stories.wanted(plan.setting) else None
    how = dataclasses.replace(how, stories=told)
    return _Job(
        task,
        found,
        how,
        plan.out / (task.answers or task.name),
        identity(task, found, model, checkpoint, how),
    )


def _barrier(plan: Plan, what: str) -> None:
    if plan.hosts > 1:
        hosts.barrier(what, _BARRIER)


def _agree(plan: Plan, facts: Mapping[str, str]) -> None:
    if plan.hosts > 1:
        hosts.agree(facts, _BARRIER)


def _ids(items: Sequence[Item]) -> str:
    return f"{len(items)} ({answer_files.digest([item.id for item in items])})"


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


def questions_digest(task: Task, found: Questions) -> str:
    """A hash of all that is asked."""
    held = lambda one: hashlib.sha256(one).hexdigest() if isinstance(one, bytes) else ""
    return answer_files.digest(
        [
            [
                i.id,
                i.prompt,
                [t.text for t in i.shots],
                list(candidates_of(task, i)),
                [held(m) for m in i.media],
            ]
            for i in found.items
        ]
    )


def identity(task: Task, found: Questions, model: Model, checkpoint: str, how: Asking) -> dict[str, str]:
    """What decides the answers: by name, for the message where an output folder holds others.

    Of media that are files only the number is part of it: under which name one is found (its suffix, cut or in
    a whole video) depends on what is on disk already, and a run goes on when more is.
    """
    protocol = repr(task.protocol)
    shown = f"{how.fps:g} a second" if how.fps else str(how.frames)
    return {
        "checkpoint": checkpoint,
        "type of weights": model.dtype,
        "template": model.template,
        "questions": questions_digest(task, found),
        "protocol": protocol if len(protocol) < 200 else answer_files.digest(protocol),
        "frames of a video": shown if any(map(_may_be_video, found.items)) else "none",
        "stories": answer_files.digest(how.stories) if how.stories is not None else "none",
    }


def _may_be_video(item: Item) -> bool:
    """Whether one of its media is anything but a picture's file or bytes."""
    return any(
        isinstance(one, Clip) or (isinstance(one, Path) and one.suffix.lower() not in PICTURES)
        for one in item.media
    )


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
    hidden = [item.id for item in asked if item.truth is None]
    problems: dict[str, list[str]] = {}
    figures: dict[str, Any] = {}
    failures: list[str] = []
    why_none = ""
    if task.score is None:
        why_none = f"needs a judge: {task.judge}; jaxllava evaluate --judge MODEL asks one"
    elif not rows:
        why_none = "no question was answered"
        if len(hidden) == len(asked):
            why_none = "the truths are not in the release"
    else:
        try:
            scored = task.score(rows)
            figures = {name: estimate.to_dict() for name, estimate in scored.figures.items()}
            problems |= scored.problems
        except (ValueError, UserError) as error:  # one benchmark's trouble costs the others nothing
            why_none = f"no figure: {error}"
            failures.append(why_none)
    if hidden and rows:
        problems["not scored: the release has no truth"] = hidden
    if empty and not any("empty" in what for what in problems):
        problems["empty"] = empty
    for item in asked:
        for note in answers.rows.get(item.id, {}).get("notes", ()):
            problems.setdefault(f"media: {note}", []).append(item.id)
    named = lambda groups: {k: {"count": len(v), "first": v[:_NAMED]} for k, v in groups.items()}
    return {
        "task": task.name,
        "setting": plan.setting,
        "metric": task.metric,
        "figures": figures,
        "no figures": why_none,
        "failures": failures,
        "questions": len(found.items),
        "asked": len(asked),
        "answered": sum(answers.is_answered(item.id) for item in asked),
        "scored": len(rows) if figures else 0,
        "not answered": named(unanswered),
        "rejected": named(found.rejected),
        "problems": named(problems),
        "tested on": task.tested,
    }


def _write_files(
    task: Task, asked: Sequence[Item], answers: Answers, folder: Path, checkpoint: str, whole: bool = True
) -> list[str]:
    """LLaVA's answers.jsonl of all answers, and the benchmark's own submission: in `partial/` unless it is
    `whole`, so that nobody sends in a part of it. Returns what went wrong.
    """
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
    unfinished.write_text("".join(json.dumps(line) + "\n" for line in lines))
    unfinished.rename(path)
    if task.submit and rows:
        try:
            target = folder if whole else folder / "partial"
            target.mkdir(exist_ok=True)
            task.submit(rows, target)
        except UserError as error:  # a library that is missing costs neither figures nor other tasks
            return [f"no submission: {error}"]
    return []


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    unfinished = partial_of(path)
    unfinished.write_text(json.dumps(value, indent=1) + "\n")
    unfinished.rename(path)
