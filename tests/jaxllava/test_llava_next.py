"""LLaVA-NeXT (anyres) against transformers: logits, generation, folders of both spellings and both orders of ties."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

import jaxllava
from input_pipeline.errors import UserError
from jaxllava import cli
from jaxllava.weights import hf_config, original
from tests.jaxllava import tiny_models as tiny

TOLERANCE = {"rtol": 0, "atol": 2e-5}
PINPOINTS = ((28, 56), (56, 28), (56, 56), (84, 28), (28, 84))
SIZES = ((30, 30), (61, 20), (20, 77), (28, 28), (200, 31), (1, 9))  # (width, height)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed + 1000 * width + height)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8))


@pytest.fixture(scope="module")
def made(tmp_path_factory, tokenizer):
    """(our folder, the Hugging Face folder that it was exported to, its config)"""
    config = tiny.llava_for(tokenizer, image_mode="anyres", pinpoints=PINPOINTS)
    # With larger weights float32 itself, in torch too, is 2e-5 from float64.
    params = tiny.random_params(config, std=0.15)
    root = tmp_path_factory.mktemp("next")
    from jaxllava.weights import orbax

    orbax.save_model(root / "ours", params, config, tokenizer, "vicuna_v1")
    cli.main(["convert", "--from", str(root / "ours"), "--to", str(root / "hf")])
    return root / "ours", root / "hf", config


@pytest.fixture(scope="module")
def reference(made):
    model, info = transformers.LlavaNextForConditionalGeneration.from_pretrained(
        made[1], output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return model.eval()


@pytest.fixture(scope="module")
def processor(made):
    """With the image processor of Pillow, whose pixels ours are equal to; the default one is torch's."""
    from transformers.models.llava_next import image_processing_pil_llava_next as pil

    found = transformers.AutoProcessor.from_pretrained(made[1])
    found.image_processor = pil.LlavaNextImageProcessorPil.from_pretrained(made[1])
    return found


@pytest.mark.parametrize("sizes", [(size,) for size in SIZES] + [SIZES[:3]])
def test_logits_are_those_of_transformers(made, reference, processor, sizes) -> None:
    model = jaxllava.load(made[1])
    text = "USER: " + "<image>\n" * len(sizes) + "the red ball ASSISTANT:"
    inputs = processor(text=text, images=[picture(*size) for size in sizes], return_tensors="pt")
    with torch.no_grad():
        expected = reference(**inputs).logits.numpy()
    pixels = inputs["pixel_values"].numpy().transpose(0, 1, 3, 4, 2)
    got = model.logits(
        inputs["input_ids"].numpy(), pixels, inputs["attention_mask"].numpy(), inputs["image_sizes"].numpy()
    )
    np.testing.assert_allclose(got, expected, **TOLERANCE)


def test_generation_is_that_of_transformers(made, reference, processor) -> None:
    """Token for token, in a batch whose prompts and numbers of pictures and views differ."""
    model = jaxllava.load(made[1], template="v1_bare")
    sizes = [[SIZES[0]], [SIZES[1], SIZES[2]], []]
    texts = ["the red ball", "<image>\n<image>\na", "on the left"]
    images = [[picture(*size) for size in row] or None for row in sizes]
    ours = model.generate(texts, images, max_new_tokens=64)
    for text, own, answer in zip(texts, images, ours, strict=True):
        marks = "<image>\n" if own and "<image>" not in text else ""
        inputs = processor(text=f"USER: {marks}{text} ASSISTANT:", images=own, return_tensors="pt")
        with torch.no_grad():
            ids = reference.generate(**inputs, max_new_tokens=64, do_sample=False)
        new = ids[0, inputs["input_ids"].shape[1] :]
        assert answer == processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    assert any(ours)


def test_scores_do_not_depend_on_the_batch(made) -> None:
    model = jaxllava.load(made[0])
    images = [[picture(*size)] for size in SIZES[:4]]
    prompts = ["what"] * 4
    together = model.score(prompts, images, ["red", "blue ball"])
    alone = [model.score(["what"], [own], ["red", "blue ball"])[0] for own in images]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-4)


