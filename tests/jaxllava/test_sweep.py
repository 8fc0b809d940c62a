"""Sweeps: what is planned, what is run again, what fails. One test trains; in the others a script does."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import jax
import pytest

from input_pipeline.errors import UserError
from input_pipeline.tokenizer import load_tokenizer
from jaxllava import cli, sweep
from jaxllava.models.clip import ClipVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llava import LlavaConfig, init_params
from jaxllava.weights import orbax

CONFIG = """
from configs import train
from configs.arguments import product

def get_config(arg=""):
    return train.get_config("stage=" + (arg or "behavior"))

def get_sweep({parameters}):
    return {runs}
"""

# Stands in for `jaxllava train`: as long as its workdir has no `go`, it fails, hangs or leaves half a log.
STUB = """
import json, os, pathlib, signal, sys, time
arguments = sys.argv[1:]
workdir = pathlib.Path(arguments[arguments.index("--workdir") + 1])
lr = float(next(a.split("=")[1] for a in arguments if a.startswith("--config.lr=")))
with (workdir / "starts").open("a") as log:
    log.write("x")
go = (workdir.parent / "go").exists()
line = {"step": 1, "loss": 100 * lr, "tokens_per_second": 7.0}
(workdir / "metrics.jsonl").write_text(json.dumps(line) + "\\n" + '{"step": 2, "lo')
if lr == 0.02 and not go:
    print("starting", flush=True)
    print("error: the data has no rows", file=sys.stderr)
    sys.exit(2)
if lr == 0.03 and not go:
    def stop(number, frame):
        with (workdir / "signals").open("a") as log:
            log.write(f"{number} ")
        time.sleep(0.5)
        sys.exit(130)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    # In a terminal's session its Ctrl-C would come a second time.
    (workdir / "ready").write_text("alone" if os.getsid(0) == os.getpid() else "shared")
    time.sleep(60)
line["validation_loss"] = 1 - lr
(workdir / "metrics.jsonl").write_text(json.dumps(line) + "\\n" + json.dumps(line | {"validation_loss": 2.0}) + "\\n")
(workdir / "train.json").write_text(json.dumps({"tokens_per_second": 9.5}))
"""


@pytest.fixture
def written(tmp_path):
    """Writes a config file with these runs; returns its name and the stub's command."""

    def write(runs: str, parameters: str = "") -> str:
        file = tmp_path / "my_sweep.py"
        file.write_text(CONFIG.format(runs=runs, parameters=parameters))
        return str(file)

    return write


@pytest.fixture
def stub(tmp_path):
    (tmp_path / "stub.py").write_text(STUB)
    return (sys.executable, str(tmp_path / "stub.py"))


def test_every_run_is_a_train_command_of_its_own(written, tmp_path):
    file = written('product(lr=[1e-3, 2e-5], **{"template": ["v1_bare"]})')
    runs = sweep.plan(f"{file}:ad", ["--config.batch=4"], tmp_path / "out")
    assert [run.name for run in runs] == ["lr=0.001,template=v1_bare", "lr=2e-05,template=v1_bare"]
    assert runs[1].arguments == (
        *("--config", f"{file}:ad", "--config.batch=4", "--config.lr=2e-05", "--config.template=v1_bare"),
        *("--workdir", str(tmp_path / "out" / "lr=2e-05,template=v1_bare")),
    )
    loaded = json.loads(runs[1].config)
    assert (loaded["stage"], loaded["batch"], loaded["lr"]) == ("ad", 4, 2e-5)
    assert not (tmp_path / "out").exists()


def test_values_of_any_kind_arrive_as_they_are(written, tmp_path):
    rules = (("vision/.*", None), ("(projector|decoder)/.*'\"", 1.0))
    changes = {
        "lr_rules": rules,
        "mesh": (1, 2, 4),
        "tensorboard": False,
        "lr": 1,
        "data": "a b",
        "template": "",
    }
    (run,) = sweep.plan(written(repr([changes])), [], tmp_path)
    loaded = json.loads(run.config)
    assert loaded["lr_rules"] == [list(rule) for rule in rules]
    assert (loaded["mesh"], loaded["tensorboard"], loaded["lr"]) == ([1, 2, 4], False, 1.0)
    assert (loaded["data"], loaded["template"]) == ("a b", "")
    assert shlex.split(sweep.command_line(run))[4:] == list(run.arguments)


