"""How well replay values are predicted for each scene of a film: ranks within films, values over all, the top scene.

What plaza's films and any video with a heatmap are measured by. A film is one item of every interval, as the scenes of
one film are not independent: their values are relative to the film's own maximum.

`behavior` scores a scene behind the true values of those before it, which tell whether the maximum has been.
`replay_asking` puts a model's own values there, so that nothing is told that a video alone would not tell.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxllava.evaluate import metrics
from jaxllava.evaluate.behavior_posts import Problems

Film = tuple[
    Sequence[float] | None, Sequence[float]
]  # (predicted values, None of an unread answer; true values)

UNREAD = "got an answer that tells no value for some scene"
NOT_FINITE = "got a value that is not finite"
FLAT = "has the same value in all scenes"
SHORT = "has fewer than 3 scenes"  # two points are always on a line
CONSTANT = "was given the same value in all scenes"

_HEADING = re.compile(r"The\s+replay\s+values\s+for\s+each\s+scene\s+would\s+be\s*:")
_LINE = re.compile(r"\s*Scene\s+(\d+)\s*:\s*([01](?:\.\d+)?)(?=\s|$)", re.ASCII)


# --- reading -----------------------------------------------------------------------------------------------


def parse_replay(answer: str, scenes: int) -> list[float] | None:
    """Reads the values of scenes 1 to `scenes`, in [0, 1]; None unless each of them stands in its place.

    The values stand behind the templates' "The replay values for each scene would be:", or begin the answer where that
    is not in it (it was in the prompt). Space is of no matter; a number is 0, 1 or a decimal fraction with a point.
    What follows the last scene that was asked for is not read.
    """
    headings = list(_HEADING.finditer(answer))
    at = headings[-1].end() if headings else 0
    values = []
    for number in range(1, scenes + 1):
        found = _LINE.match(answer, at)
        if found is None or found[1] != str(number) or float(found[2]) > 1:
            return None
        values.append(float(found[2]))
        at = found.end()
    return values


# --- figures -----------------------------------------------------------------------------------------------


@dataclass
class Figures:
    """What predictions are worth.

    Fields:
        values: estimates by name. "spearman" is the mean over films of the correlation within a film, "pearson" and
            "r2" are over all scenes of all films together (r2 against the mean of the true values), "top_scene" is the
            share of films whose most replayed scene was found. A figure that no film defines is missing.
        chance: of "top_scene": the mean over films of 1/scenes.
        problems: what was left out of a figure, or is to be said of it, and of which films. `UNREAD` and `NOT_FINITE`
            are in no figure; `FLAT` ones neither in "spearman" nor in "top_scene"; `SHORT` ones not in "spearman";
            `CONSTANT` predictions are in all, with a correlation of 0.
    """

    values: dict[str, metrics.Estimate] = field(default_factory=dict)
    chance: float = float("nan")
    problems: Problems = field(default_factory=lambda: defaultdict(list))


@dataclass(frozen=True)
class _Columns:
    """By film: its sums (n, p, t, pp, tt, pt), and what "spearman" and "top_scene" are the means of."""

    sums: dict[str, tuple[float, ...]]
    spearman: dict[str, float]
    top: dict[str, float]
    chances: list[float]
    problems: Problems


def figures(
    films: Sequence[Film],
    ids: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = metrics.RESAMPLES,
) -> Figures:
    """Compares predicted with true replay values, with 95 % bootstrap intervals over films.

    Args:
        films: (predicted, true), each [scenes] in the order of the scenes; predicted None where there is no answer
            that can be read.
        ids: names of the films; their places by default.
        seed: of the resampling.
        resamples: how many.

    Raises: ValueError for a film with another number of predicted than of true values, or a true value that is not
        in [0, 1].
    """
    columns = _columns(films, ids)
    options: dict[str, Any] = {"seed": seed, "resamples": resamples, "unit": "films"}
    out = Figures(problems=columns.problems)
    for name, found in (("spearman", columns.spearman), ("top_scene", columns.top)):
        if found:
            values = {"values": list(found.values())}
            out.values[name] = metrics.estimate(_mean, values, name=f"replay {name}", **options)
    if columns.chances:
        out.chance = float(np.mean(columns.chances))
    for name, statistic in _POOLED.items():
        sums = _stacked(columns.sums, columns.sums)
        if sums and np.isfinite(statistic(*sums.values())):
            out.values[name] = metrics.estimate(statistic, sums, name=f"replay {name}", **options)
    return out


def differences(
    first: Sequence[Film],
    second: Sequence[Film],
    ids: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = metrics.RESAMPLES,
) -> dict[str, metrics.Estimate]:
    """first - second by name of the figure, on the films that both have in it, resampled together.

    Raises: ValueError as `figures`, and where the true values differ.
    """
    if [list(true) for _, true in first] != [list(true) for _, true in second]:
        raise ValueError("replay: the true values differ between the two")
    one, other = _columns(first, ids), _columns(second, ids)
    options: dict[str, Any] = {"seed": seed, "resamples": resamples, "unit": "films"}
    out = {}
    for name, a, b in (("spearman", one.spearman, other.spearman), ("top_scene", one.top, other.top)):
        if both := [key for key in a if key in b]:
            values = {"values": [a[key] - b[key] for key in both]}
            out[name] = metrics.estimate(_mean, values, name=f"replay {name}", **options)
    both = [key for key in one.sums if key in other.sums]
    a, b = _stacked(one.sums, both), _stacked(other.sums, both)
    columns = {**{f"first {key}": a[key] for key in a}, **{f"second {key}": b[key] for key in b}}
    for name, statistic in _POOLED.items():

        def gap(*sums: metrics.Array, statistic: metrics.Statistic = statistic) -> metrics.Array:
            return statistic(*sums[: len(_SUMS)]) - statistic(*sums[len(_SUMS) :])

        if both and np.isfinite(gap(*map(np.asarray, columns.values()))):
            out[name] = metrics.estimate(gap, columns, name=f"replay {name}", **options)
    return out


_SUMS = ("n", "p", "t", "pp", "tt", "pt")
_ROUNDING = 1e-12  # of a mean of squares of values up to 1: less is no spread


def _columns(films: Sequence[Film], ids: Sequence[str] | None) -> _Columns:
    names = [str(place) for place in range(len(films))] if ids is None else list(ids)
    out = _Columns({}, {}, {}, [], defaultdict(list))
    for name, (predicted, true) in zip(names, films, strict=True):
        t = np.asarray(true, np.float64)  # [scenes]
        if not t.size or not ((t >= 0) & (t <= 1)).all():
            raise ValueError(f"replay: film {name} has true values {list(true)}; they are to lie in [0, 1]")
        if predicted is None:
            out.problems[UNREAD].append(name)
            continue
        p = np.asarray(predicted, np.float64)
        if p.shape != t.shape:
            raise ValueError(f"replay: film {name} has {p.size} predicted and {t.size} true values")
        if not np.isfinite(p).all():
            out.problems[NOT_FINITE].append(name)
            continue
        out.sums[name] = (len(t), p.sum(), t.sum(), (p * p).sum(), (t * t).sum(), (p * t).sum())
        if np.ptp(t) == 0:
            out.problems[FLAT].append(name)
            continue
        if np.ptp(p) == 0:
            out.problems[CONSTANT].append(name)
        correlation, out.top[name] = within(p, t)
        out.chances.append(float((t == t.max()).mean()))
        if len(t) < 3:
            out.problems[SHORT].append(name)
        else:
            out.spearman[name] = correlation
    return out


def within(predicted: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """(Spearman's rho, whether the top scene was found) of one film's values [scenes], the true ones not all equal.

    Of scenes that share the highest predicted value, one is taken at random: the second is then a share.
    """
    top = (true == true.max())[predicted == predicted.max()].mean()
    return metrics.correlations(predicted, true)[1], float(top)


def _stacked(sums: dict[str, tuple[float, ...]], keys: Any) -> dict[str, np.ndarray]:
    """name of a sum -> [films]; nothing where there are no films."""
    rows = [sums[key] for key in keys]
    return dict(zip(_SUMS, np.asarray(rows, np.float64).T, strict=True)) if rows else {}


def _mean(values: metrics.Array) -> metrics.Array:
    return values.mean(axis=-1)


def _pooled_pearson(*sums: metrics.Array) -> metrics.Array:
    n, p, t, pp, tt, pt = (column.sum(axis=-1) for column in sums)
    spread_p, spread_t = pp / n - (p / n) ** 2, tt / n - (t / n) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (pt / n - p * t / n**2) / np.sqrt(spread_p * spread_t)
    r = np.where(spread_p < _ROUNDING, 0.0, r)  # a constant prediction says nothing
    return np.where(spread_t < _ROUNDING, np.nan, r)


def _pooled_r2(*sums: metrics.Array) -> metrics.Array:
    n, _, t, pp, tt, pt = (column.sum(axis=-1) for column in sums)
    total = tt / n - (t / n) ** 2
    constant = total < _ROUNDING
    residual = (tt - 2 * pt + pp) / n
    return np.where(constant, np.nan, 1 - residual / np.where(constant, 1.0, total))


_POOLED: dict[str, metrics.Statistic] = {"pearson": _pooled_pearson, "r2": _pooled_r2}
