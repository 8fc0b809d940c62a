"""`jaxllava evidence`: the arms of the paper's ablations from one base, several seeds of each, and what that shows.

Each (arm, seed) is a process of its own (`evidence_unit`), which leaves a file. The page is written from those files,
for the seeds that all arms have; the same command goes on where an earlier one was interrupted.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from configs import prepare as prepare_config
from configs.evidence import ARMS
from input_pipeline import records
from input_pipeline.errors import UserError, nearest
from input_pipeline.prepare import prepare
from input_pipeline.types import Record
from jaxllava import evidence_unit, identity, side_by_side, sweep
from jaxllava.evaluate import evidence_labels, evidence_page, evidence_results, evidence_text
from jaxllava.evaluate.comparison import TREATED
from jaxllava.evidence_unit import BASE
from jaxllava.progress import Stages
from jaxllava.quickstart import Foundation, claim, lay_foundation, machine, programs_kept_in, write_json

_STAGES = 9
_COMMENT = re.compile(r'^\d+\. "', re.MULTILINE)  # of an answer's list


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a call did: the units that failed, with why; those still missing; the results, if some seed is whole."""

    failed: dict[str, str]
    missing: list[str]
    results: dict[str, Any] | None


def evidence(config: ConfigDict, workdir: Path, only: str = "") -> Outcome:
    """Runs what is not there yet, and writes evidence.json, .md and .html once every arm has a seed.

    Args:
        config: see configs/evidence.py.
        workdir: of this config alone; more seeds may be asked for later.
        only: I/N: of N machines that share the folder (or whose `units` are copied together) this is the I-th.

    Raises UserError for a wrong setting or a folder of another config, KeyboardInterrupt after the units have saved.
    """
    check(config)
    jobs = jobs_of(config)
    units = plan(config, workdir)
    mine = sweep.share(units, only) if only else units
    workdir.mkdir(parents=True, exist_ok=True)
    stages = Stages(_STAGES, workdir / "seconds.json")
    with programs_kept_in(workdir / "compiled"):
        ground = lay_foundation(config, workdir, stages)
    with stages.stage("unfiltered", "preparing without cleaning") as bar:
        _claim(workdir, config)
        if "unfiltered" in config.arms:
            _prepare_unfiltered(config, ground, workdir, bar)
        write_labels(config, ground, workdir)
        told = given(config, workdir, ground.data)
    with stages.stage("units", f"{len(mine)} arms and seeds, {jobs} at a time") as bar:
        failed = side_by_side.run_all(mine, jobs, bar)
    missing = [unit.name for unit in units if not unit.finished]
    with stages.stage("statistics", "comparing") as bar:
        results = collect(config, workdir, ground, told, stages.seconds, jobs, bar)
    return Outcome(failed, missing, results)


def jobs_of(config: ConfigDict) -> int:
    """How many units run at a time. UserError where some would have no core."""
    jobs = config.jobs or len(side_by_side.cores())
    side_by_side.shares(jobs)  # for its error
    return jobs


def check_counts(config: ConfigDict) -> None:
    """UserError for numbers of seeds and processes that cannot be."""
    if config.seeds < 1:
        raise UserError(f"--seeds {config.seeds}: at least 1 is needed")
    if config.jobs < 0:
        raise UserError(f"--jobs {config.jobs}: at least 1 is needed")


def check(config: ConfigDict) -> None:
    """UserError for what cannot be run."""
    check_counts(config)
    if TREATED not in config.arms or len(set(config.arms)) < len(config.arms):
        raise UserError(
            f"config.arms={config.arms!r}: each once, and {TREATED!r}, which the others are compared with"
        )
    for key in ("arms", "finetuned"):
        for arm in config[key]:
            known = (*config.arms, BASE) if key == "finetuned" else tuple(ARMS)
            if arm not in known:
                raise UserError(f"config.{key}: no arm {arm!r}.{nearest(arm, known)}")
    for share in config.label_shares:
        if not 0 < share <= 1:
            raise UserError(f"config.label_shares: {share} is not a share above 0 and up to 1")


def plan(config: ConfigDict, workdir: Path) -> list[side_by_side.Unit]:
    """All units, seed by seed: what an interrupted run has done is whole seeds. The base is asked once."""
    units = []
    for seed in range(config.seeds):
        for arm in (BASE, *config.arms):
            if arm == BASE and seed and BASE not in config.finetuned:
                continue
            units.append(unit_of("jaxllava.evidence_unit", workdir, workdir, arm, seed))
    return units


