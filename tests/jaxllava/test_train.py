"""Training runs: resume, finished runs, and mistakes that are found before the first step."""

from __future__ import annotations

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import train as train_config
from input_pipeline.errors import UserError
from input_pipeline.tokenizer import load_tokenizer
from jaxllava import interrupts, metrics, rules, sharding
from jaxllava.checkpoints import Checkpoints
from jaxllava.models.clip import ClipConfig, ClipTextConfig, ClipVisionConfig, init_clip
from jaxllava.models.llama import LlamaConfig, init_llama
from jaxllava.models.llava import LlavaConfig, init_params
from jaxllava.train import train
from jaxllava.weights import orbax
from tests.jaxllava import tiny_models as tiny

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def setting(plaza):
    tokenizer = load_tokenizer(plaza / "tokenizer")
    vision = ClipVisionConfig(16, 32, 2, 2, image_size=32, patch_size=16)
    decoder = LlamaConfig(len(tokenizer), 16, 32, 2, 2)
    model = LlavaConfig(vision, decoder, tokenizer.convert_tokens_to_ids("<image>"))
    config = train_config.get_config("stage=behavior")
    config.data = str(plaza / "data" / "records")
    config.template = "v1_bare"
    config.mesh = (1, 8, 1)
    config.batch, config.steps, config.lr = 8, 6, 1e-3
    config.log_every, config.checkpoint_every = 1, 2
    return config, model, tokenizer


def changed(setting, **changes):
    config, model, tokenizer = setting
    config = config.copy_and_resolve_references()
    config.update(changes)
    return config, model, tokenizer


def parameters(run) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in rules.flatten(tiny.opened(run.model)[0]).items()}


@pytest.fixture(scope="module")
def undisturbed(setting, tmp_path_factory):
    return train(*setting, tmp_path_factory.mktemp("run"))


def test_a_run_leaves_a_model_a_curve_and_its_cost(undisturbed):
    assert [step for step, _ in undisturbed.curve] == [1, 2, 3, 4, 5, 6]
    assert undisturbed.curve[-1][1] < undisturbed.curve[0][1]
    assert undisturbed.tokens_per_second > 0
    assert undisturbed.facts["fill"] > 0.5
    names = {path.split("/")[0] for path in parameters(undisturbed)}
    assert names == {"vision", "projector", "decoder"}


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_an_interrupted_run_goes_on_bitwise(setting, undisturbed, tmp_path, monkeypatch, number):
    def interrupt(done: int, total: int, note: str) -> None:
        if done == 1:  # steps that are under way when it comes are still done
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        train(*setting, tmp_path, progress=interrupt)
    assert not (tmp_path / "train.json").exists()
    steps: list[int] = []
    restore = Checkpoints.restore

    def without_a_second_state(self, like):
        assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(like))
        return restore(self, like)

    monkeypatch.setattr(Checkpoints, "restore", without_a_second_state)
    resumed = train(*setting, tmp_path, progress=lambda done, total, note: steps.append(done))
    assert [step for step in steps if step] == [5, 6], "the steps before the interrupt were run again"
    assert resumed.curve == undisturbed.curve
    expected = parameters(undisturbed)
    for path, leaf in parameters(resumed).items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)


def test_a_finished_run_is_returned_and_not_run_again(setting, undisturbed):
    again = train(*setting, undisturbed.model.parent, progress=lambda *_: pytest.fail("it ran"))
    assert again.curve == [tuple(point) for point in again.curve] or again.curve
    assert json.dumps(again.curve) == json.dumps(undisturbed.curve)


def test_a_finished_run_of_another_config_is_not_mistaken_for_this_one(setting, undisturbed):
    with pytest.raises(UserError, match="another config"):
        train(*changed(setting, lr=2e-3), undisturbed.model.parent)


