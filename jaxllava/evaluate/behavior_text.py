"""What `jaxllava evaluate` prints of its results: tables, and plain sentences on what is shown and what is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxllava.evaluate import behavior_posts
from jaxllava.evaluate.comparison import METRICS, compare, metric_of, verdict

_MANY = 10  # comparisons from which it is said that some come out by chance


def text(results: Mapping[str, Any]) -> str:
    """Tables, sentences, and what was left out."""
    names = list(results["checkpoints"])
    found = results["records"]
    sources = ", ".join(f"{count} {source}" for source, count in found["sources"].items())
    whole = {name: results["checkpoints"][name]["figures"] for name in names}
    blocks = [
        f"{found['posts']} held-out posts of {found['folder']} ({sources}); value [95 % interval over posts]",
        _table(whole),
    ]
    if len(found["sources"]) > 1:
        for source, count in found["sources"].items():
            figures = {name: results["checkpoints"][name]["sources"][source] for name in names}
            blocks += [f"{source}: {count} posts", _table(figures)]
    notes = _notes(results)
    blocks.append("\n".join(f"- {sentence}" for sentence in [*results["sentences"], *notes]))
    return "\n\n".join(block for block in blocks if block)


def _table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Measures by checkpoints."""
    names = [name for name in METRICS if any(name in own for own in figures.values())]
    lines = [["", *figures, "n"]]
    for name in names:
        spec = metric_of(name)
        cells = [own.get(name) for own in figures.values()]
        counts = sorted({cell["n"] for cell in cells if cell and "n" in cell})
        label = f"{spec.label}, {spec.detail} {spec.arrow}".strip()
        lines.append(
            [label, *(_cell(name, cell) for cell in cells), "-".join(map(str, counts[:1] + counts[1:][-1:]))]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            part.ljust(width) if column == 0 else part.rjust(width)
            for column, (part, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cell(name: str, figure: Mapping[str, Any] | None) -> str:
    if figure is None or "mean" not in figure:
        return "-"
    spec = metric_of(name)
    if figure["low"] is None:
        return f"{spec.value(figure['mean'])} [-]"
    return f"{spec.value(figure['mean'])} [{spec.bound(figure['low'])}, {spec.bound(figure['high'])}]"


def _whole(figure: Mapping[str, Any] | None) -> bool:
    return bool(figure) and figure.get("low") is not None  # type: ignore[union-attr]


def sentences(results: Mapping[str, Any]) -> list[str]:
    """What the first checkpoint is shown to do better or worse than the others, by paired intervals alone."""
    first = results["compared"]
    if len(results["checkpoints"]) < 2:
        return ["One checkpoint: nothing is compared. Give controls as well (--checkpoint NAME=DIR again)."]
    arms = {
        name: {measure: figure for measure, figure in one["figures"].items() if _whole(figure)}
        for name, one in results["checkpoints"].items()
    }
    paired = {}
    skipped: dict[str, list[str]] = {}
    for other, found in results["differences"].items():
        paired[other] = {measure: figure for measure, figure in found.items() if _whole(figure)}
        # Two intervals of their own would say less than pairs, and of two tokenizers nothing.
        arms[other] = {m: figure for m, figure in arms[other].items() if m in paired[other]}
        for measure, figure in found.items():
            if "note" in figure:
                skipped.setdefault(f"{other}: {figure['note']}", []).append(_named(measure))
    judged = {"treated": first, "arms": arms, "differences": paired, "chance": results["chance"]}
    out = verdict(judged)
    count = len(compare(judged))
    if count >= _MANY:
        out.append(f"{count} comparisons at 95 % each: chance alone would decide about one in twenty.")
    out += [f"Not compared with {why}: {', '.join(names)}." for why, names in skipped.items()]
    return out


def _named(measure: str) -> str:
    spec = metric_of(measure)
    return f"{spec.label} ({spec.detail})"


def _notes(results: Mapping[str, Any]) -> list[str]:
    """What was left out, and why figures are missing."""
    out = []
    if problems := results["records"]["left_out"]:
        out.append(f"Passed over among the held-out posts: {behavior_posts.told(problems)}.")
    one_post = False
    for name, checkpoint in results["checkpoints"].items():
        said: dict[str, list[str]] = {}
        for kind, verb in (("left_out", "not scored"), ("remarks", "scored, but")):
            for measure, problems in checkpoint[kind].items():
                said.setdefault(f"{verb}: {behavior_posts.told(problems)}", []).append(_named(measure))
        out += [f"{name}: {', '.join(measures)}: {why}." for why, measures in said.items()]
        notes: dict[str, list[str]] = {}
        for measure, figure in checkpoint["figures"].items():
            if "note" in figure:
                notes.setdefault(figure["note"], []).append(_named(measure))
            one_post |= figure.get("low", 0) is None
        out += [f"{name}: no {', '.join(measures)}: {why}." for why, measures in notes.items()]
    if one_post:
        out.append("[-]: one post shows no spread, so there is no interval; use more posts.")
    return out
