"""Every implementation of attention against the reference, on one table of cases."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, NamedSharding, PartitionSpec

from input_pipeline.errors import UserError
from jaxllava import sharding
from jaxllava.models import attention as attention_lib
from jaxllava.models import splash
from jaxllava.models.attention import attention, choose, cudnn_arguments
from jaxllava.models.llama import Llama, LlamaConfig, init_llama

pytestmark = pytest.mark.usefixtures("compiled_quickly")

LENGTH = 256
AUTO = (AxisType.Auto,) * 3
# name: (batch, heads, kv_heads, causal, with segments, window)
CASES: dict[str, tuple[int, int, int, bool, bool, int]] = {
    "full": (1, 2, 2, False, False, 0),
    "causal": (1, 2, 2, True, False, 0),
    "segments": (2, 2, 2, False, True, 0),
    "packed": (2, 2, 2, True, True, 0),
    "grouped": (2, 4, 2, True, True, 0),
    "window": (1, 2, 1, True, False, 100),
    "packed_window": (2, 4, 2, True, True, 37),
}
TPU = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
H100 = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
has_nvidia = any(device.platform == "gpu" and "NVIDIA" in device.device_kind for device in jax.devices())


def _case(name: str, dtype: Any = jnp.float32, dim: int = 8) -> tuple[tuple[jax.Array, ...], dict[str, Any]]:
    """(query, key, value, a gradient of the result), the keyword arguments."""
    batch, heads, kv_heads, causal, segmented, window = CASES[name]
    rng = np.random.default_rng(sum(map(ord, name)))
    sizes = (heads, kv_heads, kv_heads, heads)
    arrays = tuple(jnp.asarray(rng.normal(size=(batch, LENGTH, n, dim)), dtype) for n in sizes)
    more: dict[str, Any] = {"causal": causal, "window": window}
    if segmented:
        more["segment_ids"] = jnp.stack([_segments(rng) for _ in range(batch)])
    return arrays, more


def _segments(rng: np.random.Generator) -> jax.Array:
    """Three samples and padding, at any places."""
    ends = np.sort(rng.choice(np.arange(8, LENGTH - 8), 3, replace=False))
    ids = np.searchsorted(ends, np.arange(LENGTH), side="right") + 1
    return jnp.asarray(np.where(ids > 3, 0, ids), jnp.int32)


def _run(arrays: tuple[jax.Array, ...], more: dict[str, Any], implementation: str) -> tuple[jax.Array, ...]:
    """The result and the gradients of query, key and value."""

    @jax.jit
    def run(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        *inputs, cotangent = arrays
        out, back = jax.vjp(
            lambda q, k, v: attention(q, k, v, **more, implementation=implementation), *inputs
        )
        return out, *back(cotangent)

    return run(*arrays)


def _on(device: AbstractDevice, shape: tuple[int, int, int] = (1, 1, 1)) -> Any:
    """As if tracing on a machine for devices that are not here."""
    return jax.sharding.use_abstract_mesh(AbstractMesh(shape, sharding.AXES, AUTO, abstract_device=device))


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks at a length that is quick to interpret."""
    monkeypatch.setattr(splash, "MAX_BLOCK", 128)


