"""The table of benchmarks as a whole: every task is whole, reads its release, scores answers and writes its
submission.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest

import tests.jaxllava.benchmark_fixtures as fixtures
from input_pipeline.errors import UserError
from jaxllava import api
from jaxllava.evaluate import benchmark_table, benchmarks
from jaxllava.evaluate.answers import Answers
from jaxllava.evaluate.ask import Asking
from jaxllava.evaluate.benchmarks import Plan
from jaxllava.evaluate.tasks import TASKS, choose, families
from jaxllava.evaluate.tasks.task import SETTINGS, Choose, Expect, Generate, Rank, Task, candidates_of, read
from tests.jaxllava.test_evaluate_ask import IDENTITY, model  # noqa: F401

pytestmark = pytest.mark.usefixtures("compiled_quickly")
PAPER = 40  # tasks that the paper counts in sections 4.1 to 4.3
SYSTEMS = {"LLaMA-VID", "Ad-LLaVA", "Behavior-LLaVA"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A small copy of every release, as its maker lays it out."""
    root = tmp_path_factory.mktemp("benchmarks")
    written = set()
    for module in pkgutil.iter_modules(fixtures.__path__):
        for writer in getattr(
            importlib.import_module(f"{fixtures.__name__}.{module.name}"), "WRITERS", {}
        ).values():
            if writer not in written:
                writer(root)
            written.add(writer)
    return root


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_an_entry_is_whole(task: Task) -> None:
    assert re.fullmatch(r"[a-z0-9_]+", task.name) and re.fullmatch(r"[a-z_]+", task.family)
    assert task.title and task.metric and not Path(task.folder).is_absolute()
    assert task.split in task.needs and all(task.needs.values())
    assert "http" in task.get or task.name == "dense_captions", "where it can be got from"
    assert (task.score is None) == bool(task.judge)
    assert set(task.reported) <= set(SETTINGS)
    for reported in task.reported.values():
        assert reported.figures and (not reported.best or reported.best in reported.figures)
        assert benchmark_table.systems(task, next(iter(task.reported)))
    if task.finetune:
        assert task.finetune.split in task.needs and task.finetune.epochs > 0 < task.finetune.lr
    protocol = task.protocol
    if isinstance(protocol, Expect):
        assert len(protocol.values) == len(protocol.candidates) == len(set(protocol.candidates))
    if isinstance(protocol, Choose | Rank):
        assert len(protocol.candidates) == len(set(protocol.candidates))


def test_the_papers_forty_tasks_are_there_with_its_figures() -> None:
    counted = {"lvu": 9, "hvu": 7, "video_qa": 3, "ads": 6, "video_emotion": 3, "image_emotion": 4, "memorability": 7,
               "captions": 1}  # fmt: skip
    assert sum(counted.values()) == PAPER
    for family, count in counted.items():
        tasks = choose([family])
        assert len(tasks) == count
        for task in tasks:
            assert any(set(r.figures) >= SYSTEMS for r in task.reported.values()), task.name
    figures = lambda name, setting="zero-shot": dict(TASKS[name].reported[setting].figures)
    assert (
        figures("emotion6")["Behavior-LLaVA"] == 49.71 and figures("emotion6", "fine-tuned")["MDAN"] == 61.66
    )
    # Cells that the paper prints in the wrong column, put right.
    assert figures("lvu_scene", "zero-shot with story")["Behavior-LLaVA"] == 64.21
    assert figures("ads_sentiment_clubbed", "zero-shot with story")["Behavior-LLaVA"] == 79.94
    assert figures("ads_sentiment", "zero-shot with story")["Behavior-LLaVA"] == 12.84


def test_names_and_families_choose_tasks() -> None:
    assert [t.name for t in choose(["emotion6", "lamem", "emotion6"])] == ["emotion6", "lamem"]
    assert choose(["all"]) == list(TASKS.values()) and len(families()) == len(set(families()))
    with pytest.raises(UserError, match="Did you mean 'emotion6'"):
        choose(["emotion_6"])
    with pytest.raises(UserError, match="--list"):
        choose([])


# METEOR starts Java, some seconds each time: one of its two tasks is enough for every day.
_SLOW = {"shot2story_summary"}


