"""Prepares a data set: raw files -> readers -> funnel -> templates and controls -> records on disk, by Beam.

The folder it writes appears whole or not at all:

    records/          the TFDS data set (read it with `input_pipeline.records`)
    funnel.json       the cleaning funnel, step by step, as the paper's table
    quarantine.jsonl  every rejected record: file, record, id, stage, kind, reason
    dropped.jsonl     every post and comment that a rule of the funnel took out, and the rule
    summary.json      splits, counts and what this was made from
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from input_pipeline import recipe, records
from input_pipeline.behavior import funnel, report, samples, templates
from input_pipeline.behavior.clean import Rules
from input_pipeline.behavior.controls import is_heldout
from input_pipeline.behavior.engine import Engine, PCollection, TaggedOutput, beam
from input_pipeline.errors import UserError
from input_pipeline.images import ImageError, open_image
from input_pipeline.sources import llava_json, media, reddit, text, youtube
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Post


def prepare(
    config: ConfigDict | Mapping[str, Any],
    out_dir: str | Path,
    progress: Callable[[int, int, str], None] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes the data set that `config` (see configs/prepare.py) describes and returns its summary.

    An interrupted run leaves nothing that looks finished. Where `out_dir` already holds what this config and
    these input files (by size and time of change) make, it returns at once.

    Args:
        config: the recipe.
        out_dir: a folder that does not exist, is empty, or was written by `prepare`.
        progress: called as progress(done, total, note) as each stage begins.
        overwrite: replace what an earlier run with another config or input wrote to `out_dir`.

    Returns:
        {"summary": a few lines to print, "splits": {name: records}, "read": n, "bad": n, "gone": n,
        "skipped": n, "quarantine": {"count", "by_reason", "examples"}, "funnel": what funnel.json holds,
        "warnings": [...], "seconds": s, "fingerprint": hex, "reused": bool}.

    Raises:
        UserError: a mistake in the config or paths; more bad records than `max_bad_fraction`; nothing left.
    """
    tell = progress or (lambda done, total, note: None)
    started = time.monotonic()
    out_dir = Path(out_dir)
    media.forget()  # folders may have changed since the last run of this process
    _is_readable.cache_clear()
    settings = recipe.plain(config)
    rules = recipe.check(settings)
    inputs = recipe.list_inputs(settings)
    fingerprint = recipe.fingerprint_of(settings, inputs)
    if (done := _finished(out_dir, fingerprint, overwrite)) is not None:
        tell(4, 4, "up to date")
        return {**done, "reused": True}

    build = _new_build_folder(out_dir)
    try:
        engine = Engine(settings["beam"].get("runner", ""), tuple(settings["beam"].get("flags", ())))
        tell(0, 4, f"reading and cleaning {len(inputs)} files")
        with beam.Pipeline(runner=engine.instance(), options=engine.options()) as pipeline:
            _lines(pipeline, inputs, settings, rules, str(build / "lines"))
        found = report.write(build, out_dir, settings["max_bad_fraction"])
        specs = sorted((build / "lines").glob("spec.*.jsonl"))
        tell(2, 4, f"writing {len(specs)} splits")
        generators = {_split_name(path): _FromSpecs(str(path)) for path in specs}
        lengths = records.write(generators, build / "records", engine)
        shutil.rmtree(build / "lines")
        summary = {
            "splits": lengths,
            **found,
            "warnings": found["warnings"] + report.missing_splits(lengths),
            "seconds": round(time.monotonic() - started, 2),
            "fingerprint": fingerprint,
            "config": settings,
        }
        summary["summary"] = report.text(summary, out_dir)
        (build / "summary.json").write_text(json.dumps(summary, indent=1))
        if out_dir.exists():
            shutil.rmtree(out_dir)
        build.rename(out_dir)
        report.quarantine_beside(out_dir).unlink(missing_ok=True)
        tell(4, 4, "")
    finally:
        shutil.rmtree(build, ignore_errors=True)
    return {**summary, "reused": False}


# --- the pipeline ------------------------------------------------------------------------------------------


