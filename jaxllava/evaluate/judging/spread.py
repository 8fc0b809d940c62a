"""Figures over questions that were judged several times, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxllava.evaluate import metrics
from jaxllava.evaluate.metrics import Array, Estimate, Statistic

_BLOCK_VALUES = 2_000_000  # as in metrics, so that one judging a question gives its intervals


def mean(values: Array) -> Array:
    """The mean of the values [..., n] that are numbers."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nansum(values, axis=-1) / np.isfinite(values).sum(axis=-1)


def ratio(reference: Array, model: Array) -> Array:
    """100 x the model's mean / the reference's mean, over [..., n]."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return 100 * mean(model) / mean(reference)


def estimate(
    statistic: Statistic,
    columns: Sequence[Array],
    *,
    name: str,
    seed: int = 0,
    unit: str = "questions",
    resamples: int = metrics.RESAMPLES,
) -> Estimate:
    """Returns a statistic over all judgings, and its bootstrap interval over questions and over their judgings.

    A resample draws questions, and for each of them as many of its judgings as it has: which question was asked and
    what the judge happened to say both count. That is somewhat wider than questions alone.

    Args:
        statistic: takes the columns, each [..., questions x judgings], and returns [...]; NaN in a column is a
            judging that gave no number.
        columns: each [questions, judgings], all of one shape. Questions without any number are left out.
        name: of the figure, for error messages.
        seed: of the resampling.
        unit: what a row is.
        resamples: how many.

    Raises: ValueError where the statistic is undefined.
    """
    stacked = np.asarray(columns, dtype=np.float64)  # [columns, questions, judgings]
    stacked = stacked[:, np.isfinite(stacked).any(axis=(0, 2))]
    _, questions, judgings = stacked.shape
    if not questions:
        raise ValueError(f"{name}: no judgement could be read")
    value = float(statistic(*stacked.reshape(len(stacked), -1)))
    if not np.isfinite(value):
        raise ValueError(f"{name} is undefined on these {questions} {unit}")
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_VALUES // (questions * judgings))
    values = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = generator.integers(0, questions, size=(size, questions))  # [block, questions]
        if judgings > 1:
            within = generator.integers(0, judgings, size=(size, questions, judgings))
            taken = stacked[:, drawn[..., None], within]  # [columns, block, questions, judgings]
        else:
            taken = stacked[:, drawn]
        values.append(statistic(*taken.reshape(len(stacked), size, -1)))
    return metrics.interval(value, np.concatenate(values), questions, unit)
