"""Where the parts of an answer stand: `statements.write` read backwards, for evaluation.

An answer is content, marker and behaviour. Which behaviours are told decides every word of the behaviour but its slots
and the lengths of its lists, so the pieces of the template become one pattern, which has to fit the whole of it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from dataclasses import dataclass
from string import Formatter

from input_pipeline.behavior.pieces import Each, First, Piece, Template, Text, names, texts

# What `statements` writes into a slot. Texts of users are on one line and hold no double quote (`harmless`).
_FORMS = {
    "number": r"\d+",
    "percent": r"\d+\.\d",
    "value": r"\d\.\d\d",
    "score": r"\d\d",
    "text": r'[^"\n]+',
    "told_title": r'[^"\n]+',
    "name": r"[^\n]+",
}
_VALUE_OF_TURN = re.compile(rf"{_FORMS['value']}$", re.ASCII)
_CLOSING = re.compile(r'"?\n*')


@dataclass(frozen=True)
class Span:
    """The characters [start, end) of an answer. `number` is the one printed with a list's member, else 0."""

    start: int
    end: int
    number: int = 0

    def of(self, answer: str) -> str:
        """The text itself."""
        return answer[self.start : self.end]

    def closed(self, answer: str) -> str:
        """The text with the quote and the lines' ends behind it.

        Tokenizers join these to what is in front (`!!!"`, and Llama 3's `"` with the line's end): without them the text
        ends in tokens that no training answer has there.
        """
        closing = _CLOSING.match(answer, self.end)
        assert closing is not None  # it may be empty
        return answer[self.start : closing.end()]


Parts = dict[str, tuple[Span, ...]]


def split(template: Template, answer: str, told: Collection[str]) -> Parts:
    """Finds the parts of an answer that `template` wrote.

    Args:
        template: what wrote it.
        answer: the whole answer; of a film told by turns of its scenes the last one, which tells no replay values.
        told: the behaviours that it tells (`meta["behaviors"]` of a record, `Statement.behaviors`).

    Returns: the spans by name, only of what is there: 'content'; the slots of the behaviour without the words around
        them ('percent' such as 62.5, 'told_title', 'score'); the members of its lists, in order ('comments' without
        number and quotes, 'replay' the values, 'objects', 'regions').

    Raises:
        ValueError: the template does not write such an answer.
    """
    told = set(told) - {"replay"} if template.scene else told
    begin, end = _border(template, answer, frozenset(told))
    parts: Parts = {"content": (Span(0, end),)} if end else {}
    if not told:
        return parts
    pattern, lists = _pattern(template, frozenset(told))
    found = pattern.fullmatch(answer, begin)
    if found is None:
        raise ValueError(
            f"template {template.name} does not write such an answer, telling {', '.join(sorted(told))}"
        )
    for name in found.re.groupindex:
        if name not in lists:
            parts[name] = (Span(*found.span(name)),)
    for name, (member, slot) in lists.items():
        spans = []
        for one in member.finditer(answer, *found.span(name)):
            number = one.group("number") if "number" in member.groupindex else 0
            spans.append(Span(*one.span(slot), int(number)))
        parts[name] = tuple(spans)
    return parts


def value_of_turn(answer: str) -> Span | None:
    """Where the replay value stands in the answer of a scene's own turn: at its end, if it tells one."""
    found = _VALUE_OF_TURN.search(answer)
    return Span(*found.span()) if found else None


def _border(template: Template, answer: str, told: frozenset[str]) -> tuple[int, int]:
    """(where the behaviour begins, where the content ends: 0 without content)."""
    if not told:
        return len(answer), len(answer)
    if template.marker:
        # No text of a user can hold the marker (`harmless`), so the first one is the template's.
        at = answer.find(template.marker + template.gap)
        if at == 0 or (at > 0 and answer[:at].endswith(template.gap)):
            return at + len(template.marker + template.gap), max(0, at - len(template.gap))
        raise ValueError(f"template {template.name} writes {template.marker!r} in front of what is told")
    if not any(True for _ in texts(template.content)):
        return 0, 0
    # The behaviour's pattern fits behind one gap alone: it begins with its heading, and texts are on one line.
    pattern, _ = _pattern(template, told)
    starts = [0] + [found.end() for found in re.finditer(re.escape(template.gap), answer)]
    for start in reversed(starts):
        if pattern.fullmatch(answer, start):
            return start, max(0, start - len(template.gap))
    raise ValueError(f"template {template.name} does not write such an answer")


@functools.cache
def _pattern(
    template: Template, told: frozenset[str]
) -> tuple[re.Pattern[str], dict[str, tuple[re.Pattern[str], str]]]:
    """The behaviour's pattern, with a group for each slot and list, and by list (a member's pattern, its slot)."""
    lists: dict[str, tuple[re.Pattern[str], str]] = {}

    def written(piece: Piece, named: bool) -> str:
        """The pattern of a piece; "" where it is left out."""
        if isinstance(piece, Text):
            return _of_text(piece.text, named) if told | {"behavior"} >= set(piece.when) else ""
        if isinstance(piece, Each):
            if piece.list not in told:
                return ""
            member, one = written(piece.item, True), written(piece.item, False)
            (slot,) = names(piece.item) - {"number"}
            lists[piece.list] = re.compile(member), slot
            return f"(?P<{piece.list}>{one}(?:{re.escape(piece.gap)}{one})*)"
        parts = [part for inner in piece.pieces if (part := written(inner, named))]
        return next(iter(parts), "") if isinstance(piece, First) else re.escape(piece.gap).join(parts)

    return re.compile(written(template.behavior, True)), lists


def _of_text(text: str, named: bool) -> str:
    found = ""
    for literal, slot, _, _ in Formatter().parse(text):
        found += re.escape(literal)
        if slot:
            found += f"(?P<{slot}>{_FORMS[slot]})" if named else _FORMS[slot]
    return found
