"""The figures of the evaluation, each with an interval. Pure numpy; nothing here knows about models or files.

Every metric takes one value per *item* (post, question, image) and returns an `Estimate`: the value on all
items, and the percentile bootstrap interval over items (Efron and Tibshirani 1993, section 13.3). The metrics
are those of Behavior-LLaVA: accuracy, Spearman's rho (memorability), R2 (like rates), perplexity (comments); and
the mean of what an item has by itself, such as the correlation within its replay graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]
Statistic = Callable[..., Array]

RESAMPLES = 2000
LEVEL = 0.95
# Values of a [resamples, items] block held at once: about 16 MB per column for any number of items.
_BLOCK_VALUES = 2_000_000


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval.

    `mean` is the value on all items, or the mean over seeds. `n` counts the `unit` that the interval is over.
    """

    mean: float
    low: float
    high: float
    n: int
    unit: str = "items"

    def to_dict(self) -> dict[str, float | int | str]:
        return dataclasses.asdict(self)


# --- statistics: columns [..., n] -> values [...]; NaN where a resample does not define the value ---


def _mean(values: Array) -> Array:
    return values.mean(axis=-1)


def _spearman(predicted: Array, true: Array) -> Array:
    # Average ranks for ties, then Pearson's correlation of the ranks.
    return _pearson(stats.rankdata(predicted, axis=-1), stats.rankdata(true, axis=-1))


def _pearson(predicted: Array, true: Array) -> Array:
    x = predicted - predicted.mean(axis=-1, keepdims=True)
    y = true - true.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (x * y).sum(axis=-1) / np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    # A constant prediction says nothing: a model's (bad) answer, scored 0. A constant truth is no test. Both
    # are found by range: the mean of n equal floats may be off a bit.
    r = np.where(np.ptp(predicted, axis=-1) == 0, 0.0, r)
    return np.where(np.ptp(true, axis=-1) == 0, np.nan, r)


