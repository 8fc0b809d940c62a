"""What a model knows of plaza's held-out posts: zero-shot mood, topic and memorability, likes, comments, and stage 2.

Protocols as in Behavior-LLaVA section 4: next-token log-probabilities over the task's words (mood, topic,
memorability), R2 of the like percentage, perplexity of the true top comment. Per-item values are kept, so that arms
are compared on the same items.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline import records
from input_pipeline.errors import UserError
from input_pipeline.plaza.questions import MEMORABILITY_QUESTION, MOOD_QUESTION, TOPIC_QUESTION
from input_pipeline.types import Record
from jaxllava.api import Model
from jaxllava.evaluate import metrics

Progress = Callable[[int, int], None]
Columns = dict[str, list[list[float]]]  # task -> the columns that its metric takes

TASKS = {  # task -> its metric in `metrics`
    "mood": "accuracy",
    "topic": "accuracy",
    "memorability": "spearman",
    "likes_r2": "r2",
    "comment_perplexity": "perplexity",
    "stage2": "accuracy",
}
LIKE_GRID = tuple(range(2, 100, 4))  # per cent; the prediction is the mean over the grid


@dataclass(frozen=True)
class Heldout:
    """The held-out posts with their truths, and held-out stage-2 questions."""

    posts: list[Record]
    truths: list[dict[str, Any]]
    moods: list[str]
    topics: list[str]
    questions: list[Record]

    def chance(self) -> dict[str, float]:
        return {
            "mood": 1 / len(self.moods),
            "topic": 1 / len(self.topics),
            "memorability": 0.0,
            "likes_r2": 0.0,
        }


def load_heldout(data: Path, gold: Path, posts: int, questions: int) -> Heldout:
    """The first `posts` held-out posts that have truths, and as many questions of held-out instruction records."""
    truth = json.loads(gold.read_text())
    source = records.open_split(data, "behavior_heldout")
    pairs = [
        (record, truth["posts"].get(record.meta["post_id"]))
        for record in map(source.__getitem__, range(len(source)))
    ]
    usable = [
        (r, t) for r, t in pairs if t and r.meta.get("like_rate") is not None and r.meta.get("comments")
    ]
    if not usable:
        raise UserError(f"{data} has no held-out behaviour record with a truth in {gold}")
    instruct = records.open_split(data, "instruct_heldout")
    asked = [record for record in map(instruct.__getitem__, range(len(instruct))) if record.images]
    return Heldout(
        posts=[record for record, _ in usable[:posts]],
        truths=[t for _, t in usable[:posts]],
        moods=list(truth["moods"]),
        topics=list(truth["topics"]),
        questions=asked[:questions],
    )


def answer_before(record: Record, text: str) -> str:
    """The start of a record's answer up to `text` (without the space in front, which is the next token's)."""
    answer = record.conversations[1].text
    position = answer.find(text)
    if position < 0:
        raise ValueError(f"record {record.id}: {text!r} is not in its answer")
    return answer[:position]


def top_comment(record: Record) -> str:
    """The first comment of the answer's list, as it is written there."""
    answer = record.conversations[1].text
    return answer.split('1. "', 1)[1].split('"\n', 1)[0].removesuffix('"')


def evaluate(model: Model, heldout: Heldout, progress: Progress | None = None) -> Columns:
    """All tasks of `TASKS` on one model. Returns each task's per-item columns, as its metric takes them."""
    report = progress or (lambda done, total: None)
    posts, images = heldout.posts, [record.images[0] for record in heldout.posts]
    columns: Columns = {}

    def ask(question: str, words: Sequence[str]) -> np.ndarray:
        return model.score([f"<image>\n{question}"] * len(posts), images, list(words))  # [N, words]

    def classify(question: str, words: Sequence[str], key: str) -> list[list[float]]:
        scores = ask(question, words)
        truth = np.asarray([words.index(t[key]) for t in heldout.truths])
        return [(scores.argmax(axis=1) == truth).astype(float).tolist()]

    columns["mood"] = classify(MOOD_QUESTION, heldout.moods, "mood")
    report(1, len(TASKS))
    columns["topic"] = classify(TOPIC_QUESTION, heldout.topics, "topic")
    report(2, len(TASKS))
    expected = _expectation(ask(MEMORABILITY_QUESTION, [str(d) for d in range(10)]), np.arange(10) / 9)
    columns["memorability"] = [expected, [t["memorability"] for t in heldout.truths]]
    report(3, len(TASKS))

    rates = [float(record.meta["like_rate"]) for record in posts]
    questions = [record.conversations[0].text for record in posts]
    prefixes = [answer_before(r, f"{100 * rate:.1f}%") for r, rate in zip(posts, rates, strict=True)]
    scores = model.score(questions, images, [f"{v}.0%" for v in LIKE_GRID], answer_prefix=prefixes)
    columns["likes_r2"] = [_expectation(scores, np.asarray(LIKE_GRID) / 100), rates]
    report(4, len(TASKS))

    comments = [top_comment(record) for record in posts]
    prefixes = [answer_before(r, comment) for r, comment in zip(posts, comments, strict=True)]
    sums, counts = model.loglikelihood(questions, images, comments, answer_prefix=prefixes)
    columns["comment_perplexity"] = [sums.tolist(), counts.tolist()]
    report(5, len(TASKS))

    asked = [
        (record, record.conversations[0].text, record.conversations[1].text) for record in heldout.questions
    ]
    longest = max((len(model.tokenizer(answer)["input_ids"]) for _, _, answer in asked), default=1)
    answers = model.generate(
        [question for _, question, _ in asked], [r.images[0] for r, _, _ in asked], max_new_tokens=longest + 2
    )
    same = lambda a, b: a.strip().rstrip(".").lower() == b.strip().rstrip(".").lower()
    columns["stage2"] = [[float(same(a, truth)) for a, (_, _, truth) in zip(answers, asked, strict=True)]]
    report(6, len(TASKS))
    return columns


def _expectation(scores: np.ndarray, values: np.ndarray) -> list[float]:
    """The mean of `values` under softmax(scores [N, len(values)])."""
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (weights @ values / weights.sum(axis=1)).tolist()


def estimates(columns: Columns) -> dict[str, metrics.Estimate]:
    """Each task's figure with its interval over items."""
    return {task: getattr(metrics, metric)(*columns[task]) for task, metric in TASKS.items()}


def differences(first: Columns, second: Columns) -> dict[str, metrics.Estimate]:
    """first - second for each task, paired by item."""
    return {
        task: metrics.paired_difference(metric, first[task], second[task]) for task, metric in TASKS.items()
    }
