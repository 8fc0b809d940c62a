"""Exported folders in old versions of transformers, each in an environment of its own.

The environments (1.1 GB each, half a minute to make) stay in pytest's cache: `pytest --cache-clear` removes them.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sentencepiece import SentencePieceTrainer
from transformers import PreTrainedTokenizerFast

import jaxllava
from input_pipeline.tokenizer import IMAGE_TOKEN, load_sentencepiece
from input_pipeline.types import Turn
from jaxllava import cli
from jaxllava.models.clip import normalise
from jaxllava.models.llava import LlavaConfig
from jaxllava.models.rope import RopeScaling
from jaxllava.models.siglip import SiglipVisionConfig
from jaxllava.prompts import PromptReader
from jaxllava.rules import Params
from jaxllava.weights import orbax
from tests.jaxllava import tiny_models as tiny

pytestmark = pytest.mark.slow

TORCH = "torch==2.13.0"
# 4.44: the model, not the processor, makes room for an image; 4.46: the processor does; 4.57: the last 4.x.
VERSIONS = {"4.44.2": "numpy<2", "4.46.3": "numpy>=2", "4.57.6": "numpy>=2"}
NO_PADDING = ("4.44.2", "4.46.3")  # LlavaImageProcessor came in 4.49
SIGLIP = SiglipVisionConfig(32, 64, 4, 4, image_size=28, patch_size=14)
CASES = {
    "square": ("v1_bare", {}),
    "pad": ("vicuna_v1", {"image_mode": "pad"}),
    "full": ("v1_bare", {"feature_select": "cls_patch", "feature_layer": -1}),
    "sentencepiece": ("v1_bare", {}),
    "next": ("vicuna_v1", {"image_mode": "anyres", "pinpoints": ((28, 56), (56, 28), (56, 56))}),
    "siglip": ("v1_bare", {"image_mode": "stretch", "vision": SIGLIP, "feature_select": "cls_patch"}),
}
NO_SIGLIP = ("4.46.3",)  # its processor always makes room for a class token, which SigLIP has not
CANNOT = [(v, "pad") for v in NO_PADDING] + [(v, "siglip") for v in NO_SIGLIP]
RUNS = [(v, case) for v in VERSIONS for case in CASES if (v, case) not in CANNOT]
# Fits a resolution of "next" as it is: where padding is odd, versions before 4.48 lose a line of pixels.
SIZE = (60, 30)
CHECK = Path(__file__).with_name("old_transformers_check.py")
TEXT, NEW_TOKENS = "the red ball is on the", 16


@pytest.fixture(scope="module")
def old_python(request: pytest.FixtureRequest) -> Path:
    """The Python of an environment with that transformers, and torch, numpy and Pillow: nothing else is needed."""
    cache = request.config.cache
    assert cache is not None
    folder = Path(cache.mkdir("old_transformers")) / f"{request.param}-py3.{sys.version_info.minor}"
    if not folder.exists():
        own = folder.with_name(f"{folder.name}-{os.getpid()}")  # test workers may all come here at once
        venv.create(own, symlinks=True)
        wanted = [TORCH, f"transformers=={request.param}", VERSIONS[request.param], "pillow"]
        # pip and not uv: a machine says in pip's settings where torch's CPU build is.
        pip = [sys.executable, "-m", "pip", "--python", own / "bin" / "python", "install", "--quiet"]
        done = subprocess.run([*pip, *wanted], capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(own)
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            pytest.skip(f"pip cannot install {' '.join(wanted)}: {' '.join(errors[-1:])}")
        try:
            own.rename(folder)
        except OSError:  # another worker was the first
            shutil.rmtree(own)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every case's Hugging Face folder, written by the command line."""
    root = tmp_path_factory.mktemp("exports")
    bpe = tiny.tokenizer_in(root / "tokenizer")
    for case, (template, changes) in CASES.items():
        tokenizer = _sentencepiece(root / "tokenizer.model") if case == "sentencepiece" else bpe
        config = tiny.llava_for(tokenizer, **changes)
        if case == "full":
            scaling = RopeScaling("llama3", 8.0, original_max_positions=32)
            config = config.replace(decoder=config.decoder.replace(tie_embeddings=True, rope_scaling=scaling))
        params = _params(config, config.image_token, tokenizer.eos_token_id)
        orbax.save_model(root / f"{case}-model", params, config, tokenizer, template)
        cli.main(["convert", "--from", f"{root}/{case}-model", "--to", f"{root}/{case}", "--format", "hf"])
    return {case: root / case for case in CASES}


