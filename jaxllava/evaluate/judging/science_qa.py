"""ScienceQA with a text-only language model beside the answering model (LLaVA's eval_science_qa_gpt4.py and
eval_science_qa_gpt4_requery.py).

- alone: the judge answers by itself, without the picture;
- complement: the model's answer where the judge's has no letter;
- ensemble: where the two differ the judge is asked again, shown both; the model's answer where that has no letter.

A letter is guessed, as in the reference, where an answer has none or one beyond the choices; here by a seed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import numpy as np

from jaxllava.evaluate.judging import spread
from jaxllava.evaluate.judging.protocol import TEMPERATURE, Ask, Case, Judge, Judged, Plan, text_of
from jaxllava.evaluate.metrics import Array
from jaxllava.evaluate.scoring.answered import Answered, Problems
from jaxllava.evaluate.scoring.letters import FAILED, scienceqa_breakdown, scienceqa_letter
from jaxllava.evaluate.tasks.llava_layout import LETTER, LETTERS
from jaxllava.teacher.messages import Message, Request

# Both prompts are ours: no source prints them.
SYSTEM = (
    "You answer multiple-choice questions of school science. Reason in a few sentences, then end with the sentence "
    '"The answer is X.", where X is the letter of the right choice.'
)
_UNSEEN = "The question came with a picture that you cannot see. Choose by what the text tells."
_DIFFER = (
    "Two answers were given to this question, and they differ. The first is of a model that saw the picture, where "
    "there is one.\n\nFirst answer:\n{first}\n\nSecond answer:\n{second}\n\nWeigh both, decide, and end with the "
    'sentence "The answer is X."'
)
MAX_TOKENS = 1024
_LETTERS = "ABCDE"  # the reference's options


def _question(row: Answered) -> str:
    text = row.meta["prompt"].removesuffix(f"\n{LETTER}")
    return f"{text}\n\n{_UNSEEN}" if row.meta.get("image") else text


def _request(key: str, text: str, draw: int) -> Request:
    return Request(
        key, (Message("system", SYSTEM), Message("user", text)), MAX_TOKENS, TEMPERATURE, draw=draw
    )


def _key(case: Case, row: Answered, draw: int, again: bool = False) -> str:
    return f"{case.task.name}/{row.id}/{'again/' * again}{draw}"


def requests(case: Case, plan: Plan) -> Iterator[Request]:
    for row in case.rows:
        for draw in range(plan.repeats):
            yield _request(_key(case, row, draw), _question(row), draw)


def _chosen(letter: str, row: Answered, who: str, draw: int, plan: Plan, problems: Problems) -> int:
    """The index of a letter's choice; where it has none, a guess that seed, question, `who` and `draw` decide."""
    choices = len(row.meta["choices"])
    if letter in _LETTERS[:choices]:
        return _LETTERS.index(letter)
    problems.note(f"no letter of a choice in the answer of {who}: guessed", row.id)
    return random.Random(f"{plan.seed}/{who}/{draw}/{row.id}").randrange(choices)


def judge(case: Case, ask: Ask, plan: Plan) -> Judged:
    problems = Problems()
    first = ask(requests(case, plan))
    letters = [scienceqa_letter(row.answer or "") for row in case.rows]
    # None: the judge failed; the reference has no such answers.
    texts = {
        (number, draw): text_of(first[_key(case, row, draw)], row.id, problems)
        for number, row in enumerate(case.rows)
        for draw in range(plan.repeats)
    }
    alone = {at: scienceqa_letter(text) if text is not None else FAILED for at, text in texts.items()}
    differing = [at for at in texts if texts[at] is not None and alone[at] != letters[at[0]]]

    def again() -> Iterator[Request]:
        for number, draw in differing:
            row = case.rows[number]
            said = _DIFFER.format(first=row.answer or "", second=texts[number, draw])
            yield _request(_key(case, row, draw, again=True), f"{_question(row)}\n\n{said}", draw)

    second = ask(again()) if differing else {}
    shape = (len(case.rows), plan.repeats)
    right = {name: np.full(shape, np.nan) for name in ("ensemble", "complement", "alone", "model", "either")}
    kept = []
    for number, row in enumerate(case.rows):
        truth = LETTERS.index(row.truth) if isinstance(row.truth, str) else int(row.truth)
        mine = _chosen(letters[number], row, "the model", 0, plan, problems)
        for draw in range(plan.repeats):
            at = (number, draw)
            text, letter = texts[at], alone[at]
            own = None if text is None else _chosen(letter, row, "the judge", draw, plan, problems)
            joined, asked_again = mine, ""
            if at in differing:
                review = text_of(second[_key(case, row, draw, again=True)], row.id, problems)
                asked_again = FAILED if review is None else scienceqa_letter(review)
                if asked_again != FAILED:
                    joined = _chosen(asked_again, row, "the judge asked again", draw, plan, problems)
                elif review is not None:
                    problems.note("no letter when asked again: the model's answer stands", row.id)
            complement = mine if letter == FAILED or own is None else own
            right["ensemble"][at] = joined == truth
            right["complement"][at] = complement == truth
            right["model"][at] = mine == truth
            if own is not None:
                right["alone"][at] = own == truth
                right["either"][at] = truth in (own, mine)
            line = {
                "id": row.id,
                "draw": draw,
                "model": letters[number],
                "judge": letter,
                "again": asked_again,
            }
            kept.append(
                line | {"chosen": LETTERS[joined], "complement": LETTERS[complement], "truth": row.truth}
            )

    def figure(name: str, values: Array) -> None:
        if np.isfinite(values).any():
            found[name] = spread.estimate(spread.mean, [values * 100], name=name, seed=plan.seed)

    found = {}
    for name, values in right.items():
        figure(name, values)
    for name, members in scienceqa_breakdown(case.rows).items():
        if members:
            figure(name, right["ensemble"][members])
    return Judged(found, problems, {"choices.jsonl": "".join(json.dumps(line) + "\n" for line in kept)})


JUDGE = Judge(
    requests,
    judge,
    papers="GPT-4",
    ours="both prompts are ours: no source prints them",
    again="the judge is asked once more where it and the model differ",
    headline="the judge asked again where it and the model differ (ensemble)",
)
