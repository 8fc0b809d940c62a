"""A run's measurements: a line of JSON for each step, and TensorBoard's files beside them.

A line holds: step, loss, lr, gradient_norm; `loss/<split>` for each source of the mixture; tokens (real positions,
image positions included), tokens_per_second, fill (their share of all positions), image_fill (used image slots);
step_seconds, host_wait (the share of it in which the devices' next batch was not ready), mfu (see `flops.py`) and
hbm_gib (the most that one device held) where the device says; batch, the fingerprint of the global batch.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import jax

from input_pipeline.errors import UserError
from jaxllava import chips, flops

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
            with contextlib.suppress(OSError):
                self._board = _Board(workdir / "tensorboard", start)

    def write(self, line: dict[str, Any]) -> None:
        if self._file is None:
            return
        self._file.write(json.dumps(line) + "\n")
        self._on_board(lambda board: board.write(line))

    def flush(self) -> None:
        """What was written is in the files from here on."""
        if self._file is not None:
            with self._writing():
                self._file.flush()
        self._on_board(lambda board: board.flush())

    def commit(self) -> None:
        """What was written outlives this machine where the workdir does: a mounted bucket (gcsfuse) has what is in a
        file once it is closed, and not before. TensorBoard's file is closed at the end of the run alone."""
        self.flush()
        if self._file is not None:
            with self._writing():
                self._file.close()
                self._file = self.path.open("a")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror or error}); make room, then the same command goes on"
            ) from error

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # `flush` has said so
                self._file.close()
        self._on_board(lambda board: board.close())

    def _on_board(self, act: Callable[[Any], Any]) -> None:
        """TensorBoard's files are an extra: where they cannot be written they end, and the run goes on."""
        if self._board is None:
            return
        try:
            act(self._board)
        except OSError:
            self._board = None


class _Board:
    """TensorBoard's file, written by this thread alone: what goes wrong is raised here and not in another."""

    def __init__(self, folder: Path, start: int):
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        proto: Any = event_pb2  # its classes are made when it is imported
        folder.mkdir(exist_ok=True)
        self._event, self._summary = proto.Event, summary
        self._file = event_file_writer.EventsWriter(str(folder / "events"))
        # What an earlier life wrote of the steps that come again is hidden.
        began = proto.SessionLog(status=proto.SessionLog.START)
        self._file.write_event(self._event(step=start + 1, session_log=began, wall_time=time.time()))

    def write(self, line: dict[str, Any]) -> None:
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float):
                found = self._summary.scalar(name if "/" in name else f"train/{name}", value)
                event = self._event(step=line["step"], summary=found, wall_time=time.time())
                self._file.write_event(event)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl up to the first that is none: a kill may have cut the last one short."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
            int(line["step"])
        except (ValueError, TypeError, KeyError):
            break
        lines.append(line)
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
    top = chips.peak(device.device_kind)
    if cost is not None and top:
        done = cost.of(tokens, **{name: float(fetched.get(name, 0.0)) for name in flops.COUNTED})
        line["mfu"] = round(done / (max(seconds, 1e-9) * top * devices), 4)
    memory = device.memory_stats() if device.platform != "cpu" else None
    if memory and "peak_bytes_in_use" in memory:
        line["hbm_gib"] = round(memory["peak_bytes_in_use"] / 2**30, 3)
    return line
