"""`jaxllava plan`: what it compiles is what a run runs, on tiny models and real TPU topologies (libtpu, no TPU)."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import re
import sys

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from configs.train import get_config
from input_pipeline import loader
from input_pipeline.errors import UserError
from jaxllava import initial, optimizer, sharding
from jaxllava.bases import open_base
from jaxllava.models import splash
from jaxllava.models.eva import EvaVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.qformer import QFormerConfig
from jaxllava.objectives import make_objective
from jaxllava.plan import command, estimate, program, search, topology
from tests.jaxllava.test_cli import fail

needs_libtpu = pytest.mark.skipif(
    sys.platform != "linux" or importlib.util.find_spec("libtpu") is None,
    reason="libtpu is made for Linux on x86-64",
)


@pytest.fixture(scope="module", autouse=True)
def _away_from_real_tpus():
    before = dict(os.environ)
    topology.prepare()
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def config(plaza, tiny_base):
    """A stage that fits rows of 128 tokens, the least that the TPU's attention kernel takes."""
    config = get_config("stage=behavior")
    config.data, config.base = str(plaza / "data" / "records"), str(tiny_base)
    config.template = "v1_bare"
    config.row_tokens, config.row_images, config.batch, config.dtype = 128, 2, 8, "bfloat16"
    config.attention, config.remat, config.loss_chunks = "auto", "full", 2
    return config


def test_the_batch_is_the_one_that_the_loader_gives(config):
    base = open_base(config)
    mesh = sharding.make_mesh(config.mesh)
    rows, _ = make_objective(config, base.config).rows(base.tokenizer, None)
    stream = loader.batches(rows, global_batch=8, positions=np.arange(8), seed=0, start=0, workers=0)
    batch = next(stream)
    stream.close()
    real = loader.to_device(batch, sharding.batch_sharding(mesh), 8, np.arange(8))
    planned = program.batch_shapes(config, base.config, 8, mesh)
    describe = lambda tree: {name: (x.shape, x.dtype, x.sharding) for name, x in tree.items()}
    assert describe(planned) == describe(real)


def test_the_state_lies_where_a_run_puts_it(config):
    base = open_base(config)
    objective = make_objective(config, base.config)
    mesh = sharding.make_mesh((2, 2, 2))
    params = initial.initial_params(objective.init, config, mesh)
    made, _ = optimizer.make_optimizer(config, params)
    trained, _ = optimizer.partition(params, config.lr_rules)
    with jax.set_mesh(mesh):
        real = optimizer.initial_state(made, trained, mesh)
    planned = program.state_shapes(made, trained, NamedSharding(mesh, PartitionSpec()))
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(planned), jax.tree.leaves(real), strict=True
    ):
        assert (one.shape, one.dtype) == (other.shape, other.dtype), path
        assert one.sharding.is_equivalent_to(other.sharding, other.ndim), path


@needs_libtpu
def test_a_plan_of_a_slice(config):
    config.attention = "xla"  # the kernel would widen heads of 8 to 128
    text, found = command.plan(config, "v5e:2x2", rows=8)
    assert found["fits"] and found["rows"] == 8 and found["mesh"] == [1, 4, 1]
    memory = found["hbm_gib"]
    assert 0 <= memory["params"] <= memory["total"] < memory["capacity"] == 15.75
    assert 0 < memory["temp"] <= memory["total"]
    # The decoder's layers run forward, again and backward; the head once forward and twice backward.
    assert 1.0 < found["flops_per_step"] / found["model_flops_per_step"] < 2.0
    assert found["collective_bytes"] > 0 and found["hbm_bytes"] > 0
    assert 0 < found["projected_mfu"] < 1 and not found["uncounted_kernels"]
    assert found["compile_s"] > 0 and json.loads(json.dumps(found)) == found
    assert "8 rows, 1024 tokens a step" in text and "projected" in text


@pytest.fixture
def fake(monkeypatch):
    """Programs that are their rows, and memory of `base` GiB and `each` a row of the 8 devices' 8 data shards."""

    def of(base: float, each: float, remat_saves: float = 0.0, second: float = 0.0) -> list[int]:
        """second: GiB that the second row of a shard costs, where it is more than `each`."""
        compiled: list[int] = []

        def measured(made, on, options=None):
            rows, config = made
            compiled.append(rows)
            total = (
                base
                + each * rows / 8
                + (second - each if second and rows > 8 else 0.0)
                - (remat_saves if config.remat == "full" else 0.0)
            )
            fits = total <= 16
            memory = {
                "params": base / 2,
                "optimizer": base / 4,
                "temp": 1.0,
                "total": total,
                "capacity": 16.0,
            }
            return estimate.Estimate(
                rows=rows,
                fits=fits,
                **memory,
                compile_s=1.0,
                model_flops=1.0,
                mfu=rows / 1000,
            )

        monkeypatch.setattr(search, "estimate", measured)
        monkeypatch.setattr(search, "train_step", lambda config, model, mesh, rows: (rows, config))
        return compiled

    return of


