"""Judges tasks one after another, and leaves figures and reviews beside their answers.

In --out, `TASK/judged-JUDGE/` has `result.json` (as a task's own, with the judge's name) and the protocol's files of
reviews. They are a function of answers, reviews and flags alone; the teacher's cache makes a repetition free.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from input_pipeline.errors import UserError
from input_pipeline.partial import partial_of
from input_pipeline.sources import fields
from jaxllava.evaluate import answers as answer_files
from jaxllava.evaluate.judging import JUDGES, written
from jaxllava.evaluate.judging.kept import Kept
from jaxllava.evaluate.judging.protocol import Case, Judge, Judged, Plan, asker
from jaxllava.evaluate.judging.results import RESULT, folder_name
from jaxllava.evaluate.tasks import TASKS
from jaxllava.evaluate.tasks.task import Task
from jaxllava.teacher.messages import Answer, Failure, Request, Teacher

_NAMED = 5  # ids that a result names of each kind of problem
Report = Callable[[str, int], None]


def case_of(task: Task, kept: Kept, root: Path) -> Case:
    return Case(task, kept.rows, root, kept.of.get("checkpoint", ""))


def run(
    kept: Mapping[str, Kept],
    root: Path,
    teacher: Teacher,
    plan: Plan,
    out: Path,
    setting: str = "zero-shot",
    report: Report = lambda task, done: None,
) -> list[dict[str, Any]]:
    """Judges the answers of each task by name; returns the results, which it also writes.

    Args:
        kept: task's name -> its answers.
        root: --data-root.
        teacher: the judge.
        plan: how.
        out: --out of the answers.
        setting: whose reported figures stand beside them.
        report: is told the task, and how many reviews have come.

    A task whose figures cannot be made has that said in "failures"; the others go on.

    Raises UserError where the judge stops altogether.
    """
    results = []
    came = 0
    for name, held in kept.items():
        task, judge = TASKS[name], JUDGES[name]
        case = case_of(task, held, root)

        def told(done: int, name: str = name) -> None:
            report(name, done)

        failures, judged = [], Judged({})
        counted = _Counting(teacher)
        try:
            judged = judge.judge(case, asker(counted, told), plan)
        except _Stopped as stop:
            goes_on = "; reviews that came are kept, and the same command goes on"
            raise UserError(f"{stop}{goes_on if came + counted.came else ''}") from None
        except (ValueError, UserError) as error:  # one benchmark's trouble costs the others nothing
            failures = [f"no figure: {error}{counted.why()}"]
        came += counted.came
        result = result_of(task, judge, teacher.model, judged, setting) | {
            "failures": failures,
            "no figures": failures[0] if failures else "",
            "questions": held.questions,
            "asked": held.asked,
            "answered": len(held.rows),
            "not answered": _named(held.unanswered),
            "rejected": _named(held.rejected),
            "problems": _named({**held.problems, **judged.problems}),
            "how": asdict(plan),
            "reviews": {
                "asked": counted.asked,
                "came": counted.came,
                "failed": counted.failed.total(),
                "why": dict(counted.failed.most_common()),
            },
            "answers": answer_files.digest([[row.id, row.answer] for row in held.rows]),
            **held.of,
        }
        _write(out / name / folder_name(teacher.model), judged.files, result)
        results.append(result)
    return results


class _Counting:
    """A teacher that counts what it is asked and what comes."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self.asked = self.came = 0
        self.failed: Counter[str] = Counter()  # by reason
        self._detail = ""

    @property
    def model(self) -> str:
        return self._teacher.model

    @property
    def spent(self) -> float:
        return self._teacher.spent

    def ask(self, requests: Iterable[Request]) -> Iterator[Answer | Failure]:
        def noted() -> Iterator[Request]:
            for request in requests:
                self.asked += 1
                yield request

        try:
            for said in self._teacher.ask(noted()):
                self.came += isinstance(said, Answer)
                if isinstance(said, Failure):
                    self.failed[said.reason] += 1
                    self._detail = self._detail or said.detail
                yield said
        except UserError as error:
            raise _Stopped(str(error)) from None

    def why(self) -> str:
        """Why requests failed, with the first one's detail, as the end of a sentence; "" where none did."""
        told = ", ".join(f"{reason}: {count}" for reason, count in self.failed.most_common())
        return f"; the judge failed ({told}{f'; {self._detail}' if self._detail else ''})" if told else ""


class _Stopped(Exception):
    """The judge answers nobody any more (a wrong key, the cost limit): no task can go on."""


def result_of(task: Task, judge: Judge, by: str, judged: Judged, setting: str) -> dict[str, Any]:
    """The part of a result that a file of reviews has as well."""
    headline = next(iter(judged.figures.values()), None)
    return {
        "task": task.name,
        "setting": setting,
        "metric": task.metric,
        "judge": by,
        "judge of the papers": judge.papers,
        "ours": judge.ours,
        "headline": judge.headline,
        "figures": {name: figure.to_dict() for name, figure in judged.figures.items()},
        "no figures": "",
        "failures": [],
        "questions": 0,
        "asked": 0,
        "answered": 0,
        "scored": headline.n if headline else 0,
        "not answered": {},
        "rejected": {},
        "problems": _named(judged.problems),
        "tested on": task.tested,
    }


def of_files(task: Task, paths: Sequence[Path], plan: Plan, setting: str) -> dict[str, Any]:
    """The result of files of reviews in the reference's own form, each a repeat of the same questions.

    Raises UserError where the task has no such form, and for files that are not of it.
    """
    judge = JUDGES.get(task.name)
    if judge is None or judge.read is None:
        readable = ", ".join(name for name, one in JUDGES.items() if one.read)
        raise UserError(f"--judge-reviews: task {task.name} has no form of reviews; {readable} have")
    try:
        judged = judge.read(task, paths, plan)
    except ValueError as error:  # a figure that is undefined
        raise UserError(f"{written.FLAG} {paths[0]}: no figure: {error}") from None
    more = {1: " has it", 2: " and another file have it"}.get(
        len(paths), f" and {len(paths) - 1} others have it"
    )
    return result_of(task, judge, f"as {fields.writable(paths[0].name)}{more}", judged, setting) | {
        "files": judged.files
    }


def _named(groups: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    return {what: {"count": len(ids), "first": list(ids[:_NAMED])} for what, ids in groups.items()}


def _write(folder: Path, files: Mapping[str, str], result: Mapping[str, Any]) -> None:
    """Files of an earlier judging with other flags go first, so that none stands beside figures that it is not of."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in ("reviews*", "summary*", "grades.json", "choices.jsonl", RESULT):
        for path in folder.glob(old):
            path.unlink()
    for name, text in {**files, RESULT: json.dumps(result, indent=1) + "\n"}.items():
        unfinished = partial_of(folder / name)
        unfinished.write_text(text, "utf-8")
        unfinished.rename(folder / name)
