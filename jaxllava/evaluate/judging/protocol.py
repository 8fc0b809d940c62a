"""What a judged task is given and gives: answers and a way to ask in, figures and files out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jaxllava.evaluate.metrics import Estimate
from jaxllava.evaluate.scoring.answered import Answered, Problems
from jaxllava.evaluate.tasks.task import Task
from jaxllava.teacher.messages import Answer, Failure, Request, Teacher

Said = Mapping[str, Answer | Failure]  # by the key of the request
Ask = Callable[[Iterable[Request]], Said]

TEMPERATURE = 0.2  # of LLaVA's reviewer; ours wherever a protocol names none


@dataclass(frozen=True)
class Plan:
    """How is judged.

    Args:
        repeats: answers of the judge to each question (`Request.draw`).
        swap: LLaVA-Bench: each pair also with the assistants exchanged.
        drop_unparsable: what a reference counts as a number (-1, 0) although it read none is left out.
        seed: of the intervals, and of guesses where the reference guesses.
        temperature, max_tokens: of every request, in place of the protocol's; None leaves those.
    """

    repeats: int = 1
    swap: bool = False
    drop_unparsable: bool = False
    seed: int = 0
    temperature: float | None = None
    max_tokens: int | None = None

    def applied(self, requests: Iterable[Request]) -> Iterator[Request]:
        """The requests of a protocol with what is set here in place of its own."""
        changes: dict[str, float | int] = {}
        if self.temperature is not None:
            changes["temperature"] = self.temperature
        if self.max_tokens is not None:
            changes["max_tokens"] = self.max_tokens
        for request in requests:
            yield replace(request, **changes) if changes else request


@dataclass(frozen=True)
class Case:
    """A task's answered questions. `rows` have the question in `meta["prompt"]`; a truth may be None. `root` is
    --data-root. `answered_by` is the identity of the model that answered.
    """

    task: Task
    rows: Sequence[Answered]
    root: Path
    answered_by: str = ""


@dataclass(frozen=True)
class Judged:
    """Figures, the headline first; what was wrong and what was done about it -> ids; files' texts by name."""

    figures: dict[str, Estimate]
    problems: Problems = field(default_factory=Problems)
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Judge:
    """How one task is judged.

    Args:
        requests: the first things to ask, so that they can be counted and priced before.
        judge: asks them, and what follows from the answers.
        papers: the judge of the reported figures.
        ours: what of the protocol is ours, because no source prints it.
        again: what is asked beyond `requests`, and when.
        headline: the first figure in words, where it is another than the task's metric.
        read: the figures of files of reviews in the reference's own form, each a repeat; None: it has none.
    """

    requests: Callable[[Case, Plan], Iterator[Request]]
    judge: Callable[[Case, Ask, Plan], Judged]
    papers: str
    ours: str = ""
    again: str = ""
    headline: str = ""
    read: Callable[[Task, Sequence[Path], Plan], Judged] | None = None


def as_planned(judge: Judge) -> Judge:
    """The same judge, whose every request, also one that follows from answers, is as the plan has it."""

    def requests(case: Case, plan: Plan) -> Iterator[Request]:
        return plan.applied(judge.requests(case, plan))

    def judged(case: Case, ask: Ask, plan: Plan) -> Judged:
        return judge.judge(case, lambda asked: ask(plan.applied(asked)), plan)

    return replace(judge, requests=requests, judge=judged)


def asker(teacher: Teacher, report: Callable[[int], None] = lambda done: None) -> Ask:
    """Asks a teacher; every request has an answer or a failure, in the order of the requests, however they came.

    `report` is told how many have come so far.
    """

    def ask(requests: Iterable[Request]) -> Said:
        keys: dict[str, None] = {}

        def noted() -> Iterator[Request]:
            for request in requests:
                if request.key in keys:
                    raise ValueError(f"two requests have the key {request.key!r}")
                keys[request.key] = None
                yield request

        found: dict[str, Answer | Failure] = {}
        for said in teacher.ask(noted()):
            found[said.key] = said
            report(len(found))
        return {key: found.get(key, Failure(key, "no answer came")) for key in keys}

    return ask


def until_readable(
    ask: Ask,
    requests: Iterable[Request],
    again: Callable[[Request, int], Request],
    readable: Callable[[str], bool],
    rounds: int,
) -> dict[str, Answer | Failure]:
    """Asks, and asks again what came back unreadable, at most `rounds` times in all.

    `again(request, round)` makes the request of round 1, 2, ... from the first one. What comes is by the first one's
    key. A failure is not asked again: the teacher has tried it several times.
    """
    first = {request.key: request for request in requests}
    found = dict(ask(first.values()))
    for number in range(1, rounds):
        waiting = {
            again(first[key], number).key: key
            for key, said in found.items()
            if isinstance(said, Answer) and not readable(said.text)
        }
        if not waiting:
            break
        for key, said in ask([again(first[key], number) for key in waiting.values()]).items():
            found[waiting[key]] = said
    return found


def text_of(said: Answer | Failure, id: str, problems: Problems) -> str | None:
    """The text of an answer; None, and noted, where there is none."""
    if isinstance(said, Failure):
        problems.note(f"the judge failed, left out: {said.reason}", id)
        return None
    if not said.text.strip():
        problems.note("the judge answered nothing", id)
    return said.text
