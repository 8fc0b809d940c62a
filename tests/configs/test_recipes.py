"""The shipped recipes against the published values, and their rules against the real parameter trees at full size."""

from __future__ import annotations

import functools
import re

import jax
import numpy as np
import pytest

from configs import llama_vid as llama_vid_recipes
from configs.arguments import product
from configs.llava_scripts import ROWS
from input_pipeline import packing
from input_pipeline.conversation import get_template
from input_pipeline.errors import UserError
from jaxllava import config_files, initial, optimizer, rules, sharding
from jaxllava.models.clip import ClipVisionConfig
from jaxllava.models.linear import keeps_dtype
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llama_vid import llama_vid
from jaxllava.models.llava import LlavaConfig, init_params, llava_1_5
from jaxllava.models.presets import preset
from jaxllava.models.siglip import SiglipVisionConfig

# What the papers and scripts say, written down a second time, from the reference and not from the configs:
# recipe: (samples of a step, lr of decoder, of projector, of tower, epochs, projector, template, image mode)
PUBLISHED = {
    "llava_v1:stage=1": (128, None, 2e-3, None, 1, "linear", "plain", "square"),
    "llava_v1:stage=2": (128, 2e-5, 2e-5, None, 3, "", "vicuna_v1", "square"),
    "llava_v1:stage=2,paper": (32, 2e-5, 2e-5, None, 3, "", "vicuna_v1", "square"),
    "llava_v1:stage=2,lora": (128, 2e-5, 2e-5, None, 1, "", "vicuna_v1", "square"),
    "llava_v1:stage=2,qlora": (128, 2e-5, 2e-5, None, 1, "", "vicuna_v1", "square"),
    "scienceqa": (128, 2e-5, 2e-5, None, 12, "", "vicuna_v1", "square"),
    "llava_v1_5:size=7b,stage=1": (256, None, 1e-3, None, 1, "mlp2x_gelu", "plain", "square"),
    "llava_v1_5:size=13b,stage=1": (256, None, 1e-3, None, 1, "mlp2x_gelu", "plain", "square"),
    "llava_v1_5:size=7b,stage=2": (128, 2e-5, 2e-5, None, 1, "", "vicuna_v1", "pad"),
    "llava_v1_5:size=13b,stage=2": (128, 2e-5, 2e-5, None, 1, "", "vicuna_v1", "pad"),
    "llava_v1_5:size=7b,stage=2,lora": (128, 2e-4, 2e-5, None, 1, "", "vicuna_v1", "pad"),
    "llava_v1_5:size=13b,stage=2,qlora": (128, 2e-4, 2e-5, None, 1, "", "vicuna_v1", "pad"),
    "behavior_llava": (128, 2e-5, 2e-5, None, 2.2, "", "vicuna_v1", "pad"),
    "behavior_llava:arm=ad,size=7b": (128, 2e-5, 2e-5, None, 2.2, "", "vicuna_v1", "pad"),
    "behavior_llava:base=llama_vid,size=13b": (32, 2e-5, 2e-5, None, 2.2, "", "imgsp_v1", "pad"),
    "behavior_llava:base=llama_vid,size=7b": (128, 2e-5, 2e-5, None, 2.2, "", "imgsp_v1", "pad"),
    "llama_vid:size=7b,stage=1": (256, None, 1e-3, None, 1, "mlp2x_gelu", "plain_guided", "square"),
    "llama_vid:size=13b,stage=1": (256, None, 1e-3, None, 1, "mlp2x_gelu", "plain_guided", "square"),
    "llama_vid:size=7b,stage=1,data=image,grid=4": (
        256,
        None,
        1e-3,
        None,
        1,
        "mlp2x_gelu",
        "plain_guided",
        "square",
    ),
    "llama_vid:size=7b,stage=2": (128, 2e-5, 2e-5, None, 1, "", "imgsp_v1", "pad"),
    "llama_vid:size=7b,stage=2,grid=2": (128, 2e-5, 2e-5, None, 1, "", "imgsp_v1", "pad"),
    "llama_vid:size=13b,stage=2": (32, 2e-5, 2e-5, None, 1, "", "imgsp_v1", "pad"),
    "llama_vid:size=7b,stage=2,data=image": (128, 2e-5, 2e-5, None, 1, "", "imgsp_v1", "pad"),
    "llama_vid:size=7b,stage=2,data=image,grid=4": (128, 2e-5, 2e-5, None, 1, "", "imgsp_v1", "pad"),
    "llama_vid:size=7b,stage=2,data=image,pixels=336": (128, 2e-5, 2e-5, None, 1, "", "imgsp_v1", "pad"),
    "llama_vid:size=13b,stage=2,data=image,pixels=336": (64, 2e-5, 2e-5, None, 1, "", "imgsp_v1", "pad"),
    "llama_vid:size=7b,stage=3": (8, 2e-5, 2e-5, None, 1, "", "imgsp_v1", "pad"),
    "llama_vid:size=13b,stage=3": (8, 2e-5, 2e-5, None, 1, "", "imgsp_v1", "pad"),
    "siglip_qwen:stage=1": (256, None, 1e-3, None, 1, "mlp2x_gelu", "plain", "stretch"),
    "siglip_qwen:stage=2": (256, 1e-5, 1e-5, 2e-6, 1, "", "chatml", "stretch"),
}
# --model_max_length where it is not 2048.
LENGTHS = {
    "llama_vid:size=7b,stage=2,data=image": 4096,
    "llama_vid:size=7b,stage=2,data=image,pixels=336": 4096,
    "llama_vid:size=13b,stage=2,data=image,pixels=336": 4096,
}
LORA = {
    "llava_v1:stage=2,lora": (64, 16, 0.05),
    "llava_v1:stage=2,qlora": (64, 16, 0.05),
    "llava_v1_5:size=7b,stage=2,lora": (128, 256, 0.05),
    "llava_v1_5:size=13b,stage=2,qlora": (128, 256, 0.05),
}
ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@functools.cache
def parameters(model: LlavaConfig) -> dict[str, jax.ShapeDtypeStruct]:
    return rules.flatten(jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0)))


