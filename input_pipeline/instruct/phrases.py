"""Noun phrases of a caption, by a tagger that comes with its lexicon and needs no download.

The paper used spaCy's noun chunks. Its models are no packages of PyPI; TextBlob's English tagger and chunker (the
extra `phrases`) are small, rule-based and fast, and wrong more often. A phrase here is a run of adjectives, numbers and
nouns that ends in a noun, without articles and pronouns, in small letters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from input_pipeline.errors import UserError

_INSIDE = ("NN", "JJ", "CD", "VBG")  # of a phrase; its last word is a noun
_MOST_LETTERS = 1000  # of a caption that are looked at


@functools.cache
def _tagger() -> Callable[..., Any]:
    try:
        from textblob.en import tag  # pyright: ignore
    except ImportError:
        raise UserError(
            "choosing captions by their noun phrases needs TextBlob; install it with: pip install 'jaxllava[phrases]'"
        ) from None
    return tag


def of(caption: str) -> frozenset[str]:
    """The noun phrases of a caption, each once. Raises UserError where TextBlob is missing."""
    found: set[str] = set()
    run: list[tuple[str, str]] = []
    for word, tag in [*_tagger()(caption[:_MOST_LETTERS]), ("", "")]:
        inside = tag.startswith(_INSIDE)
        # Behind a noun only a noun goes on: "man holding two shirts" is two phrases.
        if not inside or (run and run[-1][1].startswith("NN") and not tag.startswith("NN")):
            if phrase := _phrase(run):
                found.add(phrase)
            run = []
        if inside:
            run.append((word.lower(), tag))
    return frozenset(found)


def _phrase(run: list[tuple[str, str]]) -> str:
    """The run up to its last noun, from its first word on that is no verb."""
    while run and not run[-1][1].startswith("NN"):
        run.pop()
    while len(run) > 1 and run[0][1].startswith("VBG"):
        run = run[1:]
    return (
        " ".join(word for word, _ in run)
        if any(character.isalpha() for word, _ in run for character in word)
        else ""
    )
