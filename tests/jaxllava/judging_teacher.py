"""A judge that answers by a rule, out of order, for tests of judging."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from jaxllava.teacher.messages import Answer, Failure, Request


class RuleTeacher:
    """`rule(request)` is the answer's text; None is a failure. All requests are kept in `asked`."""

    def __init__(self, rule: Callable[[Request], str | None], model: str = "rule-1") -> None:
        self.rule, self._model = rule, model
        self.asked: list[Request] = []

    @property
    def model(self) -> str:
        return self._model

    def ask(self, requests: Iterable[Request]) -> Iterator[Answer | Failure]:
        taken = list(requests)
        self.asked += taken
        for request in reversed(taken):  # in any order, as the protocol has it
            text = self.rule(request)
            yield Failure(request.key, "refused") if text is None else Answer(request.key, text)
