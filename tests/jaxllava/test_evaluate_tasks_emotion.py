"""Image and video emotion: the loaders on small releases, the scorer on made-up answers, real lists."""

from __future__ import annotations

import json
import shutil

import pytest

from input_pipeline.errors import UserError
from jaxllava.evaluate.media import open_media
from jaxllava.evaluate.scoring.answered import Answered
from jaxllava.evaluate.tasks import image_emotion, video_emotion
from jaxllava.evaluate.tasks.class_folders import MIKELS
from jaxllava.evaluate.tasks.task import Choose, candidates_of, need_ends, read
from tests.jaxllava.benchmark_fixtures import image_emotion as pictures
from tests.jaxllava.benchmark_fixtures import video_emotion as videos
from tests.jaxllava.benchmark_fixtures.small_media import picture, text

TASKS = {task.name: task for task in image_emotion.TASKS + video_emotion.TASKS}
WRITERS = pictures.WRITERS | videos.WRITERS


def answered(task, questions, answers):
    rows = [
        Answered(item.id, item.truth, answer, (), item.meta)
        for item, answer in zip(questions.items, answers, strict=True)
    ]
    return task.score(rows).figures


@pytest.mark.parametrize("name", WRITERS)
def test_ready_only_with_its_files(name, tmp_path):
    with pytest.raises(UserError, match=f"task {name}: .* lacks .*Get|Ask|comes"):
        read(TASKS[name], tmp_path)
    WRITERS[name](tmp_path)
    for split in TASKS[name].needs:
        questions = read(TASKS[name], tmp_path, split)
        assert len(questions.items) >= (4 if split == "test" else 1)
        for item in questions.items:
            assert item.truth in candidates_of(TASKS[name], item)
            assert open_media(item.media, 2)
    assert not need_ends(TASKS[name], questions.items)


def test_iapsa_has_the_class_of_its_folder(tmp_path):
    pictures.iapsa(tmp_path)
    questions = read(TASKS["iapsa"], tmp_path)
    assert [(item.id, item.truth) for item in questions.items] == [
        ("Amusement/10", "amusement"),
        ("Anger/11", "anger"),
        ("Awe/12", "awe"),
        ("Contentment/13", "contentment"),
    ]
    assert questions.items[0].media == (tmp_path / "iapsa/Amusement/10.jpg",)
    assert questions.items[0].prompt == (
        "Which of these emotions does the picture evoke: amusement, anger, awe, contentment, disgust, excitement, "
        "fear, sadness? Answer with one word."
    )
    figures = answered(TASKS["iapsa"], questions, ["amusement", "anger", "fear", "contentment"])
    assert next(iter(figures)) == "accuracy" and figures["accuracy"].mean == 75


def test_abstract_takes_the_emotion_with_the_most_votes(tmp_path):
    pictures.abstract(tmp_path)
    questions = read(TASKS["abstract"], tmp_path)
    assert [(item.id[-1], item.truth) for item in questions.items] == [
        ("1", "anger"),
        ("2", "sadness"),
        ("4", "contentment"),
        ("5", "amusement"),
    ]
    path = tmp_path / "abstract/testImages_abstract/ABSTRACT_groundTruth.csv"
    assert questions.rejected == {
        "no one emotion has the most votes": [f"{path}:4"],
        "not a number of votes for each emotion": [f"{path}:7"],
    }
    text(path, "'','Amusement','Boredom'\n'a.jpg',1,2\n")
    with pytest.raises(UserError, match="eight emotions"):
        read(TASKS["abstract"], tmp_path)


def test_emotion6_names_what_is_no_class(tmp_path):
    pictures.emotion6(tmp_path)
    questions = read(TASKS["emotion6"], tmp_path)
    assert [item.id for item in questions.items] == ["disgust/1", "anger/2", "joy/3", "surprise/10"]
    assert questions.rejected == {"unknown class 'boredom'": [f"{tmp_path}/emotion6/ground_truth.txt:6"]}
    (tmp_path / "emotion6/ground_truth.txt").unlink()
    assert {i.id: i.truth for i in read(TASKS["emotion6"], tmp_path).items} == {
        i.id: i.truth for i in questions.items
    }


def test_emoset_knows_emotions_by_name_and_number(tmp_path):
    pictures.emoset(tmp_path)
    questions = read(TASKS["emoset"], tmp_path)
    assert [item.truth for item in questions.items] == ["amusement", "anger", "awe", "sadness"]
    assert questions.items[0].media[0] == tmp_path / "emoset/image/amusement/amusement_test.jpg"
    assert questions.rejected == {"unknown emotion 'boredom'": [f"{tmp_path}/emoset/test.json:5"]}
    item = read(TASKS["emoset"], tmp_path, "train").items[1]
    assert TASKS["emoset"].finetune.answer(item) == "anger"
    text(tmp_path / "emoset/test.json", json.dumps({"a": 1}))
    with pytest.raises(UserError, match="holds a dict where a list is expected"):
        read(TASKS["emoset"], tmp_path)


