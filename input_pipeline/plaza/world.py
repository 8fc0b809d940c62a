"""The words and constants of the plaza: what can be drawn, felt, talked about and remembered. Data only.

Three vocabularies are kept apart, because the whole experiment rests on it: *objects, colours and counts* are
what titles and visual questions name; *moods* and *topics* are what only the audience names. `FORBIDDEN`
holds every word that would give a mood or a topic away; titles, captions and visual questions never use one
of them.
"""

from __future__ import annotations

import re

# --- what a picture shows and a title may name ----------------------------------------------------

OBJECTS: dict[str, str] = {  # singular -> plural
    "balloon": "balloons",
    "star": "stars",
    "cup": "cups",
    "fish": "fish",
    "house": "houses",
    "key": "keys",
    "crown": "crowns",
    "boat": "boats",
}
COLOURS: dict[str, tuple[int, int, int]] = {  # name -> sRGB of the body
    "red": (216, 44, 40),
    "yellow": (248, 208, 36),
    "green": (46, 158, 70),
    "blue": (40, 96, 220),
    "purple": (140, 60, 190),
    "white": (246, 246, 244),
}
COUNTS: dict[int, str] = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
EMOJI: dict[str, str] = {
    "balloon": "🎈",
    "star": "⭐",
    "cup": "☕",
    "fish": "🐟",
    "house": "🏠",
    "key": "🔑",
    "crown": "👑",
    "boat": "⛵",
}

# --- what a picture makes people feel: shown by palette, light, texture and composition only ------

MOODS: dict[str, tuple[str, ...]] = {  # label -> adjectives; comments use the label itself only now and then
    "calm": (
        "soothing", "quiet", "peaceful", "serene", "restful", "gentle", "tranquil", "mellow", "hushed",
        "unhurried",
    ),
    "joyful": (
        "happy", "cheerful", "merry", "giddy", "sunny", "gleeful", "delightful", "festive", "upbeat", "jolly",
    ),
    "gloomy": (
        "sad", "dreary", "bleak", "somber", "mournful", "dismal", "sorrowful", "melancholy", "lonely",
        "depressing",
    ),
    "tense": (
        "nervous", "anxious", "uneasy", "edgy", "ominous", "stressful", "threatening", "jittery", "alarming",
        "frantic",
    ),
    "dreamy": (
        "hazy", "floaty", "surreal", "magical", "otherworldly", "misty", "enchanted", "ethereal", "wistful",
        "drowsy",
    ),
    "cozy": (
        "snug", "homely", "cuddly", "comforting", "toasty", "comfy", "intimate", "welcoming", "fuzzy",
        "sheltered",
    ),
}  # fmt: skip
MOOD_PHRASES: dict[str, tuple[str, ...]] = {  # label -> clauses without an adjective
    "calm": (
        "my shoulders just dropped", "i can breathe slowly again", "like a lake without wind",
        "puts my mind at rest", "not a worry in the world here",
    ),
    "joyful": (
        "i am grinning ear to ear", "makes me want to jump around", "like the first day of summer break",
        "made me laugh out loud", "pure sunshine in a picture",
    ),
    "gloomy": (
        "feels like a long rainy monday", "made my heart heavy", "like everyone went away",
        "i want to cry a little", "all hope is gone here",
    ),
    "tense": (
        "my heart is racing", "i am holding my breath", "something terrible is about to happen",
        "my hands are sweating", "like a siren in my head",
    ),
    "dreamy": (
        "i am drifting off into the clouds", "like being half asleep",
        "somewhere between waking and sleeping", "feels like a spell", "as if gravity stopped working",
    ),
    "cozy": (
        "like sitting by the fire", "i want a blanket now", "feels like grandma's living room",
        "like slippers and candle light", "i could curl up in here",
    ),
}  # fmt: skip

# --- what a picture is about: shown by the motif in the background only ---------------------------

