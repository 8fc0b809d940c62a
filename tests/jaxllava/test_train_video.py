"""Training a LLaMA-VID on videos: rows of several samples are what the samples are alone; runs leave whole models."""

from __future__ import annotations

import io
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType
from PIL import Image

import jaxllava
from configs import train as train_config
from configs.behavior_llava import LLM_AND_PROJECTOR
from input_pipeline import packing, records, token_table
from input_pipeline import rows as rows_lib
from input_pipeline.asker import Asker
from input_pipeline.conversation import TEMPLATES
from input_pipeline.errors import UserError
from input_pipeline.token_chunks import Job
from input_pipeline.types import Clip, Record, Turn
from jaxllava import config_files, initial, optimizer, rules, settings, sharding
from jaxllava.models.clip import normalise
from jaxllava.models.eva import EvaVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.llava import init_params
from jaxllava.models.presets import preset
from jaxllava.models.qformer import QFormerConfig
from jaxllava.models.rope import RopeScaling
from jaxllava.objectives import Causal, guide_of
from jaxllava.plan import program
from jaxllava.train import train
from jaxllava.train_step import make_step
from jaxllava.weights import orbax
from tests.conftest import make_asker
from tests.jaxllava import tiny_models as tiny

pytestmark = pytest.mark.usefixtures("compiled_quickly")

WORDS = ("red", "blue", "green", "cups", "stars")


