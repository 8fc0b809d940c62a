"""Original LLaVA folders against the Hugging Face model of the same weights, and back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import save_file

import jaxllava
from input_pipeline.conversation import get_template
from input_pipeline.encoding import encode_prompt
from input_pipeline.errors import UserError
from input_pipeline.images import preprocess
from input_pipeline.tokenizer import IMAGE_TOKEN
from input_pipeline.types import Turn
from jaxllava import cli
from jaxllava.models.clip import normalise
from jaxllava.weights import hf_config, original
from tests.jaxllava import tiny_models as tiny

TOLERANCE = {"rtol": 0, "atol": 2e-5}


def original_name(name: str) -> str:
    """A Hugging Face name (4.x on disk) in the original's spelling, by rules of its own and not by our table."""
    name = re.sub(r"^language_model\.", "", name)
    name = name.replace("vision_tower.", "model.vision_tower.vision_tower.", 1)
    number = re.match(r"multi_modal_projector\.linear_(\d)", name)
    return name.replace(number[0], f"model.mm_projector.{2 * (int(number[1]) - 1)}") if number else name


@pytest.fixture(scope="module")
def made(tmp_path_factory, tokenizer):
    """(folder with its tower, folder without, the tower's folder, Hugging Face model, config)"""
    config = tiny.llava_for(tokenizer)
    # Prompts are long here, with a system text: at 0.2 float32 itself, in torch too, is 2e-5 from float64.
    reference = tiny.torch_llava(config, std=0.1)
    params = tiny.params_of(reference, config)
    from jaxllava.weights import tables

    state = {
        original_name(name): torch.from_numpy(np.array(tensor))
        for name, tensor in tiny.from_params(
            params, tables.llava_table(config), tables.shapes(config)
        ).items()
    }
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # of old checkpoints
    root = tmp_path_factory.mktemp("original")
    values = {
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": str(root / "tower"),
        "mm_vision_select_layer": -2,
        "mm_use_im_start_end": False,
        "image_aspect_ratio": "pad",
        **hf_config.llama_json(config.decoder),
        "model_type": "llava",
    }
    for name in ("whole", "bare"):
        tokenizer.save_pretrained(root / name)
        (root / name / "config.json").write_text(json.dumps(values))
    save_file(state, root / "whole" / "model.safetensors")
    torch.save({n: t for n, t in state.items() if "vision" not in n}, root / "bare" / "pytorch_model.bin")
    tower = {n.removeprefix("model.vision_tower.vision_tower."): t for n, t in state.items() if "vision" in n}
    (root / "tower").mkdir()
    save_file(tower, root / "tower" / "model.safetensors")
    vision = {"model_type": "clip_vision_model", **hf_config.vision_json(config.vision)}
    (root / "tower" / "config.json").write_text(json.dumps(vision))
    return root, reference, config


@pytest.mark.parametrize("name", ["whole", "bare"])
def test_logits_are_those_of_hugging_face(made, name: str) -> None:
    root, reference, config = made
    model = jaxllava.load(root / name)
    assert model.template == "vicuna_v1" and model.config.image_mode == "pad"
    rng = np.random.default_rng(0)
    tokens = rng.integers(6, config.decoder.vocab_size, (1, 12))
    tokens[0, 2 : 2 + config.image_tokens] = config.image_token
    pixels = rng.normal(size=(1, 28, 28, 3)).astype(np.float32)
    with torch.no_grad():
        expected = reference(
            input_ids=torch.from_numpy(tokens), pixel_values=torch.from_numpy(pixels.transpose(0, 3, 1, 2))
        ).logits
    np.testing.assert_allclose(model.logits(tokens, pixels), expected.numpy(), **TOLERANCE)


