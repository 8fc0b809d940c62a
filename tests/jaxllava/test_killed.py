"""SIGKILL at random moments: a run that is started again each time ends bitwise where an undisturbed one does."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxllava import metrics, rules
from tests.jaxllava import tiny_models as tiny

pytestmark = pytest.mark.slow
KILLS = 20
STEPS = 60


def command(tiny_base, workdir) -> list[str]:
    settings = dict(
        data=tiny_base.parent / "data" / "records", base=tiny_base, batch=4, accumulate=2, steps=STEPS
    )
    settings |= dict(lr=1e-3, checkpoint_every=1, log_every=1, row_tokens=256)
    overrides = [f"--config.{key}={value}" for key, value in settings.items()]
    return [sys.executable, "-m", "jaxllava", "train", "--config", "configs/train.py:stage=behavior",
            "--workdir", str(workdir), *overrides]  # fmt: skip


def start(arguments, compiled) -> subprocess.Popen:
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_a_run_that_is_killed_again_and_again_ends_bitwise_the_same(tiny_base, tmp_path):
    undisturbed = start(command(tiny_base, tmp_path / "undisturbed"), tmp_path / "compiled")
    told, _ = undisturbed.communicate(timeout=600)
    assert undisturbed.returncode == 0, told
    dice = random.Random(0)
    arguments, workdir = command(tiny_base, tmp_path / "killed"), tmp_path / "killed"
    kills, reached, while_saving_the_model = 0, [], 0
    for life in range(200):
        before = len(metrics.read(workdir / metrics.NAME))
        process = start(arguments, tmp_path / "compiled")
        # One life in five ends at any moment of its start; the others a moment after they have got somewhere.
        limit = time.monotonic() + (dice.uniform(0.5, 12.0) if life % 5 == 0 else 300.0)
        spared = kills >= KILLS
        while process.poll() is None:
            time.sleep(0.01)
            if (workdir / ".model.unfinished").exists() and not while_saving_the_model:
                while_saving_the_model = 1
                break
            if not spared and time.monotonic() > limit:
                break
            gone = len(metrics.read(workdir / metrics.NAME)) - before
            if not spared and gone > (
                0 if life % 5 else 2
            ):  # else a quick machine is done before its time is over
                time.sleep(dice.uniform(0.0, 0.25))
                break
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        told, _ = process.communicate(timeout=60)
        reached.append(len(metrics.read(workdir / metrics.NAME)))
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, told
    assert process.returncode == 0, told
    assert kills >= KILLS, f"{kills} kills, steps reached: {reached}"
    assert while_saving_the_model, "none came while the model was written"
    expected, found = (
        rules.flatten(tiny.opened(tmp_path / name / "model")[0]) for name in ("undisturbed", "killed")
    )
    assert expected.keys() == found.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(np.asarray(found[path]), np.asarray(leaf), err_msg=path)
    curves = [
        [(line["step"], line["loss"], line["batch"]) for line in metrics.read(tmp_path / name / metrics.NAME)]
        for name in ("undisturbed", "killed")
    ]
    assert curves[0] == curves[1] and len(curves[0]) == STEPS
    shutil.rmtree(tmp_path / "killed")
