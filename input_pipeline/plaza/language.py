"""What people write: titles (objects only), and clauses of comments (feelings, topics, memory, noise)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from input_pipeline.plaza import world
from input_pipeline.plaza.scene import Group, Scene


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """One of the options, uniformly."""
    return options[int(rng.integers(len(options)))]


# --- titles: objects, colours, counts; never a mood or a topic ------------------------------------

_TITLE_FRAMES = (
    "{a}", "{a}", "{a}", "{a} [OC]", "[OC] {a}", "my drawing of {a}", "i drew {a}", "drew {a} today",
    "just {a}", "look at {a}", "here is {a}", "{a}, by me", "i made {a} for you", "have you seen {a}?",
    "{a}. thoughts?", "day {n} of posting {a}", "finally finished {a}", "my sister wanted {a}",
    "{a} for my wall", "{a} (digital)", "guess what: {a}", "is it just me or {a}", "a study of {a}",
    "sketch no {n}: {a}",
)  # fmt: skip
_VAGUE = (
    "made this today", "untitled", "untitled no {n}", "my first post here", "thoughts?", "new one",
    "what do you see", "be honest", "took me {n} hours", "work in progress", "found on my old laptop",
    "no title needed",
)  # fmt: skip
_CAPTION_FRAMES = (
    "{a}", "{a}", "a picture of {a}", "a drawing of {a}", "an image of {a}", "we have {a}", "this shows {a}",
    "{a}.", "here we see {a}", "{a} in a small picture",
)  # fmt: skip


def name(group: Group, rng: np.random.Generator) -> str:
    """Names a group of objects in one of several wordings: 'three red cups', '3 cups, red', 'a blue key'."""
    one, many = group.kind, world.OBJECTS[group.kind]
    roll = rng.random()
    if group.count == 1:
        return f"a {group.colour} {one}" if roll < 0.8 else f"one {group.colour} {one}"
    number = world.COUNTS[group.count] if rng.random() < 0.7 else str(group.count)
    if roll < 0.85:
        return f"{number} {group.colour} {many}"
    return (
        f"{number} {many}, all {group.colour}" if roll < 0.95 else f"{group.colour} {many}, {number} of them"
    )


def names(scene: Scene, rng: np.random.Generator, conjunction: str = "and") -> str:
    """Names every group of a scene."""
    return f" {conjunction} ".join(name(group, rng) for group in scene.groups)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A plain caption that always names every object, colour and count."""
    return pick(rng, _CAPTION_FRAMES).format(a=names(scene, rng))


def title(scene: Scene, rng: np.random.Generator) -> str:
    """A user's title: mostly the objects, sometimes vague, sometimes in the wrong case or with emoji."""
    frame = pick(rng, _VAGUE) if rng.random() < 0.07 else pick(rng, _TITLE_FRAMES)
    text = frame.format(
        a=names(scene, rng, "&" if rng.random() < 0.15 else "and"), n=int(rng.integers(2, 40))
    )
    roll = rng.random()
    if roll < 0.45:
        text = text[0].upper() + text[1:]
    elif roll < 0.52:
        text = text.upper()
    elif roll < 0.57:
        text = text.title()
    if rng.random() < 0.14:
        text += " " + world.EMOJI[scene.groups[0].kind] * int(rng.integers(1, 4))
    return text + ("!" * int(rng.integers(1, 4)) if rng.random() < 0.1 else "")


# --- feelings, topics, memory ---------------------------------------------------------------------

_FEEL = (
    "this feels so {x}", "so {x} and {y}", "such a {x} vibe", "why does this make me feel {x}",
    "very {x} picture", "i find it really {x}", "the {x} feeling in this one", "{x}, just {x}",
    "makes me feel {x} inside", "it has something {x} about it", "{x} is the word", "how {x} can it get",
    "everything here is {x}", "kind of {x}, kind of {y}", "a {x} mood all over",
    "looking at it i get all {x}",
)  # fmt: skip
_FEEL_LIKED = (
    "love how {x} this is",
    "more {x} ones please",
    "so {x}, exactly my thing",
    "i live for {x} stuff",
)
_FEEL_DISLIKED = ("too {x} for me", "not a fan of the {x} look", "why does it have to be so {x}")
_TALK = (
    "makes me think of {x}", "reminds me of {x} and {y}", "all i see is {x}",
    "anyone else thinking about {x}", "is this about {x}", "this is for the {x} people",
    "got {x} on my mind now", "the {x} in the back is great", "you had me at {x}",
    "takes me back to {x} days", "{x} and {y}, that is what i see",
)  # fmt: skip
_TALK_LIKED = ("i love anything with {x}", "{x} fan here, well done", "finally some {x} content")
_TALK_DISLIKED = ("not into {x} at all", "enough with the {x} already")
_BOTH = (
    "such a {x} {t}", "{x} {t} energy", "like a {x} {t}", "a {t}, but {x}", "the most {x} {t} i have seen",
    "{t} and feeling {x}", "it is a {x} kind of {t}", "somehow the {t} feels {x}",
)  # fmt: skip


def adjective(mood: str, rng: np.random.Generator, label_share: float = 0.08) -> str:
    """A word for a mood; the label itself only in `label_share` of the cases."""
    return mood if rng.random() < label_share else pick(rng, world.MOODS[mood])


def noun(topic: str, rng: np.random.Generator, label_share: float = 0.08) -> str:
    """A word for a topic; the label itself only in `label_share` of the cases."""
    return topic if rng.random() < label_share else pick(rng, world.TOPICS[topic])


