"""Reads what a teacher writes: blocks of questions and answers, or plain text.

The form is that of LLaVA's examples: `Question:`, its text, a line `===`, `Answer:`, its text, a line `===`, and so on;
the last `===` may be missing.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

_BAR = re.compile(r"^[ \t]*={3,}[ \t]*$", re.MULTILINE)
_HEAD = re.compile(r"\s*(Question|Answer)[ \t]*:[ \t]*(?:\r?\n|(?=\S)|$)")
_INNER = re.compile(r"^[ \t]*(?:Question|Answer)[ \t]*:", re.MULTILINE)
_FENCE = re.compile(r"\s*```\w*\n(.*?)\n?```\s*", re.DOTALL)


class Unreadable(ValueError):
    """An answer in another form. The message is a constant phrase, so that it can be counted."""


@dataclass(frozen=True)
class Pair:
    """A question and its answer, neither empty."""

    question: str
    answer: str


def pairs(text: str) -> list[Pair]:
    """Returns the questions and answers of a text in blocks. Raises Unreadable, saying what is wrong."""
    text = _bare(text)
    if not text.strip():
        raise Unreadable("empty")
    blocks = _BAR.split(text)
    if len(blocks) > 1 and not blocks[-1].strip():
        blocks.pop()
    found: list[tuple[str, str]] = []
    for block in blocks:
        head = _HEAD.match(block)
        if not head:
            raise Unreadable("a block that is neither question nor answer")
        said = block[head.end() :].strip()
        if not said:
            raise Unreadable(f"{head.group(1).lower()} without text")
        if _INNER.search(said):
            raise Unreadable("no === between question and answer")
        found.append((head.group(1), said))
    if found[0][0] != "Question":
        raise Unreadable("answer without a question")
    for (one, _), (other, _) in itertools.pairwise(found):
        if one == other:
            raise Unreadable(
                "question without an answer" if one == "Question" else "answer without a question"
            )
    if found[-1][0] == "Question":
        raise Unreadable("question without an answer")
    return [Pair(asked, told) for (_, asked), (_, told) in zip(found[::2], found[1::2], strict=True)]


def plain(text: str) -> str:
    """Returns a text that is to have no blocks. Raises Unreadable where it is empty or has some."""
    text = _bare(text).strip()
    if not text:
        raise Unreadable("empty")
    if _BAR.search(text) or _INNER.search(text):
        raise Unreadable("blocks where plain text is wanted")
    return text


def write(found: list[Pair]) -> str:
    """The text that `pairs` reads."""
    return "\n===\n".join(f"Question:\n{one.question}\n===\nAnswer:\n{one.answer}" for one in found)


def _bare(text: str) -> str:
    """The text with plain line ends, and without a code fence around all of it."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    fenced = _FENCE.fullmatch(text)
    return fenced.group(1) if fenced else text