def test_what_does_not_fit_is_a_user_error(made) -> None:
    model = jaxllava.load(made[0])
    tokens = np.full((1, 30), model.config.image_token)
    with pytest.raises(UserError, match="give image_sizes"):
        model.logits(tokens, np.zeros((1, 3, 28, 28, 3)))
    with pytest.raises(UserError, match=r"hold \[30\] image tokens a row for 1 images"):
        model.logits(tokens, np.zeros((1, 3, 28, 28, 3)), image_sizes=[(30, 30)])
    with pytest.raises(UserError, match="needs a LLaVA-NeXT model"):
        tiny.LLAVA.replace(image_mode="anyres")
    with pytest.raises(UserError, match="multiples of 28"):
        tiny.LLAVA.replace(pinpoints=((30, 30),))
    with pytest.raises(UserError, match="each patch needs its own"):
        tiny.LLAVA.replace(pinpoints=PINPOINTS, feature_select="cls_patch")


def test_round_trips(made, tmp_path: Path) -> None:
    """ours -> Hugging Face -> original -> ours, and transformers' own save: the same weights and geometry."""
    ours, exported, config = made
    params, _ = tiny.opened(ours)
    cli.main(["convert", "--from", str(exported), "--to", str(tmp_path / "llava"), "--format", "llava"])
    cli.main(
        ["convert", "--from", str(tmp_path / "llava"), "--to", str(tmp_path / "orbax"), "--format", "orbax"]
    )
    transformers.LlavaNextForConditionalGeneration.from_pretrained(exported).save_pretrained(
        tmp_path / "saved"
    )
    for folder in (exported, tmp_path / "llava", tmp_path / "orbax", tmp_path / "saved"):
        again, found = tiny.opened(folder)
        import jax

        jax.tree.map(np.testing.assert_array_equal, again, params)
        assert found.anyres is not None and config.anyres is not None
        for size in SIZES:
            assert found.anyres.grid(*size) == config.anyres.grid(*size)
    values = json.loads((tmp_path / "llava" / "config.json").read_text())
    assert values["mm_patch_merge_type"] == "spatial_unpad" and values["image_aspect_ratio"] == "anyres"


def test_the_originals_order_of_ties_survives_the_export(made, tmp_path: Path, tokenizer) -> None:
    """Both read the pinpoints in their order, the original as (width, height) and transformers as (height, width)."""
    from transformers.image_processing_utils import select_best_resolution

    config = made[2].replace(anyres_order="original", pinpoints=((28, 84), (84, 28), (56, 28)))

    tiny.export_hf(tiny.random_params(config), config, tokenizer, tmp_path / "hf", "vicuna_v1")
    values = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config.anyres is not None
    rng = np.random.default_rng(0)
    for width, height in rng.integers(1, 300, (300, 2)).tolist():
        high, wide = select_best_resolution((height, width), values["image_grid_pinpoints"])
        assert (wide, high) == config.anyres.resolution(width, height)


def test_an_original_folder(made, tmp_path: Path, tokenizer) -> None:
    """v1.6 as its authors save it: tower and newline inside."""
    _, exported, config = made
    params, _ = tiny.opened(exported)
    state = {
        name: torch.from_numpy(np.array(tensor))
        for name, tensor in tiny.from_params(
            params, original.table(config), {p: np.shape(x) for p, x in tiny.flat(params).items()}
        ).items()
    }
    assert "model.image_newline" in state and "model.vision_tower.vision_tower.vision_model" in " ".join(
        state
    )
    tokenizer.save_pretrained(tmp_path)
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "tower").mkdir()
    tower = {"model_type": "clip_vision_model", **hf_config.vision_json(config.vision)}
    (tmp_path / "tower" / "config.json").write_text(json.dumps(tower))
    values = {
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": "tower",
        "mm_vision_select_layer": -2,
        "image_aspect_ratio": "anyres",
        "mm_patch_merge_type": "spatial_unpad",
        "image_grid_pinpoints": [list(pair) for pair in PINPOINTS],
        **hf_config.llama_json(config.decoder),
        "model_type": "llava",
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    model = jaxllava.load(tmp_path)
    assert model.config.anyres_order == "original" and model.config.anyres is not None
    assert model.generate(["what"], [picture(61, 20)], max_new_tokens=8)
