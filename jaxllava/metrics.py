"""A run's measurements: a line of JSON for each step, and TensorBoard's files beside them.

A line holds: step, loss, lr, gradient_norm; `loss/<split>` for each source of the mixture; tokens (real positions,
image positions included), tokens_per_second, fill (their share of all positions), image_fill (used image slots);
step_seconds, host_wait (the share of it in which the devices' next batch was not ready), mfu (see `flops.py`) and
hbm_gib (the most that one device held) where the device says; batch, the fingerprint of the global batch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import jax

from jaxllava import flops

NAME = "metrics.jsonl"


class Log:
    """Writes the lines of steps; a no-op where `enabled` is false (every host but the first)."""

    def __init__(self, workdir: Path, start: int, *, enabled: bool = True, tensorboard: bool = True):
        self.path = workdir / NAME
        self._file: TextIO | None = None
        self._board: Any = None
        if not enabled:
            return
        cut(self.path, start)  # also of a run that ended before its first checkpoint
        self._file = self.path.open("a")
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1, flush_secs=30)

    def write(self, line: dict[str, Any]) -> None:
        if self._file is None:
            return
        self._file.write(json.dumps(line) + "\n")
        if self._board is not None:
            for name, value in line.items():
                if name != "step" and isinstance(value, int | float):
                    tag = name if "/" in name else f"train/{name}"
                    self._board.add_scalar(tag, value, line["step"])

    def flush(self) -> None:
        """What was written is in the files from here on."""
        if self._file is not None:
            self._file.flush()
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line that a kill cut short is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def cut(path: Path, last_step: int) -> None:
    """Drops the lines of steps that will be run again."""
    if not path.exists():
        return
    kept = [line for line in read(path) if line["step"] <= last_step]
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text("".join(json.dumps(line) + "\n" for line in kept))
    unfinished.replace(path)


def describe(
    fetched: dict[str, Any],
    *,
    seconds: float,
    waited: float,
    positions: int,
    slots: int,
    sources: Sequence[str],
    cost: flops.Cost | None,
    devices: int = 1,
) -> dict[str, Any]:
    """A line from a step's fetched metrics. seconds: since the step before ended; waited: of the host for its batch;
    positions, slots: of tokens and images in the batch, used or not; devices: that share the work.
    """
    line: dict[str, Any] = {
        "loss": float(fetched["loss"]),
        "gradient_norm": float(fetched["gradient_norm"]),
    }
    if "source_weight" in fetched:
        for name, total, weight in zip(
            sources, fetched["source_loss"], fetched["source_weight"], strict=True
        ):
            if weight > 0:
                line[f"loss/{name}"] = float(total / weight)
    tokens = float(fetched["tokens"])
    line["tokens"] = int(tokens)
    line["fill"] = round(tokens / positions, 4)
    if slots and "images" in fetched:
        line["image_fill"] = round(float(fetched["images"]) / slots, 4)
    line["step_seconds"] = round(seconds, 4)
    line["tokens_per_second"] = round(tokens / max(seconds, 1e-9), 1)
    line["host_wait"] = round(min(waited / max(seconds, 1e-9), 1.0), 4)
    device = jax.local_devices()[0]
    top = flops.peak(device.device_kind)
    if cost is not None and top:
        done = cost.of(tokens, float(fetched.get("pairs", 0.0)), float(fetched.get("images", 0.0)))
        line["mfu"] = round(done / (max(seconds, 1e-9) * top * devices), 4)
    memory = device.memory_stats() if device.platform != "cpu" else None
    if memory and "peak_bytes_in_use" in memory:
        line["hbm_gib"] = round(memory["peak_bytes_in_use"] / 2**30, 3)
    return line