def tree(recipe: str) -> dict[str, jax.ShapeDtypeStruct]:
    """The parameters that a recipe meets, at full size; adapters by the names that they have beside their kernels."""
    if recipe.startswith("siglip_qwen"):
        vision = SiglipVisionConfig(1152, 4304, 27, 16, image_size=384, patch_size=14)
        decoder = LlamaConfig(
            151936, 896, 4864, 24, 14, kv_heads=2, tie_embeddings=True, family="qwen2", qkv_bias=True
        )
        model = LlavaConfig(vision, decoder, 151665, feature_select="cls_patch")
    elif "llama_vid" in recipe:
        model = llama_vid("13b" if "size=13b" in recipe else "7b")
    else:
        model = llava_1_5("13b" if "size=13b" in recipe or recipe == "behavior_llava" else "7b")
        if not recipe.startswith(("llava_v1_5", "behavior")):
            vision = ClipVisionConfig(1024, 4096, 24, 16, image_size=224, patch_size=14)
            model = model.replace(vision=vision, projector="linear")
    flat = dict(parameters(model))
    if "lora" in recipe:
        for path in [p for p in flat if re.search(rf"decoder/.*/({'|'.join(ADAPTED)})/kernel", p)]:
            for name in ("lora_a", "lora_b", "lora_scale", "lora_dropout"):
                flat[path.removesuffix("kernel") + name] = flat[path]
    return flat


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_a_recipe_has_the_published_values(recipe):
    batch, decoder, projector, tower, epochs, kind, template, image_mode = PUBLISHED[recipe]
    config = config_files.load(recipe)
    long = recipe.startswith("llama_vid") and recipe.endswith("stage=3")
    batching = "padded" if long else "packed"
    samples = config.batch if long else config.samples_per_step
    assert (samples, config.accumulate, config.batching) == (batch, 1, batching)
    assert (config.steps, config.mixture_epochs) == (0, epochs)
    assert (config.template, config.image_mode) == (template, image_mode)
    assert get_template(config.template)
    if kind:
        assert config.projector == kind
    assert (config.warmup, config.weight_decay, config.clip_norm) == (0.03, 0.0, 1.0)
    assert (config.b1, config.b2, config.eps) == (0.9, 0.999, 1e-8)
    assert (config.dtype, config.remat) == ("bfloat16", "full")
    assert config.sample_tokens == (65_536 if long else LENGTHS.get(recipe, 2048))
    assert config.sample_tokens <= config.row_tokens or template == "plain_guided", "no caption is so long"
    assert config.row_tokens % 512 == 0, "the attention kernel's block"
    assert {method for _, method in config.method_rules} == {"adam"}
    multiples = rules.match(config.lr_rules, tree(recipe), "config.lr_rules")
    rates = {path: value and round(value * config.lr, 12) for path, value in multiples.items()}
    part = lambda prefix: {rate for path, rate in rates.items() if path.startswith(prefix)}
    assert part("projector/") == {projector}
    if "lora" in recipe:
        adapters = {path for path, rate in rates.items() if rate is not None and path.startswith("decoder/")}
        assert len(adapters) == 2 * len(ADAPTED)
        assert all(path.endswith(("/lora_a", "/lora_b")) for path in adapters)
        assert {rates[path] for path in adapters} == {decoder}
    else:
        assert part("decoder/") == {decoder}
    assert part("vision/layers/") == {tower}


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_every_rule_of_a_recipe_matches_the_full_size_model(recipe):
    config, flat = config_files.load(recipe), tree(recipe)
    whole = {path: leaf for path, leaf in flat.items() if "/lora_" not in path}
    for key in ("decay_rules", "method_rules", "init"):
        rules.match(config[key], flat, f"config.{key}")
    mesh = sharding.make_mesh((1, -1, 1))
    sharding.param_shardings(rules.unflatten(whole), mesh, sharding.LLAVA_RULES)
    wanted = {p for p in whole if re.search(rf"decoder/.*/({'|'.join(ADAPTED)})/kernel", p)}
    if recipe in LORA:
        found = rules.match(config.lora_rules, whole, "config.lora_rules")
        assert {path for path, value in found.items() if value} == wanted and len(wanted) == 7
        assert {value for value in found.values() if value} == {LORA[recipe]}
    else:
        assert config.lora_rules == ()
    if "qlora" in recipe:
        found = rules.match(config.quantize_rules, whole, "config.quantize_rules")
        assert {path for path, value in found.items() if value == "nf4"} == wanted
    else:
        assert config.quantize_rules == ()


