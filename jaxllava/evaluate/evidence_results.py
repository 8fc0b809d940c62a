"""From the columns of the units to evidence.json: every figure with its interval, every comparison with its p-value.

    date, machine, seeds, missing, jobs, seconds, unit_seconds
    chance       {task: number}
    arms         {arm: {"given": {...} or null, "zero_shot": cells, "finetuned": {share: cells}}}
    by_seed      {arm: [{"seed", "zero_shot": {task: number}, "finetuned": {share: {task: number}}}]}
    tests        {"zero_shot": [test, ...], "finetuned": [test with "share", ...]}: behavior minus the other arm

where cells is {task: {"mean", "low", "high", "n", "unit"}} and a test {"other", "task", "mean", "low", "high", "log",
"p", "holm", "paired_t", "agreeing", "seeds"}: with "log" true the difference is one of logarithms. The two
families of tests are corrected apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxllava.evaluate import evidence_statistics as statistics
from jaxllava.evaluate import metrics, plaza
from jaxllava.evaluate.comparison import TREATED
from jaxllava.evaluate.evidence_statistics import Figure, Test

LEVEL = 0.05  # of a corrected p-value that decides

Unit = Mapping[str, Any]  # what a unit of evidence_unit.py leaves


def compute(
    units: Mapping[tuple[str, int], Unit], arms: Sequence[str], seeds: Sequence[int], resamples: int = 0
) -> dict[str, Any]:
    """The parts arms (without "given"), by_seed and tests.

    Args:
        units: by (arm, seed); what an arm has of one seed it has of all in `seeds`, but the base's zero-shot answers.
        arms: in the order of the tables; `behavior` is what the others are compared with.
        seeds: whose units are used.
        resamples: of the posts; 0 is the default of `evidence_statistics`.
    """
    zero: dict[tuple[str, ...], Figure] = {}
    tuned: dict[tuple[str, ...], Figure] = {}
    by_seed: dict[str, list[dict[str, Any]]] = {}
    for arm in arms:
        own = [units[arm, seed] for seed in seeds if (arm, seed) in units]
        asked = [unit["zero_shot"] for unit in own if unit["zero_shot"]]
        zero |= {(arm, task): found for task, found in _figures(asked, resamples).items()}
        for share in own[0]["finetuned"]:
            found = _figures([unit["finetuned"][share] for unit in own], resamples)
            tuned |= {(arm, share, task): figure for task, figure in found.items()}
        by_seed[arm] = [_values(unit) for unit in own]
    return {
        "arms": {
            arm: {
                "zero_shot": {
                    task: _cell(task, figure) for (name, task), figure in zero.items() if name == arm
                },
                "finetuned": {
                    share: {
                        task: _cell(task, figure)
                        for (name, part, task), figure in tuned.items()
                        if (name, part) == (arm, share)
                    }
                    for share in dict.fromkeys(part for name, part, _ in tuned if name == arm)
                },
            }
            for arm in arms
        },
        "by_seed": by_seed,
        "tests": {
            "zero_shot": [
                {"other": other, "task": task, **found.to_dict()}
                for (other, task), found in _tests(zero).items()
            ],
            "finetuned": [
                {"other": other, "share": share, "task": task, **found.to_dict()}
                for (other, share, task), found in _tests(tuned).items()
            ],
        },
    }


def _figures(by_seed: Sequence[plaza.Columns], resamples: int) -> dict[str, Figure]:
    options = {"resamples": resamples} if resamples else {}
    tasks = by_seed[0] if by_seed else ()
    return {
        task: statistics.figure(plaza.TASKS[task].metric, [columns[task] for columns in by_seed], **options)
        for task in tasks
    }


def _tests(figures: Mapping[tuple[str, ...], Figure]) -> dict[tuple[str, ...], Test]:
    """`behavior` against every other arm in the same task (and share), corrected for one another."""
    found = {
        key: statistics.test(figures[TREATED, *key[1:]], figure)
        for key, figure in figures.items()
        if key[0] != TREATED and (TREATED, *key[1:]) in figures
    }
    return statistics.holm(found)


def _cell(task: str, figure: Figure) -> dict[str, Any]:
    return statistics.estimate(figure, plaza.TASKS[task].items).to_dict()


def _values(unit: Unit) -> dict[str, Any]:
    """A unit's figures without intervals, which is what lies behind a mean."""
    plain = lambda columns: {
        task: float(metrics.statistic(plaza.TASKS[task].metric)(*map(np.asarray, found)))
        for task, found in (columns or {}).items()
    }
    return {
        "seed": unit["seed"],
        "zero_shot": plain(unit["zero_shot"]),
        "finetuned": {share: plain(columns) for share, columns in unit["finetuned"].items()},
    }


def outcome(test: Mapping[str, Any], higher: bool | None) -> str:
    """'win', 'loss' or 'open' for behavior: decided by the corrected p-value alone."""
    if higher is None or test["holm"] >= LEVEL:
        return "open"
    return "win" if (test["mean"] > 0) == higher else "loss"
