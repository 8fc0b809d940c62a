"""Generated comments beside the true ones: a lenient reader of lists, and ROUGE-L between two lists.

ROUGE-L (Lin 2004) is the library rouge-score's, with its own tokens (letters a to z and digits, in lower case).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from input_pipeline.errors import UserError

_ITEM = re.compile(r"\s*(?:\d{1,3}\s*[.):]|[-*•])\s*(.*)")
_QUOTES = "\"'“”„‟«»"
_WORD = re.compile(r"[a-zA-Z0-9]")

Pair = Callable[[str, str], float]  # a symmetric similarity in [0, 1]


def read_list(text: str, most: int) -> list[str]:
    """Reads a list that a model wrote.

    An item begins on a line of its own with a number (`1.`, `1)`, `1:`) or a bullet; quotes around it go, and what
    follows the closing quote on its line. A line that begins no item, and is not empty, ends the list.

    Args:
        text: what the model wrote, from its first item on.
        most: how many items to read; empty ones count, and are left out of what is returned.
    """
    items = []
    for line in list(filter(str.strip, text.splitlines()))[:most]:
        found = _ITEM.fullmatch(line)
        if found is None:
            break
        item = found[1].strip()
        if item[:1] in _QUOTES and item:
            quote = item[0]
            closing = {"“": "”", "„": "“", "«": "»"}.get(quote, quote)
            at = item.rfind(closing, 1) if quote == "'" else item.find(closing, 1)
            item = item[1:at] if at > 0 else item[1:]
        if item := item.strip():
            items.append(item)
    return items


def rouge_l() -> Pair:
    """ROUGE-L's F of two texts. Raises UserError where the library is not installed."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise UserError(
            "the overlap of comments needs the library rouge-score: pip install 'jaxllava[eval]'"
        ) from None
    scorer = RougeScorer(["rougeL"])
    return lambda first, second: scorer.score(first, second)["rougeL"].fmeasure


@dataclass(frozen=True)
class Overlap:
    """How near two lists are, each in [0, 1].

    `precision` is the mean over the generated texts of the best match among the true ones, `recall` the mean over the
    true ones, `f` their harmonic mean.
    """

    precision: float
    recall: float
    f: float


def overlap(generated: Sequence[str], true: Sequence[str], pair: Pair) -> Overlap:
    """Compares two lists that are not empty."""
    matches = [[pair(one, other) for other in true] for one in generated]
    precision = sum(map(max, matches)) / len(generated)
    recall = sum(map(max, zip(*matches, strict=True))) / len(true)
    both = precision + recall
    return Overlap(precision, recall, 2 * precision * recall / both if both else 0.0)


def comparable(comments: Sequence[str]) -> list[str]:
    """The comments that ROUGE has tokens of: not those of emoji or other scripts alone."""
    return [text for text in comments if _WORD.search(text)]


def donors(posts: Sequence[tuple[str, str, int]]) -> dict[str, str]:
    """Deals every post another one, whose comments show what overlap chance gives.

    Args: posts: (id, source, comments) of each. Posts of one source and number of comments go in a circle, in
    an order of their ids' hashes; a circle's end meets the next one. Empty for fewer than two posts.
    """
    order = sorted(posts, key=lambda post: (*post[1:], sha256(post[0].encode()).digest()))
    ids = [name for name, *_ in order]
    return dict(zip(ids, ids[1:] + ids[:1], strict=True)) if len(ids) > 1 else {}
