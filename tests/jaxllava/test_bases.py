"""What a run starts from: whole models and new ones, and LLaVA's two stages with the real recipes on tiny folders."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from configs import train as train_config
from input_pipeline.errors import UserError
from jaxllava import cli, identity, rules
from jaxllava.bases import open_base
from jaxllava.models.clip import ClipConfig, ClipTextConfig, ClipVisionConfig
from jaxllava.models.eva import EvaVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.models.qformer import QFormerConfig
from jaxllava.models.siglip import SiglipVisionConfig
from jaxllava.weights import fused, lazy, orbax, original, tables
from tests.conftest import make_asker
from tests.jaxllava import tiny_models as tiny

pytestmark = pytest.mark.usefixtures("compiled_quickly")

CLIP = ClipConfig(ClipVisionConfig(16, 32, 3, 2, image_size=32, patch_size=16), ClipTextConfig(16, 32, 2, 2))
SIGLIP = SiglipVisionConfig(16, 32, 3, 2, image_size=32, patch_size=16)


def without_image_token(tokenizer: transformers.PreTrainedTokenizerFast, *marks: str):
    """A text model's tokenizer: it has never heard of pictures. `marks` are control tokens of its own."""
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = [token for token in described["added_tokens"] if token["content"] != "<image>"]
    described["added_tokens"] = kept
    # Ids stay as they are: what was <image> becomes a word that nobody writes.
    vocabulary = described["model"]["vocab"]
    vocabulary["\u2205"] = vocabulary.pop("<image>")
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=transformers.tokenization_utils_fast.TokenizerFast.from_str(json.dumps(described)),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
    )
    made.add_special_tokens({"extra_special_tokens": list(marks)})
    return made


@pytest.fixture(scope="module")
def parts(plaza, tmp_path_factory):
    """Folders as the hub has them: clip, siglip, vicuna, qwen (ChatML tokens), mute (no tokenizer)."""
    from input_pipeline.tokenizer import load_tokenizer

    root = tmp_path_factory.mktemp("parts")
    tokenizer = load_tokenizer(plaza / "tokenizer")
    text = LlamaConfig(len(tokenizer), 16, 32, 2, 2)
    tiny.export_hf(tiny.random_params(CLIP, 1), CLIP, None, root / "clip")
    tiny.export_hf(tiny.random_params(SIGLIP, 2), SIGLIP, None, root / "siglip")
    plain = without_image_token(tokenizer)
    tiny.export_hf(tiny.random_params(text, 3), text, plain, root / "vicuna")
    marks = without_image_token(tokenizer, "<|im_start|>", "<|im_end|>")
    qwen = text.replace(vocab_size=len(marks) + 10, family="qwen2", qkv_bias=True, tie_embeddings=True)
    tiny.export_hf(tiny.random_params(qwen, 4), qwen, marks, root / "qwen")
    tiny.export_hf(tiny.random_params(text, 3), text, None, root / "mute")
    llava = tiny.llava_for(tokenizer)
    orbax.save_model(root / "llava", tiny.random_params(llava), llava, tokenizer, "v1_bare")
    orbax.save_model(root / "aligned", tiny.random_params(llava), llava, tokenizer, "plain")
    orbax.save_model(root / "silent", tiny.random_params(llava), llava, None, "v1_bare")
    return root


def config_of(stage: str = "align", **changes):
    config = train_config.get_config(f"stage={stage}")
    config.update({key: str(value) if key in ("base", "vision_tower", "decoder") else value
                   for key, value in changes.items()})  # fmt: skip
    return config


def test_a_new_llava_has_the_weights_of_its_parts_and_no_projector(parts):
    base = open_base(config_of(vision_tower=parts / "clip", decoder=parts / "vicuna"))
    flat = rules.flatten(base.leaves)
    expected = {
        **{f"vision/{k}": v for k, v in rules.flatten(tiny.random_params(CLIP, 1)["vision"]).items()},
        **{f"decoder/{k}": v for k, v in rules.flatten(tiny.random_params(base.config.decoder, 3)).items()},
    }
    assert flat.keys() == expected.keys()
    for path, leaf in flat.items():
        np.testing.assert_array_equal(leaf.read(), expected[path], err_msg=path)
    model = base.config
    assert (model.projector, model.feature_layer, model.feature_select) == ("mlp2x_gelu", -2, "patch")
    assert (model.image_mode, model.image_tokens) == ("square", 4)
    assert base.template == "vicuna_v1", "a stage of the projector is not how the model is spoken to"


