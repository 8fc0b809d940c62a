"""Hashes of tensors, and a folder that is no longer what its manifest says."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxllava import cli
from jaxllava.weights import manifest, orbax
from tests.jaxllava import tiny_models as tiny


def test_the_hash_is_of_values_and_not_of_their_order_in_memory() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).astype(ml_dtypes.bfloat16)

    def entry(*parts: np.ndarray) -> manifest.Entry:
        return manifest.entry(parts, (3, 4), array.dtype)

    assert entry(np.asfortranarray(array)) == entry(array) == entry(*array)
    assert entry(array)["dtype"] == "bfloat16" and entry(array)["shape"] == [3, 4]
    changed = array.copy()
    changed[2, 3] = 7
    assert entry(changed)["sha256"] != entry(array)["sha256"]


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("models")
    config = tiny.llava_for(tokenizer)
    orbax.save_model(root / "ours", tiny.random_params(config), config, tokenizer, "v1_bare")
    cli.main(["convert", "--from", str(root / "ours"), "--to", str(root / "hf")])
    return root / "ours", root / "hf"


@pytest.mark.parametrize("which", [0, 1])
def test_a_checkpoint_can_be_inspected(folders, capsys, which: int) -> None:
    cli.main(["inspect", "checkpoint", str(folders[which])])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "all as manifest.json says"
    name = ("projector/linear_1/bias", "multi_modal_projector.linear_1.bias")[which]
    (line,) = [line for line in lines if line.startswith(name)]
    assert "float32" in line and "(48,)" in line


def test_a_changed_tensor_is_found(folders, tmp_path: Path, capsys) -> None:
    for file in folders[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["multi_modal_projector.linear_1.bias"][0] += 1
    tensors["more"] = tensors.pop("multi_modal_projector.linear_2.bias")
    save_file(tensors, tmp_path / "model.safetensors")
    cli.main(["inspect", "checkpoint", str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "multi_modal_projector.linear_2.bias: in the manifest and not in the folder",
        "more: in the folder and not in the manifest",
        "multi_modal_projector.linear_1.bias: another sha256 than the manifest says",
    ]


def test_dtypes_change_when_asked_and_come_back_bitwise(folders, tmp_path: Path, capsys) -> None:
    """Half precision through Hugging Face and Orbax: converting again changes nothing."""
    for number, (source, form) in enumerate(
        [(folders[1], "hf"), (tmp_path / "0", "orbax"), (tmp_path / "1", "hf")]
    ):
        asked = ["--dtype", "bfloat16"] if number == 0 else []
        cli.main(
            ["convert", "--from", str(source), "--to", str(tmp_path / str(number)), "--format", form, *asked]
        )
    first, again = (manifest.read(tmp_path / name) for name in ("0", "2"))
    assert first == again and {entry["dtype"] for entry in first.values()} == {"bfloat16"}
