"""Multiple choice by letter: ScienceQA, MMBench and SEED-Bench."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from input_pipeline.errors import UserError
from jaxllava.evaluate.metrics import Estimate
from jaxllava.evaluate.scoring import figures
from jaxllava.evaluate.scoring.answered import Answered, Problems, Scored, broken, check, groups, meta, text

FAILED = "FAILED"

# --- ScienceQA ---

_SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
_LETTERS = "ABCDE"  # eval_science_qa.py's options


def scienceqa_letter(answer: str) -> str:
    """Returns the letter in an answer, or FAILED, as LLaVA's eval_science_qa.py does.

    A bare letter A to E; else one that begins the answer as in "B. "; else the letter of "The answer is B.", if
    that occurs exactly once (any capital there).
    """
    if len(answer) == 1 and answer in _LETTERS:
        return answer
    if len(answer) >= 3 and answer[0] in _LETTERS and answer[1:3] == ". ":
        return answer[0]
    found = re.findall(r"The answer is ([A-Z]).", answer)
    return found[0] if len(found) == 1 else FAILED


def scienceqa(rows: Sequence[Answered], *, headline: str = "accuracy") -> Scored:
    """ScienceQA's accuracy in percent: all, NAT SOC LAN, TXT IMG NO, G1-6 G7-12.

    Truths are letters or indices of the right choice. `meta["choices"]` (or "candidates") lists the choices: a
    letter beyond them is wrong, as is an answer without one (the official -1). The breakdown needs `subject`
    ("natural science"), `grade` ("grade3"), `hint` and `image` of the problem; each is left out where no question
    has its key. TXT has a hint, IMG a picture, NO neither.

    Args:
        rows: their answers are texts.
        headline: "accuracy" (LLaVA's table of ScienceQA), or "IMG" (the SQA-I of LLaVA-1.5's).
    """
    check("ScienceQA", rows)
    problems = Problems()
    right = []
    for row in rows:
        choices = row.meta.get("choices", row.meta.get("candidates"))
        if not choices:
            raise broken("ScienceQA", row, "its meta has no 'choices'")
        letter = scienceqa_letter(text("ScienceQA", row, problems, "counted as wrong"))
        given = _LETTERS[: len(choices)]
        if letter == FAILED and row.answer:
            problems.note("no letter in the answer: counted as wrong", row.id)
        elif letter != FAILED and letter not in given:
            problems.note("letter beyond the choices: counted as wrong", row.id)
        right.append(letter in given and letter == _letter("ScienceQA", row, given))

    found = {"accuracy": figures.percent("accuracy", right)}
    for name, members in scienceqa_breakdown(rows).items():
        if members:
            found[name] = figures.percent(name, [right[at] for at in members])
    if headline not in found:
        raise UserError(f"ScienceQA: no question is of {headline!r}; there is {', '.join(found)}")
    return Scored({headline: found[headline], **found}, dict(problems))


def scienceqa_breakdown(rows: Sequence[Answered]) -> dict[str, list[int]]:
    """Returns NAT SOC LAN, TXT IMG NO, G1-6 G7-12 -> the positions of the rows that count there."""
    members: dict[str, list[int]] = {
        name: [] for name in ("NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12")
    }
    for at, row in enumerate(rows):
        if "subject" in row.meta:
            subject = row.meta["subject"]
            if subject not in _SUBJECTS:
                raise broken("ScienceQA", row, f"no subject {subject!r}; there is {', '.join(_SUBJECTS)}")
            members[_SUBJECTS[subject]].append(at)
        if row.meta.get("hint"):
            members["TXT"].append(at)
        if "image" in row.meta:
            if row.meta["image"]:
                members["IMG"].append(at)
            elif "hint" in row.meta and not row.meta["hint"]:
                members["NO"].append(at)
        if "grade" in row.meta:
            grade = re.fullmatch(r"(?:grade)?(\d+)", str(row.meta["grade"]))
            if grade is None or not 1 <= int(grade[1]) <= 12:
                raise broken("ScienceQA", row, f"no grade {row.meta['grade']!r}; 'grade1' to 'grade12'")
            members["G1-6" if int(grade[1]) <= 6 else "G7-12"].append(at)
    return members


def _letter(benchmark: str, row: Answered, letters: str) -> str:
    """Returns the truth as a letter; it may be given as an index."""
    truth: Any = row.truth
    if isinstance(truth, int) and not isinstance(truth, bool) and 0 <= truth < len(letters):
        return letters[truth]
    if isinstance(truth, str) and len(truth) == 1 and truth in letters:
        return truth
    raise broken(benchmark, row, f"its truth is {truth!r}, not one of {', '.join(letters)}")


# --- MMBench ---

_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_ROTATION = 1_000_000


def mmbench_letter(answer: str, choices: Mapping[str, str]) -> str | None:
    """Returns the letter that an answer chooses among `choices` (letter -> text), or None.

    The rules of MMBench's evaluation (VLMEvalKit's matching) before it asks a language model: exactly one of the
    letters stands alone in the answer, else exactly one choice's text occurs in it.
    """
    if any(refusal in answer for refusal in _REFUSALS):
        return None
    words = answer.translate(_MARKS).split()
    letters = [letter for letter in choices if letter in words]
    if len(letters) == 1:
        return letters[0]
    within = [letter for letter, choice in choices.items() if choice.lower() in answer.lower()]
    return within[0] if len(within) == 1 else None


def mmbench(rows: Sequence[Answered]) -> Scored:
    """MMBench's (and MMBench-CN's) circular accuracy in percent, over all, each category and each l2-category.

    A question counts as right when every one of its rotations is: rows of the official file whose index is the
    same modulo 1e6. So intervals resample questions. "single pass" is the accuracy of the unrotated rows. Where
    the file has no rotations the two are the same, and LLaVA's and the server's figures are lower than that.

    `meta` has `index` (else the id is it), `choices`: {"A": text, ...} or the texts in order (or "candidates"),
    and may have `category` and `l2-category`. Truths are letters or indices. An answer from which the official
    rules read no letter is wrong and named; the official script would ask a language model there.
    """
    check("MMBench", rows)
    problems = Problems()
    right, questions, rotated = [], [], []
    for row in rows:
        choices = _choices(row)
        answer = text("MMBench", row, problems, "counted as wrong")
        letter = mmbench_letter(answer, choices)
        if letter is None and answer.strip():
            problems.note("no letter in the answer: counted as wrong", row.id)
        right.append(letter is not None and letter == _letter("MMBench", row, "".join(choices)))
        index = row.meta.get("index", row.id)
        try:
            index = int(index)
        except (TypeError, ValueError):
            raise broken("MMBench", row, f"its index is {index!r}, not an integer") from None
        questions.append(index % _ROTATION)
        rotated.append(index >= _ROTATION)

    each = groups(questions)
    every = [all(right[at] for at in index) for index in each.values()]
    found: dict[str, Estimate] = {"accuracy": figures.percent("accuracy", every, unit="questions")}
    first = [correct for correct, again in zip(right, rotated, strict=True) if not again]
    if first:
        found["single pass"] = figures.percent("single pass", first)
    for key in ("category", "l2-category"):
        kinds = [rows[index[0]].meta.get(key) for index in each.values()]
        found |= figures.per_category(key, every, kinds)
    return Scored(found, dict(problems))


def _choices(row: Answered) -> dict[str, str]:
    choices = row.meta.get("choices", row.meta.get("candidates"))
    if not choices:
        raise broken("MMBench", row, "its meta has no 'choices'")
    if isinstance(choices, Mapping):
        return {str(letter): str(choice) for letter, choice in choices.items()}
    return dict(zip(string.ascii_uppercase, map(str, choices), strict=False))


# --- SEED-Bench ---


def seed_bench(rows: Sequence[Answered]) -> Scored:
    """SEED-Bench's accuracy in percent: all, "image", "video", and each question type.

    Truths are letters, and an answer is right when it is that letter and nothing else, as in LLaVA's script (or
    the letter chosen by likelihood, as in SEED-Bench's own). `meta["data_type"]` is "image" or "video",
    `meta["question_type"]` the type's name. Other answers than a letter are wrong and named.
    """
    check("SEED-Bench", rows)
    problems = Problems()
    right = []
    for row in rows:
        answer = text("SEED-Bench", row, problems, "counted as wrong")
        if answer.strip() and answer not in ("A", "B", "C", "D"):
            problems.note("not a single letter: counted as wrong", row.id)
        right.append(answer == _letter("SEED-Bench", row, "ABCD"))
    found = {"accuracy": figures.percent("accuracy", right)}
    if any("data_type" in row.meta for row in rows):
        kinds = groups(str(meta("SEED-Bench", row, "data_type")) for row in rows)
        for kind in sorted(map(str, kinds)):
            found[kind] = figures.percent(kind, [right[at] for at in kinds[kind]])
    found |= figures.per_category("type", right, [row.meta.get("question_type") for row in rows])
    return Scored(found, dict(problems))
