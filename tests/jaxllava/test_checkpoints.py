"""Checkpoints: what is kept, what is found damaged, what belongs to another run."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from input_pipeline.errors import UserError
from jaxllava import sharding
from jaxllava.checkpoints import ASIDE, Checkpoints, layout


def state(value: float) -> dict:
    return {
        "trained": {"a": {"kernel": jnp.arange(4096.0).reshape(64, 64) + value}},
        "optimizer": (jnp.full((8,), value, jnp.bfloat16), jnp.int32(value)),
    }


def opened(folder: Path, said: list[str] | None = None, **changes) -> Checkpoints:
    identity = {"config.lr": "1.0", "model": "abc"} | changes.pop("identity", {})
    return Checkpoints(folder / "checkpoints", identity, say=(said or []).append, **changes)


def saved(folder: Path, steps, **changes) -> None:
    checkpoints = opened(folder, **changes)
    for step in steps:
        checkpoints.save(step, state(step), {"loss": float(abs(step - 3))})
    checkpoints.close()


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())


def data_files(folder: Path, step: int) -> list[Path]:
    """The files of a checkpoint that hold arrays, the largest first."""
    found = [path for path in (folder / "checkpoints" / str(step) / "state").rglob("*") if path.is_file()]
    return sorted(found, key=lambda path: -path.stat().st_size)


def assert_is(restored, step: int) -> None:
    assert restored is not None and restored[0] == step
    for found, expected in zip(jax.tree.leaves(restored[1]), jax.tree.leaves(state(step)), strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype


def test_the_newest_stay_and_the_best_of_the_others(tmp_path):
    saved(tmp_path, range(1, 9), keep=2, keep_best=2)
    assert steps(tmp_path) == [2, 3, 7, 8] or steps(tmp_path) == [3, 4, 7, 8]
    assert_is(opened(tmp_path).restore(state(0)), 8)


def test_without_a_checkpoint_there_is_nothing(tmp_path):
    assert opened(tmp_path).restore(state(0)) is None


def test_it_comes_back_on_another_mesh(tmp_path):
    saved(tmp_path, [1])
    mesh = sharding.make_mesh((2, 4, 1))
    cut = jax.sharding.NamedSharding(mesh, PartitionSpec("fsdp", None))
    whole = jax.sharding.NamedSharding(mesh, PartitionSpec())
    like = jax.tree.map(lambda x: jax.device_put(x, cut if x.shape == (64, 64) else whole), state(0))
    restored = opened(tmp_path).restore(like)
    assert_is(restored, 1)
    assert restored[1]["trained"]["a"]["kernel"].sharding == cut


def truncate(folder: Path) -> None:
    path = data_files(folder, 2)[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose(folder: Path) -> None:
    for path in data_files(folder, 2):
        path.unlink()


def lose_header(folder: Path) -> None:
    for path in (folder / "checkpoints" / "2" / "header").rglob("*"):
        path.unlink()


def cut_header(folder: Path) -> None:
    path = folder / "checkpoints" / "2" / "header" / "metadata"
    path.write_text(path.read_text()[:20])


@pytest.mark.parametrize("damage", [truncate, lose, lose_header, cut_header])
def test_a_torn_one_is_set_aside_and_the_one_before_it_is_taken(tmp_path, damage):
    saved(tmp_path, [1, 2])
    damage(tmp_path)
    said: list[str] = []
    checkpoints = Checkpoints(tmp_path / "checkpoints", {"config.lr": "1.0", "model": "abc"}, say=said.append)
    assert_is(checkpoints.restore(state(0)), 1)
    assert len(said) == 1 and "checkpoints/2 cannot be read" in said[0]
    assert (tmp_path / f"{ASIDE}checkpoints-2").is_dir()
    checkpoints.save(2, state(2))  # its name is free again
    checkpoints.close()
    assert_is(opened(tmp_path).restore(state(0)), 2)


@pytest.mark.parametrize("place", np.linspace(0.05, 0.95, 5))
def test_one_flipped_bit_is_found(tmp_path, place):
    """Wherever it is: the reader's own checks do not look at everything."""
    saved(tmp_path, [1, 2])
    path = data_files(tmp_path, 2)[0]
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(bytes(content))
    restored = opened(tmp_path).restore(state(0))
    # A bit that nothing is read from may be flipped.
    assert_is(restored, restored[0])


