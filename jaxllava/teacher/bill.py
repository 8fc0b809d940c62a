"""What asking has taken, for a command to tell at its end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from jaxllava.teacher.messages import Answer, Failure, Request, Teacher


class Bill:
    """A `Teacher` that passes on to another what it is asked, and counts the tokens of answers that were not kept."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self.answers = self.prompt_tokens = self.new_tokens = 0

    @property
    def model(self) -> str:
        return self._teacher.model

    @property
    def spent(self) -> float:
        return self._teacher.spent

    def ask(self, requests: Iterable[Request]) -> Iterator[Answer | Failure]:
        """See `Teacher.ask`."""
        for said in self._teacher.ask(requests):
            if isinstance(said, Answer) and not said.kept:
                self.answers += 1
                self.prompt_tokens += said.prompt_tokens
                self.new_tokens += said.new_tokens
            yield said

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Prints `line` behind the block; where that is left by an error only if something was asked."""
        try:
            yield
        except BaseException:
            if self.answers or self.spent:
                print(self.line(), flush=True)
            raise
        print(self.line(), flush=True)

    def line(self) -> str:
        """In one line."""
        if not self.answers and not self.spent:
            return "no new answer came"
        tokens = f"{self.prompt_tokens:,} tokens of prompts and {self.new_tokens:,} of answers"
        told = f"{self.answers:,} new answers: {tokens}"
        return f"{told}; about {self.spent:,.2f} was spent" if self.spent else told
