"""Reads what a teacher writes: blocks of questions and answers, or plain text.

The form is that of LLaVA's examples: `Question:`, its text, a line `===`, `Answer:`, its text, a line `===`, and so on;
the last `===` may be missing. What models put around it and cannot be taken for content is dropped: what they think
aloud in front (`<think>`), a code fence around all, a sentence that leads to the first question, a heading, and the
markup or number of a head (`**Question 2:**`).
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

_BAR = re.compile(r"^[ \t]*={3,}[ \t]*$", re.MULTILINE)
_NAMED = (
    r"(?:#{1,6}[ \t]*)?(?P<mark>[*_]{0,3})(?P<name>question|answer)(?:[ \t]*#?\d{1,3})?[ \t]*"
    r"(?:(?P=mark)[ \t]*:|:[ \t]*(?P=mark))"
)
_HEAD = re.compile(rf"\s*{_NAMED}[ \t]*(?:\n|(?=\S)|$)", re.IGNORECASE)
_INNER = re.compile(rf"^[ \t]*{_NAMED}", re.MULTILINE | re.IGNORECASE)
_FENCE = re.compile(r"\s*```\w*\n(.*?)\n?```\s*", re.DOTALL)
_THOUGHT = re.compile(r"\s*<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_HEADING = re.compile(
    r"\s*(?:#{1,6}[ \t]*)?[*_]{0,3}(?:(?:detailed|image|picture|scene)[ \t]+){0,2}description"
    r"(?:[*_]{0,3}[ \t]*:[ \t]*[*_]{0,3}|[ \t]*[*_]{0,3}[ \t]*(?=\n))\s*",
    re.IGNORECASE,
)
_LEAD = re.compile(
    r"\s*(?:(?:sure|certainly|of course|absolutely|okay)\b[^\n]{0,80}|here(?:'s|’s| is| are)\b[^\n]{0,80}):[ \t]*\n\s*",
    re.IGNORECASE,
)


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
    first = _INNER.search(blocks[0])
    if first and "\n" not in blocks[0][: first.start()].strip():  # a sentence leads to it
        blocks[0] = blocks[0][first.start() :]
    if len(blocks) > 1 and not blocks[-1].strip():
        blocks.pop()
    found: list[tuple[str, str]] = []
    for block in blocks:
        head = _HEAD.match(block)
        if not head:
            raise Unreadable("a block that is neither question nor answer")
        said = block[head.end() :].strip()
        if not said:
            raise Unreadable(f"{head['name'].lower()} without text")
        if _INNER.search(said):
            raise Unreadable("no === between question and answer")
        found.append((head["name"].capitalize(), said))
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
    text = _bare(text)
    for around in (_LEAD, _HEADING):
        if match := around.match(text):
            text = text[match.end() :]
    text = text.strip()
    if not text:
        raise Unreadable("empty")
    if _BAR.search(text) or _INNER.search(text):
        raise Unreadable("blocks where plain text is wanted")
    return text


def write(found: list[Pair]) -> str:
    """The text that `pairs` reads."""
    return "\n===\n".join(f"Question:\n{one.question}\n===\nAnswer:\n{one.answer}" for one in found)


def _bare(text: str) -> str:
    """The text with plain line ends, without thoughts in front and a code fence around all of it."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if thought := _THOUGHT.match(text):
        text = text[thought.end() :]
    fenced = _FENCE.fullmatch(text)
    return fenced.group(1) if fenced else text