@pytest.mark.parametrize(
    ("recipe", "batching"),
    [
        ("llava_v1:stage=1", "padded_random"),
        ("llava_v1:stage=2", "padded_random"),
        ("scienceqa", "padded_random"),
        ("llava_v1_5:stage=1", "padded_random"),
        ("llava_v1_5:stage=2", "padded"),  # --group_by_modality_length
        ("llava_v1_5:stage=2,lora", "padded"),
        ("llama_vid:stage=1,data=image", "padded_random"),
        ("llama_vid:stage=2,data=image,grid=4", "padded"),
    ],
)
def test_padded_is_the_batch_of_llava_s_own_code(recipe, batching):
    packed = config_files.load(recipe)
    padded = config_files.load(recipe + (",padded" if ":" in recipe else ":padded"))
    assert (padded.batching, padded.samples_per_step) == (batching, 0)
    assert (padded.row_tokens, padded.row_images) == (2048, 1)
    assert padded.batch == packed.samples_per_step
    same = ("batching", "samples_per_step", "row_tokens", "row_images")
    assert {k: v for k, v in padded.items() if k not in same} == {
        k: v for k, v in packed.items() if k not in same
    }


@pytest.mark.parametrize("arm", ["behavior", "ad", "shuffled"])
def test_behaviour_and_instructions_are_mixed_one_to_one(arm):
    config = config_files.load(f"behavior_llava:arm={arm}")
    assert config.mixture == ((f"{arm}_train", 1.0), ("instruct_train", 1.0))
    assert (config.validation, config.keep_best) == (((f"{arm}_heldout", 1.0),), 1)


