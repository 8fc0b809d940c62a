"""`jaxllava evaluate --data --checkpoint`: held-out reactions, the first checkpoint against each of the others.

With --out every result is in OUT/CHECKPOINT/PASS.jsonl as soon as it is known, and OUT/results.json at the end.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from input_pipeline import records
from input_pipeline.errors import UserError
from input_pipeline.token_table import tokenizer_hash
from jaxllava import api, identity
from jaxllava.evaluate import behavior, behavior_figures, behavior_posts, behavior_text, overlap, plaza
from jaxllava.evaluate.behavior_figures import Columns, Figure
from jaxllava.evaluate.behavior_posts import HeldoutPosts
from jaxllava.evaluate.item_log import ItemLog
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.weights import source

FORMAT = 1  # of the rows; another one is not read
_NAME = re.compile(r"[\w.+-]+")
_TRUTHS = ("mood", "topic", "memorability", "stage2")  # of plaza's tasks: what `behavior` does not measure

Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Named:
    """A checkpoint as it was given, opened far enough to know what it is."""

    name: str
    folder: Path
    identity: str
    tokenizer: str
    keeps: bool = False  # features of videos

    def header(self) -> dict[str, Any]:
        return {"name": str(self.folder), "identity": self.identity}


def run(
    data: Path,
    checkpoints: Sequence[str],
    out: Path | None = None,
    limit: int = 400,
    gold: Path | None = None,
    report: Report | None = None,
    features: Path | None = None,
) -> dict[str, Any]:
    """Evaluates the checkpoints on the split behavior_heldout of `data`.

    Args:
        data: what `jaxllava prepare` wrote.
        checkpoints: 'NAME=DIR', or 'DIR' for the folder's own name.
        out: where results of items are kept; what it holds is not run again.
        limit: held-out posts to use.
        gold: plaza's gold.json, for its tasks as well.
        report: called as report(done, total, name of the checkpoint).
        features: folder in which LLaMA-VIDs among them keep what they see of videos: each is asked several things.

    Returns (and leaves in `out`/results.json):
        {"compared": the first name, "checkpoints": {name: {"folder", "identity", "tokenizer", "figures": {measure:
        figure}, "sources": {source: {measure: figure}}, "left_out": {measure: {reason: [ids]}}, "remarks": the
        same of posts that were scored}}, "differences": {other: {measure: the first's less its figure}},
        "chance", "records": {"folder", "split", "hash", "posts", "sources", "left_out"}, "sentences": what is
        shown}; a figure is {"mean", "low", "high", "n", "unit"} with low and high None where one post shows no
        spread, or {"note": why}.

    Raises: UserError for a mistake in the arguments or data, and where `out` holds results of anything else.
    """
    overlap.rouge_l()  # that it is missing is told before hours of work
    if out and out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; give a folder")
    pairs = _pairs(checkpoints)
    heldout = behavior_posts.load(data, limit)
    truths = plaza.load_heldout(data, gold, limit, limit) if gold else None
    named = [_open(name, folder) for name, folder in pairs]
    if features and not any(one.keeps for one in named):
        raise UserError("--features: none of the checkpoints is a LLaMA-VID, whose features can be kept")
    about = {
        "records": {
            "name": str(data),
            "split": behavior_posts.SPLIT,
            "hash": records.data_hash(data, behavior_posts.SPLIT),
        }
    }

    def log_in(one: Named, name: str, settings: Mapping[str, Any], keys: Sequence[str]) -> ItemLog:
        header = {"checkpoint": one.header(), **about, "settings": {"format": FORMAT, **settings}}
        return ItemLog(out / one.name / f"{name}.jsonl" if out else None, header, keys)

    logs = {
        one.name: behavior.open_logs(
            heldout.posts, lambda name, settings, one=one: log_in(one, name, settings, ("id", "number"))
        )
        for one in named
    }
    told = {"gold": _hash(gold), "posts": limit} if gold else {}
    plaza_logs = {one.name: log_in(one, "plaza", told, ("task",)) for one in named} if truths else {}
    for index, one in enumerate(named):

        def tell(done: int, total: int, index: int = index, name: str = one.name) -> None:
            if report:
                report(index * total + done, len(named) * total, name)

        kept = features if one.keeps else None
        _score(one, heldout, logs[one.name], truths, plaza_logs.get(one.name), tell, kept)
    results = _results(named, heldout, logs, truths, plaza_logs, about["records"])
    if out:
        path = out / "results.json"
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(results, indent=1))
        unfinished.rename(path)
    return results


def _pairs(checkpoints: Sequence[str]) -> list[tuple[str, Path]]:
    """Names and folders, each name once."""
    pairs: list[tuple[str, Path]] = []
    for given in checkpoints:
        name, equals, folder = given.partition("=")
        if not equals or Path(given).is_dir():
            name, folder = Path(given).resolve().name, given
        if not folder or not _NAME.fullmatch(name) or set(name) == {"."}:
            raise UserError(
                f"--checkpoint {given}: write NAME=DIR with a NAME of letters, digits, '_', '-', '+' and '.'"
            )
        if any(name == other for other, _ in pairs):
            raise UserError(f"--checkpoint {given}: two are named {name!r}; write NAME=DIR with another NAME")
        pairs.append((name, Path(folder)))
    if not pairs:
        raise UserError("jaxllava evaluate: give at least one --checkpoint NAME=DIR")
    return pairs


def _open(name: str, folder: Path) -> Named:
    """Reads a checkpoint's config and tokenizer, so that every mistake is told before the first model runs."""
    found = source.open_checkpoint(folder)
    if not isinstance(found.config, LlavaConfig) or found.tokenizer is None:
        what = "a LLaVA without its tokenizer" if isinstance(found.config, LlavaConfig) else found.kind
        raise UserError(f"--checkpoint {folder}: holds {what}, not a LLaVA with its tokenizer")
    keeps = isinstance(found.config, LlamaVidConfig)
    return Named(name, folder, identity.of_folder(folder), tokenizer_hash(found.tokenizer)[:16], keeps)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _score(
    one: Named,
    heldout: HeldoutPosts,
    logs: behavior.Logs,
    truths: plaza.Heldout | None,
    plaza_log: ItemLog | None,
    tell: Callable[[int, int], None],
    features: Path | None = None,
) -> None:
    """Runs what a checkpoint's logs do not hold yet; the model is not read where they hold all."""
    wanted = [task for task in _TRUTHS if truths and task in truths.tasks]
    left = [task for task in wanted if plaza_log and (task,) not in plaza_log.rows]
    if not left and not behavior.missing(heldout.posts, logs):
        return
    model = api.load(one.folder, mesh="local", features=features)
    behavior.evaluate(model, heldout, logs, tell)
    for task in left:
        assert truths and plaza_log
        try:
            columns = plaza.evaluate(model, truths, tasks=[task])[task]
            plaza_log.add([{"task": task, "columns": columns}])
        except plaza.NotFinite as error:
            plaza_log.add([{"task": task, "problem": str(error)}])


# --- results -----------------------------------------------------------------------------------------------


def _results(
    named: Sequence[Named],
    heldout: HeldoutPosts,
    logs: Mapping[str, behavior.Logs],
    truths: plaza.Heldout | None,
    plaza_logs: Mapping[str, ItemLog],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    posts = heldout.posts
    of_source = {source: [post.id for post in posts if post.source == source] for source in heldout.sources}
    columns = {
        one.name: behavior_figures.columns(posts, behavior.rows(posts, logs[one.name])) for one in named
    }
    tasks = {
        one.name: {row["task"]: row for row in plaza_logs[one.name].rows.values()} if truths else {}
        for one in named
    }
    checkpoints = {}
    for one in named:
        found = columns[one.name]
        checkpoints[one.name] = {
            "folder": str(one.folder),
            "identity": one.identity,
            "tokenizer": one.tokenizer,
            "figures": {**_of_plaza(tasks[one.name]), **behavior_figures.figures(found)},
            "sources": {source: behavior_figures.figures(found, ids) for source, ids in of_source.items()},
            "left_out": _counted(found, lambda one: one.problems),
            "remarks": _counted(found, lambda one: one.remarks),
        }
    first, *others = named
    differences: dict[str, dict[str, Figure]] = {}
    for other in others:
        differences[other.name] = {
            **_plaza_differences(tasks[first.name], tasks[other.name]),
            **behavior_figures.differences(columns[first.name], columns[other.name]),
        }
        if other.tokenizer != first.tokenizer:  # a token is not the same thing in both
            for name in differences[other.name]:
                if name.endswith("perplexity"):
                    differences[other.name][name] = {"note": "the tokenizers differ"}
    zero = ("like_rate_r2", "like_rate_spearman", "told_memorability_r2", "told_memorability_spearman")
    chance = dict.fromkeys((*zero, "replay_pearson", "replay_spearman", "overlap_gain"), 0.0)
    if truths:
        chance |= {task: value for task, value in truths.chance().items() if task in _TRUTHS}
    results = {
        "compared": first.name,
        "checkpoints": checkpoints,
        "differences": differences,
        "chance": chance,
        "records": {
            "folder": about["name"],
            "split": about["split"],
            "hash": about["hash"],
            "posts": len(posts),
            "sources": {source: len(ids) for source, ids in of_source.items()},
            "left_out": heldout.left_out,
        },
    }
    return {**results, "sentences": behavior_text.sentences(results)}


def _counted(
    found: Mapping[str, Columns], which: Callable[[Columns], Mapping[str, list[str]]]
) -> dict[str, dict[str, list[str]]]:
    return {name: dict(which(one)) for name, one in found.items() if which(one)}


def _of_plaza(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Figure]:
    out: dict[str, Figure] = {}
    for task, row in rows.items():
        if "problem" in row:
            out[task] = {"note": row["problem"]}
            continue
        try:
            out[task] = plaza.estimates({task: row["columns"]})[task].to_dict()
        except ValueError as error:
            out[task] = {"note": str(error)}
    return out


def _plaza_differences(
    first: Mapping[str, Mapping[str, Any]], second: Mapping[str, Mapping[str, Any]]
) -> dict[str, Figure]:
    out: dict[str, Figure] = {}
    for task in first.keys() & second.keys():
        if "problem" in first[task] or "problem" in second[task]:
            continue
        try:
            both = ({task: found[task]["columns"]} for found in (first, second))
            out[task] = plaza.differences(*both)[task].to_dict()
        except ValueError as error:
            out[task] = {"note": str(error)}
    return out
