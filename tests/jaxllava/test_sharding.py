"""The mesh and the parameters' layout.

The files goldens/shardings_*.json say where each parameter of the published sizes lies. After a wanted change of the
layout, read what `JAXLLAVA_RENEW_GOLDENS=1 python -m pytest tests/jaxllava/test_sharding.py` makes of them.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
from pathlib import Path

import jax
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from input_pipeline.errors import UserError
from jaxllava import lora, quantize, rules, sharding
from jaxllava.models.eva import EvaVisionConfig
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.llava import LlavaConfig, init_params, llava_1_5
from jaxllava.models.qformer import QFormerConfig
from jaxllava.models.siglip import SiglipVisionConfig
from tests.jaxllava import tiny_models as tiny

GOLDENS = Path(__file__).parent / "goldens"
MESHES = ((1, 32, 1), (1, 8, 4), (2, 8, 2))
LORA = ((r"decoder/layers/.*", (128, 256, 0.05)), (r".*", None))  # LLaVA-1.5's recipe
NF4 = ((r"decoder/layers/.*", "nf4"), (r".*", None))
VARIANTS = {"7b": ((), ()), "13b": ((), ()), "7b_lora": (LORA, ()), "7b_qlora": (LORA, NF4)}


def test_a_mesh_fills_in_what_is_left():
    mesh = sharding.make_mesh((2, -1, 2))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize("shape", [(3, 1, 1), (-1, -1, 1), (2, 2)])
def test_a_mesh_that_does_not_fit_is_one_clear_error(shape):
    with pytest.raises(UserError, match="mesh"):
        sharding.make_mesh(shape)


@dataclasses.dataclass(frozen=True)
class Chip:
    """What `make_mesh` looks at of a TPU."""

    id: int
    coords: tuple[int, int, int]
    slice_index: int
    device_kind: str = "TPU v5 lite"
    platform: str = "tpu"
    core_on_chip: int = 0
    process_index: int = 0


def chips(rows: int, columns: int, slices: int = 1) -> list[Chip]:
    places = itertools.product(range(slices), range(rows), range(columns))
    return [Chip(i, (x, y, 0), part) for i, (part, y, x) in enumerate(places)]


@pytest.mark.parametrize("sizes", [(1, 32, 1), (2, 8, 2), (2, 16, 1), (4, 1, 8)])
def test_a_slice_takes_every_mesh(monkeypatch, sizes):
    """4 x 8 chips as a v5litepod-32 has them, also where a size is no axis of theirs."""
    monkeypatch.setattr(sharding, "Mesh", lambda array, axes: array)
    found = sharding.make_mesh(sizes, chips(4, 8))
    assert found.shape == sizes and {chip.id for chip in found.flat} == set(range(32))


@pytest.mark.parametrize(("sizes", "parts"), [((2, -1, 1), 1), ((4, 8, 2), 2), ((2, 4, 8), 1)])
def test_only_the_data_axis_goes_from_slice_to_slice(monkeypatch, sizes, parts):
    monkeypatch.setattr(sharding, "Mesh", lambda array, axes: array)
    mixed = sorted(chips(4, 8, slices=2), key=lambda chip: chip.id % 5)
    found = sharding.make_mesh(sizes, mixed)
    assert {chip.id for chip in found.flat} == set(range(64))
    for index, part in enumerate(found):
        assert {chip.slice_index for chip in part.flat} == {index // parts}


@pytest.mark.parametrize("sizes", [(1, -1, 1), (1, 32, 2), (3, 21, 1)])
def test_a_mesh_across_slices_is_refused(sizes):
    count = 63 if sizes[0] == 3 else 64
    with pytest.raises(UserError, match=r"slice to slice.*--config.mesh=2,-1,1"):
        sharding.make_mesh(sizes, chips(4, 8, slices=2)[:count])


@pytest.mark.parametrize("size", ["7b", "13b"])
def test_every_large_parameter_of_llava_is_cut(size):
    """At full size, nothing big may stay whole on every chip."""
    shapes = jax.eval_shape(lambda: init_params(llava_1_5(size), jax.random.key(0)))
    mesh = sharding.make_mesh((1, 4, 2))
    shardings = rules.flatten(sharding.param_shardings(shapes, mesh, sharding.LLAVA_RULES))
    for path, leaf in rules.flatten(shapes).items():
        if leaf.size > 1_000_000:
            assert shardings[path].shard_shape(leaf.shape) != leaf.shape, path
    down = shardings["decoder/layers/mlp/down_proj/kernel"].spec
    assert down == PartitionSpec(None, ("tensor", "fsdp"), None)


def test_an_axis_that_does_not_divide_leaves_its_dimension_whole():
    params = {"projector": {"linear_1": {"kernel": jax.ShapeDtypeStruct((6, 8), "float32")}}}
    mesh = sharding.make_mesh((1, 4, 2))
    for axes, spec in (
        (("fsdp", "tensor"), (None, "tensor")),
        ((None, ("tensor", "fsdp")), (None, ("tensor", "fsdp"))),
        ((("fsdp", "tensor"), None), ("tensor", "fsdp")),  # the columns take what the rows cannot
        ((("tensor", "fsdp"), None), ("tensor", "fsdp")),
    ):
        found = sharding.param_shardings(params, mesh, ((r"projector/.*", axes),))
        assert found["projector"]["linear_1"]["kernel"].spec == PartitionSpec(*spec)


def shapes_of(config: LlavaConfig, lora_rules=(), quantize_rules=(), block: int = quantize.BLOCK) -> dict:
    key = jax.random.key(0)

    def made() -> dict:
        return lora.add(quantize.apply(init_params(config, key), quantize_rules, block), lora_rules, key)

    return jax.eval_shape(made)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_layout_is_the_golden_one(variant):
    shapes = shapes_of(llava_1_5(variant.split("_")[0]), *VARIANTS[variant])
    found: dict[str, dict[str, list]] = {}
    for sizes in MESHES:
        # No devices stand behind it: a layout needs but the sizes.
        mesh = AbstractMesh(sizes, sharding.AXES)
        places = rules.flatten(sharding.param_shardings(shapes, mesh, sharding.LLAVA_RULES))
        found["x".join(map(str, sizes))] = {
            path: [list(leaf.shape), list(places[path].spec)]
            for path, leaf in sorted(rules.flatten(shapes).items())
        }
    file = GOLDENS / f"shardings_{variant}.json"
    if os.environ.get("JAXLLAVA_RENEW_GOLDENS"):
        meshes = (
            f'"{mesh}": {{\n' + ",\n".join(f'  "{p}": {json.dumps(e)}' for p, e in paths.items()) + "\n}"
            for mesh, paths in found.items()
        )
        file.write_text("{" + ",\n".join(meshes) + "}\n")
    expected = json.loads(file.read_text())
    renew = "another layout than the golden one: if it is wanted, run this with JAXLLAVA_RENEW_GOLDENS=1"
    for mesh, paths in json.loads(json.dumps(found)).items():
        assert paths == expected[mesh], renew
    assert found.keys() == expected.keys(), renew


def test_no_rule_of_the_layout_is_idle():
    """A rule may be without a use in one model, but not in all: SigLIP, LLaVA-NeXT, LLaMA-VID, adapters, four bits."""
    head = ((r"decoder/lm_head/kernel", None),)
    paths: set[str] = set()
    for config in (
        tiny.LLAVA,
        tiny.LLAVA.replace(pinpoints=((28, 28), (28, 56))),
        tiny.LLAVA.replace(vision=SiglipVisionConfig(32, 64, 2, 4, image_size=28, patch_size=14)),
        LlamaVidConfig(
            EvaVisionConfig(16, 32, 2, 2, image_size=16, patch_size=4),
            tiny.LLAVA.decoder,
            tiny.LLAVA.image_token,
            qformer=QFormerConfig(16, 32, 2, 2, vocab_size=64, queries=3, vision_size=16),
        ),
    ):
        for chosen in ((), (*head, (r".*", (2, 2, 0.0)))):
            nf4 = (*head, (r".*", "nf4")) if chosen else ()
            shapes = shapes_of(config, chosen, nf4, block=16)
            sharding.param_shardings(shapes, sharding.make_mesh((2, 2, 2)), sharding.LLAVA_RULES)
            paths |= rules.flatten(shapes).keys()
    rules.match(sharding.LLAVA_RULES, paths, "LLAVA_RULES")


def test_a_kernel_s_other_forms_lie_along_it():
    shapes = shapes_of(llava_1_5("7b"), LORA, NF4)
    mesh = AbstractMesh((2, 8, 2), sharding.AXES)
    places = rules.flatten(sharding.param_shardings(shapes, mesh, sharding.LLAVA_RULES))
    plain = rules.flatten(sharding.param_shardings(shapes_of(llava_1_5("7b")), mesh, sharding.LLAVA_RULES))
    for path, place in plain.items():
        if not re.fullmatch(r"decoder/layers/.*/kernel", path):
            continue
        module, (_, rows, columns) = path.removesuffix("/kernel"), place.spec
        if rows == ("tensor", "fsdp"):  # for the sake of its gradient, which the other forms do not have
            rows, columns = rows
        assert places[f"{module}/kernel_codes"].spec == PartitionSpec(None, rows, columns)
        a, b = (places[f"{module}/lora_{half}"].spec for half in "ab")
        # The long side as the kernel's; the rank on fsdp where that side is tensor's.
        assert a == PartitionSpec(None, rows, None if rows == "fsdp" else "fsdp")
        assert b == PartitionSpec(None, None if columns == "fsdp" else "fsdp", columns)
        assert places[f"{module}/lora_scale"].spec == PartitionSpec(None)
