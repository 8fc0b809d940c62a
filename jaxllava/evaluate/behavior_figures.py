"""From the rows of `behavior.evaluate` to figures: a value and its 95 % interval over posts, and paired differences.

A post that a measure could not score is in no figure of it; `Columns.problems` counts and names it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxllava.evaluate import metrics, overlap
from jaxllava.evaluate.behavior_posts import Post, Problems
from jaxllava.evaluate.item_log import Row

Figure = dict[str, Any]  # {"mean", "low", "high", "n", "unit"}, or {"note": why there is none}
Rows = Mapping[str, Sequence[Row]]  # by pass


@dataclass
class Columns:
    """What metrics take, by post; the posts that have nothing to take; what else is to be said of posts that have."""

    values: dict[str, tuple[float, ...]] = field(default_factory=dict)
    problems: Problems = field(default_factory=lambda: defaultdict(list))
    remarks: Problems = field(default_factory=lambda: defaultdict(list))


@dataclass(frozen=True)
class Measure:
    """A `metric` of `metrics` over the columns that `read` makes of a pass's rows: those numbered `take`, ()
    is all.
    """

    metric: str
    passed: str  # the name of the pass
    read: Callable[[list[Post], Mapping[str, list[Row]]], Columns]
    take: tuple[int, ...] = ()


def columns(posts: Sequence[Post], rows: Rows) -> dict[str, Columns]:
    """The columns of every measure that these posts have, one with nothing but problems included."""
    found: dict[str, Columns] = {}
    read: dict[Any, Columns] = {}
    for name, measure in MEASURES.items():
        if not rows.get(measure.passed):
            continue
        key = measure.passed, measure.read
        if key not in read:
            by_post: dict[str, list[Row]] = defaultdict(list)
            for row in rows[measure.passed]:
                by_post[row["id"]].append(row)
            read[key] = measure.read([post for post in posts if post.id in by_post], by_post)
        whole = read[key]
        taken = {
            post: tuple(value[i] for i in measure.take) if measure.take else value
            for post, value in whole.values.items()
        }
        found[name] = Columns(taken, whole.problems, whole.remarks)
    return found


def figures(found: Mapping[str, Columns], only: Iterable[str] | None = None) -> dict[str, Figure]:
    """Each measure's figure, on all posts or on those of the ids `only`."""
    kept = None if only is None else set(only)
    out = {}
    for name, one in found.items():
        ids = sorted(key for key in one.values if kept is None or key in kept)
        if ids or kept is None:
            out[name] = _figure(getattr(metrics, MEASURES[name].metric), one.values, ids)
    return out


def differences(first: Mapping[str, Columns], second: Mapping[str, Columns]) -> dict[str, Figure]:
    """first - second for each measure that both have, on the posts that both scored."""
    out = {}
    for name in first.keys() & second.keys():
        one, other = first[name].values, second[name].values
        ids = sorted(one.keys() & other.keys())
        both = {key: (*one[key], *other[key]) for key in ids}

        def paired(
            *values: list[float], ids: list[str], metric: str = MEASURES[name].metric
        ) -> metrics.Estimate:
            half = len(values) // 2
            return metrics.paired_difference(metric, values[:half], values[half:], ids=ids)

        out[name] = _figure(paired, both, ids)
    return {name: out[name] for name in MEASURES if name in out}


def _figure(
    metric: Callable[..., metrics.Estimate], values: Mapping[str, tuple[float, ...]], ids: list[str]
) -> Figure:
    if not ids:
        return {"note": "no post was scored"}
    try:
        found = metric(*map(list, zip(*(values[key] for key in ids), strict=True)), ids=ids)
    except ValueError as error:
        return {"note": str(error)}
    figure = {**found.to_dict(), "unit": "posts"}
    return figure if len(ids) > 1 else {**figure, "low": None, "high": None}  # one post shows no spread


# --- what each measure reads -------------------------------------------------------------------------------


