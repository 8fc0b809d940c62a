"""One unit of `jaxllava evidence --films`: an arm with one seed, trained and asked.

    python -m jaxllava.films_unit WORKDIR ARM SEED [CORES]

A process of its own, as `evidence_films.py` starts it. Its result, `films/units/ARM-seedSEED.json`, appears whole.
"""

from __future__ import annotations

import functools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from jaxllava import evidence_unit
from jaxllava.evidence_unit import BASE, name_of, result_of, take_time


def run(workdir: Path, arm: str, seed: int) -> dict[str, Any]:
    """Trains and asks; returns (and leaves in `result_of`) the per-item columns.

    As `evidence_unit.run`, with nothing "finetuned". Raises UserError as `train` does.
    """
    from ml_collections import ConfigDict

    from configs.evidence import FILM_ARMS
    from jaxllava import api, identity, preflight
    from jaxllava.evaluate import plaza
    from jaxllava.evidence_films import FilmGround, folder_of
    from jaxllava.quickstart import arm_stage, programs_kept_in, write_json
    from jaxllava.train import train

    folder = folder_of(workdir)
    config = ConfigDict(json.loads((folder / "config.json").read_text()))
    scratch = folder / "units" / name_of(arm, seed)
    seconds: dict[str, float] = {}
    timed = functools.partial(take_time, seconds)
    with programs_kept_in(workdir / "compiled"), preflight.claimed(scratch):
        ground = timed("open", lambda: FilmGround.at(workdir, config))
        facts: dict[str, Any] = {}
        model = ground.base
        if arm != BASE:
            stage = arm_stage(config.films, arm, ground.data, ground.base, seed, FILM_ARMS[arm])
            tokenizer = ground.pictures.tokenizer
            found = timed("train", lambda: train(stage, ground.model, tokenizer, scratch / "arm"))
            facts["arm"], model = found.facts, found.model
        asked = timed("evaluate", lambda: plaza.evaluate(api.load(model), ground.heldout))
    result = {
        "arm": arm,
        "seed": seed,
        "base": identity.of_folder(ground.base),
        "zero_shot": asked,
        "finetuned": {},
        "facts": facts,
        "seconds": seconds,
    }
    write_json(result_of(folder, arm, seed), result)
    shutil.rmtree(scratch / "arm" / "checkpoints", ignore_errors=True)  # the arm's model stays
    return result


if __name__ == "__main__":
    evidence_unit.main(sys.argv[1:], run)