def test_a_decoder_s_tokenizer_gets_an_image_token_that_may_lie_behind_its_vocabulary(parts):
    vicuna = open_base(config_of(vision_tower=parts / "clip", decoder=parts / "vicuna"))
    qwen = open_base(config_of(vision_tower=parts / "clip", decoder=parts / "qwen"))
    for base in (vicuna, qwen):
        assert base.tokenizer.convert_tokens_to_ids("<image>") == base.config.image_token
        assert base.tokenizer.encode("<image>", add_special_tokens=False) == [base.config.image_token]
    assert vicuna.config.image_token == vicuna.config.decoder.vocab_size
    assert qwen.config.image_token < qwen.config.decoder.vocab_size
    known = {str(token) for token in qwen.tokenizer.added_tokens_decoder.values() if token.special}
    assert {"<|im_start|>", "<|im_end|>", "<image>"} <= known


def test_siglip_keeps_its_first_patch_and_is_stretched(parts):
    base = open_base(config_of(vision_tower=parts / "siglip", decoder=parts / "qwen"))
    assert base.config.image_tokens == SIGLIP.patches == 4
    assert (base.config.image_mode, base.template) == ("stretch", "chatml")


@pytest.mark.parametrize("prefix", ["", "vision_model."], ids=["5.23", "4.x"])
def test_a_folder_of_the_vision_tower_alone_will_do(parts, tmp_path, prefix):
    """As CLIPVisionModel saves it: model_type clip_vision_model, names without and (before 5.6) with vision_model."""
    transformers.CLIPVisionModel.from_pretrained(parts / "clip").save_pretrained(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    plain = {name.removeprefix("vision_model."): value for name, value in held.items()}
    save_file({prefix + name: value for name, value in plain.items()}, tmp_path / "model.safetensors")
    whole = open_base(config_of(vision_tower=parts / "clip", decoder=parts / "vicuna"))
    alone = open_base(config_of(vision_tower=tmp_path, decoder=parts / "vicuna"))
    assert alone.config == whole.config
    expected = rules.flatten(whole.leaves)
    assert rules.flatten(alone.leaves).keys() == expected.keys()
    for path, leaf in rules.flatten(alone.leaves).items():
        np.testing.assert_array_equal(leaf.read(), expected[path].read(), err_msg=path)


def test_a_base_is_taken_as_it_is(parts):
    base = open_base(config_of("behavior", base=parts / "llava"))
    assert base.template == "v1_bare"
    assert {path.split("/")[0] for path in rules.flatten(base.leaves)} == {"vision", "projector", "decoder"}
    assert base.config == orbax.open_model(parts / "llava").config


def test_the_config_s_settings_reach_tower_and_decoder(parts):
    plain = open_base(config_of(vision_tower=parts / "clip", decoder=parts / "vicuna")).config
    changed = open_base(
        config_of(
            vision_tower=parts / "clip",
            decoder=parts / "vicuna",
            dtype="bfloat16",
            attention="cudnn",
            remat="full",
            image_mode="pad",
            projector="linear",
        )
    ).config
    for part in (changed.vision, changed.decoder):
        assert (part.dtype, part.attention, part.remat) == ("bfloat16", "cudnn", "full")
        assert part.param_dtype == "float32", "what is stored stays what it was"
    assert (changed.image_mode, changed.projector) == ("pad", "linear")
    same = {f.name for f in dataclasses.fields(plain)} - {"vision", "decoder", "image_mode", "projector"}
    assert all(getattr(plain, name) == getattr(changed, name) for name in same)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "--config.base is not set: set --config.base=DIR"),
        ({"vision_tower": "clip"}, "--config.decoder is not set"),
        ({"decoder": "vicuna"}, "--config.vision_tower is not set"),
        ({"base": "llava", "decoder": "vicuna"}, "--config.base and --config.decoder are both set"),
        ({"base": "llava", "vision_tower": "clip"}, "--config.base and --config.vision_tower are both set"),
        ({"base": "clip"}, "holds a CLIP model, not a LLaVA with its tokenizer"),
        ({"base": "silent"}, "holds a LLaVA without its tokenizer"),
        ({"base": "nowhere"}, "--config.base: "),
        ({"vision_tower": "vicuna", "decoder": "vicuna"}, "holds a text model, a CLIP or SigLIP tower is needed"),
        ({"vision_tower": "clip", "decoder": "siglip"}, "holds a SigLIP vision tower, a text model is needed"),
        ({"vision_tower": "clip", "decoder": "mute"}, "has no tokenizer that can be read; copy tokenizer.json"),
        ({"vision_tower": "clip", "decoder": "vicuna", "projector": "mlp"}, "--config.projector: projector 'mlp'"),
        ({"base": "llava", "dtype": "bf16"}, "--config.dtype: dtype 'bf16' is not known"),
        ({"base": "llava", "remat": "all"}, "--config.remat: remat policy 'all' is not known"),
        ({"base": "llava", "attention": "flash"}, "--config.attention: attention implementation 'flash'"),
        ({"base": "llava", "image_mode": "crop"}, "--config.image_mode: image_mode 'crop' is not known"),
        ({"stage": "behavior", "base": "aligned"}, "has the template 'plain', which is for"),
        ({"stage": "behavior", "base": "llava", "template": "plain"}, "--config.template is 'plain', which"),
    ],
)  # fmt: skip
def test_what_cannot_be_started_from_is_one_line(parts, given, message):
    folders = {k: parts / v for k, v in given.items() if k in ("base", "vision_tower", "decoder")}
    with pytest.raises(UserError, match=re.escape(message)) as error:
        open_base(config_of(**{"template": "", **given, **folders}))
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def lavis(parts):
    """What a new LLaMA-VID takes: eva_vit_g.pth, an InstructBLIP file, a folder of BERT's tokenizer; their leaves."""
    asker = make_asker(parts / "bert")
    vision = EvaVisionConfig(88, 32, 2, 1, image_size=16, patch_size=8)
    qformer = QFormerConfig(768, 16, 2, 12, len(asker.tokenizer), 32, queries=2, vision_size=88)
    model = LlamaVidConfig(vision, LlamaConfig(8, 8, 8, 1, 1), 0, qformer=qformer)
    params = tiny.random_params(model, 5)
    named = fused.join_eva(tables.from_leaves(lazy.lazy(params), original.table(model), tables.shapes(model)))
    torch_of = lambda tensor: torch.from_numpy(np.array(tensor.read()))
    eva = {n.removeprefix(original.EVA_TOWER): torch_of(t) for n, t in named.items() if "vision_tower" in n}
    torch.save(eva | {"norm.weight": torch.ones(88)}, parts / "eva_vit_g.pth")
    old = {
        "model.vlm_att_encoder.": "Qformer.",
        "model.vlm_att_ln": "ln_vision",
        "model.vlm_att_query": "query_tokens",
    }
    blip = {
        name.replace(theirs, ours): torch_of(tensor)
        for name, tensor in named.items()
        for theirs, ours in old.items()
        if name.startswith(theirs)
    }
    blip |= {"Qformer.bert.embeddings.position_ids": torch.arange(32), "llm_proj.weight": torch.ones(2)}
    torch.save({"model": blip}, parts / "instruct_blip.pth")
    taken = {"vision", "qformer", "qformer_norm"}
    return {path: leaf for path, leaf in rules.flatten(params).items() if path.split("/")[0] in taken}


