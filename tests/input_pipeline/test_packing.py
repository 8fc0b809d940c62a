"""The pack plan and mixtures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline import packing

WAYS = [packing._best_fit, packing._draw_and_close]


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 64), max_size=80),
    kinds=st.integers(1, 4),
    row_images=st.integers(3, 5),
    seed=st.integers(0, 5),
)
@pytest.mark.parametrize("way", WAYS)
def test_every_sample_stands_in_one_row_that_holds_it(way, lengths, kinds, row_images, seed):
    lengths = np.asarray(lengths, np.int64)
    images = lengths % kinds
    order = np.random.default_rng(seed).permutation(len(lengths))
    rows = way(order, lengths, images, 64, row_images)
    assert sorted(sample for row in rows for sample in row) == list(range(len(lengths)))
    for row in rows:
        assert row
        assert lengths[row].sum() <= 64
        assert images[row].sum() <= row_images
    if len(lengths):
        plan = packing.plan(lengths, images, 64, row_images, seed=seed)
        assert [plan[row].tolist() for row in range(len(plan))] in [
            each(order, lengths, images, 64, row_images) for each in WAYS
        ]
        assert plan.fill == pytest.approx(lengths.sum() / len(plan) / 64)


@pytest.mark.parametrize("way", WAYS)
def test_a_row_is_closed_by_what_fits_it_exactly(way):
    lengths = np.asarray([50, 30, 20, 14, 14, 50])  # 64 = 50 + 14 = 30 + 20 + 14
    rows = way(np.arange(6), lengths, np.zeros(6, int), 64, 0)
    assert len(rows) == 4 or sorted(lengths[row].sum() for row in rows) == [50, 64, 64]


def test_images_bound_a_row_as_tokens_do():
    lengths, images = np.full(12, 4), np.asarray([2, 1, 0] * 4)
    plan = packing.plan(lengths, images, 64, 3, seed=0)
    assert len(plan) == 4, "three images a row, though sixteen samples' tokens fit"
    assert all(images[plan[row]].sum() == 3 for row in range(4))


def test_same_seed_same_plan_other_seed_other_plan():
    lengths = np.random.default_rng(0).integers(5, 60, 200)
    images = np.ones(200, int)
    one, two, other = (packing.plan(lengths, images, 128, 8, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.samples, two.samples)
    assert (one.samples != other.samples).any()


def test_rows_are_nearly_full_on_mixed_lengths():
    lengths = np.random.default_rng(0).integers(10, 200, 5000)
    plan = packing.plan(lengths, np.zeros(5000, int), 512, 1, seed=0)
    assert plan.fill > 0.999


def test_a_plan_is_filled_up_with_empty_rows():
    plan = packing.plan(np.full(10, 60), np.zeros(10, int), 64, 0, seed=0)
    full = packing.fill_up(plan, 8)
    assert (len(plan), len(full)) == (10, 16)
    assert [len(full[row]) for row in range(16)] == [1] * 10 + [0] * 6
    assert full.row_lengths.tolist() == [64] * 16
    assert full.row_lengths.dtype == np.int32
    assert full.fill == pytest.approx(600 / 1024)
    assert len(packing.fill_up(full, 8)) == 16


def test_a_step_of_about_so_many_samples_is_a_multiple_of_8_rows():
    assert packing.rows_per_step(128, samples=665_000, rows=266_000) == 48  # 51.2
    assert packing.rows_per_step(128, samples=1000, rows=1000) == 128
    assert packing.rows_per_step(1, samples=1000, rows=10) == 8


def test_a_sample_larger_than_a_row_is_named():
    with pytest.raises(ValueError, match=r"sample 1 \(65 tokens"):
        packing.plan(np.asarray([3, 65]), np.asarray([0, 0]), 64, 1, seed=0)


def test_mixture_holds_all_of_the_first_and_the_others_by_weight():
    pairs = packing.mixture([10, 4, 100], [1.0, 1.0, 0.5], seed=0)
    assert pairs.dtype == np.int32
    assert np.bincount(pairs[:, 0]).tolist() == [10, 10, 5]
    assert pairs[pairs[:, 0] == 0, 1].tolist() == list(range(10))
    second = np.bincount(pairs[pairs[:, 0] == 1, 1], minlength=4)
    assert set(second.tolist()) <= {2, 3}, "a small table is gone through evenly"


def test_a_mixture_of_epochs_leaves_nothing_out_twice():
    # The paper: behaviour and instruction data 1:1, 2.2 epochs.
    pairs = packing.mixture([50, 30, 400], [1.0, 1.0, 1.0], seed=3, epochs=2.2)
    again = packing.mixture([50, 30, 400], [1.0, 1.0, 1.0], seed=3, epochs=2.2)
    np.testing.assert_array_equal(pairs, again)
    for table, size in enumerate([50, 30, 400]):
        counts = np.bincount(pairs[pairs[:, 0] == table, 1], minlength=size)
        assert counts.sum() == 110
        assert counts.max() - counts.min() <= 1
    part = packing.mixture([50], [1.0], seed=3, epochs=0.2)[:, 1].tolist()
    assert part != list(range(10))
    assert len(set(part)) == 10


@pytest.mark.parametrize("epochs", [0.5, 1.0, 2.2, 3.0])
def test_epochs_one_by_one_are_whole_and_together_the_mixture(epochs):
    mix = ([50, 30, 400], [1.0, 1.0, 0.37], 3)
    parts = packing.mixture_by_epoch(*mix, epochs)
    assert len(parts) == np.ceil(epochs)
    together = np.concatenate(parts)
    whole = packing.mixture(*mix, float(len(parts)))
    for table in range(3):
        np.testing.assert_array_equal(together[together[:, 0] == table], whole[whole[:, 0] == table])
    for part in parts:
        assert np.bincount(part[part[:, 0] == 0, 1]).tolist() == [1] * 50
        assert abs((part[:, 0] == 2).sum() - 18.5) <= 1


def test_the_rows_of_a_step_are_the_nearest_eights():
    """150 rows of 1,000 samples: 100 samples are 15 rows."""
    found = [packing.rows_per_step(samples, 1000, 150) for samples in (100, 75, 1, 200)]
    assert found == [16, 8, 8, 32]
