"""Video ads: the two releases, statements drawn by the video's id, scores worked by hand, the real list of topics."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from input_pipeline.errors import UserError
from jaxllava.evaluate.scoring.answered import Answered
from jaxllava.evaluate.tasks import ads
from jaxllava.evaluate.tasks.task import candidates_of, need_ends, read
from tests.jaxllava.benchmark_fixtures import ads as releases
from tests.jaxllava.benchmark_fixtures.small_media import text

TASKS = {task.name.removeprefix("ads_"): task for task in ads.TASKS}
VIDEOS = releases.VIDEOS


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ads")
    releases.hussain(folder)
    releases.persuasion(folder)
    return folder


def accuracy(task, questions, answers):
    rows = [Answered(i.id, i.truth, a, (), i.meta) for i, a in zip(questions.items, answers, strict=True)]
    name, estimate = next(iter(task.score(rows).figures.items()))
    assert name == "accuracy"
    return estimate.mean


@pytest.mark.parametrize("name", TASKS)
def test_each_task_is_ready_and_closed(name, root, tmp_path):
    with pytest.raises(UserError, match="lacks"):
        read(TASKS[name], tmp_path)
    questions = read(TASKS[name], root)
    assert len(questions.items) >= 4 and not need_ends(TASKS[name], questions.items)
    for item in questions.items:
        assert item.media[0].exists()
        truths = item.truth if isinstance(item.truth, list) else [item.truth]
        assert set(truths) <= set(candidates_of(TASKS[name], item))


def test_sizes_are_those_of_the_paper():
    sizes = {name: len(task.protocol.candidates) for name, task in TASKS.items()}
    assert sizes == {
        "topic": 38, "sentiment": 30, "sentiment_clubbed": 7, "persuasion": 12, "action": 30, "reason": 30,
    }  # fmt: skip
    assert set(ads.SENTIMENTS.values()) == set(ads.GROUPS)


def test_topics_by_number_name_and_majority(root):
    questions = read(TASKS["topic"], root)
    assert [(i.id, i.truth) for i in questions.items] == [
        (VIDEOS[0], "restaurants and fast food"),
        (VIDEOS[1], "cars"),
        (VIDEOS[2], "cars"),
        (VIDEOS[3], "sports equipment"),
        (VIDEOS[6], "charities"),
        (VIDEOS[7], "sweets and ice cream"),
    ]
    path = root / "ads/video/cleaned_result/video_Topics_clean.json"
    assert questions.rejected == {
        "unclear": [f"{path}:{VIDEOS[4]}"],
        "no class, or a tie of several": [f"{path}:{VIDEOS[5]}"],
    }
    assert accuracy(TASKS["topic"], questions, ["cars"] * 6) == pytest.approx(100 / 3)


def test_sentiments_alone_and_in_groups(root):
    single, grouped = read(TASKS["sentiment"], root), read(TASKS["sentiment_clubbed"], root)
    assert [i.truth for i in single.items] == [
        "active",
        "cheerful",
        "sad",
        "disturbed",
        "angry",
        "calm",
        "youthful",
    ]
    assert [i.truth for i in grouped.items] == [ads.SENTIMENTS[i.truth] for i in single.items]
    assert grouped.items[0].prompt == (
        "Given joy, trust, fear, anger, disgust, anticipation, unclear identify the most relevant sentiment "
        "and answer with just the most relevant sentiment."
    )
    assert accuracy(TASKS["sentiment_clubbed"], grouped, ["joy"] * 7) == pytest.approx(200 / 7)


def test_one_statement_of_the_video_among_29_of_others(root):
    for kind in ("Action", "Reason"):
        task = TASKS[kind.lower()]
        questions = read(task, root)
        assert [i.id for i in questions.items] == VIDEOS[:7] and list(questions.rejected) == ["no statement"]
        for item in questions.items:
            listed = dict(line.split(". ", 1) for line in item.prompt.split("\n")[1:-1])
            assert len(listed) == len(set(listed.values())) == 30
            own = [number for number, statement in listed.items() if item.id in statement]
            assert own == [item.truth] and listed[item.truth] == item.meta["statement"]
        assert read(task, root).items == questions.items
        assert len({item.truth for item in questions.items}) > 2
        assert accuracy(task, questions, [i.truth for i in questions.items]) == 100
    assert read(TASKS["action"], root).items[0].prompt != read(TASKS["reason"], root).items[0].prompt


def test_too_few_statements(tmp_path):
    releases.hussain(tmp_path)
    text(
        tmp_path / "ads/video/raw_result/video_QA_Action_raw.json", json.dumps({"a": ["Buy."], "b": ["Eat."]})
    )
    with pytest.raises(UserError, match="2 different statements, where a choice needs 30"):
        read(TASKS["action"], tmp_path)


def test_any_of_a_videos_strategies_is_right(root, tmp_path):
    questions = read(TASKS["persuasion"], root)
    expected = {
        VIDEOS[0]: ["Social Identity", "Scarcity"],
        VIDEOS[1]: ["Foot-in-the-Door"],
        VIDEOS[2]: ["Authority", "Social Proof"],
        VIDEOS[3]: ["Anchoring and Comparison"],
    }
    assert {i.id: i.truth for i in questions.items} == expected
    assert sorted(questions.rejected) == ["a strategy that is none of the twelve", "no strategy"]
    assert (
        accuracy(TASKS["persuasion"], questions, ["Scarcity", "Authority", "Social Proof", "Unclear"]) == 50
    )
    text(tmp_path / "persuasion/labels.json", json.dumps(expected))
    (tmp_path / "persuasion/videos").mkdir()
    shutil.copy(root / "persuasion/videos" / f"{VIDEOS[0]}.npy", tmp_path / "persuasion/videos")
    assert {i.id: i.truth for i in read(TASKS["persuasion"], tmp_path).items} == expected
    rows = [{"video_id": id, "Strategies": names} for id, names in expected.items()]
    text(tmp_path / "persuasion/labels.json", json.dumps(rows))
    assert {i.id: i.truth for i in read(TASKS["persuasion"], tmp_path).items} == expected


def test_the_real_list_of_topics(real_data, tmp_path):
    """Of the pictures' release, which has the same list and annotators' choices in place of one class."""
    releases.hussain(tmp_path)
    folder = tmp_path / "ads" / "video"
    shutil.copy(real_data / "bench" / "hussain_ads_Topics_List.txt", folder / "Topics_List.txt")
    numbers = ads._numbers(tmp_path / "ads", "Topics_List.txt", [])
    assert [numbers[str(n)] for n in range(1, 39)] == list(ads.TOPICS) and numbers["39"] == "unclear"
    target = folder / "cleaned_result" / "video_Topics_clean.json"
    shutil.copy(real_data / "bench" / "hussain_ads_Topics.json", target)
    questions = read(TASKS["topic"], tmp_path)
    chosen = json.loads(target.read_text())
    assert len(questions.items) + questions.rejections == len(chosen) == 20
    truths = {item.id: item.truth for item in questions.items}
    assert truths["7/62717.jpg"] == "sports equipment" and truths["0/27000.jpg"] == "sweets and ice cream"
    assert "5/93475.jpg" not in truths  # three annotators, three topics
    assert accuracy(TASKS["topic"], questions, list(truths.values())) == 100


def test_what_the_paper_reports():
    """The mean gains over LLaMA-VID with a story: 43.18 % zero-shot, 27.64 % fine-tuned."""
    for setting, gain in (("zero-shot with story", 43.18), ("fine-tuned with story", 27.64)):
        figures = [task.reported[setting].figures for task in ads.TASKS]
        gains = [100 * (f["Behavior-LLaVA"] / f["LLaMA-VID"] - 1) for f in figures]
        assert np.mean(gains) == pytest.approx(gain, abs=0.02)
    zero = TASKS["sentiment"].reported["zero-shot"].figures
    assert (
        zero["random"] == 3.37 and TASKS["sentiment_clubbed"].reported["zero-shot"].figures["random"] == 14.3
    )
    assert TASKS["sentiment"].reported["fine-tuned"].best == "InternVideo"
    assert TASKS["action"].reported["fine-tuned"].best == "Hussain et al. 2017"
