"""Several processes at a time, each with cores of its own, until all are done; the output of each goes to a file.

Programs of small operations do not fill the threads of one process: two processes of one thread each do twice as much.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from input_pipeline.errors import UserError
from jaxllava import interrupts

_POLL = 0.1  # seconds
_PATIENCE = 120.0  # seconds in which an interrupted process may save what it has


@dataclass(frozen=True)
class Unit:
    """A command that leaves `result` when it is done; given again it goes on where it was."""

    name: str
    command: tuple[str, ...]  # the numbers of its cores are put behind it, joined by commas
    result: Path
    log: Path

    @property
    def finished(self) -> bool:
        return self.result.is_file()


def cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def shares(jobs: int) -> list[list[int]]:
    """The cores of each of `jobs` processes; UserError where one would have none."""
    own = cores()
    if not 1 <= jobs <= len(own):
        raise UserError(f"--jobs {jobs}: a number from 1 to {len(own)}, the cores of this machine, is needed")
    return [part.tolist() for part in np.array_split(own, jobs)]


def run_all(
    units: Sequence[Unit], jobs: int, report: Callable[[int, int, str], None] | None = None
) -> dict[str, str]:
    """Runs what is not finished, `jobs` at a time; returns {name: reason} of what failed. The others go on.

    An interrupt (Ctrl-C, SIGTERM) is handed to all processes, which save what they have, and then raised.
    """
    waiting = [unit for unit in units if not unit.finished]
    done, failed = len(units) - len(waiting), {}
    free = shares(jobs)
    running: list[tuple[Unit, subprocess.Popen[bytes], list[int]]] = []
    tell = report or (lambda done, total, note: None)
    tell(done, len(units), "")
    with interrupts.noted() as asked:
        try:
            while (waiting or running) and not asked:
                while waiting and free:
                    unit, own = waiting.pop(0), free.pop(0)
                    running.append((unit, _start(unit, own), own))
                    tell(done, len(units), ", ".join(unit.name for unit, *_ in running))
                for entry in [entry for entry in running if entry[1].poll() is not None]:
                    unit, process, own = entry
                    running.remove(entry)
                    free.append(own)
                    done += 1
                    if process.returncode or not unit.finished:
                        failed[unit.name] = _reason(unit, process.returncode)
                    tell(done, len(units), ", ".join(unit.name for unit, *_ in running))
                time.sleep(_POLL)
        finally:
            _stop([process for _, process, _ in running])
    if asked:
        raise KeyboardInterrupt
    return failed


def _start(unit: Unit, own: Sequence[int]) -> subprocess.Popen[bytes]:
    unit.log.parent.mkdir(parents=True, exist_ok=True)
    # A session of its own: a Ctrl-C reaches it once, from here, and not a second time from the terminal, which would
    # stop it before it has saved.
    with unit.log.open("ab") as log:
        return subprocess.Popen(
            [*unit.command, ",".join(map(str, own))],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.send_signal(signal.SIGINT)
    until = time.monotonic() + _PATIENCE
    for process in processes:
        try:
            process.wait(max(until - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _reason(unit: Unit, code: int) -> str:
    """The last line of what a process said, if that is an error, and where the rest of it is."""
    with unit.log.open("rb") as log:
        log.seek(max(unit.log.stat().st_size - 4000, 0))
        tail = log.read().decode(errors="replace").strip()
    last = re.split(r"[\r\n]+", tail)[-1]
    said = last.removeprefix("error: ") if last.startswith("error: ") else f"exit code {code}: {last[:200]}"
    return f"{said} ({unit.log})"