def _sound(rows: Sequence[Row], post: Post, out: Columns) -> bool:
    """Whether all rows of a post have values; what else they have becomes its problem."""
    bad = [row["problem"] for row in rows if "problem" in row]
    if bad:
        out.problems[bad[0]].append(post.id)
    return not bad


def _numbers(posts: list[Post], rows: Mapping[str, list[Row]]) -> Columns:
    """(predicted, true)"""
    out = Columns()
    for post in posts:
        (row,) = rows[post.id]
        if _sound([row], post, out):
            out.values[post.id] = (row["predicted"], row["true"])
    return out


def _top_comment(posts: list[Post], rows: Mapping[str, list[Row]]) -> Columns:
    return _all_comments(
        posts, {key: [row for row in found if row["number"] == 0] for key, found in rows.items()}
    )


def _all_comments(posts: list[Post], rows: Mapping[str, list[Row]]) -> Columns:
    """(log-probability, tokens)"""
    out = Columns()
    for post in posts:
        found = rows[post.id]
        if _sound(found, post, out):
            out.values[post.id] = (
                sum(row["log_probability"] for row in found),
                sum(row["tokens"] for row in found),
            )
    return out


def _replay(posts: list[Post], rows: Mapping[str, list[Row]]) -> Columns:
    """(Pearson's, Spearman's correlation over the scenes)"""
    out = Columns()
    for post in posts:
        graph = sorted(rows[post.id], key=lambda row: row["number"])
        if not _sound(graph, post, out):
            continue
        predicted, true = [row["predicted"] for row in graph], [row["true"] for row in graph]
        if len(true) < 3:  # two points are always on a line
            out.problems["has a replay graph of fewer than 3 scenes"].append(post.id)
        elif len(set(true)) == 1:
            out.problems["has a flat replay graph"].append(post.id)
        else:
            out.values[post.id] = metrics.correlations(predicted, true)
    return out


def _overlap(posts: list[Post], rows: Mapping[str, list[Row]]) -> Columns:
    """(F, precision, recall with the post's own comments, F with another post's, the first less the last)"""
    out = Columns()
    pair = overlap.rouge_l()
    true = {post.id: overlap.comparable(post.comments) for post in posts}
    dealt = overlap.donors([(post.id, post.source, len(true[post.id])) for post in posts if true[post.id]])
    for post in posts:
        (row,) = rows[post.id]
        if not _sound([row], post, out):
            continue
        asked = len(post.comments)
        written = overlap.read_list("1." + row["text"], asked)
        if not true[post.id]:
            out.problems["tells no comment in Latin letters, which ROUGE compares"].append(post.id)
        elif not written:
            out.problems["got no comment that could be read"].append(post.id)
        elif post.id not in dealt:
            out.problems["is the only post with comments, so there is no control"].append(post.id)
        else:
            own = overlap.overlap(written, true[post.id], pair)
            other = overlap.overlap(written, true[dealt[post.id]], pair)
            out.values[post.id] = (own.f, own.precision, own.recall, other.f, own.f - other.f)
            if len(written) < asked:
                out.remarks["got fewer comments than were asked for"].append(post.id)
    return out


MEASURES: dict[str, Measure] = {
    "top_comment_perplexity": Measure("perplexity", "comments", _top_comment),
    "comments_perplexity": Measure("perplexity", "comments", _all_comments),
    "like_rate_r2": Measure("r2", "likes", _numbers),
    "like_rate_spearman": Measure("spearman", "likes", _numbers),
    "told_memorability_r2": Measure("r2", "memorability", _numbers),
    "told_memorability_spearman": Measure("spearman", "memorability", _numbers),
    "replay_pearson": Measure("mean", "replay", _replay, (0,)),
    "replay_spearman": Measure("mean", "replay", _replay, (1,)),
    "overlap_f": Measure("mean", "generated", _overlap, (0,)),
    "overlap_precision": Measure("mean", "generated", _overlap, (1,)),
    "overlap_recall": Measure("mean", "generated", _overlap, (2,)),
    "overlap_other_post": Measure("mean", "generated", _overlap, (3,)),
    "overlap_gain": Measure("mean", "generated", _overlap, (4,)),
}
