"""Several runs of one config file: `get_sweep()` lists what each changes, each is a process and a folder of its own.

What a sweep has done is read from the runs' folders alone, so that it goes on after anything, and several machines may
share it.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import importlib.util
import inspect
import io
import json
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from input_pipeline.errors import UserError
from jaxllava import config_files, interrupts

TRAIN = (sys.executable, "-m", "jaxllava", "train")
RECORD = "sweep_run.json"  # in a run's folder: the config it was started with
LOG = "log.txt"  # what it printed
INTERRUPTED = 130  # the exit code of a run that has saved its state
_FIGURES = ("loss", "validation_loss", "tokens_per_second")
_LONGEST = 100  # characters of a folder's name
Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: its name (its folder in the sweep's workdir), what it changes, and the arguments of `jaxllava train`."""

    name: str
    overrides: dict[str, Any]
    workdir: Path
    arguments: tuple[str, ...]
    config: str  # as JSON: another one is another run

    @property
    def finished(self) -> bool:
        return (self.workdir / "train.json").is_file()


def plan(config: str, overrides: Sequence[str], workdir: Path) -> list[Run]:
    """The runs of a config file's `get_sweep()`, in order; nothing is run or written.

    Args:
        config: FILE[:ARG]; ARG goes to `get_config`, and to a `get_sweep` that takes one.
        overrides: `--config.key=value` for all runs; a run's own come behind them.

    Raises UserError for a file without a sweep, a key that its config does not have, a value of a wrong type, two runs
    of one name, or a folder that holds another run.
    """
    runs = []
    for number, changes in enumerate(_listed(config), start=1):
        flags = [f"--config.{key}={_text(value)}" for key, value in changes.items()]
        given = [item for item in overrides if item.split("=")[0].removeprefix("--config.") in changes]
        if given:
            raise UserError(f"{given[0]}: get_sweep() of {config} sets this key; change it there")
        try:
            loaded = config_files.load(config, [*overrides, *flags])
        except UserError as error:
            raise UserError(f"run {number} of {config} {changes}: {error}") from error
        for key, value in changes.items():
            found = _value(loaded, key)
            if _plain(found) != _plain(value):
                raise UserError(
                    f"run {number} of {config}: {key}={value!r} would become {found!r}; give a {type(found).__name__}"
                )
        name = run_name(changes)
        folder = workdir / name
        arguments = ("--config", config, *overrides, *flags, "--workdir", str(folder))
        runs.append(Run(name, changes, folder, arguments, _json(loaded.to_dict())))
    names = [run.name for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"{config}: {names.count(name)} runs of get_sweep() are {name}; each has to differ"
            )
    for run in runs:
        record = run.workdir / RECORD
        if record.is_file() and record.read_text() != run.config:
            raise UserError(
                f"{run.workdir} holds a run with another config; use a new --workdir or remove it"
            )
    return runs