def _params(config: LlavaConfig, *never: Any) -> Params:
    """Random ones, halved: float32 itself, torch's too, is then 1e-6 from float64 and not 2e-5.

    The tokens `never` have the logit 0, so that no greedy answer ends early or holds an image.
    """
    params: Any = jax.tree.map(lambda leaf: leaf / 2, tiny.random_params(config))
    if config.decoder.tie_embeddings:
        params["decoder"]["embed"]["embedding"][list(never)] = 0
    else:
        params["decoder"]["lm_head"]["kernel"][:, list(never)] = 0
    return params


def _sentencepiece(path: Path) -> PreTrainedTokenizerFast:
    """A tokenizer as published LLaVAs have it: SentencePiece, and `<image>` added behind its vocabulary."""
    model = io.BytesIO()
    corpus = [*tiny.CORPUS, "USER: ASSISTANT:\n"]
    SentencePieceTrainer.train(  # type: ignore[attr-defined]
        sentence_iterator=iter(corpus),
        model_writer=model,
        model_type="bpe",
        vocab_size=340,
        byte_fallback=True,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
    tokenizer = load_sentencepiece(path)
    tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE_TOKEN]})
    return tokenizer


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE[::-1], 3), dtype=np.uint8)).save(path)
    return path


def _check(python: Path, folder: Path, picture: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Runs the check isolated (-I): no path and no package of this environment leads into the old one."""
    command = [python, "-I", CHECK, folder, picture, TEXT, str(NEW_TOKENS), out]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize(("old_python", "case"), RUNS, indirect=["old_python"])
def test_an_old_version_reads_the_export(old_python, case, exports, picture, tmp_path, request) -> None:
    """Nothing is missing; ids, pixels, logits (absolute tolerance 2e-5) and answers are ours."""
    run = _check(old_python, exports[case], picture, tmp_path / "theirs.npz")
    assert run.returncode == 0, run.stderr[-4000:]
    theirs = np.load(tmp_path / "theirs.npz")
    assert str(theirs["version"]) in request.node.callspec.id
    assert theirs["problems"].tolist() == []

    model = jaxllava.load(exports[case])
    config, template = model.config, CASES[case][0]
    turns = (Turn("human", f"{IMAGE_TOKEN}\n{TEXT}"),)
    prompt, _, views = PromptReader(config, model.tokenizer, template).row(0, turns, [picture], "")
    ids = theirs["ids"][0]
    if (ids == config.image_token).sum() == 1:  # before 4.45
        places = (prompt == config.image_token).sum()
        ids = np.repeat(ids, np.where(ids == config.image_token, places, 1))
    np.testing.assert_array_equal(ids, prompt)

    pixels = np.moveaxis(theirs["pixels"], -3, -1)  # [1, (views,) H, W, 3]
    ours = normalise(jnp.asarray(views), config.vision)
    np.testing.assert_allclose(pixels.reshape(ours.shape), ours, rtol=0, atol=1e-6)

    whole = np.concatenate([prompt, theirs["answer"]])[None]
    sizes = [Image.open(picture).size[::-1]] if config.anyres else None
    logits = model.logits(whole, pixels, image_sizes=sizes)
    np.testing.assert_allclose(logits[:, : len(prompt)], theirs["logits"], rtol=0, atol=2e-5)
    assert theirs["logits"].std() > 0.1
    np.testing.assert_array_equal(logits[0, len(prompt) - 1 : -1].argmax(-1), theirs["answer"])
    assert len(theirs["answer"]) == NEW_TOKENS

    answer = model.generate([TEXT], [picture], max_new_tokens=NEW_TOKENS)[0]
    assert str(theirs["said"]).rsplit("ASSISTANT:", 1)[-1].strip() == answer


@pytest.mark.parametrize("old_python", NO_PADDING, indirect=True)
def test_a_version_that_cannot_pad_says_so(old_python, exports, picture, tmp_path) -> None:
    """It refuses such a model's image processor, and does not cut the picture instead."""
    run = _check(old_python, exports["pad"], picture, tmp_path / "theirs.npz")
    assert run.returncode != 0
    assert "Unrecognized image processor" in run.stderr


@pytest.mark.parametrize("old_python", NO_SIGLIP, indirect=True)
def test_a_version_that_does_not_know_siglip_says_so(old_python, exports, picture, tmp_path) -> None:
    run = _check(old_python, exports["siglip"], picture, tmp_path / "theirs.npz")
    assert run.returncode != 0
    assert "Image features and image tokens do not match" in run.stderr
