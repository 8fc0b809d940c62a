"""What is asked of each scene, and how the answers are read: a caption that goes on the paper's "The scene shows",
and tags.

Both are read strictly and both are bounded, whatever a model writes: models that repeat themselves without end,
lists in place of sentences and sentences in place of lists are met every day.
"""

from __future__ import annotations

import re

CAPTION_PROMPT = "Describe what this scene shows in one short sentence."
TAGS_PROMPT = (
    "Which things, people, places and activities can be seen in this scene? Answer with short tags, joined by "
    "commas, and nothing else."
)
MOST_TAGS = 20  # as many as the templates tell
_TAG_WORDS, _TAG_LETTERS = 5, 50  # what is longer is no tag but a part of a sentence
_CAPTION_WORDS = 100  # as many as the templates tell
_LONGEST = 20_000  # characters of an answer that are looked at
_PERIOD = 12  # words of a phrase that may come again and again

_LABEL = re.compile(r"^\W*(?:caption|description|scene|answer|assistant)(?:\s+\d+)?\s*:\s*", re.IGNORECASE)
_PICTURE = r"(?:scene|image|picture|photo|photograph|frame|video(?:\s+frame)?|screenshot|shot|clip)"
_SHOWS = (
    r"(?:(?:clearly\s+)?(?:shows|depicts|features|displays|captures|contains|presents|portrays|illustrates|showcases)"
    r"|is\s+(?:of|showing)|is\s+set\s+(?:in|on|at))"
)
# Nothing of these says anything behind "The scene shows".
_KIND = r"(?:(?!in\b|of\b|on\b|with\b)[\w-]+\s+){0,4}"  # "black and white", "close-up"
_LEAD_IN = re.compile(
    rf"(?:(?:this|the|an?)\s+{_KIND}{_PICTURE}\s+{_SHOWS}"
    rf"|(?:this|it)\s+is\s+an?\s+{_KIND}{_PICTURE}\s+(?:of|showing)"
    rf"|an?\s+{_KIND}{_PICTURE}\s+(?:of|showing)"
    rf"|in\s+(?:this|the)\s+{_PICTURE}\s*,?"
    r"|there\s+(?:is|are)|(?:we|you|one)\s+(?:can\s+)?see)\s+(?=\S)",
    re.IGNORECASE,
)
_STOP = re.compile(r"[.!?…]+[\"'”’)]*(?=\s)|[。！？]")
_HANGING = re.compile(r"(?:[\s,;]+(?:and|or|with|an?|the|of|in|on|at|to))+$")
_ABBREVIATION = re.compile(r"(?:\b[A-Za-z]|\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|No|vs|etc|approx|Inc|Ltd|Co))$")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "*": "*", "`": "`", "«": "»"}
# Words that are names in no sentence that they begin.
_CLOSED = frozenset(
    (
        *(
            "a",
            "an",
            "the",
            "this",
            "that",
            "these",
            "those",
            "there",
            "some",
            "several",
            "many",
            "few",
            "both",
        ),
        *(
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "one",
            "no",
            "each",
            "every",
        ),
        *("various", "multiple", "numerous", "another", "people", "person", "man", "men", "woman", "women"),
        *(
            "child",
            "children",
            "boy",
            "girl",
            "crowd",
            "group",
            "close-up",
            "close",
            "view",
            "his",
            "her",
            "their",
        ),
        *("in", "on", "at", "with", "from", "under", "over", "near", "inside", "outside", "behind", "beside"),
        *("next", "its", "it", "he", "she", "they", "we", "you", "what", "while", "as"),
    )
)

_TAG_LABEL = re.compile(r"^\W*(?:tags?|keywords?|labels?|answer|assistant)\s*(?:are|include)?\s*:\s*", re.I)
_BETWEEN_TAGS = re.compile(r"[,;|\n\r、，；•]+")
_BULLET = re.compile(r"^(?:[-*#–—+]+\s*|\d{1,3}[.)]\s*|(?:and|or)\s+)+")
_AROUND_TAG = " \t\"'`“”‘’«»*_.:!?…[]{}<>\\"


