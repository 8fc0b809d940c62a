"""Which arm wins, and how sure that is: from the numbers of results.json to plain sentences.

A win needs evidence: the 95 % interval of the paired difference on the same items lies on one side of zero.
Where results.json has no paired difference for a pair, the two arms' own intervals must not overlap, which
asks for more. Everything else is said to be undecided, never a win.

The parts of results.json that are read here:
    arms         {arm: {metric: {"mean", "low", "high", "n"} | null}}
    differences  {other arm: {metric: {"mean", "low", "high", "n"} | null}}: behavior minus the other arm
    chance       {metric: number}
    seeds        [int, ...]
    treated      the arm that is compared with the others, where it is not behavior
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from input_pipeline.errors import UserError
from jaxllava.evaluate.metrics import Estimate

Outcome = Literal["win", "loss", "open"]


@dataclass(frozen=True)
class Metric:
    """How a metric is named, printed and read. `higher` is None where the better direction is unknown."""

    label: str
    detail: str
    higher: bool | None
    kind: Literal["share", "number", "ratio"]

    @property
    def arrow(self) -> str:
        return "" if self.higher is None else "↑" if self.higher else "↓"

    def value(self, number: float) -> str:
        """Returns the number as the table prints it; a share in percent."""
        if self.kind == "share":
            return f"{number * 100:.1f}%"
        return f"{number:.2f}" if self.kind == "ratio" else _minus(f"{number:.3f}")

    def bound(self, number: float) -> str:
        """Returns an end of an interval: as `value`, without the percent sign."""
        return self.value(number).rstrip("%")

    def tick(self, number: float) -> str:
        return f"{number * 100:g}%" if self.kind == "share" else f"{number:g}".replace("-", "−")

    def change(self, number: float) -> str:
        """Returns a signed difference; of shares in percentage points."""
        if self.kind == "share":
            return _minus(f"{number * 100:+.1f}")
        return _minus(f"{number:+.2f}" if self.kind == "ratio" else f"{number:+.3f}")


def _minus(text: str) -> str:
    """A printed number with a true minus sign, and none before a zero."""
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


METRICS: dict[str, Metric] = {
    "replay": Metric("Replay", "Spearman's ρ within a film", True, "number"),
    "replay_top": Metric("Most replayed scene", "accuracy", True, "share"),
    "mood": Metric("Mood", "accuracy", True, "share"),
    "topic": Metric("Topic", "accuracy", True, "share"),
    "memorability": Metric("Memorability", "Spearman's ρ", True, "number"),
    "likes_r2": Metric("Like rate", "R²", True, "number"),
    "comment_perplexity": Metric("Comments", "perplexity", False, "ratio"),
    "stage2": Metric("Visual QA", "accuracy", True, "share"),
    "top_comment_perplexity": Metric("Top comment", "perplexity", False, "ratio"),
    "comments_perplexity": Metric("All comments", "perplexity", False, "ratio"),
    "like_rate_r2": Metric("Like rates", "R²", True, "number"),
    "like_rate_spearman": Metric("Like rate ranks", "Spearman's ρ", True, "number"),
    "told_memorability_r2": Metric("Told memorability", "R²", True, "number"),
    "told_memorability_spearman": Metric("Told memorability ranks", "Spearman's ρ", True, "number"),
    "replay_pearson": Metric("Replay graphs", "Pearson's r", True, "number"),
    "replay_spearman": Metric("Replay graph ranks", "Spearman's ρ", True, "number"),
    "overlap_f": Metric("Comment overlap", "ROUGE-L F", True, "number"),
    "overlap_gain": Metric("Overlap above another post's", "ROUGE-L F", True, "number"),
    # Parts of what stands above: shown, and not judged once more.
    "overlap_precision": Metric("Overlap precision", "ROUGE-L", None, "number"),
    "overlap_recall": Metric("Overlap recall", "ROUGE-L", None, "number"),
    "overlap_other_post": Metric("Overlap with another post's", "ROUGE-L F", None, "number"),
}

# The arms in the order they are shown, and what each was trained on.
ARMS: dict[str, str] = {
    "base": "instruction data only",
    "ad": "the same posts, the audience's behaviour removed",
    "shuffled": "the same posts, with the reactions of other posts",
    "behavior": "the posts with their own reactions",
}
TREATED = "behavior"


@dataclass(frozen=True)
class Comparison:
    """`behavior` against one other arm in one metric. `difference` is None where the two intervals decide."""

    metric: str
    other: str
    outcome: Outcome
    difference: Estimate | None


def treated_of(results: Mapping[str, Any]) -> str:
    """The arm that the others are compared with."""
    return str(results.get("treated", TREATED))


def metric_of(name: str) -> Metric:
    return METRICS.get(name, Metric(name, "", None, "number"))


def arms_of(results: Mapping[str, Any]) -> list[str]:
    """Returns the arms present, known ones in their order, then others by name."""
    if not isinstance(results.get("arms"), Mapping) or not results["arms"]:
        raise UserError("results.json has no 'arms': evaluate at least one arm before making a report.")
    present = results["arms"]
    return [arm for arm in ARMS if arm in present] + sorted(set(present) - set(ARMS))


def metrics_of(results: Mapping[str, Any]) -> list[str]:
    """Returns the metrics that any arm has, known ones in their order, then others by name."""
    present = {name for arm in arms_of(results) for name, cell in results["arms"][arm].items() if cell}
    return [name for name in METRICS if name in present] + sorted(present - set(METRICS))


def estimate(results: Mapping[str, Any], arm: str, metric: str) -> Estimate | None:
    """Returns one cell, None where the arm has no such figure; a malformed cell is a UserError."""
    return _cell(results["arms"][arm].get(metric), f"arms.{arm}.{metric}")


def difference(results: Mapping[str, Any], metric: str, other: str) -> Estimate | None:
    """Returns the paired difference behavior - other, None where it was not computed."""
    cells = (results.get("differences") or {}).get(other) or {}
    return _cell(cells.get(metric), f"differences.{other}.{metric}")


def _cell(cell: Any, where: str) -> Estimate | None:
    if cell is None:
        return None
    try:
        values = [float(cell[key]) for key in ("mean", "low", "high")]
        count = int(cell["n"])
    except (TypeError, KeyError, ValueError):
        raise UserError(
            f"results.json: {where} needs the numbers mean, low, high and n; it is {cell!r}."
        ) from None
    if not all(math.isfinite(value) for value in values):
        raise UserError(
            f"results.json: {where} is not finite: {cell!r}. Find the item that broke the metric."
        )
    mean, low, high = values
    return Estimate(mean, low, high, count, unit=str(cell.get("unit", "items")))


def compare(results: Mapping[str, Any]) -> list[Comparison]:
    """Returns the treated arm against every other in every metric whose better direction is known."""
    arms, treated = arms_of(results), treated_of(results)
    for other in results.get("differences") or {}:
        if other not in arms:
            raise UserError(f"results.json: differences has {other!r}, but the arms are {', '.join(arms)}.")
    out = []
    for metric in metrics_of(results):
        higher = metric_of(metric).higher
        own = estimate(results, treated, metric) if treated in arms else None
        if own is None or higher is None:
            continue
        for other in arms:
            rival = estimate(results, other, metric)
            if other == treated or rival is None:
                continue
            paired = difference(results, metric, other)
            if paired is not None:
                above, below = paired.low > 0, paired.high < 0
            else:
                above, below = own.low > rival.high, own.high < rival.low
            better, worse = (above, below) if higher else (below, above)
            out.append(Comparison(metric, other, "win" if better else "loss" if worse else "open", paired))
    return out


def tally(comparisons: Sequence[Comparison], other: str) -> dict[Outcome, int]:
    """Returns how many metrics behavior won, lost and left open against `other`."""
    outcomes = [c.outcome for c in comparisons if c.other == other]
    return {"win": outcomes.count("win"), "open": outcomes.count("open"), "loss": outcomes.count("loss")}


def verdict(results: Mapping[str, Any]) -> list[str]:
    """Returns plain sentences: the whole first, then each opponent, each metric, and the cautions."""
    comparisons, treated = compare(results), treated_of(results)
    if not comparisons:
        return [f"There is no verdict: it needs the arm {treated!r} and another arm with a metric in common."]
    metrics = list(dict.fromkeys(c.metric for c in comparisons))
    rivals = list(dict.fromkeys(c.other for c in comparisons))
    by_metric = {m: {c.other: c for c in comparisons if c.metric == m} for m in metrics}
    beaten = [m for m in metrics if all(c.outcome == "win" for c in by_metric[m].values())]

    whom = f"all of {_list(rivals)}" if len(rivals) > 1 else rivals[0]
    # Of an arm that a user names it is not known what it was trained on.
    subject = "Training on the audience's real reactions" if "treated" not in results else treated
    sentences = [_headline(subject, beaten, metrics, whom)]
    for rival in rivals:
        count = tally(comparisons, rival)
        total = sum(count.values())
        sentences.append(
            f"Against {rival}: better on {count['win']} of {total}, worse on {count['loss']}, "
            f"undecided on {count['open']}."
        )
    sentences += [_metric_sentence(results, metric, by_metric[metric]) for metric in metrics]
    return sentences + _cautions(results, metrics, by_metric)


def _headline(subject: str, beaten: list[str], metrics: list[str], whom: str) -> str:
    if len(beaten) == len(metrics):
        return f"{subject} won on every metric ({len(metrics)}), against {whom}."
    if beaten:
        return (
            f"{subject} won on {len(beaten)} of {len(metrics)} metrics "
            f"({_list([_name(m) for m in beaten])}), against {whom}; on the others it did not."
        )
    return f"{subject} did not win: on none of {len(metrics)} metrics is it shown to be better than {whom}."


def _metric_sentence(results: Mapping[str, Any], metric: str, cells: Mapping[str, Comparison]) -> str:
    spec, treated = metric_of(metric), treated_of(results)
    own = estimate(results, treated, metric)
    assert own is not None  # compare() made a cell of it
    groups: dict[Outcome, list[str]] = {"win": [], "loss": [], "open": []}
    for other, cell in cells.items():
        groups[cell.outcome].append(f"{other} ({_evidence(results, spec, cell)})")
    phrases: dict[Outcome, str] = {
        "win": "better than ",
        "loss": "worse than ",
        "open": "not shown to differ from ",
    }
    said = [phrases[outcome] + _list(names) for outcome, names in groups.items() if names]
    unit = f"{spec.detail} " if spec.detail else ""
    return f"{spec.label}: {treated} has {unit}{spec.value(own.mean)}, {'; '.join(said)}."


def _evidence(results: Mapping[str, Any], spec: Metric, cell: Comparison) -> str:
    if cell.difference is None:
        rival = estimate(results, cell.other, cell.metric)
        assert rival is not None
        apart = "overlap" if cell.outcome == "open" else "are apart"
        return f"{spec.value(rival.mean)}; the intervals {apart}"
    d = cell.difference
    points = " points" if spec.kind == "share" else ""
    return f"{spec.change(d.mean)}{points}, [{spec.change(d.low)}, {spec.change(d.high)}]"


def _cautions(
    results: Mapping[str, Any], metrics: Sequence[str], by_metric: Mapping[str, Mapping[str, Comparison]]
) -> list[str]:
    out = []
    # The control that matters most: what remains of the gain when the reactions belong to other posts.
    credit = [
        metric
        for metric in metrics
        if {"base", "shuffled"} <= set(by_metric[metric])
        and by_metric[metric]["base"].outcome == "win"
        and by_metric[metric]["shuffled"].outcome != "win"
    ]
    if credit:
        out.append(
            f"On {_list([_name(m) for m in credit])} it beats base but not shuffled: "
            "that gain cannot be credited to what the audience said about the very post."
        )
    level = []
    for metric in metrics:
        chance = (results.get("chance") or {}).get(metric)
        own = estimate(results, treated_of(results), metric)
        if chance is not None and own is not None and metric_of(metric).higher and own.low <= chance:
            level.append(_name(metric))
    if level:
        out.append(f"On {_list(level)}, {treated_of(results)} is not shown to be better than chance.")
    if len(results.get("seeds") or [0]) < 2:
        out.append(
            "One training seed: the intervals cover the choice of test items, not the luck of a training "
            "run. Train more seeds before relying on a small difference."
        )
    return out


def _name(metric: str) -> str:
    return metric_of(metric).label.lower()


def _list(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
