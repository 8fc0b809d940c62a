"""The log of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jaxllava import metrics


def test_lines_of_steps_that_will_run_again_are_dropped_and_a_cut_line_too(tmp_path):
    path = tmp_path / metrics.NAME
    lines = [{"step": step, "loss": 1.0} for step in (1, 2, 3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "lo')
    assert [line["step"] for line in metrics.read(path)] == [1, 2, 3]
    metrics.cut(path, 2)
    assert path.read_text() == "".join(json.dumps(line) + "\n" for line in lines[:2])


def test_a_line_says_what_a_step_did():
    fetched = {
        "loss": np.float32(2.0),
        "gradient_norm": np.float32(0.5),
        "tokens": np.float32(300),
        "pairs": np.float32(1e4),
        "images": np.float32(3),
        "source_loss": np.asarray([6.0, 0.0], np.float32),
        "source_weight": np.asarray([2.0, 0.0], np.float32),
    }
    line = metrics.describe(
        fetched, seconds=0.5, waited=0.1, positions=400, slots=4, sources=["behavior", "chat"], cost=None
    )
    assert line["loss/behavior"] == 3.0
    assert "loss/chat" not in line, "no token of it was in the batch"
    assert (line["fill"], line["image_fill"], line["tokens_per_second"]) == (0.75, 0.75, 600.0)
    assert line["host_wait"] == pytest.approx(0.2)
    assert "mfu" not in line, "a CPU has no peak in the table"


def test_mfu_is_of_the_devices_that_share_the_work(monkeypatch):
    monkeypatch.setattr(metrics.chips, "peak", lambda kind: 1e12)
    fetched = {"loss": 2.0, "gradient_norm": 0.5, "tokens": 100.0, "pairs": 10.0, "images": 2.0}
    cost = metrics.flops.Cost(per_token=1e10, per_pair=1e9, per_image=5e11)
    line = metrics.describe(
        fetched, seconds=2.0, waited=0.0, positions=100, slots=2, sources=[], cost=cost, devices=4
    )
    assert line["mfu"] == pytest.approx((1e12 + 1e10 + 1e12) / (2.0 * 4 * 1e12), abs=1e-4)


def test_every_host_but_the_first_writes_nothing(tmp_path):
    log = metrics.Log(tmp_path, 0, enabled=False)
    log.write({"step": 1})
    log.flush()
    log.close()
    assert not list(tmp_path.iterdir())


def test_what_is_committed_was_closed(tmp_path, monkeypatch):
    """A mounted bucket shows others what a file holds once it is closed: here, a disk that forgets all but that."""
    opened = []
    real = Path.open

    def recorded(path, *args, **kwargs):
        opened.append(real(path, *args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(Path, "open", recorded)
    log = metrics.Log(tmp_path, 0, tensorboard=False)
    log.write({"step": 1})
    log.commit()
    *before, now = opened
    assert before and all(file.closed for file in before) and not now.closed
    log.write({"step": 2})
    log.close()
    assert [line["step"] for line in metrics.read(log.path)] == [1, 2]


def test_tensorboard_reads_what_is_written(tmp_path):
    from tensorboardX.proto import event_pb2

    log = metrics.Log(tmp_path, 0)
    log.write({"step": 7, "loss": 1.5, "loss/behavior": 2.5, "batch": "ab"})
    log.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    content, found = path.read_bytes(), {}
    while content:  # TFRecord: length, its check, the event, its check
        length = int.from_bytes(content[:8], "little")
        event = event_pb2.Event.FromString(content[12 : 12 + length])
        found |= {value.tag: (event.step, value.simple_value) for value in event.summary.value}
        content = content[16 + length :]
    assert found == {"train/loss": (7, 1.5), "loss/behavior": (7, 2.5)}


def test_a_board_that_cannot_be_written_ends_and_the_log_goes_on(tmp_path):
    log = metrics.Log(tmp_path, 0)

    def full(*args):
        raise OSError(28, "No space left on device")

    log._board._file.write_event = full
    log.write({"step": 1, "loss": 1.0})
    log.write({"step": 2, "loss": 1.0})
    log.close()
    assert [line["step"] for line in metrics.read(tmp_path / metrics.NAME)] == [1, 2]


@pytest.mark.parametrize("text", ["[1]", '{"loss": 1.0}', '{"step": "x"}', "garbage"])
def test_what_is_no_line_ends_the_log(tmp_path, text):
    path = tmp_path / metrics.NAME
    path.write_text('{"step": 1}\n' + text + '\n{"step": 3}\n')
    metrics.cut(path, 5)
    assert path.read_text() == '{"step": 1}\n'
