"""The report of a run: a plain table for the terminal, and one HTML page with everything in it.

Both read `results.json`. Beside what `comparison` reads (arms, differences, chance, seeds), all optional:
    by_seed            {arm: [{metric: cell}, ...]}, one entry per training seed
    samples            [{"image", "title", "true_comments", "generated": {arm: text}, "true_like_rate",
                         "mood", "topic"}]
    curves             {stage: [[step, loss], ...]}
    seconds            {stage: seconds};  tokens_per_second  {stage: tokens/s}
    funnel             funnel.json: {"steps": [row, ...], "reasons": {...}, "sources": {source: [row, ...]}}
    quarantine         {"count", "by_reason": {reason: n}, "examples": [row of quarantine.jsonl or text, ...]}
    export             {"path", "max_logit_difference": number or null, "reason"}
    machine            one line
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from input_pipeline.errors import UserError
from jaxllava.evaluate import charts
from jaxllava.evaluate.comparison import (
    ARMS,
    arms_of,
    compare,
    estimate,
    metric_of,
    metrics_of,
    tally,
    verdict,
)
from jaxllava.evaluate.metrics import Estimate

__all__ = ["load_results", "terminal_table", "verdict", "write_html"]

_PICTURE_PIXELS = 640  # longest side of a picture in the page: twice its column, for dense screens
_PICTURE_BYTES = 150_000  # files up to this size go in as they are
_EXAMPLES = 12


def load_results(workdir: Path) -> dict[str, Any]:
    """Returns `workdir/results.json`; a missing or broken file is a UserError."""
    path = Path(workdir) / "results.json"
    try:
        results = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist: run `jaxllava quickstart --workdir {workdir}` first."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON ({error}): delete it and run the evaluation again.") from None
    if not isinstance(results, dict):
        raise UserError(f"{path} holds a {type(results).__name__}, not the results of a run.")
    return results


# --- the terminal ---


def terminal_table(results: Mapping[str, Any]) -> str:
    """Returns the arms by metrics as aligned text: value over interval, * at the best, and chance."""
    arms, names = arms_of(results), metrics_of(results)
    specs = [metric_of(name) for name in names]
    chance = results.get("chance") or {}
    best = {name: _best(results, name) for name in names}
    lines = [
        ["", *(f"{spec.label} {spec.arrow}".strip() for spec in specs)],
        ["", *(spec.detail for spec in specs)],
    ]
    for arm in arms:
        values, intervals = [arm], [""]
        for name, spec in zip(names, specs, strict=True):
            cell = estimate(results, arm, name)
            star = "*" if arm in best[name] else ""
            values.append(f"{spec.value(cell.mean)}{star}" if cell else "-")
            intervals.append(f"[{spec.bound(cell.low)}, {spec.bound(cell.high)}]" if cell else "")
        lines += [values, intervals]
    levels = [metric_of(name).value(chance[name]) if chance.get(name) is not None else "-" for name in names]
    lines.append(["chance", *levels])

    widths = [max(len(line[column]) for line in lines) for column in range(len(names) + 1)]
    rendered = []
    for number, line in enumerate(lines):
        cells = [line[0].ljust(widths[0])]
        cells += [text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)]
        rendered.append("  ".join(cells).rstrip())
        if number == 1:
            rendered.append("-" * (sum(widths) + 2 * len(names)))
    key = "* best value. ↑ higher is better, ↓ lower is better. [ ] 95 % interval over the test items"
    seeds = "" if len(results.get("seeds") or [0]) < 2 else ", over the seeds for arms trained more than once"
    return "\n".join([*rendered, f"{key}{seeds}.", ""])


def _best(results: Mapping[str, Any], metric: str) -> set[str]:
    """The arms with the best value *as printed*: a tie in print is shown as a tie."""
    spec = metric_of(metric)
    cells = {arm: estimate(results, arm, metric) for arm in arms_of(results)}
    means = {arm: cell.mean for arm, cell in cells.items() if cell}
    if spec.higher is None or len(means) < 2:
        return set()
    top = spec.value(max(means.values()) if spec.higher else min(means.values()))
    return {arm for arm, mean in means.items() if spec.value(mean) == top}


# --- the page ---


def write_html(results: Mapping[str, Any], path: Path) -> None:
    """Writes the report as one file with everything inside it. `path`'s folder must exist."""
    folder = Path(__file__).parent / "templates"
    # Titles and comments are strangers' text: everything is escaped but the charts, which are made here.
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.jinja").render(_context(results, Path(path).parent))
    # Scraped text can hold lone surrogates, which UTF-8 has no bytes for.
    Path(path).write_bytes(page.encode("utf-8", "replace"))


