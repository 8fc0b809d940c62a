"""Figures of reviews that a language model has written: LLaVA-Bench, Video-ChatGPT, dense captions.

The reviews exist already; nothing here asks for one. A row's `answer` is the review.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from input_pipeline.errors import UserError
from jaxllava.evaluate import metrics
from jaxllava.evaluate.metrics import Array, Estimate
from jaxllava.evaluate.scoring import figures
from jaxllava.evaluate.scoring.answered import Answered, Problems, Scored, broken, check, groups, meta

# --- LLaVA's relative score ---

_MOST = 1e6  # points; LLaVA's scores are 1 to 10


def score_pair(review: str) -> tuple[float, float] | None:
    """Returns the two scores in a review's first line, or None (LLaVA's parse_score).

    Commas count as blanks, and the line must then split at single blanks into two numbers: "9, 8" does not.
    """
    words = review.split("\n")[0].replace(",", " ").split(" ")
    if len(words) != 2:
        return None
    try:
        first, second = float(words[0]), float(words[1])
    except ValueError:
        return None
    return (first, second) if is_score(first) and is_score(second) else None


def is_score(value: float) -> bool:
    """Whether a number can be one; what is beyond a million would make every mean infinite sooner or later."""
    return math.isfinite(value) and abs(value) <= _MOST


def _relative(first: Array, second: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * second.mean(axis=-1) / first.mean(axis=-1)


def relative_score(rows: Sequence[Answered], *, count_unparsable: bool = True) -> Scored:
    """LLaVA's relative score in percent: 100 x the model's mean score / the reference's, over all and by category.

    A ratio of means, not a mean of ratios (LLaVA-Bench COCO and in the wild). `answer` is the review's text;
    `meta["category"]` its category (`llava_bench_conv`, ...). Then "reference" and "model": ten times the two means.

    Args:
        rows: the reviews; truths are not looked at.
        count_unparsable: a review without two scores counts as -1 and -1, as LLaVA's script has it; else it is
            left out. It is named either way.
    """
    check("relative score", rows)
    problems = Problems()
    pairs, kept = [], []
    consequence = "counted as -1 -1" if count_unparsable else "left out"
    for row in rows:
        pair = score_pair(row.answer) if isinstance(row.answer, str) else None
        if pair is None:
            problems.note(f"no two scores in the review's first line: {consequence}", row.id)
            if not count_unparsable:
                continue
            pair = (-1.0, -1.0)
        pairs.append(pair)
        kept.append(row)
    if not pairs:
        raise UserError(f"relative score: none of the {len(rows)} reviews has two scores in its first line")
    first, second = np.array(pairs).T

    def figure(name: str, index: Sequence[int] | slice) -> Estimate:
        if first[index].mean() == 0:
            raise UserError(f"relative score: the reference's mean score of {name!r} is 0")
        columns = {"reference": first[index], "model": second[index]}
        return metrics.estimate(_relative, columns, name=name, unit="reviews")

    found = {"all": figure("all", slice(None))}
    categories = groups(row.meta.get("category") for row in kept)
    for category in sorted(str(key) for key in categories if key is not None):
        found[category] = figure(category, categories[category])
    found["reference"] = figures.mean("reference", first, scale=10, unit="reviews")
    found["model"] = figures.mean("model", second, scale=10, unit="reviews")
    return Scored(found, dict(problems))


# --- Video-ChatGPT ---


def _review_dict(review: Any) -> dict[str, Any] | None:
    """Returns the judge's dictionary from a dict, its text, or the stored [dict, question] pair; else None."""
    if isinstance(review, str):
        try:
            review = ast.literal_eval(review.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
    if isinstance(review, (list, tuple)) and review:
        review = review[0]
    return review if isinstance(review, dict) else None


def _whole_score(review: dict[str, Any]) -> int | None:
    """Returns the score 0-5 as the official `int(...)` reads it: 4.8 is 4, "4" is 4, "4.8" is none."""
    try:
        score = int(review.get("score"))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return score if 0 <= score <= 5 else None


def _verdict(review: dict[str, Any]) -> bool | None:
    said = review.get("pred", review.get("predicted"))
    if not isinstance(said, str):
        return None
    # The official order: "yes" anywhere wins over "no".
    return True if "yes" in said.lower() else False if "no" in said.lower() else None


def video_verdict(review: Any) -> tuple[bool, int] | None:
    """Returns whether the judge says yes, and its score 0-5; None where the review does not say both.

    The review is {"pred": "yes", "score": 4} as a dict, as text, or [dict, question] as stored.
    """
    found = _review_dict(review)
    if found is None:
        return None
    verdict, score = _verdict(found), _whole_score(found)
    return None if verdict is None or score is None else (verdict, score)


def video_qa(rows: Sequence[Answered]) -> Scored:
    """Video question answering by Video-ChatGPT's judge: "accuracy" in percent and the mean "score", 0-5.

    `answer` is the review: {"pred": "yes", "score": 4} as a dict, as text, or [dict, question] as stored. The
    official script asks again until a review can be read; one that cannot is left out here and named.
    """
    check("video QA", rows)
    problems = Problems()
    yes, scores = [], []
    for row in rows:
        verdict = video_verdict(row.answer)
        if verdict is None:
            problems.note("no yes or no and score 0-5 in the review: left out", row.id)
            continue
        yes.append(verdict[0])
        scores.append(verdict[1])
    if not yes:
        raise UserError(f"video QA: none of the {len(rows)} reviews has a yes or no and a score")
    found = {"accuracy": figures.percent("accuracy", yes), "score": figures.mean("score", scores)}
    return Scored(found, dict(problems))


def video_dialogue(rows: Sequence[Answered]) -> Scored:
    """Video-ChatGPT's generation benchmark: the mean score, 0-5, of each `meta["category"]`, and their mean first.

    The categories are correctness, detail, context, temporal and consistency; each is judged on its own, so a
    question has one row for each. Reviews as in `video_qa`, without the yes or no.
    """
    check("video dialogue", rows)
    problems = Problems()
    scores: dict[str, list[int]] = {}
    for row in rows:
        review = _review_dict(row.answer)
        score = _whole_score(review) if review is not None else None
        if score is None:
            problems.note("no score 0-5 in the review: left out", row.id)
            continue
        scores.setdefault(str(meta("video dialogue", row, "category")), []).append(score)
    if not scores:
        raise UserError(f"video dialogue: none of the {len(rows)} reviews has a score")

    def part(values: Array) -> Array:
        return values.mean(axis=-1) / len(scores)

    each: dict[str, tuple[metrics.Statistic, Mapping[str, ArrayLike]]] = {
        category: (part, {"score": scores[category]}) for category in sorted(scores)
    }
    found = {"mean": figures.total("mean", each, "reviews")}
    for category in sorted(scores):
        found[category] = figures.mean(category, scores[category], unit="reviews")
    return Scored(found, dict(problems))


# --- dense captions ---

CRITERIA = ("correctness", "detail", "quality")
_MARKUP = r"[ \t\r*_`]*"
_NUMBER = rf"{_MARKUP}(\d+(?:\.\d+)?)(?:[ \t]*/[ \t]*10|[ \t]+out of 10)?\.?{_MARKUP}"
_SCORE_LINE = re.compile(
    rf"^[>#-]*{_MARKUP}(?:(?:my|final|overall)[ \t]+)*score{_MARKUP}:{_NUMBER}$", re.IGNORECASE | re.MULTILINE
)
_BARE = re.compile(_NUMBER)


def caption_score(review: str, is_cut: bool = False) -> float | None:
    """Returns the score from 1 to 10 in a caption review, or None.

    It stands in the last line that is "Score: N", as our prompt asks for, with or without markup; "8/10" is 8. A
    review of a number alone is that score. No other number is read: those of the explanation count dogs.

    Args:
        review: its text.
        is_cut: it ended at its token limit: its last line may be half a line.
    """
    if is_cut:
        review = review.rpartition("\n")[0]
    found = _SCORE_LINE.findall(review)
    if not found and not is_cut and (bare := _BARE.fullmatch(review.strip())):
        found = [bare[1]]
    score = float(found[-1]) if found else 0.0
    return score if 1 <= score <= 10 else None


def dense_captions(rows: Sequence[Answered]) -> Scored:
    """Dense captions by three judges, 1-10: "average", then correctness, detail and quality.

    Each row is one review (its text, or the number) and names its criterion in `meta["criterion"]`; with
    `meta["image"]` a picture's three reviews are resampled together. The average is the mean of the three means,
    as in the paper's table. Reviews without a score are left out and named.
    """
    check("dense captions", rows)
    problems = Problems()
    kept, scores = [], []
    for row in rows:
        criterion = meta("dense captions", row, "criterion")
        if criterion not in CRITERIA:
            raise broken("dense captions", row, f"no criterion {criterion!r}; there is {', '.join(CRITERIA)}")
        answer = row.answer
        score = caption_score(answer) if isinstance(answer, str) else answer
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not 1 <= score <= 10:
            problems.note("no score from 1 to 10 in the review: left out", row.id)
            continue
        kept.append(row)
        scores.append(float(score))
    by_criterion = groups(row.meta["criterion"] for row in kept)
    missing = [criterion for criterion in CRITERIA if criterion not in by_criterion]
    if missing:
        raise UserError(
            f"dense captions: no review of {', '.join(missing)} has a score; the average needs all three"
        )

    units = [row.meta.get("image", row.id) for row in kept]
    columns: dict[str, Array] = {}
    for criterion in CRITERIA:
        inside = np.zeros(len(kept))
        inside[by_criterion[criterion]] = 1
        sums, counts = figures.summed(units, np.array(scores) * inside, inside)
        columns |= {f"{criterion} sum": sums, f"{criterion} count": counts}

    def average(*table: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            means = [table[at].sum(axis=-1) / table[at + 1].sum(axis=-1) for at in range(0, len(table), 2)]
        return np.mean(means, axis=0)

    unit = "pictures" if all("image" in row.meta for row in kept) else "reviews"
    found = {"average": metrics.estimate(average, columns, name="average", unit=unit)}
    for criterion in CRITERIA:
        values = [scores[at] for at in by_criterion[criterion]]
        found[criterion] = figures.mean(criterion, values, unit="reviews")
    return Scored(found, dict(problems))
