"""LLaVA's own batches: grouped by modality and length, one sample a row."""

from __future__ import annotations

import numpy as np
import pytest

from input_pipeline.modality import group_by_length, group_by_modality_length, padded_plan


def shuffled(seed: int):
    return np.random.default_rng(seed).permutation


def as_it_is(count: int) -> np.ndarray:
    return np.arange(count)


def test_a_stretch_is_sorted_and_dealt_to_equal_parts():
    # Sorted: 9 8 7 3 2 1, for parts A and B of 3: the lesser sum gets the next.
    lengths = np.asarray([1, 9, 3, 8, 2, 7])
    order = group_by_length(lengths, batch=3, world=2, permutation=as_it_is)
    # 9 -> A; 8 -> B; 7 -> B (8 < 9); 3 -> A (9 < 15); 2 -> A (12 < 15), A is full; 1 -> B.
    assert lengths[order].tolist() == [9, 3, 2, 8, 7, 1]


def test_of_equal_sums_the_first_part_is_served_and_equal_lengths_keep_their_order():
    order = group_by_length(
        np.asarray([5, 5, 5, 5]), batch=2, world=2, permutation=lambda n: np.arange(n)[::-1]
    )
    assert order.tolist() == [3, 1, 2, 0]


def test_a_short_stretch_is_dealt_in_turn():
    lengths = np.asarray([5, 4, 3, 2, 1])
    order = group_by_length(lengths, batch=4, world=2, permutation=as_it_is)
    assert lengths[order].tolist() == [5, 3, 1, 4, 2]


def test_modalities_stay_apart_and_the_ends_are_joined_in_the_order_of_the_data():
    # Words; text only is negative. Two parts of one sample: a batch is two samples.
    lengths = np.asarray([10, -3, 30, 20, -1, 40, -2, 50, -4, 60, 70])
    asked = []

    def backwards(count):
        asked.append(count)
        return np.arange(count)[::-1]

    order = group_by_modality_length(lengths, batch=1, world=2, permutation=backwards)
    assert asked == [7, 4, 3 + 1], "images, texts, then the batches but the last of each"
    # Images from behind: (70 60) (50 40) (20 30) (10); texts: (4 2) (1 3). Ends (10) and (1 3) by number.
    # The batches backwards: (4 2), (30 20), (50 40), (70 60).
    assert lengths[order].tolist() == [-4, -2, 30, 20, 50, 40, 70, 60, 10, -3, -1]


def test_a_last_batch_goes_to_the_end_though_it_is_full():
    lengths = np.asarray([4, 3, 2, 1, -4, -3, -2, -1])
    order = group_by_modality_length(lengths, batch=2, world=1, permutation=as_it_is)
    assert order.tolist() == [0, 1, 4, 5, 2, 3, 6, 7]


@pytest.mark.parametrize("sign", [1, -1])
def test_one_modality_is_grouped_by_length_alone_and_by_signed_length(sign):
    lengths = sign * np.random.default_rng(0).integers(1, 50, 37)
    one = group_by_modality_length(lengths, batch=2, world=4, permutation=shuffled(1))
    two = group_by_length(lengths, batch=2, world=4, permutation=shuffled(1))
    np.testing.assert_array_equal(one, two)
    # Texts alone have negative lengths: the longest number is the shortest text, which comes first.
    assert lengths[one[0]] == lengths[one[:8]].max()


@pytest.mark.parametrize("seed", range(4))
def test_every_sample_comes_once_and_a_batch_is_of_one_kind(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 400, 997) * np.where(rng.random(997) < 0.8, 1, -1)
    order = group_by_modality_length(lengths, batch=4, world=8, permutation=rng.permutation)
    assert sorted(order.tolist()) == list(range(997))
    ends = sum((np.sum(lengths * sign > 0) - 1) % 32 + 1 for sign in (1, -1))
    whole = lengths[order][: 997 - ends].reshape(-1, 32)
    assert (np.sign(whole) == np.sign(whole[:, :1])).all()
    sums = np.abs(whole).reshape(-1, 8, 4).sum(axis=2)
    assert (np.ptp(sums, axis=1) < np.abs(whole).max(axis=1)).all(), "the parts of a batch are about equal"


def test_permutations_of_torch_may_be_used():
    torch = pytest.importorskip("torch")
    lengths = np.asarray([3, -2, 5, 7, -9, 4, -6, 8])
    torch.manual_seed(0)
    one = group_by_modality_length(lengths, batch=1, world=2, permutation=torch.randperm)
    assert sorted(one.tolist()) == list(range(8))


def test_a_sample_without_words_is_of_neither_kind():
    with pytest.raises(ValueError, match="sample 2 has length 0"):
        group_by_modality_length(np.asarray([1, -1, 0]), batch=1, world=1, permutation=as_it_is)


def plan(count=(20, 20), share=1.0, **options):
    rng = np.random.default_rng(0)
    total = sum(count)
    lengths, images = rng.integers(5, 60, total), rng.integers(0, 2, total)
    settings = dict(batch=8, row_tokens=64, pad_multiple=16, seed=0, grouped=True) | options
    return padded_plan(count, share, lengths, images, lengths, **settings), lengths, images  # pyright: ignore


@pytest.mark.parametrize("grouped", [True, False])
def test_epochs_are_apart_and_their_last_batches_are_filled_with_empty_rows(grouped):
    made, lengths, _ = plan(grouped=grouped)
    assert len(made) == 48
    rows = [made[row].tolist() for row in range(48)]
    for first, epoch in ((0, rows[:24]), (20, rows[24:])):
        assert sorted(sample for row in epoch for sample in row) == list(range(first, first + 20))
        assert [len(row) for row in epoch] == [1] * 20 + [0] * 4
    assert [row[0] for row in rows[:20]] != [row[0] - 20 for row in rows[24:44]], "an order of its own"
    for batch in range(6):
        held = [lengths[sample] for row in rows[batch * 8 : batch * 8 + 8] for sample in row]
        (length,) = set(made.row_lengths[batch * 8 : batch * 8 + 8].tolist())
        assert length % 16 == 0
        assert length - 16 < max(held) <= length
    assert made.fill == pytest.approx(lengths.sum() / made.row_lengths.sum())


def test_a_part_of_an_epoch_is_the_start_of_the_whole():
    whole, part = plan()[0], plan(share=0.5)[0]
    assert len(part) == 24 + 16
    np.testing.assert_array_equal(part.samples, whole.samples[:30])
    assert len(plan(share=0.59)[0].samples) == 20 + 12, "11.8 of 20"


def test_rows_are_not_longer_than_a_row_may_be():
    made, _, _ = plan(row_tokens=60, pad_multiple=50)
    assert set(made.row_lengths.tolist()) == {50, 60}, "60 in place of 100"
    with pytest.raises(ValueError, match=r"has 58 tokens, more than a row's 30"):
        plan(row_tokens=30)


def test_grouped_batches_have_one_modality_and_less_padding():
    made, _, images = plan(count=(400,))
    alone, _, _ = plan(count=(400,), grouped=False)
    kinds = [images[made.samples[start : start + 8]] for start in range(0, 400 - 16, 8)]
    assert all(len(set(kind.tolist())) == 1 for kind in kinds)
    assert {int(kind[0]) for kind in kinds} == {0, 1}
    assert sorted(made.samples.tolist()) == sorted(alone.samples.tolist())


def test_a_plan_is_of_its_seed():
    one, two, other = plan()[0], plan()[0], plan(seed=1)[0]
    np.testing.assert_array_equal(one.samples, two.samples)
    assert (one.samples != other.samples).any()
