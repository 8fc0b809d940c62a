"""`jaxllava evidence --films`: the arms on plaza's films, with replay graphs among the behaviour, from the same base.

The quickstart's base becomes a LLaMA-VID, once. From that the arms are trained on films, and asked which scenes of
held-out films are watched again, and, of pictures that none of them was trained on, what `evidence` asks.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from configs.evidence import FILM_ARMS
from input_pipeline import records
from input_pipeline.asker import Asker
from input_pipeline.errors import UserError, nearest
from input_pipeline.plaza import write_films
from input_pipeline.prepare import prepare
from input_pipeline.tokenizer import load_tokenizer
from jaxllava import evidence, side_by_side, sweep
from jaxllava.evaluate import heldout_films, plaza
from jaxllava.evaluate.comparison import TREATED
from jaxllava.evidence import Outcome
from jaxllava.evidence_unit import BASE
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.models.qformer import QFormerConfig
from jaxllava.progress import Stages
from jaxllava.quickstart import Foundation, claim, lay_foundation, programs_kept_in, write_json
from jaxllava.train import train

_STAGES = 11


@dataclasses.dataclass(frozen=True)
class FilmGround:
    """What the arms are compared on: one set of films, one LLaMA-VID, the same held-out films and pictures."""

    pictures: Foundation
    data: Path  # records
    model: LlamaVidConfig
    base: Path
    heldout: plaza.Heldout

    @classmethod
    def at(cls, workdir: Path, config: ConfigDict) -> FilmGround:
        """What is there already; nothing of it is checked."""
        ground = Foundation.at(workdir, config)
        folder = folder_of(workdir)
        data = folder / "data" / "records"
        heldout = dataclasses.replace(ground.heldout, films=heldout_films.load(data))
        model = film_model(config.films.model, ground.model)
        return cls(ground, data, model, folder / "base" / "model", heldout)


def folder_of(workdir: Path) -> Path:
    return workdir / "films"


def evidence_films(config: ConfigDict, workdir: Path, only: str = "") -> Outcome:
    """Runs what is not there yet, and writes films.json, .md and .html once every arm has a seed.

    Args:
        config: see configs/evidence.py; of it `films`, and what the quickstart's base is made of.
        workdir: may be that of `evidence`, with the same config: its corpus and base are used.
        only: I/N, as of `evidence`.

    Raises UserError for a wrong setting or a folder of another config, KeyboardInterrupt after the units have saved.
    """
    check(config)
    jobs = evidence.jobs_of(config)
    units = plan(config, workdir)
    mine = sweep.share(units, only) if only else units
    folder = folder_of(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    stages = Stages(_STAGES, folder / "seconds.json")
    with programs_kept_in(workdir / "compiled"):
        ground = lay_foundation(config, workdir, stages)
        with stages.stage("films", f"drawing {config.films.count} films") as bar:
            _draw(config, folder, bar)
            own = config.films.to_dict()
            claimed = {key: own[key] for key in ("count", "arms", "model", "arm")}
            claim(folder / "claim.json", ConfigDict({"films": claimed}), ("films",))
            write_json(folder / "config.json", json.loads(json.dumps(config.to_dict(), default=str)))
        with stages.stage("prepare films", "cleaning, finding scenes, writing records") as bar:
            recipe = config.films.prepare
            recipe.youtube = ({"folder": str(folder / "raw" / "films")},)
            for name in ("instruct", "captions"):  # the base's own, of which no film tells
                recipe[name] = config.prepare[name]
            prepare(recipe, folder / "data", progress=bar)
        with stages.stage("films base", "the base as a LLaMA-VID") as bar:
            _train_base(config, workdir, ground, bar)
        found = FilmGround.at(workdir, config)
        told = _given(folder, found.data, config.films.arms)
    with stages.stage("units", f"{len(mine)} arms and seeds, {jobs} at a time") as bar:
        failed = side_by_side.run_all(mine, jobs, bar)
    missing = [unit.name for unit in units if not unit.finished]
    with stages.stage("statistics", "comparing") as bar:
        results = collect(config, workdir, found, told, stages.seconds, jobs, bar)
    return Outcome(failed, missing, results)


def check(config: ConfigDict) -> None:
    """UserError for what cannot be run."""
    evidence.check_counts(config)
    if "films" not in config:
        raise UserError("--films: the config has no `films`; see configs/evidence.py")
    arms = config.films.arms
    if TREATED not in arms or len(set(arms)) < len(arms):
        raise UserError(
            f"config.films.arms={arms!r}: each once, and {TREATED!r}, which the others are compared with"
        )
    for arm in arms:
        if arm not in FILM_ARMS:
            raise UserError(f"config.films.arms: no arm {arm!r}.{nearest(arm, FILM_ARMS)}")
    if config.films.count < 1:
        raise UserError(f"config.films.count: {config.films.count} films; at least 1 is needed")


def plan(config: ConfigDict, workdir: Path) -> list[side_by_side.Unit]:
    """All units, seed by seed; the base is asked once."""
    return [
        evidence.unit_of("jaxllava.films_unit", workdir, folder_of(workdir), arm, seed)
        for seed in range(config.seeds)
        for arm in (BASE, *config.films.arms)
        if arm != BASE or seed == 0
    ]


def film_model(settings: ConfigDict, model: LlavaConfig) -> LlamaVidConfig:
    """The LLaMA-VID of config.films.model with the quickstart's tower and decoder; one vocabulary serves both."""
    own = {field.name: getattr(model, field.name) for field in dataclasses.fields(LlavaConfig)}
    qformer = QFormerConfig(
        **settings.qformer.to_dict(),
        vocab_size=model.decoder.vocab_size,
        vision_size=model.vision.hidden_size,
    )
    return LlamaVidConfig(**own, compress=settings.compress, at_once=settings.at_once, qformer=qformer)