def test_videoemotion8_finds_videos_of_another_suffix(tmp_path):
    videos.videoemotion8(tmp_path)
    root = tmp_path / "videoemotion8"
    questions = read(TASKS["videoemotion8"], tmp_path)
    assert [(item.id, item.truth, item.media[0]) for item in questions.items] == [
        ("Anger/1", "anger", root / "videos/Anger/1.npy"),
        ("Anticipation/2", "anticipation", root / "videos/Anticipation/2.npy"),
        ("Trust/10", "trust", root / "videos/Trust/10.mp4"),
        ("Joy/7", "joy", root / "videos/Joy/7"),
        ("Fear/3", "fear", root / "videos/Fear/3.npy"),
    ]
    assert questions.rejected == {"unknown class 'Boredom'": [f"{root}/testlist01.txt:6"]}
    assert [i.id for i in read(TASKS["videoemotion8"], tmp_path, "train").items] == ["Fear/3", "Anger/1"]
    figures = answered(TASKS["videoemotion8"], questions, ["anger", "fear", "trust", "joy", "joy"])
    assert figures["accuracy"].mean == pytest.approx(60)


def test_caer_says_happiness_for_happy(tmp_path):
    videos.caer(tmp_path)
    questions = read(TASKS["caer"], tmp_path)
    assert [item.truth for item in questions.items] == ["anger", "happiness", "neutral", "sadness"]
    assert questions.rejected == {
        "neither a picture nor a video": [str(tmp_path / "caer/test/Sad/notes.txt")]
    }
    assert len(candidates_of(TASKS["caer"], questions.items[0])) == 7


def test_ekman6_reads_vaanets_json_or_the_folders(tmp_path):
    videos.ekman6(tmp_path)
    questions = read(TASKS["ekman6"], tmp_path)
    assert [(i.id, i.truth) for i in questions.items] == [
        ("anger/0", "anger"),
        ("disgust/1", "disgust"),
        ("joy/2", "joy"),
        ("surprise/3", "surprise"),
    ]
    assert questions.rejected == {"no label": [f"{tmp_path}/ekman6/ek6_01.json:5"]}
    assert [i.id for i in read(TASKS["ekman6"], tmp_path, "train").items] == ["fear/4"]
    (tmp_path / "ekman6/ek6_01.json").unlink()
    assert len(read(TASKS["ekman6"], tmp_path).items) == 5


def test_real_emotion6_lists(real_data, tmp_path):
    """Lists with another machine's paths: the class and the file are their last two parts."""
    for name, labels in (("posneg", 20), ("valence", 20)):
        root = tmp_path / name
        (root / "emotion6").mkdir(parents=True)
        shutil.copy(real_data / "bench" / f"emotion6_{name}_test.txt", root / "emotion6" / f"{name}_test.txt")
        listed = (root / "emotion6" / f"{name}_test.txt").read_text().split("\n")
        picture(root / "emotion6" / "images" / "/".join(listed[0].split()[0].split("/")[-2:]))
        questions = read(TASKS["emotion6"], root)
        assert len(questions.items) == labels and not questions.rejected
        first = questions.items[0]
        assert first.id == "/".join(listed[0].split()[0].split("/")[-2:]).removesuffix(".jpg")
        assert first.media[0].exists() and first.truth == first.id.split("/")[0]
        right = answered(TASKS["emotion6"], questions, [item.truth for item in questions.items])
        assert right["accuracy"].mean == 100
        joy = sum(item.truth == "joy" for item in questions.items)
        assert answered(TASKS["emotion6"], questions, ["joy"] * labels)["accuracy"].mean == joy / labels * 100


def test_real_emoset_numbers_are_the_eight_emotions(real_data):
    names = image_emotion._emoset_numbers(real_data / "bench" / "emoset_info.json")
    assert sorted(names.values()) == sorted(MIKELS) and names["5"] == "disgust"


def test_what_the_paper_reports():
    """The cells of the table, and its mean gains (29.14 % and 8.95 % over LLaMA-VID; 52.96 % and 3.84 %)."""
    for tasks, setting, gain in (
        (image_emotion.TASKS, "zero-shot", 29.14),
        (image_emotion.TASKS, "fine-tuned", 8.95),
        (video_emotion.TASKS, "zero-shot", 52.96),
        (video_emotion.TASKS, "fine-tuned", 3.84),
    ):
        figures = [task.reported[setting].figures for task in tasks]
        gains = [100 * (f["Behavior-LLaVA"] / f["LLaMA-VID"] - 1) for f in figures]
        assert sum(gains) / len(gains) == pytest.approx(gain, abs=0.02)
    assert all(isinstance(task.protocol, Choose) for task in TASKS.values())
    assert TASKS["caer"].reported["zero-shot"].figures["Behavior-LLaVA"] == 51.0