@pytest.mark.parametrize(
    "task", [pytest.param(t, marks=[pytest.mark.slow] * (t.name in _SLOW), id=t.name) for t in TASKS.values()]
)
def test_every_release_is_read_scored_and_submitted(task: Task, data: Path, tmp_path: Path) -> None:
    found = read(task, data)
    assert not task.missing(data) and len(found.items) >= (1 if task.name.endswith("_test") else 4)
    items = found.items
    plan = Plan(data, tmp_path)
    answers = Answers(tmp_path / task.name, IDENTITY)
    rows = []
    for number, item in enumerate(items):
        candidates = candidates_of(task, item)
        assert (
            item.prompt.strip() and "<image>" not in item.prompt and json.dumps([item.truth, dict(item.meta)])
        )
        if isinstance(task.protocol, Generate):
            truth = item.truth[0] if isinstance(item.truth, list) and item.truth else item.truth
            rows.append({"id": item.id, "answer": str(truth) if number else "perhaps"})
        else:
            assert len(candidates) > 1
            scores = np.random.default_rng(number).normal(size=len(candidates))
            rows.append(
                {"id": item.id, "answer": task.protocol.answer(scores, candidates), "scores": scores.tolist()}
            )
    answers.add(rows)
    result = benchmarks.result(task, found, items, answers, plan)
    assert result["answered"] == len(items) and not result["not answered"]
    if task.score is None:
        assert result["no figures"].startswith("needs a judge: ")
    elif all(item.truth is None for item in items):
        assert result["no figures"] == "the truths are not in the release"
    else:
        assert result["figures"], result["no figures"]
        for figure in result["figures"].values():
            assert figure["low"] <= figure["mean"] <= figure["high"] and figure["n"] > 0
    benchmarks._write_files(task, items, answers, tmp_path / task.name, "weights")
    lines = [
        json.loads(line) for line in (tmp_path / task.name / "llava_answers.jsonl").read_text().splitlines()
    ]
    assert len(lines) == len(items) and len({line["answer_id"] for line in lines}) == len(items)
    written = {path.name for path in (tmp_path / task.name).iterdir()} - {
        "answers-0000.jsonl",
        "llava_answers.jsonl",
    }
    assert bool(written) == (task.submit is not None)
    text = benchmark_table.table([result | {"seconds": 1.0}], TASKS)
    assert task.name in text and "95 % interval" in text


@pytest.mark.parametrize(
    "name", ["emotion6", "lamem", "hvu_scene", "mme", "qvhighlights_highlights", "msvd_qa"]
)
def test_a_model_does_one_task_of_each_kind(name: str, model, data: Path, tmp_path: Path) -> None:  # noqa: F811
    task = TASKS[name]
    if isinstance(task.protocol, Generate):
        task = dataclasses.replace(task, protocol=dataclasses.replace(task.protocol, max_new_tokens=6))
    plan = Plan(data, tmp_path, limit=4)
    questions = {name: read(task, data)}
    how = Asking(batch_size=4, frames=2)
    (result,) = benchmarks.run([task], questions, model, "weights", how, plan, lambda *given: None)
    assert result["asked"] >= 4 and result["answered"] == result["asked"], result["not answered"]
    assert result["figures"] or result["no figures"].startswith("needs a judge")


def test_tasks_of_the_same_questions_ask_them_once(model, data: Path, tmp_path: Path, monkeypatch) -> None:  # noqa: F811
    tasks = choose(["hvu"])
    questions = {task.name: read(task, data) for task in tasks}
    plan = Plan(data, tmp_path, restart=True)
    asked: list[int] = []
    score = api.Model.score
    counted = lambda self, prompts, *args, **kwargs: asked.append(1) or score(self, prompts, *args, **kwargs)
    monkeypatch.setattr(api.Model, "score", counted)
    how = Asking(batch_size=4, frames=2)
    results = benchmarks.run(tasks, questions, model, "weights", how, plan, lambda *given: None)
    count = len(questions["hvu_scene"].items)
    assert len(asked) == -(-count // 4) and [r["answered"] for r in results] == [count] * 7
    assert len({json.dumps(r["figures"]) for r in results}) > 1


@pytest.mark.slow
def test_a_model_does_every_task(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    tiny = api.load(tiny_base)
    short = lambda p: dataclasses.replace(p, max_new_tokens=6) if isinstance(p, Generate) else p
    tasks = [dataclasses.replace(task, protocol=short(task.protocol)) for task in TASKS.values()]
    questions = {task.name: read(task, data) for task in tasks}
    how = Asking(batch_size=4, frames=2)
    plan = Plan(data, tmp_path, limit=4)
    results = benchmarks.run(tasks, questions, tiny, "weights", how, plan, lambda *given: None)
    assert {r["task"] for r in results} == set(TASKS)
    for result in results:
        assert result["answered"] == result["asked"], (result["task"], result["not answered"])


def test_the_list_says_what_to_get(data: Path, tmp_path: Path) -> None:
    text = benchmark_table.listing(list(TASKS.values()), tmp_path)
    assert f"0 of {len(TASKS)} tasks are ready" in text and str(tmp_path / "lamem") in text
    for task in TASKS.values():
        assert task.get.split(".")[0] in text
    assert f"{len(TASKS)} of {len(TASKS)} tasks are ready" in benchmark_table.listing(
        list(TASKS.values()), data
    )