def test_init_takes_the_named_parameters_from_another_model(setting, undisturbed, tmp_path):
    source = str(undisturbed.model)
    init = ((r"decoder/.*", source), (r"(vision|projector)/.*", None))
    run = train(*changed(setting, init=init, steps=1, seed=5), tmp_path)
    expected, found = parameters(undisturbed), parameters(run)
    # One warm-up step has learning rate 0: what was loaded is still there.
    for path, leaf in found.items():
        if path.startswith("decoder/"):
            np.testing.assert_array_equal(leaf, expected[path], err_msg=path)
    assert not np.array_equal(found["vision/layers/mlp/fc1/kernel"], expected["vision/layers/mlp/fc1/kernel"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 9}, "config.batch=9 does not divide"),
        ({"mesh": (3, 1, 1)}, "config.mesh"),
        ({"devices": 9}, "config.devices=9: only 8 are here"),
        ({"lr_rules": ((r"decoder/.*", 1.0),)}, "no rule of config.lr_rules matches"),
        ({"mixture": (("behaviour_train", 1.0),)}, "behavior_train"),
        ({"template": "vicuna"}, "Did you mean 'vicuna_v1'"),
        ({"row_images": 0}, "raise config.row_images"),
        ({"steps": -1}, "config.steps=-1: at least 0"),
        ({"keep": 0}, "config.keep=0: at least 1"),
        ({"mixture": ()}, "config.mixture is empty"),
        ({"mixture": (("instruct_train", 0.0),)}, "gives instruct_train the weight 0.0"),
        ({"lr_rules": ((r"(.*", None),)}, "is no regular expression"),
        ({"lr_rules": ((r".*", "1.0x"),)}, "the value '1.0x': a number or None is needed"),
        ({"lr_rules": ((r".*", None),)}, "config.lr_rules freezes everything"),
        ({"decay_rules": ((r".*", "x"),)}, "config.decay_rules gives"),
        ({"seed": -1}, "config.seed=-1: at least 0"),
        ({"samples_per_step": 100000}, "more than the .* samples of a pass"),
        ({"b1": 1.5}, "config.b1=1.5: a number from 0 to below 1"),
        ({"warmup": 2.0}, "config.warmup=2.0: a number from 0 to below 1"),
        ({"eps": -1.0}, "config.eps=-1.0: a positive number"),
        ({"weight_decay": -0.1}, "config.weight_decay=-0.1: 0 or more"),
        ({"export_best": True}, "rank by validation loss"),
        (
            {"validation": (("caption_train", 1.0),), "validation_rows": 0},
            "config.validation_rows=0 measures nothing",
        ),
        ({"lr": float("nan")}, "config.lr=nan: a positive number"),
        ({"dtype": "bf16"}, "config.dtype: 'bf16' is not known"),
        ({"attention": "flash"}, "config.attention: 'flash' is not known"),
        ({"remat": "ful"}, "Did you mean 'full'"),
        ({"log_every": 0}, "config.log_every=0: at least 1"),
        ({"sharding_rules": "lava"}, "config.sharding_rules: 'lava' is not known. Did you mean 'llava'"),
        ({"image_mode": "padd"}, "Did you mean 'pad'"),
        ({"method_rules": ((r".*", "muom"),)}, "Did you mean 'muon'"),
        ({"clip_norm": 0.0}, "config.clip_norm=0.0: a positive number"),
        ({"keep_best": 1}, "config.keep_best and config.export_best rank by validation loss"),
        ({"mixture": (("behavior_train", 0.0),)}, "config.mixture gives behavior_train the weight 0.0"),
    ],
)
def test_what_cannot_work_is_one_clear_error_before_the_first_step(setting, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(*changed(setting, **changes), tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_half_precision_base_learns_from_updates_that_half_precision_cannot_hold(setting, tmp_path):
    config, model, tokenizer = changed(setting, lr=2e-5, steps=2, warmup=0.0)
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), init_params(model, jax.random.key(0)))
    orbax.save_model(tmp_path / "base", params, model, tokenizer, "v1_bare")
    config.base = str(tmp_path / "base")
    found = parameters(train(config, model, tokenizer, tmp_path / "run"))
    before = rules.flatten(tiny.opened(tmp_path / "base")[0])
    name = "decoder/layers/mlp/up_proj/kernel"
    assert found[name].dtype == np.float32
    assert (found[name] != np.asarray(before[name], np.float32)).mean() > 0.5


def test_a_model_is_put_together_from_hugging_face_folders(setting, tmp_path):
    """Tower and decoder from folders as the hub has them, each parameter read for itself; the rest is new."""
    config, model, tokenizer = changed(setting, steps=1)  # one warm-up step: nothing moves
    clip = ClipConfig(model.vision, ClipTextConfig(16, 32, 2, 2), projection_dim=8)
    tiny.export_hf(init_clip(clip, jax.random.key(7)), clip, None, tmp_path / "clip")
    text = init_llama(model.decoder, jax.random.key(8))
    tiny.export_hf(text, model.decoder, None, tmp_path / "vicuna")
    config.init = (
        ("vision/.*", str(tmp_path / "clip")),
        ("decoder/.*", str(tmp_path / "vicuna")),
        (".*", None),
    )
    found = parameters(train(config, model, tokenizer, tmp_path / "run"))
    tower = rules.flatten(init_clip(clip, jax.random.key(7))["vision"])
    for name, leaf in tower.items():
        np.testing.assert_array_equal(found[f"vision/{name}"], leaf, name)
    for name, leaf in rules.flatten(text).items():
        np.testing.assert_array_equal(found[f"decoder/{name}"], leaf, name)


