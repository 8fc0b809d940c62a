"""HVU's tags: mean average precision over videos, and Video-4096's choice of five tags among thirty.

The two are different metrics, and figures of one do not compare with the other's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from input_pipeline.errors import UserError
from jaxllava.evaluate import metrics
from jaxllava.evaluate.metrics import Array, Estimate
from jaxllava.evaluate.scoring import figures
from jaxllava.evaluate.scoring.answered import Answered, Problems, Scored, broken, check, meta

CATEGORIES = ("scene", "object", "action", "event", "attribute", "concept")
PICKS = 5

# --- mAP over videos (HVU's own metric) ---


def hvu_map(rows: Sequence[Answered], *, resamples: int = metrics.RESAMPLES) -> Scored:
    """HVU's mAP in percent: per tag the average precision over videos, averaged over a category's tags.

    "overall" is the mean of the categories, as in HVU's and Behavior-LLaVA's tables. Every row has the same tags in
    `meta["candidates"]` and a score for each in `scores`; its truth lists the video's tags; `meta["categories"]`
    names each candidate's category, in their order. A tag that no video has defines no precision: it has no
    part, and the problems count such tags. Non-finite scores are a UserError: they would rank at random.

    Args:
        rows: one per video.
        resamples: of the interval, over videos.
    """
    check("HVU", rows)
    tags = list(meta("HVU", rows[0], "candidates"))
    categories = list(meta("HVU", rows[0], "categories"))
    if len(categories) != len(tags):
        raise broken("HVU", rows[0], f"{len(tags)} candidates have {len(categories)} categories")
    position = {tag: at for at, tag in enumerate(tags)}
    scores = np.zeros((len(rows), len(tags)))
    true = np.zeros((len(rows), len(tags)))
    for at, row in enumerate(rows):
        if list(meta("HVU", row, "candidates")) != tags or len(row.scores) != len(tags):
            raise broken(
                "HVU", row, f"it has not the {len(tags)} tags of the first question, with a score for each"
            )
        if not np.isfinite(row.scores).all():
            raise broken("HVU", row, "its scores are not finite")
        scores[at] = row.scores
        for tag in row.truth:
            if tag not in position:
                raise broken("HVU", row, f"its tag {tag!r} is not among the candidates")
            true[at, position[tag]] = 1

    used = [at for at in range(len(tags)) if true[:, at].any()]
    if not used:
        raise UserError("HVU: no video has any of the tags")
    problems = Problems()
    if len(used) < len(tags):
        problems[f"{len(tags) - len(used)} of {len(tags)} tags occur in no video: left out"] = []
    generator = np.random.default_rng(0)
    weights = np.ones((resamples + 1, len(rows)), dtype=np.float32)  # row 0: the videos themselves
    for at in range(1, resamples + 1):
        weights[at] = np.bincount(generator.integers(0, len(rows), len(rows)), minlength=len(rows))
    each: dict[str, list[Array]] = {}
    for at in used:
        each.setdefault(str(categories[at]), []).append(
            _weighted_precision(scores[:, at], true[:, at], weights)
        )
    # A resample without a tag's videos says nothing on that tag: the mean is over the others.
    means = {category: 100 * np.nanmean(values, axis=0) for category, values in sorted(each.items())}
    overall = np.mean(list(means.values()), axis=0)
    found = {
        name: metrics.interval(float(values[0]), values[1:], len(rows), "videos")
        for name, values in {"overall": overall, **means}.items()
    }
    return Scored(found, dict(problems))


def _weighted_precision(scores: Array, true: Array, weights: np.ndarray) -> Array:
    """Returns the average precision of one tag under each weighting of the videos [resamples, n]: [resamples].

    Equal scores share a rank, so that a video drawn twice is what scikit-learn's `sample_weight` makes of it.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # of its rank
    drawn = weights[:, order]
    seen = np.cumsum(drawn, axis=1, dtype=np.float64)[:, last]
    hits = np.cumsum(drawn * true[order], axis=1, dtype=np.float64)[:, last]
    gained = np.diff(hits, axis=1, prepend=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(gained > 0, gained * hits / seen, 0).sum(axis=1) / hits[:, -1]


# --- five of thirty tags (Video-4096, Behavior-LLaVA) ---


def tags_in(answer: str, candidates: Sequence[str]) -> list[str]:
    """Returns the candidates that a text names, in the order of their first mention, longest names first.

    Case and underscores do not matter; a name inside another ("ball" in "ball game") is not a mention.
    """
    flat = re.sub(r"[\s_]+", " ", answer.lower())
    found: dict[str, int] = {}
    longest_first: list[str] = sorted(candidates, key=len, reverse=True)
    for tag in longest_first:
        name = re.escape(re.sub(r"[\s_]+", " ", tag.lower()).strip())
        match = re.search(rf"(?<!\w){name}(?!\w)", flat)
        if match:
            found[tag] = match.start()
            flat = re.sub(rf"(?<!\w){name}(?!\w)", lambda hit: "\0" * len(hit.group()), flat)
    return [tag for tag, _ in sorted(found.items(), key=lambda item: item[1])]


def picked_precision(picks: Sequence[str], true: set[str]) -> float:
    """Returns the average precision of a category's picks: the mean, over the right ones, of the precision so far."""
    precisions, hits = [], 0
    for rank, tag in enumerate(picks, start=1):
        if tag in true:
            hits += 1
            precisions.append(hits / rank)
    return sum(precisions) / len(precisions) if precisions else 0.0


def hvu_retrieval(rows: Sequence[Answered]) -> Scored:
    """Video-4096's HVU in percent: from thirty tags, five of each category, the model picks five.

    What the papers say: thirty random tags (equally many of each category), the top five are picked and mapped
    back to their categories, the figure is called mAP, "overall" is the mean of the categories. What they leave
    open is our reading: a video's picks of a category, in their order, have the average precision
    `picked_precision`; the category's figure is the mean over the videos with a pick in it. So a category that
    is picked rarely but rightly scores high, which the papers' 99.9 for objects needs: no figure that also asks for
    the tags that were not picked could reach it with five picks.

    `meta["candidates"]` are the thirty tags, `meta["categories"]` the category of each, in their order; the truth
    lists the video's own tags. With `scores` the five best are picked; else `answer` is the list of picks, best
    first, or a text that names them (`tags_in`). Less than five picks, or none, are named.
    """
    check("HVU retrieval", rows)
    problems = Problems()
    precisions: dict[str, list[float]] = {}
    videos: dict[str, list[str]] = {}
    for row in rows:
        candidates = [str(tag) for tag in meta("HVU retrieval", row, "candidates")]
        names = meta("HVU retrieval", row, "categories")
        if isinstance(names, Mapping):
            names = [names.get(tag) for tag in candidates]
        if len(names) != len(candidates) or None in names:
            raise broken("HVU retrieval", row, "its candidates have not one category each")
        if not isinstance(row.truth, (list, tuple, set)):
            raise broken(
                "HVU retrieval", row, f"its truth is {row.truth!r}, not the list of the video's tags"
            )
        category = dict(zip(candidates, map(str, names), strict=True))
        picks = _picks(row, candidates, problems)
        true = {str(tag) for tag in row.truth}
        for name in sorted({category[tag] for tag in picks}):
            own = [tag for tag in picks if category[tag] == name]
            precisions.setdefault(name, []).append(picked_precision(own, true))
            videos.setdefault(name, []).append(row.id)
    if not precisions:
        raise UserError(f"HVU retrieval: none of the {len(rows)} answers names any of its candidates")

    # A row is a video, two columns a category: its precision and whether it has a pick there.
    columns: dict[str, Array] = {}
    found: dict[str, Estimate] = {}
    ids = {row.id: at for at, row in enumerate(rows)}
    for name in sorted(precisions):
        sums, counts = np.zeros(len(rows)), np.zeros(len(rows))
        index = [ids[id] for id in videos[name]]
        sums[index], counts[index] = precisions[name], 1
        columns |= {f"{name} sum": sums, f"{name} count": counts}
        found[name] = figures.percent(name, precisions[name], unit="videos")

    def overall(*table: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            means = [table[at].sum(axis=-1) / table[at + 1].sum(axis=-1) for at in range(0, len(table), 2)]
        return 100 * np.nanmean(means, axis=0)

    figure = metrics.estimate(overall, columns, name="overall", unit="videos")
    return Scored({"overall": figure, **found}, dict(problems))


def _picks(row: Answered, candidates: Sequence[str], problems: Problems) -> list[str]:
    if row.scores:
        if len(row.scores) != len(candidates):
            raise broken("HVU retrieval", row, f"{len(candidates)} candidates have {len(row.scores)} scores")
        if not np.isfinite(row.scores).all():
            problems.note("scores that are not finite: no picks", row.id)
            return []
        best = np.argsort(-np.asarray(row.scores), kind="stable")[:PICKS]
        return [candidates[int(at)] for at in best]
    if isinstance(row.answer, str):
        picks: list[str] = tags_in(row.answer, candidates)
    else:
        named: list[str] = [str(tag) for tag in row.answer or ()]
        picks = [tag for tag in dict.fromkeys(named) if tag in candidates]
    if len(picks) < PICKS:
        problems.note("no pick among the candidates" if not picks else f"less than {PICKS} picks", row.id)
    return picks[:PICKS]
