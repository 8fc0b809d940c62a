"""Hugging Face folders: what we write loads in transformers as it stands; what they write loads here."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.numpy import load_file, save_file

from input_pipeline.conversation import TEMPLATES, get_template
from input_pipeline.encoding import encode, encode_prompt
from input_pipeline.errors import UserError
from input_pipeline.types import Turn
from jaxllava.api import Model
from jaxllava.models.clip import ClipConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.rules import Params
from jaxllava.weights import hf, lazy, safetensors_writer, tables
from jaxllava.weights.chat_template import chat_template
from jaxllava.weights.tensor_files import TensorFiles
from tests.jaxllava import tiny_models as tiny


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> transformers.PreTrainedTokenizerFast:
    return tiny.tokenizer_in(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def config(tokenizer: transformers.PreTrainedTokenizerFast) -> LlavaConfig:
    return tiny.llava_for(tokenizer)


@pytest.fixture(scope="module")
def params(config: LlavaConfig) -> Params:
    return tiny.random_params(config)


@pytest.fixture(scope="module")
def exported(params, config, tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "model"
    tiny.export_hf(params, config, tokenizer, folder, "v1_bare")
    return folder


def _image(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8))


def test_export_gives_equal_logits(exported: Path, params, config, tokenizer) -> None:
    """Loaded with nothing added: processor, prompt, pixels and logits (absolute tolerance 2e-5) are ours."""
    reference, info = transformers.LlavaForConditionalGeneration.from_pretrained(
        exported, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    processor = transformers.AutoProcessor.from_pretrained(exported)
    content = [{"type": "image"}, {"type": "text", "text": "the red ball is on the"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=text, images=_image(), return_tensors="pt")
    turns = [Turn("human", "<image>\nthe red ball is on the")]
    ours = encode_prompt(turns, tokenizer, get_template("v1_bare"), config.image_tokens)
    np.testing.assert_array_equal(inputs["input_ids"][0], ours.tokens)
    with torch.no_grad():
        expected = reference.eval()(**inputs).logits.numpy()
    pixels = inputs["pixel_values"].numpy().transpose(0, 2, 3, 1)
    got = Model(config, params, tokenizer, "v1_bare").logits(inputs["input_ids"].numpy(), pixels)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5)
    assert expected.std() > 0.1


def test_pipeline_answers_as_we_do(exported: Path, params, config, tokenizer) -> None:
    pipe = transformers.pipeline("image-text-to-text", model=str(exported))
    image = _image(1)
    content = [{"type": "image", "image": image}, {"type": "text", "text": "what is on the left"}]
    out = pipe(
        text=[{"role": "user", "content": content}],
        max_new_tokens=12,
        do_sample=False,
        return_full_text=False,
    )
    ours = Model(config, params, tokenizer, "v1_bare").generate(
        ["what is on the left"], [image], max_new_tokens=12
    )
    assert out[0]["generated_text"].strip() == ours[0]
    assert ours[0]


@pytest.mark.parametrize("name", TEMPLATES)
def test_chat_template_renders_as_training_did(name: str, tokenizer) -> None:
    """Token for token, system prompt and finished turns included."""
    template = get_template(name)
    turns = [
        Turn("human", '<image>\nis "it" red?'),
        Turn("gpt", "yes's"),
        Turn("human", "and now"),
        Turn("gpt", "no"),
    ]
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": 'is "it" red?'}]},
        {"role": "assistant", "content": "yes's"},
        {"role": "user", "content": "and now"},
        {"role": "assistant", "content": [{"type": "text", "text": "no"}]},
    ]
    if template.image_every_turn:
        messages[2]["content"] = [{"type": "image"}, {"type": "text", "text": "and now"}]
    chat = chat_template(template)
    if template.style != "single":  # its chat template has the form of inference, as in the original
        whole = tokenizer.apply_chat_template(messages, chat_template=chat, tokenize=False)
        expected = encode(turns, tokenizer, template, image_tokens=1).tokens
        np.testing.assert_array_equal(tokenizer(whole)["input_ids"], expected)
    prompt = tokenizer.apply_chat_template(
        messages[:3], chat_template=chat, tokenize=False, add_generation_prompt=True
    )
    expected = encode_prompt(turns[:3], tokenizer, template, image_tokens=1).tokens
    np.testing.assert_array_equal(tokenizer(prompt)["input_ids"], expected)


def test_import_of_our_export_is_exact(exported: Path, params, config) -> None:
    again, config_again = tiny.opened(exported)
    assert config_again == config
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert hf.template_of(exported) == "v1_bare"


def test_import_of_their_save(tmp_path: Path, config: LlavaConfig) -> None:
    """transformers 5.23's own spelling, sharded; and the in-memory spelling of 4.52 to 5.3."""
    model = tiny.torch_llava(config)
    model.save_pretrained(tmp_path / "fresh", max_shard_size="100KB")
    assert (tmp_path / "fresh" / "model.safetensors.index.json").exists()
    params, found = tiny.opened(tmp_path / "fresh")
    assert found == config
    jax.tree.map(np.testing.assert_array_equal, params, tiny.params_of(model, config))
    memory = tmp_path / "memory"
    memory.mkdir()
    (memory / "config.json").write_text((tmp_path / "fresh" / "config.json").read_text())
    state = {
        k.replace("vision_tower.", "vision_tower.vision_model."): v.numpy()
        for k, v in model.state_dict().items()
    }
    assert any(name.startswith("model.language_model.") for name in state)
    save_file(state, memory / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, tiny.opened(memory)[0], params)