def test_a_base_may_be_a_hugging_face_folder(setting, undisturbed, tmp_path):
    """Of a LLaVA-NeXT too, on pictures of one view: its newline is not touched by it."""
    config, model, tokenizer = changed(setting, steps=2, warmup=0.0, image_mode="pad")
    pinpoints = ((32, 64), (64, 32))
    model = model.replace(image_mode="anyres", pinpoints=pinpoints)
    params = init_params(model, jax.random.key(3))
    tiny.export_hf(params, model, tokenizer, tmp_path / "next", "vicuna_v1")
    config.base = str(tmp_path / "next")
    run = train(config, model, tokenizer, tmp_path / "run")
    found = parameters(run)
    np.testing.assert_array_equal(found["image_newline"], params["image_newline"])
    name = "decoder/layers/mlp/up_proj/kernel"
    assert (found[name] != np.asarray(rules.flatten(params)[name])).mean() > 0.5
    config.image_mode = ""
    with pytest.raises(UserError, match=r"anyres is not trained here yet; set --config\.image_mode=pad"):
        train(config, model, tokenizer, tmp_path / "other")


def test_a_projector_trained_on_captions_keeps_its_base_s_template(setting, undisturbed, tmp_path):
    changes = train_config.get_config("stage=align")
    run = train(
        *changed(
            setting,
            mixture=changes.mixture,
            lr_rules=changes.lr_rules,
            template="plain",
            stage="align",
            base=str(undisturbed.model),
            steps=1,
        ),
        tmp_path,
    )
    assert orbax.read_config(run.model)[1] == "v1_bare"


def test_a_second_attempt_without_a_checkpoint_that_can_be_read_starts_anew(setting, tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoints, "steps", lambda self: [1])
    monkeypatch.setattr(Checkpoints, "restore", lambda self, like: None)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 9.0}\n')
    assert [step for step, _ in train(*changed(setting, steps=2), tmp_path).curve] == [1, 2]


@pytest.mark.parametrize("changes", [{"tie_embeddings": True}, {"projector": "linear"}])
def test_a_model_without_a_head_or_with_a_linear_projector_is_laid_out(setting, changes):
    config = setting[1]
    if "projector" in changes:
        config = config.replace(**changes)
    else:
        config = config.replace(decoder=config.decoder.replace(**changes))
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    sharding.param_shardings(shapes, sharding.make_mesh((1, -1, 1)), sharding.LLAVA_RULES)


def test_a_loss_that_is_not_a_number_stops_the_run_names_the_step_and_keeps_its_batch(setting, tmp_path):
    with pytest.raises(UserError, match=r"at step \d; its batch is kept in .*not-a-number-step\d-host0.npz"):
        train(*changed(setting, lr=1e20, clip_norm=1e30), tmp_path)
    (kept,) = tmp_path.glob("not-a-number-step*.npz")
    step = int(kept.name.split("step")[1].split("-")[0])
    with np.load(kept) as batch:
        assert batch["tokens"].shape == (8, 512)
        assert batch["images"].any()
    assert [line["step"] for line in metrics.read(tmp_path / metrics.NAME)] == list(range(1, step))


@pytest.mark.parametrize("mesh", [pytest.param((8, 1, 1), marks=pytest.mark.slow), (2, 2, 2)])
def test_the_loss_curve_is_that_of_one_device_on_every_mesh(setting, undisturbed, tmp_path, mesh):
    """Eight devices share the batch, the parameters, or both and the matrices: sums in another order, no more."""
    assert setting[0].mesh == (1, 8, 1)
    lines = {"(1, 8, 1)": metrics.read(undisturbed.model.parent / metrics.NAME)}
    for name, changes in {
        "one": {"devices": 1, "mesh": (1, 1, 1)},
        str(mesh): {"mesh": mesh},
    }.items():
        run = train(*changed(setting, **changes), tmp_path / name.replace(" ", ""))
        lines[name] = metrics.read(run.model.parent / metrics.NAME)
    expected = lines.pop("one")
    assert len(expected) == 6
    for name, found in lines.items():
        assert [line["batch"] for line in found] == [line["batch"] for line in expected], name
        for key in ("loss", "gradient_norm", "loss/behavior_train", "loss/instruct_train"):
            curves = ([line[key] for line in one] for one in (found, expected))
            np.testing.assert_allclose(*curves, rtol=1e-5, err_msg=f"{name} {key}")


