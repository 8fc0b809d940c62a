"""Releases and answers to be judged, and a judge that answers by a rule, out of order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from jaxllava.evaluate import benchmarks
from jaxllava.evaluate.answers import Answers
from jaxllava.evaluate.tasks import TASKS
from jaxllava.evaluate.tasks.task import read
from jaxllava.teacher.messages import Answer, Failure, Request
from tests.jaxllava.benchmark_fixtures import captions, llava, video_qa


class RuleTeacher:
    """`rule(request)` is the answer's text; None is a failure. All requests are kept in `asked`."""

    def __init__(self, rule: Callable[[Request], str | None], model: str = "rule-1") -> None:
        self.rule, self._model = rule, model
        self.asked: list[Request] = []

    @property
    def model(self) -> str:
        return self._model

    @property
    def spent(self) -> float:
        return 0.0

    def ask(self, requests: Iterable[Request]) -> Iterator[Answer | Failure]:
        taken = list(requests)
        self.asked += taken
        for request in reversed(taken):  # in any order, as the protocol has it
            text = self.rule(request)
            yield Failure(request.key, "refused") if text is None else Answer(request.key, text)


OF = {"checkpoint": "weights", "type of weights": "float32", "template": "v1"}


def data_in(root: Path) -> Path:
    """Releases of all judged tasks but two, with what judging needs beside them."""
    for name in ("llava_bench_wild", "llava_bench_coco", "mm_vet", "scienceqa"):
        llava.WRITERS[name](root)
    video_qa.msvd_qa(root)
    captions.write(root)
    prefixed = [
        f"{before}{name}" for before in ("", "llava_bench_") for name in ("conv", "detail", "complex")
    ]
    rules = {name: {"role": "Assistant", "prompt": f"By {name}."} for name in prefixed}
    for name in ("llava_bench_wild", "llava_bench_coco"):
        (root / TASKS[name].folder / "rule.json").write_text(json.dumps(rules))
    (root / "mm-vet/mm-vet_evaluator.py").write_text("prompt = 'Grade.'\n")
    return root


def answer(name: str, root: Path, out: Path, skip: int = 0) -> list[str]:
    """Leaves answers as a run of `evaluate --tasks` does; returns the ids of those that it left out."""
    task = TASKS[name]
    found = read(task, root)
    identity = OF | {"questions": benchmarks.questions_digest(task, found), "protocol": "p"}
    answers = Answers(out / (task.answers or name), identity)
    answers.add(
        {"id": item.id, "answer": str(item.truth or "a thing")}
        for item in found.items[: len(found.items) - skip]
    )
    plan = benchmarks.Plan(root, out)
    result = benchmarks.result(task, found, found.items, answers, plan) | OF
    (out / name).mkdir(parents=True, exist_ok=True)
    (out / name / "result.json").write_text(json.dumps(result))
    return [item.id for item in found.items[len(found.items) - skip :]]


def rule(request) -> str:
    """Fit for every protocol."""
    task = request.key.split("/")[0]
    if task.startswith("llava_bench"):
        return "8 6\nBecause."
    if task == "dense_captions":
        return "Score: 7"
    if task == "mm_vet":
        return "0.4"
    return "The answer is A." if task.startswith("scienceqa") else "{'pred': 'yes', 'score': 4}"
