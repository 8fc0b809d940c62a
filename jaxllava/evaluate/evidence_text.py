"""evidence.json in words: the verdict, and the tables of evidence.md.

A difference is called one where its corrected p-value is below 0.05; everything else is said not to be shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxllava.evaluate.comparison import METRICS, TREATED, Metric, metric_of
from jaxllava.evaluate.evidence_results import outcome

Results = Mapping[str, Any]

# In the order of the tables: how an arm is called, and what it was trained on.
ARMS: dict[str, tuple[str, str]] = {
    "base": ("base", "the one model that all arms start from: no posts at all"),
    "ad": ("ad", "the posts without their audience: picture, title, description"),
    "shuffled": ("shuffled", "the posts with the reactions of other posts"),
    "titles": ("titles", "what a post was titled, and nothing of its audience"),
    "likes": ("likes", "the posts with their like rates alone"),
    "comments": ("comments", "the posts with their comments alone"),
    "behavior": ("behavior", "the posts with their own likes and comments, mixed 1:1 with instructions"),
    "unfiltered": ("unfiltered", "as behavior, every threshold of the cleaning off"),
    "behavior-1to2": ("behavior 1:2", "as behavior, two instructions for each post"),
    "behavior-2to1": ("behavior 2:1", "as behavior, one instruction for two posts"),
}
# The same of the experiment on films (results["experiment"] == "films").
FILM_ARMS: dict[str, tuple[str, str]] = {
    "base": ("base", "the one LLaMA-VID that all arms start from: no films at all"),
    "ad": ("ad", "the films without their audience: scenes, title, colours"),
    "shuffled": ("shuffled", "the films with the likes, comments and replay graphs of other films"),
    "reactions": ("reactions", "the films with their own likes and comments, without replay"),
    "behavior": (
        "behavior",
        "the films with their own likes, comments and replay graphs, mixed 1:1 with instructions",
    ),
}
CONTROLS = ("base", "ad", "shuffled")  # what the claim is against; the other arms take it apart


def of_films(results: Results) -> bool:
    """Whether these are results of the experiment on films."""
    return results.get("experiment") == "films"


def name(arm: str) -> str:
    return ARMS[arm][0] if arm in ARMS else arm


def about(results: Results, arm: str) -> str:
    """What an arm was trained on."""
    return (FILM_ARMS if of_films(results) else ARMS)[arm][1]


def arms_of(results: Results) -> list[str]:
    known = FILM_ARMS if of_films(results) else ARMS
    return [arm for arm in known if arm in results["arms"]]


def tasks_of(results: Results) -> list[str]:
    return [task for task in METRICS if task in results["arms"][TREATED]["zero_shot"]]


def shares_of(results: Results) -> list[str]:
    return sorted(results["arms"][TREATED]["finetuned"], key=float)


def percent(share: str) -> str:
    return f"{100 * float(share):g}%"


def tests_of(results: Results, task: str, share: str = "") -> dict[str, Mapping[str, Any]]:
    """{other arm: test} of a task, zero-shot or with a share of the labels."""
    found = results["tests"]["finetuned" if share else "zero_shot"]
    rows = {t["other"]: t for t in found if t["task"] == task and t.get("share", "") == share}
    return {arm: rows[arm] for arm in arms_of(results) if arm in rows}


def p_value(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.2f}"


# --- the verdict -------------------------------------------------------------------------------------------------


def verdict(results: Results) -> list[str]:
    """Plain sentences: the claim, then each task, then what labels do, then what cannot be said."""
    tasks = tasks_of(results)
    against = [arm for arm in CONTROLS if arm in results["arms"]]
    decided = {task: _decided(results, task, against) for task in tasks}
    won = [task for task in tasks if decided[task] == {"win"}]
    lost = [task for task in tasks if "loss" in decided[task]]
    whom = _list([name(arm) for arm in against])
    if won:
        head = (
            f"On {len(won)} of {len(tasks)} tasks ({_labels(won)}) training on the audience's own reactions is shown "
            f"to be better than each of {whom}"
        )
    else:
        head = (
            f"On none of {len(tasks)} tasks is training on the audience's own reactions shown to be better than each "
            f"of {whom}"
        )
    if lost:
        head += f"; on {_labels(lost)} it is shown to be worse than one of them"
    return [
        head + ".",
        *(_sentence(results, task) for task in tasks),
        *_finetuned(results),
        *_cautions(results),
    ]


def _decided(results: Results, task: str, against: Sequence[str]) -> set[str]:
    found = tests_of(results, task)
    return {outcome(found[arm], metric_of(task).higher) for arm in against if arm in found}


def _sentence(results: Results, task: str, share: str = "") -> str:
    spec = metric_of(task)
    groups: dict[str, list[str]] = {"win": [], "loss": [], "open": []}
    for arm, test in tests_of(results, task, share).items():
        groups[outcome(test, spec.higher)].append(name(arm))
    words = {"win": "better than ", "loss": "worse than ", "open": "not shown to differ from "}
    said = [words[kind] + _list(names) for kind, names in groups.items() if names]
    return f"{spec.label}: {TREATED} has {spec.detail} {_value(results, TREATED, task, share)}, {'; '.join(said)}."


def _value(results: Results, arm: str, task: str, share: str = "") -> str:
    cells = results["arms"][arm]
    cell = (cells["finetuned"].get(share, {}) if share else cells["zero_shot"]).get(task)
    return cell_text(metric_of(task), cell)


def cell_text(spec: Metric, cell: Mapping[str, Any] | None) -> str:
    if not cell:
        return "–"
    return f"{value(spec, cell['mean'])} [{bound(spec, cell['low'])}, {bound(spec, cell['high'])}]"


def value(spec: Metric, number: float) -> str:
    """As the metric prints it, without the decimals of perplexities that are astronomical anyway."""
    return f"{number:,.0f}" if spec.kind == "ratio" and number >= 1000 else spec.value(number)


def bound(spec: Metric, number: float) -> str:
    return value(spec, number).rstrip("%")


def change(spec: Metric, test: Mapping[str, Any], key: str) -> str:
    """A difference as it is read: signed, or, of logarithms, as a factor."""
    if not test["log"]:
        return spec.change(test[key])
    factor = math.exp(test[key])
    return f"×{factor:.2f}" if factor >= 0.01 else f"×{factor:.0e}".replace("e-0", "e−")


def _finetuned(results: Results) -> list[str]:
    sentences = []
    for share in shares_of(results):
        found = {
            task: _decided_with_labels(results, task, share)
            for task in results["arms"][TREATED]["finetuned"][share]
        }
        better = [
            f"{metric_of(task).label.lower()} ({_list(names)})" for task, (names, _) in found.items() if names
        ]
        worse = [
            f"{metric_of(task).label.lower()} ({_list(names)})" for task, (_, names) in found.items() if names
        ]
        said = []
        if better:
            said.append(f"{TREATED} is shown to be better on {_list(better)}")
        if worse:
            said.append(
                f"shown to be worse on {_list(worse)}"
                if said
                else f"{TREATED} is shown to be worse on {_list(worse)}"
            )
        whom = _list(
            [name(arm) for arm in arms_of(results) if results["arms"][arm]["finetuned"] and arm != TREATED]
        )
        if not said:
            said.append(f"{TREATED} is not shown to differ from {whom}")
        sentences.append(f"With {percent(share)} of the labels: {', and '.join(said)}.")
    return sentences


def _decided_with_labels(results: Results, task: str, share: str) -> tuple[list[str], list[str]]:
    higher = metric_of(task).higher
    found = tests_of(results, task, share)
    of = lambda kind: [name(arm) for arm, test in found.items() if outcome(test, higher) == kind]
    return of("win"), of("loss")


def _blind(results: Results, task: str, share: str) -> bool:
    """Whether supervised training on the task leaves every arm that had it at chance."""
    cells = [arm["finetuned"][share].get(task) for arm in results["arms"].values() if arm["finetuned"]]
    return all(cell is not None and cell["low"] <= results["chance"][task] for cell in cells)


def _cautions(results: Results) -> list[str]:
    said = []
    level = []
    for task, chance in results["chance"].items():
        cell = results["arms"][TREATED]["zero_shot"].get(task)
        if cell and metric_of(task).higher and cell["low"] <= chance:
            level.append(task)
    if level:
        said.append(f"On {_labels(level)}, {TREATED} is not shown to be better than chance.")
    shares = shares_of(results)
    blind = [task for task in level if shares and _blind(results, task, shares[-1])]
    if blind:
        said.append(
            f"On {_labels(blind)} no model is above chance after {percent(shares[-1])} of the labels either: it cannot "
            "be told from what these models see, and says nothing of the arms."
        )
    seeds = len(results["seeds"])
    if seeds == 1:
        said.append("One training seed: nothing here covers the luck of a training run.")
    if results["missing"]:
        said.append(
            f"Not all has been run: {len(results['missing'])} units are missing, and seeds without them left out."
        )
    said.append(
        "The base was trained once and the corpus drawn once: no interval covers what another base or another corpus "
        "would give. The audience is a simulation."
    )
    return said


def _labels(tasks: Sequence[str]) -> str:
    return _list([metric_of(task).label.lower() for task in tasks])


def _list(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


# --- evidence.md -------------------------------------------------------------------------------------------------


def markdown(results: Results) -> str:
    """The tables of the README: zero-shot, and with labels, with what they were measured on."""
    seeds, items = len(results["seeds"]), items_of(results)
    heldout = _list([f"{count} held-out {item}" for item, count in items.items()])
    over = " or ".join(items)
    lines = [
        f"Measured {results['date']} on {results['machine']}: {seeds} seed{'s' * (seeds > 1)} of each arm, {heldout}, "
        f"{results['minutes']:.0f} minutes. In brackets 95 % intervals over seeds and {over} (base: "
        f"{over}). **Bold**: shown to differ from `behavior` (p < 0.05, Holm-corrected over the table).",
        "",
        *_table(results, ""),
    ]
    for share in shares_of(results):
        lines += ["", f"Trained further on {percent(share)} of the true labels of training posts:", ""]
        lines += _table(results, share)
    return "\n".join([*lines, "", *(f"- {sentence}" for sentence in verdict(results)), ""])


def items_of(results: Results) -> dict[str, int]:
    """What intervals are over, in the order of the tables: {"posts": how many were asked about}, or "films" too."""
    cells = results["arms"][TREATED]["zero_shot"]
    found: dict[str, int] = {}
    for task in tasks_of(results):
        found.setdefault(cells[task]["unit"].partition(",")[0], cells[task]["n"])
    return found


def _table(results: Results, share: str) -> list[str]:
    cells = results["arms"][TREATED]
    tasks = [task for task in tasks_of(results) if not share or task in cells["finetuned"][share]]
    specs = [metric_of(task) for task in tasks]
    head = [f"{spec.label}, {spec.detail} {spec.arrow}" for spec in specs]
    lines = [
        f"| {'with labels' if share else 'zero-shot'} | {' | '.join(head)} |",
        "|---" * (len(tasks) + 1) + "|",
    ]
    for arm in arms_of(results):
        if share and share not in results["arms"][arm]["finetuned"]:
            continue
        row = []
        for task, spec in zip(tasks, specs, strict=True):
            text = _value(results, arm, task, share)
            test = tests_of(results, task, share).get(arm)
            row.append(f"**{text}**" if test and outcome(test, spec.higher) != "open" else text)
        lines.append(f"| {'**behavior**' if arm == TREATED else name(arm)} | {' | '.join(row)} |")
    chance = [results["chance"].get(task) for task in tasks]
    row = [spec.value(level) if level is not None else "–" for spec, level in zip(specs, chance, strict=True)]
    return [*lines, f"| chance | {' | '.join(row)} |"]
