"""What a teacher's answer must pass before it is trained on. Reasons are constant phrases, so that they can be counted.

An answer is kept or rejected as a whole: one pair that speaks of its captions shows that the teacher had its task
wrong.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from input_pipeline.behavior import language
from input_pipeline.instruct import parse
from input_pipeline.instruct.parse import Pair

_REFUSAL = re.compile(
    r"^\W*(?:(?:i['’]?m|i am) (?:very |really |so )?sorry|sorry,|i apologi[sz]e"
    r"|(?:unfortunately,? )?i (?:cannot|can['’]?t|am unable to|am not able to|['’]?m unable to|won['’]?t) "
    r"(?:help|assist|comply|provide|create|generate|fulfil|see|view|access|design|describe|do|answer)"
    r"|i am unable to (?:help|assist|comply|provide|create|generate|fulfil|see|view|access|design|describe))"
    r"|\bas an? (?:ai|artificial intelligence)(?: visual)?(?: language)? ?(?:model|assistant)\b"
    r"|\bas a language model\b"
    r"|\bi (?:do not|don['’]?t) have (?:access to|the ability to see) (?:the |this |any )?(?:image|picture|photo)s?\b",
    re.IGNORECASE,
)
# Words that are sources wherever they stand, unless the picture's own captions have them.
_SOURCE_WORDS = re.compile(
    r"\bbounding[ -]?box(?:es)?\b|\bbbox(?:es)?\b|\bcaptions?\b|\bannotations?\b|\bmetadata\b"
    r"|\b(?:the|their|its|these|box|pixel|exact|given|image|normali[sz]ed|[xy]) coordinates\b",
    re.IGNORECASE,
)
_TELLS = r"(?:says?|states?|mentions?|indicates?|tells?|reads?|describes?|suggests?|notes?|provided|given)"
_THINGS = r"(?:descriptions?|sentences?|statements?|text|information|context|data|prompt|input|lists?)"
_SOURCE = re.compile(
    rf"\b(?:in|from|by|per|to|on|with|of) (?:the|these|this|those|your|all) "
    rf"(?:given |provided |image |scene |textual |five |above )*(?:descriptions?|sentences?|statements?|prompt|input)\b"
    rf"|\b(?:the|these|this|each|one|another|first|second|third|fourth|fifth|last) "
    rf"(?:image |given |provided |textual )?(?:descriptions?|sentences?|statements?) {_TELLS}\b"
    rf"|\b(?:given|provided|supplied) {_THINGS}\b|"
    rf"\b(?:details|descriptions?|captions?|information|data) (?:that )?you(?:['’]ve| have)? "
    rf"(?:shared|provided|gave|given|listed)\b|"
    rf"\b{_THINGS} (?:(?:that )?(?:is|are|was|were) )?(?:provided|supplied)\b(?! (?:by|on|at|for)\b)",
    re.IGNORECASE,
)
_FRACTION = r"(?:0?\.\d{2,}|0\.\d|1\.0+)"
_COORDINATES = re.compile(
    rf"(?<![\d.]){_FRACTION}\s*(?:,|;|and|to|-|–)\s*{_FRACTION}(?!\d)|[\[(]\s*{_FRACTION}\s*,"
)
_MARKS = re.compile(
    r"<(?:image|video|s|/s|\|im_start\||\|im_end\||/?(?:think|thinking|reasoning))>", re.IGNORECASE
)
# Said to whoever asked for the data, and not to whoever looks at the picture.
_OPENING = re.compile(
    r"^\W*(?:(?:sure|certainly|of course|absolutely|okay)\b[^.!?\n]{0,20}[,.!]\s*)?"
    r"(?:here(?:'s|’s| is| are)|below is|the following is) (?:an? |the |some |your )?(?:\w+ ){0,2}"
    r"(?:description|conversation|questions?|answers?)\b|^\W*(?:sure|certainly|of course|absolutely)\s*[!,.]",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"(?:(?:please )?let me know|feel free to|would you like me to|i hope (?:this|that) helps"
    r"|if you(?:'d|’d| would) like (?:me to|more|another|any))\b[^\n]{0,120}$",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?<![\w.])\d{1,3}(?:,\d{3})+(?:\.\d+)?|(?<![\w.])\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Rules:
    """Bounds of one kind of answer, in words and pairs.

    Fields:
        pairs: fewest and most; None for a plain text, which becomes one pair with a question of ours.
        question, answer: words of each, fewest and most.
        languages: ISO 639-1 codes, none for any; of the whole answer, where the identifier is `score` sure.
        coordinates: whether boxes may be spoken of, as where one asks for them.
        numbers: whether every number told must be known.
    """

    pairs: tuple[int, int] | None
    question: tuple[int, int] = (2, 80)
    answer: tuple[int, int] = (1, 600)
    languages: tuple[str, ...] = ("en",)
    score: float = 0.8
    coordinates: bool = False
    numbers: bool = False


KINDS: Mapping[str, Rules] = {
    "conversation": Rules((2, 20)),
    "detail": Rules(None, answer=(25, 600)),
    "complex": Rules((1, 1), answer=(20, 600)),
}


@dataclass(frozen=True)
class Known:
    """What an answer is held against.

    Fields:
        told: all that the teacher was told of the picture.
        examples: answers of the few-shot examples; one that comes back is no answer.
        numbers: what may be told as a number, beside those in `told`.
    """

    told: str
    examples: frozenset[str] = frozenset()
    numbers: frozenset[float] = field(default_factory=frozenset)


def read(text: str, finish: str, rules: Rules, known: Known, question: str = "") -> list[Pair] | str:
    """Returns the pairs of an answer, or why it is rejected.

    Args:
        text: what the teacher wrote.
        finish: why it ended, "stop" or "length".
        rules: of its kind.
        known: of its picture.
        question: of ours, for a plain text.
    """
    if finish == "length":
        return "cut: the answer was longer than the tokens allowed"
    if _REFUSAL.search(text[:400].strip()):
        return "refused"
    try:
        found = [Pair(question, parse.plain(text))] if rules.pairs is None else parse.pairs(text)
    except parse.Unreadable as error:
        return str(error)
    if " ".join(text.split()) in known.examples:
        return "an example told again"
    if rules.pairs and not rules.pairs[0] <= len(found) <= rules.pairs[1]:
        return "too few questions" if len(found) < rules.pairs[0] else "too many questions"
    for pair in found:
        if problem := _of_pair(pair, rules, known):
            return problem
    if (rules.pairs is None and _OPENING.search(found[0].answer)) or _CLOSING.search(
        found[-1].answer.strip()
    ):
        return "speaks to the one who asked for it"
    if len({" ".join(pair.question.lower().split()) for pair in found}) < len(found):
        return "the same question twice"
    said = "\n".join(pair.answer for pair in found)
    if rules.languages and language.is_foreign(said, rules.languages, rules.score):
        return "in another language"
    if rules.numbers and (strange := unknown_numbers(said, numbers_of(known.told) | known.numbers)):
        return f"a number that is not known of it{'' if len(strange) == 1 else ', or several'}"
    return found


def _of_pair(pair: Pair, rules: Rules, known: Known) -> str:
    """What is wrong with a pair, '' where nothing is."""
    for what, text, (least, most) in (
        ("question", pair.question, rules.question),
        ("answer", pair.answer, rules.answer),
    ):
        if _MARKS.search(text):
            return "a control token in it"
        if not least <= (words := len(text.split())) <= most:
            return f"{what} of too {'few' if words < least else 'many'} words"
        if not rules.coordinates and _COORDINATES.search(text):
            return "tells coordinates"
        if talks_of_sources(text, known.told, rules.coordinates):
            return "speaks of what it was told as of a text"
    if _REFUSAL.search(pair.answer[:400]):
        return "refused"
    return ""


def talks_of_sources(text: str, told: str, coordinates: bool = False) -> bool:
    """Whether a text speaks of captions, sentences or boxes as of where it has things from.

    A word that the picture's own captions have, as of a meme with a caption, may be used.
    """
    about = told.lower()
    for match in _SOURCE_WORDS.finditer(text):
        word = match.group().lower()
        if coordinates and (word.startswith(("bounding", "bbox")) or word.endswith("coordinates")):
            continue
        if word.rstrip("s") not in about:
            return True
    return bool(_SOURCE.search(text))


def numbers_of(text: str) -> frozenset[float]:
    """Every number that is written in digits in a text; with commas at thousands too."""
    return frozenset(float(found.replace(",", "")) for found in _NUMBER.findall(text))


def unknown_numbers(text: str, known: Collection[float]) -> list[str]:
    """Numbers, in digits, that are none of the known ones, nor one of these rounded.

    To whole numbers only those from 10 on may be rounded: a replay value of 0.83 is not 1. Numbers in words are not
    looked at.
    """
    found = []
    for written in _NUMBER.findall(text):
        value, decimals = float(written.replace(",", "")), len(written.partition(".")[2])
        half = 0.5 * 10**-decimals + 1e-9
        if not any(value == one or (abs(value - one) <= half and (decimals or one >= 10)) for one in known):
            found.append(written)
    return found
