"""`jaxllava evaluate` and `jaxllava prepare --task`: from flags to tables."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from input_pipeline.errors import UserError, nearest
from jaxllava.evaluate import benchmark_table
from jaxllava.evaluate.tasks import TASKS, choose
from jaxllava.evaluate.tasks.task import SETTINGS, Questions, Task, read
from jaxllava.progress import bar

_BENCHMARKS = ("tasks", "list", "data_root")
_REACTIONS = ("data", "gold", "json")


def evaluate(args: argparse.Namespace) -> None:
    """Exits with 1 where some question has no answer or some task no data."""
    asked = [name for name in _BENCHMARKS if getattr(args, name)]
    if asked and (other := [name for name in _REACTIONS if getattr(args, name)]):
        raise UserError(
            f"--{asked[0].replace('_', '-')} and --{other[0]}: benchmarks (--tasks, --data-root) and reactions "
            "(--data, --gold) are two commands"
        )
    if args.list:
        print(benchmark_table.listing(choose(_names(args.tasks or "all")), args.data_root))
    elif asked:
        _benchmarks(args)
    elif args.data is None:
        raise UserError(
            "evaluate: set --tasks NAMES --data-root DIR for benchmarks (--list shows them), or --data RECORDS for "
            "held-out reactions"
        )
    else:
        _reactions(args)


def _reactions(args: argparse.Namespace) -> None:
    if not args.checkpoint:
        raise UserError("evaluate --data: set --checkpoint DIR (several are compared: --checkpoint NAME=DIR)")
    if args.json and (args.json.is_dir() or not args.json.absolute().parent.is_dir()):
        raise UserError(f"--json {args.json}: give a file in a folder that is there")
    from jaxllava.evaluate import behavior_command, behavior_text

    limit = 400 if args.limit is None else args.limit
    with bar("evaluating") as report:
        found = behavior_command.run(args.data, args.checkpoint, args.out, limit, args.gold, report)
    print(behavior_text.text(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


def _benchmarks(args: argparse.Namespace) -> None:
    tasks = choose(_names(args.tasks or ""))
    root = _data_root(args, "--tasks")
    if args.setting not in SETTINGS:
        raise UserError(f"--setting {args.setting!r}: one of {', '.join(map(repr, SETTINGS))}")
    if (args.limit or 0) < 0:
        raise UserError(
            f"--limit {args.limit}: a positive number is needed; without it all questions are asked"
        )
    for name in ("batch_size", "frames"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: a positive number is needed")
    if len(args.checkpoint) != 1:
        raise UserError(f"--tasks: set --checkpoint DIR, one; {len(args.checkpoint)} were given")
    checkpoint = Path(args.checkpoint[0].partition("=")[2] or args.checkpoint[0])
    questions, lacking = _read(tasks, root)
    for line in lacking:
        print(f"error: {line}", file=sys.stderr)
    if not questions:
        raise UserError("none of the tasks is ready; see above")
    ready = [task for task in tasks if task.name in questions]
    from jaxllava import hosts  # not before: it takes seconds to import jax, and a slip is told at once

    if args.distributed or hosts.ENVIRONMENT[0] in os.environ:
        hosts.start()
    whole = _ask(args, ready, questions, checkpoint, root)
    if lacking or not whole:
        raise SystemExit(1)


def _ask(
    args: argparse.Namespace, tasks: list[Task], questions: dict[str, Questions], checkpoint: Path, root: Path
) -> bool:
    """Whether every question has an answer."""
    import jax

    from jaxllava import api, hosts, identity
    from jaxllava.evaluate import benchmarks
    from jaxllava.evaluate.ask import Asking

    out = args.out or Path("runs/evaluate") / checkpoint.resolve().name
    plan = benchmarks.Plan(
        root, out, args.setting, args.limit or 0, args.restart, jax.process_index(), jax.process_count()
    )
    model = api.load(checkpoint, args.template, dtype=args.dtype, mesh="local")
    weights = identity.of_folder(checkpoint)
    how = Asking(batch_size=args.batch_size, frames=args.frames)
    with bar("asking") as report:
        shown = report if hosts.is_first() else lambda *given: None
        results = benchmarks.run(tasks, questions, model, weights, how, plan, shown)
    if not hosts.is_first():
        return True
    text = benchmark_table.table(results, TASKS)
    said = {"checkpoint": str(checkpoint), "identity": weights, "results": results}
    (out / "results.json").write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n")
    (out / "results.txt").write_text(text + "\n")
    print(text)
    for result in results:
        if len(result["figures"]) > 1:
            print("\n" + benchmark_table.details(result, TASKS[result["task"]]))
    print(f"\nanswers, submissions and figures: {out}")
    return all(result["answered"] == result["asked"] for result in results)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _data_root(args: argparse.Namespace, flag: str) -> Path:
    if args.data_root is None:
        raise UserError(f"{flag}: set --data-root DIR; jaxllava evaluate --list says what belongs there")
    if not args.data_root.is_dir():
        raise UserError(f"--data-root {args.data_root}: no such folder")
    return args.data_root


def _read(tasks: list[Task], root: Path) -> tuple[dict[str, Questions], list[str]]:
    """The questions of the tasks that are ready, and a line for each that is not: what to get."""
    questions, lacking = {}, []
    for task in tasks:
        try:
            questions[task.name] = read(task, root)
        except UserError as error:
            lacking.append(str(error))
    return questions, list(dict.fromkeys(lacking))


def prepare_task(args: argparse.Namespace) -> None:
    """`jaxllava prepare --task`."""
    from jaxllava.evaluate import finetune

    trained = [task.name for task in TASKS.values() if task.finetune]
    if args.task not in TASKS:
        raise UserError(f"--task {args.task}: no such task.{nearest(args.task, trained)}")
    task = TASKS[args.task]
    root = _data_root(args, "--task")
    if args.frames < 1:
        raise UserError(f"--frames {args.frames}: a positive number is needed")
    with bar(f"preparing {task.name}") as report:
        made = finetune.prepare(task, root, args.out, args.frames, args.fraction, progress=report)
    for split, count in made["splits"].items():
        print(f"{split}: {count} records")
    if made["unusable"] or made["rejected"]:
        print(
            f"left out: {made['unusable']} unusable, {made['rejected'] or 'none'} rejected; see quarantine.jsonl"
        )
    print(
        f"train: jaxllava train --config configs/finetune.py:task={task.name} --config.base=MODEL "
        f"--config.data={args.out / 'records'} --workdir RUN"
    )
