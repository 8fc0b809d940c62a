"""Video questions and dense captions: every layout, what the judge reads, real questions."""

from __future__ import annotations

import json
import shutil

import pytest

from input_pipeline.errors import UserError
from jaxllava.evaluate.media import open_media
from jaxllava.evaluate.scoring import reviews
from jaxllava.evaluate.scoring.answered import Answered
from jaxllava.evaluate.tasks import captions, video_qa
from jaxllava.evaluate.tasks.task import Generate, read
from tests.jaxllava.benchmark_fixtures import captions as pictures
from tests.jaxllava.benchmark_fixtures import video_qa as releases
from tests.jaxllava.benchmark_fixtures.small_media import frames, text

TASKS = {task.name: task for task in video_qa.TASKS}


def answered(items, texts):
    return [Answered(i.id, i.truth, said, (), i.meta) for i, said in zip(items, texts, strict=True)]


@pytest.mark.parametrize("name", TASKS)
def test_the_authors_layouts(name, tmp_path):
    with pytest.raises(UserError, match=r"lacks .* or "):
        read(TASKS[name], tmp_path)
    releases.WRITERS[name](tmp_path)
    for split in TASKS[name].needs:
        questions = read(TASKS[name], tmp_path, split)
        assert [(i.prompt, i.truth) for i in questions.items] == list(releases.ASKED)
        assert all(len(open_media(item.media, 2)) == 2 for item in questions.items)
    assert TASKS[name].finetune.answer(questions.items[0]) == "guitar"


def test_videos_by_number_and_by_name(tmp_path):
    releases.msvd_qa(tmp_path)
    releases.msrvtt_qa(tmp_path)
    releases.activitynet_qa(tmp_path)
    msvd = read(TASKS["msvd_qa"], tmp_path)
    assert [i.media[0].name for i in msvd.items[:2]] == ["abc_10_20.avi", "def_0_7.npy"]
    path = tmp_path / "msvd_qa/test_qa.json"
    assert msvd.rejected == {"an empty question": [f"{path}:5"], "no answer": [f"{path}:6"]}
    assert read(TASKS["msrvtt_qa"], tmp_path).items[1].media[0].name == "video7011.npy"
    asked = read(TASKS["activitynet_qa"], tmp_path)
    assert asked.items[0].media[0] == tmp_path / "activitynet_qa/videos/v_aaaaaaaaa0.npy"
    assert asked.rejected == {"no answer": [f"{tmp_path}/activitynet_qa/test_q.json:5"]}
    # LLaMA-VID's copies have the name for a video_id.
    text(path, json.dumps([{"id": 1, "video_id": "abc_10_20", "question": "who?", "answer": "he"}]))
    assert read(TASKS["msvd_qa"], tmp_path).items[0].media[0].name == "abc_10_20.avi"


def test_the_judge_reads_what_is_written(tmp_path):
    releases.msvd_qa(tmp_path)
    task = TASKS["msvd_qa"]
    assert task.score is None and task.judge.startswith("Video-ChatGPT's")
    assert task.protocol == Generate(1024, temperature=0.2)
    items = read(task, tmp_path).items
    path = task.submit(answered(items, ["a guitar", "a woman", None, "2\n"]), tmp_path / "out")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert path.name == "pred.json" and [path] == list((tmp_path / "out").iterdir())
    assert lines[0] == {"id": 50, "question": "what does a man play?", "answer": "guitar", "pred": "a guitar"}
    assert [line["pred"] for line in lines] == ["a guitar", "a woman", "", "2\n"]


@pytest.mark.parametrize(
    ("name", "file", "split"), [("msvd_qa", "msvd_qa_test", "test"), ("msrvtt_qa", "msrvtt_qa_val", "val")]
)
def test_real_questions_in_ma_lmms_layout(name, file, split, real_data, tmp_path):
    folder = tmp_path / name
    (folder / "annotation").mkdir(parents=True)
    shutil.copy(real_data / "bench" / f"{file}.json", folder / "annotation" / f"qa_{split}.json")
    frames(folder / "videos" / "x.npy")
    questions = read(TASKS[name], tmp_path, split)
    real = json.loads((real_data / "bench" / f"{file}.json").read_text())
    assert not questions.rejected and [i.id for i in questions.items] == list(real)
    for item, row in zip(questions.items, real.values(), strict=True):
        assert (item.prompt, item.truth) == (row["question"], row["answer"])
        assert item.media[0].stem == row["video"]
    judged(TASKS[name], questions.items, tmp_path)


def test_real_questions_of_activitynet(real_data, tmp_path):
    folder = tmp_path / "activitynet_qa"
    folder.mkdir()
    for kind in ("q", "a"):
        shutil.copy(real_data / "bench" / f"activitynet_qa_test_{kind}.json", folder / f"test_{kind}.json")
    frames(folder / "videos" / "v_x.npy")
    questions = read(TASKS["activitynet_qa"], tmp_path)
    answers = json.loads((folder / "test_a.json").read_text())
    assert not questions.rejected
    assert [(i.id, i.truth) for i in questions.items] == [(a["question_id"], a["answer"]) for a in answers]
    assert questions.items[0].media[0].stem == f"v_{questions.items[0].id[2:-2]}"
    judged(TASKS["activitynet_qa"], questions.items, tmp_path)


def judged(task, items, folder):
    """Answers go out as the judge reads them; reviews of half of them as right come back as 50 %."""
    path = task.submit(answered(items, [item.truth for item in items]), folder / "out")
    assert [json.loads(line)["answer"] for line in path.read_text().splitlines()] == [i.truth for i in items]
    verdicts = [{"pred": "yes" if n % 2 else "no", "score": 5 if n % 2 else 0} for n in range(len(items))]
    figures = reviews.video_qa(answered(items, verdicts)).figures
    assert figures["accuracy"].mean == 50 and figures["score"].mean == 2.5


def test_any_folder_of_pictures_is_captioned(tmp_path):
    pictures.write(tmp_path)
    (task,) = captions.TASKS
    questions = read(task, tmp_path)
    assert [i.id for i in questions.items] == ["a.jpg", "b.png", "more/c.jpg", "more/d.webp"]
    assert {i.truth for i in questions.items} == {None} and task.score is None and "1 to 10" in task.judge
    assert questions.rejected == {"not a picture": [str(tmp_path / "dense_captions/images/notes.txt")]}
    path = task.submit(answered(questions.items, ["A cat.", "", "x", "y"]), tmp_path / "out")
    assert json.loads(path.read_text().splitlines()[0]) == {
        "id": "a.jpg",
        "image": str(tmp_path / "dense_captions/images/a.jpg"),
        "prompt": captions.PROMPT,
        "caption": "A cat.",
    }


def test_what_the_paper_reports():
    assert [t.reported["zero-shot"].figures["Behavior-LLaVA"] for t in video_qa.TASKS] == [70.1, 59.2, 47.5]
    assert "Behavior-LLaVA 3.4" in TASKS["msrvtt_qa"].reported["zero-shot"].note
