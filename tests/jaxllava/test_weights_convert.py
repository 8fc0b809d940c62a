"""`jaxllava convert`: every kind of folder there and back bitwise; what happens when it is cut or cannot be done."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from input_pipeline.errors import UserError
from jaxllava import cli
from jaxllava.models.clip import ClipConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.rope import RopeScaling
from jaxllava.weights import hf, orbax
from jaxllava.weights.convert import convert
from jaxllava.weights.tensor_files import TensorFiles
from tests.jaxllava import tiny_models as tiny

DECODERS = {
    "llama": tiny.DECODER.replace(rope_scaling=RopeScaling("llama3", 8.0, original_max_positions=64)),
    "tied": tiny.DECODER.replace(tie_embeddings=True),
    "mistral": tiny.DECODER.replace(family="mistral", sliding_window=8),
    "qwen2": tiny.DECODER.replace(family="qwen2", qkv_bias=True, head_dim=0),
    "qwen3": tiny.DECODER.replace(family="qwen3", qk_norm=True),
}


def save(name: str, folder: Path, tokenizer) -> None:
    """A folder as transformers saves the model, in bfloat16."""
    if name == "clip":
        model = tiny.torch_clip(ClipConfig(tiny.VISION, tiny.TEXT, projection_dim=24))
    elif name == "llava":
        model = tiny.torch_llava(tiny.llava_for(tokenizer))
        tokenizer.save_pretrained(folder)
    else:
        model = tiny.torch_llama(DECODERS[name])
    model.to(torch.bfloat16).save_pretrained(folder)


@pytest.mark.parametrize("name", ["clip", "llava", *DECODERS])
def test_there_and_back_is_bitwise(name: str, tmp_path: Path, tokenizer) -> None:
    """Hugging Face -> Orbax -> Hugging Face: the same tensors under the same names, and the same model."""
    save(name, tmp_path / "theirs", tokenizer)
    for source, target, format in (
        ("theirs", "ours", "orbax"),
        ("ours", "back", "hf"),
        ("back", "again", "hf"),
    ):
        convert(tmp_path / source, tmp_path / target, format)
    rename = hf.canonical if name == "llava" else lambda stored: stored
    before = TensorFiles(tmp_path / "theirs", rename)
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert before.keys() == after.keys()
    for stored, tensor in before.items():
        assert after[stored].dtype == tensor.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(after[stored].view(np.uint16), tensor.read().view(np.uint16), stored)
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (
        tmp_path / "again" / "model.safetensors"
    ).read_bytes()
    kind = {"clip": transformers.CLIPModel, "llava": transformers.LlavaForConditionalGeneration}
    _, info = kind.get(name, transformers.AutoModelForCausalLM).from_pretrained(
        tmp_path / "back", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]


@pytest.mark.parametrize("name", [*DECODERS])
def test_text_models_compute_the_same_after_it(name: str, tmp_path: Path) -> None:
    """The config.json of an export says all that the numbers depend on."""
    reference = tiny.torch_llama(DECODERS[name])
    reference.save_pretrained(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours", "orbax")
    convert(tmp_path / "ours", tmp_path / "back", "hf")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back").eval()
    tokens = torch.arange(40)[None] % 100
    with torch.no_grad():
        np.testing.assert_array_equal(again(tokens).logits.numpy(), reference(tokens).logits.numpy())
    assert isinstance(tiny.opened(tmp_path / "ours")[1], LlamaConfig)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer) -> Path:
    config = tiny.llava_for(tokenizer)
    path = tmp_path_factory.mktemp("convert") / "model"
    orbax.save_model(path, tiny.random_params(config), config, tokenizer, "vicuna_v1")
    return path


@pytest.mark.parametrize("format", ["hf", "orbax", "llava"])
def test_another_dtype_when_asked(folder: Path, tmp_path: Path, format: str) -> None:
    command = ["convert", "--from", str(folder), "--to", str(tmp_path / "half"), "--format", format]
    cli.main([*command, "--dtype", "bfloat16"])
    params, config = tiny.opened(tmp_path / "half")
    expected = jax.tree.map(lambda x: np.asarray(x).astype(ml_dtypes.bfloat16), tiny.opened(folder)[0])
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert config.decoder.dtype == config.vision.param_dtype == "bfloat16"


@pytest.mark.parametrize("format", ["hf", "orbax", "llava"])
def test_killed_in_the_middle_it_is_not_there_and_the_same_command_finishes_it(
    folder: Path, tmp_path: Path, format: str
) -> None:
    target = tmp_path / "out"
    program = (
        "import os, signal, sys\n"
        "from jaxllava.weights.convert import convert\n"
        "def half(done, total):\n"
        "    if done > total // 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "convert(sys.argv[1], sys.argv[2], sys.argv[3], progress=half)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(folder), str(target), format], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not target.exists() and (tmp_path / ".out.unfinished").exists()
    with pytest.raises(UserError, match="no such model folder"):
        tiny.opened(target)
    cli.main(["convert", "--from", str(folder), "--to", str(target), "--format", format])
    jax.tree.map(np.testing.assert_array_equal, tiny.opened(target)[0], tiny.opened(folder)[0])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("format", ["hf", "orbax"])
def test_a_disk_that_fills_is_one_line_and_leaves_nothing(folder: Path, tmp_path: Path, format: str) -> None:
    """A limit on the size of files stands for the disk: the write fails where it would."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    command = [sys.executable, "-m", "jaxllava", "convert", "--format", format]
    done = subprocess.run(
        [*command, "--from", str(folder), "--to", str(tmp_path / "out")],
        preexec_fn=limited,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"--to {tmp_path / 'out'}: the disk is full; 0.6 MB are needed" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_room_is_checked_first(folder: Path, tmp_path: Path, monkeypatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"--to .* are needed and .* has 0\.0 MB left; make room"):
        convert(folder, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_converted_is_one_clear_error(folder: Path, tmp_path: Path, tokenizer) -> None:
    convert(folder, tmp_path / "hf", "hf")

    def broken(name: str) -> Path:
        shutil.copytree(tmp_path / "hf", tmp_path / name)
        return tmp_path / name

    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not a checkpoint"):
        convert(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(UserError, match="exists already"):
        convert(folder, tmp_path / "hf")
    with pytest.raises(UserError, match="needs none"):
        convert(folder, tmp_path / "out", base=folder)
    with pytest.raises(UserError, match="no prompt template is named"):
        convert(folder, tmp_path / "out", template="vicuna")
    cut = broken("cut")
    whole = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(whole[:-1000])
    with pytest.raises(
        UserError, match=r"cut/model\.safetensors: not a readable safetensors file .*fetch it again"
    ):
        convert(cut, tmp_path / "out")
    other = broken("other")
    values = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(
        json.dumps(values | {"architectures": ["X"], "model_type": "paligemma"})
    )
    with pytest.raises(
        UserError, match=r"model_type is 'paligemma'; what is read here: llava, llava_next, clip"
    ):
        convert(other, tmp_path / "out")
    wrong = broken("wrong")
    values["text_config"]["intermediate_size"] = 80
    (wrong / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"gate_proj.weight has shape \(96, 48\), .* needs \(3, 48, 80\)"):
        convert(wrong, tmp_path / "out")
    save("qwen2", tmp_path / "text", tokenizer)
    with pytest.raises(UserError, match="a text model cannot be written so"):
        convert(tmp_path / "text", tmp_path / "out", "llava")
    assert not (tmp_path / "out").exists()


def test_a_lost_piece_of_an_orbax_folder_is_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    data = sorted((tmp_path / "model" / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
    data[-1].unlink()
    with pytest.raises(UserError, match=r"params: .* cannot be read .*; fetch or train it again"):
        convert(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """0.8 GB of weights in a process that may hold 300 MiB more than it does for a tiny model."""
    from benchmarks.convert import peak_while, random_leaf
    from jaxllava.rules import unflatten
    from jaxllava.weights import tables

    config = LlamaConfig(8000, 1024, 4096, 24, 8, param_dtype="bfloat16", dtype="bfloat16")
    leaves = unflatten({path: random_leaf(path, shape) for path, shape in tables.shapes(config).items()})
    tiny.export_hf(leaves, config, None, tmp_path / "hf")

    def peak(source: str, target: str, format: str) -> int:
        command = [sys.executable, "-m", "jaxllava", "convert", "--format", format, "--from"]
        process = subprocess.Popen([*command, str(tmp_path / source), "--to", str(tmp_path / target)])
        found = peak_while(process)
        assert process.wait() == 0
        return found

    tiny_config = config.replace(layers=1, hidden_size=64, intermediate_size=64)
    tiny_leaves = unflatten({p: random_leaf(p, shape) for p, shape in tables.shapes(tiny_config).items()})
    tiny.export_hf(tiny_leaves, tiny_config, None, tmp_path / "tiny")
    start = peak("tiny", "tiny_ours", "orbax")
    for step in (("hf", "ours", "orbax"), ("ours", "back", "hf")):
        assert peak(*step) - start < 300 * 2**20
    assert (tmp_path / "back" / "model.safetensors").stat().st_size > 800 * 10**6
