"""The tables of `jaxllava evaluate`: which tasks there are and are ready, and our figures beside the reported
ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxllava.evaluate.tasks.task import SETTINGS, Task

_COLUMNS = 4  # reported systems beside ours
_OWN = ("LLaMA-VID", "Ad-LLaVA", "Behavior-LLaVA")


def listing(tasks: Sequence[Task], root: Path | None) -> str:
    """Every task with its metric and protocol; with a data root, whether it is ready there, else what lacks."""
    rows = [["task", "family", "data set", "figure", "asked by", "tested on", "trainable", "data"]]
    missing: dict[str, list[str]] = {}
    for task in tasks:
        protocol = "a judge" if task.score is None else type(task.protocol).__name__.lower()
        lacks = task.missing(root) if root else []
        state = "" if root is None else "not there" if lacks else "ready"
        if lacks:
            assert root is not None
            say = f"{root / task.folder}: {', '.join(lacks)} not there. {task.get}"
            missing.setdefault(say, []).append(task.name)
        trained = "yes" if task.finetune else "no"
        rows.append([task.name, task.family, task.title, task.metric, protocol, task.tested, trained, state])
    ready = sum(row[-1] == "ready" for row in rows)
    lines = [aligned(rows, numbers=False)]
    if missing:
        lines.append("\nWhat to get:")
        lines += [f"- {', '.join(names)}: {say}" for say, names in missing.items()]
    if root is not None:
        lines.append(f"\n{ready} of {len(tasks)} tasks are ready under {root}.")
    else:
        lines.append(f"\n{len(tasks)} tasks. With --data-root DIR: which are ready there.")
    return "\n".join(lines)


def systems(task: Task, setting: str) -> list[str]:
    """The reported systems that the table has a column for: the paper's three, then the best supervised, else
    the first few.
    """
    reported = task.reported.get(setting)
    if reported is None:
        return []
    first = [name for name in _OWN if name in reported.figures]
    rest = [name for name in reported.figures if name not in first and name != reported.best]
    chosen = first or rest[: _COLUMNS - bool(reported.best)]
    return chosen + ([reported.best] if reported.best else [])


def table(results: Sequence[Mapping[str, Any]], tasks: Mapping[str, Task]) -> str:
    """Our headline figures with intervals beside what was reported, a block for each set of systems."""
    blocks: dict[tuple[str, ...], list[list[str]]] = {}
    notes: list[str] = []
    for result in results:
        task = tasks[result["task"]]
        reported = task.reported.get(result["setting"])
        names = systems(task, result["setting"])
        heads = tuple("best supervised" if reported and n == reported.best else n for n in names)
        figures = result["figures"]
        if figures:
            headline = next(iter(figures.values()))
            show = lambda value, task=task: number(task, value)
            ours = f"{show(headline['mean'])} [{show(headline['low'])}, {show(headline['high'])}]"
            count = headline["n"]
        else:
            ours, count = "–", 0
            notes.append(f"{task.name}: {result['no figures']}")
        notes += [f"{task.name}: {line}" for line in result["failures"] if line != result["no figures"]]
        notes += [f"{task.name}: {line}" for line in _judged(result)]
        values = [number(task, reported.figures[n]) for n in names] if reported else []
        arrow = "↑" if task.higher else "↓"
        by = f", judge {result['judge']}" if "judge" in result else ""
        row = [task.name, f"{task.metric} {arrow}{by}", ours, str(count), *values]
        blocks.setdefault(heads, []).append(row)
        if reported and reported.best:
            notes.append(f"{task.name}: the best supervised is {reported.best}")
        notes += [f"{task.name}: {line}" for line in _incomplete(result)]
    shown = [
        aligned([["task", "figure", "ours [95 % interval]", "n", *heads], *rows])
        for heads, rows in blocks.items()
    ]
    setting = results[0]["setting"] if results else SETTINGS[0]
    foot = (
        f"Reported figures are of the setting {setting!r}, from the papers. n: what a figure is over and its interval "
        "resamples, questions or what counts together (a picture's, the rotations of one)."
    )
    return "\n\n".join(shown) + "\n\n" + "\n".join([foot, *dict.fromkeys(notes)])


def _judged(result: Mapping[str, Any]) -> list[str]:
    """Of a judged figure whose judgement it is, in words."""
    if "judge" not in result:
        return []
    by = "" if result["judge"].startswith("as ") else "by "  # of reviews that are there: "as FILE has it"
    lines = [
        f"judged {by}{result['judge']}, the papers' figures by {result['judge of the papers']}: another judge is "
        "another measure"
    ]
    if result["headline"]:
        lines.append(f"the figure shown is of {result['headline']}")
    if result["ours"]:
        lines.append(result["ours"])
    how = result.get("how", {})
    names = [name for name in ("temperature", "max_tokens") if how.get(name) is not None]
    if names:
        said = [f"{how[name]:g}" if isinstance(how[name], float) else str(how[name]) for name in names]
        flags = " ".join(
            f"--judge-{name.replace('_', '-')} {value}" for name, value in zip(names, said, strict=True)
        )
        lines.append(f"asked with {flags} in place of the protocol's: the figures depart from it")
    return lines


def _incomplete(result: Mapping[str, Any]) -> list[str]:
    """What is not in a result's figure, or is in it as wrong, in words."""
    lines = []
    if result["asked"] < result["questions"]:
        lines.append(f"{result['asked']} of {result['questions']} questions were drawn (--limit)")
    for reason, found in result["not answered"].items():
        lines.append(f"{found['count']} not answered, not scored: {reason} ({_example(found)})")
    for reason, found in result["rejected"].items():
        times = "once" if found["count"] == 1 else f"{found['count']} times"
        lines.append(f"left out of the release, {times}: {reason} ({_example(found)})")
    for reason, found in result["problems"].items():
        answers = "1 answer" if found["count"] == 1 else f"{found['count']} answers"
        lines.append(f"{answers}: {reason} ({_example(found)})" if found["count"] else reason)
    return lines


def _example(found: Mapping[str, Any]) -> str:
    """The first of those that are counted, told so that no id reads as a count; a place ("file:line") tells itself."""
    if not found["first"]:
        return "no id"
    first = found["first"][0]
    named = first if re.search(r":\d+$", first) else f"question {first}"
    return named if found["count"] == 1 else f"such as {named}"


def number(task: Task, value: float) -> str:
    decimals = 1 if "%" in task.metric or "points" in task.metric or abs(value) >= 100 else 3
    return f"{value:.{decimals}f}".replace("-", "−")


def details(result: Mapping[str, Any], task: Task) -> str:
    """All figures of one result."""
    rows = [
        [
            name,
            f"{number(task, e['mean'])} [{number(task, e['low'])}, {number(task, e['high'])}]",
            str(e["n"]),
        ]
        for name, e in result["figures"].items()
    ]
    name = f"{task.name}, judge {result['judge']}" if "judge" in result else task.name
    return aligned([[name, "value [95 % interval]", "n"], *rows])


def aligned(rows: Sequence[Sequence[str]], numbers: bool = True) -> str:
    """A table as text: a line under the head; numbers to the right from the third column on."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for index, row in enumerate(rows):
        cells = [
            text.rjust(width) if numbers and place > 1 else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
        if index == 0:
            lines.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)