def _draw(config: ConfigDict, folder: Path, progress: Callable[..., None]) -> None:
    raw = folder / "raw"
    if raw.exists():
        return
    unfinished = folder / "raw.tmp"  # of an interrupted run: the seed draws it again
    shutil.rmtree(unfinished, ignore_errors=True)
    count = config.films.count
    drawn = write_films.write(
        unfinished / "films", config.seed, count, lambda done: progress(done, count, "films")
    )
    write_json(folder / "gold.json", {"films": drawn.gold, "comment_kinds": drawn.kinds, "dirt": drawn.dirt})
    unfinished.rename(raw)


def _train_base(config: ConfigDict, workdir: Path, ground: Foundation, progress: Callable[..., None]) -> None:
    folder = folder_of(workdir)
    stage = config.films.base.copy_and_resolve_references()
    stage.data = str(folder / "data" / "records")
    stage.init = (
        (r"(vision|projector|decoder)/.*", str(ground.base)),
        (r"(qformer|qformer_norm|context)/.*", None),
    )
    model = film_model(config.films.model, ground.model)
    # The Q-Former reads questions by the language model's own tokenizer: a copy, as it cuts on the left.
    asker = Asker(load_tokenizer(workdir / "tokenizer"))
    train(stage, model, ground.tokenizer, folder / "base", asker=asker, progress=progress)


def _given(folder: Path, data: Path, arms: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """What each arm is trained on: films, the reactions that their answers tell, instruction samples of one pass."""
    path = folder / "given.json"
    if not path.exists():
        told = {}
        for arm in arms:
            films = records.open_split(data, f"{FILM_ARMS[arm]}_train")
            told[arm] = evidence.count_told(films, {"likes": "likes", "replay": "replay"})
            told[arm]["instruct"] = min(len(films), records.splits(data)["instruct_train"])
        write_json(path, told)
    return json.loads(path.read_text())


def collect(
    config: ConfigDict,
    workdir: Path,
    ground: FilmGround,
    told: dict[str, dict[str, Any]],
    seconds: dict[str, float],
    jobs: int,
    progress: Callable[..., None],
) -> dict[str, Any] | None:
    """The results of the seeds that all arms have, written as films.json, .md and .html; None if there is none.

    Raises UserError for a unit that another base was trained for, which is no result of this experiment.
    """
    arms = (BASE, *config.films.arms)
    folder = folder_of(workdir)
    found = evidence.gather(folder, ground.base, arms, config.seeds, plan(config, workdir))
    if found is None:
        return None
    progress(0, 1, "intervals")
    results = evidence.assemble(found, arms, told, ground.heldout.chance(), seconds, jobs)
    results = {"experiment": "films", **results}
    evidence.publish(results, workdir / "films")
    return results
