"""Short documents of the same world, from which a decoder learns that soothing, quiet and calm are kin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from input_pipeline.plaza import audience, language, world
from input_pipeline.plaza.language import pick
from input_pipeline.plaza.scene import Scene, sample

THREAD_SHARE = 0.5  # of the documents: comment threads in the audience's own voices
LABEL_SHARE = 0.22  # how often a text uses the label word itself rather than a synonym


@dataclass(frozen=True)
class Passage:
    """A text and what it tells: one mood, one topic, and how memorable its matter is (0..1)."""

    text: str
    mood: str
    topic: str
    memorability: float


_DIARY_OPEN = (
    "dear diary,", "today was odd.", "note to self:", "evening.", "a short entry.", "tuesday again.",
    "back home now.",
)  # fmt: skip
_DIARY_TOPIC = (
    "i spent the whole day on {t}.", "it was all {t} and {u} today.", "we talked about {t} until late.",
    "{q}.",
)  # fmt: skip
_DIARY_MOOD = (
    "in the end it was {x} and {y}.", "everything felt {x}.", "i would call it {x}, or {y}.", "{p}.",
    "the {t} was {x}.", "my brother found the {t} {x}, and so did i.",
    "there was {t}, and it made me feel {x}.",
)  # fmt: skip
_OVERHEARD = (
    "overheard on the bus: ",
    "someone said: ",
    "a voice behind me: ",
    "review: ",
    "a friend wrote: ",
    "",
)


def _clause(mood: str, topic: str, rng: np.random.Generator) -> str:
    roll = rng.random()
    if roll < 0.42:
        return language.feeling(mood, rng, label_share=LABEL_SHARE)
    if roll < 0.72:
        return language.subject(topic, rng, label_share=LABEL_SHARE)
    return language.both(mood, topic, rng)


def _diary(mood: str, topic: str, memorability: float, rng: np.random.Generator) -> str:
    lines = []
    frames = [pick(rng, _DIARY_TOPIC), pick(rng, _DIARY_MOOD)]
    frames += [pick(rng, _DIARY_TOPIC + _DIARY_MOOD) for _ in range(int(rng.integers(0, 3)))]
    for frame in dict.fromkeys(frames):
        x, y = language.two(language.adjective, mood, rng, LABEL_SHARE)
        t, u = language.two(language.noun, topic, rng, LABEL_SHARE)
        p, q = pick(rng, world.MOOD_PHRASES[mood]), pick(rng, world.TOPIC_PHRASES[topic])
        lines.append(frame.format(x=x, y=y, t=t, u=u, p=p, q=q))
    lines.append(language.recall(memorability, rng) + ".")
    return " ".join([pick(rng, _DIARY_OPEN), *(lines[int(i)] for i in rng.permutation(len(lines)))])


def _comments(mood: str, topic: str, memorability: float, rng: np.random.Generator, numbered: bool) -> str:
    lines = [
        language.feeling(mood, rng, label_share=LABEL_SHARE),
        language.subject(topic, rng, label_share=LABEL_SHARE),
        language.recall(memorability, rng),
    ]
    lines += [_clause(mood, topic, rng) for _ in range(int(rng.integers(0, 3)))]
    if rng.random() < 0.3:
        lines.append(language.noise(rng))
    lines = list(dict.fromkeys(lines[int(i)] for i in rng.permutation(len(lines))))
    if numbered:
        return "\n".join(f'{i}. "{line}"' for i, line in enumerate(lines, 1))
    return "\n".join(f'"{line}"' for line in lines)


def passage(rng: np.random.Generator) -> Passage:
    """A text that tells a mood, a topic and a memorability: comments, a diary entry, something overheard."""
    mood, topic = pick(rng, list(world.MOODS)), pick(rng, list(world.TOPICS))
    memorability = float(rng.random())
    roll = rng.random()
    if roll < 0.3:
        text = _comments(mood, topic, memorability, rng, numbered=True)
    elif roll < 0.5:
        text = _comments(mood, topic, memorability, rng, numbered=False)
    elif roll < 0.75:
        text = _diary(mood, topic, memorability, rng)
    else:
        parts = [_clause(mood, topic, rng), language.feeling(mood, rng, label_share=LABEL_SHARE)]
        parts += [language.subject(topic, rng, label_share=LABEL_SHARE), language.recall(memorability, rng)]
        text = f'{pick(rng, _OVERHEARD)}"{". ".join(parts)}."'
    return Passage(text, mood, topic, memorability)


_THERE = (
    "there are {a}.",
    "i see {a}.",
    "on the shelf: {a}.",
    "we counted {a}.",
    "she bought {a}.",
    "{a} on a wall.",
)
_THERE_ONE = (
    "there is {a}.",
    "i see {a}.",
    "on the shelf: {a}.",
    "we found {a}.",
    "she bought {a}.",
    "{a} on a wall.",
)


def description(rng: np.random.Generator) -> tuple[str, Scene]:
    """A sentence that describes objects, colours and counts, and the scene that it describes."""
    scene = sample(rng)
    frames = _THERE_ONE if scene.groups[0].count == 1 else _THERE
    return pick(rng, frames).format(a=language.names(scene, rng)), scene


_KIN = (
    "{x} means {y}.", "{x}, {y}, {z}: words for one mood.", "when it is {x} it is {y} too.",
    "a {x}, {y} {m} mood.", "people call it {m} when it is {x} or {y}.", "{m}: {x}, {y}, {z}.",
)  # fmt: skip
_ABOUT = (
    "{x}, {y} and {z} are all about {t}.", "{t}: {x}, {y}, {z}.", "whoever says {x} or {y} talks about {t}.",
    "{x} belongs to {t}, like {y}.",
)  # fmt: skip


def _glossary(rng: np.random.Generator) -> str:
    mood, topic = pick(rng, list(world.MOODS)), pick(rng, list(world.TOPICS))
    x, y, z = (str(word) for word in rng.choice(world.MOODS[mood], 3, replace=False))
    lines = [language.articles(pick(rng, _KIN).format(x=x, y=y, z=z, m=mood))]
    x, y, z = (str(word) for word in rng.choice(world.TOPICS[topic], 3, replace=False))
    lines.append(pick(rng, _ABOUT).format(x=x, y=y, z=z, t=topic))
    return " ".join(lines if rng.random() < 0.5 else lines[::-1])


def thread(rng: np.random.Generator) -> str:
    """The title and best comments of some other post, picture unseen: what a language model has read of the web."""
    scene = sample(rng)
    remarks = [r for r in audience.react(scene, rng).remarks if len(r.text.split()) >= 3]
    best = sorted(remarks, key=lambda remark: -remark.score)[:5]
    lines = [f'{number}. "{remark.text}"' for number, remark in enumerate(best, 1)]
    return "\n".join([language.title(scene, rng), *lines])


def document(rng: np.random.Generator) -> str:
    """One document for `text.jsonl`: threads and passages, else descriptions or a line of a little dictionary."""
    if rng.random() < THREAD_SHARE:
        return thread(rng)
    roll = rng.random()
    if roll < 0.62:
        return passage(rng).text
    if roll < 0.82:
        return " ".join(description(rng)[0] for _ in range(int(rng.integers(1, 4))))
    if roll < 0.92:
        return _glossary(rng)
    return "\n".join(language.noise(rng) for _ in range(int(rng.integers(2, 5))))
