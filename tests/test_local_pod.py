"""Real processes with jax.distributed on one machine: what several hosts do together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxllava import metrics, rules
from tests.jaxllava import test_train_video
from tests.jaxllava import tiny_models as tiny
from tests.jaxllava.benchmark_fixtures import image_emotion

SCRIPT = Path(__file__).parents[1] / "launch" / "local_pod.sh"
STEPS = 5


def start(count: int, tiny_base: Path, workdir: Path, compiled: Path, **changes) -> subprocess.Popen:
    data = changes.pop("data", tiny_base.parent / "data" / "records")
    python = str(changes.pop("python", sys.executable))
    settings = dict(data=data, base=tiny_base, batch=8, steps=STEPS, accumulate=2, lr=1e-3, mesh="(2,2,1)")
    settings |= dict(checkpoint_every=2, log_every=1, row_tokens=256, tensorboard=False, barrier_minutes=2.0)
    overrides = [f"--config.{key}={value}" for key, value in (settings | changes).items()]
    arguments = [
        "train",
        "--config",
        "configs/train.py:stage=behavior",
        "--workdir",
        str(workdir),
        *overrides,
    ]
    environment = os.environ | {
        "PYTHON": python,
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [str(SCRIPT), str(count), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    told, _ = process.communicate(timeout=420)
    assert process.returncode == 0, told
    return told


def lines(workdir: Path) -> list[dict]:
    return [line for line in metrics.read(workdir / metrics.NAME) if "loss" in line]


def assert_same_run(one: Path, other: Path, batches: bool = True) -> None:
    """The same batches to the bit; losses and parameters to float32's rounding, as sums come in another order.

    batches: not of runs on features, which are computed with that rounding.
    """
    first, second = lines(one), lines(other)
    assert not batches or [line["batch"] for line in first] == [line["batch"] for line in second]
    assert len({line["batch"] for line in first}) == len(first) == STEPS
    for key in ("loss", "gradient_norm"):
        np.testing.assert_allclose([line[key] for line in first], [line[key] for line in second], rtol=2e-6)
    expected, found = (rules.flatten(tiny.opened(folder / "model")[0]) for folder in (one, other))
    for path, leaf in expected.items():
        np.testing.assert_allclose(np.asarray(found[path]), np.asarray(leaf), atol=2e-6, err_msg=path)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def llama_vid(tokenizer, tmp_path_factory) -> Path:
    """A tiny LLaMA-VID's folder, beside records of films."""
    root = tmp_path_factory.mktemp("llama-vid")
    test_train_video.write_setting(root, tokenizer)
    return root / "base"


@pytest.fixture(scope="module")
def alone(tiny_base, compiled, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("pod") / "alone"
    finish(start(1, tiny_base, workdir, compiled))
    return workdir


@pytest.mark.slow
def test_two_processes_train_as_one_does(tiny_base, compiled, alone, tmp_path):
    finish(start(2, tiny_base, tmp_path / "two", compiled))
    assert_same_run(alone, tmp_path / "two")
    (step,) = [path for path in (tmp_path / "two" / "checkpoints").iterdir() if path.name == "4"]
    written = [path.name for path in (step / "state").iterdir()]
    assert {"ocdbt.process_0", "ocdbt.process_1"} <= set(written), "each process writes what it holds"


@pytest.mark.slow
@pytest.mark.parametrize(("count", "workers"), [(1, 2), (2, 4), (4, 0), (4, 2)])
def test_neither_processes_nor_workers_change_a_run(tiny_base, compiled, alone, tmp_path, count, workers):
    finish(start(count, tiny_base, tmp_path / "run", compiled, workers=workers))
    assert_same_run(alone, tmp_path / "run")


@pytest.mark.slow
def test_processes_share_the_features_that_a_run_keeps(llama_vid, compiled, tmp_path):
    """Each computes its part of them, and both train on all: as one process does."""
    seeing = r"(vision|qformer|qformer_norm|context)/.*"
    own = dict(
        data=llama_vid.parent / "records",
        mixture="(('instruct_train', 1.0),)",
        lr_rules=rf"((r'(projector|decoder|context/value_proj)/.*', 1.0), (r'{seeing}', None))",
        row_images=8,
    )
    features = [tmp_path / name / "features" for name in ("one", "two")]
    for count, folder in enumerate(features, 1):
        finish(start(count, llama_vid, folder.parent, compiled, features=folder, **own))
    assert_same_run(features[0].parent, features[1].parent, batches=False)
    files = [{path.name: path for path in folder.rglob("*.features")} for folder in features]
    assert files[0].keys() == files[1].keys() and len(files[0]) == 18, (
        "one of each sample that shows something"
    )
    for name, path in files[0].items():
        one, other = (each.read_bytes().partition(b"\n") for each in (path, files[1][name]))
        assert one[0] == other[0], "shape and type"
        np.testing.assert_allclose(*(np.frombuffer(body, np.float32) for *_, body in (one, other)), atol=1e-5)
    # A host whose disk is another one lacks what the others made. The second process names a folder of its own.
    wrapper = tmp_path / "python"
    wrapper.write_text(
        "#!/usr/bin/env bash\n"
        f'if [ "${{JAX_PROCESS_ID:-0}}" = 1 ]; then cd {tmp_path}; fi\nexec {sys.executable} "$@"\n'
    )
    wrapper.chmod(0o755)
    process = start(2, llama_vid, tmp_path / "apart", compiled, features="features", python=wrapper, **own)
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 2, told
    assert (
        "features, which other hosts made, are not here; name a folder on a disk that all hosts share" in told
    )


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tiny_base, compiled, alone, tmp_path):
    """SIGTERM, as of a preemption, to all of two processes; then one, on another mesh."""
    workdir = tmp_path / "run"
    process = start(2, tiny_base, workdir, compiled, log_every=1)
    until = time.monotonic() + 300
    while not lines(workdir) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert "stopped by SIGTERM, saved at step" in told
    reached = max(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())
    assert 0 < reached < STEPS and not (workdir / "train.json").exists()
    finish(start(1, tiny_base, workdir, compiled, mesh="(1,2,2)"))
    assert_same_run(alone, workdir)


