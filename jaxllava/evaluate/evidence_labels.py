"""Supervised records of plaza's truths: the questions that the evaluation asks, answered, below training posts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from input_pipeline.plaza import questions
from input_pipeline.types import Record, Turn

TASKS = (
    "mood",
    "topic",
    "memorability",
)  # what labels are of, and what is asked of held-out posts afterwards


def choose(ids: Iterable[str], share: float, seed: int) -> list[str]:
    """The posts whose labels are given, sorted: `share` of them, at least one; all for 1.0.

    A smaller share of the same seed is part of a larger one.
    """
    known = sorted(ids)
    order = np.random.default_rng(seed).permutation(len(known))
    return sorted(known[i] for i in order[: max(round(share * len(known)), 1)])


def records(posts: Sequence[Record], truths: Mapping[str, Mapping[str, Any]]) -> list[Record]:
    """Three records of each post: its mood, topic and memorability, asked in the words of the evaluation.

    Args:
        posts: training posts with a picture, of which `truths` (gold.json's "posts", by post id) knows each.
        truths: {"mood": word, "topic": word, "memorability": number in [0, 1]}.
    """
    made = []
    for post in posts:
        name = post.meta["post_id"]
        known = truths[name]
        exchanges = (
            (questions.MOOD_QUESTION, known["mood"]),
            (questions.TOPIC_QUESTION, known["topic"]),
            (questions.MEMORABILITY_QUESTION, questions.digit(known["memorability"])),
        )
        for task, (question, answer) in zip(TASKS, exchanges, strict=True):
            turns = (Turn("human", f"<image>\n{question}"), Turn("gpt", answer))
            made.append(Record(f"{name}-{task}", "labels", post.images[:1], turns, {"post_id": name}))
    return made
