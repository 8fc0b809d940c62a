"""A LLaVA on a SigLIP tower against transformers: pixels, logits, answers, folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import jaxllava
from jaxllava import cli
from jaxllava.models.siglip import SiglipVisionConfig
from jaxllava.weights import orbax
from tests.jaxllava import tiny_models as tiny

# 30 pixels in patches of 14, as so400m has 384 in patches of 14: what is left over is not read.
VISION = SiglipVisionConfig(32, 64, 3, 4, image_size=30, patch_size=14)


@pytest.fixture(scope="module", params=[True, False], ids=["head", "no-head"])
def made(request, tmp_path_factory, tokenizer):
    """(our folder, its Hugging Face export, config)"""
    vision = VISION.replace(head=request.param)
    config = tiny.llava_for(
        tokenizer, vision=vision, feature_layer=-1, feature_select="cls_patch", image_mode="stretch"
    )
    root = tmp_path_factory.mktemp("siglip")
    orbax.save_model(root / "ours", tiny.random_params(config, std=0.15), config, tokenizer, "chatml")
    cli.main(["convert", "--from", str(root / "ours"), "--to", str(root / "hf")])
    return root / "ours", root / "hf", config


def test_it_is_the_model_of_transformers(made) -> None:
    _, exported, config = made
    reference, info = transformers.LlavaForConditionalGeneration.from_pretrained(
        exported, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    reference.eval()
    processor = transformers.AutoProcessor.from_pretrained(exported)
    pil = transformers.SiglipImageProcessorPil.from_pretrained(exported)
    processor.image_processor = pil
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (41, 60, 3), np.uint8))
    content = [{"type": "image"}, {"type": "text", "text": "the red ball"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=text, images=image, return_tensors="pt")
    model = jaxllava.load(exported)
    assert model.config == config and model.template == "chatml"
    assert int((inputs["input_ids"] == config.image_token).sum()) == config.image_tokens == 4
    pixels = inputs["pixel_values"].numpy().transpose(0, 2, 3, 1)
    with torch.no_grad():
        expected = reference(**inputs).logits.numpy()
        ids = reference.generate(**inputs, max_new_tokens=64, do_sample=False)
    got = model.logits(inputs["input_ids"].numpy(), pixels)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5)
    answer = processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    # The same picture through our own pixels, prompt and generation.
    assert model.generate(["the red ball"], [image], max_new_tokens=64) == [answer.strip()]


def test_round_trip_is_exact(made, tmp_path: Path) -> None:
    """Orbax -> Hugging Face -> Orbax, and transformers' own save."""
    ours, exported, config = made
    params, _ = tiny.opened(ours)
    cli.main(["convert", "--from", str(exported), "--to", str(tmp_path / "back"), "--format", "orbax"])
    transformers.LlavaForConditionalGeneration.from_pretrained(exported).save_pretrained(tmp_path / "saved")
    for folder in (exported, tmp_path / "back", tmp_path / "saved"):
        again, found = tiny.opened(folder)
        assert found == (config if folder.name != "saved" else found)
        jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize("whole", [True, False], ids=["siglip", "siglip-vision"])
def test_tower_folders(tmp_path: Path, whole: bool) -> None:
    """SiglipModel (its text tower is left out, and said so) and SiglipVisionModel, in and out."""
    vision = {k: v for k, v in tiny.hf_config.tower_json(VISION).items() if k != "model_type"}
    torch.manual_seed(0)
    if whole:
        text = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        settings = transformers.SiglipConfig(
            vision_config=vision, text_config=text | {"num_attention_heads": 4}
        )
        model = transformers.SiglipModel(settings)
    else:
        model = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**vision))
    tiny.randomize(model, std=0.1)
    model.save_pretrained(tmp_path / "theirs")
    cli.main(
        ["convert", "--from", str(tmp_path / "theirs"), "--to", str(tmp_path / "ours"), "--format", "orbax"]
    )
    cli.main(["convert", "--from", str(tmp_path / "ours"), "--to", str(tmp_path / "hf")])
    params, config = tiny.opened(tmp_path / "ours")
    assert config == VISION
    again = transformers.SiglipVisionModel.from_pretrained(tmp_path / "hf").eval()
    pixels = np.random.default_rng(1).normal(size=(2, 3, 30, 30)).astype(np.float32)
    from jaxllava.models.siglip import SiglipVision

    run: Any = jax.jit(lambda p, x: SiglipVision(VISION).apply({"params": p}, x))
    last, pooled = run(params, pixels.transpose(0, 2, 3, 1))
    tower = model.vision_model if whole else model.eval()
    with torch.no_grad():
        for reference in (again, tower):
            out = reference(torch.from_numpy(pixels))
            np.testing.assert_allclose(last, out.last_hidden_state.numpy(), rtol=0, atol=2e-5)
            np.testing.assert_allclose(pooled, out.pooler_output.numpy(), rtol=0, atol=2e-5)