def vid(parts, **changes) -> dict[str, str]:
    names = {"vision_tower": "eva_vit_g.pth", "decoder": "vicuna", "qformer": "instruct_blip.pth",
             "question_tokenizer": "bert"}  # fmt: skip
    return {key: str(parts / name) for key, name in (names | changes).items() if name}


def test_a_new_llama_vid_has_the_weights_of_its_parts(parts, lavis):
    base = open_base(config_of(**vid(parts)))
    model = base.config
    assert isinstance(model, LlamaVidConfig) and base.asker is not None
    assert (model.image_tokens, model.feature_layer, model.qformer_sees_class) == (2, -1, True)
    assert (base.template, model.image_mode, model.bridges) == ("imgsp_v1", "square", False)
    flat = rules.flatten(base.leaves)
    decoder = rules.flatten(tiny.random_params(model.decoder, 3))
    expected = lavis | {f"decoder/{path}": leaf for path, leaf in decoder.items()}
    assert flat.keys() == expected.keys()
    for path, leaf in flat.items():
        np.testing.assert_array_equal(leaf.read(), expected[path], err_msg=path)
    assert {note.split(": ", 1)[1] for note in base.notes} == {
        "left out, for BLIP-2's tower is the first 2 blocks: norm",
        "left out: llm_proj",
    }
    larger = open_base(config_of(**vid(parts), image_size=32, compress="grid:2"))
    assert isinstance(larger.config, LlamaVidConfig) and larger.config.image_tokens == 5
    assert rules.flatten(larger.leaves)["vision/embeddings/position_embedding"].read().shape == (1, 17, 88)


