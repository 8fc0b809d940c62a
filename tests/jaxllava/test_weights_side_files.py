"""What stands beside the weights: pixel, generation and template settings, kept through every format or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

import jaxllava
from input_pipeline.errors import UserError
from jaxllava import cli
from jaxllava.weights import orbax
from jaxllava.weights.source import open_checkpoint
from tests.jaxllava import tiny_models as tiny

STOPS = [3, 7, 9]


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tokenizer) -> Path:
    """A Hugging Face folder in image mode `pad`."""
    config = tiny.llava_for(tokenizer, image_mode="pad")
    folder = tmp_path_factory.mktemp("side") / "hf"
    tiny.export_hf(tiny.random_params(config), config, tokenizer, folder, "v1_bare")
    return folder


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def change(folder: Path, file: str, **values) -> None:
    path = folder / file
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))


@pytest.mark.parametrize("format", ["hf", "orbax", "llava"])
def test_generation_settings_and_template_go_through_every_format(
    copy: Path, tmp_path: Path, format: str
) -> None:
    change(copy, "generation_config.json", eos_token_id=STOPS, temperature=0.2)
    cli.main(["convert", "--from", str(copy), "--to", str(tmp_path / "out"), "--format", format])
    found = open_checkpoint(tmp_path / "out")
    assert found.stops == tuple(STOPS) and found.generation["temperature"] == 0.2
    assert found.template == "v1_bare"
    assert found.config.image_mode == "pad"  # type: ignore[union-attr]


@pytest.mark.parametrize("where", ["top", "text_config"])
def test_config_json_names_the_ends_where_no_other_file_does(copy: Path, where: str) -> None:
    (copy / "generation_config.json").unlink()
    values = json.loads((copy / "config.json").read_text())
    values.pop("eos_token_id")
    (values if where == "top" else values["text_config"])["eos_token_id"] = STOPS
    (copy / "config.json").write_text(json.dumps(values))
    assert open_checkpoint(copy).stops == tuple(STOPS)


def test_text_models_keep_their_special_tokens(tmp_path: Path, tokenizer) -> None:
    config = tiny.DECODER.replace(vocab_size=len(tokenizer))
    tiny.export_hf(tiny.random_params(config), config, tokenizer, tmp_path / "text")
    change(tmp_path / "text", "generation_config.json", eos_token_id=STOPS)
    cli.main(["convert", "--from", str(tmp_path / "text"), "--to", str(tmp_path / "out")])
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert values["eos_token_id"] == tokenizer.eos_token_id
    generation = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert generation.eos_token_id == STOPS


def test_pixels_as_transformers_5_saves_them(copy: Path, exported: Path) -> None:
    """Its processor writes processor_config.json alone, with the image processor inside."""
    processor = transformers.AutoProcessor.from_pretrained(exported)
    processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    for name in ("preprocessor_config.json", "processor_config.json"):
        (copy / name).unlink()
    processor.save_pretrained(copy)
    assert not (copy / "preprocessor_config.json").exists()
    config = jaxllava.load(copy).config
    assert config.image_mode == "pad" and config.vision.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    "old", [{"size": 28, "crop_size": 28}, {"size": {"shortest_edge": 28}, "crop_size": 28}]
)
def test_sizes_as_old_files_have_them(copy: Path, old: dict) -> None:
    change(copy, "preprocessor_config.json", do_pad=False, **old)
    assert jaxllava.load(copy).config.image_mode == "square"


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("preprocessor_config.json", {"size": {"shortest_edge": 64}}, "do not make the 28 x 28 pixels"),
        ("preprocessor_config.json", {"size": 56}, "do not make the 28 x 28 pixels"),
        ("preprocessor_config.json", {"do_normalize": False}, "do_normalize is False; only True"),
        ("preprocessor_config.json", {"resample": 2}, "resample is 2; only 3"),
        ("preprocessor_config.json", {"rescale_factor": 1.0}, "rescale_factor is 1.0; only 1/255"),
        ("preprocessor_config.json", {"image_mean": 0.5}, "image_mean is 0.5; three numbers"),
        ("preprocessor_config.json", None, "preprocessor_config.json: not readable JSON"),
        ("generation_config.json", None, "generation_config.json: not readable JSON"),
        ("generation_config.json", {"eos_token_id": ["</s>"]}, r"eos_token_id is \['</s>'\]; a number"),
        ("config.json", None, "config.json: not readable JSON"),
        ("config.json", {"image_token_index": 7}, "<image> is token 7 .* its tokenizer that it is"),
        ("config.json", {"quantization_config": {"bits": 4}}, "the weights are quantised"),
        (
            "config.json",
            {"vision_config": {"model_type": "clip_vision_model", "image_size": None}},
            "a value in it",
        ),
        (
            "config.json",
            {"vision_config": {"model_type": "clip_vision_model", "patch_size": [2]}},
            "a value in it",
        ),
        ("config.json", {"model_type": "llava_next", "image_grid_pinpoints": [[28]]}, "a value in it"),
    ],
)
def test_what_is_not_done_here_is_refused_in_one_line(copy: Path, file: str, values, message: str) -> None:
    if values is None:
        (copy / file).write_text("{")
    else:
        change(copy, file, **values)
    with pytest.raises(UserError, match=message) as error:
        jaxllava.load(copy)
    assert "\n" not in str(error.value) and file in str(error.value)


@pytest.mark.parametrize("same", [True, False])
def test_a_stored_head_of_a_tied_model(tmp_path: Path, tokenizer, same: bool) -> None:
    """Equal to the embeddings it is one with them; another one counts, as it does in transformers."""
    config = tiny.llava_for(tokenizer)
    config = config.replace(decoder=config.decoder.replace(tie_embeddings=True))
    tiny.export_hf(tiny.random_params(config, std=0.15), config, tokenizer, tmp_path / "hf", "v1_bare")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    head = tensors["language_model.model.embed_tokens.weight"] * (1 if same else -0.5)
    tensors["language_model.lm_head.weight"] = head
    save_file(tensors, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    model = jaxllava.load(tmp_path / "hf")
    assert model.config.decoder.tie_embeddings == same
    reference = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "hf").eval()
    tokens = np.arange(6, 26)[None]
    with torch.no_grad():
        expected = reference(input_ids=torch.from_numpy(tokens)).logits.numpy()
    np.testing.assert_allclose(model.logits(tokens), expected, rtol=0, atol=2e-5)
    notes = open_checkpoint(tmp_path / "hf").notes
    assert notes == () if same else "they are untied" in notes[0]


@pytest.mark.parametrize(
    ("mark", "template"),
    [
        ("<|start_header_id|>", "llama_3"),
        ("<|im_start|>", "chatml"),
        ("[INST]", "mistral_instruct"),
        ("x", "v1_bare"),
    ],
)
def test_the_folders_own_chat_template_is_recognised(copy: Path, mark: str, template: str) -> None:
    values = json.loads((copy / "config.json").read_text())
    del values["jaxllava_template"]
    (copy / "config.json").write_text(json.dumps(values))
    (copy / "chat_template.jinja").write_text(f"{{% for m in messages %}}{mark}{{% endfor %}}")
    assert jaxllava.load(copy).template == template


@pytest.mark.parametrize("format", ["hf", "llava"])
def test_a_next_model_of_one_view_is_written_as_the_plain_llava_it_is(
    tmp_path: Path, tokenizer, format: str, capsys
) -> None:
    config = tiny.llava_for(tokenizer, image_mode="pad", pinpoints=((28, 56), (56, 28)))
    params = tiny.random_params(config)
    orbax.save_model(tmp_path / "ours", params, config, tokenizer, "v1_bare")
    cli.main(["convert", "--from", str(tmp_path / "ours"), "--to", str(tmp_path / "out"), "--format", format])
    assert "written as a plain LLaVA" in capsys.readouterr().out
    first, second = jaxllava.load(tmp_path / "ours"), jaxllava.load(tmp_path / "out")
    assert second.config.image_mode == "pad" and not second.config.pinpoints
    tokens = np.full((1, 8), config.image_token)
    tokens[0, 4:] = 9
    pixels = np.random.default_rng(0).normal(size=(1, 28, 28, 3)).astype(np.float32)
    np.testing.assert_array_equal(first.logits(tokens, pixels), second.logits(tokens, pixels))


def test_float32_when_asked(tmp_path: Path, tokenizer) -> None:
    """Half-precision weights computed as transformers does with dtype=torch.float32."""
    config = tiny.llava_for(tokenizer)
    tiny.export_hf(tiny.random_params(config, std=0.15), config, tokenizer, tmp_path / "full", "v1_bare")
    cli.main(
        ["convert", "--from", str(tmp_path / "full"), "--to", str(tmp_path / "half"), "--dtype", "float16"]
    )
    model = jaxllava.load(tmp_path / "half", dtype="float32")
    reference = transformers.LlavaForConditionalGeneration.from_pretrained(
        tmp_path / "half", dtype=torch.float32
    ).eval()
    tokens = np.arange(6, 26)[None]
    with torch.no_grad():
        expected = reference(input_ids=torch.from_numpy(tokens)).logits.numpy()
    np.testing.assert_allclose(model.logits(tokens), expected, rtol=0, atol=2e-5)
    assert jaxllava.load(tmp_path / "half").config.decoder.dtype == "bfloat16"
