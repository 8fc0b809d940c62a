"""`train.json`: the file that says that a run is finished, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from input_pipeline.errors import UserError
from jaxllava import metrics

NAME = "train.json"


@dataclass(frozen=True)
class Trained:
    """A finished run: its model folder, loss curve [(step, loss)], and what it cost."""

    model: Path
    curve: list[tuple[int, float]]
    seconds: float
    tokens_per_second: float  # real (not padding) tokens through the decoder or text tower
    facts: dict[str, Any]


def finished(workdir: Path, identity: Mapping[str, str]) -> Trained | None:
    """The run that ended here, or None; UserError where it was another one."""
    path = workdir / NAME
    if not path.exists():
        return None
    try:
        saved = json.loads(path.read_text())
        before = saved["identity"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is damaged ({error!r}); remove it and the same command ends the run from its last checkpoint"
        ) from error
    keys = sorted(set(before) | set(identity))
    changed = [key for key in keys if before.get(key) != identity.get(key)]
    if changed:
        raise UserError(
            f"{workdir} holds a finished run with another config or data (differs in: {', '.join(changed)}); use a "
            "new workdir"
        )
    curve = [(step, loss) for step, loss in saved["curve"]]
    return Trained(workdir / "model", curve, saved["seconds"], saved["tokens_per_second"], saved["facts"])


def finish(
    workdir: Path,
    identity: Mapping[str, str],
    *,
    log_every: int,
    seconds: float,
    tokens_per_second: float,
    facts: dict[str, Any],
    write: bool,
) -> Trained:
    """Writes train.json (on the host that does) and returns what it says. Call it when the model folder is whole."""
    lines = [line for line in metrics.read(workdir / metrics.NAME) if "loss" in line]
    last = lines[-1]["step"] if lines else 0
    curve = [
        (line["step"], line["loss"])
        for line in lines
        if line["step"] in (1, last) or line["step"] % log_every == 0
    ]
    found = Trained(workdir / "model", curve, seconds, tokens_per_second, facts)
    if write:
        values = {
            "curve": curve,
            "seconds": seconds,
            "tokens_per_second": tokens_per_second,
            "facts": facts,
            "identity": dict(identity),
        }
        unfinished = workdir / f"{NAME}.tmp"
        unfinished.write_text(json.dumps(values, indent=1))
        unfinished.rename(workdir / NAME)
    return found