def test_tied_and_full_strategy(tmp_path: Path, tokenizer) -> None:
    config = tiny.llava_for(tokenizer, feature_select="cls_patch", feature_layer=-1)
    config = config.replace(decoder=config.decoder.replace(tie_embeddings=True))
    params = tiny.random_params(config)
    tiny.export_hf(params, config, tokenizer, tmp_path / "model", "vicuna_v1")
    assert "language_model.lm_head.weight" not in load_file(tmp_path / "model" / "model.safetensors")
    again, found = tiny.opened(tmp_path / "model")
    assert found == config
    jax.tree.map(np.testing.assert_array_equal, again, params)
    model, info = transformers.LlavaForConditionalGeneration.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "model")
    inputs = processor(text="<image>\nred", images=_image(), return_tensors="pt")
    assert int((inputs["input_ids"] == config.image_token).sum()) == config.image_tokens == 5
    pixels = inputs["pixel_values"].numpy().transpose(0, 2, 3, 1)
    got = Model(config, params, tokenizer, "vicuna_v1").logits(inputs["input_ids"].numpy(), pixels)
    with torch.no_grad():
        np.testing.assert_allclose(got, model.eval()(**inputs).logits.numpy(), rtol=0, atol=2e-5)


def test_bfloat16_is_kept(tmp_path: Path, tokenizer, config, params) -> None:
    half = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), params)
    tiny.export_hf(half, config, tokenizer, tmp_path / "model", "v1_bare")
    again, found = tiny.opened(tmp_path / "model")
    assert found == config.with_dtypes("bfloat16", "bfloat16")
    jax.tree.map(np.testing.assert_array_equal, again, half)
    model = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert model.dtype == torch.bfloat16


