"""Intervals and tests over training seeds and held-out posts together. Pure numpy and scipy.

Every arm is trained with S seeds and asked about the same N posts, so a figure has two sources of chance. It is the
mean over the seeds of a metric over the posts, and its distribution about the truth is taken to be that of

    D + T * s / sqrt(S)

two independent parts. D is of the posts: they are drawn with replacement, the same draw for all seeds and arms, and D
is the change of the figure (the bootstrap, which knows no formula of the metric). T is of the seeds: Student's t with
S - 1 degrees of freedom, s the standard deviation of the seeds' values. Five seeds are too few to be drawn with
replacement as well: that alone would understate s by the factor sqrt(4/5), and a normal tail is 1.96 where t has 2.78.
What a seed and a post have together (this run knows this post by luck) would be in both parts; its variance is told
from the draws of each seed and of their mean, and taken out of D, which is shrunk towards zero for it.

A difference is of both arms on the same draws, so that posts that are hard for both do not count. Runs of two arms that
have a seed in common share no batch, so the seeds of the two arms are independent: s^2 / S is the sum of the two, with
Welch's degrees of freedom. The p-value is of the same distribution: the interval leaves out zero where p < 0.05. It
takes the seeds' values to be near normal. A sign-flip test over pairs of seeds would not, but with five its smallest
two-sided p is 2/2^5 = 1/16, so that it can decide nothing; Student's paired t over the seeds is given beside ours.
Perplexities are compared as their logarithms, in which the seeds' values are near normal: a mean over seeds is then
the geometric mean, and a difference of two arms is a ratio.

With one seed (the base is one model) there is no s: that arm's figure is over posts alone. Where both arms have but
one, p is of a normal distribution with the standard deviation of D.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from jaxllava.evaluate import metrics

Array = NDArray[np.float64]

RESAMPLES = 2000
LOGARITHMIC = frozenset({"perplexity"})
_BLOCK = 250  # resamples at once: [seeds, 250, posts]


@dataclass(frozen=True)
class Figure:
    """A metric of one arm: of each seed [S], and of each seed on each draw of the posts [S, R].

    With `log` the values are logarithms of the metric's.
    """

    seeds: Array
    drawn: Array
    posts: int
    log: bool = False

    @property
    def mean(self) -> float:
        return float(self.seeds.mean())


@dataclass(frozen=True)
class Test:
    """A difference with its interval and p-values; of logarithmic metrics that of the logarithms.

    paired_t: p of Student's t over the differences of equal seeds, posts taken as given; None where one arm has one
    seed. agreeing: of `seeds` differences of equal seeds so many have the sign of the mean.
    """

    mean: float
    low: float
    high: float
    p: float
    paired_t: float | None
    agreeing: int
    seeds: int
    log: bool = False
    holm: float = 1.0  # p, corrected for all comparisons of its family

    def to_dict(self) -> dict[str, float | int | None]:
        return dataclasses.asdict(self)


def figure(
    metric: str, by_seed: Sequence[Sequence[Sequence[float]]], *, resamples: int = RESAMPLES, seed: int = 0
) -> Figure:
    """Evaluates a metric on the posts, and on the draws of them.

    Args:
        metric: a name in `metrics`.
        by_seed: [S][columns][N], the columns that the metric takes, on the same posts in the same order.
        resamples, seed: of the draws: the same N, resamples and seed give the same draws, for every arm and metric.

    Raises ValueError where the metric is not defined on the posts.
    """
    columns = [np.asarray(column, np.float64) for column in zip(*by_seed, strict=True)]  # each [S, N]
    value = metrics.statistic(metric)
    seeds = value(*columns)
    if not np.isfinite(seeds).all():
        raise ValueError(f"{metric} is not defined on these {columns[0].shape[1]} items: {seeds}")
    count = columns[0].shape[1]
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, resamples, _BLOCK):
        index = rng.integers(0, count, (min(_BLOCK, resamples - start), count))  # [R', N]
        parts.append(value(*(column[:, index] for column in columns)))  # [S, R']
    drawn = np.concatenate(parts, axis=1)
    if metric in LOGARITHMIC:
        return Figure(np.log(seeds), np.log(drawn), count, log=True)
    return Figure(seeds, drawn, count)


@dataclass(frozen=True)
class _Spread:
    """A figure or a difference of two, and its two sources of chance."""

    mean: float
    deviations: Array  # D [R]
    error: float  # s / sqrt(S), 0 where there is but one seed
    freedom: float  # of T

    @classmethod
    def of(cls, first: Figure, second: Figure | None = None) -> _Spread:
        arms = [(1.0, first)] + ([(-1.0, second)] if second else [])
        mean = sum(sign * arm.mean for sign, arm in arms)
        drawn = np.sum([sign * arm.drawn.mean(axis=0) for sign, arm in arms], axis=0)
        defined = np.isfinite(drawn)  # a draw of equal truths only says nothing
        drawn = drawn[defined]
        several = [arm for _, arm in arms if len(arm.seeds) > 1]
        variances = np.array([arm.seeds.var(ddof=1) / len(arm.seeds) for arm in several])
        deviations = drawn - mean
        if not deviations.size or not variances.sum():
            return cls(mean, deviations, 0.0, np.inf)
        of_both = 0.0  # what seeds and posts have together
        for arm in several:
            alone = arm.drawn[:, defined].var(axis=1).mean()  # of one seed: (B + E) / N
            together = arm.drawn[:, defined].mean(axis=0).var()  # of their mean: B / N + E / (S N)
            of_both += max(alone - together, 0.0) / (len(arm.seeds) - 1)  # E / (S N)
        total = deviations.var()
        if total:
            deviations = deviations * np.sqrt(max(1 - of_both / total, 0.0))
        freedoms = np.array([len(arm.seeds) - 1 for arm in several])
        freedom = variances.sum() ** 2 / (variances**2 / freedoms).sum()  # Welch 1947
        return cls(mean, deviations, float(np.sqrt(variances.sum())), float(freedom))

    def interval(self) -> tuple[float, float]:
        tail = (1 - metrics.LEVEL) / 2
        if not self.deviations.size:
            return self.mean, self.mean
        if not self.error:
            low, high = np.percentile(self.deviations, [100 * tail, 100 * (1 - tail)]).tolist()
            return self.mean + low, self.mean + high
        # The distribution of D + T is known: the mean of one Student's t about each D.
        below = lambda x, share: stats.t.cdf((x - self.deviations) / self.error, self.freedom).mean() - share
        reach = float(stats.t.isf(tail / 10, self.freedom)) * self.error
        ends = (self.deviations.min() - reach, self.deviations.max() + reach)
        low: Any = optimize.brentq(below, *ends, args=(tail,))
        high: Any = optimize.brentq(below, *ends, args=(1 - tail,))
        return self.mean + low, self.mean + high

    def p(self) -> float:
        """How often a true difference of zero would give one as far out as the mean, twice for the two sides."""
        if self.error:
            away = (self.mean + self.deviations) / self.error  # of zero, from each D
            side = stats.t.sf(np.sign(self.mean) * away, self.freedom).mean()
        elif deviation := float(self.deviations.std()) if self.deviations.size else 0.0:
            side = stats.norm.sf(abs(self.mean) / deviation)  # counting R draws could say no less than 1 / R
        else:  # every draw says the same
            side = 0.5 if self.mean == 0 else 0.0
        return float(min(1.0, 2 * side))


def estimate(found: Figure, items: str = "posts") -> metrics.Estimate:
    """The mean over seeds with its 95 % interval; `n` counts `items`, `unit` says what the interval is over."""
    count = len(found.seeds)
    unit = f"{items}, {count} seeds" if count > 1 else items
    values = (found.mean, *_Spread.of(found).interval())
    mean, low, high = np.exp(values).tolist() if found.log else values
    return metrics.Estimate(mean, low, high, found.posts, unit)


def test(first: Figure, second: Figure) -> Test:
    """Whether two arms differ: first - second, on the same posts and draws (ValueError for others)."""
    if first.posts != second.posts or first.drawn.shape[1] != second.drawn.shape[1]:
        raise ValueError(f"figures on {first.posts} and {second.posts} posts are not of the same items")
    counts = {len(first.seeds), len(second.seeds)}
    if len(counts - {1}) > 1:
        raise ValueError(
            f"arms of {len(first.seeds)} and {len(second.seeds)} seeds: as many of each are needed"
        )
    spread = _Spread.of(first, second)
    pairs = first.seeds - second.seeds  # an arm of one seed stands beside each of the other's
    paired = None
    if 1 not in counts:
        spread_of_pairs = float(pairs.std(ddof=1) / np.sqrt(len(pairs)))
        away = abs(float(pairs.mean())) / spread_of_pairs if spread_of_pairs else 0.0
        paired = float(2 * stats.t.sf(away, len(pairs) - 1))
    agreeing = int((np.sign(pairs) == np.sign(spread.mean)).sum())
    return Test(spread.mean, *spread.interval(), spread.p(), paired, agreeing, max(counts), first.log)


def holm(tests: Mapping[tuple[str, ...], Test]) -> dict[tuple[str, ...], Test]:
    """The tests with their p-values corrected for one another (Holm 1979): the chance of any false one is kept."""
    order = sorted(tests, key=lambda key: tests[key].p)
    found, least = {}, 0.0
    for rank, key in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * tests[key].p))
        found[key] = dataclasses.replace(tests[key], holm=least)
    return {key: found[key] for key in tests}
