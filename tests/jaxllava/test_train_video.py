"""Training a LLaMA-VID on videos: rows of several samples are what the samples are alone; runs leave whole models."""

from __future__ import annotations

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxllava
from configs import train as train_config
from input_pipeline import packing, records, token_table
from input_pipeline import rows as rows_lib
from input_pipeline.conversation import TEMPLATES
from input_pipeline.errors import UserError
from input_pipeline.token_chunks import Job
from input_pipeline.types import Clip, Record, Turn
from jaxllava import optimizer, rules, sharding
from jaxllava.models.eva import EvaVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.llava import init_params
from jaxllava.models.qformer import QFormerConfig
from jaxllava.objectives import Causal
from jaxllava.train import train
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
    asker = make_asker(root / "bert")
    vision = EvaVisionConfig(16, 32, 2, 2, image_size=16, patch_size=8)
    qformer = QFormerConfig(16, 32, 2, 2, vocab_size=len(asker.tokenizer), queries=3, vision_size=16)
    decoder = LlamaConfig(len(tokenizer), 16, 32, 2, 2)
    image = tokenizer.convert_tokens_to_ids("<image>")
    model = LlamaVidConfig(vision, decoder, image, qformer=qformer, at_once=4)
    params = tiny.random_params(model)
    orbax.save_model(root / "base", params, model, tokenizer, "imgsp_v1", asker=asker)
    records.write({"instruct_train": made(24)}, root / "records")
    return model, asker, root


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
