"""The simulated audience: sixty people with tastes, who view scenes, like them or not, and talk about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from input_pipeline.plaza import language, world
from input_pipeline.plaza.language import pick
from input_pipeline.plaza.scene import Scene, appeal, memorability

Kind = Literal["mood", "topic", "both", "memory", "objects", "noise"]

PEOPLE = 60
_PEOPLE_SEED = 20240502  # whatever the corpus seed, so that two corpora share one audience
# Of all genuine comments: a third at least is promised, and the measured share is reported.
NOISE_SHARE = 0.39


@dataclass(frozen=True)
class Persona:
    """One member of the audience. Tastes are in [-1, 1] for every mood, topic and kind of object."""

    name: str
    tastes: dict[str, float]
    activity: float  # how often they comment, relative
    mildness: float  # what they like without a reason
    voice: str  # plain, lower, loud, dots, emoji, chatty

    def attitude(self, thing: str) -> int:
        """1 where they like a thing, -1 where they dislike it, 0 otherwise."""
        taste = self.tastes[thing]
        return 1 if taste > 0.45 else -1 if taste < -0.45 else 0


@dataclass(frozen=True)
class Remark:
    """One comment without a raw format. `reply_to` is the index of an earlier remark, None at top level; `about` is
    the index of the scene that it speaks of (noise speaks of none).
    """

    text: str
    author: str
    score: int
    kind: Kind
    reply_to: int | None
    delay: float  # seconds after the post
    about: int = 0


@dataclass(frozen=True)
class Reaction:
    """What the audience did with one post. `rate` is the chance of a like; likes are drawn from it."""

    rate: float
    views: int
    likes: int
    remarks: tuple[Remark, ...]


_FIRST = (
    "maple", "turbo", "salty", "quantum", "lazy", "tiny", "captain", "miss", "electric", "velvet", "rusty",
    "pixel", "grumpy", "cosmic", "paper", "silent", "northern", "plastic", "wooden", "crispy",
)  # fmt: skip
_LAST = (
    "otter", "toast", "wizard", "badger", "pickle", "falcon", "noodle", "marble", "walrus", "biscuit",
    "comet", "gardener", "sparrow", "waffle", "tinker", "moth",
)  # fmt: skip
_VOICES = ("plain", "lower", "loud", "dots", "emoji", "chatty")


@cache
def people() -> tuple[Persona, ...]:
    """The audience, always the same."""
    rng = np.random.default_rng(_PEOPLE_SEED)
    found: list[Persona] = []
    while len(found) < PEOPLE:
        handle = f"{pick(rng, _FIRST)}{pick(rng, ('', '_'))}{pick(rng, _LAST)}{rng.integers(1, 99)}"
        if any(handle == other.name for other in found):
            continue
        tastes = {
            thing: float(np.clip(0.6 * shared + rng.normal(0, 0.5), -1, 1))
            for thing, shared in world.POPULARITY.items()
        }
        found.append(
            Persona(
                handle, tastes, float(rng.uniform(0.3, 1.0)), float(rng.normal(0.3, 0.4)), pick(rng, _VOICES)
            )
        )
    return tuple(found)


def like_chances(scene: Scene) -> np.ndarray:
    """The chance that each persona likes the scene, float64 [PEOPLE]: logistic in tastes and appeal."""
    kind = scene.groups[0].kind
    pull = [
        person.mildness
        + 1.5 * person.tastes[scene.mood]
        + 1.1 * person.tastes[scene.topic]
        + 0.4 * person.tastes[kind]
        + 1.2 * appeal(scene)
        for person in people()
    ]
    return 1.0 / (1.0 + np.exp(-np.asarray(pull)))


def _voiced(text: str, person: Persona, rng: np.random.Generator) -> str:
    """Says a text in a person's manner of writing."""
    lively = rng.random() < 0.6
    if person.voice == "plain":
        return text[0].upper() + text[1:] + ("." if lively else "")
    if person.voice == "loud":
        return text.upper() if rng.random() < 0.25 else text + "!" * int(rng.integers(1, 4))
    if person.voice == "dots" and lively:
        return text + "..."
    if person.voice == "emoji" and lively:
        return f"{text} {pick(rng, ('😂', '🙏', '✨', '🔥', '👀'))}"
    if person.voice == "chatty" and lively:
        opener = pick(
            rng, ("honestly, ", "ok but ", "not gonna lie, ", "i mean, ", "hmm, ", "well, ", "guys, ")
        )
        return opener + text
    return text