@pytest.mark.parametrize("recipe", ["behavior_llava:base=llama_vid,size=7b", "llama_vid:size=7b,stage=3"])
def test_of_a_llama_vid_llm_and_projector_train(recipe):
    found = rules.match(config_files.load(recipe).lr_rules, tree(recipe), "config.lr_rules")
    parts = {path.split("/")[0] for path in found}
    assert parts == {"vision", "qformer", "qformer_norm", "context", "projector", "decoder"}
    trained = {path for path, rate in found.items() if rate is not None}
    assert trained == {path for path in found if path.startswith(("projector/", "decoder/"))}


def test_long_films_are_rows_of_65536_positions_by_their_kept_features():
    """--model_max_length 65536, --per_device_train_batch_size 1 on eight devices, two tokens a frame."""
    config = config_files.load("llama_vid:size=7b,stage=3")
    assert (config.row_tokens, config.batch, config.rope_factor) == (65_536, 8, 65_536 / 4096)
    assert config.qformer_class == "hidden"
    assert config.features and config.row_images == 65_536 // 2
    assert config.row_tokens % config.pad_multiple == 0 and config.architecture == "llama-vid-7b-long"


@pytest.mark.parametrize("recipe", [name for name in PUBLISHED if name.startswith("llama_vid")])
def test_who_trains_of_a_llama_vid(recipe):
    """--bert_type: qformer_pretrain_freeze in stage 1, which leaves the three projections; qformer_pretrain in 2;
    qformer_pretrain_freeze_all in 3.
    """
    config = config_files.load(recipe)
    rates = rules.match(config.lr_rules, tree(recipe), "config.lr_rules")
    part = lambda prefix: {rate for path, rate in rates.items() if path.startswith(prefix)}
    assert part("context/") == {None if "stage=3" in recipe else 1.0}
    assert part("qformer/") == part("qformer_norm/") == {1.0 if "stage=2" in recipe else None}
    if "grid" not in recipe:
        model = preset(config.architecture)
        sides = {"pixels=336": 336}
        assert model.vision.image_size == next((s for name, s in sides.items() if name in recipe), 224)
        assert (
            model.image_tokens
            == {224: 2 if "image" not in recipe else 257, 336: 577}[model.vision.image_size]
        )
        if "stage=1" in recipe:
            assert (config.compress, config.image_size) == ("mean", 224)
    elif "stage=1" in recipe:
        assert config.compress == "grid:4"


@pytest.mark.parametrize(("data", "stage", "tokens"), llama_vid_recipes.ROWS)
def test_rows_of_a_llama_vid_are_full(data, stage, tokens):
    """Captions and talk as above; WebVid's clips of some 18 s among captions, ActivityNet's of two minutes among talk;
    pictures that stand before each of up to six or twelve questions.
    """
    row, frames = llama_vid_recipes.ROWS[data, stage, tokens]
    rng = np.random.default_rng(0)
    count = 4000 if stage == "1" else 1000  # packing takes long where rows have hundreds of frames
    median, spread, bounds = (16, 0.5, (3, 60)) if stage == "1" else (105, 0.55, (10, 300))
    words, around, least, most = (14, 0.3, 5, 60) if stage == "1" else (220, 0.6, 40, 2000)
    text = np.clip(np.exp(rng.normal(np.log(words), around, count)), least, most).astype(np.int64) + 2
    clips = np.clip(np.exp(rng.normal(np.log(median), spread, count)), *bounds).astype(np.int64)
    film = rng.random(count) < (0.29 if stage == "1" else 0.13)
    images = np.where(film & (data == "video"), clips, 1)
    turns = 1 if stage == "1" else np.where(film, 1, rng.integers(1, 7 if tokens == 577 else 13, count))
    most = 4096 if tokens in (257, 577) else 2048
    lengths = np.minimum(text + images * turns * tokens, min(row, most))
    plan = packing.plan(lengths, images, row, frames, seed=0)
    assert plan.fill >= (0.9 if tokens == 577 and stage == "2" else 0.95), plan.fill


