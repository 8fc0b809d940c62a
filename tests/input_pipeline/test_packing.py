"""The pack plan and mixtures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline import packing


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 64), min_size=1, max_size=80),
    seed=st.integers(0, 5),
    window=st.integers(1, 100),
)
def test_every_sample_stands_in_one_row_that_holds_it(lengths, seed, window):
    lengths = np.asarray(lengths)
    images = lengths % 3
    plan = packing.plan(lengths, images, 64, 4, seed=seed, window=window)
    assert sorted(plan.samples.tolist()) == list(range(len(lengths)))
    for row in range(len(plan)):
        assert len(plan[row])
        assert lengths[plan[row]].sum() <= 64
        assert images[plan[row]].sum() <= 4


def test_same_seed_same_plan_other_seed_other_plan():
    lengths = np.random.default_rng(0).integers(5, 60, 200)
    images = np.ones(200, int)
    one, two, other = (packing.plan(lengths, images, 128, 8, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.samples, two.samples)
    assert (one.samples != other.samples).any()


def test_rows_are_nearly_full_on_mixed_lengths():
    lengths = np.random.default_rng(0).integers(10, 200, 5000)
    plan = packing.plan(lengths, np.zeros(5000, int), 512, 1, seed=0)
    assert plan.fill > 0.98


def test_a_sample_larger_than_a_row_is_named():
    with pytest.raises(ValueError, match=r"sample 1 \(65 tokens"):
        packing.plan(np.asarray([3, 65]), np.asarray([0, 0]), 64, 1, seed=0)


def test_mixture_holds_all_of_the_first_and_the_others_by_weight():
    pairs = packing.mixture([10, 4, 100], [1.0, 1.0, 0.5], seed=0)
    tables = [table for table, _ in pairs]
    assert [tables.count(t) for t in range(3)] == [10, 10, 5]
    assert [sample for table, sample in pairs if table == 0] == list(range(10))
    second = [sample for table, sample in pairs if table == 1]
    assert {second.count(s) for s in range(4)} <= {2, 3}, "a small table is gone through evenly"


def test_a_mixture_of_epochs_leaves_nothing_out_twice():
    # The paper: behaviour and instruction data 1:1, 2.2 epochs.
    pairs = packing.mixture([50, 30, 400], [1.0, 1.0, 1.0], seed=3, epochs=2.2)
    assert pairs == packing.mixture([50, 30, 400], [1.0, 1.0, 1.0], seed=3, epochs=2.2)
    for table, size in enumerate([50, 30, 400]):
        counts = np.bincount([sample for which, sample in pairs if which == table], minlength=size)
        assert counts.sum() == 110
        assert counts.max() - counts.min() <= 1
    assert packing.mixture([50], [1.0], seed=3, epochs=0.2) != [(0, n) for n in range(10)]
    assert len({sample for _, sample in packing.mixture([50], [1.0], seed=3, epochs=0.2)}) == 10
