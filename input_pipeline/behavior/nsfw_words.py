"""A small list of English words that keep a post or comment out of the training data.

It is ours, short and blunt. The paper uses the public LDNOOBW list; give its path as `nsfw_words` to do the
same.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

from input_pipeline.behavior.similarity import words_of
from input_pipeline.errors import UserError

_WORD = re.compile(r"\w+")

WORDS: tuple[str, ...] = (
    "anal", "blowjob", "blowjobs", "boner", "bukkake", "butt", "clit", "cock", "cocks", "cocksucker",
    "creampie", "cum", "cumshot", "cunt", "cunts", "deepthroat", "dick", "dicks", "dildo", "erotic", "fag",
    "faggot", "faggots", "fap", "fuck", "fucked", "fucker", "fucking", "gangbang", "handjob", "hentai",
    "horny", "incest", "jerk off", "jizz", "masturbate", "masturbating", "masturbation", "milf",
    "motherfucker", "nigga", "nigger", "niggers", "nude", "nudes", "orgasm", "orgy", "penis", "porn",
    "porno", "pornhub", "pussy", "rape", "raped", "rapist", "semen", "sexy", "shemale", "slut", "sluts",
    "threesome", "tits", "titties", "tranny", "twat", "vagina", "wank", "wanker", "whore", "whores", "xxx",
)  # fmt: skip


@functools.lru_cache(maxsize=8)
def finder(path: str = "") -> Callable[[str], bool]:
    """Returns a function that tells whether a text holds any of the words, whole and in any case.

    Args:
        path: a text file with a word or phrase per line; '' for our own list.
    """
    words = WORDS
    if path:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: the word list cannot be read ({error})") from None
        words = tuple(line.strip() for line in lines if line.strip())
        if not words:
            raise UserError(f"{path}: the word list is empty")
    # Single words, and the first words of phrases, are looked up in a set, which costs the same for ten and for
    # a thousand of them.
    single = frozenset(word.lower() for word in words if _WORD.fullmatch(word))
    others = sorted({word for word in words if not _WORD.fullmatch(word)}, key=len, reverse=True)
    pattern = re.compile(
        rf"(?<!\w)(?:{'|'.join(map(re.escape, others))})(?!\w)" if others else r"(?!)", re.IGNORECASE
    )
    firsts = frozenset(found.group() for word in others if (found := _WORD.search(word.lower())))
    wordless = any(not _WORD.search(word) for word in others)

    def holds(text: str) -> bool:
        found = words_of(text)
        if not single.isdisjoint(found):
            return True
        return (wordless or not firsts.isdisjoint(found)) and bool(pattern.search(text))

    return holds
