"""Prepares a data set: raw files -> readers -> funnel -> templates and controls -> records on disk, by Beam.

The folder it writes appears whole or not at all:

    records/          the TFDS data set (read it with `input_pipeline.records`)
    funnel.json       the cleaning funnel, step by step, as the paper's table
    funnel.html       the same to look at, with samples of what each step took out
    quarantine.jsonl  every rejected record: file, record, id, stage, kind, reason
    dropped.jsonl     every post and comment that a rule of the funnel took out, and the rule
    summary.json      splits, counts and what this was made from

While it works, everything lies in a folder beside it, `.<name>.partial-<fingerprint>`. A run that was stopped,
however hard, leaves that folder, and the same command goes on from it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from input_pipeline import inputs, recipe, records
from input_pipeline.behavior import (
    arms,
    evaluation_set,
    films,
    funnel_page,
    report,
    stages,
    tally,
    told_scenes,
)
from input_pipeline.behavior.engine import Engine
from input_pipeline.behavior.job import Job, tallies
from input_pipeline.behavior.tally import Tally
from input_pipeline.errors import UserError

Progress = Callable[[int, int, str], None]


class Halted(UserError):
    """The run was stopped by a full disk or bad input: what is done is kept, and the same command goes on from it."""


_POLL = 0.2  # seconds between two looks at how many tasks are done
_NOTES = {
    "scatter": "reading",
    "join": "joining posts with comments, looking at media",
    "repeats": "finding repeated pictures",
    "clean": "cleaning comments",
    "write": "writing records",
}


def prepare(
    config: ConfigDict | Mapping[str, Any],
    out_dir: str | Path,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes the data set that `config` (see configs/prepare.py) describes and returns its summary.

    Where `out_dir` already holds what this config and these input files (by size and time of change) make, it
    returns at once. What is written is a function of the config and the files, not of workers or restarts.

    Args:
        config: the recipe.
        out_dir: a folder that does not exist, is empty, or was written by `prepare`.
        progress: called as progress(done, total, note); done and total count tasks.
        overwrite: replace what an earlier run with another config or input wrote to `out_dir`.

    Returns:
        {"summary": a few lines to print, "splits": {name: records}, "read": n, "bad": n, "gone": n,
        "skipped": n, "passed": {reason: n}, "quarantine": {"count", "by_reason", "examples"}, "funnel": what
        funnel.json holds, "warnings": [...], "seconds": s, "fingerprint": hex, "reused": bool}.

    Raises:
        UserError: a mistake in the config or paths; more bad records than `max_bad_fraction`; nothing left.
    """
    tell = progress or (lambda done, total, note: None)
    started = time.monotonic()
    out_dir = Path(out_dir)
    settings = recipe.plain(config)
    rules, chosen = recipe.check(settings)
    found = inputs.list_all(settings)
    fingerprint = recipe.fingerprint_of(settings, found)
    if (done := _finished(out_dir, fingerprint, overwrite)) is not None:
        tell(1, 1, "up to date")
        return {**done, "reused": True}

    beam = settings["beam"]
    engine = Engine(beam.get("runner", ""), tuple(beam.get("flags", ())), beam.get("workers", 1))
    with _work_folder(out_dir, fingerprint) as work:
        began = time.time()
        tell(0, 1, "listing media")
        found = recipe.with_libraries(found, work)
        job = Job(
            str(work.resolve()),
            recipe.count_buckets(found),
            rules,
            chosen,
            settings["heldout_fraction"],
            settings["seed"],
            recipe.version_of(settings),
            settings["max_image_side"],
            films.from_config(settings["video"]),
        )
        if settings["scenes"] and not job.told_scenes().exists():
            told_scenes.build(settings["scenes"], settings["scenes_by"], job.told_scenes())
        tasks = _tasks(job, found)
        all_told = _run(job, engine, tasks, tell)
        quarantine, dropped = work / "quarantine.jsonl", work / "dropped.jsonl"
        for suffix, whole in ((tally.REJECTED, quarantine), (tally.DROPS, dropped)):
            parts = (
                f"{job.base(stage, n)}{suffix}" for stage, some in tasks.items() for n in range(len(some))
            )
            report.concatenate(map(Path, parts), whole)
        if problem := report.check(all_told, settings["max_bad_fraction"]):
            raise Halted(report.stop(problem, work, out_dir))

        build = work / "out"
        shutil.rmtree(build, ignore_errors=True)
        build.mkdir()
        lengths = records.finish(_shards(job), build / "records")
        told = report.summary(all_told, quarantine)
        told["warnings"] += evaluation_set.warnings(job.evaluation(), rules) + report.missing_splits(lengths)
        if settings["scenes"]:
            told["told_scenes"] = all_told.told_scenes
            told["warnings"] += report.missing_scenes(all_told, settings["scenes"], settings["scenes_by"])
        summary = {
            "splits": lengths,
            **told,
            "seconds": round(time.monotonic() - started, 2),
            "stage_seconds": _stage_seconds(job, tasks, began),
            "fingerprint": fingerprint,
            "arms": arms.to_json(chosen),
            "config": settings,
        }
        summary["summary"] = report.text(summary, out_dir)
        (build / "funnel.json").write_text(json.dumps(told["funnel"], indent=1))
        (build / "funnel.html").write_text(funnel_page.render(summary, all_told), encoding="utf-8")
        (build / "summary.json").write_text(json.dumps(summary, indent=1))
        quarantine.rename(build / quarantine.name)
        dropped.rename(build / dropped.name)
        if out_dir.exists():
            shutil.rmtree(out_dir)
        build.rename(out_dir)
        for name in report.BOOKS:
            report.beside(out_dir, name).unlink(missing_ok=True)
        tell(1, 1, "")
    return {**summary, "reused": False}


