"""The mesh and the parameters' layout."""

from __future__ import annotations

import jax
import pytest
from jax.sharding import PartitionSpec

from input_pipeline.errors import UserError
from jaxllava import rules, sharding
from jaxllava.models.llava import init_params, llava_1_5


def test_a_mesh_fills_in_what_is_left():
    mesh = sharding.make_mesh((2, -1, 2))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize("shape", [(3, 1, 1), (-1, -1, 1), (2, 2)])
def test_a_mesh_that_does_not_fit_is_one_clear_error(shape):
    with pytest.raises(UserError, match="mesh"):
        sharding.make_mesh(shape)


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
    assert down == PartitionSpec(None, "tensor", "fsdp")


def test_an_axis_that_does_not_divide_leaves_its_dimension_whole():
    params = {"projector": {"linear_1": {"kernel": jax.ShapeDtypeStruct((6, 8), "float32")}}}
    mesh = sharding.make_mesh((1, 4, 2))
    found = sharding.param_shardings(params, mesh, ((r"projector/.*", ("fsdp", "tensor")),))
    assert found["projector"]["linear_1"]["kernel"].spec == PartitionSpec(None, "tensor")
