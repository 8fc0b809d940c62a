"""`jaxllava bench`: both sides compute the same, what is counted is right, what is refused. No timings."""

from __future__ import annotations

import json
import re

import jax
import numpy as np
import pytest

from input_pipeline.errors import UserError
from jaxllava import cli
from jaxllava.bench import command, inference, pipeline, rounds, sizes, training, twin
from jaxllava.models.clip import ClipVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llava import LlavaConfig
from tests.jaxllava.test_cli import fail

pytestmark = pytest.mark.usefixtures("compiled_quickly")

VISION = ClipVisionConfig(32, 64, 2, 2, image_size=28, patch_size=14)
CONFIG = LlavaConfig(VISION, LlamaConfig(160, 32, 64, 2, 4, kv_heads=2, initializer_range=0.2), image_token=5)
SMALL = sizes.Size(CONFIG, prompt=8, new=16, rows=2, row_tokens=64, ways=("full",), batches=(2,))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sizes.SIZES, "tiny", lambda: SMALL)
    monkeypatch.setattr(inference, "read_ways", lambda size=0: lambda: np.zeros(1))
    monkeypatch.setattr(inference, "OUT_OF_CACHE", 0)


def test_both_sides_and_every_field(small, tmp_path, capsys) -> None:
    """The command compares logits, greedy tokens and two steps' losses itself, and raises where they differ."""
    path = tmp_path / "bench.json"
    flags = ["--size", "tiny", "--only", "train,prefill,decode", "--against", "transformers", "--rounds", "1"]
    cli.main(["bench", *flags, "--json", str(path)])
    found = json.loads(path.read_text())
    assert command.table(found) in capsys.readouterr().out
    assert "share_of_bandwidth" in found["rows"][-1]
    assert [(line["part"], line["what"]) for line in found["rows"]] == [
        ("train", "full, packed"),
        ("train", "full, padded"),
        ("prefill", "batch 2"),
        ("decode", "batch 2"),
    ]
    for line in found["rows"]:
        assert line["ours"]["least"] > 0 and line["transformers"]["least"] > 0
        assert line["ratio"]["median"] == pytest.approx(
            line["ours"]["median"] / line["transformers"]["median"]
        )
    assert {"date", "processor", "threads", "device", "load", "load_after", "jax", "torch"} <= found[
        "machine"
    ].keys()
    shown = command.table(found)
    assert "real positions" in shown and len(re.findall(r"^decode ", shown, re.M)) == 1


def test_sides_that_differ_are_refused(small) -> None:
    params = training.fresh(CONFIG)
    other = twin.Twin(CONFIG, params)
    with other.torch.no_grad():
        other.model.lm_head.weight[7] += 1.0
    with pytest.raises(UserError, match="logits of both sides differ"):
        inference.measure(SMALL, params, ("prefill",), other, 1)
    with pytest.raises(UserError, match="losses of step 1 differ"):
        training.measure(SMALL, params, other, 1)


def test_packed_and_padded_rows_hold_the_same_samples() -> None:
    samples = training.Samples(SMALL)
    packed, padded, theirs = samples.packed(), samples.padded(), samples.torch()
    real = lambda batch: sorted(batch["tokens"][batch["segment_ids"] > 0].tolist())
    assert real(packed) == real(padded) == sorted(theirs["input_ids"][theirs["attention_mask"] > 0].tolist())
    assert (
        packed["weights"].sum() == padded["weights"].sum() == (theirs["labels"] != training.IGNORED).sum() > 0
    )
    # An image's positions are as many as its features, and no position is asked to predict one of them.
    marks = packed["image_index"] >= 0
    assert marks.sum() == CONFIG.image_tokens * samples.images[samples.numbers].sum() > 0
    assert (packed["tokens"][marks] == CONFIG.image_token).all()
    assert not (packed["weights"] * (packed["targets"] == CONFIG.image_token)).any()
    assert len(theirs["pixel_values"]) == samples.images[samples.numbers].sum()


def test_rates_and_ratios() -> None:
    line = rounds.row("decode", "x", "tokens/s", [4.0, 6.0, 9.0], [2.0, 2.0, 9.0])
    assert line["ratio"] == {"median": 2.0, "least": 1.0, "most": 3.0}  # of the rounds, not of the medians
    calls: list[str] = []
    found = rounds.in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3 and [len(each) for each in found.values()] == [2, 2]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--size", "tny"), "--size 'tny' is not known. Did you mean 'tiny'?"),
        (("--only", "decod"), "no part is named 'decod'"),
        (("--against", "transformer"), "Did you mean 'transformers'?"),
        (("--rounds", "0"), "--rounds 0: at least 1"),
        (("--json", "/nowhere/x.json"), "/nowhere is no folder"),
        (("--json", "/tmp"), "--json /tmp is a folder; give a file"),
        (("--size", "7b", "--against", "transformers"), "compares in float32 and on processors"),
        (("--threads", "4096"), "--threads 4096: this process may use 1 to"),
    ],
)
def test_mistakes_are_one_line(capsys, argv: tuple[str, ...], message: str) -> None:
    assert message in fail(capsys, "bench", *argv)


def test_a_machine_too_small(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "memory", lambda: 2 << 30)
    line = fail(capsys, "bench", "--size", "7b", "--only", "decode")
    assert re.search(
        r"--size 7b needs about 52\.\d GiB for decode, and this machine has 2\.0 GiB free; take", line
    )
    assert "--size 1b" in line
    monkeypatch.setattr(sizes, "memory", lambda: 100 << 20)
    assert "on both sides" in fail(capsys, "bench", "--size", "cpu", "--against", "transformers")
    sizes.check_memory("7b", sizes.SIZES["7b"](), ("images", "input"), False)  # they make no model


def test_running_out_of_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(size, rounds):
        raise MemoryError

    monkeypatch.setattr(pipeline, "measure_input", full)
    with pytest.raises(UserError, match="--size tiny: input ran out of memory"):
        command.run("tiny", "input", "", 1, 0)


def test_without_torch(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install torch" in fail(capsys, "bench", "--against", "transformers")


def test_real_sizes_and_ways() -> None:
    """Every size has its model and each way to train its parameters, without a byte of them."""
    for name, make in sizes.SIZES.items():
        size = make()
        for way in size.ways:
            config = training._config(way)
            objective = training.make_objective(config, size.config)
            shapes = training.initial.final_shapes(objective.init, config)
            trained, frozen = training.optimizer_lib.partition(shapes, config.lr_rules)
            assert jax.tree.leaves(trained) and jax.tree.leaves(frozen), (name, way)