def _r2(predicted: Array, true: Array) -> Array:
    residual = ((true - predicted) ** 2).sum(axis=-1)
    # Constant rows are found by range, not by sum of squares: the mean of n equal floats may be off a bit.
    constant = np.ptp(true, axis=-1) == 0
    total = ((true - true.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    return np.where(constant, np.nan, 1.0 - residual / np.where(constant, 1.0, total))


def _perplexity(log_probability: Array, tokens: Array) -> Array:
    return np.exp(-log_probability.sum(axis=-1) / tokens.sum(axis=-1))


# --- public metrics ---


def accuracy(
    correct: ArrayLike, *, ids: Sequence[str] | None = None, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Returns the share of right answers in [0, 1]. `correct` [n] holds booleans, 0/1, or shares."""
    columns = _columns("accuracy", {"correct": correct}, ids)
    outside = np.flatnonzero((columns[0] < 0) | (columns[0] > 1))
    if outside.size:
        raise ValueError(f"accuracy: {_item(outside[0], ids)}: {columns[0][outside[0]]} is not in [0, 1]")
    return _estimate(_mean, columns, seed, resamples, "accuracy")


def spearman(
    predicted: ArrayLike,
    true: ArrayLike,
    *,
    ids: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Returns Spearman's rank correlation in [-1, 1], ties at their average rank.

    A constant prediction scores 0. A constant truth, or fewer than two items, is a ValueError.
    """
    columns = _columns("spearman", {"predicted": predicted, "true": true}, ids)
    return _estimate(_spearman, columns, seed, resamples, "spearman")


def mean(
    values: ArrayLike, *, ids: Sequence[str] | None = None, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Returns the mean of `values` [n], of figures that an item has by itself (`correlations`, an overlap)."""
    return _estimate(_mean, _columns("mean", {"values": values}, ids), seed, resamples, "mean")


def correlations(predicted: ArrayLike, true: ArrayLike) -> tuple[float, float]:
    """Returns Pearson's and Spearman's correlation within one item, both [n]: of a graph and its prediction.

    A constant prediction scores 0; for a constant truth both are NaN. No interval: `mean` makes one over items.
    """
    columns = _columns("correlations", {"predicted": predicted, "true": true}, None)
    return float(_pearson(*columns)), float(_spearman(*columns))


def r2(
    predicted: ArrayLike,
    true: ArrayLike,
    *,
    ids: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Returns 1 - SSres/SStot, at most 1; negative where the mean of the truths would have done better.

    A constant truth, or fewer than two items, is a ValueError.
    """
    columns = _columns("r2", {"predicted": predicted, "true": true}, ids)
    return _estimate(_r2, columns, seed, resamples, "r2")


def perplexity(
    log_probability: ArrayLike,
    tokens: ArrayLike,
    *,
    ids: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Returns exp(-sum of log-probabilities / sum of tokens) over all items: never a mean over items.

    Args:
        log_probability: [n] natural-log probability of each item, summed over its tokens; at most 0.
        tokens: [n] how many tokens each sum covers; at least 1.
        ids: names of the items for error messages.
        seed: of the resampling.
        resamples: how many.
    """
    columns = _columns("perplexity", {"log_probability": log_probability, "tokens": tokens}, ids)
    _check_perplexity(columns, ids)
    return _estimate(_perplexity, columns, seed, resamples, "perplexity")


def _check_perplexity(columns: tuple[Array, ...], ids: Sequence[str] | None) -> None:
    log_probability, tokens = columns
    empty = np.flatnonzero(tokens < 1)
    if empty.size:
        raise ValueError(
            f"perplexity: {_item(empty[0], ids)} has {tokens[empty[0]]:g} tokens; leave such items out"
        )
    # Float error in a near-certain token may lift its log-probability a hair above 0; more is a mistake.
    above = np.flatnonzero(log_probability > 1e-3 * tokens)
    if above.size:
        raise ValueError(
            f"perplexity: {_item(above[0], ids)} has log-probability {log_probability[above[0]]:g} > 0;"
            " pass sums of log-probabilities, not losses"
        )


_STATISTICS: dict[str, Statistic] = {
    "accuracy": _mean,
    "mean": _mean,
    "spearman": _spearman,
    "r2": _r2,
    "perplexity": _perplexity,
}


def statistic(metric: str) -> Statistic:
    """The metric's plain value as a function of its columns [..., n] -> [...]; NaN where they do not define it."""
    if metric not in _STATISTICS:
        raise ValueError(f"no metric {metric!r}; one of {', '.join(_STATISTICS)}")
    return _STATISTICS[metric]


def paired_difference(
    metric: str,
    first: Sequence[ArrayLike],
    second: Sequence[ArrayLike],
    *,
    ids: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Returns metric(first) - metric(second), its interval by resampling the *same* items in both arms.

    The pairing removes what both arms share (some items are hard for everyone), so this interval is the one
    to decide by: overlap of the two arms' own intervals does not show that they are equal.

    Args:
        metric: "accuracy", "mean", "spearman", "r2" or "perplexity".
        first: the columns that the metric takes, each [n]: (correct,), (values,), (predicted, true) or
            (log_probability, tokens).
        second: the same for the other arm, same items in the same order.
        ids: names of the items for error messages.
        seed: of the resampling.
        resamples: how many.
    """
    value = statistic(metric)
    width = len(first)
    named = {f"first[{i}]": column for i, column in enumerate(first)}
    named |= {f"second[{i}]": column for i, column in enumerate(second)}
    columns = _columns(f"paired difference of {metric}", named, ids)
    if metric == "perplexity":
        _check_perplexity(columns[:width], ids)
        _check_perplexity(columns[width:], ids)
    if metric in ("spearman", "r2") and not np.array_equal(columns[1], columns[width + 1]):
        at = int(np.flatnonzero(columns[1] != columns[width + 1])[0])
        raise ValueError(
            f"paired difference of {metric}: {_item(at, ids)} has different truths in the two arms"
        )

    def difference(*both: Array) -> Array:
        return value(*both[:width]) - value(*both[width:])

    return _estimate(difference, columns, seed, resamples, f"paired difference of {metric}")


def over_seeds(estimates: Sequence[Estimate]) -> Estimate:
    """Returns the mean over training seeds and its Student t interval (n - 1 degrees of freedom).

    The items' own intervals are not used: the spread between seeds is the question. With a single seed there
    is no spread to measure, and its interval over items is returned as it is (`unit` stays "items").
    """
    if not estimates:
        raise ValueError("over_seeds: no estimates")
    for index, estimate in enumerate(estimates):
        if not np.isfinite(estimate.mean):
            raise ValueError(f"over_seeds: seed {index} has the value {estimate.mean}")
    if len(estimates) == 1:
        return estimates[0]
    values = np.array([estimate.mean for estimate in estimates], dtype=np.float64)
    mean = float(values.mean())
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(mean, mean - half, mean + half, len(values), unit="seeds")


# --- the bootstrap ---


def estimate(
    statistic: Statistic,
    columns: Mapping[str, ArrayLike],
    *,
    name: str,
    ids: Sequence[str] | None = None,
    unit: str = "items",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Returns any statistic's value on all rows of the columns, and its bootstrap interval over the rows.

    Args:
        statistic: takes the columns in their order, each [..., n], and returns [...]; NaN where undefined.
        columns: name -> [n] finite numbers; one row is what counts together (an item, a picture, a pair).
        name: of the figure, for error messages.
        ids: names of the rows for error messages.
        unit: what a row is; it becomes the Estimate's `unit`.
        seed: of the resampling.
        resamples: how many.
    """
    return _estimate(statistic, _columns(name, columns, ids), seed, resamples, name, unit)


def draws(
    statistic: Statistic,
    columns: Mapping[str, ArrayLike],
    *,
    name: str,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Array:
    """Returns the statistic on resampled rows, [resamples]: for figures that add independent parts."""
    return _draws(statistic, _columns(name, columns, None), seed, resamples)


def interval(value: float, values: Array, n: int, unit: str = "items") -> Estimate:
    """Returns the value with the percentile interval of its resampled `values` [resamples]."""
    # A resample can draw equal truths only and then defines no value: it says nothing about the interval.
    values = values[np.isfinite(values)]
    if not values.size:
        return Estimate(value, value, value, n, unit)
    tail = (1 - LEVEL) / 2 * 100
    low, high = np.percentile(values, [tail, 100 - tail])
    return Estimate(value, float(low), float(high), n, unit)


def _estimate(
    statistic: Statistic,
    columns: tuple[Array, ...],
    seed: int,
    resamples: int,
    name: str,
    unit: str = "items",
) -> Estimate:
    n = len(columns[0])
    value = float(statistic(*columns))
    if not np.isfinite(value):
        raise ValueError(
            f"{name} is undefined on these {n} {unit}: it needs two or more that differ in truth"
        )
    return interval(value, _draws(statistic, columns, seed, resamples), n, unit)


def _draws(statistic: Statistic, columns: tuple[Array, ...], seed: int, resamples: int) -> Array:
    return np.concatenate([statistic(*block) for block in _resample(columns, seed, resamples)])


def _resample(columns: tuple[Array, ...], seed: int, resamples: int) -> Iterator[tuple[Array, ...]]:
    """Yields the columns' values at resampled items, [block, n]; the block size changes no draw."""
    n = len(columns[0])
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_VALUES // n)
    for start in range(0, resamples, block):
        index = generator.integers(0, n, size=(min(block, resamples - start), n))  # [block, n]
        yield tuple(column[index] for column in columns)


def _columns(name: str, columns: Mapping[str, ArrayLike], ids: Sequence[str] | None) -> tuple[Array, ...]:
    """Checks that the columns are finite vectors of one length; errors name the column and the item."""
    arrays = {key: np.asarray(column, dtype=np.float64) for key, column in columns.items()}
    n = len(ids) if ids is not None else next(iter(arrays.values())).size
    if n == 0:
        raise ValueError(f"{name}: no items")
    for key, array in arrays.items():
        if array.shape != (n,):
            raise ValueError(f"{name}: {key} has shape {array.shape}, expected ({n},)")
        bad = np.flatnonzero(~np.isfinite(array))
        if bad.size:
            raise ValueError(f"{name}: {_item(bad[0], ids)}: {key} is {array[bad[0]]}")
    return tuple(arrays.values())


def _item(index: int | np.integer, ids: Sequence[str] | None) -> str:
    return f"item {ids[int(index)]!r}" if ids is not None else f"item {int(index)}"
