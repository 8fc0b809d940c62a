"""What a model knows of plaza's held-out posts, whose truths are known: mood, topic, memorability, stage 2; and of its
films, which scenes are watched again.

Protocols as in Behavior-LLaVA section 4: next-token log-probabilities over the task's words. Likes and the top
comment are here as the quickstart reports them; `behavior` has them, and more, for any records. Per-item
values are kept, so that arms are compared on the same items.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline import records
from input_pipeline.behavior import answers, templates
from input_pipeline.errors import UserError
from input_pipeline.plaza.questions import MEMORABILITY_QUESTION, MOOD_QUESTION, TOPIC_QUESTION
from input_pipeline.types import Record
from jaxllava.api import Model
from jaxllava.evaluate import heldout_films, metrics
from jaxllava.evaluate.behavior import expectation
from jaxllava.evaluate.heldout_films import Film

Progress = Callable[[int, int], None]
Columns = dict[str, list[list[float]]]  # task -> the columns that its metric takes

LIKE_GRID = tuple(range(2, 100, 4))  # per cent; the prediction is the mean over the grid


@dataclass(frozen=True, eq=False)  # one is itself alone: a key of what was asked about it
class Heldout:
    """Held-out posts and stage-2 questions. Of plaza's own posts the truths are known: one for each, or none.

    `films`: held-out films that are asked for their replay; none in the picture experiments.
    """

    posts: list[Record]
    questions: list[Record]
    truths: list[dict[str, Any]]
    moods: list[str]
    topics: list[str]
    films: list[Film] = field(default_factory=list)

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
            **(
                {"replay": 0.0, "replay_top": float(np.mean([film.chance for film in self.films]))}
                if self.films
                else {}
            ),
        }


@dataclass(frozen=True)
class Task:
    """`metric` of `metrics` over the columns that `run` gives; it `needs` a list of Heldout that is not empty. `items`
    is what its intervals are over.
    """

    metric: str
    needs: str
    run: Callable[[Model, Heldout], list[list[float]]]
    items: str = "posts"


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


class NotFinite(UserError):
    """A model whose scores are no numbers: nothing may be chosen by them."""


def evaluate(
    model: Model,
    heldout: Heldout,
    progress: Progress | None = None,
    tasks: Sequence[str] | None = None,
) -> Columns:
    """The tasks that `heldout` can answer, or of these `tasks` alone, on one model: each task's per-item columns, as
    its metric takes them.

    Raises: NotFinite, with the posts' ids.
    """
    columns: Columns = {}
    chosen = [name for name in heldout.tasks if tasks is None or name in tasks]
    for name in chosen:
        columns[name] = TASKS[name].run(model, heldout)
        if progress:
            progress(len(columns), len(chosen))
    return columns


def _finite(scores: np.ndarray, posts: Sequence[Record]) -> np.ndarray:
    """The scores [N] or [N, C] as they are."""
    bad = np.flatnonzero(~np.isfinite(scores).reshape(len(scores), -1).all(axis=1))
    if len(bad):
        names = ", ".join(posts[i].id for i in bad[:3]) + (", ..." if len(bad) > 3 else "")
        raise NotFinite(
            f"{len(bad)} of {len(posts)} posts got scores that are not finite ({names}); is the checkpoint's training "
            "sound?"
        )
    return scores


def _ask(model: Model, posts: Sequence[Record], question: str, words: Sequence[str]) -> np.ndarray:
    images = [record.images[0] for record in posts]
    scores = model.score([f"<image>\n{question}"] * len(posts), images, list(words))  # [N, words]
    return _finite(scores, posts)


def _classify(model: Model, heldout: Heldout, *, question: str, key: str) -> list[list[float]]:
    words = getattr(heldout, f"{key}s")
    scores = _ask(model, heldout.posts, question, words)
    truth = np.asarray([words.index(t[key]) for t in heldout.truths])
    return [(scores.argmax(axis=1) == truth).astype(float).tolist()]


def _memorability(model: Model, heldout: Heldout) -> list[list[float]]:
    scores = _ask(model, heldout.posts, MEMORABILITY_QUESTION, [str(d) for d in range(10)])
    predicted = expectation(scores, np.arange(10) / 9)
    return [predicted.tolist(), [t["memorability"] for t in heldout.truths]]


def _before(record: Record, part: str) -> tuple[str, str]:
    """(a record's answer up to the first of its parts of that name, the part itself with what closes it)"""
    answer = record.conversations[1].text
    parts = answers.split(templates.get(record.meta["template"]), answer, record.meta["behaviors"])
    span = parts[part][0]
    return answer[: span.start], span.closed(answer)


def _likes(model: Model, heldout: Heldout) -> list[list[float]]:
    posts = heldout.liked
    rates = [float(record.meta["like_rate"]) for record in posts]
    prefixes = [_before(record, "percent")[0] for record in posts]
    questions = [record.conversations[0].text for record in posts]
    images = [record.images[0] for record in posts]
    scores = model.score(questions, images, [f"{v}.0%" for v in LIKE_GRID], answer_prefix=prefixes)
    return [expectation(_finite(scores, posts), np.asarray(LIKE_GRID) / 100).tolist(), rates]


def _comments(model: Model, heldout: Heldout) -> list[list[float]]:
    posts = heldout.commented
    prefixes, comments = zip(*(_before(record, "comments") for record in posts), strict=True)
    questions = [record.conversations[0].text for record in posts]
    images = [record.images[0] for record in posts]
    sums, counts = model.loglikelihood(questions, images, comments, answer_prefix=prefixes)
    return [_finite(sums, posts).tolist(), counts.tolist()]


def _stage2(model: Model, heldout: Heldout) -> list[list[float]]:
    asked = [(r.conversations[0].text, r.conversations[1].text, list(r.images)) for r in heldout.questions]
    longest = max(len(model.tokenizer(answer)["input_ids"]) for _, answer, _ in asked)
    answers = model.generate(
        [question for question, _, _ in asked], [image for *_, image in asked], max_new_tokens=longest + 2
    )
    same = lambda a, b: a.strip().rstrip(".").lower() == b.strip().rstrip(".").lower()
    return [[float(same(a, truth)) for a, (_, truth, _) in zip(answers, asked, strict=True)]]


@functools.lru_cache(maxsize=1)
def _replays(model: Model, heldout: Heldout) -> list[tuple[float, float]]:
    """Both figures of each film, for the two tasks that ask the same."""
    found = heldout_films.ask(model, heldout.films)
    bad = [film.id for film, figures in zip(heldout.films, found, strict=True) if figures is None]
    if bad:
        raise NotFinite(
            f"{len(bad)} of {len(found)} films got replay scores that are not finite ({', '.join(bad[:3])}); is the "
            "checkpoint's training sound?"
        )
    return [figures for figures in found if figures is not None]


def _replay(model: Model, heldout: Heldout, *, figure: int) -> list[list[float]]:
    return [[figures[figure] for figures in _replays(model, heldout)]]


PICTURE_TASKS = {
    "mood": Task("accuracy", "truths", partial(_classify, question=MOOD_QUESTION, key="mood")),
    "topic": Task("accuracy", "truths", partial(_classify, question=TOPIC_QUESTION, key="topic")),
    "memorability": Task("spearman", "truths", _memorability),
    "likes_r2": Task("r2", "liked", _likes),
    "comment_perplexity": Task("perplexity", "commented", _comments),
    "stage2": Task("accuracy", "questions", _stage2),
}
FILM_TASKS = {
    "replay": Task("mean", "films", partial(_replay, figure=0), "films"),
    "replay_top": Task("accuracy", "films", partial(_replay, figure=1), "films"),
}
TASKS = PICTURE_TASKS | FILM_TASKS


def estimates(columns: Columns) -> dict[str, metrics.Estimate]:
    """Each task's figure with its interval over items."""
    return {task: getattr(metrics, TASKS[task].metric)(*found) for task, found in columns.items()}


def differences(first: Columns, second: Columns) -> dict[str, metrics.Estimate]:
    """first - second for each task, paired by item."""
    return {
        task: metrics.paired_difference(TASKS[task].metric, found, second[task])
        for task, found in first.items()
    }
