"""What a model knows of held-out posts: likes, comments, and, on plaza, mood, topic, memorability and stage 2.

Protocols as in Behavior-LLaVA section 4: next-token log-probabilities over the task's words (mood, topic,
memorability), R2 of the like percentage, perplexity of the true top comment. Per-item values are kept, so that arms
are compared on the same items.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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

LIKE_GRID = tuple(range(2, 100, 4))  # per cent; the prediction is the mean over the grid


@dataclass(frozen=True)
class Heldout:
    """Held-out posts and stage-2 questions. Of plaza's own posts the truths are known: one for each, or none."""

    posts: list[Record]
    questions: list[Record]
    truths: list[dict[str, Any]]
    moods: list[str]
    topics: list[str]

    @property
    def liked(self) -> list[Record]:
        """Posts with a like rate; none where all rates are equal, as nothing is then to be explained."""
        liked = [record for record in self.posts if record.meta.get("like_rate") is not None]
        return liked if len({record.meta["like_rate"] for record in liked}) > 1 else []

    @property
    def commented(self) -> list[Record]:
        return [record for record in self.posts if record.meta.get("comments")]

    @property
    def tasks(self) -> list[str]:
        """The tasks that this data can answer."""
        return [name for name, task in TASKS.items() if getattr(self, task.needs)]

    def chance(self) -> dict[str, float]:
        return {
            "mood": 1 / len(self.moods),
            "topic": 1 / len(self.topics),
            "memorability": 0.0,
            "likes_r2": 0.0,
        }


@dataclass(frozen=True)
class Task:
    """`metric` of `metrics` over the columns that `run` gives; it `needs` a list of Heldout that is not empty."""

    metric: str
    needs: str
    run: Callable[[Model, Heldout], list[list[float]]]


def load_heldout(data: Path, gold: Path | None, posts: int, questions: int) -> Heldout:
    """The first `posts` held-out posts and `questions` of held-out instruction records.

    With `gold` (plaza's gold.json) only posts that have truths, likes and comments: every task on the same posts.
    """
    if posts < 1:
        raise UserError(f"{posts} held-out posts to use: at least 1 is needed")
    truth = _read_gold(gold) if gold else {"posts": {}, "moods": [], "topics": []}
    source = records.open_split(data, "behavior_heldout")
    found, truths = [], []
    for record in map(source.__getitem__, range(len(source))):
        known = truth["posts"].get(record.meta["post_id"])
        parts = (record.meta.get("like_rate") is not None, bool(record.meta.get("comments")))
        if (known and all(parts)) if gold else any(parts):
            found.append(record)
            truths += [known] if gold else []
        if len(found) == posts:
            break
    if not found:
        raise UserError(
            f"{data} has no held-out post with " + (f"a truth in {gold}" if gold else "reactions")
        )
    asked = []
    if "instruct_heldout" in records.splits(data):
        instruct = records.open_split(data, "instruct_heldout")
        pictured = (record for record in map(instruct.__getitem__, range(len(instruct))) if record.images)
        asked = list(itertools.islice(pictured, questions))
    return Heldout(found, asked, truths, list(truth["moods"]), list(truth["topics"]))


def _read_gold(path: Path) -> dict[str, Any]:
    try:
        truth = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"--gold {path}: not readable as JSON ({error})") from error
    missing = [key for key in ("posts", "moods", "topics") if not isinstance(truth, dict) or key not in truth]
    if missing:
        raise UserError(f"--gold {path}: not a gold.json of plaza, {', '.join(missing)} is missing")
    return truth


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
    """The tasks that `heldout` can answer, on one model: each task's per-item columns, as its metric takes them."""
    columns: Columns = {}
    for name in heldout.tasks:
        columns[name] = TASKS[name].run(model, heldout)
        if progress:
            progress(len(columns), len(heldout.tasks))
    return columns


def _ask(model: Model, posts: Sequence[Record], question: str, words: Sequence[str]) -> np.ndarray:
    images = [record.images[0] for record in posts]
    return model.score([f"<image>\n{question}"] * len(posts), images, list(words))  # [N, words]


def _classify(model: Model, heldout: Heldout, *, question: str, key: str) -> list[list[float]]:
    words = getattr(heldout, f"{key}s")
    scores = _ask(model, heldout.posts, question, words)
    truth = np.asarray([words.index(t[key]) for t in heldout.truths])
    return [(scores.argmax(axis=1) == truth).astype(float).tolist()]


def _memorability(model: Model, heldout: Heldout) -> list[list[float]]:
    scores = _ask(model, heldout.posts, MEMORABILITY_QUESTION, [str(d) for d in range(10)])
    return [_expectation(scores, np.arange(10) / 9), [t["memorability"] for t in heldout.truths]]


def _likes(model: Model, heldout: Heldout) -> list[list[float]]:
    posts = heldout.liked
    rates = [float(record.meta["like_rate"]) for record in posts]
    prefixes = [answer_before(r, f"{100 * rate:.1f}%") for r, rate in zip(posts, rates, strict=True)]
    questions = [record.conversations[0].text for record in posts]
    images = [record.images[0] for record in posts]
    scores = model.score(questions, images, [f"{v}.0%" for v in LIKE_GRID], answer_prefix=prefixes)
    return [_expectation(scores, np.asarray(LIKE_GRID) / 100), rates]


def _comments(model: Model, heldout: Heldout) -> list[list[float]]:
    posts = heldout.commented
    comments = [top_comment(record) for record in posts]
    prefixes = [answer_before(r, comment) for r, comment in zip(posts, comments, strict=True)]
    questions = [record.conversations[0].text for record in posts]
    images = [record.images[0] for record in posts]
    sums, counts = model.loglikelihood(questions, images, comments, answer_prefix=prefixes)
    return [sums.tolist(), counts.tolist()]


def _stage2(model: Model, heldout: Heldout) -> list[list[float]]:
    asked = [(r.conversations[0].text, r.conversations[1].text, list(r.images)) for r in heldout.questions]
    longest = max(len(model.tokenizer(answer)["input_ids"]) for _, answer, _ in asked)
    answers = model.generate(
        [question for question, _, _ in asked], [image for *_, image in asked], max_new_tokens=longest + 2
    )
    same = lambda a, b: a.strip().rstrip(".").lower() == b.strip().rstrip(".").lower()
    return [[float(same(a, truth)) for a, (_, truth, _) in zip(answers, asked, strict=True)]]


TASKS = {
    "mood": Task("accuracy", "truths", partial(_classify, question=MOOD_QUESTION, key="mood")),
    "topic": Task("accuracy", "truths", partial(_classify, question=TOPIC_QUESTION, key="topic")),
    "memorability": Task("spearman", "truths", _memorability),
    "likes_r2": Task("r2", "liked", _likes),
    "comment_perplexity": Task("perplexity", "commented", _comments),
    "stage2": Task("accuracy", "questions", _stage2),
}


def _expectation(scores: np.ndarray, values: np.ndarray) -> list[float]:
    """The mean of `values` under softmax(scores [N, len(values)])."""
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (weights @ values / weights.sum(axis=1)).tolist()


def estimates(columns: Columns) -> dict[str, metrics.Estimate]:
    """Each task's figure with its interval over items."""
    return {task: getattr(metrics, TASKS[task].metric)(*found) for task, found in columns.items()}


def differences(first: Columns, second: Columns) -> dict[str, metrics.Estimate]:
    """first - second for each task, paired by item."""
    return {
        task: metrics.paired_difference(TASKS[task].metric, found, second[task])
        for task, found in first.items()
    }
