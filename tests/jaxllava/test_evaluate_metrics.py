"""The metrics against values worked by hand, scipy, and the coverage that an interval promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from jaxllava.evaluate import metrics
from jaxllava.evaluate.metrics import Estimate


def test_accuracy_by_hand():
    got = metrics.accuracy([True, False, True, True])
    assert got.mean == 0.75
    assert got.n == 4
    assert 0 <= got.low <= 0.75 <= got.high <= 1


def test_accuracy_interval_is_the_binomial_one():
    # The bootstrap distribution of k/n is exactly Binomial(n, k/n)/n, so its quantiles are known.
    correct = np.arange(100) < 60
    got = metrics.accuracy(correct, resamples=20_000)
    low, high = stats.binom.ppf([0.025, 0.975], 100, 0.6) / 100
    assert got.low == pytest.approx(low, abs=0.011)
    assert got.high == pytest.approx(high, abs=0.011)


def test_r2_by_hand():
    # truths 1..4: mean 2.5, SStot 5; residuals 1, 0, 0, -1: SSres 2.
    assert metrics.r2([2, 2, 3, 3], [1, 2, 3, 4]).mean == pytest.approx(1 - 2 / 5)
    assert metrics.r2([2.5] * 4, [1, 2, 3, 4]).mean == pytest.approx(0)
    assert metrics.r2([4, 3, 2, 1], [1, 2, 3, 4]).mean == pytest.approx(1 - 20 / 5)


def test_spearman_by_hand_and_scipy():
    # one swapped neighbour of five: 1 - 6 * 2 / (5 * 24) = 0.9
    assert metrics.spearman([1, 2, 4, 3, 5], [10, 20, 30, 40, 50]).mean == pytest.approx(0.9)
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 5, size=(2, 60))  # many ties
    assert metrics.spearman(x, y).mean == pytest.approx(stats.spearmanr(x, y)[0])


def test_spearman_of_a_constant_prediction_is_zero():
    got = metrics.spearman([0.5] * 6, range(6))
    assert (got.mean, got.low, got.high) == (0, 0, 0)


def test_correlations_within_an_item():
    x, y = np.random.default_rng(0).normal(size=(2, 12))
    pearson, spearman = metrics.correlations(x, y)
    assert pearson == pytest.approx(stats.pearsonr(x, y)[0])
    assert spearman == pytest.approx(stats.spearmanr(x, y)[0])
    assert metrics.correlations([0.1] * 3, [1, 2, 3]) == (0, 0)
    assert np.isnan(metrics.correlations([1, 2, 3], [0.1] * 3)).all()


def test_the_mean_of_any_numbers():
    got = metrics.mean([-1.0, 2.0, 5.0])
    assert got.mean == 2
    assert -1 <= got.low <= 2 <= got.high <= 5
    paired = metrics.paired_difference("mean", [[1.0, 2.0, 4.0]], [[0.0, 1.0, 3.0]])
    assert (paired.mean, paired.low, paired.high) == pytest.approx((1, 1, 1))


def test_perplexity_pools_tokens():
    # 1 token at 1/2 and 3 tokens at 1/8 in all: exp((ln 2 + ln 8) / 4) = 2. The mean of per-item values is 2
    # here as well; the second case tells them apart: exp((ln 4 + 3 ln 2) / 4) = 2.38 against (4 + 2) / 2 = 3.
    assert metrics.perplexity([math.log(1 / 2), math.log(1 / 8)], [1, 3]).mean == pytest.approx(2)
    got = metrics.perplexity([math.log(1 / 4), 3 * math.log(1 / 2)], [1, 3]).mean
    assert got == pytest.approx(2 ** (5 / 4))


def test_seed_and_blocks(monkeypatch: pytest.MonkeyPatch):
    x, y = np.random.default_rng(1).normal(size=(2, 50))
    first = metrics.spearman(x, y, seed=3)
    assert first == metrics.spearman(x, y, seed=3)
    assert first != metrics.spearman(x, y, seed=4)
    monkeypatch.setattr(metrics, "_BLOCK_VALUES", 120)  # 2 resamples a block, and the same draws
    assert metrics.spearman(x, y, seed=3) == first


def test_interval_covers_at_its_rate():
    generator = np.random.default_rng(2)
    hits = 0
    for seed in range(200):
        got = metrics.accuracy(generator.random(80) < 0.4, seed=seed, resamples=400)
        hits += got.low <= 0.4 <= got.high
    assert 0.88 <= hits / 200 <= 0.99


def test_paired_difference_by_hand_and_tighter_than_unpaired():
    generator = np.random.default_rng(3)
    hard = generator.random(300) < 0.5
    first = ~hard
    second = first.copy()
    second[np.flatnonzero(first)[:20]] = False  # second is first with 20 more mistakes
    got = metrics.paired_difference("accuracy", (first,), (second,))
    assert got.mean == pytest.approx(20 / 300)
    assert got.low > 0
    one, two = metrics.accuracy(first), metrics.accuracy(second)
    assert one.low < two.high  # the arms' own intervals overlap: only the pairing shows the difference
    reverse = metrics.paired_difference("accuracy", (second,), (first,))
    assert (reverse.low, reverse.high) == (-got.high, -got.low)


def test_paired_difference_of_identical_arms_is_zero():
    x, y = np.random.default_rng(4).normal(size=(2, 30))
    for metric in ("spearman", "r2"):
        got = metrics.paired_difference(metric, (x, y), (x, y))
        assert (got.mean, got.low, got.high) == (0, 0, 0)


def test_paired_difference_refuses_other_truths():
    with pytest.raises(ValueError, match=r"item 'b' has different truths"):
        metrics.paired_difference("r2", ([1, 2], [1, 2]), ([1, 2], [1, 3]), ids=["a", "b"])
    with pytest.raises(ValueError, match="no metric 'rmse'"):
        metrics.paired_difference("rmse", ([1],), ([1],))


def test_over_seeds_by_hand():
    # 1, 2, 3: mean 2, sd 1, t(0.975, 2) = 4.3027; half = 4.3027 / sqrt(3) = 2.4841
    got = metrics.over_seeds([Estimate(v, v - 0.1, v + 0.1, 50) for v in (1.0, 2.0, 3.0)])
    assert got.mean == 2
    assert got.high == pytest.approx(2 + 2.4841, abs=1e-3)
    assert got.low == pytest.approx(2 - 2.4841, abs=1e-3)
    assert (got.n, got.unit) == (3, "seeds")
    only = Estimate(1.0, 0.9, 1.1, 50)
    assert metrics.over_seeds([only]) == only


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_names_the_item(bad: float):
    ids = ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"item 'b': correct is"):
        metrics.accuracy([1, bad, 0], ids=ids)
    with pytest.raises(ValueError, match=r"item 2: predicted is"):
        metrics.spearman([1, 2, bad], [1, 2, 3])
    with pytest.raises(ValueError, match=r"item 'a': true is"):
        metrics.r2([1, 2, 3], [bad, 2, 3], ids=ids)
    with pytest.raises(ValueError, match=r"item 'c': log_probability is"):
        metrics.perplexity([-1, -1, bad], [1, 1, 1], ids=ids)
    with pytest.raises(ValueError, match="seed 1"):
        metrics.over_seeds([Estimate(1, 0, 2, 3), Estimate(bad, 0, 2, 3)])


def test_refusals():
    with pytest.raises(ValueError, match="no items"):
        metrics.accuracy([])
    with pytest.raises(ValueError, match="not in"):
        metrics.accuracy([0, 2])
    with pytest.raises(ValueError, match="shape"):
        metrics.r2([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="undefined on these 3 items"):
        metrics.r2([1, 2, 3], [0.1, 0.1, 0.1])
    with pytest.raises(ValueError, match="undefined"):
        metrics.spearman([1.0], [1.0])
    with pytest.raises(ValueError, match="'b' has 0 tokens"):
        metrics.perplexity([-1, 0], [2, 0], ids=["a", "b"])
    with pytest.raises(ValueError, match="not losses"):
        metrics.perplexity([2.0], [3])