def _tasks(job: Job, found: Sequence[inputs.Input]) -> dict[str, Sequence[Any]]:
    """The tasks of each stage, numbered from 0."""
    buckets = range(job.buckets)
    files = [(number, (item,)) for number, item in enumerate(found)]
    return {"scatter": files, "join": buckets, "repeats": [0], "clean": buckets, "write": buckets}


def _run(job: Job, engine: Engine, tasks: Mapping[str, Sequence[Any]], tell: Progress) -> Tally:
    """Runs all stages and returns the sum of their tallies."""
    work = Path(job.work)
    failure = job.failure()
    for left in (failure, failure.with_suffix(".traceback")):
        left.unlink(missing_ok=True)
    for stage in tasks:
        (work / stage).mkdir(exist_ok=True)
    if (job.rules.evaluation_ids or job.rules.evaluation_images) and not job.evaluation().exists():
        tell(0, 1, "reading evaluation sets")
        evaluation_set.write(job.evaluation(), job.rules)
    with _watched(work, {stage: len(some) for stage, some in tasks.items()}, tell):
        engine.run(
            [(stage, functools.partial(stages.run, job, stage), some) for stage, some in tasks.items()],
            work / "workers.log",
        )
    if failure.exists():
        outside = failure.with_suffix(".traceback").exists()
        raise (Halted if outside else UserError)(failure.read_text())
    result = Tally()
    for stage, some in tasks.items():
        result.add(tally.total(tallies(job, stage, len(some))))
    return result


@contextlib.contextmanager
def _watched(work: Path, counts: Mapping[str, int], tell: Progress) -> Iterator[None]:
    """Tells how many tasks are done while they run, wherever that is."""
    stopped = threading.Event()
    total = sum(counts.values())

    def look() -> None:
        before = 0
        for stage, count in counts.items():
            done = sum(1 for _ in (work / stage).glob(f"*{tally.TALLY}"))
            if done < count:
                tell(before + done, total, _NOTES[stage])
                return
            before += count

    def watch() -> None:
        while not stopped.wait(_POLL):
            look()

    look()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _stage_seconds(job: Job, tasks: Mapping[str, Sequence[Any]], began: float) -> dict[str, float]:
    """Seconds between the ends of the stages; of little meaning where a run went on from an earlier one."""
    found = {}
    for stage, some in tasks.items():
        ended = max(Path(f"{job.base(stage, n)}{tally.TALLY}").stat().st_mtime for n in range(len(some)))
        found[stage], began = round(max(ended - began, 0.0), 2), ended
    return found


def _shards(job: Job) -> dict[str, list[tuple[Path, int, int]]]:
    """The shards of every split, in order of the buckets."""
    found: dict[str, list[tuple[Path, int, int]]] = {}
    for bucket, counts in enumerate(tallies(job, "write", job.buckets)):
        base = job.base("write", bucket)
        for split, (count, size) in counts.splits.items():
            found.setdefault(split, []).append((base.with_name(f"{split}.{base.name}"), count, size))
    return found


# --- folders -----------------------------------------------------------------------------------------------


def _finished(out_dir: Path, fingerprint: str, overwrite: bool) -> dict[str, Any] | None:
    """Returns the summary of a finished run with this fingerprint; UserError where `out_dir` holds other
    things.
    """
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return None
    summary = out_dir / "summary.json"
    if not (summary.is_file() and (out_dir / "records").is_dir()):
        raise UserError(f"{out_dir}: exists and was not written by prepare; give another folder")
    done = json.loads(summary.read_text())
    if done.get("fingerprint") == fingerprint:
        return done
    if overwrite:
        return None
    raise UserError(
        f"{out_dir}: holds data of another config or other input files; delete it or give another folder"
    )


@contextlib.contextmanager
def _work_folder(out_dir: Path, fingerprint: str) -> Iterator[Path]:
    """The folder to work in, locked. It stays where the run is interrupted, and goes with any other end.

    What runs with another config or other files have left is removed.
    """
    prefix = f".{out_dir.name}.partial-"
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    work = out_dir.with_name(prefix + fingerprint[:16])
    for stale in out_dir.parent.glob(f"{prefix}*"):
        if stale != work and _lock(stale) is not None:
            shutil.rmtree(stale, ignore_errors=True)
    work.mkdir(exist_ok=True)
    lock = _lock(work)
    if lock is None:
        raise UserError(f"{out_dir}: another run is writing it; wait for its end")
    try:
        yield work
        shutil.rmtree(work, ignore_errors=True)
    except Halted:
        raise
    except UserError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    finally:
        lock.close()


def _lock(folder: Path) -> Any:
    """Locks a folder until the returned file is closed; None where another process has it."""
    file = (folder / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
