"""What a run of `prepare` tells: the funnel's table, every rejected record, and when to stop."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from input_pipeline.behavior import funnel
from input_pipeline.behavior.clean import Drop
from input_pipeline.errors import UserError
from input_pipeline.sources.rejected import Rejected

_FEW = 20  # a single file is judged by its own share of bad records from this many on


def read_lines(path: Path) -> Iterator[Any]:
    """Yields the JSON values of a file of lines; a file that is not there has none."""
    if path.exists():
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


def write(build: Path, out_dir: Path, max_bad_fraction: float) -> dict[str, Any]:
    """Writes funnel.json, quarantine.jsonl and dropped.jsonl from the pipeline's lines; returns their sums.

    Raises:
        UserError: too much is bad, a file gives nothing, or no post is left. The quarantine then lies beside
            `out_dir`.
    """
    lines = build / "lines"
    rejected = [Rejected(**row) for row in read_lines(lines / "rejected.jsonl")]
    totals = {row["file"]: row["records"] for row in read_lines(lines / "counts.jsonl")}
    table = funnel.table(
        (funnel.Read(**row) for row in read_lines(lines / "read.jsonl")),
        (Drop(**row) for row in read_lines(lines / "drops.jsonl")),
    )
    (build / "funnel.json").write_text(json.dumps(table, indent=1))
    _write_quarantine(build / "quarantine.jsonl", rejected)
    if (lines / "drops.jsonl").exists():
        shutil.copyfile(lines / "drops.jsonl", build / "dropped.jsonl")
    else:
        (build / "dropped.jsonl").touch()

    bad = [item for item in rejected if item.kind == "bad"]
    problem = _too_bad(bad, totals, max_bad_fraction) or _all_lost(rejected, totals)
    if not problem and not any(lines.glob("spec.*.jsonl")):
        problem = f"nothing is left of {sum(totals.values())} records: {_common(_causes(table, rejected))}"
    elif not problem and table["steps"][0]["kept_posts"] and not table["steps"][-1]["kept_posts"]:
        posts = table["steps"][0]["kept_posts"]
        problem = f"none of {posts} posts is left: {_common(_causes(table, []))}"
    if problem:
        path = quarantine_beside(out_dir)
        shutil.copyfile(build / "quarantine.jsonl", path)
        raise UserError(f"{problem}; each one is in {path}")

    kinds = Counter(item.kind for item in rejected)
    summary: dict[str, Any] = {
        "read": sum(totals.values()),
        "bad": kinds["bad"],
        "gone": kinds["gone"],
        "skipped": kinds["skipped"],
        "quarantine": {
            "count": len(rejected),
            "by_reason": dict(Counter(item.reason for item in rejected).most_common()),
            "examples": [_quarantine_row(item) for item in rejected[:10]],
        },
        "files": totals,
        "funnel": table,
        "warnings": [],
    }
    posts = table["steps"][0]["kept_posts"]
    gone = sum(item.kind == "gone" and bool(item.source) for item in rejected)
    if posts and gone > 0.5 * posts:
        summary["warnings"].append(f"the media of {gone} of {posts} posts is gone")
    return summary


def _too_bad(bad: list[Rejected], totals: dict[str, int], limit: float) -> str:
    """Returns '' or what is wrong: too large a share of bad records in all files or in one."""
    total = sum(totals.values())
    by_file = Counter(item.file for item in bad)
    worst = max(by_file, key=lambda f: by_file[f] / max(totals.get(f, 1), 1), default="")
    count, size, where, found = len(bad), total, "", bad
    if not (total and len(bad) > limit * total):
        over = [f for f in by_file if by_file[f] >= _FEW and by_file[f] > limit * totals.get(f, 1)]
        if not over:
            return ""
        worst = max(over, key=lambda f: by_file[f])
        count, size, where = by_file[worst], totals.get(worst, 1), f" of {worst}"
        found = [item for item in bad if item.file == worst]
    reasons = _common(Counter(f"{item.reason} ({item.stage})" for item in found))
    return (
        f"{count} of {size} records{where} are bad, more than max_bad_fraction={limit:g} allows: {reasons}"
        + ("" if where else f"; worst file: {worst}")
    )


def _all_lost(rejected: list[Rejected], totals: dict[str, int]) -> str:
    """Returns '' or which file gave no usable record at all: its media folder is likely the wrong one."""
    lost = Counter(item.file for item in rejected if item.kind != "skipped")
    for file, count in sorted(lost.items()):
        # A video is a file of its own; of those, some may well be gone.
        if count >= totals.get(file, 0) > 0 and not file.endswith(".info.json"):
            reasons = Counter(item.reason for item in rejected if item.file == file)
            return f"none of the {count} records of {file} can be used: {_common(reasons)}"
    return ""


def _causes(table: dict[str, Any], rejected: list[Rejected]) -> Counter[str]:
    causes = Counter(item.reason for item in rejected if not item.source)
    for reasons in table["reasons"].values():
        for reason, counts in reasons.items():
            causes[reason] += counts["posts"]
    return +causes


def _common(reasons: Counter[str]) -> str:
    listed = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common(3))
    return listed or "the files are empty"


def _write_quarantine(path: Path, rejected: list[Rejected]) -> None:
    rows = map(_quarantine_row, rejected)
    with path.open("w", encoding="utf-8") as file:
        for row in sorted(rows, key=lambda row: (row["file"], row["record"])):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _quarantine_row(item: Rejected) -> dict[str, Any]:
    line = item.origin.rpartition(":")[2]
    return {
        "file": item.file,
        "record": int(line) if line.isdigit() else 0,
        "id": item.id,
        "stage": item.stage,
        "kind": item.kind,
        "reason": item.reason,
    }


def text(summary: Mapping[str, Any], out_dir: Path) -> str:
    """The summary in a few lines for a terminal."""
    first, last = summary["funnel"]["steps"][0], summary["funnel"]["steps"][-1]
    lines = [f"{name:<22}{count:>9} records" for name, count in summary["splits"].items()]
    if first["kept_posts"]:
        counts = [
            f"{last[f'kept_{what}']} of {first[f'kept_{what}']} {what}" for what in ("posts", "comments")
        ]
        lines.append(f"kept {' and '.join(counts)}; by step: {out_dir / 'funnel.json'}")
    lines.append(
        f"of {summary['read']} records {summary['bad']} are bad and {summary['gone']} have lost their media; "
        f"each one: {out_dir / 'quarantine.jsonl'}"
    )
    return "\n".join([*lines, *(f"warning: {warning}" for warning in summary["warnings"])])


def quarantine_beside(out_dir: Path) -> Path:
    """Where the quarantine of a run that was stopped is left."""
    return out_dir.with_name(out_dir.name + ".quarantine.jsonl")


def missing_splits(lengths: Mapping[str, int]) -> list[str]:
    """Returns a warning for each train or held-out split whose other half alone has records."""
    names = {name.rpartition("_")[0] for name in lengths}
    wanted = [f"{name}_{part}" for name in sorted(names) for part in ("train", "heldout")]
    return [f"split {name} is empty and was not written" for name in wanted if name not in lengths]
