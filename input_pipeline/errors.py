"""The one error that a user's mistake raises: a single line that names the culprit and the remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in a flag, path, config or input file. The command line prints it without a traceback."""


def nearest(word: str, valid: Iterable[str]) -> str:
    """Returns ' Did you mean X?' for the closest valid name, else the list of valid names."""
    names = sorted(valid)
    longer = [name for name in names if len(word.lstrip("-")) > 1 and name.startswith(word)]
    close = longer if len(longer) == 1 else difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Valid names: {', '.join(names)}."


def in_one_line(error: Exception, limit: int = 300) -> str:
    """What a library's exception says, for the middle of a sentence: its lines joined, at most `limit` characters."""
    text = re.split(r" \[(?:tensorstore_spec|source locations)=", str(error))[
        0
    ]  # kilobytes that name nothing more
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= limit else text[:limit] + "..."
