"""The train step as a function: sums over micro-batches, packing, frozen parameters, meshes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from configs import train as train_config
from input_pipeline import packing, token_table
from input_pipeline import rows as rows_lib
from input_pipeline.conversation import TEMPLATES
from input_pipeline.token_chunks import Job
from jaxllava import optimizer, rules, sharding
from jaxllava.models.clip import ClipVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llava import LlavaConfig, LlavaModel, init_params
from jaxllava.objectives import Causal
from jaxllava.train_step import make_step

ROW = 96

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def setup(tokenizer):
    vision = ClipVisionConfig(16, 32, 2, 2, image_size=16, patch_size=8)
    decoder = LlamaConfig(len(tokenizer), 16, 32, 2, 2, kv_heads=2)
    model_config = LlavaConfig(vision, decoder, tokenizer.convert_tokens_to_ids("<image>"))
    config = train_config.get_config("stage=behavior")
    config.lr = 1e-2
    objective = Causal(LlavaModel(model_config), config)
    return objective, init_params(model_config, jax.random.key(0)), config


def make_batch(tokenizer, records, rows: int, row_tokens: int, row_images: int, one_per_row: bool = False):
    table = token_table.build(Job(records, tokenizer, TEMPLATES["v1_bare"], 4, row_tokens))
    pairs = packing.mixture([len(table)], [1.0], seed=0)
    lengths = np.full(len(table), row_tokens) if one_per_row else table.lengths
    plan = packing.plan(lengths, table.images, row_tokens, row_images, seed=0)
    reader = rows_lib.ImageReader(16)
    packed = rows_lib.PackedRows(
        [table], [records], pairs, plan, row_images, 4, reader, tokenizer.pad_token_id
    )
    # Empty rows fill up the batch: they weigh nothing.
    made = [packed[index] for index in range(len(packed))]
    empty = {name: np.zeros_like(value) for name, value in made[0].items()} | {
        "image_index": np.full_like(made[0]["image_index"], -1)
    }
    made += [empty] * (rows - len(made))
    assert len(made) == rows
    return {name: jnp.asarray(np.stack([row[name] for row in made])) for name in made[0]}


def run(setup, batch, accumulate: int = 1, steps: int = 1):
    objective, params, config = setup
    trained, frozen = optimizer.partition(jax.tree.map(jnp.copy, params), config.lr_rules)
    transform, _ = optimizer.make_optimizer(config, params)
    state = transform.init(trained)
    metrics = {}
    step = make_step(objective.loss, transform, accumulate=accumulate)
    for number in range(1, steps + 1):
        trained, state, metrics = step(
            trained, state, frozen, batch, jnp.int32(number), jnp.zeros(1, jnp.int32)
        )
    return trained, state, metrics


def assert_same(one, other, atol: float = 2e-6) -> None:
    for path, leaf in rules.flatten(one).items():
        np.testing.assert_allclose(leaf, rules.flatten(other)[path], atol=atol, err_msg=path)


@pytest.fixture(scope="module")
def batch(tokenizer, chat_records):
    return make_batch(tokenizer, chat_records, 8, ROW, 3)


@pytest.mark.parametrize("accumulate", [2, 8])
def test_micro_batches_equal_one_batch(setup, batch, accumulate):
    """The rows hold different numbers of supervised tokens: a mean of means would differ."""
    whole, _, one = run(setup, batch)
    parts, _, many = run(setup, batch, accumulate)
    np.testing.assert_allclose(one["loss"], many["loss"], rtol=1e-6)
    np.testing.assert_allclose(one["gradient_norm"], many["gradient_norm"], rtol=1e-5)
    for name in ("weight", "tokens", "pairs", "images", "fingerprint"):
        np.testing.assert_array_equal(one[name], many[name], name)
    assert_same(whole, parts, atol=1e-5)  # Adam's first step divides by the gradient's size


def test_packed_rows_give_the_loss_and_gradient_of_single_ones(setup, tokenizer, chat_records, batch):
    single = make_batch(tokenizer, chat_records, len(chat_records), ROW, 1, one_per_row=True)
    assert (batch["segment_ids"].max(axis=1) > 1).any(), "nothing was packed"
    objective, params, _ = setup
    gradient = jax.jit(jax.value_and_grad(lambda p, b: objective.loss(p, b), has_aux=True))
    (packed_loss, packed_sums), packed_grads = gradient(params, batch)
    (single_loss, single_sums), single_grads = gradient(params, single)
    assert packed_sums["weight"] == single_sums["weight"] > 0
    for name in ("tokens", "pairs", "images"):
        assert packed_sums[name] == single_sums[name] > 0, name
    # A sample of n positions needs n (n + 1) / 2 pairs.
    counts = [int((row == 1).sum()) for row in single["segment_ids"]]
    assert packed_sums["pairs"] == sum(n * (n + 1) // 2 for n in counts)
    assert packed_sums["tokens"] == sum(counts)
    np.testing.assert_allclose(packed_loss, single_loss, rtol=1e-5)
    assert_same(packed_grads, single_grads, atol=1e-5)


def test_frozen_parameters_have_no_state_and_the_others_move(setup, batch):
    _, params, config = setup
    trained, state, _ = run(setup, batch)
    flat = rules.flatten(trained)
    assert flat and not any(path.startswith("vision/") for path in flat)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    assert not any("vision" in jax.tree_util.keystr(path) for path, _ in leaves)
    moments = sum(
        leaf.size for path, leaf in leaves if leaf.ndim and "ns_coeffs" not in jax.tree_util.keystr(path)
    )
    assert moments == 2 * optimizer.count(trained)
    before = rules.flatten(params)
    moved = [path for path, leaf in flat.items() if not np.array_equal(leaf, before[path])]
    # The first warm-up step has learning rate 0.
    assert not moved
    trained, _, _ = run(setup, batch, steps=3)
    assert all(not np.array_equal(leaf, before[path]) for path, leaf in rules.flatten(trained).items())
    del config


@pytest.mark.slow  # whole curves on these meshes: test_train.py
@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_a_mesh_gives_the_steps_of_one_device(setup, batch, shape):
    objective, params, config = setup
    alone, _, _ = run(setup, batch, steps=3)
    mesh = sharding.make_mesh(shape)
    laid_out = jax.tree.map(
        jax.device_put, params, sharding.param_shardings(params, mesh, sharding.LLAVA_RULES)
    )
    placed = jax.device_put(batch, sharding.batch_sharding(mesh))
    together, _, _ = run((objective, laid_out, config), placed, steps=3)
    assert_same(alone, together, atol=2e-5)


def test_learning_rates_by_rule_scale_the_step(setup, batch):
    objective, params, config = setup
    config = config.copy_and_resolve_references()
    config.lr_rules = ((r"vision/.*", None), (r"projector/.*", 0.0), (r"decoder/.*", 1.0))
    trained, _, _ = run((objective, params, config), batch, steps=3)
    before = rules.flatten(params)
    for path, leaf in rules.flatten(trained).items():
        assert np.array_equal(leaf, before[path]) == path.startswith("projector/"), path


def test_schedule_warms_up_to_the_peak_and_ends_at_nothing():
    config = ConfigDict({"lr": 1.0, "warmup": 0.1, "steps": 100})
    schedule = optimizer.cosine_schedule(config)
    assert schedule(0) == 0
    without = optimizer.cosine_schedule(ConfigDict({"lr": 1.0, "warmup": 0.0, "steps": 100}))
    np.testing.assert_allclose([without(0), without(50), without(100)], [1.0, 0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose([schedule(5), schedule(10), schedule(100)], [0.5, 1.0, 0.0], atol=1e-6)
    longer = optimizer.cosine_schedule(ConfigDict({"lr": 1.0, "warmup": 0.03, "steps": 101}))
    np.testing.assert_allclose([longer(2), longer(4)], [0.5, 1.0], atol=1e-6)  # 3.03 is 4


def test_every_step_and_micro_batch_draws_for_itself_and_any_host_may_stop():
    """A loss of its key alone: sums of numbers and of their squares tell whether the numbers were the same."""

    def loss(params, batch, key):
        drawn = jax.random.uniform(key)
        return params["a"].sum() * 0 + drawn, {"weight": batch["x"].sum(), "drawn": drawn, "square": drawn**2}

    def sums(seed, number, accumulate):
        step = make_step(loss, optax.sgd(0.0), accumulate=accumulate, seed=seed)
        params, batch = {"a": jnp.ones(2)}, {"x": jnp.ones(4)}
        stop = jnp.asarray([0, 2, 1], jnp.int32)
        _, _, found = step(params, optax.sgd(0.0).init(params), {}, batch, jnp.int32(number), stop)
        assert found["stop"] == 2 and found["weight"] == 4
        return float(found["drawn"]), float(found["square"])

    drawn, square = sums(0, 1, 4)
    assert 4 * square > 1.001 * drawn**2, "all four were one number"
    assert sums(0, 1, 4) == (drawn, square)
    assert len({sums(seed, number, 1)[0] for seed in (0, 1) for number in (1, 2)}) == 4


def test_decay_takes_from_kernels_and_leaves_biases():
    config = train_config.get_config()
    config.update(lr_rules=((".*", 1.0),), weight_decay=0.5, lr=0.1, warmup=0.1, steps=10)
    params = {"a": {"kernel": jnp.full(2, 4.0), "bias": jnp.full(2, 4.0)}}
    transform, _ = optimizer.make_optimizer(config, params)
    state, nothing = transform.init(params), jax.tree.map(jnp.zeros_like, params)
    for _ in range(2):  # the first has a learning rate of 0
        updates, state = transform.update(nothing, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["a"]["kernel"], 4.0 * (1 - 0.1 * 0.5), rtol=1e-6)
    np.testing.assert_array_equal(params["a"]["bias"], 4.0)
