"""`jaxllava evaluate --judge` and `--judge-reviews`: from flags to judged figures beside the papers'."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from input_pipeline.errors import UserError
from jaxllava.evaluate import benchmark_table, benchmarks
from jaxllava.evaluate.judging import JUDGES, kept, run
from jaxllava.evaluate.judging.kept import Kept
from jaxllava.evaluate.judging.protocol import Plan, asker
from jaxllava.evaluate.tasks import TASKS
from jaxllava.evaluate.tasks.task import SETTINGS, Questions, Task, read
from jaxllava.progress import bar
from jaxllava.teacher import arguments, batches, estimate
from jaxllava.teacher.bill import Bill
from jaxllava.teacher.messages import Request, Teacher
from jaxllava.teacher.open import open_teacher
from jaxllava.teacher.settings import Settings

CACHE = "judge-cache"


def plan_of(args: argparse.Namespace) -> Plan:
    """Raises UserError for numbers that make no sense."""
    for name in ("judge_repeats", "judge_max_tokens"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: a positive number is needed")
    temperature = args.judge_temperature
    if temperature is not None and not 0 <= temperature <= 2:
        raise UserError(f"--judge-temperature {temperature:g}: a number from 0 to 2 is needed")
    return Plan(
        args.judge_repeats,
        args.judge_swap,
        args.judge_drop_unparsable,
        args.judge_seed,
        temperature,
        args.judge_max_tokens,
    )


def reviews(args: argparse.Namespace, tasks: list[Task]) -> None:
    """Prints the figures of files of reviews that are there already. Raises UserError for anything but one task."""
    if len(tasks) != 1:
        raise UserError(f"--judge-reviews is of one task; --tasks names {len(tasks)}")
    if args.judge:
        raise UserError("--judge-reviews reads reviews that are there; --judge asks for them: give one")
    if args.setting not in SETTINGS:
        raise UserError(f"--setting {args.setting!r}: one of {', '.join(map(repr, SETTINGS))}")
    result = run.of_files(tasks[0], args.judge_reviews, plan_of(args), args.setting)
    print(benchmark_table.table([result], TASKS))
    print("\n" + benchmark_table.details(result, tasks[0]))


def settings_of(args: argparse.Namespace) -> Settings:
    """How the judge is asked. Raises UserError for flags that do not go together."""
    if args.out is None:
        raise UserError("--judge: set --out DIR, the folder of the answers")
    settings = arguments.settings_of(args, "judge")
    arguments.check_batch_flags(args, settings, "judge-")
    return settings if settings.cache else replace(settings, cache=args.out / CACHE)


def answers(args: argparse.Namespace, tasks: list[Task], root: Path | None, named: set[str]) -> bool:
    """Judges what --out holds, or says what that costs, or writes batch files of it. Returns whether nothing lacks.

    `named`: the tasks that --tasks names one by one.
    """
    plan, settings = plan_of(args), settings_of(args)
    found, lacking = waiting(tasks, root, args.out, args.limit or 0, named)
    for line in lacking:
        print(f"error: {line}", file=sys.stderr)
    if not found:
        raise UserError(
            "nothing to judge; see above" if lacking else "--judge: no answers that a judge scores"
        )
    if args.judge_batch_in:
        print(batches.read(args.judge_batch_in, args.judge_batch_out, settings), flush=True)
    counts: dict[str, int] = {}
    asked = _counted(found, root or Path(), plan, counts)
    print(f"judge {settings.model}: {estimate.estimate(asked, settings).line()}")
    for name in found:
        if again := JUDGES[name].again:
            print(f"{name}: on top of that, {again}")
    if args.judge_dry_run:
        print("nothing was asked (--judge-dry-run)")
        return not lacking
    if args.judge_batch_out and not args.judge_batch_in:
        ask = lambda teacher: _go_by(teacher, found, root or Path(), plan)
        print(batches.write(ask, args.judge_batch_out, settings, args.judge_batch_limit))
        print("give the same command with --judge-batch-in FILES when the results are there")
        return not lacking
    if args.judge_batch_in:
        left = batches.Kept(settings)
        _go_by(left, found, root or Path(), plan)
        batches.check_kept(left, "judge-")
        if left.lacking:
            raise UserError(
                f"{left.lacking} of {left.requests} requests have no answer yet; give the same command without "
                "--judge-batch-in and --judge-batch-out to ask, or with another --judge-batch-out for a next batch"
            )
    teacher = Bill(open_teacher(settings))
    with teacher.told(), bar("judging") as report:
        results = judge(found, root, teacher, plan, args.out, args.setting, report, counts)
    show(results, args.out)
    return not lacking and all(map(is_whole, results))


def _go_by(teacher: batches.Kept, found: dict[str, Kept], root: Path, plan: Plan) -> None:
    """Asks what a judging asks: the first questions, or what follows from those that are answered."""
    for name, held in found.items():
        with contextlib.suppress(ValueError, UserError):  # no figure of what is not there yet
            JUDGES[name].judge(run.case_of(TASKS[name], held, root), asker(teacher), plan)


def waiting(
    tasks: list[Task], root: Path | None, out: Path, limit: int, named: set[str]
) -> tuple[dict[str, Kept], list[str]]:
    """The answers of the tasks that a judge scores, and a line for each that has none.

    Of tasks that only a family's name or `all` asks for, those without answers are passed over.
    """
    found: dict[str, Kept] = {}
    lacking = []
    for task in tasks:
        if task.name not in JUDGES:
            if task.name in named:
                lacking.append(f"task {task.name}: no judge scores it; its figures come from a rule")
            continue
        there = _answered(task, out)
        if not there and task.name not in named:
            continue
        try:
            if task.family == "video_qa" and (path := kept.predictions(out / task.name)):
                found[task.name] = kept.read_predictions(path, limit)
                continue
            if root is None:
                raise UserError(f"task {task.name}: set --data-root DIR, where its questions are")
            questions = read(task, root) if there else Questions([], {})
            found[task.name] = kept.read(task, questions, out, limit)
        except UserError as error:
            lacking.append(str(error))
    for name in [name for name, held in found.items() if not held.rows]:
        lacking.append(f"task {name}: none of its questions is answered")
        del found[name]
    return found, lacking


def _answered(task: Task, out: Path) -> bool:
    folder = out / (task.answers or task.name)
    names = (kept.LLAVA, *(kept.PREDICTIONS if task.family == "video_qa" else ()))
    return any(folder.glob("answers-*.jsonl")) or any((out / task.name / name).exists() for name in names)


def _counted(found: dict[str, Kept], root: Path, plan: Plan, counts: dict[str, int]) -> Iterator[Request]:
    """What is asked first of all tasks; how many of each is in `counts` behind it."""
    for name, held in found.items():
        counts[name] = 0
        for request in JUDGES[name].requests(run.case_of(TASKS[name], held, root), plan):
            counts[name] += 1
            yield request


def judge(
    found: dict[str, Kept],
    root: Path | None,
    teacher: Teacher,
    plan: Plan,
    out: Path,
    setting: str = "zero-shot",
    report: Callable[..., None] = lambda *given: None,
    counts: dict[str, int] | None = None,
) -> list[dict[str, Any]]:
    """`run.run` with a bar over all tasks. Raises UserError where a prompt is missing, before the first question."""
    root = root or Path()
    if counts is None:
        counts = {}
        for _ in _counted(found, root, plan, counts):
            pass
    names = list(found)

    def told(task: str, done: int) -> None:
        part = min(done / max(counts[task], 1), 1)
        report(int((names.index(task) + part) * 1000), len(names) * 1000, task)

    return run.run(found, root, teacher, plan, out, setting, told)


def is_whole(result: dict[str, Any]) -> bool:
    """Whether every question was answered and judged."""
    return (
        not result["failures"] and not result["reviews"]["failed"] and result["answered"] == result["asked"]
    )


def show(results: list[dict[str, Any]], out: Path) -> None:
    """Prints the table of all that --out has of the same model, and keeps it there; then each judged task's figures."""
    first = results[0]
    every = benchmarks.gathered([], out, like=first)
    of_others = [r for r in results if not any(r["task"] == e["task"] and "judge" in e for e in every)]
    text = benchmark_table.table([*every, *of_others], TASKS)
    benchmarks.write_totals(out, every or results, text, {"identity": first.get("checkpoint", "")})
    print(text)
    for result in results:
        if len(result["figures"]) > 1:
            print("\n" + benchmark_table.details(result, TASKS[result["task"]]))
    print(f"\nreviews and figures: {out}/TASK/{run.folder_name(first['judge'])}")