LORA = {
    "lora_rules": ((r"decoder/layers/.*", (4, 8, 0.1)), (r".*", None)),
    "lr_rules": ((r"decoder/.*/lora_(a|b)", 1.0), (r"projector/.*", 0.5), (r".*", None)),
}


@pytest.fixture(scope="module")
def wider(setting, tmp_path_factory):
    """A base whose kernels are wide enough for blocks of 64."""
    _, model, tokenizer = setting
    decoder = model.decoder.replace(hidden_size=64, head_dim=32, intermediate_size=128)
    model = model.replace(decoder=decoder, vision=model.vision.replace(hidden_size=64))
    folder = tmp_path_factory.mktemp("wider")
    params = init_params(model, jax.random.key(2))
    orbax.save_model(folder, params, model, tokenizer, "v1_bare")
    return folder, model, rules.flatten(params)


@pytest.mark.parametrize("quantized", [pytest.param(False, marks=pytest.mark.slow), True])
def test_adapters_train_are_kept_alone_and_end_in_the_model(setting, wider, tmp_path, quantized):
    folder, model, before = wider
    changes = LORA | {"base": str(folder), "frozen_dtype": "bfloat16", "dtype": "bfloat16", "steps": 5}
    if quantized:
        changes["quantize_rules"] = ((r"decoder/layers/.*", "nf4"), (r".*", None))
    config, _, tokenizer = changed(setting, warmup=0.0, lr=1e-2, **changes)

    def interrupt(done: int, total: int, note: str) -> None:
        if done == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(interrupts.Preempted, match=r"saved at step \d"):
        train(config, model, tokenizer, tmp_path, progress=interrupt)
    newest = max((tmp_path / "checkpoints").iterdir(), key=lambda p: int(p.name) if p.name.isdigit() else 0)
    header = json.loads((newest / "header" / "metadata").read_text())
    trained = {path for path in header["tree"] if "trained" in path}
    assert trained and all("lora_" in path or "projector" in path for path in trained)
    assert header["step"] == int(newest.name)
    run = train(config, model, tokenizer, tmp_path)
    found = parameters(run)
    assert found.keys() == before.keys(), "no adapters and no codes are left"
    config_read = orbax.read_config(run.model)[0]
    assert config_read.decoder.hidden_size == 64
    moved = "decoder/layers/mlp/up_proj/kernel"
    assert (np.asarray(found[moved], np.float32) != np.asarray(before[moved], np.float32)).mean() > 0.5
    still = "decoder/embed/embedding"
    rounded = np.asarray(before[still].astype(jnp.bfloat16), np.float32)
    np.testing.assert_array_equal(np.asarray(found[still], np.float32), rounded)


def test_the_best_checkpoint_by_held_out_loss_stays(setting, tmp_path):
    changes = dict(
        validation=(("caption_train", 1.0),), validation_rows=8, checkpoint_every=1, keep=1, keep_best=1,
        lr=2.0, warmup=0.9, profile_at=3, profile_steps=1,  # a rate that grows to what makes it worse
    )  # fmt: skip
    said: list[str] = []
    run = train(*changed(setting, **changes, export_best=True), tmp_path, say=said.append)
    found = {
        line["step"]: line["validation_loss"]
        for line in metrics.read(tmp_path / metrics.NAME)
        if "validation_loss" in line
    }
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()}
    best = min(found, key=lambda step: found[step])
    assert kept == {best, 6} and best < 6, found
    assert said == [f"note: the model is that of step {best}, which had the lowest validation loss"]
    assert [step for step, _ in run.curve] == [1, 2, 3, 4, 5, 6]
    assert list((tmp_path / "profile").rglob("*.xplane.pb")), "the profiler's window"


def test_padded_batches_of_one_epoch(setting, tmp_path):
    """LLaVA's own batches: one sample a row, grouped, as many steps as it makes."""
    changes = dict(batching="padded", steps=0, row_images=1, row_tokens=512, pad_multiple=128)
    run = train(*changed(setting, **changes), tmp_path)
    samples = run.facts["samples"]
    assert run.facts["steps"] == len(run.curve) == -(-samples // 8)
    assert len(run.facts["lengths"]) > 1
    lines = metrics.read(tmp_path / metrics.NAME)
    tokens = [line["tokens"] for line in lines]
    positions = sum(count / line["fill"] for count, line in zip(tokens, lines, strict=True))
    assert sum(tokens) / positions == pytest.approx(run.facts["fill"], abs=2e-3), "of each batch's own length"


def test_the_devices_are_eight():
    assert len(jax.devices()) == 8


def test_a_workdir_opens_as_its_model(undisturbed):
    from jaxllava import api

    assert api.load(undisturbed.model.parent).config == api.load(undisturbed.model).config
