"""Held-out films whose replay graph is known for every scene, as a model is asked about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from input_pipeline import records
from input_pipeline.behavior import answers, statements, templates
from input_pipeline.errors import UserError
from input_pipeline.types import Record, Scene, Span
from jaxllava.api import Model
from jaxllava.evaluate import replay, replay_asking
from jaxllava.evaluate.replay_asking import Asked, InTurns, Listed, expected
from jaxllava.videos import Video

LEAST_SCENES = 3  # of a film: two values are always in order or in reverse


@dataclass(frozen=True)
class Film:
    """A film and what of its replay is true.

    Fields:
        id: of the record.
        asked: its frames and the words of its record up to each replay value: scenes in words, and no reaction.
        true: in [0, 1] by scene, the highest value of the heatmap over it.
    """

    id: str
    asked: Asked
    true: tuple[float, ...]

    @property
    def chance(self) -> float:
        """How often a guess names the most replayed scene."""
        return self.true.count(max(self.true)) / len(self.true)


def load(data: Path) -> list[Film]:
    """The films of `behavior_heldout` that can be asked about. UserError where there is none."""
    source = records.open_split(data, "behavior_heldout")
    found = [film for number in range(len(source)) if (film := of_record(source[number]))]
    if not found:
        raise UserError(f"{data} has no held-out film with a replay value in each of {LEAST_SCENES} scenes")
    return found


def of_record(record: Record) -> Film | None:
    """A film of a record that tells replay values before any other reaction (film_turns_v1, film_behavior_v1).

    None for a picture, for a film with a scene of unknown value, with less than 3 scenes, or as much replayed in all.
    """
    times = record.meta.get("scene_times") or ()
    if not record.clips or "replay" not in record.meta["behaviors"]:
        return None
    graph = [Span(*span) for span in record.meta["replay"]]
    true = [statements.replay_of(Scene("", *span), graph) for span in times]
    known = tuple(value for value in true if value is not None)
    if len(known) < max(len(true), LEAST_SCENES) or min(known) == max(known):
        return None
    asked = _in_turns(record) if record.meta.get("scene_turns") else _listed(record)
    return Film(record.id, asked, known) if len(asked) == len(known) else None


def _listed(record: Record) -> Listed:
    template = templates.get(record.meta["template"])
    answer = record.conversations[1].text
    parts = answers.split(template, answer, record.meta["behaviors"])
    begun, numbers = replay_asking.begun(answer, parts)
    for reaction in ("percent", "comments"):
        if reaction in parts and parts[reaction][0].start < len(begun):
            raise UserError(
                f"{record.id}: template {template.name} tells {reaction} before the replay values, which "
                "gives them away; use film_turns_v1 or film_behavior_v1"
            )
    return Listed(record.conversations[0].text, [Video(record.images)], begun, numbers)


def _in_turns(record: Record) -> InTurns:
    """Of the scenes whose turns tell a value."""
    questions, answered = ([turn.text for turn in record.conversations[side::2]] for side in (0, 1))
    values = [answers.value_of_turn(answer) for answer in answered[: record.meta["scene_turns"]]]
    told = {place: value for place, value in enumerate(values) if value}
    return InTurns(
        tuple(questions[place] for place in told),
        tuple(answered[place][: value.start] for place, value in told.items()),
        tuple(Video(record.images[place : place + 1]) for place in told),
    )


def ask(model: Model, films: Sequence[Film]) -> list[tuple[float, float] | None]:
    """(Spearman's rho within the film, share of a right choice of the most replayed scene) by film.

    Of scenes that share the highest answer one is taken at random; the rho of a constant answer is 0. None for a film
    with a score that is not finite.
    """
    predicted = expected(model, [film.asked for film in films])
    return [
        replay.within(np.asarray(values), np.asarray(film.true)) if values is not None else None
        for film, values in zip(films, predicted, strict=True)
    ]
