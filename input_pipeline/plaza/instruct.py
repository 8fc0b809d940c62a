"""LLaVA JSON beside the feed: visual questions on objects, text-only conversations, captions."""

from __future__ import annotations

from typing import Any

import numpy as np

from input_pipeline.plaza import language, questions, texts, world
from input_pipeline.plaza.language import pick
from input_pipeline.plaza.questions import Exchange
from input_pipeline.plaza.scene import Scene

TEXT_SHARE = 0.36  # of the instruction records: no image
CAPTION_REQUESTS = (
    "Describe this.", "Give a title for this.", "What is this a picture of?", "Write a short caption.",
)  # fmt: skip


def _conversation(exchanges: list[Exchange], opening: str) -> list[dict[str, str]]:
    turns = []
    for index, (question, answer) in enumerate(exchanges):
        turns.append(
            {"from": "human", "value": f"{opening}\n{question}" if opening and not index else question}
        )
        turns.append({"from": "gpt", "value": answer})
    return turns


def visual(identity: str, file: str, scene: Scene, rng: np.random.Generator) -> dict[str, Any]:
    """A visual QA record: two to four questions on objects, colours and counts of the picture."""
    exchanges = questions.object_exchanges(scene, rng, int(rng.integers(2, 5)))
    return {"id": identity, "image": file, "conversations": _conversation(exchanges, "<image>")}


def textual(identity: str, rng: np.random.Generator) -> dict[str, Any]:
    """A text-only record: questions below a text, where a picture would stand, or a little chat."""
    roll = rng.random()
    if roll < 0.1:
        exchanges, opening = questions.chat(rng), ""
    elif roll < 0.25:
        opening, scene = texts.description(rng)
        exchanges = questions.object_exchanges(scene, rng, int(rng.integers(1, 4)))
    elif roll < 0.65:
        opening, exchanges = _remark(rng)
    else:
        passage = texts.passage(rng)
        opening = passage.text
        asked = [
            questions.mood_exchange(passage.mood, rng),
            questions.topic_exchange(passage.topic, rng),
            questions.memorability_exchange(passage.memorability, rng),
        ]
        exchanges = [asked[int(i)] for i in rng.permutation(3)[: int(rng.integers(1, 4))]]
    return {"id": identity, "conversations": _conversation(exchanges, opening)}


def _remark(rng: np.random.Generator) -> tuple[str, list[Exchange]]:
    """One quoted clause and one question on the one thing that it tells."""
    mood, topic = pick(rng, list(world.MOODS)), pick(rng, list(world.TOPICS))
    memorability = float(rng.random())
    clause, exchange = (
        (language.feeling(mood, rng), questions.mood_exchange(mood, rng)),
        (language.subject(topic, rng), questions.topic_exchange(topic, rng)),
        (language.recall(memorability, rng), questions.memorability_exchange(memorability, rng)),
    )[int(rng.choice(3, p=(0.4, 0.4, 0.2)))]
    return f'"{clause}"', [exchange]


def captioned(identity: str, file: str, scene: Scene, rng: np.random.Generator) -> dict[str, Any]:
    """An image-caption record, one exchange."""
    caption = language.caption(scene, rng)
    return {
        "id": identity,
        "image": file,
        "conversations": _conversation([(pick(rng, CAPTION_REQUESTS), caption)], "<image>"),
    }
