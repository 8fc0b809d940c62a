"""One scene: what a picture shows, drawn from independent distributions, and how memorable that makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from input_pipeline.plaza import world

# Mean colour of each mood's pictures without objects (sRGB, measured), for the contrast term of memorability.
BACKDROP: dict[str, tuple[int, int, int]] = {
    "calm": (199, 212, 206),
    "joyful": (221, 177, 135),
    "gloomy": (91, 95, 99),
    "tense": (130, 60, 38),
    "dreamy": (200, 184, 232),
    "cozy": (128, 87, 50),
}


@dataclass(frozen=True)
class Group:
    """`count` copies of one kind of object in one colour."""

    kind: str
    colour: str
    count: int


@dataclass(frozen=True)
class Scene:
    """Everything that decides what a picture shows. `look` seeds the drawing, `luck` is noise."""

    groups: tuple[Group, ...]
    mood: str
    topic: str
    look: int
    luck: float

    def truth(self) -> dict[str, Any]:
        """The JSON-able truth for `gold.json`: mood, topic, memorability (0..1) and objects."""
        return {
            "mood": self.mood,
            "topic": self.topic,
            "memorability": round(memorability(self), 4),
            "objects": [{"kind": g.kind, "colour": g.colour, "count": g.count} for g in self.groups],
        }


def sample(rng: np.random.Generator) -> Scene:
    """Draws a scene. Objects, colours, counts, mood and topic are drawn independently of one another.

    One scene in four has a second kind of object (one or two copies, in another colour), and never more than
    six objects in all.
    """
    kinds = rng.permutation(list(world.OBJECTS))
    colours = rng.permutation(list(world.COLOURS))
    groups = [Group(str(kinds[0]), str(colours[0]), int(rng.integers(1, 6)))]
    second = rng.random() < 0.25
    second_count = int(rng.integers(1, 3))
    if second:
        groups.append(Group(str(kinds[1]), str(colours[1]), min(second_count, 6 - groups[0].count)))
    return Scene(
        groups=tuple(groups),
        mood=str(rng.choice(list(world.MOODS))),
        topic=str(rng.choice(list(world.TOPICS))),
        look=int(rng.integers(2**31)),
        luck=float(rng.random()),
    )


def contrast(scene: Scene) -> float:
    """How far the main object's colour stands out from the mood's backdrop, in [0, 1]."""
    difference = np.subtract(world.COLOURS[scene.groups[0].colour], BACKDROP[scene.mood])
    return float(min(1.0, np.linalg.norm(difference) / 300.0))


def memorability(scene: Scene) -> float:
    """How well the scene stays in the mind, in [0, 1].

    0.50 * arousal of the mood + 0.20 * fewness (one big object 1, five small ones 0) + 0.20 * colour contrast
    + 0.10 * luck. The audience shows it only in what it says and how often it comments.
    """
    fewness = (5 - scene.groups[0].count) / 4
    return 0.50 * world.AROUSAL[scene.mood] + 0.20 * fewness + 0.20 * contrast(scene) + 0.10 * scene.luck


def appeal(scene: Scene) -> float:
    """What everyone likes in a scene, whatever their tastes, about -1 to 1: contrast and memorability."""
    return 1.2 * (memorability(scene) - 0.5) + 0.6 * (contrast(scene) - 0.5)