def test_a_llama_vid_may_see_through_clip(parts, lavis):
    model = open_base(config_of(**vid(parts, vision_tower="clip"))).config
    assert isinstance(model, LlamaVidConfig) and model.bridges
    size = model.vision.image_size
    assert open_base(config_of(**vid(parts, vision_tower="clip"), image_size=size)).config == model
    assert (model.feature_layer, model.qformer_sees_class) == (-2, False)


@pytest.mark.parametrize(
    ("given", "changes", "message"),
    [
        ({"qformer": ""}, {}, "--config.qformer is not set: a new LLaMA-VID takes"),
        ({"question_tokenizer": ""}, {}, "--config.question_tokenizer is not set: a new LLaMA-VID takes"),
        ({"vision_tower": "siglip"}, {}, "holds SigLIP: a new LLaMA-VID takes"),
        ({"vision_tower": "clip", "qformer": ""}, {}, "question_tokenizer is a LLaMA-VID's, and --config.qformer"),
        ({"vision_tower": "clip"}, {"image_size": 48}, "only an EVA tower (eva_vit_g.pth) is resized"),
        ({"vision_tower": "instruct_blip.pth"}, {}, "no EVA vision tower (cls_token"),
        ({"qformer": "eva_vit_g.pth"}, {}, "holds no Q-Former (its queries missing)"),
        ({"qformer": "nowhere.pth"}, {}, "--config.qformer: "),
        ({"question_tokenizer": "clip"}, {}, "holds no tokenizer that can be read"),
        ({}, {"compress": "grid:9"}, "--config.compress: compress 'grid:9'"),
        ({}, {"base": "llava"}, "--config.base and --config.vision_tower are both set"),
    ],
)  # fmt: skip
def test_what_no_llama_vid_can_be_made_of_is_one_line(parts, lavis, given, changes, message):
    base = {"base": str(parts / changes.pop("base"))} if "base" in changes else {}
    with pytest.raises(UserError, match=re.escape(message)) as error:
        open_base(config_of(**vid(parts, **given), **base, **changes))
    assert "\n" not in str(error.value)


def test_a_llama_vid_s_identity_is_of_its_files(parts, lavis, tmp_path):
    other = tmp_path / "other.pth"
    other.write_bytes((parts / "eva_vit_g.pth").read_bytes())
    same = identity.of_folder(other)
    assert (
        same == identity.of_folder(parts / "eva_vit_g.pth") != identity.of_folder(parts / "instruct_blip.pth")
    )
    other.write_bytes(other.read_bytes()[:-1] + b"x")
    assert identity.of_folder(other) != same