@pytest.mark.slow
def test_hosts_that_differ_stop_and_say_in_what(tiny_base, compiled, tmp_path):
    """The second process gets another learning rate by way of a wrapper around its interpreter."""
    wrapper = tmp_path / "python"
    wrapper.write_text(
        "#!/usr/bin/env bash\n"
        f'if [ "${{JAX_PROCESS_ID:-0}}" = 1 ]; then set -- "$@" --config.lr=0.5; fi\nexec {sys.executable} "$@"\n'
    )
    wrapper.chmod(0o755)
    overrides = dict(data=tiny_base.parent / "data" / "records", base=tiny_base, batch=8, steps=2)
    arguments = ["--config", "configs/train.py:stage=behavior", "--workdir", str(tmp_path / "run")]
    process = subprocess.run(
        [
            str(SCRIPT),
            "2",
            "train",
            *arguments,
            *(f"--config.{key}={value}" for key, value in overrides.items()),
        ],
        env=os.environ | {"PYTHON": str(wrapper)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    told = process.stdout + process.stderr
    assert process.returncode == 2, told
    assert "the hosts are not about to run the same: config.lr is" in told and "has 0.5" in told
    assert not (tmp_path / "run" / metrics.NAME).exists()


@pytest.mark.slow
def test_a_process_that_is_lost_ends_the_others(tiny_base, compiled, tmp_path):
    process = start(2, tiny_base, tmp_path / "run", compiled, steps=100000)
    until = time.monotonic() + 300
    while not lines(tmp_path / "run") and time.monotonic() < until:
        time.sleep(0.05)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "jaxllava"], capture_output=True, text=True
    ).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL, told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the number of processes"),
        (["two", "train"], "numbers are needed"),
        (["3", "train"], "3 processes do not divide DEVICES=4"),
    ],
)
def test_a_wrong_call_is_one_line(arguments, message):
    done = subprocess.run([str(SCRIPT), *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_workdir_holds_json_that_others_can_read(alone):
    assert json.loads((alone / "train.json").read_text())["facts"]["steps"] == STEPS


@pytest.mark.slow
def test_two_processes_answer_a_benchmark(tiny_base, compiled, tmp_path):
    image_emotion.WRITERS["emotion6"](tmp_path)
    out = tmp_path / "out"
    wrapper = tmp_path / "python"
    wrapper.write_text(
        "#!/usr/bin/env bash\n"
        f'[ "${{JAX_PROCESS_ID:-0}}" = 1 ] && set -- "$@" $OF_THE_SECOND\nexec {sys.executable} "$@"\n'
    )
    wrapper.chmod(0o755)

    def evaluate(count: int, of_the_second: str = "") -> tuple[int, str]:
        arguments = [
            "--tasks",
            "emotion6",
            "--data-root",
            str(tmp_path),
            "--out",
            str(out),
            "--batch-size",
            "4",
        ]
        process = subprocess.run(
            [str(SCRIPT), str(count), "evaluate", "--checkpoint", str(tiny_base), *arguments],
            env=os.environ
            | {
                "PYTHON": str(wrapper),
                "OF_THE_SECOND": of_the_second,
                "JAX_COMPILATION_CACHE_DIR": str(compiled),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        return process.returncode, process.stdout + process.stderr

    def answered() -> list[int]:
        return [
            len(path.read_text().splitlines()) - 1 for path in sorted((out / "emotion6").glob("answers-*"))
        ]

    code, told = evaluate(2, "--limit 2")
    assert code and "the hosts are not about to run the same: emotion6, the questions" in told, told
    assert sum(answered()) == 0
    code, told = evaluate(2)
    assert code == 0 and told.count("Behavior-LLaVA") == 1, told
    assert answered() == [2, 2]
    result = json.loads((out / "emotion6" / "result.json").read_text())
    assert result["answered"] == result["asked"] == 4
    code, told = evaluate(1)
    assert code == 0 and answered() == [2, 2], told
    assert json.loads((out / "emotion6" / "result.json").read_text())["figures"] == result["figures"]
