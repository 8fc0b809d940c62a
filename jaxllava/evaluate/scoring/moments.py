"""QVHighlights: which moments of a video answer a query, and how salient its clips are.

The figures of the official standalone_eval (moment_detr), without its rounding to two decimals. Intervals
resample queries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxllava.evaluate.metrics import Array, Estimate
from jaxllava.evaluate.scoring import figures
from jaxllava.evaluate.scoring.answered import Answered, Problems, Scored, broken, check

IOUS = np.round(np.arange(0.5, 0.96, 0.05), 2)  # [10]
_LENGTHS = {"short": (0, 10), "middle": (10, 30), "long": (30, 150)}  # seconds, (least, most]
_MOST_WINDOWS = 10
_SALIENCY = {"Fair": 2, "Good": 3, "VeryGood": 4}  # the least score of a positive clip
_CLIP = 2  # seconds

# --- moment retrieval ---


def intersection_over_union(first: Array, second: Array) -> Array:
    """Returns the temporal IoU of every pair of windows [n, 2] and [m, 2] in seconds: [n, m]; 0 for two empty ones."""
    left = np.maximum(first[:, None, 0], second[None, :, 0])
    right = np.minimum(first[:, None, 1], second[None, :, 1])
    overlap = np.clip(right - left, 0, None)
    union = (first[:, 1] - first[:, 0])[:, None] + (second[:, 1] - second[:, 0])[None] - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def average_precision(predicted: Array, true: Array) -> Array:
    """Returns the average precision of ranked windows at each of IOUS, [10].

    By falling score, a window takes the true window of the highest IoU that is still free and overlaps enough;
    the precision is interpolated as in VOC 2011.

    Args:
        predicted: [n, 3] start and end in seconds, and a score.
        true: [m, 2] start and end in seconds.
    """
    order = np.argsort(-predicted[:, 2], kind="stable")
    overlaps = intersection_over_union(predicted[order, :2], true)  # [n, m]
    hits = np.zeros((len(IOUS), len(order)))
    for at, least in enumerate(IOUS):
        free = np.ones(len(true), dtype=bool)
        for rank, row in enumerate(overlaps):
            for window in np.argsort(row)[::-1]:
                if row[window] < least:
                    break
                if free[window]:
                    free[window] = False
                    hits[at, rank] = 1
                    break
    found = np.cumsum(hits, axis=1)
    precision = found / np.arange(1, len(order) + 1)
    # The best precision from here on; each hit adds one m-th of recall at it.
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return (best * hits).sum(axis=1) / len(true)


def recall_at_one(first: Array, true: Array) -> Array:
    """Returns 1 at each of IOUS, [10], that the first window [2] reaches with any of the true ones [m, 2], else 0."""
    overlap = intersection_over_union(first[None], true).max()
    return (overlap >= IOUS).astype(np.float64)


_TIME = r"(\d+(?::\d+)*(?:\.\d+)?)"
_WINDOW = re.compile(rf"{_TIME}\s*(?:s|sec|seconds)?\s*(?:-|–|—|,|to|and|until)\s*{_TIME}")


def windows_in(answer: str) -> list[list[float]]:
    """Returns the windows [start, end, score] that a text names, in seconds.

    Two times joined by "-", ",", "to", "and" or "until": "12 - 30 seconds", "[12, 30]", "0:12 to 0:30". A text has
    no scores, so the first named counts most. Windows that do not last are passed over. Our reading; the
    official file has windows already.
    """
    found = []
    for start, end in _WINDOW.findall(answer):
        window = [_seconds(start), _seconds(end)]
        if window[1] > window[0]:
            found.append([*window, 1.0 / (len(found) + 1)])
    return found


def _seconds(time: str) -> float:
    total = 0.0
    for part in time.split(":"):
        total = total * 60 + float(part)
    return total


def moment_retrieval(rows: Sequence[Answered]) -> Scored:
    """QVHighlights' moment retrieval in percent: mAP, mAP@0.5, mAP@0.75, R1@0.5, R1@0.7, mAP of short, middle, long.

    The headline is the mAP averaged over the IoUs 0.5, 0.55 .. 0.95. A truth has "relevant_windows": [[start,
    end], ...]. An answer is {"pred_relevant_windows": [[start, end, score], ...]}, that list, or a text that
    names windows (`windows_in`). At most ten windows count, the first ones; R1 looks at the very first. Short
    windows last up to 10 s, middle ones up to 30 s, long ones longer: queries that have such, by these alone.

    The official script needs a window for every query: an answer without one misses everything, and is named.
    """
    check("moment retrieval", rows)
    problems = Problems()
    precision, recall = np.zeros((len(rows), len(IOUS))), np.zeros((len(rows), len(IOUS)))
    lengths: dict[str, list[float]] = {name: [] for name in _LENGTHS}
    for at, row in enumerate(rows):
        true = _true_windows(row)
        predicted = _predicted_windows(row)
        if predicted is None:
            problems.note("no window in the answer: a miss", row.id)
        else:
            precision[at] = average_precision(predicted, true)
            recall[at] = recall_at_one(predicted[0, :2], true)
        duration = true[:, 1] - true[:, 0]
        for name, (least, most) in _LENGTHS.items():
            inside = true[(duration > least) & (duration <= most)]
            if len(inside):
                own = 0.0 if predicted is None else float(average_precision(predicted, inside).mean())
                lengths[name].append(own)
    columns = {
        "mAP": precision.mean(axis=1),
        "mAP@0.5": precision[:, _at(0.5)],
        "mAP@0.75": precision[:, _at(0.75)],
        "R1@0.5": recall[:, _at(0.5)],
        "R1@0.7": recall[:, _at(0.7)],
    }
    found = {name: figures.percent(name, column, unit="queries") for name, column in columns.items()}
    for name, values in lengths.items():
        if values:
            found[f"mAP {name}"] = figures.percent(f"mAP {name}", values, unit="queries")
    return Scored(found, dict(problems))


def _at(iou: float) -> int:
    return int(np.flatnonzero(np.isclose(IOUS, iou))[0])


def _true_windows(row: Answered) -> Array:
    truth = row.truth["relevant_windows"] if isinstance(row.truth, Mapping) else row.truth
    windows = _table(truth)
    if windows is None or windows.shape[1] != 2 or not (windows[:, 1] > windows[:, 0]).all():
        raise broken("moment retrieval", row, f"its relevant_windows are {truth!r}, not [start, end] pairs")
    return windows


def _predicted_windows(row: Answered) -> Array | None:
    answer = row.answer
    if isinstance(answer, Mapping):
        answer = answer.get("pred_relevant_windows")
    if isinstance(answer, str):
        answer = windows_in(answer)
    windows = _table(answer)
    return windows[:_MOST_WINDOWS] if windows is not None and windows.shape[1] == 3 else None


def _table(rows: Any) -> Array | None:
    """Returns the finite numbers of a list of equal lists, [n, width]; None where it is no such list."""
    try:
        table = np.asarray(rows, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return table if table.ndim == 2 and table.size and np.isfinite(table).all() else None


# --- highlight detection ---


def clip_precision(true: Array, predicted: Array) -> float:
    """Returns the interpolated average precision of clip scores: the mean over the levels of recall.

    Args:
        true: [clips] 0 or 1. Without a positive the precision is 0, without a negative 1.
        predicted: [clips] scores; equal ones share a rank.
    """
    if true.min() == true.max():
        return float(true[0])
    order = np.argsort(-predicted, kind="stable")
    last = np.append(np.diff(predicted[order]) != 0, True)  # of its rank
    found = np.cumsum(true[order])[last]
    precision = found / (np.flatnonzero(last) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    level = np.diff(found, prepend=0) > 0
    return float(best[level].mean())


def highlight_detection(rows: Sequence[Answered]) -> Scored:
    """QVHighlights' highlight detection in percent: mAP and Hit@1 for clips that are at least Fair, Good, VeryGood.

    The headline is the mAP of VeryGood, the one that the field's tables give. A truth has "duration" in seconds,
    "relevant_clip_ids" and for each of these the "saliency_scores" of three people, 0 to 4; other clips of 2 s
    have 0. An answer is {"pred_saliency_scores": [one per clip]} or that list. Missing clips count as 0, excess
    ones are cut off. Each person's scores are a truth of their own for mAP; Hit@1 asks whether anyone finds the
    clip of the highest score that good. An answer without scores misses everything, and is named.
    """
    check("highlight detection", rows)
    problems = Problems()
    precision = {name: np.zeros(len(rows)) for name in _SALIENCY}
    hits = {name: np.zeros(len(rows)) for name in _SALIENCY}
    for at, row in enumerate(rows):
        people = _saliency(row)  # [clips, 3]
        scores = row.answer.get("pred_saliency_scores") if isinstance(row.answer, Mapping) else row.answer
        table = None if isinstance(scores, str) else _table([scores])
        if table is None:
            problems.note("no finite clip scores in the answer: a miss", row.id)
            continue
        given = table[0]
        best = int(np.argmax(given))
        padded = np.zeros(len(people))
        padded[: len(given)] = given[: len(people)]
        for name, least in _SALIENCY.items():
            positive = (people >= least).astype(np.float64)
            precision[name][at] = np.mean([clip_precision(one, padded) for one in positive.T])
            hits[name][at] = positive[best].max() if best < len(people) else 0.0
    found: dict[str, Estimate] = {}
    for name in reversed(_SALIENCY):
        found[f"mAP {name}"] = figures.percent(f"mAP {name}", precision[name], unit="queries")
        found[f"Hit@1 {name}"] = figures.percent(f"Hit@1 {name}", hits[name], unit="queries")
    return Scored(found, dict(problems))


def _saliency(row: Answered) -> Array:
    """Returns the three people's scores of every clip, [clips, 3]."""
    try:
        clips = int(row.truth["duration"] / _CLIP)
        people = np.zeros((clips, 3))
        people[np.asarray(row.truth["relevant_clip_ids"], dtype=int)] = row.truth["saliency_scores"]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        what = "its truth has no usable duration, relevant_clip_ids and saliency_scores"
        raise broken("highlight detection", row, f"{what} ({type(error).__name__}: {error})") from None
    if not clips or not np.isfinite(people).all():
        raise broken(
            "highlight detection", row, f"its truth has {clips} clips of 2 s, or scores that are not finite"
        )
    return people
