"""QVHighlights: moments and salience, scores worked by hand, the official submission."""

from __future__ import annotations

import json

import numpy as np
import pytest

from input_pipeline.errors import UserError
from jaxllava.evaluate.media import open_media
from jaxllava.evaluate.scoring.answered import Answered
from jaxllava.evaluate.tasks import highlights
from jaxllava.evaluate.tasks.task import Clip, need_ends, read
from tests.jaxllava.benchmark_fixtures import highlights as release

MOMENTS, HIGHLIGHTS = highlights.TASKS


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qvhighlights")
    release.write(folder)
    return folder


def answered(items, answers):
    return [Answered(i.id, i.truth, a, (), i.meta) for i, a in zip(items, answers, strict=True)]


def test_moments_are_asked_of_whole_videos(root, tmp_path):
    with pytest.raises(UserError, match="lacks"):
        read(MOMENTS, tmp_path)
    questions = read(MOMENTS, root)
    assert [i.id for i in questions.items] == ["1", "2", "3", "4"]
    assert questions.items[0].prompt == (
        'Which moments of this video of 8 seconds show "A dog runs."? Answer with their starts and ends in '
        'seconds, the best moment first, as in "12 - 30, 44 - 50".'
    )
    assert questions.items[1].truth == [[0, 2], [6, 8]]
    path = root / "qvhighlights/highlight_val_release.jsonl"
    assert questions.rejected["an empty query"] == [f"{path}:5"] and questions.rejections == 2
    assert {i.truth for i in read(MOMENTS, root, "test").items} == {None}
    assert MOMENTS.finetune.answer(read(MOMENTS, root, "train").items[1]) == "0 - 2, 6 - 8"


def test_moments_are_scored_as_text(root, tmp_path):
    items = read(MOMENTS, root).items
    perfect = answered(items, [highlights.taught_moments(item) for item in items])
    assert MOMENTS.score(perfect).figures["mAP"].mean == pytest.approx(100)
    # One right, one of two windows, IoU 4/6 (reached by 0.5 to 0.65: 4 of 10 thresholds), no window at all.
    rows = answered(items, ["2 - 6", "from 0 to 2 seconds", "0 - 4", "never"])
    scored = MOMENTS.score(rows)
    assert next(iter(scored.figures)) == "mAP"
    assert scored.figures["mAP"].mean == pytest.approx(100 * (1 + 0.5 + 0.4 + 0) / 4)
    assert scored.figures["R1@0.5"].mean == 75 and scored.figures["R1@0.7"].mean == 50
    assert scored.problems == {"no window in the answer: a miss": ["4"]}
    path = MOMENTS.submit(rows, tmp_path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert path.name == "hl_val_submission.jsonl" and list(tmp_path.iterdir()) == [path]
    assert lines[0] == {
        "qid": 1, "query": "A dog runs.", "vid": "aaa_0.0_8.0", "pred_relevant_windows": [[2, 6, 1.0]],
    }  # fmt: skip
    assert lines[3]["pred_relevant_windows"] == []


def test_every_clip_is_a_question(root):
    questions = read(HIGHLIGHTS, root)
    assert [i.id for i in questions.items] == [
        f"{q}/{clip}" for q, n in ((1, 4), (2, 4), (3, 3), (4, 3)) for clip in range(n)
    ]
    video = root / "qvhighlights/videos/aaa_0.0_8.0.mp4"
    assert questions.items[1].media == (Clip(video, 2, 4),)
    assert [i.truth for i in questions.items[:4]] == [[0, 0, 0], [4, 4, 4], [3, 2, 1], [0, 0, 0]]
    assert questions.items[5].meta["group"] == "2"  # a part of the questions has whole queries
    assert len(open_media(questions.items[1].media, 1)) == 1
    assert not need_ends(HIGHLIGHTS, questions.items)
    taught = [HIGHLIGHTS.finetune.answer(i) for i in read(HIGHLIGHTS, root, "train").items[:3]]
    assert taught == ["0", "4", "2"]
    assert HIGHLIGHTS.protocol.answer(np.log([0.5, 1e-12, 1e-12, 1e-12, 0.5]), ()) == pytest.approx(2)


def test_clips_of_a_query_are_scored_together(root, tmp_path):
    items = read(HIGHLIGHTS, root).items
    right = [sum(item.truth) / 3 for item in items]
    scored = HIGHLIGHTS.score(answered(items, right))
    # Query 4: of three people two call clip 2 very good; the third has no very good clip, which counts 0.
    assert next(iter(scored.figures)) == "mAP VeryGood"
    people = [(1, 1, 1), (1, 0, 1), (1, 1, 1), (1, 1, 0)]
    assert scored.figures["mAP VeryGood"].mean == pytest.approx(100 * np.mean(people))
    assert scored.figures["Hit@1 VeryGood"].mean == 100 and scored.figures["mAP VeryGood"].n == 4
    # The wrong clip on top: Hit@1 misses query 1.
    swapped = [
        3.0 - value if item.id.startswith("1/") else value for item, value in zip(items, right, strict=True)
    ]
    assert HIGHLIGHTS.score(answered(items, swapped)).figures["Hit@1 VeryGood"].mean == 75
    path = HIGHLIGHTS.submit(answered(items, right), tmp_path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["qid"] for line in lines] == [1, 2, 3, 4]
    assert set(lines[0]) == {"qid", "query", "vid", "pred_saliency_scores"}
    assert lines[0]["pred_saliency_scores"] == pytest.approx([0, 4, 2, 0])


def test_a_query_that_lacks_a_clip_is_left_out_and_named(root):
    items = [item for item in read(HIGHLIGHTS, root).items if item.id != "2/1"]
    scored = HIGHLIGHTS.score(answered(items, [1.0] * len(items)))
    assert scored.figures["mAP VeryGood"].n == 3
    assert scored.problems == {"a clip without an answer: the query is left out": ["2"]}
    with pytest.raises(UserError, match="none of the 1 queries has an answer for each clip"):
        HIGHLIGHTS.score(answered(items[:2], [1.0, 2.0]))
    nobody = [Answered(f"9/{c}", [0, 0, 0], 1.0, (), {"qid": 9, "clip": c, "duration": 4}) for c in range(2)]
    assert HIGHLIGHTS.score(nobody).figures["Hit@1 VeryGood"].mean == 0


def test_what_the_paper_reports():
    moments, salience = (task.reported["zero-shot"].figures for task in highlights.TASKS)
    assert moments["Behavior-LLaVA + replay graphs"] == 35.2 and salience["LLaMA-VID"] == 32.4
