"""Questions that are answered by yes or no: POPE and MME, by the scorers behind LLaVA's tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from input_pipeline.errors import UserError, nearest
from jaxllava.evaluate import metrics
from jaxllava.evaluate.metrics import Array, Estimate, Statistic
from jaxllava.evaluate.scoring import figures
from jaxllava.evaluate.scoring.answered import Answered, Problems, Scored, broken, check, groups, meta, text

# --- POPE ---


def pope_answer(answer: str) -> str:
    """Returns "no" where the first sentence has the word No, no or not, else "yes" (LLaVA's eval_pope.py)."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


# Of the four counts [..., units] of one category: true and false positives, true and false negatives.
def _f1(tp: Array, fp: Array, tn: Array, fn: Array) -> Array:
    return _share(2 * tp, 2 * tp + fp + fn)


def _precision(tp: Array, fp: Array, tn: Array, fn: Array) -> Array:
    return _share(tp, tp + fp)


def _recall(tp: Array, fp: Array, tn: Array, fn: Array) -> Array:
    return _share(tp, tp + fn)


def _accuracy(tp: Array, fp: Array, tn: Array, fn: Array) -> Array:
    return _share(tp + tn, tp + fp + tn + fn)


def _yes_ratio(tp: Array, fp: Array, tn: Array, fn: Array) -> Array:
    return _share(tp + fp, tp + fp + tn + fn)


def _share(part: Array, whole: Array) -> Array:
    # 0 where nothing is answered yes or nothing is true: the official script divides by zero there.
    return 100 * part.sum(axis=-1) / np.maximum(whole.sum(axis=-1), 1)


_POPE_FIGURES: dict[str, Statistic] = {
    "f1": _f1,
    "accuracy": _accuracy,
    "precision": _precision,
    "recall": _recall,
    "yes ratio": _yes_ratio,
}


def pope(rows: Sequence[Answered]) -> Scored:
    """POPE in percent: F1, accuracy, precision, recall and the share of yes, for each category and on average.

    The headline is the mean of the categories' F1 (random, popular, adversarial), LLaVA's single figure. Truths
    are "yes" or "no"; `meta["category"]` names the category (none: one category). With `meta["image"]` the
    intervals resample pictures: six questions of each category, and of all three, look at the same one.

    LLaVA's rule reads every answer without a "no" as yes, an empty one too; such answers are named.
    """
    check("POPE", rows)
    problems = Problems()
    cells = np.zeros((len(rows), 4))
    for index, row in enumerate(rows):
        if row.truth not in ("yes", "no"):
            raise broken("POPE", row, f"its truth is {row.truth!r}, not 'yes' or 'no'")
        answer = text("POPE", row, problems, "counts as yes")
        said = pope_answer(answer)
        if said == "yes" and answer.strip() and "yes" not in answer.lower():
            problems.note("neither yes nor no in the answer: counts as yes", row.id)
        cells[
            index, {("yes", "yes"): 0, ("yes", "no"): 1, ("no", "no"): 2, ("no", "yes"): 3}[said, row.truth]
        ] = 1

    categories = groups(row.meta.get("category", "all") for row in rows)
    pictured = all("image" in row.meta for row in rows)
    unit = "pictures" if pictured else "items"
    units = [row.meta["image"] if pictured else row.id for row in rows]
    # One row a picture, four columns a category: a picture without questions in a category adds nothing there.
    columns: dict[str, Array] = {}
    for category, index in categories.items():
        inside = np.zeros(len(rows))
        inside[index] = 1
        for cell, column in enumerate(figures.summed(units, *(cells * inside[:, None]).T)):
            columns[f"{category} {cell}"] = column

    found: dict[str, Estimate] = {}
    for name, statistic in _POPE_FIGURES.items():

        def average(*counts: Array, statistic: Statistic = statistic) -> Array:
            each = [statistic(*counts[at : at + 4]) for at in range(0, len(counts), 4)]
            return np.mean(each, axis=0)

        found[name] = metrics.estimate(average, columns, name=name, unit=unit)
    if len(categories) > 1:
        for category in sorted(map(str, categories)):
            own = [columns[f"{category} {cell}"] for cell in range(4)]
            asked = np.sum(own, axis=0) > 0
            own = {f"{cell}": column[asked] for cell, column in enumerate(own)}
            for name, statistic in _POPE_FIGURES.items():
                found[f"{name}/{category}"] = metrics.estimate(statistic, own, name=name, unit=unit)
    return Scored(found, dict(problems))


# --- MME ---

PERCEPTION = [
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
]
COGNITION = ["commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"]


def mme_answer(answer: str) -> str:
    """Returns "yes", "no" or "other": what the first four letters hold (MME's calculation.py)."""
    start = answer.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def _mme_score(right: Array, asked: Array, both: Array) -> Array:
    accuracy = right.sum(axis=-1) / asked.sum(axis=-1)
    return 100 * (accuracy + both.mean(axis=-1))  # both: the picture's two questions are right


def mme(rows: Sequence[Answered]) -> Scored:
    """MME's points: of each subtask accuracy + accuracy+ in percent (0-200), and their sums.

    The headline is "perception" (ten subtasks, at most 2000), LLaVA's figure; then "cognition" (four, at most
    800), then every subtask. `meta["category"]` is the subtask as MME names its files, `meta["image"]` the
    picture; a picture has two questions, and accuracy+ counts pictures with both right. Intervals resample
    pictures within their subtask. Answers that begin with neither yes nor no are wrong and named.
    """
    check("MME", rows)
    problems = Problems()
    right = []
    for row in rows:
        truth = str(row.truth).lower()
        if truth not in ("yes", "no"):
            raise broken("MME", row, f"its truth is {row.truth!r}, not 'yes' or 'no'")
        answer = text("MME", row, problems, "counted as wrong")
        said = mme_answer(answer)
        if said == "other" and answer.strip():
            problems.note("begins with neither yes nor no: counted as wrong", row.id)
        right.append(said == truth)

    pairs = groups((meta("MME", row, "category"), meta("MME", row, "image")) for row in rows)
    subtasks: dict[str, list[tuple[int, int, bool]]] = {}
    for (subtask, picture), index in pairs.items():
        if subtask not in PERCEPTION + COGNITION:
            where = f"MME: question {rows[index[0]].id!r}: no subtask {subtask!r}."
            raise UserError(where + nearest(str(subtask), PERCEPTION + COGNITION))
        if len(index) > 2:
            raise broken(
                "MME", rows[index[2]], f"a third question on picture {picture!r} of {subtask}; there are two"
            )
        if len(index) == 1:
            problems.note("the picture's other question has no answer: left out", rows[index[0]].id)
            continue
        hits = sum(right[at] for at in index)
        subtasks.setdefault(subtask, []).append((hits, 2, hits == 2))
    if not subtasks:
        raise UserError("MME: no picture has both of its questions answered; give the scorer whole pairs")

    parts = {}
    for subtask in PERCEPTION + COGNITION:
        if subtask in subtasks:
            table = np.array(subtasks[subtask], dtype=np.float64).T  # [3, pictures]
            columns = dict(zip(("right", "asked", "both"), table, strict=True))
            parts[subtask] = (_mme_score, columns)
        else:
            problems[f"no questions of subtask {subtask}: the sums are without it"] = []
    found: dict[str, Estimate] = {}
    for name, members in (("perception", PERCEPTION), ("cognition", COGNITION)):
        own = {subtask: parts[subtask] for subtask in members if subtask in parts}
        if own:
            found[name] = figures.total(name, own, "pictures")
    for subtask, (statistic, columns) in parts.items():
        found[subtask] = metrics.estimate(statistic, columns, name=subtask, unit="pictures")
    return Scored(found, dict(problems))