def frame(value: int) -> bytes:
    pixels = np.random.default_rng(value).integers(0, 255, (16, 16, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def made(count: int) -> list[Record]:
    """Films of one to five frames, pictures and talk, of one to three questions."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        frames = int(rng.integers(1, 6)) if number % 3 else 1
        says = lambda: " ".join(rng.choice(WORDS, rng.integers(1, 5)))
        turns: list[Turn] = []
        for turn in range(int(rng.integers(1, 4))):
            mark = "<image>\n" if turn == 0 and number % 4 else ""
            turns += [Turn("human", mark + says()), Turn("gpt", says())]
        images = tuple(frame(10 * number + i) for i in range(frames)) if number % 4 else ()
        clips = (Clip(0, tuple(map(float, range(frames)))),) if len(images) > 1 else ()
        found.append(Record(f"r{number}", "instruct", images, tuple(turns), clips=clips))
    return found


@pytest.fixture(scope="module")
def setting(tokenizer, tmp_path_factory):
    """(config of the model, its asker, a base's folder, a folder of records)"""
    root = tmp_path_factory.mktemp("video")
    return *write_setting(root, tokenizer), root


def write_setting(root: Path, tokenizer) -> tuple[LlamaVidConfig, Asker]:
    """Leaves a base and records there."""
    asker = make_asker(root / "bert")
    vision = EvaVisionConfig(16, 32, 2, 2, image_size=16, patch_size=8)
    qformer = QFormerConfig(16, 32, 2, 2, vocab_size=len(asker.tokenizer), queries=3, vision_size=16)
    decoder = LlamaConfig(len(tokenizer), 16, 32, 2, 2)
    image = tokenizer.convert_tokens_to_ids("<image>")
    model = LlamaVidConfig(vision, decoder, image, qformer=qformer, at_once=4)
    params = tiny.random_params(model)
    orbax.save_model(root / "base", params, model, tokenizer, "imgsp_v1", asker=asker)
    records.write({"instruct_train": made(24)}, root / "records")
    return model, asker


def test_a_row_of_several_samples_has_the_losses_of_the_samples(setting, tokenizer) -> None:
    model, asker, root = setting
    config = train_config.get_config("stage=instruct")
    objective = Causal(model.module(), config, asker)
    params = tiny.opened(root / "base")[0]
    samples = made(9)
    job = Job(samples, tokenizer, TEMPLATES["imgsp_v1"], model.image_tokens, 400, asker=asker)
    table = token_table.build(job)
    pairs = packing.mixture([len(table)], [1.0], seed=0)
    reader = rows_lib.ImageReader(16)

    def total(lengths: np.ndarray) -> tuple[float, float, int]:
        plan = packing.plan(lengths, table.images, 400, 12, seed=0)
        asked = rows_lib.Asked.of(plan, [table], pairs)
        made_rows = rows_lib.PackedRows(
            [table], [samples], pairs, plan, 12, model.image_tokens, reader, 0, asked=asked
        )
        loss = jax.jit(objective.loss)
        loss_sum = weight = 0.0
        for index in range(len(made_rows)):
            batch = {name: jnp.asarray(value[None]) for name, value in made_rows[index].items()}
            one, sums = loss(params, batch)
            loss_sum, weight = loss_sum + float(one), weight + float(sums["weight"])
        return loss_sum, weight, len(made_rows)

    packed, alone = total(table.lengths), total(np.full(len(table), 400))
    assert alone[2] == len(table) > packed[2]
    assert packed[1] == alone[1]
    np.testing.assert_allclose(packed[0], alone[0], rtol=2e-6)


def stage(setting, **changes):
    _, _, root = setting
    config = train_config.get_config("stage=instruct")
    config.data = str(root / "records")
    config.base = str(root / "base")
    config.template = "imgsp_v1"
    config.mesh = (1, 4, 2)
    config.batch, config.steps, config.lr = 8, 3, 1e-2
    config.row_tokens, config.row_images = 256, 8
    config.log_every, config.tensorboard = 1, False
    config.update(changes)
    return config


def parts(before: dict, after: dict) -> set[str]:
    return {path.split("/")[0] for path, leaf in after.items() if not np.array_equal(leaf, before[path])}


@pytest.mark.parametrize(
    ("lr_rules", "moves"),
    [
        (train_config.ALL_BUT_TOWER, {"decoder", "projector", "context", "qformer", "qformer_norm"}),
        (train_config.PROJECTOR, {"projector", "context"}),
    ],
)
def test_a_run_trains_what_its_stage_says_and_leaves_a_whole_model(
    setting, tokenizer, tmp_path, lr_rules, moves
) -> None:
    model, asker, root = setting
    run = train(stage(setting, lr_rules=lr_rules), model, tokenizer, tmp_path)
    assert [step for step, _ in run.curve] == [1, 2, 3] and np.isfinite([loss for _, loss in run.curve]).all()
    assert run.facts["asked"]["slots"] >= 8 and run.facts["left_out"] == {"instruct_train": {}}
    params, config = tiny.opened(run.model)
    assert config == model
    assert parts(tiny.flat(tiny.opened(root / "base")[0]), tiny.flat(params)) == moves
    again = jaxllava.load(run.model)
    assert again.asker is not None and again.asker.hash == asker.hash


def test_a_base_without_questions_is_refused(setting, tokenizer, tmp_path) -> None:
    model, _, _ = setting
    with pytest.raises(UserError, match="needs its question tokenizer"):
        train(stage(setting, base=""), model, tokenizer, tmp_path)


def test_every_large_parameter_is_cut() -> None:
    """At full size, nothing big may stay whole on every chip."""
    from jaxllava.models.llama_vid import llama_vid

    shapes = jax.eval_shape(lambda: init_params(llama_vid("7b"), jax.random.key(0)))
    mesh = sharding.make_mesh((1, 4, 2))
    shardings = rules.flatten(sharding.param_shardings(shapes, mesh, sharding.LLAVA_RULES))
    for path, leaf in rules.flatten(shapes).items():
        if leaf.size > 1_000_000:
            assert shardings[path].shard_shape(leaf.shape) != leaf.shape, path
    for stage_rules in (train_config.ALL_BUT_TOWER, train_config.PROJECTOR, train_config.DECODER):
        optimizer.partition(shapes, stage_rules)


def batch_of(setting, tokenizer) -> dict[str, np.ndarray]:
    """Two packed rows of the records, with the questions that they ask."""
    model, asker, _ = setting
    job = Job(made(9), tokenizer, TEMPLATES["imgsp_v1"], model.image_tokens, 400, asker=asker)
    table = token_table.build(job)
    pairs = packing.mixture([len(table)], [1.0], seed=0)
    plan = packing.plan(table.lengths, table.images, 400, 20, seed=0)
    asked = rows_lib.Asked.of(plan, [table], pairs)
    reader = rows_lib.ImageReader(16)
    found = rows_lib.PackedRows(
        [table], [made(9)], pairs, plan, 20, model.image_tokens, reader, 0, asked=asked
    )
    return {name: np.stack([found[0][name], found[1][name]]) for name in found[0]}


def test_the_step_counts_what_flops_are_of(setting, tokenizer) -> None:
    model, _, root = setting
    batch = batch_of(setting, tokenizer)
    frames, words, slots = 0, 0, 0
    for row in range(2):
        taken = {int(i) // model.image_tokens for i in batch["image_index"][row] if i >= 0}
        frames += len({int(batch["slot_frame"][row, slot]) for slot in taken})
        words += sum(int(batch["question_valid"][row, batch["slot_question"][row, s]].sum()) for s in taken)
        slots += len(taken)
    assert slots > frames > 2 and slots < batch["slot_frame"].size
    objective = Causal(model.module(), train_config.get_config("stage=instruct"))
    _, sums = jax.jit(objective.loss)(tiny.opened(root / "base")[0], jax.tree.map(jnp.asarray, batch))
    assert [float(sums[name]) for name in ("images", "slots", "words")] == [frames, slots, words]


def test_features_that_were_kept_train_as_their_pixels_do(setting, tokenizer) -> None:
    """Stage 3's parts train: with the tower and the Q-Former frozen, what they gave may be kept."""
    model, _, root = setting
    config = train_config.get_config("stage=instruct")
    config.lr_rules = LLM_AND_PROJECTOR
    objective = Causal(model.module(), config)
    params = jax.tree.map(jnp.asarray, tiny.opened(root / "base")[0])
    trained, frozen = optimizer.partition(params, config.lr_rules)
    assert set(trained) == {"decoder", "projector"}
    batch = jax.tree.map(jnp.asarray, batch_of(setting, tokenizer))

    @jax.jit
    def keep(params, batch):
        def look(model, pixels, guide):
            return model.compress(model.see(pixels), guide)

        pixels = normalise(batch["images"], model.vision)
        return model.module().apply({"params": params}, pixels, guide_of(batch), method=look)

    pixels = ("images", "slot_frame", "slot_question", "questions", "question_valid")
    kept = {name: value for name, value in batch.items() if name not in pixels}
    kept["pooled"] = keep(params, batch)
    assert kept["pooled"].shape == (*batch["slot_frame"].shape, model.image_tokens, 16)

    transform, _ = optimizer.make_optimizer(config, params)
    gradient = jax.jit(
        jax.value_and_grad(lambda t, b: objective.loss(rules.merge(t, frozen), b), has_aux=True)
    )
    ((one, sums), grads), ((other, kept_sums), kept_grads) = gradient(trained, batch), gradient(trained, kept)
    np.testing.assert_allclose(one, other, rtol=1e-6)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads))
    assert scale > 0
    for mine, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(kept_grads), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6 * scale)
    assert kept_sums["images"] == kept_sums["slots"] == sums["slots"] and "words" not in kept_sums
    step = make_step(objective.loss, transform)
    state = transform.init(trained)
    _, _, metrics = step(trained, state, frozen, kept, jnp.int32(1), jnp.zeros(1, jnp.int32))
    assert metrics["loss"] == pytest.approx(float(other / kept_sums["weight"]), rel=1e-6)


def test_a_planned_batch_is_a_row_s(setting, tokenizer) -> None:
    model, _, _ = setting
    config = stage(setting, row_tokens=400, row_images=20)
    batch, mesh = batch_of(setting, tokenizer), sharding.make_mesh((1, 8, 1))
    planned = program.batch_shapes(config, model, 8, mesh)
    assert {name: x.dtype for name, x in planned.items()} == {name: x.dtype for name, x in batch.items()}
    room = {"slot_frame", "slot_question", "questions", "question_valid"}  # as the data need, of a run
    for name, array in batch.items():
        assert name in room or planned[name].shape[1:] == array.shape[1:], name
    assert planned["slot_frame"].shape == (8, 40) and planned["questions"].shape == (8, 20, program.QUESTION)


@pytest.mark.slow
def test_a_row_of_65536_tokens_at_full_size() -> None:
    """Shapes alone: stage 3's recipe, its model, its batch and the loss of a row."""
    config = config_files.load("llama_vid:size=7b,stage=3")
    model = settings.with_settings(config, preset(config.architecture))
    assert model.decoder.rope_scaling == RopeScaling("linear", 16.0) and model.decoder.max_positions == 65_536
    batch = program.batch_shapes(config, model, 8, sharding.make_mesh((1, 8, 1)))
    assert batch["pooled"].shape == (8, 32_768, 2, 1408) and batch["pooled"].dtype == jnp.bfloat16
    assert "images" not in batch and "questions" not in batch
    assert batch["tokens"].shape == (8, 65_536)
    objective = Causal(model.module(), config)
    params = initial.final_shapes(objective.init, config)
    trained, frozen = optimizer.partition(params, config.lr_rules)
    assert {path.split("/")[0] for path in rules.flatten(trained)} == {"decoder", "projector"}
    tpu = AbstractDevice(device_kind="TPU v5", num_cores=1, platform="tpu")
    with jax.sharding.use_abstract_mesh(
        AbstractMesh((1, 8, 1), sharding.AXES, (AxisType.Auto,) * 3, abstract_device=tpu)
    ):
        loss, sums = jax.eval_shape(
            objective.loss,
            rules.merge(trained, frozen),
            {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()},
        )
    assert loss.shape == () and sums["slots"].shape == ()


def test_positions_are_stretched_once_and_one_way() -> None:
    config = train_config.get_config("stage=instruct")
    config.rope_factor = 16.0
    short = preset("llama-vid-7b")
    long = settings.with_settings(config, short)
    assert long.decoder == settings.with_settings(config, long).decoder == preset("llama-vid-7b-long").decoder
    for factor, message in ((8.0, "are stretched already"), (0.5, "factor 0.5 is below 1")):
        config.rope_factor = factor
        with pytest.raises(UserError, match=rf"--config\.rope_factor: .*{message}"):
            settings.with_settings(config, long)


@pytest.mark.slow
def test_features_are_kept_once_and_train_as_the_pictures_do(
    setting, tokenizer, tmp_path, monkeypatch
) -> None:
    """The same losses and weights, with neither tower nor Q-Former in the step."""
    model, _, _ = setting
    rules_ = (
        (r"(projector|decoder|context/value_proj)/.*", 1.0),
        (r"(vision|qformer|qformer_norm|context)/.*", None),
    )
    own = {"lr_rules": rules_, "mesh": (1, 2, 1), "devices": 2}
    seen = train(stage(setting, **own), model, tokenizer, tmp_path / "pictures")
    folder = tmp_path / "features"
    kept_run = train(stage(setting, features=str(folder), **own), model, tokenizer, tmp_path / "kept")
    np.testing.assert_allclose(
        [loss for _, loss in kept_run.curve], [loss for _, loss in seen.curve], rtol=2e-5
    )
    expected, found = (tiny.flat(tiny.opened(run.model)[0]) for run in (seen, kept_run))
    for path, leaf in found.items():
        np.testing.assert_allclose(leaf, expected[path], atol=2e-4, err_msg=path)
    files = sorted(folder.rglob("*.features"))
    assert len(files) == 18, "one of each sample that shows something"
    # A damaged one is made again; the others are taken as they are.
    files[0].write_bytes(files[0].read_bytes()[:-1])
    made = []
    from jaxllava import kept

    keep = kept._keep
    monkeypatch.setattr(kept, "_keep", lambda *given: (made.append(given[-1]), keep(*given)))
    again = train(stage(setting, features=str(folder), **own), model, tokenizer, tmp_path / "again")
    assert len(made) == 1 and again.curve == kept_run.curve


def test_features_that_would_change_are_refused(setting, tokenizer, tmp_path) -> None:
    model, _, _ = setting
    with pytest.raises(UserError, match=r"config.lr_rules trains what makes them \((qformer|context)"):
        train(stage(setting, features=str(tmp_path / "f")), model, tokenizer, tmp_path / "run")