@pytest.mark.parametrize("image_tokens", ROWS)
def test_rows_are_as_long_as_lets_samples_fill_them(image_tokens):
    """Captions of some 14 tokens; conversations of 40 to 2000 with a median of 220: the plans of their rows."""
    rng = np.random.default_rng(0)
    caption = np.clip(np.exp(rng.normal(np.log(14), 0.3, 5000)), 5, 60).astype(np.int64) + 2
    chat = np.clip(np.exp(rng.normal(np.log(220), 0.6, 5000)), 40, 2000).astype(np.int64) + 42
    one = np.ones(5000, np.int64)
    for text, (row, pictures) in zip((caption, chat), ROWS[image_tokens], strict=True):
        plan = packing.plan(np.minimum(text + image_tokens, 2048), one, row, pictures, seed=0)
        assert plan.fill >= (0.97 if image_tokens == 729 else 0.98), (image_tokens, row, plan.fill)
    sides = {729: (384, 14), 576: (336, 14), 256: (224, 14), 196: (224, 16)}
    assert {(pixels // patch) ** 2 for pixels, patch in sides.values()} == set(ROWS)


@pytest.mark.parametrize("recipe", ["llava_v1_5:size=13b,stage=2,lora", "llava_v1_5:size=7b,stage=2,qlora"])
def test_of_a_lora_recipe_the_adapters_and_the_projector_train(recipe):
    """At full size, with the real adapters and four-bit kernels in the tree; shapes alone."""
    config = config_files.load(recipe)
    model = llava_1_5("13b" if "13b" in recipe else "7b")
    shapes = initial.final_shapes(lambda key: init_params(model, key), config)
    trained, frozen = optimizer.partition(shapes, config.lr_rules)
    paths = rules.flatten(trained)
    assert {path.split("/")[-1] for path in paths} == {"lora_a", "lora_b", "kernel", "bias"}
    assert all(path.startswith("projector/") for path in paths if "lora" not in path)
    assert {str(leaf.dtype) for leaf in paths.values()} == {"float32"}
    kept = {str(leaf.dtype) for path, leaf in rules.flatten(frozen).items() if not keeps_dtype(path)}
    assert kept == {"bfloat16"}
    sharding.param_shardings(shapes, sharding.make_mesh((1, -1, 1)), sharding.LLAVA_RULES)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("llava_v1_5:size=7b,stage=1,lora", "lora and qlora are of stage=2"),
        ("llava_v1:stage=1,paper", "are of stage=2"),
        ("llava_v1_5:size=70b", "size='70b' is not known. Did you mean '7b'"),
        ("llava_v1_5:stage=3", "stage='3' is not known. Valid names: 1, 2"),
        ("behavior_llava:base=llava_v15", "Did you mean 'llava_v1_5'"),
        ("llama_vid:pixels=336", "data=video,pixels=336,grid=0 has no script; there are data=video"),
        ("siglip_qwen:tower=so400m-patch14", "Did you mean 'so400m-patch14-384'"),
        ("llava_v1.5", "Did you mean 'llava_v1_5'"),
    ],
)
def test_a_recipe_that_does_not_exist_is_one_line(recipe, message):
    with pytest.raises(UserError, match=re.escape(message)):
        config_files.load(recipe)


def test_a_product_is_every_combination_and_the_last_key_changes_fastest():
    assert product(lr=[1, 2], seed=[0, 1]) == [
        {"lr": 1, "seed": 0},
        {"lr": 1, "seed": 1},
        {"lr": 2, "seed": 0},
        {"lr": 2, "seed": 1},
    ]
    for bad in ([], "ab"):
        with pytest.raises(UserError, match=r"product\(lr=\.\.\.\)"):
            product(lr=bad)