def unit_of(module: str, workdir: Path, folder: Path, arm: str, seed: int) -> side_by_side.Unit:
    """`python -m module WORKDIR ARM SEED`, whose result appears in `folder`/units."""
    name = evidence_unit.name_of(arm, seed)
    return side_by_side.Unit(
        name,
        (sys.executable, "-m", module, str(workdir), arm, str(seed)),
        evidence_unit.result_of(folder, arm, seed),
        folder / "units" / name / "log.txt",
    )


def _claim(workdir: Path, config: ConfigDict) -> None:
    """Binds the folder to the config, and leaves it there for the units."""
    own = ("arms", "arm", "finetune", "finetuned", "label_shares", "unfiltered")
    claim(workdir / "evidence_claim.json", config, own)
    kept = {key: value for key, value in config.to_dict().items() if key != "films"}  # another experiment's
    write_json(workdir / "config.json", json.loads(json.dumps(kept, default=str)))


def _prepare_unfiltered(
    config: ConfigDict, ground: Foundation, workdir: Path, progress: Callable[..., None]
) -> None:
    """The raw posts without the funnel. Of the held-out posts neither they nor reposts of their pictures are in it.

    A repost has an id, and so a half, of its own: the funnel gives it to the post that it repeats, and without the
    funnel it would carry a held-out picture into training. The held-out posts are therefore an evaluation set.
    """
    heldout = workdir / "heldout"
    if not heldout.exists():
        unfinished = heldout.with_suffix(".tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        (unfinished / "images").mkdir(parents=True)
        posts = records.open_split(ground.data, "behavior_heldout")
        names = []
        for number in range(len(posts)):
            names.append(posts[number].meta["post_id"])
            (unfinished / "images" / f"{number:05d}").with_suffix(
                _suffix(posts[number].images[0])
            ).write_bytes(posts[number].images[0])
        (unfinished / "ids.txt").write_text("\n".join(names) + "\n")
        unfinished.rename(heldout)
    recipe = config.unfiltered
    prepare_config.fill(recipe, ground.corpus / "raw")
    recipe.clean.evaluation_ids = (str(heldout / "ids.txt"),)
    recipe.clean.evaluation_images = (str(heldout / "images"),)
    prepare(recipe, workdir / "unfiltered", progress=progress)


def _suffix(image: bytes) -> str:
    return ".png" if image.startswith(b"\x89PNG") else ".jpg"


def write_labels(config: ConfigDict, ground: Foundation, workdir: Path) -> None:
    """The records of each share and seed that is not there yet."""
    if not config.finetuned:
        return
    truths = json.loads(ground.gold.read_text())["posts"]
    source: list[Record] = []
    for share in config.label_shares:
        for seed in range(config.seeds):
            folder = evidence_unit.labels_of(workdir, share, seed).parent
            if folder.exists():
                continue
            if not source:
                posts = records.open_split(ground.data, "behavior_train")
                source = [
                    post
                    for post in map(posts.__getitem__, range(len(posts)))
                    if post.meta["post_id"] in truths
                ]
            chosen = set(evidence_labels.choose((p.meta["post_id"] for p in source), share, seed))
            made = evidence_labels.records([p for p in source if p.meta["post_id"] in chosen], truths)
            unfinished = folder.with_name(folder.name + ".tmp")
            shutil.rmtree(unfinished, ignore_errors=True)
            records.write({"labels_train": made}, unfinished / "records")
            unfinished.rename(folder)


# --- what came of it -----------------------------------------------------------------------------------------


def given(config: ConfigDict, workdir: Path, data: Path) -> dict[str, dict[str, Any]]:
    """What each arm is trained on: posts, the reactions that their answers tell, instruction samples of one pass."""
    path = workdir / "given.json"
    if not path.exists():
        write_json(path, {arm: _given(data, workdir, arm) for arm in config.arms})
    return json.loads(path.read_text())


def _given(data: Path, workdir: Path, arm: str) -> dict[str, Any]:
    kind, split, instruct = ARMS[arm]
    folder = data if kind == "clean" else workdir / "unfiltered" / "records"
    posts = records.open_split(folder, f"{split}_train")
    told = count_told(posts, {"likes": "likes", "titles": "title"})
    told["instruct"] = min(round(instruct * len(posts)), records.splits(folder)["instruct_train"])
    return told


def count_told(posts: Sequence[Record], kinds: Mapping[str, str]) -> dict[str, Any]:
    """How many posts there are, how many tell each of `kinds` ({name: behaviour}), and their comments."""
    told = {"posts": len(posts), **dict.fromkeys(kinds, 0), "comments": 0}
    for number in range(len(posts)):
        record = posts[number]
        behaviors = record.meta["behaviors"]
        for name, behavior in kinds.items():
            told[name] += behavior in behaviors
        if "comments" in behaviors:
            told["comments"] += len(_COMMENT.findall(record.conversations[-1].text))
    return told


def collect(
    config: ConfigDict,
    workdir: Path,
    ground: Foundation,
    told: dict[str, dict[str, Any]],
    seconds: dict[str, float],
    jobs: int,
    progress: Callable[..., None],
) -> dict[str, Any] | None:
    """The results of the seeds that all arms have, written as evidence.json, .md and .html; None if there is none.

    Raises UserError for a unit that another base was trained for, which is no result of this experiment.
    """
    arms = (BASE, *config.arms)
    found = gather(workdir, ground.base, arms, config.seeds, plan(config, workdir))
    if found is None:
        return None
    progress(0, 1, "intervals")
    results = assemble(found, arms, told, ground.heldout.chance(), seconds, jobs)
    publish(results, workdir / "evidence")
    return results


@dataclasses.dataclass(frozen=True)
class Gathered:
    """What units have left: those of whole seeds by (arm, seed), these seeds, what is missing, the last one's day."""

    units: dict[tuple[str, int], dict[str, Any]]
    seeds: list[int]
    missing: list[str]
    date: str


def gather(
    folder: Path, base: Path, arms: Sequence[str], seeds: int, units: Sequence[side_by_side.Unit]
) -> Gathered | None:
    """Reads what the units left in `folder`; None while no seed has all its units.

    Raises UserError for a unit that another base was trained for, which is no result of this experiment.
    """
    found: dict[tuple[str, int], dict[str, Any]] = {}
    its = identity.of_folder(base)
    newest = 0.0
    for seed in range(seeds):
        for arm in arms:
            path = evidence_unit.result_of(folder, arm, seed)
            if not path.is_file():
                continue
            found[arm, seed] = json.loads(path.read_text())
            newest = max(newest, path.stat().st_mtime)
            if found[arm, seed]["base"] != its:
                raise UserError(
                    f"{path}: trained from another base than {base}; machines that share an experiment need "
                    "copies of one folder with its base. Remove the file and its folder to have it trained again"
                )
    missing = [unit.name for unit in units if not unit.finished]
    whole = [seed for seed in range(seeds) if not any(name.endswith(f"-seed{seed}") for name in missing)]
    if not whole or (BASE, 0) not in found:
        return None
    used = {key: unit for key, unit in found.items() if key[1] in whole or key == (BASE, 0)}
    return Gathered(
        used, whole, missing, datetime.datetime.fromtimestamp(newest, datetime.UTC).date().isoformat()
    )


def assemble(
    found: Gathered,
    arms: Sequence[str],
    told: Mapping[str, Mapping[str, Any]],
    chance: Mapping[str, float],
    seconds: dict[str, float],
    jobs: int,
) -> dict[str, Any]:
    """evidence.json, see `evidence_results`."""
    results = {
        "date": found.date,
        "machine": machine(),
        "seeds": found.seeds,
        "missing": found.missing,
        "jobs": jobs,
        "minutes": round(sum(seconds.values()) / 60, 1),
        "seconds": seconds,
        "unit_seconds": {evidence_unit.name_of(*key): unit["seconds"] for key, unit in found.units.items()},
        "chance": chance,
        **evidence_results.compute(found.units, arms, found.seeds),
    }
    for arm in arms:
        own = dict(told[arm]) if arm in told else None
        if own:
            facts = found.units[arm, found.seeds[0]]["facts"]["arm"]
            own["passes"] = round(facts["steps"] * facts["batch"] / facts["rows"], 3)
        results["arms"][arm]["given"] = own
    return results


def publish(results: dict[str, Any], stem: Path) -> None:
    """Writes stem.json, .md and .html."""
    write_json(stem.with_suffix(".json"), results)
    stem.with_suffix(".md").write_text(evidence_text.markdown(results), encoding="utf-8")
    evidence_page.write_html(results, stem.with_suffix(".html"))