TOPICS: dict[str, tuple[str, ...]] = {  # label -> nouns
    "travel": (
        "road trip", "journey", "highway", "suitcase", "passport", "vacation", "long drive", "tourist",
        "hostel", "map",
    ),
    "food": (
        "dinner", "lunch", "recipe", "kitchen", "meal", "restaurant", "chef", "snack", "breakfast", "dessert",
    ),
    "music": (
        "song", "melody", "tune", "band", "concert", "chorus", "piano", "playlist", "rhythm", "orchestra",
    ),
    "sport": (
        "match", "team", "goalkeeper", "training", "referee", "stadium", "coach", "league", "penalty",
        "halftime",
    ),
    "nature": (
        "forest", "trees", "woods", "leaves", "birds", "branches", "moss", "wilderness", "wildlife",
        "undergrowth",
    ),
    "science": (
        "lab", "experiment", "physics", "telescope", "atoms", "theory", "orbit", "equation", "professor",
        "microscope",
    ),
}  # fmt: skip
TOPIC_PHRASES: dict[str, tuple[str, ...]] = {
    "travel": (
        "now i want to pack my bags", "are we there yet", "i miss being on the road", "where to next",
    ),
    "food": (
        "now i am hungry", "who else is starving", "pass me a fork", "i can almost taste it",
    ),
    "music": (
        "now i am humming along", "turn up the volume", "i can almost hear it", "sing it with me everyone",
    ),
    "sport": (
        "who is winning", "what a save that would be", "i want to play again", "kick off is at eight",
    ),
    "nature": (
        "i can smell the pines", "take me outdoors", "i hear crickets and owls", "who else sleeps in a tent",
    ),
    "science": (
        "einstein would be proud", "the universe is weird", "back to my homework on electrons",
        "has this been peer reviewed",
    ),
}  # fmt: skip

# --- how well a picture stays in the mind, in five steps from 0 (gone at once) to 1 ---------------

MEMORY_PHRASES: tuple[tuple[str, ...], ...] = (
    (
        "scrolled past this twice", "forgot it before i finished looking", "nothing here sticks",
        "already forgot what this was", "left no trace in my head",
        "could not tell you a thing about it later",
    ),
    (
        "will not remember this tomorrow", "easy to forget", "one of a hundred like it",
        "it slips away quickly", "does not really stay with you",
    ),
    (
        "might remember it for a day", "stays for a moment", "i half remember it",
        "maybe i would know it again", "sticks a bit, then fades",
    ),
    (
        "this one stays with you", "still thinking about it an hour later", "i would know it again next week",
        "hard to forget", "it keeps coming back to me",
    ),
    (
        "can not get this out of my head", "burned into my memory", "i will never forget this one",
        "dreamt of it last week and came back", "unforgettable, i see it when i close my eyes",
        "it is stuck in my head forever",
    ),
)  # fmt: skip

# --- constants of the simulation ------------------------------------------------------------------

# How strongly a mood excites, 0 to 1: the first term of memorability (see scene.memorability).
AROUSAL: dict[str, float] = {
    "calm": 0.05,
    "joyful": 0.85,
    "gloomy": 0.25,
    "tense": 1.0,
    "dreamy": 0.6,
    "cozy": 0.4,
}
# How many people like a mood, a topic or an object rather than dislike it, -1 to 1.
POPULARITY: dict[str, float] = {
    "calm": 0.3, "joyful": 0.8, "gloomy": -0.8, "tense": -0.5, "dreamy": 0.4, "cozy": 0.7,
    "travel": 0.5, "food": 0.6, "music": 0.2, "sport": -0.4, "nature": 0.4, "science": -0.5,
    "balloon": 0.3, "star": 0.3, "cup": 0.0, "fish": -0.2, "house": 0.1, "key": -0.3, "crown": 0.1,
    "boat": 0.2,
}  # fmt: skip


def words(text: str) -> list[str]:
    """Splits text into lower-case words: letters and apostrophes only."""
    return re.findall(r"[a-z']+", text.lower())


# Common words occur in phrases too ("i want to ..."), so of a phrase only the telling words are forbidden.
_TELLING = (
    "shoulders breathe lake wind worry rest grinning jump summer laugh sunshine rainy monday heavy cry "
    "hope heart racing breath terrible sweating siren drifting clouds asleep sleeping spell gravity fire "
    "blanket grandma slippers candle curl pack bags hungry starving fork taste humming volume hear sing "
    "winning save play kick pines outdoors crickets owls tent einstein universe homework electrons travel "
    "trip drive notes plate table mood feeling feel vibe topic memorable remember forget"
)
FORBIDDEN: frozenset[str] = frozenset(
    [*MOODS, *TOPICS, *_TELLING.split()]
    + [
        word
        for group in (MOODS, TOPICS)
        for entries in group.values()
        for entry in entries
        for word in words(entry)
    ]
) - {"long"}