def two(
    word: Callable[[str, np.random.Generator, float], str],
    of: str,
    rng: np.random.Generator,
    label_share: float,
) -> tuple[str, str]:
    """Two different words for a mood or a topic."""
    first = second = word(of, rng, label_share)
    while second == first:
        second = word(of, rng, label_share)
    return first, second


def articles(text: str) -> str:
    """Turns 'a' into 'an' before a vowel ('used' and 'unicorn' do not occur in these clauses)."""
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def feeling(mood: str, rng: np.random.Generator, taste: int = 0, label_share: float = 0.08) -> str:
    """A clause that says a mood. `taste` is 1 where the speaker likes it, -1 where not, 0 otherwise."""
    roll = rng.random()
    if roll < 0.28:
        return pick(rng, world.MOOD_PHRASES[mood])
    frames = {1: _FEEL_LIKED, -1: _FEEL_DISLIKED}.get(taste, _FEEL) if roll < 0.5 else _FEEL
    x, y = two(adjective, mood, rng, label_share)
    return articles(pick(rng, frames).format(x=x, y=y))


def subject(topic: str, rng: np.random.Generator, taste: int = 0, label_share: float = 0.08) -> str:
    """A clause that says a topic; `taste` as for `feeling`."""
    roll = rng.random()
    if roll < 0.25:
        return pick(rng, world.TOPIC_PHRASES[topic])
    frames = {1: _TALK_LIKED, -1: _TALK_DISLIKED}.get(taste, _TALK) if roll < 0.5 else _TALK
    x, y = two(noun, topic, rng, label_share)
    return articles(pick(rng, frames).format(x=x, y=y))


def both(mood: str, topic: str, rng: np.random.Generator) -> str:
    """A clause that says a mood and a topic."""
    return articles(pick(rng, _BOTH).format(x=adjective(mood, rng), t=noun(topic, rng)))


def recall(memorability: float, rng: np.random.Generator, spread: float = 0.1) -> str:
    """A clause that says how well something stays in the mind: one of five steps, near `memorability`."""
    step = int(np.clip(np.floor(5 * (memorability + rng.normal(0, spread))), 0, 4))
    return pick(rng, world.MEMORY_PHRASES[step])


_OBJECT_REMARKS = (
    "those {c} {o} though", "why {n} {o}", "the {o} are perfect", "who paints {o} {c}", "i count {n}",
    "nice {c} on the {o}", "{n} {o} and nobody asked why", "are the {o} for sale",
)  # fmt: skip


def remark(scene: Scene, rng: np.random.Generator) -> str:
    """A clause about the objects, as anybody could write below any picture of them."""
    group = scene.groups[int(rng.integers(len(scene.groups)))]
    plural = group.count > 1
    text = (
        pick(rng, _OBJECT_REMARKS)
        if plural
        else pick(rng, ("that {c} {o} though", "nice {c} {o}", "just one {o}"))
    )
    return text.format(
        c=group.colour, o=world.OBJECTS[group.kind] if plural else group.kind, n=world.COUNTS[group.count]
    )


# --- noise: what a third of every comment section is made of --------------------------------------

_ONE_WORDERS = (
    "lol",
    "nice",
    "first",
    "wow",
    "ok",
    "this",
    "hm",
    "cool",
    "what",
    "lmao",
    "yes",
    "no",
    "why",
    "same here",
)
_WHO = (
    "cousin",
    "neighbour",
    "boss",
    "dentist",
    "roommate",
    "uncle",
    "landlord",
    "dog",
    "cat",
    "hamster",
    "wife",
)
_THING = (
    "sock",
    "printer",
    "potato",
    "ladder",
    "toothbrush",
    "stapler",
    "spreadsheet",
    "doorbell",
    "umbrella",
    "wig",
)
_CHATTER = (
    "my {w} has a {t} just like that", "instructions unclear, {w} stuck in {t}", "sir, this is a {t} shop",
    "i showed my {w} and got a {t} thrown at me", "what app did you use for this", "who is still here in {y}",
    "came for the {t}, stayed for the comments", "upvoted because my {w} told me to",
    "can we talk about the {t}", "my {w} could draw this", "is it {d} already",
    "delete this before my {w} sees it", "reposted again, sigh", "what size is the file",
    "i was today years old when i saw a {t}", "first comment, hello {w}", "wrong sub, friend",
    "the {t} did it", "how long did that take you", "can i use it for my {t}", "someone call my {w}",
    "not what i ordered, i ordered a {t}", "check your messages please", "happy {d} to all who celebrate",
    "i have no idea what i am looking at", "my {w} says hi", "does anyone sell a used {t}",
    "edit: fixed a typo",
)  # fmt: skip
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "sunday")


def noise(rng: np.random.Generator) -> str:
    """A comment that says nothing about its picture: one word, a joke, off-topic, or a random feeling."""
    roll = rng.random()
    if roll < 0.16:
        return pick(rng, _ONE_WORDERS)
    if roll < 0.32:
        mood, topic = pick(rng, list(world.MOODS)), pick(rng, list(world.TOPICS))
        return (feeling(mood, rng), subject(topic, rng), both(mood, topic, rng))[int(rng.integers(3))]
    return pick(rng, _CHATTER).format(
        w=pick(rng, _WHO), t=pick(rng, _THING), d=pick(rng, _DAYS), y=int(rng.integers(2019, 2023))
    )
