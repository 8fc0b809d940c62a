"""IMDB and Shot2Story: questions, examples, scores."""

from __future__ import annotations

import shutil

import pytest

from input_pipeline.errors import UserError
from jaxllava.evaluate.scoring import text as scorer
from jaxllava.evaluate.scoring.answered import Answered
from jaxllava.evaluate.tasks import text as tasks
from jaxllava.evaluate.tasks.task import need_ends, read
from tests.jaxllava.benchmark_fixtures import text as releases
from tests.jaxllava.benchmark_fixtures.small_media import text

TASKS = {task.name: task for task in tasks.TASKS}


def figures(task, questions, answers):
    rows = [Answered(i.id, i.truth, a, (), i.meta) for i, a in zip(questions.items, answers, strict=True)]
    return task.score(rows).figures


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    releases.imdb(folder)
    releases.shot2story(folder)
    return folder


@pytest.mark.parametrize("name", TASKS)
def test_each_is_ready_with_its_files_only(name, root, tmp_path):
    with pytest.raises(UserError, match="lacks"):
        read(TASKS[name], tmp_path)
    for split in TASKS[name].needs:
        items = read(TASKS[name], root, split).items
        assert len(items) >= 4 and all(path.exists() for item in items for path in item.media)
    assert not need_ends(TASKS[name], items)


def test_imdb_without_example(root):
    questions = read(TASKS["imdb"], root)
    assert [(i.id, i.truth) for i in questions.items] == [
        ("neg/0_1", "negative"), ("neg/1_1", "negative"), ("pos/0_9", "positive"), ("pos/1_9", "positive"),
    ]  # fmt: skip
    assert questions.items[0].prompt == (
        "A dull film. Long, too. (test)\nIs this review of a film positive or negative? Answer with one word."
    )
    assert not questions.items[0].media and not questions.items[0].shots
    assert list(questions.rejected) == ["an empty review"]
    assert figures(TASKS["imdb"], questions, ["positive"] * 4)["accuracy"].mean == 50
    assert TASKS["imdb"].finetune.answer(read(TASKS["imdb"], root, "train").items[-1]) == "positive"


def test_imdb_shows_one_short_review_of_training(root, tmp_path):
    questions = read(TASKS["imdb_1shot"], root)
    assert [i.prompt for i in questions.items] == [i.prompt for i in read(TASKS["imdb"], root).items]
    for item in questions.items:
        human, told = item.shots
        assert (human.role, told.role) == ("human", "gpt") and "(train)" in human.text
        assert told.text == ("negative" if any(w in human.text for w in ("dull", "Bad")) else "positive")
    assert read(TASKS["imdb_1shot"], root).items == questions.items
    shutil.copytree(root / "imdb", tmp_path / "imdb")
    for kind in ("neg", "pos"):
        for path in (tmp_path / "imdb/aclImdb/train" / kind).iterdir():
            text(path, "long " * 400)
    with pytest.raises(UserError, match="no review of at most 1500 bytes"):
        read(TASKS["imdb_1shot"], tmp_path)


def test_narrations_of_shots(root):
    questions = read(TASKS["shot2story_audio"], root)
    assert [i.id for i in questions.items] == [f"test{n}.mp4#0" for n in range(4)]  # the others say nothing
    first = questions.items[0]
    assert first.prompt == 'What is said: "hello 0"\nDescribe in a sentence or two what is said or narrated.'
    assert first.truth == "A man says hello in shot 0 of test0.mp4." and first.media == ()
    assert [turn.text for turn in first.shots][1::2] == [
        f"A man says hello in shot 0 of train{n}.mp4." for n in range(3)
    ]
    path = root / "shot2story/annotations/20k_test.json"
    assert questions.rejected == {
        "no video": [f"{path}:5"],
        "no shot in which something is said and described": [f"{path}:6"],
    }


def test_summaries_of_several_shots(root):
    questions = read(TASKS["shot2story_summary"], root)
    assert [i.media[0].name for i in questions.items] == [f"test{n}.npy" for n in range(4)]
    assert questions.items[0].prompt == "Summarise the video in one paragraph that follows its shots."
    assert questions.items[1].prompt.startswith('What is said: "Welcome to test1.mp4."\nSummarise')
    assert (
        questions.items[0]
        .shots[0]
        .text.startswith("The shots of a video:\n1. caption 0 of train0.mp4\n2. caption")
    )
    assert len(questions.items[0].shots) == 6
    assert sorted(questions.rejected) == ["no video", "no whole_caption"]


def test_summaries_are_scored_as_captions(root, monkeypatch):
    """Without Java, whose start takes seconds: the figures that need it are left out, and said to be."""
    pytest.importorskip("sacrebleu")
    monkeypatch.setattr(scorer.shutil, "which", lambda name: None)
    task, questions = TASKS["shot2story_summary"], read(TASKS["shot2story_summary"], root)
    assert task.score is scorer.captions
    rows = [Answered(i.id, i.truth, i.truth, (), i.meta) for i in questions.items]
    scored = task.score(rows)
    assert scored.figures["sacreBLEU"].mean == pytest.approx(100)
    assert any("BLEU-4" in problem and "java" in problem for problem in scored.problems)
    assert figures(task, questions, ["nothing of it"] * 4)["sacreBLEU"].mean < 1


def test_what_the_paper_reports():
    assert TASKS["imdb_1shot"].reported["zero-shot"].figures == {"LLaMA-VID": 87.9, "Behavior-LLaVA": 90.2}
    reported = TASKS["shot2story_summary"].reported["zero-shot"]
    assert reported.figures["Behavior-LLaVA"] == 10.6 and "Behavior-LLaVA 18.3/22.7" in reported.note