@pytest.fixture(scope="module")
def without_image_token(made, tmp_path_factory) -> Path:
    """A folder whose tokenizer does not know `<image>`, as the published ones."""
    root, *_ = made
    folder = tmp_path_factory.mktemp("published")
    for file in (root / "whole").iterdir():
        content = file.read_bytes()
        if file.name.startswith("tokenizer"):
            content = content.replace(IMAGE_TOKEN.encode(), b"<other>")
        (folder / file.name).write_bytes(content)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    for key in ("image_token", "extra_special_tokens", "model_specific_special_tokens"):
        settings.pop(key, None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_a_tokenizer_without_an_image_token_gets_one_behind_the_vocabulary(made, without_image_token) -> None:
    model = jaxllava.load(without_image_token)
    assert model.config.image_token == made[2].decoder.vocab_size
    image = Image.new("RGB", (30, 40), (200, 30, 30))
    assert isinstance(model.generate(["what"], [image], max_new_tokens=4)[0], str)


def test_an_original_becomes_a_hugging_face_folder(made, without_image_token, tmp_path: Path) -> None:
    """Its vocabulary grows to hold `<image>`; ids, padded pixels and logits stay what they are."""
    out = tmp_path / "hf"
    cli.main(["convert", "--from", str(without_image_token), "--to", str(out)])
    ours = jaxllava.load(without_image_token)
    reference = transformers.LlavaForConditionalGeneration.from_pretrained(out).eval()
    processor = transformers.AutoProcessor.from_pretrained(out)
    assert reference.config.text_config.vocab_size % 64 == 0
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (28, 50, 3), np.uint8))
    content = [{"type": "image"}, {"type": "text", "text": "the red ball"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=text, images=image, return_tensors="pt")
    turns = [Turn("human", "<image>\nthe red ball")]
    prompt = encode_prompt(turns, ours.tokenizer, get_template("vicuna_v1"), ours.config.image_tokens)
    np.testing.assert_array_equal(inputs["input_ids"][0], prompt.tokens)
    pixels = np.asarray(normalise(preprocess(image, 28, "pad")))
    np.testing.assert_allclose(
        inputs["pixel_values"][0].permute(1, 2, 0), pixels, atol=0.05
    )  # v5's resize is torch's
    with torch.no_grad():
        expected = reference(
            input_ids=inputs["input_ids"], pixel_values=torch.from_numpy(pixels.transpose(2, 0, 1)[None])
        ).logits.numpy()
    got = ours.logits(prompt.tokens[None], pixels[None])
    np.testing.assert_allclose(got, expected[..., : got.shape[-1]], **TOLERANCE)
    again = jaxllava.load(out)
    assert again.config.image_mode == "pad" and again.config.image_token == ours.config.image_token


def test_export_and_import_are_bitwise(made, tmp_path: Path) -> None:
    root, *_ = made
    cli.main(["convert", "--from", str(root / "bare"), "--to", str(tmp_path / "out"), "--format", "llava"])
    mine, again = (
        load_file(tmp_path / "out" / "model.safetensors"),
        load_file(root / "whole" / "model.safetensors"),
    )
    again.pop("model.layers.0.self_attn.rotary_emb.inv_freq")
    assert mine.keys() == again.keys()
    for name, tensor in mine.items():
        np.testing.assert_array_equal(tensor, again[name])
    first, config_first = tiny.opened(root / "whole")
    second, config_second = tiny.opened(tmp_path / "out")
    assert config_first == config_second
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"mm_vision_tower": "openai/clip-vit-large-patch14-336"},
            r"holds no vision tower; .* --vision-tower DIR",
        ),
        ({"mm_vision_tower": "someone/else"}, r"'someone/else' is not known here; .* --vision-tower DIR"),
        ({"architectures": ["LlavaMptForCausalLM"]}, "'LlavaMptForCausalLM' is not supported"),
        ({"mm_projector_type": "mlp3x_gelu"}, r"missing model\.mm_projector\.4\.bias"),
        (
            {"mm_patch_merge_type": "spatial_unpad"},
            "'spatial_unpad' with image_aspect_ratio 'pad' is not supported",
        ),
    ],
)
def test_what_cannot_be_read_is_one_clear_error(made, tmp_path: Path, change: dict, message: str) -> None:
    root, *_ = made
    for file in (root / "bare").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    values = json.loads((root / "bare" / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=message):
        original.open_folder(tmp_path)
