"""`jaxllava evaluate --tasks` and `--list`: from flags to tables."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import jax

from input_pipeline.errors import UserError
from jaxllava import api, hosts, identity
from jaxllava.evaluate import benchmark_table, benchmarks
from jaxllava.evaluate.ask import Asking
from jaxllava.evaluate.benchmarks import Plan
from jaxllava.evaluate.tasks import TASKS, choose
from jaxllava.evaluate.tasks.task import SETTINGS, Questions, Task, read
from jaxllava.progress import bar


def show(args: argparse.Namespace) -> str:
    """`--list`: the tasks, and with --data-root which are ready."""
    return benchmark_table.listing(choose(_names(args.tasks or "all")), args.data_root)


def run(args: argparse.Namespace, checkpoint: Path) -> bool:
    """Runs the tasks and prints the table; whether every one of them has been answered as a whole."""
    tasks = choose(_names(args.tasks))
    if args.data_root is None:
        raise UserError("--tasks: set --data-root DIR; jaxllava evaluate --list says what belongs there")
    if not args.data_root.is_dir():
        raise UserError(f"--data-root {args.data_root}: no such folder")
    if args.setting not in SETTINGS:
        raise UserError(f"--setting {args.setting!r}: one of {', '.join(map(repr, SETTINGS))}")
    for name in ("batch_size", "frames"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: a positive number is needed")
    questions, lacking = _read(tasks, args.data_root)
    for line in lacking:
        print(f"error: {line}", file=sys.stderr)
    if not questions:
        raise UserError("none of the tasks is ready; see above")
    ready = [task for task in tasks if task.name in questions]
    out = args.out or Path("runs/evaluate") / checkpoint.resolve().name
    plan = Plan(
        args.data_root,
        out,
        args.setting,
        args.limit or 0,
        args.restart,
        jax.process_index(),
        jax.process_count(),
    )
    weights = identity.of_folder(checkpoint)
    model = api.load(checkpoint, args.template, dtype=args.dtype, mesh="local")
    how = Asking(batch_size=args.batch_size, frames=args.frames)
    with bar("asking") as report:
        shown = report if hosts.is_first() else lambda *given: None
        results = benchmarks.run(ready, questions, model, weights, how, plan, shown)
    if not hosts.is_first():
        return True
    text = benchmark_table.table(results, TASKS)
    (out / "results.json").write_text(
        json.dumps({"checkpoint": str(checkpoint), "results": results}, indent=1)
    )
    (out / "results.txt").write_text(text + "\n")
    print(text)
    for result in results:
        if len(result["figures"]) > 1:
            print("\n" + benchmark_table.details(result, TASKS[result["task"]]))
    print(f"\nanswers, submissions and figures: {out}")
    return not lacking and all(result["answered"] == result["asked"] for result in results)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _read(tasks: list[Task], root: Path) -> tuple[dict[str, Questions], list[str]]:
    """The questions of the tasks that are ready, and a line for each that is not: what to get."""
    questions, lacking = {}, []
    for task in tasks:
        try:
            questions[task.name] = read(task, root)
        except UserError as error:
            lacking.append(str(error))
    return questions, list(dict.fromkeys(lacking))
