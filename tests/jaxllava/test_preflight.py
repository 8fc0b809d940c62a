"""What is counted before the first step. Settings that cannot work: `test_train.py`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from configs import train as train_config
from input_pipeline.errors import UserError
from jaxllava import lora, preflight, quantize, settings

PARAMS = {
    "decoder": {
        "layers": {"up": {"kernel": jnp.ones((2, 128, 8)), "bias": jnp.ones((2, 8))}},
        "embed": jnp.ones((9, 8), jnp.bfloat16),
    }
}
RULES = ((r".*kernel", (2, 4, 0.0)),)


@pytest.mark.parametrize("save_dtype", ["", "bfloat16"])
@pytest.mark.parametrize("nf4", [False, True])
@pytest.mark.parametrize("adapters", [(), RULES])
def test_a_model_s_bytes_are_those_of_the_folder_it_leaves(save_dtype, nf4, adapters):
    """In four bits it is a quarter of what it will be, and its adapters end in it."""
    config = train_config.get_config()
    config.save_dtype = save_dtype
    params = quantize.apply(PARAMS, ((r".*kernel", "nf4"),)) if nf4 else PARAMS
    params = lora.add(params, adapters, jax.random.key(0))
    left = lora.merge(params, dtype=save_dtype or None)
    if save_dtype:
        left = jax.tree.map(lambda x: x.astype(save_dtype), left)
    assert preflight.model_bytes(params, config) == sum(leaf.nbytes for leaf in jax.tree.leaves(left))


def test_a_disk_that_is_too_small_is_said_with_what_is_needed(tmp_path, monkeypatch):
    state = {"a": jax.ShapeDtypeStruct((1 << 20,), jnp.float32)}
    needed = 3 * (4 << 20) + (7 << 20) + preflight.SPARE
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "old").write_bytes(bytes(1000))

    class Disk:
        free = needed - 1000

    walk = preflight.os.walk
    # Another host may clear up in the meantime.
    gone = lambda folder: [*walk(folder), (str(tmp_path / "gone"), [], ["file"])]
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder: Disk)
    monkeypatch.setattr(preflight.os, "walk", gone)
    preflight.check_disk(tmp_path, state, 7 << 20, 2)
    Disk.free -= 1
    with pytest.raises(UserError, match=r"3 checkpoints of 0\.00 GiB and a model of 0\.01 GiB"):
        preflight.check_disk(tmp_path, state, 7 << 20, 2)


@pytest.mark.parametrize(
    ("key", "value"), [("mixture", "instruct_train"), ("lora_rules", "r32"), ("init", (".*",))]
)
def test_what_is_no_list_of_pairs_is_shown_how_one_looks(key, value):
    config = train_config.get_config()
    with config.ignore_type():
        config[key] = value
    with pytest.raises(UserError, match=rf"config\.{key}=.*: pairs are needed, e\.g\. --config\.{key}="):
        settings.check(config)