def _lines(
    pipeline: beam.Pipeline, inputs: list[recipe.Input], settings: dict[str, Any], rules: Rules, folder: str
) -> None:
    """Builds the pipeline that ends in files of lines: spec.<split>, drops, rejected, read, counts."""
    read = (
        pipeline
        | "Inputs" >> beam.Create(inputs, reshuffle=False)
        | "Read"
        >> beam.ParDo(_ReadFile()).with_outputs(
            "posts", "comments", "gone", "rejected", "counts", main="specs"
        )
    )
    posts, drops, unreadable, counts = funnel.clean_posts(read.posts, read.gone, read.comments, rules)
    template = templates.get(settings["template"])
    fraction = settings["heldout_fraction"]
    arms = set(settings["arms"])
    lines = [
        read.specs
        | "Split" >> beam.MapTuple(lambda name, key, spec: (_spec_file(name, key, fraction), _json(spec))),
        drops | "Drop lines" >> beam.Map(lambda drop: ("drops", _json(asdict(drop)))),
        (read.rejected, unreadable)
        | "All rejected" >> beam.Flatten()
        | "Rejected lines" >> beam.Map(lambda item: ("rejected", _json(asdict(item)))),
        counts | "Read lines" >> beam.Map(lambda count: ("read", _json(asdict(count)))),
        read.counts | "Count lines" >> beam.Map(lambda count: ("counts", _json(count))),
    ]
    for name, make in (("behavior", samples.behavior), ("ad", samples.ad)):
        if name in arms:
            lines.append(
                posts
                | name
                >> beam.Map(
                    lambda post, n, m: (_spec_file(n, post.id, fraction), _json(m(post, template))),
                    name,
                    make,
                )
            )
    if "shuffled" in arms:
        lines.append(
            posts
            | "Deal key"
            >> beam.Map(lambda post: ((post.source, _spec_file("shuffled", post.id, fraction)), post))
            | "Deal groups" >> beam.GroupByKey()
            | "Deal"
            >> beam.FlatMapTuple(
                lambda key, group: [
                    (key[1], _json(s)) for s in samples.shuffled(group, template, settings["seed"])
                ]
            )
        )
    _ = (
        lines
        | "Lines" >> beam.Flatten()
        | "Files" >> beam.GroupByKey()
        | "Write" >> beam.MapTuple(lambda name, group: _write_lines(folder, name, group))
    )


class _ReadFile(beam.DoFn):
    """Input -> its records, by kind, on tagged outputs."""

    def process(self, item: recipe.Input) -> Iterator[Any]:
        total = 0
        for result in _read(item):
            total += 1
            if isinstance(result, Rejected):
                yield TaggedOutput("rejected", result)
                if result.kind == "gone" and result.source:
                    yield TaggedOutput("gone", result)  # so that its comments are counted with it
            elif isinstance(result, Post):
                yield TaggedOutput("posts", result)
            elif isinstance(result, llava_json.Sample):
                reason = next(filter(None, map(_is_readable, result.images)), "")
                if reason:
                    yield TaggedOutput("rejected", Rejected(result.origin, result.id, "image", reason))
                else:
                    key = f"{item.number}:{result.origin.rpartition(':')[2]}"
                    yield item.kind, result.split_key, samples.conversation(result, item.kind, key)
            elif isinstance(result, text.Document):
                key = f"{item.number}:{result.origin.rpartition(':')[2]}"
                yield item.kind, result.id, samples.document(result, key)
            else:
                post_id, comment = result
                yield TaggedOutput("comments", (funnel.key_of("reddit", post_id), comment))
        yield TaggedOutput("counts", {"file": item.path, "kind": item.kind, "records": total})


def _read(item: recipe.Input) -> Iterable[Any]:
    if item.kind == "reddit_posts":
        return reddit.read_submissions(item.path, item.folder)
    if item.kind == "reddit_comments":
        return reddit.read_comments(item.path)
    if item.kind == "youtube":
        return [youtube.read_video(item.path)]
    if item.kind == "text":
        return text.read(item.path)
    return llava_json.read(item.path, item.folder)


@functools.lru_cache(maxsize=1 << 16)  # an image has several conversations
def _is_readable(path: str) -> str:
    """Returns '' or why the image cannot be read."""
    try:
        open_image(path)
    except ImageError as error:
        return error.reason
    return ""


def _spec_file(name: str, key: str, heldout_fraction: float) -> str:
    return f"spec.{name}_{'heldout' if is_heldout(key, heldout_fraction) else 'train'}"


def _split_name(path: Path) -> str:
    return path.name.removeprefix("spec.").removesuffix(".jsonl")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _write_lines(folder: str, name: str, lines: Iterable[str]) -> None:
    path = Path(folder) / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in sorted(lines)), encoding="utf-8")


class _FromSpecs(beam.PTransform):
    """A file of specs -> (key, Record)."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def expand(self, pipeline: Any) -> PCollection:
        return (
            pipeline
            | beam.Create([self.path], reshuffle=False)
            | beam.FlatMap(lambda path: report.read_lines(Path(path)))
            | beam.Map(samples.load)
        )


# --- config and folders ------------------------------------------------------------------------------------


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


def _new_build_folder(out_dir: Path) -> Path:
    """Makes the sibling folder to build in, and removes those that dead runs have left."""
    prefix = f".{out_dir.name}.partial-"
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    for stale in out_dir.parent.glob(f"{prefix}*"):
        number = stale.name.removeprefix(prefix)
        if number.isdigit() and not Path(f"/proc/{number}").exists() and Path("/proc/self").exists():
            shutil.rmtree(stale, ignore_errors=True)
    build = out_dir.with_name(f"{prefix}{os.getpid()}")
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir()
    (build / "lines").mkdir()
    return build