@pytest.mark.parametrize("name", CASES)
def test_splash_equals_the_reference(name, small_blocks):
    arrays, more = _case(name)
    for got, expected in zip(_run(arrays, more, "splash"), _run(arrays, more, "xla"), strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(got, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", ["causal", "packed_window"])
def test_splash_of_long_rows_holds_several_blocks_of_keys(name, small_blocks, monkeypatch):
    """As many copies of the queries' gradient as that leaves are summed: the same numbers."""
    monkeypatch.setattr(splash, "MOST_COPIES", 1)
    arrays, more = _case(name)
    assert splash.held_length(arrays[0].shape[1]) == arrays[0].shape[1] > splash.MAX_BLOCK
    for got, expected in zip(_run(arrays, more, "splash"), _run(arrays, more, "xla"), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    "length, held",
    [(128, 128), (4096, 512), (8192, 512), (16384, 1024), (65536, 4096), (131072, 4096), (6144, 512)],
)
def test_rows_of_any_length_leave_few_copies(length, held):
    assert splash.held_length(length) == held and length % held == 0


@pytest.mark.parametrize("name", ["causal", "packed_window"])
def test_splash_in_bfloat16(name, small_blocks):
    """Against float32 with the same inputs: within 2**-6 of the largest, four steps of bfloat16."""
    half, more = _case(name, jnp.bfloat16, dim=64)
    exact = tuple(array.astype(jnp.float32) for array in half)
    for got, true in zip(_run(half, more, "splash"), _run(exact, more, "xla"), strict=True):
        assert got.dtype == jnp.bfloat16
        error = float(jnp.abs(got.astype(jnp.float32) - true).max() / jnp.abs(true).max())
        assert 0 < error < 2**-6, error


@pytest.mark.parametrize("length, block", [(128, 128), (384, 384), (640, 128), (768, 384), (2048, 512)])
def test_blocks_divide_the_length(length, block):
    assert splash.block_length(length) == block


@pytest.mark.parametrize(
    "shape, batch, heads, kv_heads",
    [
        ((2, 2, 2), 4, 4, 2),  # everything divides
        ((2, 2, 2), 4, 4, 1),  # one key head for two parts of the heads: repeated
        ((1, 2, 4), 2, 12, 6),  # six key heads for four parts: repeated to twelve
        ((2, 2, 2), 3, 3, 3),  # neither batch nor heads divide: whole everywhere
    ],
)
def test_splash_on_a_mesh_equals_the_reference(shape, batch, heads, kv_heads, monkeypatch):
    monkeypatch.setitem(CASES, "mesh", (batch, heads, kv_heads, True, True, 0))
    monkeypatch.setattr("tests.jaxllava.test_models_attention.LENGTH", 128)
    arrays, more = _case("mesh")
    expected = _run(arrays, more, "xla")
    with jax.set_mesh(sharding.make_mesh(shape)):
        got = _run(arrays, more, "splash")
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_what_cudnn_is_told_means_the_same(name):
    """The arguments for the library's cuDNN kernel, given to its XLA one."""
    (query, key, value, _), more = _case(name)
    arguments = cudnn_arguments(query, key, **more)
    got = jax.nn.dot_product_attention(query, key, value, **arguments, implementation="xla")
    np.testing.assert_allclose(got, attention(query, key, value, **more), atol=1e-5)
    assert arguments["is_causal"] == more["causal"]
    assert (arguments["mask"] is None) == ("segment_ids" not in more)  # no [T, T] where none is needed


def test_what_cudnn_is_told_of_positions_and_masks():
    (query, key, value, _), _ = _case("grouped")
    rng = np.random.default_rng(0)
    back = jnp.asarray(rng.permuted(np.tile(np.arange(LENGTH), (2, 1)), axis=1))
    mask = jnp.asarray(rng.random((2, LENGTH, LENGTH)) < 0.5) | jnp.eye(LENGTH, dtype=bool)
    for more in ({"positions": back, "window": 50}, {"mask": mask, "window": 9}, {"mask": mask}):
        arguments = cudnn_arguments(query, key, causal=True, **more)
        got = jax.nn.dot_product_attention(query, key, value, **arguments, implementation="xla")
        np.testing.assert_allclose(got, attention(query, key, value, causal=True, **more), atol=1e-5)
    # A shorter query is the end of the row here, its start in cuDNN.
    arguments = cudnn_arguments(query[:, 200:], key, causal=True)
    got = jax.nn.dot_product_attention(query[:, 200:], key, value, **arguments, implementation="xla")
    np.testing.assert_allclose(got, attention(query, key, value, causal=True)[:, 200:], atol=1e-5)


@pytest.mark.skipif(not has_nvidia, reason="no NVIDIA GPU here")
@pytest.mark.parametrize("name", CASES)
def test_cudnn_equals_the_reference(name):
    half, more = _case(name, jnp.bfloat16, dim=64)
    exact = tuple(array.astype(jnp.float32) for array in half)
    for got, true in zip(_run(half, more, "cudnn"), _run(exact, more, "xla"), strict=True):
        error = float(jnp.abs(got.astype(jnp.float32) - true).max() / jnp.abs(true).max())
        assert 0 < error < 2**-6, error


def test_a_program_for_tpus_holds_the_compiled_kernels():
    """Traced here, as if for eight TPUs: forward and backward are Mosaic calls, not interpreted."""
    config = _llama(remat="full", head_dim=64, dtype="bfloat16", attention="auto")
    params = jax.eval_shape(lambda: init_llama(config, jax.random.key(0)))
    mesh = AbstractMesh((2, 2, 2), sharding.AXES, AUTO, abstract_device=TPU)
    rows = NamedSharding(mesh, PartitionSpec(sharding.BATCH_AXES))
    tokens = jax.ShapeDtypeStruct((8, 256), jnp.int32, sharding=rows)
    with jax.sharding.use_abstract_mesh(mesh):
        exported = jax.export.export(jax.jit(jax.grad(_loss(config))), platforms=["tpu"])(
            params, tokens, tokens
        )
    text = exported.mlir_module()
    assert exported.nr_devices == 8
    assert "splash_mha_fwd_segmented" in text and "splash_mha_dkv_segmented" in text
    assert "tpu_custom_call" in text
    # One device's part: 8 rows over data and fsdp, 4 heads over tensor, a head of 64 in 128 lanes.
    assert "tensor<2x2x256x128xbf16>" in text


def _choice(*, length: int = 256, keys: int = 0, dim: int = 64, dtype: str = "bfloat16", **more: Any) -> str:
    query = jax.ShapeDtypeStruct((2, length, 4, dim), dtype)
    key = jax.ShapeDtypeStruct((2, keys or length, 2, dim), dtype)
    absent = {"mask": None, "segment_ids": None, "positions": None}
    return choose(query, key, absent | more)  # type: ignore[arg-type]


def test_auto_picks_what_the_devices_and_the_shapes_allow(monkeypatch):
    ids = jax.ShapeDtypeStruct((2, 256), "int32")
    monkeypatch.setattr(attention_lib, "_compute_capability", lambda: (9, 0))
    assert _choice() == "xla"  # a CPU
    with _on(TPU):
        assert _choice() == _choice(dtype="float32") == _choice(segment_ids=ids) == "splash"
        assert _choice(length=577) == _choice(length=1, keys=256) == _choice(mask=ids) == "xla"
    with _on(H100):
        assert _choice() == _choice(length=577) == _choice(segment_ids=ids) == _choice(mask=ids) == "cudnn"
        assert _choice(dtype="float32") == _choice(dim=160) == _choice(dim=20) == "xla"
        assert _choice(length=577, segment_ids=ids) == "xla"
        monkeypatch.setattr(attention_lib, "_compute_capability", lambda: (7, 5))
        assert _choice() == "xla"


def test_a_named_implementation_that_cannot_run_is_one_clear_error():
    (query, key, value, _), _ = _case("causal")
    for name, device, arguments, message in (
        ("splash", None, (query[:, :200], key[:, :200], value[:, :200]), "200 is no multiple of 128"),
        ("splash", None, (query[:, :128], key, value), "128 queries and 256 keys"),
        ("splash", H100, (query, key, value), "TPU"),
        ("cudnn", None, (query, key, value), "NVIDIA"),
        ("flash", None, (query, key, value), "splash"),
    ):
        with _on(device) if device else jax.named_scope("here"), pytest.raises(UserError, match=message):
            attention(*arguments, causal=True, implementation=name)
    with pytest.raises(UserError, match="no mask"):
        attention(query, key, value, mask=jnp.ones((1, 256, 256), bool), implementation="splash")


# -- whole decoders -----------------------------------------------------------------------------------------------


def _llama(**changes: Any) -> LlamaConfig:
    config = LlamaConfig(64, 32, 64, 2, 4, kv_heads=2, head_dim=8, initializer_range=0.2, rms_eps=1e-6)
    return config.replace(**changes)


def _loss(config: LlamaConfig) -> Any:
    model = Llama(config)

    def loss(params: Any, tokens: jax.Array, segment_ids: jax.Array) -> jax.Array:
        def run(model: Llama, tokens: jax.Array) -> jax.Array:
            places = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
            return model.logits(model(model.embed(tokens), places, segment_ids))

        logits: Any = model.apply({"params": params}, tokens, method=run)
        return (jnp.sin(logits) * (segment_ids > 0)[..., None]).mean()

    return loss


@pytest.mark.parametrize("window, shape", [(0, None), (50, (2, 2, 2))])
def test_a_decoder_with_splash_equals_the_one_without(window, shape, small_blocks):
    config = _llama(remat="full", sliding_window=window)
    params = init_llama(config, jax.random.key(0))
    rng = np.random.default_rng(0)
    rows = 4 if shape else 1
    tokens = jnp.asarray(rng.integers(0, 64, (rows, LENGTH)), jnp.int32)
    segment_ids = jnp.stack([_segments(rng) for _ in range(rows)])
    expected = jax.jit(jax.value_and_grad(_loss(config)))(params, tokens, segment_ids)
    step = jax.jit(jax.value_and_grad(_loss(config.replace(attention="splash"))))
    if shape is None:
        got = step(params, tokens, segment_ids)
    else:
        mesh = sharding.make_mesh(shape)
        with jax.set_mesh(mesh):
            got = step(*jax.device_put((params, tokens, segment_ids), NamedSharding(mesh, PartitionSpec())))
    np.testing.assert_allclose(got[0], expected[0], atol=1e-6)
    for one, other in zip(jax.tree.leaves(got[1]), jax.tree.leaves(expected[1]), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5 * float(jnp.abs(other).max()) + 1e-8)


@pytest.mark.parametrize(("window", "segments"), [(0, True), (0, False), (100, True), (150, False)])
def test_blocks_of_queries_equal_the_whole(window, segments, monkeypatch):
    """On CPUs: 300 places are three blocks, the last one short; the window is less and more than a block."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 300, n, 8)), jnp.float32) for n in (4, 2, 2))
    given = jnp.asarray(np.sort(rng.integers(0, 4, (2, 300)), axis=1)) if segments else None
    run = lambda q: attention_lib.attention(q, k, v, segment_ids=given, causal=True, window=window)
    found, slope = jax.value_and_grad(lambda q: (run(q) ** 2).sum())(q)
    parts = run(q)
    monkeypatch.setattr(attention_lib, "_BLOCK", 1000)
    whole, whole_slope = jax.value_and_grad(lambda q: (run(q) ** 2).sum())(q)
    np.testing.assert_allclose(parts, run(q), rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(found, whole, rtol=1e-5)
    np.testing.assert_allclose(slope, whole_slope, rtol=1e-4, atol=1e-5)
    assert "concatenate" not in str(jax.make_jaxpr(run)(q))
    monkeypatch.setattr(attention_lib, "_BLOCK", 128)
    assert str(jax.make_jaxpr(lambda q: run(q))(q)).count("exp ") == 3