def test_an_original_base_takes_the_tower_that_it_left_out(parts, tmp_path):
    """As liuhaotian/llava-v1.5-7b is published; `decoder` is the model under a projector alone (mm_projector.bin)."""
    cli.main(["convert", "--from", str(parts / "llava"), "--to", str(tmp_path / "o"), "--format", "llava"])
    held = load_file(tmp_path / "o" / "model.safetensors")
    kept = {name: value for name, value in held.items() if "vision_tower" not in name}
    save_file(kept, tmp_path / "o" / "model.safetensors")
    shutil.rmtree(tmp_path / "o" / "vision_tower")
    with pytest.raises(UserError, match="vision tower"):
        open_base(config_of("behavior", base=tmp_path / "o"))
    clip = ClipConfig(tiny.VISION, CLIP.text)
    tiny.export_hf(tiny.random_params(clip, 1), clip, None, tmp_path / "clip")
    base = open_base(config_of("behavior", base=tmp_path / "o", vision_tower=tmp_path / "clip"))
    assert {path.split("/")[0] for path in rules.flatten(base.leaves)} == {"vision", "projector", "decoder"}


SHRUNK = {
    **dict(
        row_tokens=512, batch=2, samples_per_step=0, steps=2, devices=1, workers=0, log_every=1, loss_chunks=1
    ),
    **dict(dtype="float32", frozen_dtype="float32", save_dtype="", attention="xla", tensorboard=False),
}


def trained(recipe: str, workdir, plaza, **given):
    """`jaxllava train` with a shipped recipe that only overrides have made small."""
    changes = {**SHRUNK, "data": plaza / "data/records", **given}
    overrides = [f"--config.{key}={value}" for key, value in changes.items()]
    cli.main(["train", "--config", recipe, "--workdir", str(workdir), *overrides])
    found = orbax.open_model(workdir / "model")
    return found, {path: leaf.read() for path, leaf in rules.flatten(found.leaves).items()}


def test_stage_one_and_two_of_a_recipe(parts, plaza, tmp_path):
    """Stage 1 trains the projector between parts that stay, stage 2 starts from it and trains the decoder too."""
    given = {"vision_tower": parts / "clip", "decoder": parts / "vicuna"}
    one, first = trained("llava_v1_5:size=7b,stage=1", tmp_path / "one", plaza, **given)
    opened = open_base(config_of(**given))
    for path, leaf in rules.flatten(opened.leaves).items():
        np.testing.assert_array_equal(first[path], leaf.read(), err_msg=path)
    assert {path.split("/")[0] for path in first} == {"vision", "decoder", "projector"}
    assert one.tokenizer is not None
    assert one.tokenizer.convert_tokens_to_ids("<image>") == opened.config.image_token

    two, second = trained("llava_v1_5:size=7b,stage=2", tmp_path / "two", plaza, base=tmp_path / "one")
    changed = {path for path in first if not np.array_equal(first[path], second[path])}
    assert {"projector/linear_1/kernel", "decoder/layers/attn/q_proj/kernel"} <= changed
    assert not any(path.startswith("vision/") for path in changed)
    assert isinstance(one.config, LlavaConfig) and isinstance(two.config, LlavaConfig)
    assert (one.config.image_mode, two.config.image_mode) == ("square", "pad")
    assert two.template == "vicuna_v1"


@pytest.mark.slow
def test_stage_one_and_two_of_a_llama_vid(parts, lavis, plaza, tmp_path):
    """Stage 1 trains the projector and the projections around the Q-Former, stage 2 all but the tower."""
    given = {"image_size": 16, "row_images": 4, **vid(parts)}
    one, first = trained("llama_vid:size=7b,stage=1", tmp_path / "one", plaza, **given)
    assert one.asker is not None and one.template == "imgsp_v1"
    for path, leaf in lavis.items():
        np.testing.assert_array_equal(first[path], leaf, err_msg=path)
    two, second = trained(
        "llama_vid:size=7b,stage=2", tmp_path / "two", plaza, base=tmp_path / "one", row_images=4
    )
    changed = {path.split("/")[0] for path in first if not np.array_equal(first[path], second[path])}
    assert changed == {"decoder", "projector", "context", "qformer", "qformer_norm"}
    assert isinstance(two.config, LlamaVidConfig) and two.config.image_mode == "pad"
    assert two.template == "imgsp_v1"
