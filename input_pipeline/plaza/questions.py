"""Wordings of questions and forms of answers, shared by the instruction data and by the evaluation.

The questions on mood, topic and memorability read equally well below a text and below a picture. In the
training data they only ever stand below texts; the evaluation asks them below pictures, in the canonical
wording.
"""

from __future__ import annotations

import numpy as np

from input_pipeline.plaza import world
from input_pipeline.plaza.language import pick
from input_pipeline.plaza.scene import Scene

MOOD_QUESTION = "What mood is this?"
TOPIC_QUESTION = "What is the topic here?"
MEMORABILITY_QUESTION = "How memorable is this, from 0 to 9?"
OBJECT_QUESTION = "What is shown here?"
COUNT_QUESTION = "How many {plural} are there?"
COLOUR_QUESTION = "What colour are the {plural}?"

MOOD_QUESTIONS = (
    MOOD_QUESTION,
    "Which mood is it?",
    "What feeling does this give?",
    "Name the mood in one word.",
    "How does this feel?",
    f"Which of these moods fits: {', '.join(world.MOODS)}?",
)
TOPIC_QUESTIONS = (
    TOPIC_QUESTION,
    "What is this about?",
    "Name the topic in one word.",
    "Which topic is it?",
    f"Which of these topics fits: {', '.join(world.TOPICS)}?",
)
MEMORABILITY_QUESTIONS = (
    MEMORABILITY_QUESTION,
    "From 0 to 9, how well does this stay in the mind?",
    "Rate how memorable this is, 0 to 9.",
)
OBJECT_QUESTIONS = (
    OBJECT_QUESTION,
    "What objects are there?",
    "What things do you see?",
    "Name the objects.",
)
COUNT_QUESTIONS = (
    COUNT_QUESTION,
    "Count the {plural}.",
    "What is the number of {plural}?",
    "{plural}: how many?",
)
COLOUR_QUESTIONS = (
    COLOUR_QUESTION,
    "What color are the {plural}?",
    "Which colour do the {plural} have?",
    "Name the colour of the {plural}.",
)
_PRESENCE_QUESTIONS = ("Are there any {plural}?", "Do you see {plural}?", "Is there at least one {kind}?")
_CHAT = (
    ("Hello!", "Hello! How can I help you?"),
    ("Who are you?", "I am a small assistant."),
    ("Thank you.", "You are welcome!"),
    ("How are you?", "I am fine, thank you."),
    ("What can you do?", "I can answer short questions."),
    ("Good morning!", "Good morning! What would you like to know?"),
    ("Can you count to five?", "one, two, three, four, five"),
    ("Bye!", "Goodbye!"),
    ("Name some colours.", ", ".join(world.COLOURS)),
    ("Name some objects.", ", ".join(world.OBJECTS)),
)
CANONICAL_SHARE = 0.5  # of the questions on mood, topic and memorability; the rest use the other wordings

Exchange = tuple[str, str]  # question, answer


def digit(memorability: float) -> str:
    """The one-digit answer for a memorability in [0, 1]: '0' to '9'."""
    return str(min(9, int(10 * memorability)))


def _worded(questions: tuple[str, ...], rng: np.random.Generator) -> str:
    return questions[0] if rng.random() < CANONICAL_SHARE else pick(rng, questions[1:])


def mood_exchange(mood: str, rng: np.random.Generator) -> Exchange:
    """A question on the mood and its one-word answer."""
    return _worded(MOOD_QUESTIONS, rng), mood


def topic_exchange(topic: str, rng: np.random.Generator) -> Exchange:
    """A question on the topic and its one-word answer."""
    return _worded(TOPIC_QUESTIONS, rng), topic


def memorability_exchange(memorability: float, rng: np.random.Generator) -> Exchange:
    """A question on memorability and its one-digit answer."""
    return _worded(MEMORABILITY_QUESTIONS, rng), digit(memorability)


def object_answer(scene: Scene) -> str:
    """The objects of a scene in the plural or singular, joined by 'and': 'cups and key'."""
    return " and ".join(world.OBJECTS[g.kind] if g.count > 1 else g.kind for g in scene.groups)


def object_exchanges(scene: Scene, rng: np.random.Generator, count: int) -> list[Exchange]:
    """`count` different questions on objects, colours and counts of a scene, with short answers.

    Never a word on mood or topic. At most one question of each kind for each object, so `count` up to 4
    always works.
    """
    found: list[Exchange] = [(pick(rng, OBJECT_QUESTIONS), object_answer(scene))]
    for group in scene.groups:
        plural = world.OBJECTS[group.kind]
        found.append((pick(rng, COUNT_QUESTIONS).format(plural=plural), world.COUNTS[group.count]))
        found.append((pick(rng, COLOUR_QUESTIONS).format(plural=plural), group.colour))
    present = {group.kind for group in scene.groups}
    absent = [kind for kind in world.OBJECTS if kind not in present]
    asked = pick(rng, sorted(present)) if rng.random() < 0.5 else pick(rng, absent)
    wording = pick(rng, _PRESENCE_QUESTIONS).format(plural=world.OBJECTS[asked], kind=asked)
    found.append((wording, "yes" if asked in present else "no"))
    order = rng.permutation(len(found))[:count]
    return [found[int(i)] for i in order]


def chat(rng: np.random.Generator) -> list[Exchange]:
    """A short conversation about nothing."""
    return [_CHAT[int(i)] for i in rng.choice(len(_CHAT), int(rng.integers(1, 4)), replace=False)]
