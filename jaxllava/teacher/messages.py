"""What a teacher or judge is asked, and what it answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Message:
    """One turn: role "system", "user" or "assistant"; the text; encoded pictures, which stand in front of it."""

    role: str
    text: str
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Request:
    """One thing to ask.

    Fields:
        key: names it among all requests of a run, such as '000000215259/conversation'.
        messages: the last one is the user's.
        max_tokens, temperature, top_p: of the answer.
        draw: which of several answers to the same question: the first is 0.
    """

    key: str
    messages: tuple[Message, ...]
    max_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    draw: int = 0

    def identity(self, model: str) -> str:
        """A hash, hex, of all that an answer of this model depends on; `key` is not."""
        said = [
            [one.role, one.text, [hashlib.sha256(image).hexdigest() for image in one.images]]
            for one in self.messages
        ]
        parts = [model, said, self.max_tokens, float(self.temperature), float(self.top_p), self.draw]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


FINISHES = ("stop", "length")
PAID = ("refused", "returned nothing")  # what a teacher says in place of an answer, at an answer's price


@dataclass(frozen=True)
class Answer:
    """finish: why it ended, "stop" or "length" (cut at `max_tokens`). Tokens as the teacher counts them. kept: from an
    earlier run, so that it cost nothing now.
    """

    key: str
    text: str
    finish: str = "stop"
    prompt_tokens: int = 0
    new_tokens: int = 0
    kept: bool = False


@dataclass(frozen=True)
class Failure:
    """A request without an answer. `reason` is short, so that reports can count it; `detail` holds no secret. is_final:
    it is the teacher's last word (a refusal, a prompt that is too long), and asking again would not help. is_paid: it
    was said in place of an answer, so that caches keep it like one.
    """

    key: str
    reason: str
    detail: str = ""
    is_final: bool = False
    is_paid: bool = False


class Teacher(Protocol):
    """Something that answers."""

    @property
    def model(self) -> str:
        """Its name, as reports and caches have it."""
        ...

    @property
    def spent(self) -> float:
        """What asking has cost so far, at the settings' prices; 0 where nothing costs."""
        ...

    def ask(self, requests: Iterable[Request]) -> Iterator[Answer | Failure]:
        """An answer or a failure for each request, as they come, in any order.

        Requests are taken as there is room for them, so that they may be as many as one likes.
        """
        ...
