"""evidence.html: one page with everything in it, made from the results alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from jaxllava.evaluate import charts, evidence_charts, evidence_paper
from jaxllava.evaluate import evidence_text as text
from jaxllava.evaluate.comparison import TREATED, metric_of
from jaxllava.evaluate.evidence_results import outcome
from jaxllava.evaluate.report import duration

_LABEL = 92  # user units: room for "behavior 1:2"
_RATIOS = (("behavior-2to1", "2:1"), (TREATED, "1:1"), ("behavior-1to2", "1:2"))

# Of what an arm was given: its key, and its column.
_GIVEN = {
    "posts": "posts",
    "likes": "like rates",
    "comments": "comments",
    "titles": "titles",
    "instruct": "instructions",
}
_GIVEN_FILMS = {
    "posts": "films",
    "likes": "like rates",
    "comments": "comments",
    "replay": "replay graphs",
    "instruct": "instructions",
}


def write_html(results: text.Results, path: Path) -> None:
    """Writes the page. `path`'s folder must exist."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("evidence.html.jinja").render(_context(results))
    path.write_text(page, encoding="utf-8")


def _context(results: text.Results) -> dict[str, Any]:
    tasks, arms = text.tasks_of(results), text.arms_of(results)
    shares = text.shares_of(results)
    sentences = text.verdict(results)
    ratios = [(arm, label) for arm, label in _RATIOS if arm in arms]
    units = [sum(seconds.values()) for seconds in results["unit_seconds"].values()]
    films = text.of_films(results)
    return {
        "films": films,
        "items": " or ".join(text.items_of(results)),
        "given": _GIVEN_FILMS if films else _GIVEN,
        "headline": sentences[0],
        "sentences": sentences[1:],
        "seeds": results["seeds"],
        "arms": [_arm(results, arm) for arm in arms],
        "panels": [_panel(results, task, [(arm, text.name(arm)) for arm in arms]) for task in tasks],
        "ratios": [_panel(results, task, ratios) for task in tasks] if len(ratios) > 1 else [],
        "table": _table(results, tasks, ""),
        "tests": _tests(results, tasks, ""),
        "labels": [_efficiency(results, task) for task in tasks if _is_tuned(results, task)],
        "tuned": [
            {
                "share": text.percent(share),
                "table": _table(results, [t for t in tasks if _is_tuned(results, t)], share),
                "tests": _tests(results, [t for t in tasks if _is_tuned(results, t)], share),
            }
            for share in shares
        ],
        "paper": [] if films else [_paper(results, table) for table in evidence_paper.TABLES],
        "comparisons": {kind: len(tests) for kind, tests in results["tests"].items()},
        "missing": results["missing"],
        "machine": results["machine"],
        "date": results["date"],
        "time": duration(60 * results["minutes"]),
        "jobs": results["jobs"],
        "stages": [
            {"name": name, "text": duration(seconds)}
            for name, seconds in results["seconds"].items()
            if seconds
        ],
        "unit": duration(sum(units) / max(len(units), 1)),
        "units": len(units),
    }


def _css(arm: str) -> str:
    return f"arm-{arm}" if arm in ("base", "ad", "shuffled", TREATED) else "arm-other"


def _arm(results: text.Results, arm: str) -> dict[str, Any]:
    given = results["arms"][arm]["given"]
    return {"name": text.name(arm), "css": _css(arm), "about": text.about(results, arm), "given": given}


def _is_tuned(results: text.Results, task: str) -> bool:
    return any(task in cells for cells in results["arms"][TREATED]["finetuned"].values())


def _panel(results: text.Results, task: str, arms: Sequence[tuple[str, str]]) -> dict[str, Any]:
    spec = metric_of(task)
    chance = results["chance"].get(task)
    rows = []
    for arm, label in arms:
        cell = results["arms"][arm]["zero_shot"][task]
        runs = [run["zero_shot"].get(task) for run in results["by_seed"][arm]]
        dots = tuple(value for value in runs if value is not None)
        dots = dots if len(dots) > 1 else ()
        shown = text.value(spec, cell["mean"])
        rows.append(
            charts.Row(label, _css(arm), cell["mean"], cell["low"], cell["high"], shown, arm == TREATED, dots)
        )
    ratio = spec.kind == "ratio"
    note = ""
    # Arms that never read a like rate or a comment would press the others onto one spot.
    least = min(row.mean for row in rows)
    far = [
        row for row in rows if (ratio and row.mean > 100 * least) or (task == "likes_r2" and row.mean < -2)
    ]
    if far and len(far) < len(rows):
        note = "not drawn: " + ", ".join(f"{row.label} {row.text}" for row in far)
        rows = [row for row in rows if row not in far]
    values = [row.mean for row in rows]
    log = ratio and min(row.low for row in rows) > 0 and max(values) > 3 * min(values)
    svg = charts.interval_chart(
        rows,
        lambda number: f"{number:,.0f}" if number >= 1000 else spec.tick(number),
        f"{spec.label}, {spec.detail}: " + ", ".join(f"{row.label} {row.text}" for row in rows),
        chance,
        f"chance {spec.tick(round(chance, 3))}" if chance is not None else "",
        log,
        _LABEL,
    )
    better = "higher is better →" if spec.higher else "← lower is better"
    detail = f"{spec.detail}, log scale" if log else spec.detail
    return {"label": spec.label, "detail": detail, "better": better, "svg": Markup(svg), "note": note}