def test_a_name_is_a_plain_folder_and_stable():
    assert sweep.run_name({}) == "base"
    assert sweep.run_name({"lr": 1e-3, "seed": 1}) == "lr=0.001,seed=1"
    a, b = (sweep.run_name({"data": path}) for path in ("/data/one two", "/data/one_two"))
    assert a != b and a == "data=_data_one_two-" + a[-8:] and re.fullmatch(r"[\w.=,+-]+", b)
    long = sweep.run_name({"template": "x" * 300})
    assert len(long) < 120 and long == sweep.run_name({"template": "x" * 300})


def test_get_sweep_may_take_the_argument(written, tmp_path):
    file = written('[{"seed": int(arg == "ad")}]', "arg")
    assert [run.name for run in sweep.plan(f"{file}:ad", [], tmp_path)] == ["seed=1"]
    assert [run.name for run in sweep.plan(file, [], tmp_path)] == ["seed=0"]


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ('[{"lr": 1e-3}, {"step": 3}]', "run 2 of .*has no config key 'step'. Did you mean 'steps'"),
        ('[{"steps": "many"}]', "run 1 of .*steps=many"),
        ('[{"seed": 1.5}]', "run 1 of .*seed=1.5"),
        ('[{"seed": 1}, {"seed": 2}, {"seed": 1}]', "2 runs of get_sweep.. are seed=1; each has to differ"),
        ("[]", r"get_sweep\(\) gave \[\]; a list of overrides"),
        ('{"lr": 1e-3}', "a list of overrides"),
        ("[1]", "get_sweep.. lists 1; overrides such as"),
        ("[{1: 2}]", "get_sweep.. lists {1: 2}"),
    ],
)
def test_what_cannot_be_a_sweep_is_one_line_before_anything_runs(written, tmp_path, runs, message):
    with pytest.raises(UserError, match=message) as error:
        sweep.plan(written(runs), [], tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_file_without_a_sweep_is_named(tmp_path):
    with pytest.raises(
        UserError, match=r"train\.py has no get_sweep\(\); configs/sweep_lr\.py is an example"
    ):
        sweep.plan("train", [], tmp_path)
    with pytest.raises(UserError, match="no file 'nowhere'"):
        sweep.plan("nowhere", [], tmp_path)


def test_the_shipped_example_is_nine_runs(tmp_path):
    names = [run.name for run in sweep.plan("sweep_lr:arm=ad", [], tmp_path)]
    assert len(names) == 9 and names[:2] == ["lr=1e-05,seed=0", "lr=1e-05,seed=1"]


def test_machines_share_the_runs_without_a_gap(written, tmp_path):
    runs = sweep.plan(written("product(seed=range(7))"), [], tmp_path)
    shares = [sweep.share(runs, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(run.name for some in shares for run in some) == sorted(run.name for run in runs)
    assert [run.name for run in shares[1]] == ["seed=1", "seed=4"]
    for bad in ("0/3", "4/3", "1", "a/b", "1/0"):
        with pytest.raises(UserError, match="--only"):
            sweep.share(runs, bad)


def test_a_failed_run_is_named_and_the_others_go_on(written, stub, tmp_path, capfd):
    runs = sweep.plan(written("product(lr=[0.01, 0.02, 0.04])"), [], tmp_path / "out")
    assert sweep.run_all(runs, runs, tmp_path / "out", stub) == ["lr=0.02"]
    rows = {row["name"]: row for row in json.loads((tmp_path / "out/sweep.json").read_text())}
    assert [row["status"] for row in rows.values()] == [
        "finished",
        "failed: the data has no rows",
        "finished",
    ]
    assert rows["lr=0.02"]["loss"] == 2.0, "of the lines that are whole"
    assert rows["lr=0.04"] == {
        **{"name": "lr=0.04", "overrides": {"lr": 0.04}, "status": "finished", "loss": 4.0},
        **{"validation_loss": 0.96, "tokens_per_second": 9.5, "path": str(tmp_path / "out/lr=0.04")},
    }
    table = list(csv.DictReader((tmp_path / "out/sweep.csv").open()))
    assert [row["lr"] for row in table] == ["0.01", "0.02", "0.04"]
    assert "error: the data has no rows" in capfd.readouterr().err
    assert "starting" in (tmp_path / "out/lr=0.02/log.txt").read_text()
    text = sweep.table(tmp_path / "out")
    assert "lowest validation loss: lr=0.04 (0.9600)" in text and len(text.splitlines()) == 5

    (tmp_path / "out/go").touch()
    assert sweep.run_all(runs, runs, tmp_path / "out", stub) == []
    starts = {run.name: len((run.workdir / "starts").read_text()) for run in runs}
    assert starts == {"lr=0.01": 1, "lr=0.02": 2, "lr=0.04": 1}, "a finished run is not run again"


def test_a_folder_of_another_run_is_not_taken_for_this_one(written, stub, tmp_path):
    runs = sweep.plan(written("product(lr=[0.01])"), [], tmp_path / "out")
    sweep.run_all(runs, runs, tmp_path / "out", stub)
    with pytest.raises(UserError, match=r"lr=0\.01 holds a run with another config; use a new --workdir"):
        sweep.plan(written("product(lr=[0.01])"), ["--config.batch=2"], tmp_path / "out")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_reaches_the_run_once_and_the_sweep_goes_on_later(written, stub, tmp_path, number):
    file = written("product(lr=[0.01, 0.03, 0.04])")
    out = tmp_path / "out"
    code = (
        "import sys; from pathlib import Path; from jaxllava import sweep; "
        f"runs = sweep.plan({file!r}, [], Path({str(out)!r})); sweep.run_all(runs, runs, Path({str(out)!r}), {stub!r})"
    )
    # A session of its own, whose every process gets the signal, as from a terminal's Ctrl-C.
    process = subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (out / "lr=0.03/ready").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, number)
    assert process.wait(30) != 0
    assert (out / "lr=0.03/signals").read_text() == f"{int(number)} "
    assert (out / "lr=0.03/ready").read_text() == "alone"
    states = [row["status"] for row in json.loads((out / "sweep.json").read_text())]
    assert states == ["finished", "unfinished", "not started"]
    (out / "go").touch()
    runs = sweep.plan(file, [], out)
    assert sweep.run_all(runs, runs, out, stub) == []
    assert [len((run.workdir / "starts").read_text()) for run in runs] == [1, 2, 1]


def test_print_prints_and_runs_nothing(written, tmp_path, capsys):
    file = written("product(seed=[0, 1, 2])")
    cli.main(["sweep", "--config", file, "--workdir", str(tmp_path / "a b"), "--print", "--only", "2/2"])
    (line,) = capsys.readouterr().out.splitlines()
    assert shlex.split(line)[:4] == ["python", "-m", "jaxllava", "train"]
    assert shlex.split(line)[-1] == str(tmp_path / "a b" / "seed=1")
    assert not (tmp_path / "a b").exists()


def test_the_command_s_exit_code_tells_of_a_failed_run(written, stub, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(sweep, "TRAIN", stub)
    command = ["sweep", "--config", written("product(lr=[0.01, 0.02])"), "--workdir", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        cli.main(command)
    assert stop.value.code == 1
    out, err = capfd.readouterr()
    assert err.splitlines()[-1] == "error: 1 of 2 runs failed: lr=0.02"
    assert "failed: the data has no rows" in out
    (tmp_path / "out/go").touch()
    cli.main(command)
    assert "[1/2] lr=0.01: finished before" in capfd.readouterr().out


@pytest.mark.slow
def test_two_real_runs(plaza, written, tmp_path, capfd, monkeypatch):
    """Through the command line, processes and all."""
    tokenizer = load_tokenizer(plaza / "tokenizer")
    vision = ClipVisionConfig(16, 32, 2, 2, image_size=32, patch_size=16)
    model = LlavaConfig(
        vision, LlamaConfig(len(tokenizer), 16, 32, 2, 2), tokenizer.convert_tokens_to_ids("<image>")
    )
    orbax.save_model(tmp_path / "base", init_params(model, jax.random.key(0)), model, tokenizer, "v1_bare")
    shared = {"data": plaza / "data/records", "base": tmp_path / "base", "batch": 2, "steps": 2, "devices": 1}
    overrides = [f"--config.{key}={value}" for key, value in shared.items()]
    # The second run's programs are the first one's: half of the test's time.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "programs"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    file = written("product(seed=[0, 1])")
    cli.main(["sweep", "--config", file, "--workdir", str(tmp_path / "out"), *overrides])
    rows = json.loads((tmp_path / "out/sweep.json").read_text())
    assert [row["status"] for row in rows] == ["finished", "finished"]
    assert all(row["loss"] > 0 and row["tokens_per_second"] >= 0 for row in rows)
    assert "lowest loss: seed=" in capfd.readouterr().out
    assert all(orbax.is_model_folder(tmp_path / f"out/seed={seed}/model") for seed in (0, 1))
