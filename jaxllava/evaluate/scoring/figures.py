"""Figures that many benchmarks share: means in percent, over units that are resampled together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from jaxllava.evaluate import metrics
from jaxllava.evaluate.metrics import Array, Estimate
from jaxllava.evaluate.scoring.answered import groups


def _mean(values: Array) -> Array:
    return values.mean(axis=-1)


def _ratio(sums: Array, counts: Array) -> Array:
    return sums.sum(axis=-1) / counts.sum(axis=-1)


def mean(
    name: str,
    values: ArrayLike,
    *,
    scale: float = 1.0,
    units: Sequence[Hashable] | None = None,
    unit: str = "items",
) -> Estimate:
    """Returns `scale` x the mean of the values, [n].

    Args:
        name: of the figure, for error messages.
        values: [n] one per item.
        scale: 100 for percent.
        units: [n] names what an item belongs to (its picture): the interval then resamples whole units, and
            the value stays the mean over items.
        unit: what a unit is.
    """
    array = np.asarray(values, dtype=np.float64) * scale
    if units is None:
        return metrics.estimate(_mean, {"value": array}, name=name, unit=unit)
    sums, counts = summed(units, array, np.ones_like(array))
    return metrics.estimate(_ratio, {"sum": sums, "count": counts}, name=name, unit=unit)


def percent(
    name: str, values: ArrayLike, units: Sequence[Hashable] | None = None, unit: str = "items"
) -> Estimate:
    """Returns the mean of shares in [0, 1], in percent; see `mean`."""
    return mean(name, values, scale=100, units=units, unit=unit)


def per_category(
    name: str, values: ArrayLike, categories: Iterable[str | None], *, scale: float = 100.0
) -> dict[str, Estimate]:
    """Returns {"name/category": mean} for every category, sorted; items whose category is None have no part."""
    array = np.asarray(values, dtype=np.float64)
    found = {str(key): index for key, index in groups(categories).items() if key is not None}
    return {f"{name}/{key}": mean(f"{name}/{key}", array[found[key]], scale=scale) for key in sorted(found)}


def summed(units: Sequence[Hashable], *columns: Array) -> list[Array]:
    """Returns each column, [n], summed within its units: [units], in the order of first occurrence."""
    position = {key: index for index, key in enumerate(groups(units))}
    index = np.array([position[key] for key in units])
    counted = (np.bincount(index, weights=column, minlength=len(position)) for column in columns)
    return [np.asarray(column, dtype=np.float64) for column in counted]


def total(
    name: str, parts: Mapping[str, tuple[metrics.Statistic, Mapping[str, ArrayLike]]], unit: str
) -> Estimate:
    """Returns the sum of the parts' statistics; each part's rows are resampled within the part.

    So every resample has the benchmark's own number of rows in every part, as the official sum has.

    Args:
        name: of the figure.
        parts: name -> (statistic, its columns); see `metrics.estimate`.
        unit: what a row is.
    """
    value, values, n = 0.0, 0.0, 0
    for seed, (statistic, columns) in enumerate(parts.values()):
        arrays = [np.asarray(column, dtype=np.float64) for column in columns.values()]
        value += float(statistic(*arrays))
        values = values + metrics.draws(statistic, columns, name=name, seed=seed)
        n += len(arrays[0])
    return metrics.interval(value, np.asarray(values), n, unit)