def _efficiency(results: text.Results, task: str) -> dict[str, Any]:
    spec = metric_of(task)
    shares = text.shares_of(results)
    lines = []
    for arm in text.arms_of(results):
        cells = results["arms"][arm]
        if not cells["finetuned"]:
            continue
        found = [cells["zero_shot"].get(task), *(cells["finetuned"][share].get(task) for share in shares)]
        points = tuple((c["mean"], c["low"], c["high"]) if c else None for c in found)
        lines.append(evidence_charts.Line(text.name(arm), _css(arm), points))
    places = ["none", *map(text.percent, shares)]
    chance = results["chance"].get(task)
    svg = evidence_charts.place_chart(lines, places, spec.tick, f"{spec.label} by share of labels", chance)
    return {"label": spec.label, "detail": spec.detail, "svg": Markup(svg)}


def _table(results: text.Results, tasks: Sequence[str], share: str) -> dict[str, Any]:
    rows = []
    for arm in text.arms_of(results):
        cells = results["arms"][arm]
        found = cells["finetuned"].get(share) if share else cells["zero_shot"]
        if found:
            rows.append(
                {
                    "name": text.name(arm),
                    "mine": arm == TREATED,
                    "cells": [_cell(task, found.get(task)) for task in tasks],
                }
            )
    levels = [results["chance"].get(task) for task in tasks]
    chance = [
        metric_of(task).value(level) if level is not None else "–"
        for task, level in zip(tasks, levels, strict=True)
    ]
    return {"tasks": [_head(task) for task in tasks], "rows": rows, "chance": chance}


def _head(task: str) -> dict[str, str]:
    spec = metric_of(task)
    return {"label": spec.label, "detail": spec.detail, "arrow": spec.arrow}


def _cell(task: str, cell: Any) -> dict[str, str]:
    spec = metric_of(task)
    if not cell:
        return {"value": "–", "interval": ""}
    return {
        "value": text.value(spec, cell["mean"]),
        "interval": f"{text.bound(spec, cell['low'])} to {text.bound(spec, cell['high'])}",
    }


def _tests(results: text.Results, tasks: Sequence[str], share: str) -> list[dict[str, Any]]:
    """A row for each other arm, a cell for each task."""
    by_task = {task: text.tests_of(results, task, share) for task in tasks}
    others = [arm for arm in text.arms_of(results) if any(arm in found for found in by_task.values())]
    rows = []
    for other in others:
        cells = []
        for task in tasks:
            test, spec = by_task[task].get(other), metric_of(task)
            if test is None:
                cells.append({"outcome": "none"})
                continue
            cells.append(
                {
                    "outcome": outcome(test, spec.higher),
                    "value": text.change(spec, test, "mean"),
                    "interval": f"{text.change(spec, test, 'low')} to {text.change(spec, test, 'high')}",
                    "p": text.p_value(test["p"]),
                    "holm": text.p_value(test["holm"]),
                    "agreeing": f"{test['agreeing']} of {test['seeds']}",
                }
            )
        rows.append({"name": text.name(other), "cells": cells})
    return rows


def _paper(results: text.Results, table: evidence_paper.Table) -> dict[str, Any]:
    tasks = [task for task in table.tasks if task in text.tasks_of(results)]
    rows = []
    for label, figures, arm in table.rows:
        found = results["arms"].get(arm, {}).get("zero_shot", {})
        ours = [_cell(task, found.get(task)) for task in tasks] if arm else []
        rows.append({"label": label, "figures": figures, "arm": text.name(arm) if arm else "", "ours": ours})
    return {
        "title": table.title,
        "columns": table.columns,
        "tasks": [_head(task) for task in tasks],
        "rows": rows,
        "caveat": table.caveat,
    }