def test_a_value_that_changed_on_disk_is_found(tmp_path, monkeypatch):
    saved(tmp_path, [1, 2])
    said: list[str] = []
    checkpoints = Checkpoints(tmp_path / "checkpoints", {"config.lr": "1.0", "model": "abc"}, say=said.append)
    restore = checkpoints.manager.restore

    def changed(step, args):
        found = restore(step, args=args)
        if step == 2 and "state" in found:
            kernel = found.state["trained"]["a"]["kernel"]
            found.state["trained"]["a"]["kernel"] = kernel.at[3, 3].add(1e-3)
        return found

    monkeypatch.setattr(checkpoints.manager, "restore", changed)
    assert_is(checkpoints.restore(state(0)), 1)
    assert "have changed on disk" in said[0]


def test_where_none_can_be_read_the_run_begins_anew(tmp_path):
    saved(tmp_path, [2])
    truncate(tmp_path)
    assert opened(tmp_path).restore(state(0)) is None


def test_one_of_another_run_is_an_error_that_says_in_what(tmp_path):
    saved(tmp_path, [1])
    with pytest.raises(UserError, match=r"written by another run \(differs in: config.lr\)"):
        opened(tmp_path, identity={"config.lr": "2.0"}).restore(state(0))


def test_another_tree_is_an_error_that_names_a_leaf(tmp_path):
    saved(tmp_path, [1])
    other = state(0)
    other["trained"]["a"]["bias"] = jnp.zeros(3)
    with pytest.raises(UserError, match=r"\['bias'\] is absent there and float32\[3\] here \(1 differ\)"):
        opened(tmp_path).restore(other)
    assert steps(tmp_path) == [1]


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    checkpoints = opened(tmp_path)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.manager, "save", full)
    with pytest.raises(UserError, match="the disk is full: make room, then the same command goes on"):
        checkpoints.save(1, state(1))


@pytest.mark.parametrize(
    "error", [RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), PermissionError(13, "no")]
)
def test_a_machine_that_cannot_read_it_sets_nothing_aside(tmp_path, monkeypatch, error):
    """Or a machine without memory would put all checkpoints of a run away and begin it anew."""
    saved(tmp_path, [1, 2])
    checkpoints = opened(tmp_path)
    restore = checkpoints.manager.restore

    def refuse(step, args):
        if "state" in args:
            raise error
        return restore(step, args=args)

    monkeypatch.setattr(checkpoints.manager, "restore", refuse)
    with pytest.raises(
        UserError, match=r"checkpoints/2 could not be read here, and nothing is known to be wrong"
    ):
        checkpoints.restore(state(0))
    assert steps(tmp_path) == checkpoints.steps() == [1, 2]


def test_a_layout_is_enough_to_read_by(tmp_path):
    saved(tmp_path, [3])
    assert_is(opened(tmp_path).restore(layout(state(0))), 3)


@pytest.mark.parametrize(("error", "waits"), [(ValueError("x"), 1), (KeyboardInterrupt(), 0)])
def test_an_error_waits_for_what_is_being_written(tmp_path, monkeypatch, error, waits):
    """An interpreter that ends lets no thread of Orbax start another: the checkpoint would be lost."""
    checkpoints, waited = opened(tmp_path), []

    def wait():
        waited.append(1)
        raise RuntimeError("of the second error nothing is told")

    monkeypatch.setattr(checkpoints.manager, "wait_until_finished", wait)
    with pytest.raises(type(error)), checkpoints:
        raise error
    assert len(waited) == waits


def test_a_step_that_is_there_is_not_written_again(tmp_path):
    """An interrupt may come in the step of a checkpoint."""
    saved(tmp_path, [1, 1])
    saved(tmp_path, [1])
    assert_is(opened(tmp_path).restore(state(0)), 1)
