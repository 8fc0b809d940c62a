"""Right or wrong, and near or far: top-1, exact match, F1, and the figures of predicted numbers."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxllava.evaluate import metrics
from jaxllava.evaluate.metrics import Array, Estimate
from jaxllava.evaluate.scoring import figures
from jaxllava.evaluate.scoring.answered import Answered, Problems, Scored, broken, check, number, text

# --- top-1 and exact match ---


def top1(rows: Sequence[Answered], *, clubbed: Mapping[str, str] | None = None) -> Scored:
    """Top-1 accuracy in percent: the answer is the truth, or one of the truths where there are several.

    Several truths are several gold labels of one item (persuasion strategies); any of them is right. With
    `meta["category"]` every category has its own figure. Scores that are not finite choose nothing: such an
    item counts as wrong and is named.

    Args:
        rows: their answers are the chosen candidates, of the truth's type.
        clubbed: label -> its group. Adds "accuracy clubbed", in which a label is as good as any of its group (the
            30 sentiments of the ads in their 7 groups).
    """
    check("accuracy", rows)
    problems = Problems()
    right, right_clubbed = [], []
    for row in rows:
        golds = _golds(row)
        answer = row.answer
        if any(not math.isfinite(score) for score in row.scores):
            problems.note("scores that are not finite: counted as wrong", row.id)
            answer = None
        elif answer is None or answer == "":
            problems.note("empty answer: counted as wrong", row.id)
        right.append(answer in golds)
        if clubbed is not None:
            missing = [gold for gold in golds if gold not in clubbed]
            if missing:
                raise broken("accuracy", row, f"its label {missing[0]!r} is in no group")
            right_clubbed.append(
                answer is not None and clubbed.get(answer) in [clubbed[gold] for gold in golds]
            )
    found = {"accuracy": figures.percent("accuracy", right)}
    if clubbed is not None:
        found["accuracy clubbed"] = figures.percent("accuracy clubbed", right_clubbed)
    found |= figures.per_category("accuracy", right, [row.meta.get("category") for row in rows])
    return Scored(found, dict(problems))


def _golds(row: Answered) -> list[Any]:
    golds = list(row.truth) if isinstance(row.truth, (list, tuple)) else [row.truth]
    if not golds or any(gold is None or gold != gold for gold in golds):
        raise broken("accuracy", row, f"its truth is {row.truth!r}")
    return golds


def _lower(answer: str) -> str:
    return answer.strip().rstrip(".").strip().lower()


def _squad(answer: str) -> str:
    answer = "".join(character for character in answer.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", answer).split())


def _vqa(answer: str) -> str:
    from jaxllava.evaluate.scoring.vqa import official

    return official(answer)


NORMALISATIONS: dict[str, Callable[[str], str]] = {
    "none": lambda answer: answer,
    "strip": str.strip,
    "lower": _lower,  # outer blanks, final full stops and case
    "squad": _squad,  # case, punctuation, articles, blanks: SQuAD's official script
    "vqa": _vqa,  # VQAv2's official rule
}


def exact_match(rows: Sequence[Answered], *, normalise: str = "lower") -> Scored:
    """Exact match in percent, of texts normalised by the rule of that name in NORMALISATIONS.

    A truth may be a list; any of it is right. With `meta["category"]` every category has its own figure.
    """
    check("exact match", rows)
    rule = NORMALISATIONS[normalise]
    problems = Problems()
    right = []
    for row in rows:
        answer = rule(text("exact match", row, problems, "counted as wrong"))
        right.append(answer in {rule(str(gold)) for gold in _golds(row)} and answer != "")
    found = {"exact match": figures.percent("exact match", right)}
    found |= figures.per_category("exact match", right, [row.meta.get("category") for row in rows])
    return Scored(found, dict(problems))


def f1(rows: Sequence[Answered], *, positive: str | None = None) -> Scored:
    """F1 in percent: of the label `positive`, else macro (the mean over the labels that occur as a truth).

    An answer that is no label is a miss of its truth and a hit of nothing. F1 is 0 for a label that is
    never answered, as scikit-learn has it with `zero_division=0`.
    """
    check("f1", rows)
    problems = Problems()
    labels = sorted({str(_golds(row)[0]) for row in rows})
    if positive is not None and positive not in labels:
        raise broken("f1", rows[0], f"no question has the truth {positive!r}; labels: {', '.join(labels)}")
    code = {label: index for index, label in enumerate(labels)}
    true, answered = [], []
    for row in rows:
        if isinstance(row.truth, (list, tuple)):
            raise broken("f1", row, "it has several truths; F1 needs one label for each question")
        if row.answer is None or row.answer == "":
            problems.note("empty answer: counted as wrong", row.id)
        elif str(row.answer) not in code:
            problems.note("answer is none of the labels: counted as wrong", row.id)
        true.append(code[str(row.truth)])
        answered.append(code.get(str(row.answer), -1))
    counted = range(len(labels)) if positive is None else [code[positive]]

    def statistic(t: Array, a: Array) -> Array:
        # A label that a resample does not draw has F1 0/0; the mean is then over the others.
        total, drawn = np.zeros(t.shape[:-1]), np.zeros(t.shape[:-1])
        for label in counted:
            total += _f1(t == label, a == label)
            drawn += (t == label).any(axis=-1)
        with np.errstate(invalid="ignore"):
            return total / drawn * 100

    columns = {"true": true, "answered": answered}
    name = "f1" if positive is None else f"f1 of {positive}"
    right = np.equal(true, answered)
    found = {
        name: metrics.estimate(statistic, columns, name=name),
        "accuracy": figures.percent("accuracy", right),
    }
    return Scored(found, dict(problems))


def _f1(true: np.ndarray, answered: np.ndarray) -> Array:
    hits = (true & answered).sum(axis=-1)  # 0 where the label is not drawn
    size = true.sum(axis=-1) + answered.sum(axis=-1)
    return 2 * hits / np.maximum(size, 1)


# --- predicted numbers ---

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")


def number_in(answer: str) -> float | None:
    """Returns the first number in a text ("about 1,200 views" -> 1200), or None."""
    found = _NUMBER.search(answer)
    return float(found.group().replace(",", "")) if found else None


def _pearson(predicted: Array, true: Array) -> Array:
    x = predicted - predicted.mean(axis=-1, keepdims=True)
    y = true - true.mean(axis=-1, keepdims=True)
    norm = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    # Constant rows by range, not by norm, as in metrics.r2; a constant prediction correlates with nothing.
    constant = np.ptp(predicted, axis=-1) == 0
    rho = np.where(constant, 0.0, (x * y).sum(axis=-1) / np.where(norm == 0, 1.0, norm))
    return np.where(np.ptp(true, axis=-1) == 0, np.nan, np.clip(rho, -1, 1))


def _mse(predicted: Array, true: Array) -> Array:
    return ((predicted - true) ** 2).mean(axis=-1)


def _numbers(
    benchmark: str, rows: Sequence[Answered], headline: str, scale: Callable[[float], float]
) -> Scored:
    """The figures of predicted numbers, on `scale`; a ValueError of `scale` means outside its domain."""
    check(benchmark, rows)
    problems = Problems()
    predicted, true, ids = [], [], []
    for row in rows:
        truth = number(benchmark, row, row.truth, "truth")
        try:
            truth = scale(truth)
        except ValueError as error:
            raise broken(benchmark, row, f"its truth {truth:g} is {error}") from None
        value = number_in(row.answer) if isinstance(row.answer, str) else row.answer
        if value is None or isinstance(value, bool) or not math.isfinite(value):
            problems.note("no finite number in the answer: left out", row.id)
            continue
        try:
            predicted.append(scale(float(value)))
        except ValueError as error:
            problems.note(f"answer {error}: left out", row.id)
            continue
        true.append(truth)
        ids.append(row.id)
    if not ids:
        raise broken(
            benchmark, rows[0], f"neither it nor any of the {len(rows)} questions has a number for an answer"
        )
    both = {"predicted": predicted, "true": true}
    found = {"mse": metrics.estimate(_mse, both, name="mse", ids=ids)}
    if len(ids) > 1 and np.ptp(true) > 0:
        found["spearman"] = metrics.spearman(predicted, true, ids=ids)
        found["pearson"] = metrics.estimate(_pearson, both, name="pearson", ids=ids)
        found["r2"] = metrics.r2(predicted, true, ids=ids)
    else:
        problems["spearman, pearson, r2 left out: fewer than two different truths"] = []
        if headline not in found:
            raise broken(
                benchmark, rows[0], f"{headline} needs two or more answered questions that differ in truth"
            )
    ordered: dict[str, Estimate] = {headline: found.pop(headline), **found}
    return Scored(ordered, dict(problems))


def _itself(value: float) -> float:
    return value


def spearman(rows: Sequence[Answered]) -> Scored:
    """Spearman's rank correlation (memorability), ties at average ranks; then Pearson, R2 and the squared error.

    Answers are numbers, or texts whose first number counts. An answer without a number ranks nowhere: it is
    left out, counted and named.
    """
    return _numbers("spearman", rows, "spearman", _itself)


def pearson(rows: Sequence[Answered]) -> Scored:
    """Pearson's correlation; as `spearman`."""
    return _numbers("pearson", rows, "pearson", _itself)


