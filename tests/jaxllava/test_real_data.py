"""The commands on real Reddit posts and real images, as a user with such files runs them."""

from __future__ import annotations

import shutil

import jax
import pytest

from input_pipeline import records
from input_pipeline.tokenizer import load_tokenizer
from jaxllava import cli
from jaxllava.models.clip import ClipVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llava import LlavaConfig, init_params
from jaxllava.weights import orbax

PICTURES = {  # the id in a post's link -> an image of the sample
    "Qi9rl4": "images/pil_sample_cmyk.jpg",
    "2Gdnofw": "images/i_trns.png",
    "G7K3xO4": "images/hopper_orientation_6.jpg",
    "e9zvy47lko9x": "llava/waterview.jpg",
}


@pytest.fixture
def base(plaza, tmp_path):
    tokenizer = load_tokenizer(plaza / "tokenizer")
    vision = ClipVisionConfig(16, 32, 2, 2, image_size=32, patch_size=16)
    decoder = LlamaConfig(len(tokenizer), 16, 32, 2, 2)
    config = LlavaConfig(vision, decoder, tokenizer.convert_tokens_to_ids("<image>"))
    folder = tmp_path / "base"
    orbax.save_model(folder, init_params(config, jax.random.key(0)), config, tokenizer, "v1_bare")
    return folder


def test_prepare_train_evaluate_generate_inspect(real_data, base, tmp_path, capsys):
    media = tmp_path / "media"
    media.mkdir()
    for stem, name in PICTURES.items():
        shutil.copyfile(real_data / name, media / f"{stem}.{name.split('.')[-1]}")
    prepared, workdir = tmp_path / "data", tmp_path / "run"
    cli.main([
        "prepare", "--out", str(prepared), "--media", str(media),
        "--submissions", str(real_data / "reddit/RS_image_posts.ndjson"),
        "--comments", str(real_data / "reddit/RC_image_posts.ndjson"),
        "--config.clean.reddit.created_from=", "--config.clean.reddit.min_comments=1",
        "--config.heldout_fraction=0.5",
    ])  # fmt: skip
    sizes = records.splits(prepared)
    assert sizes["behavior_train"] >= 1
    assert sizes["behavior_heldout"] >= 1

    cli.main([
        "train", "--config", "train:stage=behavior,alone", "--workdir", str(workdir),
        f"--config.data={prepared}", f"--config.base={base}", "--config.devices=1",
        "--config.batch=2", "--config.steps=3", "--config.row_tokens=512",
    ])  # fmt: skip
    assert "step 3, loss" in capsys.readouterr().out
    cli.main(["evaluate", "--model", str(workdir), "--data", str(prepared)])
    assert "perplexity" in capsys.readouterr().out
    cli.main([
        "generate", "--model", str(workdir), "--prompt", "What would be the top comments?",
        "--image", str(real_data / "llava/waterview.jpg"), "--max-new-tokens", "4",
    ])  # fmt: skip
    capsys.readouterr()
    cli.main(["inspect", "sample", "--data", str(prepared), "--model", str(workdir)])
    shown = capsys.readouterr().out
    assert "<image>  (positions" in shown
    assert "* = supervised" in shown
