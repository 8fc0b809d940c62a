"""What a run of `prepare` tells: the funnel's table, every rejected record, and when to stop."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from input_pipeline.behavior import funnel
from input_pipeline.behavior.tally import Tally

BOOKS = ("quarantine.jsonl", "dropped.jsonl")

_FEW = 20  # a single file is judged by its own share of bad records from this many on


def check(tally: Tally, max_bad_fraction: float) -> str:
    """Returns '' or why the run must stop: too much is bad, a file gives nothing, or no post is left."""
    table = funnel.table(tally)
    if problem := _too_bad(tally, max_bad_fraction) or _all_lost(tally):
        return problem
    if not tally.splits and table["steps"][0]["kept_posts"] == 0:
        causes: Counter[str] = Counter()
        for kinds in tally.rejected.values():
            for reasons in kinds.values():
                causes.update(reasons)
        return f"nothing is left of {sum(tally.records.values())} records: {_common(causes)}"
    if table["steps"][0]["kept_posts"] and not table["steps"][-1]["kept_posts"]:
        dropped: Counter[str] = Counter()
        for reasons in table["reasons"].values():
            for reason, counts in reasons.items():
                dropped[reason] += counts["posts"]
        return f"none of {table['steps'][0]['kept_posts']} posts is left: {_common(+dropped)}"
    return ""


def _too_bad(tally: Tally, limit: float) -> str:
    """Returns '' or what is wrong: too large a share of bad records in all files or in one."""
    bad = {file: sum(kinds.get("bad", {}).values()) for file, kinds in tally.rejected.items()}
    total, count = sum(tally.records.values()), sum(bad.values())
    size = {file: max(tally.records.get(file, 0), 1) for file in bad}
    worst = max(bad, key=lambda file: bad[file] / size[file], default="")
    files: Iterable[str] = bad
    where = ""
    if not (total and count > limit * total):
        over = [file for file in bad if bad[file] >= _FEW and bad[file] > limit * size[file]]
        if not over:
            return ""
        worst = max(over, key=lambda file: bad[file])
        count, total, where, files = bad[worst], size[worst], f" of {worst}", [worst]
    reasons: Counter[str] = Counter()
    for file in files:
        reasons.update(tally.rejected[file].get("bad", {}))
    return (
        f"{count} of {total} records{where} are bad, more than max_bad_fraction={limit:g} allows: "
        f"{_common(reasons)}" + ("" if where else f"; worst file: {worst}")
    )


def _all_lost(tally: Tally) -> str:
    """Returns '' or of which kind of input no record at all can be used: its media folder is likely the wrong one.

    Single files may well be lost whole, such as one saved page of an API.
    """
    for kind in sorted(set(tally.kinds.values())):
        files = sorted(file for file, of in tally.kinds.items() if of == kind)
        reasons: Counter[str] = Counter()
        for file in files:
            for how, found in tally.rejected.get(file, {}).items():
                if how != "skipped":
                    reasons.update(found)
        count = sum(tally.records[file] for file in files)
        if reasons.total() >= count > 0:
            more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
            return f"none of the {count} records of {files[0]}{more} can be used: {_common(reasons)}"
    return ""


def _common(reasons: Counter[str]) -> str:
    listed = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common(3))
    return listed or "the files are empty"


def summary(tally: Tally, quarantine: Path) -> dict[str, Any]:
    """The run in numbers: see `prepare`."""
    kinds: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for found in tally.rejected.values():
        for kind, by_reason in found.items():
            kinds[kind] += sum(by_reason.values())
            reasons.update(by_reason)
    table = funnel.table(tally)
    warnings = []
    posts = table["steps"][0]["kept_posts"]
    if posts and tally.gone_posts > 0.5 * posts:
        warnings.append(f"the media of {tally.gone_posts} of {posts} posts is gone")
    with quarantine.open(encoding="utf-8") as file:
        examples = [json.loads(line) for line in itertools.islice(file, 10)]
    return {
        "read": sum(tally.records.values()),
        "passed": dict(tally.passed),
        **({"films": dict(tally.films)} if tally.films else {}),
        "bad": kinds["bad"],
        "gone": kinds["gone"],
        "skipped": kinds["skipped"],
        "quarantine": {
            "count": kinds.total(),
            "by_reason": dict(reasons.most_common()),
            "examples": examples,
        },
        "files": tally.records,
        "funnel": table,
        "warnings": warnings,
    }


def text(found: Mapping[str, Any], out_dir: Path) -> str:
    """The summary in a few lines for a terminal."""
    first, last = found["funnel"]["steps"][0], found["funnel"]["steps"][-1]
    lines = [f"{name:<22}{count:>9} records" for name, count in found["splits"].items()]
    if first["kept_posts"]:
        counts = [
            f"{last[f'kept_{what}']} of {first[f'kept_{what}']} {what}" for what in ("posts", "comments")
        ]
        lines.append(f"kept {' and '.join(counts)}; by step, with samples: {out_dir / 'funnel.html'}")
    if "told_scenes" in found:
        lines.append(f"{found['told_scenes']} posts were given scenes in words")
    for what, count in found.get("films", {}).items():
        lines.append(f"{count} times: {what}")
    for reason, count in found["passed"].items():
        lines.append(f"passed over {count} records {reason}")
    lines.append(
        f"of {found['read']} records {found['bad']} are bad and {found['gone']} have lost their media; "
        f"each one: {out_dir / 'quarantine.jsonl'}"
    )
    return "\n".join([*lines, *(f"warning: {warning}" for warning in found["warnings"])])


def concatenate(parts: Iterable[Path], whole: Path) -> None:
    """Writes files one after another into one."""
    with whole.open("wb") as out:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, out, 2**20)


def beside(out_dir: Path, name: str) -> Path:
    """Where a book of a run that was stopped is left."""
    return out_dir.with_name(f"{out_dir.name}.{name}")


def missing_splits(lengths: Mapping[str, int]) -> list[str]:
    """Returns a warning for each train or held-out split whose other half alone has records."""
    names = {name.rpartition("_")[0] for name in lengths}
    wanted = [f"{name}_{part}" for name in sorted(names) for part in ("train", "heldout")]
    return [f"split {name} is empty and was not written" for name in wanted if name not in lengths]


def missing_scenes(tally: Tally, path: str, by: str) -> list[str]:
    """Returns a warning where no post has got scenes from the file that was named."""
    if tally.told_scenes or not tally.read:
        return []
    other = "; scenes_by='name' goes by file names" if by == "sha256" else ""
    return [f"no post's medium is in {path} by its {by}: none was given scenes{other}"]


def stop(problem: str, work: Path, out_dir: Path) -> str:
    """Leaves the books of a run that ends without data beside `out_dir`; returns the problem and where they are."""
    left = []
    for name in BOOKS:
        path = beside(out_dir, name)
        shutil.copyfile(work / name, path)
        if path.stat().st_size:
            left.append(str(path))
    return f"{problem}; each one is in {' and '.join(left)}" if left else problem