def r2(rows: Sequence[Answered]) -> Scored:
    """1 - SSres/SStot; as `spearman`."""
    return _numbers("r2", rows, "r2", _itself)


def mse(rows: Sequence[Answered]) -> Scored:
    """The mean squared error, in the truth's unit squared; as `spearman`."""
    return _numbers("mse", rows, "mse", _itself)


def _log(value: float) -> float:
    if value <= 0:
        raise ValueError("not above 0, so that it has no logarithm")
    return math.log(value)


def _tenfold_share(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError("not a share in [0, 1]")
    return 10 * value


def lvu_view_count(rows: Sequence[Answered]) -> Scored:
    """LVU's view_count: the mean squared error of ln(views). Truths and answers are view counts.

    LVU's public code (ViS4mer's copy of the targets) learns ln(views) less a constant, the training mean; the
    constant leaves the error as it is. So 1 is a miss by the factor e.
    """
    return _numbers("LVU view_count", rows, "mse", _log)


def lvu_like_ratio(rows: Sequence[Answered]) -> Scored:
    """LVU's like_ratio: the mean squared error of 10 x likes / (likes + dislikes).

    Truths and answers are likes / (likes + dislikes), in [0, 1]. LVU's public code learns ten times that less a
    constant, the training mean.
    """
    return _numbers("LVU like_ratio", rows, "mse", _tenfold_share)
