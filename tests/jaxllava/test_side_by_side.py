"""Processes side by side: what is run again, what fails, what an interrupt does. A script stands in for the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from input_pipeline.errors import UserError
from jaxllava import side_by_side
from jaxllava.side_by_side import Unit

# Writes its cores to its result; `fail` ends with an error, `wait` until it is interrupted, and says so.
STUB = """
import pathlib, signal, sys, time
folder, what, cores = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with (folder / f"{what}.starts").open("a") as log:
    log.write("x")
if what.startswith("fail"):
    print("something\\nerror: no rows")
    sys.exit(2)
if what.startswith("crash"):
    raise ZeroDivisionError("of nothing")
if what.startswith("wait") and not (folder / "go").exists():
    def stop(number, frame):
        (folder / f"{what}.stopped").write_text(str(number))
        sys.exit(130)
    signal.signal(signal.SIGINT, stop)
    (folder / f"{what}.ready").touch()
    time.sleep(60)
(folder / f"{what}.json").write_text(cores)
"""

DRIVER = """
import sys
from pathlib import Path
from tests.jaxllava.test_side_by_side import units
from jaxllava import side_by_side
try:
    failed = side_by_side.run_all(units(Path(sys.argv[1]), *sys.argv[3:]), int(sys.argv[2]))
except KeyboardInterrupt:
    sys.exit(130)
print(failed)
"""


def units(folder, *names):
    stub = folder / "stub.py"
    stub.write_text(STUB)
    return [
        Unit(
            name,
            (sys.executable, str(stub), str(folder), name),
            folder / f"{name}.json",
            folder / f"{name}.log",
        )
        for name in names
    ]


def starts(folder, name):
    path = folder / f"{name}.starts"
    return len(path.read_text()) if path.exists() else 0


def test_each_runs_on_its_share_of_the_cores(tmp_path):
    jobs = min(2, len(side_by_side.cores()))
    reports = []
    assert (
        side_by_side.run_all(units(tmp_path, "a", "b", "c"), jobs, lambda *told: reports.append(told)) == {}
    )
    shares = {",".join(map(str, own)) for own in side_by_side.shares(jobs)}
    assert {(tmp_path / f"{name}.json").read_text() for name in "abc"} <= shares
    assert reports[0] == (0, 3, "") and reports[-1] == (3, 3, "")


def test_what_is_finished_is_not_run_again(tmp_path):
    (tmp_path / "a.json").write_text("before")
    side_by_side.run_all(units(tmp_path, "a", "b"), 1)
    assert (starts(tmp_path, "a"), starts(tmp_path, "b")) == (0, 1)
    assert (tmp_path / "a.json").read_text() == "before"


def test_one_that_fails_is_named_and_the_others_go_on(tmp_path):
    failed = side_by_side.run_all(units(tmp_path, "fail", "crash", "b"), 1)
    assert list(failed) == ["fail", "crash"]
    assert failed["fail"] == f"no rows ({tmp_path / 'fail.log'})"
    assert failed["crash"].startswith("exit code 1: ZeroDivisionError: of nothing")
    assert (tmp_path / "b.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_reaches_all_and_the_same_call_goes_on(tmp_path, number):
    jobs = min(2, len(side_by_side.cores()))
    names = ["a", *(f"wait{i}" for i in range(jobs)), "last"]
    command = [sys.executable, "-c", DRIVER, str(tmp_path), str(jobs), *names]
    with subprocess.Popen(command) as process:
        until = time.monotonic() + 60
        while not all((tmp_path / f"wait{i}.ready").exists() for i in range(jobs)):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(60) == 130
    assert all((tmp_path / f"wait{i}.stopped").read_text() == str(int(signal.SIGINT)) for i in range(jobs))
    assert starts(tmp_path, "last") == 0
    (tmp_path / "go").touch()
    assert side_by_side.run_all(units(tmp_path, *names), jobs) == {}
    assert (starts(tmp_path, "a"), starts(tmp_path, "wait0"), starts(tmp_path, "last")) == (1, 2, 1)


@pytest.mark.parametrize("jobs", [0, -1, len(side_by_side.cores()) + 1])
def test_more_processes_than_cores_are_refused(jobs):
    with pytest.raises(UserError, match=rf"--jobs {jobs}: a number from 1 to {len(side_by_side.cores())}"):
        side_by_side.shares(jobs)


def test_the_cores_are_those_of_this_process():
    assert len(side_by_side.cores()) <= (os.cpu_count() or 1)
    assert sorted(core for own in side_by_side.shares(1) for core in own) == side_by_side.cores()