def _listed(config: str) -> list[dict[str, Any]]:
    """What the file's `get_sweep` returns, checked."""
    path, _, arg = config_files.locate(config).partition(":")
    config_files.load(config)  # whatever is wrong with the file becomes one line there
    spec = importlib.util.spec_from_file_location(f"sweep_{Path(path).stem}", path)
    assert spec is not None and spec.loader is not None  # a .py file that was just loaded
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, "get_sweep", None)
    if function is None:
        raise UserError(f"{path} has no get_sweep(); configs/sweep_lr.py is an example")
    found = function(arg) if inspect.signature(function).parameters else function()
    if not isinstance(found, list | tuple) or not found:
        raise UserError(
            f"{path}: get_sweep() gave {found!r}; a list of overrides such as [{{'lr': 1e-3}}] is needed"
        )
    for changes in found:
        if not isinstance(changes, dict) or not all(isinstance(key, str) for key in changes):
            raise UserError(
                f"{path}: get_sweep() lists {changes!r}; overrides such as {{'lr': 1e-3}} are needed"
            )
    return [dict(changes) for changes in found]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _value(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def _plain(value: Any) -> Any:
    """Lists and tuples are one to a config, whole numbers and fractions are too."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str, indent=1) + "\n"


def run_name(changes: dict[str, Any]) -> str:
    """`lr=0.001,seed=1`: the same for the same overrides, and a plain folder's name on every file system.

    What is not a letter, digit or one of `.=,+-_` becomes `_`; a name that lost something by it, or was too long,
    ends in a hash of what it stood for.
    """
    whole = ",".join(f"{key}={_text(value)}" for key, value in changes.items()) or "base"
    name = re.sub(r"[^A-Za-z0-9.=,+_-]+", "_", whole)
    if name == whole and len(name) <= _LONGEST:
        return name
    return f"{name[:_LONGEST]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def share(runs: Sequence[Item], only: str) -> list[Item]:
    """The runs of machine I of N, for `I/N` with I from 1 to N: every N-th."""
    match = re.fullmatch(r"(\d+)/(\d+)", only)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--only {only}: write I/N with I from 1 to N, such as 1/4")
    return list(runs[int(match[1]) - 1 :: int(match[2])])


def command_line(run: Run) -> str:
    """The run as a line for a shell, with the `python` of the machine that runs it."""
    return shlex.join(["python", "-m", "jaxllava", "train", *run.arguments])


def run_all(
    runs: Sequence[Run], chosen: Sequence[Run], workdir: Path, train: Sequence[str] = ()
) -> list[str]:
    """Runs what of `chosen` is not finished, one after another; `sweep.json` and `.csv` tell of all `runs`.

    A run that fails is named and the others go on; returned are the names of those. An interrupt (Ctrl-C, SIGTERM) is
    handed to the run, which saves its state, and then raised. `train` is the command that runs one, TRAIN if not given.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    reasons: dict[str, str] = {}
    _write(runs, workdir, reasons)
    for number, run in enumerate(chosen, start=1):
        head = f"[{number}/{len(chosen)}] {run.name}"
        if run.finished:
            print(f"{head}: finished before", flush=True)
            continue
        print(head, flush=True)
        run.workdir.mkdir(parents=True, exist_ok=True)
        (run.workdir / RECORD).write_text(run.config)
        code, last, interrupted = _run(run, train or TRAIN)
        if interrupted and not run.finished:
            _write(runs, workdir, reasons)
            raise KeyboardInterrupt
        if code or not run.finished:
            reasons[run.name] = "interrupted" if code == INTERRUPTED else last or f"exit code {code}"
            print(f"{head}: {reasons[run.name]} ({run.workdir / LOG})", file=sys.stderr, flush=True)
        _write(runs, workdir, reasons)
    return list(reasons)


def _run(run: Run, train: Sequence[str]) -> tuple[int, str, bool]:
    """(exit code, its last line if that is an error, whether we were interrupted). Its output is shown and logged."""
    # A session of its own: a Ctrl-C reaches it once, from here, and not a second time from the terminal, which would
    # stop it before it has saved.
    with (
        (run.workdir / LOG).open("ab") as log,
        subprocess.Popen(
            [*train, *run.arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
        interrupts.noted(process.send_signal) as received,
    ):
        assert process.stdout is not None
        tail = b""
        while chunk := os.read(process.stdout.fileno(), 1 << 16):
            log.write(chunk)
            log.flush()
            sys.stderr.write(chunk.decode(errors="replace"))
            sys.stderr.flush()
            tail = (tail + chunk)[-4000:]
        code = process.wait()
    last = re.split(r"[\r\n]+", tail.decode(errors="replace").strip())[-1]
    return code, last.removeprefix("error: ") if last.startswith("error: ") else "", bool(received)


def _state(run: Run, reasons: Mapping[str, str]) -> dict[str, Any]:
    """A run as its folder tells of it: a row of the table."""
    loss = validation = speed = None
    for line in _lines(run.workdir / "metrics.jsonl"):
        loss = line.get("loss", loss)
        speed = line.get("tokens_per_second", speed)
        if (found := line.get("validation_loss")) is not None:
            validation = found if validation is None else min(validation, found)
    if run.finished:
        status = "finished"
        speed = json.loads((run.workdir / "train.json").read_text()).get("tokens_per_second", speed)
    elif run.name in reasons:
        status = f"failed: {reasons[run.name]}"
    else:
        status = "unfinished" if (run.workdir / RECORD).is_file() else "not started"
    return {
        "name": run.name,
        "overrides": run.overrides,
        "status": status,
        "loss": loss,
        "validation_loss": validation,
        "tokens_per_second": speed,
        "path": str(run.workdir),
    }


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """A log's lines; the last one may be half written."""
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def _write(runs: Sequence[Run], workdir: Path, reasons: Mapping[str, str]) -> None:
    """`sweep.json` and `sweep.csv`, each whole at any moment: several machines may write them."""
    rows = [_state(run, reasons) for run in runs]
    keys = list(dict.fromkeys(key for run in runs for key in run.overrides))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*keys, "status", *_FIGURES, "path"])
    for row in rows:
        chosen = [row["overrides"].get(key, "") for key in keys]
        writer.writerow([*chosen, row["status"], *(row[name] for name in _FIGURES), row["path"]])
    for name, content in (("sweep.json", json.dumps(rows, indent=1) + "\n"), ("sweep.csv", text.getvalue())):
        unfinished = workdir / f".{name}.{os.getpid()}"
        unfinished.write_text(content)
        unfinished.replace(workdir / name)


def table(workdir: Path) -> str:
    """`sweep.json` for a terminal: a line for each run, and which has the lowest loss (of validation, if measured)."""
    rows = json.loads((workdir / "sweep.json").read_text())
    cells = [["run", "status", "loss", "validation", "tokens/s", "path"]]
    for row in rows:
        figures = [
            "-" if row[name] is None else f"{row[name]:.{digits}f}"
            for name, digits in zip(_FIGURES, (4, 4, 0), strict=True)
        ]
        cells.append([row["name"], row["status"][:60], *figures, row["path"]])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
             for line in cells]  # fmt: skip
    done = [row for row in rows if row["status"] == "finished"]
    for name in ("validation_loss", "loss"):
        measured = [row for row in done if row[name] is not None and math.isfinite(row[name])]
        if measured:
            best = min(measured, key=lambda row: row[name])
            lines.append(f"lowest {name.replace('_', ' ')}: {best['name']} ({best[name]:.4f})")
            break
    return "\n".join(lines)
