"""`jaxllava evaluate` and `jaxllava prepare --task`: from flags to tables."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from input_pipeline.errors import UserError, in_one_line, nearest
from jaxllava.arguments import check_file
from jaxllava.evaluate import benchmark_table, stories
from jaxllava.evaluate.tasks import TASKS, choose
from jaxllava.evaluate.tasks.task import SETTINGS, Questions, Task, read
from jaxllava.progress import bar
from jaxllava.teacher.arguments import flag_defaults

_BENCHMARKS = ("tasks", "list", "data_root")
_REACTIONS = ("data", "gold", "json")
_OF_JUDGE = {
    "judge_repeats": 1,
    "judge_swap": False,
    "judge_drop_unparsable": False,
    "judge_seed": 0,
    "judge_temperature": None,
    "judge_max_tokens": None,
    "judge_dry_run": False,
    "judge_batch_out": None,
    "judge_batch_in": [],
    "judge_batch_limit": "max_completion_tokens",
}
_OF_REVIEWS = ("judge_drop_unparsable", "judge_seed")  # of those what --judge-reviews heeds
# Flags that only benchmarks heed, and what they are where they are not given.
_OF_BENCHMARKS = {
    "setting": "zero-shot",
    "frames": None,
    "fps": None,
    "batch_size": 16,
    "template": None,
    "dtype": None,
    "restart": False,
    "distributed": False,
}


def evaluate(args: argparse.Namespace) -> None:
    """Exits with 1 where some question has no answer or review, some task no data, or a figure or submission failed."""
    asked = [name for name in _BENCHMARKS if getattr(args, name)]
    judged = args.judge or args.judge_reviews
    for name, default in (_OF_JUDGE | flag_defaults()).items():
        fits = args.judge or (args.judge_reviews and name in _OF_REVIEWS)
        if getattr(args, name) != default and not fits:
            raise UserError(f"--{name.replace('_', '-')} is of --judge MODEL, which is not there")
    if asked and (other := [name for name in _REACTIONS if getattr(args, name)]):
        raise UserError(
            f"--{asked[0].replace('_', '-')} and --{other[0]}: benchmarks (--tasks, --data-root) and reactions "
            "(--data, --gold) are two commands"
        )
    if args.list:
        print(benchmark_table.listing(choose(_names(args.tasks or "all")), args.data_root))
    elif judged:
        _judged(args)
    elif asked:
        if not _benchmarks(args):
            raise SystemExit(1)
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
    for name, default in _OF_BENCHMARKS.items():
        if getattr(args, name) != default:
            raise UserError(f"--{name.replace('_', '-')} is for --tasks; --data does not know it")
    if os.environ.get("JAX_NUM_PROCESSES", "1") != "1":
        raise UserError(
            "evaluate --data runs in one process, on all devices of its host; --tasks is shared by hosts"
        )
    check_file("--json", args.json)
    from jaxllava.evaluate import behavior_command, behavior_text

    limit = 400 if args.limit is None else args.limit
    with bar("evaluating") as report:
        found = behavior_command.run(
            args.data, args.checkpoint, args.out, limit, args.gold, report, args.features
        )
    print(behavior_text.text(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


def _judged(args: argparse.Namespace) -> None:
    from jaxllava.evaluate.judging import command as judging
    from jaxllava.teacher.open import check

    names = _names(args.tasks or "")
    tasks = choose(names)
    if args.judge_reviews:
        judging.reviews(args, tasks)
        return
    if args.distributed and not args.checkpoint:
        raise UserError("--distributed shares out what --checkpoint is asked; --judge asks from one process")
    whole = True
    if args.checkpoint:
        judging.plan_of(args)  # a slip is told before hours of asking
        check(judging.settings_of(args))
        whole = _benchmarks(args)
        from jaxllava import hosts

        if not hosts.is_first():
            return
    root = _data_root(args, "--tasks") if args.data_root else None
    if not (judging.answers(args, tasks, root, set(names)) and whole):
        raise SystemExit(1)


def _benchmarks(args: argparse.Namespace) -> bool:
    """Whether nothing lacks."""
    tasks = choose(_names(args.tasks or ""))
    root = _data_root(args, "--tasks")
    if args.setting not in SETTINGS:
        raise UserError(f"--setting {args.setting!r}: one of {', '.join(map(repr, SETTINGS))}")
    if (args.limit or 0) < 0:
        raise UserError(
            f"--limit {args.limit}: a positive number is needed; without it all questions are asked"
        )
    for name in ("batch_size", "frames"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: a positive number is needed")
    if args.fps is not None and (args.frames is not None or not 0 < args.fps <= 120):
        raise UserError(f"--fps {args.fps}: a positive number is needed, and no --frames beside it")
    if len(args.checkpoint) != 1:
        raise UserError(f"--tasks: set --checkpoint DIR, one; {len(args.checkpoint)} were given")
    if args.out and args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out} is a file; give a folder")
    checkpoint = _checkpoint(args.checkpoint[0])
    questions, lacking = _read(tasks, root, args.setting)
    for line in lacking:
        print(f"error: {line}", file=sys.stderr)
    if not questions:
        raise UserError("none of the tasks is ready; see above")
    ready = [task for task in tasks if task.name in questions]
    from jaxllava import hosts  # not before: it takes seconds to import jax, and a slip is told at once

    if args.distributed or hosts.ENVIRONMENT[0] in os.environ:
        hosts.start()
    whole = _ask(args, ready, questions, checkpoint, root)
    return whole and not lacking


def _ask(
    args: argparse.Namespace, tasks: list[Task], questions: dict[str, Questions], checkpoint: Path, root: Path
) -> bool:
    """Whether every question has an answer."""
    import jax

    from jaxllava import api, hosts, identity
    from jaxllava.evaluate import benchmarks
    from jaxllava.evaluate.ask import Asking
    from jaxllava.weights import orbax

    model_folder = orbax.locate(checkpoint).resolve()
    out = args.out or Path("runs/evaluate") / _name(model_folder)
    if out.resolve().is_relative_to(model_folder):
        raise UserError(f"--out {out}: lies in the model's folder {model_folder}, which it would change")
    plan = benchmarks.Plan(
        root, out, args.setting, args.limit or 0, args.restart, jax.process_index(), jax.process_count()
    )
    model = api.load(checkpoint, args.template, dtype=args.dtype, mesh="local", features=args.features)
    weights = identity.of_folder(checkpoint)
    fps = args.fps or (1.0 if model.asker is not None and args.frames is None else 0.0)
    how = Asking(batch_size=args.batch_size, frames=args.frames or 4, fps=fps)
    with bar("asking") as report:
        shown = report if hosts.is_first() else lambda *given: None
        try:
            results = benchmarks.run(tasks, questions, model, weights, how, plan, shown)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise UserError(
                f"the device's memory is too small for --batch-size {args.batch_size} ({in_one_line(error, 120)}); "
                "give a smaller one: the command goes on where it stopped"
            ) from error
    if not hosts.is_first():
        return True
    every = benchmarks.gathered(results, out)
    text = benchmark_table.table(every, TASKS)
    benchmarks.write_totals(out, every, text, {"checkpoint": str(checkpoint), "identity": weights})
    print(text)
    for result in results:
        if len(result["figures"]) > 1:
            print("\n" + benchmark_table.details(result, TASKS[result["task"]]))
    print(f"\nanswers, submissions and figures: {out}")
    return all(result["answered"] == result["asked"] and not result["failures"] for result in results)


def _checkpoint(given: str) -> Path:
    """The folder of DIR or NAME=DIR."""
    return Path(given if Path(given).is_dir() else given.partition("=")[2] or given)


def _name(model_folder: Path) -> str:
    """What tells a model from others: of a run's `model`, the run."""
    return (model_folder.parent if model_folder.name == "model" else model_folder).name


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _data_root(args: argparse.Namespace, flag: str) -> Path:
    if args.data_root is None:
        raise UserError(f"{flag}: set --data-root DIR; jaxllava evaluate --list says what belongs there")
    if not args.data_root.is_dir():
        raise UserError(f"--data-root {args.data_root}: no such folder")
    return args.data_root


def _read(tasks: list[Task], root: Path, setting: str) -> tuple[dict[str, Questions], list[str]]:
    """The questions of the tasks that are ready, and a line for each that is not: what to get."""
    questions, lacking = {}, []
    for task in tasks:
        try:
            found = read(task, root)
            if stories.wanted(setting):
                stories.read(task, root, setting)
            questions[task.name] = found
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
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out} is a file; give a folder")
    with bar(f"preparing {task.name}") as report:
        made = finetune.prepare(task, root, args.out, args.frames, args.fraction, progress=report)
    for split, count in made["splits"].items():
        print(f"{split}: {count} records")
    if made["unusable"] or made["rejected"]:
        rejected = "".join(f", {count} {reason}" for reason, count in made["rejected"].items())
        print(
            f"left out: {made['unusable']} that cannot be used{rejected}; {args.out / 'quarantine.jsonl'} names them"
        )
    if made["faulty"]:
        print(f"used, with faults: {made['faulty']} videos; {args.out / 'quarantine.jsonl'} names them")
    print(
        f"train: jaxllava train --config configs/finetune.py:task={task.name} --config.base=MODEL "
        f"--config.data={args.out / 'records'} --workdir RUN"
    )
