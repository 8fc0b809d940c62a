"""Losses as sums."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxllava.losses import contrastive_sum, cross_entropy_sum


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(2, 24, 8)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(8, 11)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, 11, (2, 24)))
    weights = jnp.asarray(rng.integers(0, 2, (2, 24)), jnp.float32)
    return hidden, kernel, targets, weights


@pytest.mark.parametrize("chunks", [1, 5, 8, 24])
def test_chunked_equals_dense_in_value_and_gradient(inputs, chunks):
    hidden, kernel, targets, weights = inputs

    def chunked(hidden, kernel):
        total, _, weight = cross_entropy_sum(hidden, kernel, targets, weights, chunks)
        return 3 * total / weight

    def dense(hidden, kernel):
        losses = optax.softmax_cross_entropy_with_integer_labels(hidden @ kernel, targets)
        return 3 * (losses * weights).sum() / weights.sum()

    for one, other in zip(
        jax.tree.leaves(jax.value_and_grad(chunked, (0, 1))(hidden, kernel)),
        jax.tree.leaves(jax.value_and_grad(dense, (0, 1))(hidden, kernel)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("chunks", [1, 8])
def test_each_source_has_the_sums_of_its_tokens(inputs, chunks):
    hidden, kernel, targets, weights = inputs
    sources = np.random.default_rng(1).integers(0, 3, (2, 24))
    whole, total, weight = cross_entropy_sum(
        hidden, kernel, targets, weights, chunks, jax.nn.one_hot(sources, 3)
    )
    np.testing.assert_allclose(whole, total.sum(), rtol=1e-6)
    losses = optax.softmax_cross_entropy_with_integer_labels(hidden @ kernel, targets)
    for source in range(3):
        own = weights * (sources == source)
        np.testing.assert_allclose(total[source], (losses * own).sum(), rtol=1e-6)
        assert weight[source] == own.sum() > 0


def test_contrastive_loss_of_perfect_and_of_equal_features():
    perfect = jnp.eye(4)
    total, count = contrastive_sum(perfect, perfect, jnp.float32(100.0))
    assert count == 4
    np.testing.assert_allclose(total, 0.0, atol=1e-5)
    same = jnp.ones((4, 4)) / 2
    total, _ = contrastive_sum(same, same, jnp.float32(1.0))
    np.testing.assert_allclose(total / 4, np.log(4), rtol=1e-6)