def _context(results: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    arms, names = arms_of(results), metrics_of(results)
    sentences = verdict(results)
    comparisons = compare(results)
    rivals = list(dict.fromkeys(c.other for c in comparisons))
    seconds = results.get("seconds") or {}
    export = results.get("export")
    return {
        "headline": sentences[0],
        "sentences": sentences[1 + len(rivals) :],
        "tallies": [
            {"other": other, "about": ARMS.get(other, ""), **tally(comparisons, other)} for other in rivals
        ],
        "arms": [{"name": arm, "css": _css(arm), "about": ARMS.get(arm, "")} for arm in arms],
        "panels": [_panel(results, name) for name in names],
        "table": [_table_row(results, name) for name in names],
        "differences": _difference_rows(comparisons, rivals),
        "rivals": rivals,
        "seeds": results.get("seeds") or [0],
        "samples": [_sample(sample, folder) for sample in results.get("samples") or []],
        "curves": [
            {"name": name, "svg": Markup(svg), "last": _last(points)}
            for name, points in (results.get("curves") or {}).items()
            if (svg := charts.line_chart([(float(s), _number(v)) for s, v in points], f"Loss of {name}"))
        ],
        "funnel": _funnel(results.get("funnel")),
        "quarantine": _quarantine(results.get("quarantine")),
        "timings": _bars({name: float(value) for name, value in seconds.items()}, duration),
        "total": duration(sum(map(float, seconds.values()))) if seconds else "",
        "rates": _bars(
            {n: float(v) for n, v in (results.get("tokens_per_second") or {}).items() if v is not None},
            lambda rate: f"{rate:,.0f}",
        ),
        "export": export,
        "logits": _logits(export),
        "machine": results.get("machine") or "",
    }


def _css(arm: str) -> str:
    return f"arm-{arm}" if arm in ARMS else "arm-other"


def _panel(results: Mapping[str, Any], name: str) -> dict[str, Any]:
    spec = metric_of(name)
    chance = (results.get("chance") or {}).get(name)
    best = _best(results, name)
    rows, counts = [], []
    for arm in arms_of(results):
        cell = estimate(results, arm, name)
        if cell is None:
            continue
        runs = [run.get(name) for run in (results.get("by_seed") or {}).get(arm, [])]
        dots = tuple(float(run["mean"]) for run in runs if run) if len(runs) > 1 else ()
        text = spec.value(cell.mean)
        rows.append(charts.Row(arm, _css(arm), cell.mean, cell.low, cell.high, text, arm in best, dots))
        counts.append(f"{cell.n:,} {cell.unit}")
    # A base that never read a comment is many times as surprised: the other arms would fall on one spot.
    values = [row.mean for row in rows]
    log = spec.kind == "ratio" and min(values) > 0 and max(values) > 3 * min(values)
    svg = charts.interval_chart(
        rows,
        spec.tick,
        f"{spec.label}, {spec.detail}: " + ", ".join(f"{row.label} {row.text}" for row in rows),
        chance,
        f"chance {spec.tick(round(chance, 3))}" if chance is not None else "",
        log,
    )
    better = "" if spec.higher is None else "higher is better →" if spec.higher else "← lower is better"
    n = " / ".join(dict.fromkeys(counts))
    detail = f"{spec.detail}, log scale" if log else spec.detail
    return {"label": spec.label, "detail": detail, "better": better, "n": n, "svg": Markup(svg)}


def _table_row(results: Mapping[str, Any], name: str) -> dict[str, Any]:
    spec = metric_of(name)
    chance = (results.get("chance") or {}).get(name)
    best = _best(results, name)
    cells = []
    for arm in arms_of(results):
        cell = estimate(results, arm, name)
        value = spec.value(cell.mean) if cell else "–"
        interval = f"{spec.bound(cell.low)} to {spec.bound(cell.high)}" if cell else ""
        cells.append({"value": value, "interval": interval, "best": arm in best})
    level = spec.value(chance) if chance is not None else "–"
    return {"label": spec.label, "detail": spec.detail, "arrow": spec.arrow, "cells": cells, "chance": level}


def _difference_rows(comparisons: Sequence[Any], rivals: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for name in dict.fromkeys(c.metric for c in comparisons):
        spec = metric_of(name)
        found = {c.other: c for c in comparisons if c.metric == name}
        cells = []
        for other in rivals:
            one = found.get(other)
            if one is None:
                cells.append({"outcome": "none", "value": "–", "interval": ""})
                continue
            d: Estimate | None = one.difference
            value = spec.change(d.mean) if d else "no pairs"
            interval = (
                f"{spec.change(d.low)} to {spec.change(d.high)}" if d else "judged by the two intervals"
            )
            cells.append({"outcome": one.outcome, "value": value, "interval": interval})
        unit = "points" if spec.kind == "share" else spec.detail
        rows.append({"label": spec.label, "unit": unit, "arrow": spec.arrow, "cells": cells})
    return rows


def _sample(sample: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    generated = []
    for arm, text in (sample.get("generated") or {}).items():
        texts = [text] if isinstance(text, str) else list(text or [])
        generated.append({"arm": arm, "css": _css(arm), "texts": [str(t).strip() for t in texts]})
    rate = sample.get("true_like_rate")
    return {
        "title": sample.get("title") or "(no title)",
        "picture": _picture(sample.get("image"), folder),
        "comments": [
            str(c.get("text", "") if isinstance(c, Mapping) else c) for c in sample.get("true_comments") or []
        ],
        "generated": generated,
        "likes": f"{float(rate) * 100:.0f}% liked it" if rate is not None else "",
        "mood": sample.get("mood") or "",
        "topic": sample.get("topic") or "",
    }


def _picture(image: Any, folder: Path) -> str:
    """Returns a data URI, or "" where the picture cannot be read: a lost picture does not cost the report."""
    if not image:
        return ""
    # A relative path starts at the working directory, or, for a workdir that was moved, beside the report.
    found = next((p for p in (Path(image), folder / image) if p.is_file()), None)
    if found is None:
        return ""
    try:
        data = found.read_bytes()
        with Image.open(io.BytesIO(data)) as picture:
            kind = picture.format
            if kind not in ("PNG", "JPEG", "WEBP", "GIF") or len(data) > _PICTURE_BYTES:
                small = picture.convert("RGB")
                small.thumbnail((_PICTURE_PIXELS, _PICTURE_PIXELS))
                buffer = io.BytesIO()
                small.save(buffer, "JPEG", quality=85)
                data, kind = buffer.getvalue(), "JPEG"
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""
    return f"data:image/{str(kind).lower()};base64,{base64.b64encode(data).decode()}"


def _funnel(funnel: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Returns the tables of funnel.json (input_pipeline/behavior/funnel.py): the whole, then each source."""
    if not funnel:
        return []
    if not isinstance(funnel, Mapping):
        funnel = {"steps": funnel}  # the rows alone, as in a data set's summary.json
    tables = [{"title": "all sources", "rows": _funnel_rows(funnel["steps"], funnel.get("reasons") or {})}]
    sources = funnel.get("sources") or {}
    if len(sources) > 1:
        tables += [{"title": str(name), "rows": _funnel_rows(rows, {})} for name, rows in sources.items()]
    return tables


def _funnel_rows(rows: Sequence[Mapping[str, Any]], reasons: Mapping[str, Any]) -> list[dict[str, Any]]:
    out = []
    for row in rows:
        found = (reasons.get(row["step"]) or {}).items()
        why = [f"{reason} ({counts['posts'] or counts['comments']:,})" for reason, counts in found]
        cells = {"step": row["step"], "why": ", ".join(why)}
        for kind in ("posts", "comments"):
            kept, dropped = int(row[f"kept_{kind}"]), int(row[f"dropped_{kind}"])
            read = int(rows[0][f"kept_{kind}"]) or 1
            share = round(100 * kept / read, 1)
            cells[kind] = {"kept": f"{kept:,}", "dropped": f"−{dropped:,}" if dropped else "", "share": share}
        out.append(cells)
    return out


def _quarantine(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    reasons = {str(k): int(v) for k, v in (found.get("by_reason") or {}).items()}
    examples = []
    for example in list(found.get("examples") or [])[:_EXAMPLES]:
        if isinstance(example, Mapping):
            place = [str(example[key]) for key in ("file", "record") if example.get(key)]
            where = example.get("origin") or ":".join(place)
            shown = ("origin", "file", "record", "reason")
            rest = {k: v for k, v in example.items() if k not in shown and v not in (None, "")}
            text = "; ".join(f"{key}: {value}" for key, value in rest.items())
            examples.append(
                {"where": str(where), "reason": str(example.get("reason", "")), "text": _cut(text)}
            )
        else:
            examples.append({"where": "", "reason": "", "text": _cut(str(example))})
    ordered = dict(sorted(reasons.items(), key=lambda item: -item[1]))
    return {
        "count": int(found.get("count", sum(reasons.values()))),
        "reasons": _bars(ordered, lambda count: f"{count:,.0f}"),
        "examples": examples,
    }


def _cut(text: str, most: int = 300) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _bars(values: Mapping[str, float], show: charts.Format) -> list[dict[str, Any]]:
    largest = max(values.values(), default=0) or 1
    return [
        {"name": name.replace("_", " "), "text": show(value), "share": round(100 * value / largest, 1)}
        for name, value in values.items()
    ]


def duration(seconds: float) -> str:
    """Returns seconds in words a person reads: 0.4 s, 12 s, 3 min 5 s, 2 h 7 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _last(points: Sequence[Sequence[Any]]) -> str:
    finite = [(step, float(v)) for step, v in points if v is not None and math.isfinite(float(v))]
    return f"{finite[-1][1]:.3f} at step {finite[-1][0]:,}" if finite else ""


def _logits(export: Mapping[str, Any] | None) -> str:
    value = (export or {}).get("max_logit_difference")
    return "" if value is None else f"{float(value):.1e}"