def parse_caption(text: str) -> str:
    """Returns the first sentence of an answer so that "The scene shows {caption}." reads well; '' for none.

    Left out are labels ("Caption:"), quotes around all, lead-ins that say the same again ("The image shows"), the
    final stop, and what a phrase says the third time in a row. The first letter is small unless it begins what is
    likely a name (see `lower_first`).
    """
    lines = (" ".join(line.split()) for line in _readable(text).splitlines())
    caption = next(filter(None, (_unquoted(_LABEL.sub("", line)) for line in lines)), "")
    caption = _without_loops(_first_sentence(caption))
    while match := _LEAD_IN.match(caption):
        caption = caption[match.end() :]
    words = caption.split(" ")
    return lower_first(" ".join(words[:_CAPTION_WORDS]).rstrip(" .,;:!?…。！？"))


def lower_first(text: str) -> str:
    """Makes the first letter small where it is large only because a sentence begins there.

    It stays where the first word is likely a name or an acronym: another of its characters is a capital or a digit
    (NASA, McDonald's, F16), it comes again with a capital further on, or the next word has one too
    (Barack Obama), unless it is a word that is no name ("The Eiffel Tower").
    """
    first, *others = text.split(" ")
    plain = first.rstrip(",;:.'’s") or first
    if not first or not first[0].isupper() or first in ("I", "I'm", "I’m"):
        return text
    if first.lower() not in _CLOSED:
        if any(letter.isupper() or letter.isdigit() for letter in first[1:]):
            return text
        if any(word.strip(",;:.\"'()").startswith(plain) for word in others if len(plain) > 1):
            return text
        if others and others[0][:1].isupper():
            return text
    return first[0].lower() + text[1:]


def parse_tags(text: str, cut: bool = False) -> tuple[str, ...]:
    """Returns the tags of an answer that is a list with commas (or lines, bullets, numbers), in its order.

    They are small letters, without outer marks, each once and at most `MOST_TAGS`. What is empty, has no letter or
    digit, or is too long for a tag is left out.

    Args:
        cut: the answer ended for its length, so that its last word may be the beginning of one.
    """
    pieces = _BETWEEN_TAGS.split(_readable(text).strip())
    if cut:
        pieces.pop()
    found: dict[str, None] = {}
    for piece in pieces:
        tag = _tag(piece)
        if tag and len(tag.split(" ")) <= _TAG_WORDS and len(tag) <= _TAG_LETTERS:
            found[tag] = None
            if len(found) == MOST_TAGS:
                break
    return tuple(found)


def _readable(text: str) -> str:
    """The text without control characters and the marks of broken bytes, which models write too."""
    return "".join(
        letter if (letter.isprintable() and letter != "\ufffd") or letter.isspace() else " "
        for letter in text[:_LONGEST]
    )


def _tag(piece: str) -> str:
    tag, before = " ".join(piece.lower().split()), None
    while tag != before:
        before = tag
        tag = _BULLET.sub("", _TAG_LABEL.sub("", tag)).strip(_AROUND_TAG)
    return tag if any(map(str.isalnum, tag)) else ""


def _unquoted(text: str) -> str:
    text = text.strip()
    while len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    return text


def _first_sentence(text: str) -> str:
    for match in _STOP.finditer(text):
        if match[0][0] == "." and _ABBREVIATION.search(text, 0, match.start()):
            continue  # an initial, or a word that is written short
        return text[: match.end()]
    return text


def _without_loops(text: str) -> str:
    """Cuts a text where the same one to twelve words come three times in a row, behind the first of these."""
    words = text.split(" ")
    plain = [word.lower() for word in words]
    for start in range(len(words)):
        for size in range(1, _PERIOD + 1):
            phrase, after = plain[start : start + size], plain[start + size : start + 3 * size]
            if len(after) == 2 * size and after == phrase * 2:
                return _HANGING.sub("", " ".join(words[: start + size]))
    return text