def test_shards(tmp_path: Path, params, config) -> None:
    rows = tables.llava_table(config)
    tensors = tables.from_leaves(lazy.lazy(params), rows, tables.shapes(config))
    safetensors_writer.write(tmp_path, tensors, shard_bytes=60_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(files) > 2 and files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert not list(tmp_path.glob("*.tmp"))
    for file in files:
        assert all(index["weight_map"][name] == file.name for name in load_file(file))
    assert index["metadata"]["total_size"] == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    again = tiny.to_params(TensorFiles(tmp_path), rows, tables.shapes(config), "shards")
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_failed_export_leaves_nothing(tmp_path: Path, tokenizer, config, params) -> None:
    with pytest.raises(UserError, match="mlp2x_gelu"):
        linear = config.replace(projector="linear")
        tiny.export_hf(tiny.random_params(linear), linear, tokenizer, tmp_path / "model", "v1_bare")
    with pytest.raises(UserError, match="template"):
        tiny.export_hf(params, config, tokenizer, tmp_path / "model", "v1_bear")

    def full(folder: Path, **_: object) -> None:
        assert (Path(folder) / "model.safetensors").exists()
        raise OSError("disk full")

    broken = copy.deepcopy(tokenizer)
    broken.save_pretrained = full
    with pytest.raises(OSError, match="disk full"):
        tiny.export_hf(params, config, broken, tmp_path / "model", "v1_bare")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("x")
    with pytest.raises(UserError, match="not a model folder"):
        tiny.export_hf(params, config, tokenizer, tmp_path / "notes", "v1_bare")
    assert (tmp_path / "notes" / "diary.txt").read_text() == "x"


def test_clip_and_llama_folders(tmp_path: Path) -> None:
    clip = ClipConfig(tiny.VISION, tiny.TEXT, projection_dim=24)
    model = tiny.torch_clip(clip)
    model.save_pretrained(tmp_path / "clip")
    params, found = tiny.opened(tmp_path / "clip")
    assert found == clip
    jax.tree.map(np.testing.assert_array_equal, params, tiny.params_of(model, clip))
    llama = tiny.torch_llama(tiny.DECODER)
    llama.save_pretrained(tmp_path / "llama")
    params, found = tiny.opened(tmp_path / "llama")
    assert found == tiny.DECODER
    jax.tree.map(np.testing.assert_array_equal, params, tiny.params_of(llama, tiny.DECODER))


def test_partial_config_of_the_hub(tmp_path: Path) -> None:
    """llava-1.5-7b-hf's config.json leaves most of both towers to defaults; sizes come out as published."""
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["LlavaForConditionalGeneration"],
                "ignore_index": -100,
                "image_token_index": 32000,
                "model_type": "llava",
                "pad_token_id": 32001,
                "projector_hidden_act": "gelu",
                "text_config": {
                    "_name_or_path": "lmsys/vicuna-7b-v1.5",
                    "architectures": ["LlamaForCausalLM"],
                    "max_position_embeddings": 4096,
                    "model_type": "llama",
                    "rms_norm_eps": 1e-05,
                    "torch_dtype": "float16",
                    "vocab_size": 32064,
                },
                "torch_dtype": "float16",
                "vision_config": {
                    "hidden_size": 1024,
                    "image_size": 336,
                    "intermediate_size": 4096,
                    "model_type": "clip_vision_model",
                    "num_attention_heads": 16,
                    "num_hidden_layers": 24,
                    "patch_size": 14,
                    "projection_dim": 768,
                    "vocab_size": 32000,
                },
                "vision_feature_layer": -2,
                "vision_feature_select_strategy": "default",
                "vocab_size": 32064,
            }
        )
    )
    save_file({"x": np.zeros(1, np.float16)}, tmp_path / "model.safetensors")
    from jaxllava.models.llava import llava_1_5

    assert hf.read_config(tmp_path) == llava_1_5("7b").with_dtypes("float32", "float32")
    with pytest.raises(UserError, match=r"no place for x; missing language_model.lm_head.weight"):
        tiny.opened(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "blip-2"}, "model_type is 'blip-2'"),
        ({"vision_feature_layer": [-2, 99]}, "outside a vision tower"),
        ({"projector_hidden_act": "relu"}, "projector_hidden_act"),
        ({"text_config": {"model_type": "gemma"}}, "a text model of type 'gemma'"),
        ({"text_config": {"model_type": "qwen2", "use_sliding_window": True}}, "use_sliding_window"),
        ({"text_config": {"model_type": "llama", "attention_bias": True}}, "attention_bias"),
        (
            {
                "text_config": {
                    "model_type": "llama",
                    "rope_scaling": {"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0] * 4}
                    | {"long_factor": [1.0] * 4, "original_max_position_embeddings": 64},
                }
            },
            "rope type 'longrope'",
        ),
    ],
)
def test_models_that_cannot_be_held_are_user_errors(tmp_path: Path, exported: Path, change, message) -> None:
    values = json.loads((exported / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=message):
        tiny.opened(tmp_path)


def test_missing_and_broken_files(tmp_path: Path, exported: Path) -> None:
    with pytest.raises(UserError, match=r"not a checkpoint.*config.json"):
        tiny.opened(tmp_path)
    (tmp_path / "config.json").write_text((exported / "config.json").read_text())
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        tiny.opened(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="not a readable torch file"):
        tiny.opened(tmp_path)
    whole = (exported / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a readable safetensors"):
        tiny.opened(tmp_path)
