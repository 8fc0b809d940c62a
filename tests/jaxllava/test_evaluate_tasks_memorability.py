"""Memorability: the loaders on small releases, the scorer on made-up answers, real LaMem lists and LAMBDA questions."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from input_pipeline.errors import UserError
from jaxllava.evaluate.media import open_media
from jaxllava.evaluate.scoring.answered import Answered
from jaxllava.evaluate.tasks import memorability
from jaxllava.evaluate.tasks.task import candidates_of, need_ends, read
from tests.jaxllava.benchmark_fixtures import memorability as releases
from tests.jaxllava.benchmark_fixtures.small_media import frames, picture, text

TASKS = {task.name: task for task in memorability.TASKS}


def rho(task, questions, answers):
    rows = [Answered(i.id, i.truth, a, (), i.meta) for i, a in zip(questions.items, answers, strict=True)]
    figures = task.score(rows).figures
    assert next(iter(figures)) == "spearman"
    return figures["spearman"].mean


@pytest.mark.parametrize("name", TASKS)
def test_each_release_is_read_and_scored(name, tmp_path):
    task = TASKS[name]
    with pytest.raises(UserError, match=f"task {name}: .* lacks "):
        read(task, tmp_path)
    releases.WRITERS[name](tmp_path)
    for split in task.needs:
        questions = read(task, tmp_path, split)
        assert len(questions.items) >= 4
        assert all(open_media(item.media, 2) for item in questions.items)
        assert len(candidates_of(task, questions.items[0])) == 100
        assert not need_ends(task, questions.items)
    questions = read(task, tmp_path)
    truths = [item.truth for item in questions.items]
    assert rho(task, questions, truths) == pytest.approx(1)
    assert rho(task, questions, [-t for t in truths]) == pytest.approx(-1)


def test_expectation_is_a_number_of_0_to_99():
    protocol = TASKS["lamem"].protocol
    assert protocol.candidates[7] == "07" and protocol.values[7] == 7
    scores = np.full(100, -np.inf)
    scores[[20, 30]] = np.log([0.25, 0.75])
    assert protocol.answer(scores, protocol.candidates) == pytest.approx(27.5)


def test_lamem_lines(tmp_path):
    releases.lamem(tmp_path)
    questions = read(TASKS["lamem"], tmp_path)
    assert [(i.id, i.truth) for i in questions.items] == [
        ("00000", 0.5), ("00001", 0.75), ("00002", 0.625), ("00003", 0.875), ("00004", 0.25),
    ]  # fmt: skip
    assert questions.items[0].media == (tmp_path / "lamem/images/00000.jpg",)
    assert questions.rejected == {"no score": [f"{tmp_path}/lamem/splits/test_1.txt:6"]}
    assert rho(TASKS["lamem"], questions, [50, 60, 62, 70, 10]) == pytest.approx(
        0.9
    )  # ranks differ in one swap
    taught = TASKS["lamem"].finetune.answer
    assert [taught(i) for i in read(TASKS["lamem"], tmp_path, "train").items] == [
        "50",
        "75",
        "62",
        "87",
        "25",
    ]


def test_memcat_pictures_lie_under_their_categories(tmp_path):
    releases.memcat(tmp_path)
    questions = read(TASKS["memcat"], tmp_path)
    assert questions.items[1].media == (tmp_path / "memcat/MemCat/animal/bear/COCO_1.jpg",)
    assert questions.items[1].truth == 0.75
    assert questions.rejected == {"no score": [f"{tmp_path}/memcat/memcat_image_data.csv:7"]}
    text(tmp_path / "memcat/memcat_image_data.csv", "image_file;category\na;b\n")
    with pytest.raises(UserError, match=r"no column 'subcategory'.*Did you mean 'category'"):
        read(TASKS["memcat"], tmp_path)


def test_sun_pictures_out_of_the_matlab_file_or_of_files(tmp_path):
    releases.sun_memorability(tmp_path)
    questions = read(TASKS["sun_memorability"], tmp_path)
    assert [(i.id, i.truth) for i in questions.items] == [
        ("sun_0_crop", 0.75), ("sun_1_crop", 0.25), ("sun_2_crop", 0.5), ("sun_3_crop", 0.875),
    ]  # fmt: skip
    assert list(questions.rejected) == ["no file name, or no hits and misses"]
    whole = np.random.default_rng(0).integers(0, 255, (16, 16, 3, 5), np.uint8)
    pixels = np.asarray(Image.open(io.BytesIO(questions.items[1].media[0])))
    assert (pixels == whole[..., 1]).all()
    path = picture(tmp_path / "sun_memorability/images/sun_1_crop.jpg")
    assert read(TASKS["sun_memorability"], tmp_path).items[1].media == (path,)
    (tmp_path / "sun_memorability/Data/Experiment data/sorted_target_data.mat").write_bytes(b"no matlab")
    with pytest.raises(UserError, match=r"sorted_target_data.mat: has no readable 'sorted_target_data'"):
        read(TASKS["sun_memorability"], tmp_path)


def test_memento10k_scores_validation_and_answers_test(tmp_path):
    releases.memento10k(tmp_path)
    assert TASKS["memento10k"].split == "val"
    questions = read(TASKS["memento10k"], tmp_path)
    assert questions.items[0].media == (tmp_path / "memento10k/videos/val0.npy",)
    assert questions.rejected == {"no filename": [f"{tmp_path}/memento10k/memento_val_data.json:6"]}
    assert {item.truth for item in read(TASKS["memento10k"], tmp_path, "test").items} == {None}


def test_videos_of_videomem_and_mediaeval(tmp_path):
    releases.videomem(tmp_path)
    releases.mediaeval_memorability(tmp_path)
    first = read(TASKS["videomem"], tmp_path).items[0]
    assert (first.id, first.truth, first.media) == ("video0", 0.5, (tmp_path / "videomem/videos/video0.npy",))
    item = read(TASKS["mediaeval_memorability"], tmp_path).items[3]
    root = tmp_path / "mediaeval_memorability/dev_set/Videos"
    assert (item.id, item.truth, item.media) == ("00003", 0.875, (root / "00003.npy",))


def test_mediaeval_reads_trecvid_where_memento10k_lies_beside_it(tmp_path):
    """The release of 2021: "Memento10k Data" and "TRECVid Data", each with dev_scores.csv."""
    releases.mediaeval_memorability(tmp_path)
    root = tmp_path / "mediaeval_memorability"
    (root / "TRECVid Data").mkdir()
    (root / "dev_set").rename(root / "TRECVid Data/dev_set")
    other = "video_id,scores_raw_short_term\n100493,0.7\n"
    (root / "Memento10k Data/dev_set").mkdir(parents=True)
    (root / "Memento10k Data/dev_set/dev_scores.csv").write_text(other)
    item = read(TASKS["mediaeval_memorability"], tmp_path).items[3]
    assert item.media == (root / "TRECVid Data/dev_set/Videos/00003.npy",)


def test_lambda_asks_its_own_question(tmp_path):
    releases.lambda_(tmp_path)
    questions = read(TASKS["lambda"], tmp_path)
    assert [(i.id, i.truth) for i in questions.items] == [("17", 0), ("18", 49), ("19", 99), ("20", 24)]
    assert questions.items[0].prompt == (
        "For the given ad: ad 17. Return the score of the video on a scale of 00 to 99."
    )
    assert questions.rejected == {"no answer of 00 to 99": [f"{tmp_path}/lambda/bs_test_q.json:5"]}
    assert memorability.two_digits(questions.items[0]) == "00"


def test_real_lamem_lists(real_data, tmp_path):
    for split in ("train", "val"):
        (tmp_path / "lamem/splits").mkdir(parents=True, exist_ok=True)
        shutil.copy(real_data / "bench" / f"lamem_{split}_1.txt", tmp_path / f"lamem/splits/{split}_1.txt")
        picture(tmp_path / "lamem/images/1.jpg")
        questions = read(TASKS["lamem"], tmp_path, split)
        lines = (real_data / "bench" / f"lamem_{split}_1.txt").read_text().split("\n")
        expected = [(line.split(".")[0], float(line.split()[1])) for line in lines if line]
        assert [(i.id, i.truth) for i in questions.items] == expected and not questions.rejected
        assert rho(TASKS["lamem"], questions, [truth * 99 for _, truth in expected]) == pytest.approx(1)


def test_real_lambda_questions(real_data, tmp_path):
    folder = tmp_path / "lambda"
    folder.mkdir()
    for kind in ("q", "a"):
        shutil.copy(real_data / "lambda" / f"bs_test_{kind}.part.json", folder / f"bs_test_{kind}.part.json")
    frames(folder / "video_scenes" / "2124.npy")
    questions = read(TASKS["lambda"], tmp_path)
    answers = json.loads((folder / "bs_test_a.part.json").read_text())
    assert [(i.id, i.truth) for i in questions.items] == [
        (str(a["question_id"]), float(a["answer"])) for a in answers
    ]
    asked = json.loads((folder / "bs_test_q.part.json").read_text())
    for item, row in zip(questions.items, asked, strict=True):
        assert item.prompt + " \n<image>\n" == row["question"]
        assert item.media == (folder / row["video_name"],)
    scipy_rho = pytest.importorskip("scipy.stats").spearmanr
    guesses = [len(item.prompt) for item in questions.items]
    truths = [item.truth for item in questions.items]
    assert rho(TASKS["lambda"], questions, guesses) == pytest.approx(scipy_rho(guesses, truths).statistic)


def test_what_the_paper_reports():
    """The mean gains of the reference: 158 % zero-shot, 26.1 % and 10.7 % over Henry with 25 % and 50 % of the data."""
    zero = [task.reported["zero-shot"].figures for task in memorability.TASKS]
    gains = [100 * (f["Behavior-LLaVA"] / f["LLaMA-VID"] - 1) for f in zero]
    assert np.mean(gains) == pytest.approx(158, abs=0.5)
    notes = [task.reported["fine-tuned"].note for task in memorability.TASKS]
    told = lambda note, name: float(note.split(f"{name} ")[1][:4])
    for part, gain in (("25 %", 26.1), ("50 %", 10.7)):
        gains = [told(n, f"Behavior-LLaVA {part}") / told(n, f"Henry {part}") * 100 - 100 for n in notes]
        assert np.mean(gains) == pytest.approx(gain, abs=0.1)
    best = {task.name: task.reported["fine-tuned"].best for task in memorability.TASKS}
    assert best.pop("sun_memorability") == "Henry"
    assert set(best.values()) == {"Henry, one data set alone"}
    assert TASKS["memcat"].reported["fine-tuned"].figures["Henry, one data set alone"] == 0.82