def on_cpu() -> topology.Slice:
    return topology.Slice("v5e:2x4", topology.TPUS["v5e"], (2, 4), tuple(jax.devices()))


@pytest.mark.parametrize(
    ("base", "each", "largest"), [(3, 4.0, 3), (3, 1.0, 13), (15, 0.9, 1), (1, 0.01, 64)]
)
def test_the_largest_batch_that_fits(config, fake, base, each, largest):
    compiled = fake(base, each)
    planner = search.Planner(config, open_base(config).config, on_cpu(), lambda text: None)
    found = planner.largest()
    assert found is not None and found.rows == 8 * largest
    assert len(compiled) == len(set(compiled)) <= 4


def test_the_line_is_drawn_anew_where_memory_grows_more_slowly_than_it_began(config, fake):
    """The second row costs 4 GiB and the others 1: three rows fit by that line, and ten by the next ones."""
    compiled = fake(3.0, 1.0, second=4.0)
    planner = search.Planner(config, open_base(config).config, on_cpu(), lambda text: None)
    found = planner.largest()
    assert found is not None and found.rows == 8 * 10
    assert len(compiled) == len(set(compiled)) <= 6


def test_too_many_rows_are_told_how_many_fit(config, fake, monkeypatch):
    monkeypatch.setattr(command, "open_slice", lambda name: on_cpu())
    fake(3.0, 4.0)
    with pytest.raises(
        UserError,
        match=r"with 40 rows a step: 23\.00 GiB of 16\.00 GiB a chip, over by 7\.00 GiB; 24 rows fit$",
    ):
        command.plan(config, "v5e:2x4", rows=40)


def test_a_config_that_does_not_fit_says_by_how_much_and_what_would(config, fake, monkeypatch):
    monkeypatch.setattr(command, "open_slice", lambda name: on_cpu())
    config.remat = "none"
    fake(15.5, 1.0, remat_saves=2.0)
    with pytest.raises(
        UserError,
        match=r"16\.50 GiB of 16\.00 GiB a chip, over by 0\.50 GiB; with --config\.remat=full it fits",
    ):
        command.plan(config, "v5e:2x4")
    fake(40.0, 1.0)
    with pytest.raises(
        command.DoesNotFit,
        match=r"parameters and optimizer alone take 30\.0 GiB of a chip: take a slice of 32 chips",
    ) as raised:
        command.plan(config, "v5e:2x4")
    found = raised.value.found
    assert found["fits"] is False and found["hbm_gib"]["total"] == 41 and "32 chips" in found["advice"]
    fake(10.0, 64.0)
    with pytest.raises(UserError, match=r"a row is too long: halve --config\.row_tokens \(now 128\)"):
        command.plan(config, "v5e:2x4")
    with pytest.raises(
        UserError,
        match=r"--rows 12 does not divide over 8 data shards x 1 micro-batches; take a multiple of 8",
    ):
        command.plan(config, "v5e:2x4", rows=12)


@needs_libtpu
def test_generation_compiles_prefill_and_decode(config):
    text, found = command.plan(config, "v5e:2x2", what="generate", rows=4, prompt=64, new=8)
    assert found["fits"] and found["hbm_gib"]["optimizer"] == 0
    assert found["projected_decode_step_s"] > 0 and found["projected_prefill_s"] > 0
    assert "Prefill" in text and "4 prompts of 64 positions" in text


@needs_libtpu
def test_generation_of_a_llama_vid_has_frames_that_were_seen(config):
    config.architecture, config.base = "", ""
    vision = EvaVisionConfig(16, 32, 2, 2, image_size=16, patch_size=4)
    qformer = QFormerConfig(16, 32, 2, 2, vocab_size=64, queries=3, vision_size=16)
    decoder = LlamaConfig(128, 256, 256, 2, 4, max_positions=600)
    model = LlamaVidConfig(vision, decoder, 5, compress="mean", qformer=qformer)
    on = topology.open_slice("v5e:2x2")
    mesh = sharding.make_mesh(config.mesh, on.devices, 0)
    made = program.generation(config, model, mesh, rows=4, prompt=512, new=8)
    found = estimate.estimate(made, on, {})
    assert found.fits and (found.prefill_s or 0) > 0 and (found.decode_step_s or 0) > 0


@pytest.mark.parametrize("lead", [(4,), (3, 4)])
def test_a_splash_call_costs_its_blocks(lead):
    """1024 positions in blocks of 512: three of the four blocks, whole."""
    shapes = [(1, 2, 2), (*lead, 1024, 128), (2, 1024, 128), (1024, 128), (8, 1024)]
    pairs = 3 * 512 * 512
    heads = math.prod(lead)
    assert splash.kernel_flops("splash_mha_fwd.2", shapes) == 2 * 2 * pairs * heads * 128
    assert splash.kernel_flops("splash_mha_dkv.1", shapes) == 5 * 2 * pairs * heads * 128
    assert splash.kernel_flops("another", shapes) is None


