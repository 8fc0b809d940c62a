"""Which replay value a model expects of each scene of a film, asked one after the other behind its own values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from input_pipeline.behavior.answers import Parts
from input_pipeline.types import Turn
from jaxllava.api import Model
from jaxllava.evaluate.behavior import expectation
from jaxllava.prompts import Prompt

VALUES = np.arange(101) / 100
CANDIDATES = tuple(f"{value:.2f}" for value in VALUES)  # as templates print them


class Asked(Protocol):
    """A film and the words in which a template asks of its scenes."""

    def __len__(self) -> int:
        """Scenes."""
        ...

    def ask(self, values: Sequence[float]) -> tuple[Prompt, Any, str]:
        """For the scene behind those that have these values: (prompt, what it shows, how the answer begins)."""
        ...


@dataclass(frozen=True)
class Listed:
    """All values in one answer, a line each.

    Fields:
        question: the human turn. media: what it shows.
        begun: the answer up to where the list begins.
        scenes: the numbers of the scenes in the list.
    """

    question: str
    media: Any
    begun: str
    scenes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.scenes)

    def ask(self, values: Sequence[float]) -> tuple[Prompt, Any, str]:
        lines = [f"Scene {number}: {value:.2f}\n" for number, value in zip(self.scenes, values, strict=False)]
        return self.question, self.media, f"{self.begun}{''.join(lines)}Scene {self.scenes[len(values)]}: "


@dataclass(frozen=True)
class InTurns:
    """A turn for each scene, which shows that scene: its question, its answer up to the value, its media."""

    questions: tuple[str, ...]
    begun: tuple[str, ...]
    media: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.questions)

    def ask(self, values: Sequence[float]) -> tuple[Prompt, Any, str]:
        turns: list[Turn] = []
        for question, begun, value in zip(self.questions, self.begun, values, strict=False):
            turns += [Turn("human", question), Turn("gpt", f"{begun}{value:.2f}")]
        place = len(values)
        return [*turns, Turn("human", self.questions[place])], self.media[: place + 1], self.begun[place]


def begun(answer: str, parts: Parts) -> tuple[str, tuple[int, ...]]:
    """(a true answer up to its list of replay values, the numbers of the scenes in the list), for `Listed`.

    Args:
        answer: of a record that tells replay values.
        parts: what `answers.split` found in it.
    """
    spans = parts["replay"]
    head = answer[: spans[0].start]
    return head[: head.rindex("Scene")], tuple(span.number for span in spans)


def expected(model: Model, films: Sequence[Asked], batch_size: int = 16) -> list[list[float] | None]:
    """A model's value for each scene of each film: the mean over `CANDIDATES` under their probabilities.

    The scenes are asked one after the other, each behind the model's own values of those before it.

    Args:
        model: what is asked.
        films: how.
        batch_size: films that are run together.

    Returns: the values in [0, 1] by film; None for a film with a score that is not finite.
    """
    found: list[list[float] | None] = [[] for _ in films]
    for place in range(max(map(len, films), default=0)):
        live = [
            (film, values)
            for film, values in enumerate(found)
            if values is not None and place < len(films[film])
        ]
        if not live:
            break
        prompts, media, prefixes = zip(*(films[film].ask(values) for film, values in live), strict=True)
        scores = model.score(
            prompts, media, CANDIDATES, answer_prefix=prefixes, batch_size=batch_size
        )  # [films, 101]
        for (film, values), value in zip(live, expectation(scores, VALUES).tolist(), strict=True):
            if np.isfinite(value):
                values.append(value)
            else:
                found[film] = None
    return found
