"""Video question answering by Video-ChatGPT's protocol (LLaMA-VID's llamavid/eval/eval_activitynet_qa.py): the judge
says yes or no and a score of 0 to 5; accuracy and mean score.

The reference asks until every review can be read; here at most three times, and what cannot be read then is named.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from input_pipeline.errors import UserError
from input_pipeline.sources import fields
from jaxllava.evaluate.judging import spread, written
from jaxllava.evaluate.judging.protocol import Ask, Case, Judge, Judged, Plan, text_of, until_readable
from jaxllava.evaluate.metrics import Array, Estimate
from jaxllava.evaluate.scoring.answered import Answered, Problems
from jaxllava.evaluate.scoring.reviews import video_verdict
from jaxllava.evaluate.tasks.llava_layout import read_json
from jaxllava.evaluate.tasks.task import Task
from jaxllava.teacher.messages import Answer, Message, Request

# Interface strings of Video-ChatGPT's evaluation, as LLaMA-VID (Apache-2.0) has them; figures depend on every letter.
SYSTEM = (
    "You are an intelligent chatbot designed for evaluating the correctness of generative outputs for "
    "question-answer pairs. Your task is to compare the predicted answer with the correct answer and determine if "
    "they match meaningfully. Here's how you can accomplish the task:------##INSTRUCTIONS: - Focus on the meaningful "
    "match between the predicted answer and the correct answer.\n- Consider synonyms or paraphrases as valid "
    "matches.\n- Evaluate the correctness of the prediction compared to the answer."
)
_USER = (
    "Please evaluate the following video-based question-answer pair:\n\n"
    "Question: {question}\nCorrect Answer: {answer}\nPredicted Answer: {pred}\n\n"
    "Provide your evaluation only as a yes/no and score where the score is an integer value between 0 and 5, with 5 "
    "indicating the highest meaningful match. Please generate the response in the form of a Python dictionary string "
    "with keys 'pred' and 'score', where value of 'pred' is  a string of 'yes' or 'no' and value of 'score' is in "
    "INTEGER, not STRING.DO NOT PROVIDE ANY OTHER OUTPUT TEXT OR EXPLANATION. Only provide the Python dictionary "
    "string. For example, your response should look like this: {{'pred': 'yes', 'score': 4.8}}."
)
MAX_TOKENS = 256  # the reference sets none; the dictionary has some fifteen
TEMPERATURE = 1.0  # the reference sets none, and this is the endpoint's own
ROUNDS = 3


def _key(case: Case, row: Answered, draw: int) -> str:
    return f"{case.task.name}/{row.id}/{draw}"


def _asked(row: Answered) -> dict[str, str]:
    """The reference's record of a question: {"q", "a", "pred"}."""
    return {"q": row.meta.get("question", row.meta["prompt"]), "a": row.truth, "pred": row.answer or ""}


def requests(case: Case, plan: Plan) -> Iterator[Request]:
    for row in case.rows:
        asked = _asked(row)
        text = _USER.format(question=asked["q"], answer=asked["a"], pred=asked["pred"])
        messages = (Message("system", SYSTEM), Message("user", text))
        for draw in range(plan.repeats):
            yield Request(_key(case, row, draw), messages, MAX_TOKENS, TEMPERATURE, draw=draw)


def judge(case: Case, ask: Ask, plan: Plan) -> Judged:
    again = lambda request, number: dataclasses.replace(
        request, key=f"{request.key}/again {number}", draw=request.draw + number * plan.repeats
    )
    readable = lambda text: video_verdict(text) is not None
    said = until_readable(ask, requests(case, plan), again, readable, ROUNDS)
    problems = Problems()
    verdicts = np.full((2, len(case.rows), plan.repeats), np.nan)
    files = {}
    seen: Counter[str] = Counter()
    names = []
    for row in case.rows:  # as the reference numbers questions of one id
        id = str(row.meta.get("id", row.id))
        names.append(f"{id}_{seen[id]}")
        seen[id] += 1
    for draw in range(plan.repeats):
        reviews = {}
        for number, row in enumerate(case.rows):
            answer = said[_key(case, row, draw)]
            text = text_of(answer, row.id, problems)
            verdict = video_verdict(text) if text is not None else None
            if verdict is not None:
                verdicts[:, number, draw] = verdict
                pred = "yes" if verdict[0] else "no"
                reviews[names[number]] = [{"pred": pred, "score": verdict[1]}, _asked(row)]
            elif isinstance(answer, Answer):
                problems.note(
                    f"no yes or no and score 0-5 in the review, asked {ROUNDS} times: left out", row.id
                )
        files[f"reviews_{draw + 1}.json"] = json.dumps(reviews, indent=1) + "\n"
    return Judged(figures(verdicts, plan.seed), problems, files)


def figures(verdicts: Array, seed: int = 0) -> dict[str, Estimate]:
    """ "accuracy" in percent and the mean "score" of 0 to 5, of [2, questions, judgings]: yes (0 or 1) and score."""
    accuracy = spread.estimate(spread.mean, [verdicts[0] * 100], name="accuracy", seed=seed)
    return {
        "accuracy": accuracy,
        "score": spread.estimate(spread.mean, [verdicts[1]], name="score", seed=seed),
    }


def read(task: Task, paths: Sequence[Path], plan: Plan) -> Judged:
    """The figures of files that the reference joins its reviews in: {key: [{"pred", "score"}, {"q", "a", "pred"}]}.
    Several files are repeats.

    Raises UserError where one holds no review.
    """
    problems = Problems()
    questions, files = written.together(task, paths, lambda path: _reviews(task, path), problems)
    verdicts = np.full((2, len(questions), len(files)), np.nan)
    for draw, reviews in enumerate(files):
        for number, question in enumerate(questions):
            if (verdict := reviews.get(question)) is not None:
                verdicts[:, number, draw] = verdict
            elif question in reviews:
                problems.note("no yes or no and score 0-5 in the review: left out", question)
    return Judged(figures(verdicts, plan.seed), problems)


def _reviews(task: Task, path: Path) -> dict[str, tuple[bool, int] | None]:
    """A file's reviews by question; None for one that cannot be read."""
    try:
        found = {fields.writable(key): video_verdict(review) for key, review in read_json(path, dict).items()}
    except UserError:
        found = {}
    if not any(verdict is not None for verdict in found.values()):
        form = 'one JSON object as Video-ChatGPT\'s script joins them, {key: [{"pred", "score"}, question]}'
        raise written.no_form(task, path, form)
    return found


JUDGE = Judge(
    requests,
    judge,
    papers="gpt-3.5-turbo",
    again=f"a review that cannot be read is asked again, {ROUNDS} times in all",
    read=read,
)
