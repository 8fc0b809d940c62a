"""One unit of `jaxllava evidence`: an arm with one seed, trained, asked, and trained further on labels.

    python -m jaxllava.evidence_unit WORKDIR ARM SEED [CORES]

A process of its own, as `evidence.py` starts it. Its result, `units/ARM-seedSEED.json`, appears whole.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BASE = "base"  # the arm that is not trained


def name_of(arm: str, seed: int) -> str:
    return f"{arm}-seed{seed}"


def result_of(workdir: Path, arm: str, seed: int) -> Path:
    return workdir / "units" / f"{name_of(arm, seed)}.json"


def labels_of(workdir: Path, share: float, seed: int) -> Path:
    """The records of a share of the labels; all labels are the same for every seed."""
    return workdir / "labels" / ("all" if share >= 1 else f"{share:g}-seed{seed}") / "records"


def run(workdir: Path, arm: str, seed: int) -> dict[str, Any]:
    """Trains, asks, trains on labels, asks again; returns (and leaves in `result_of`) the per-item columns.

    {"arm", "seed", "base": a hash of that model, "zero_shot": Columns, or null for a base that is asked once,
    "finetuned": {share: Columns}, "facts", "seconds": {what: seconds}}. Raises UserError as `train` does.
    """
    from ml_collections import ConfigDict

    from configs.evidence import ARMS
    from jaxllava import api, identity, preflight
    from jaxllava.evaluate import evidence_labels, plaza
    from jaxllava.quickstart import Foundation, arm_stage, programs_kept_in, write_json
    from jaxllava.train import train

    config = ConfigDict(json.loads((workdir / "config.json").read_text()))
    scratch = workdir / "units" / name_of(arm, seed)
    seconds: dict[str, float] = {}
    timed = functools.partial(take_time, seconds)

    with programs_kept_in(workdir / "compiled"), preflight.claimed(scratch):
        ground = timed("open", lambda: Foundation.at(workdir, config))
        facts: dict[str, Any] = {}
        model = ground.base
        if arm != BASE:
            kind, split, instruct = ARMS[arm]
            data = ground.data if kind == "clean" else workdir / "unfiltered" / "records"
            stage = arm_stage(config, arm, data, ground.base, seed, split, instruct)
            found = timed("train", lambda: train(stage, ground.model, ground.tokenizer, scratch / "arm"))
            facts["arm"], model = found.facts, found.model
        zero_shot = None
        if arm != BASE or seed == 0:
            zero_shot = timed("evaluate", lambda: plaza.evaluate(api.load(model), ground.heldout))
        finetuned = {}
        for share in config.label_shares if arm in config.finetuned else ():
            stage = config.finetune.copy_and_resolve_references()
            stage.update(base=str(model), data=str(labels_of(workdir, share, seed)), seed=seed)
            folder = scratch / f"labels-{share:g}"
            found = timed(
                f"train {share:g}",
                lambda stage=stage, folder=folder: train(stage, ground.model, ground.tokenizer, folder),
            )
            facts[f"labels {share:g}"] = found.facts
            asked = lambda found=found: {
                task: plaza.TASKS[task].run(api.load(found.model), ground.heldout)
                for task in evidence_labels.TASKS
            }
            finetuned[f"{share:g}"] = timed(f"evaluate {share:g}", asked)
    result = {
        "arm": arm,
        "seed": seed,
        "base": identity.of_folder(ground.base),
        "zero_shot": zero_shot,
        "finetuned": finetuned,
        "facts": facts,
        "seconds": seconds,
    }
    write_json(result_of(workdir, arm, seed), result)
    for left in (*scratch.glob("labels-*"), scratch / "arm" / "checkpoints"):  # the arm's model stays
        shutil.rmtree(left, ignore_errors=True)
    return result


def take_time(seconds: dict[str, float], what: str, function: Callable[[], Any]) -> Any:
    """What `function` returns; what it took is put into `seconds`."""
    started = time.monotonic()
    found = function()
    seconds[what] = round(time.monotonic() - started, 2)
    return found


def _end_with_parent(parent: int) -> None:
    """A parent that was killed stops nobody, and the same command would start this unit a second time."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def main(argv: list[str], run: Callable[[Path, str, int], Any] = run) -> None:
    """Does `run(WORKDIR, ARM, SEED)` on some cores. Errors are one line and exit with 2, as `cli.main` prints them."""
    workdir, arm, seed, *own = argv
    if own and hasattr(os, "sched_setaffinity"):  # before jax is imported, which counts them
        os.sched_setaffinity(0, map(int, own[0].split(",")))
    # So small a model is served by a core as well as by an accelerator, which processes cannot share.
    os.environ["JAX_PLATFORMS"] = "cpu"
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    from input_pipeline.errors import UserError

    try:
        run(Path(workdir), arm, int(seed))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main(sys.argv[1:])
