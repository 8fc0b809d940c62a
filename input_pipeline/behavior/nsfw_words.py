"""A small list of English words that keep a post or comment out of the training data.

It is ours, short and blunt. The paper uses the public LDNOOBW list; give its path as `nsfw_words` to do the
same.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from input_pipeline.errors import UserError

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
def pattern(path: str = "") -> re.Pattern[str]:
    """Returns a pattern that finds any of the words, whole and in any case.

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
    # Longest first, or "cock" would win over a phrase that begins with it.
    alternatives = "|".join(re.escape(word) for word in sorted(set(words), key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)", re.IGNORECASE)
