"""Torch files read without torch: the values torch wrote, and nothing that it would run."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from input_pipeline.errors import UserError
from jaxllava.weights.torch_pickle import TorchFile


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool],
)
def test_values_and_dtypes_are_torch_s(tmp_path: Path, dtype: torch.dtype) -> None:
    base = torch.arange(24).reshape(4, 6).to(dtype)
    state = OrderedDict(
        whole=base,
        transposed=base.T,
        slice=base[1:3, ::2],
        scalar=base[2, 3],
        empty=base[:0],
        parameter=torch.nn.Parameter(base, requires_grad=False),
    )
    torch.save(state, tmp_path / "x.bin")
    found = TorchFile(tmp_path / "x.bin")
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert str(found[name].dtype) == str(dtype).removeprefix("torch.")
        np.testing.assert_array_equal(found[name].astype(np.float64), tensor.double().numpy())


def test_a_state_dict_with_metadata_is_read(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    torch.save(layer.state_dict(), tmp_path / "x.bin")
    np.testing.assert_array_equal(TorchFile(tmp_path / "x.bin")["bias"], layer.bias.detach().numpy())


def test_tensors_of_dicts_within_are_named_by_both(tmp_path: Path) -> None:
    """As LAVIS saves: {"model": state_dict}."""
    one = torch.arange(4.0)
    torch.save(
        {"model": OrderedDict({"a.weight": one, "inner": {"b": one + 1}}), "c": one + 2}, tmp_path / "x.pth"
    )
    found = TorchFile(tmp_path / "x.pth")
    assert list(found) == ["model.a.weight", "model.inner.b", "c"]
    np.testing.assert_array_equal(found["model.inner.b"], one.numpy() + 1)
    torch.save({"model": {"a": one}, "model.a": one}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="names a tensor twice"):
        TorchFile(tmp_path / "x.pth")
    torch.save({"model": {"a": one, "epoch": 3}}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="holds more than named tensors"):
        TorchFile(tmp_path / "x.pth")


class _Evil:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_the_file_is_run(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "b": _Evil(tmp_path / "was_run")}, tmp_path / "x.bin")
    with pytest.raises(UserError, match=r"x\.bin: names .*, which a checkpoint of weights does not need"):
        TorchFile(tmp_path / "x.bin")
    assert not (tmp_path / "was_run").exists()


def test_what_is_no_checkpoint_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    with pytest.raises(UserError, match="not a readable torch file"):
        TorchFile(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="not a readable torch file"):
        TorchFile(path)
    torch.save({"a": torch.ones(2), "epoch": 3}, path)
    with pytest.raises(UserError, match="holds more than named tensors"):
        TorchFile(path)
    torch.save({"a": torch.ones(500)}, path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UserError, match="not a readable torch file"):
        TorchFile(path)
    torch.save({"a": torch.ones(2)}, path)
    cut = tmp_path / "cut.bin"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(cut, "w") as new:
        for item in old.infolist():
            new.writestr(item, old.read(item)[:4] if item.filename.endswith("data/0") else old.read(item))
    with pytest.raises(UserError, match="storage 0 is cut"):
        TorchFile(cut)["a"]