_SHARES: dict[Kind, float] = {"mood": 0.36, "topic": 0.2, "both": 0.18, "memory": 0.2, "objects": 0.06}
_KINDS: tuple[Kind, ...] = tuple(_SHARES)
_KIND_CHANCES = np.asarray(list(_SHARES.values()))


def _say(kind: Kind, scene: Scene, person: Persona, rng: np.random.Generator) -> str:
    mood, topic = scene.mood, scene.topic
    if kind == "noise":
        text = language.noise(rng)
    elif kind == "mood":
        text = language.feeling(mood, rng, person.attitude(mood))
        if rng.random() < 0.3:
            text += ", " + language.feeling(mood, rng)
    elif kind == "topic":
        text = language.subject(topic, rng, person.attitude(topic))
    elif kind == "both":
        text = language.both(mood, topic, rng)
    elif kind == "memory":
        text = language.recall(memorability(scene), rng)
        if rng.random() < 0.25:
            text += ", " + language.feeling(mood, rng)
    else:
        text = language.remark(scene, rng)
    return _voiced(text, person, rng)


def react(scene: Scene, rng: np.random.Generator, few: bool = False) -> Reaction:
    """Lets the audience see a scene. `few` leaves it with no more than one comment.

    Views stand for crowds: each persona brings many viewers with the same tastes. Memorable scenes draw more
    comments (3 + Poisson(1.5 + 4 * memorability), at most 12). Remarks that agree with the picture get more
    votes than noise on average, but a joke now and then gets the most.
    """
    return react_to_all((scene,), (1.0,), rng, few)


def react_to_all(
    scenes: Sequence[Scene], attention: Sequence[float], rng: np.random.Generator, few: bool = False
) -> Reaction:
    """Lets the audience see scenes one after the other, as `react` does one: a single scene gives the same reaction.

    The chance of a like and the number of comments follow the means over the scenes. A comment speaks of one scene,
    drawn with chances proportional to `attention` [scenes].
    """
    chances = np.mean([like_chances(scene) for scene in scenes], axis=0)  # [PEOPLE]
    crowd = rng.gamma(1.2, 1.0, PEOPLE)
    rate = float((crowd * chances).sum() / crowd.sum())
    views = int(rng.lognormal(10.6, 0.6)) + 10_400
    likes = int(rng.binomial(views, rate))
    memorable = float(np.mean([memorability(scene) for scene in scenes]))
    count = int(rng.integers(0, 2)) if few else min(12, 3 + int(rng.poisson(1.5 + 4 * memorable)))
    activity = np.asarray([person.activity for person in people()])
    speakers = rng.choice(PEOPLE, count, replace=False, p=activity / activity.sum())
    remarks: list[Remark] = []
    delay = 0.0
    for index, speaker in enumerate(speakers):
        person = people()[int(speaker)]
        noisy = rng.random() < NOISE_SHARE
        kind: Kind = "noise" if noisy else _KINDS[int(rng.choice(len(_KINDS), p=_KIND_CHANCES))]
        reply_to = int(rng.integers(index)) if index and rng.random() < 0.2 else None
        votes = rng.gamma(0.5, 18.0) if noisy else rng.gamma(1.6, 16.0)
        delay += float(rng.exponential(3600.0)) + 20
        # Of a single scene nothing is drawn, so that the posts with pictures stay what they are.
        about = (
            int(rng.choice(len(scenes), p=np.divide(attention, np.sum(attention)))) if len(scenes) > 1 else 0
        )
        text = _say(kind, scenes[about], person, rng)
        score = int(votes) - (rng.random() < 0.06) * 9
        remarks.append(Remark(text, person.name, score, kind, reply_to, delay, about))
    return Reaction(rate, views, likes, tuple(remarks))