def test_sums_of_a_roofline():
    on = topology.Slice("v5e:4x8", topology.TPUS["v5e"], (4, 8), ())
    assert on.bandwidth == 2 * 50e9  # the corner of a slice that closes to no ring has two links
    assert dataclasses.replace(on, shape=(16, 16)).bandwidth == 4 * 50e9
    assert dataclasses.replace(on, shape=(8, 16)).bandwidth == 3 * 50e9
    assert dataclasses.replace(on, shape=(1, 1)).bandwidth == 0
    # Three dimensions close when all are whole cubes.
    for shape, links in {
        (2, 2, 4): 3,
        (2, 4, 4): 3,
        (4, 4, 4): 6,
        (4, 4, 6): 3,
        (4, 8, 12): 6,
        (1, 1, 4): 1,
    }.items():
        assert topology.Slice("v5p", topology.TPUS["v5p"], shape, ()).bandwidth == links * 100e9, shape
    cost = estimate.cost_lib.Cost(
        flops=197e12, hbm_bytes=819e9 / 2, collective_bytes=300e9, waited_bytes=50e9, busy=1.25
    )
    seconds, parts = estimate._seconds(cost, on)
    assert parts == {"arithmetic": 1, "operations": 1.25, "hbm": 0.5, "collectives": 3, "waiting": 0.5}
    assert seconds == 2.5 + 0.5
    assert estimate._asked_for("the total memory required for HLO temporaries (60.17G) exceeds") == 60.17
    assert estimate._asked_for("Ran out of memory in memory space hbm. Used 25.82G of 15.75G hbm.") == 25.82
    assert estimate._asked_for("HLO temporaries (1.50T) exceeds") == 1536


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e", "a generation and a shape"),
        ("v5e:4x8x1", "has 2 sides"),
        ("v9:2x2", "no TPU 'v9'"),
        ("v5p:2x2", "has 3 sides, e.g. v5p:2x2x4"),
        ("v5e:0x4", "has 2 sides"),
    ],
)
def test_an_unknown_topology_is_one_line(name, message):
    with pytest.raises(UserError, match=message):
        topology.open_slice(name)


def test_a_missing_libtpu_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    with pytest.raises(UserError, match=r"pip install 'jaxllava\[tpu\]'"):
        topology.open_slice("v5e:4x8")


@needs_libtpu
@pytest.mark.parametrize(
    ("name", "chips"), [("v4:2x2x2", 8), ("v5e:2x4", 8), ("v5p:2x2x2", 8), ("v6e:2x4", 8), ("v4:1x1x1", 1)]
)
def test_every_generation_has_a_device_for_a_chip_and_a_mesh(name, chips):
    on = topology.open_slice(name)
    assert len(on.devices) == chips
    assert sharding.make_mesh((1, -1, 1), on.devices).devices.shape == (1, chips, 1)


@needs_libtpu
def test_a_slice_that_is_not_made_is_one_line():
    with pytest.raises(UserError, match="v5e:3x5: libtpu makes no such slice"):
        topology.open_slice("v5e:3x5")
    assert len(topology.open_slice("v5e:1x1").devices) == 1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("accumulate", 0, "config.accumulate=0: at least 1"),
        ("sharding_rules", "none", "config.sharding_rules: 'none' is not known"),
        ("tpu_options", (("a",),), "config.tpu_options=(('a',),): pairs are needed"),
        ("lr_rules", ((".*", None),), "config.lr_rules freezes everything"),
    ],
)
def test_what_training_refuses_a_plan_refuses(config, key, value, message):
    setattr(config, key, value)
    with pytest.raises(UserError, match=re.escape(message)):
        command.plan(config, "v5e:2x2")


@needs_libtpu
def test_options_that_the_compiler_does_not_know_are_one_line(config):
    config.tpu_options = (("xla_no_such_flag", "1"),)
    with pytest.raises(UserError, match=r"config\.tpu_options: .*xla_no_such_flag"):
        command.plan(config, "v5e:2x2", rows=4)


def test_how_a_program_does_not_fit():
    known = dict(rows=1, fits=False, params=1.0, optimizer=1.0, temp=0.0, capacity=15.75, compile_s=1.0)
    found = estimate.Estimate(**known, total=20.0, model_flops=None)
    assert found.over == "20.00 GiB of 15.75 GiB a chip, over by 4.25 GiB"
    unknown = dataclasses.replace(found, total=0.0)
    assert unknown.over == "the compiler finds no room for it in the 15.75 GiB of a chip"


def test_a_config_without_a_model_and_rows_that_do_not_divide(config):
    config.base = ""
    with pytest.raises(UserError, match=r"config\.architecture to one of llava-v1"):
        command.architecture(config)
    config.architecture = "llava-v1.5-8b"
    with pytest.raises(
        UserError, match=r"config\.architecture: 'llava-v1\.5-8b' is not known\. Did you mean"
    ):
        command.architecture(config)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--topology", "v5e:4x8", "--rows", "-1"], "--rows -1"),
        (["--topology", "v5e"], "a generation and a shape"),
        (["--topology", "v5e:4x8", "--config.remt=full"], "remat"),
    ],
)
def test_the_command_line_refuses_in_one_line(capsys, flags, message):
    assert message in fail(capsys, "plan", *flags)
