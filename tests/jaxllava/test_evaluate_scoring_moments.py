"""QVHighlights' figures on videos worked by hand, and against plain implementations of the official rules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve

from input_pipeline.errors import UserError
from jaxllava.evaluate.scoring import moments
from jaxllava.evaluate.scoring.answered import Answered


def query(id, true, predicted):
    return Answered(id, {"relevant_windows": true}, {"pred_relevant_windows": predicted})


def test_moment_retrieval_by_hand():
    rows = [
        # The first window overlaps 8 of 12 s (IoU 2/3: a hit up to 0.65), the second is exact.
        query("1", [[0, 10], [40, 60]], [[2, 12, 0.9], [40, 60, 0.5]]),
        # The best window has the lower score: rank 2 for mAP; R1 looks at the first as listed.
        query("2", [[100, 140]], [[100, 140, 0.2], [0, 10, 0.8]]),
    ]
    got = moments.moment_retrieval(rows).figures
    # 1: at 0.5 to 0.65 both are hits: AP 1. Above, a miss then a hit: 1/2 precision at 1/2 recall: 1/4.
    # 2: at every IoU a miss then a hit: 1/2.
    first = (4 * 1 + 6 * 0.25) / 10
    assert next(iter(got)) == "mAP"
    assert got["mAP"].mean == pytest.approx(100 * (first + 0.5) / 2)
    assert got["mAP@0.5"].mean == pytest.approx(75)
    assert got["mAP@0.75"].mean == pytest.approx(100 * (0.25 + 0.5) / 2)
    assert got["R1@0.5"].mean == 100
    assert got["R1@0.7"].mean == 50
    # Short: only [0, 10] of query 1, whose first window hits up to 0.65. Middle: [40, 60]. Long: query 2.
    assert got["mAP short"].mean == pytest.approx(40)
    assert got["mAP middle"].mean == pytest.approx(50)
    assert got["mAP long"].mean == pytest.approx(50)
    assert (got["mAP"].unit, got["mAP"].n, got["mAP short"].n) == ("queries", 2, 1)


def test_a_true_window_is_found_once_and_ten_windows_count():
    twice = query("1", [[0, 10]], [[0, 10, 0.9], [0, 10, 0.8]])
    assert moments.moment_retrieval([twice]).figures["mAP"].mean == pytest.approx(100)
    late = query("1", [[0, 10]], [[50, 60, 0.1]] * 10 + [[0, 10, 0.9]])
    assert moments.moment_retrieval([late]).figures["mAP"].mean == 0


def test_answers_without_a_window_miss_and_are_named():
    rows = [
        query("1", [[0, 10]], []),
        Answered("2", [[0, 10]], "never"),
        Answered("3", [[0, 10]], "0:00 to 0:10"),
    ]
    got = moments.moment_retrieval(rows)
    assert got.figures["mAP"].mean == pytest.approx(100 / 3)
    assert got.problems == {"no window in the answer: a miss": ["1", "2"]}
    for true in ([], [[10, 0]], [[0, float("nan")]], [[1, 2, 3]]):
        with pytest.raises(UserError, match="'1': its relevant_windows are"):
            moments.moment_retrieval([query("1", true, [[0, 10, 1]])])


@pytest.mark.parametrize(
    ("answer", "windows"),
    [
        ("From 12 to 30 seconds.", [(12, 30)]),
        ("[2, 14.5] and [40, 62]", [(2, 14.5), (40, 62)]),
        ("1:02 - 1:30", [(62, 90)]),
        ("12s-30s", [(12, 30)]),
        ("30 to 12", []),
        ("at 12 seconds", []),
    ],
)
def test_windows_in(answer, windows):
    found = moments.windows_in(answer)
    assert [tuple(window[:2]) for window in found] == windows
    assert [window[2] for window in found] == sorted((window[2] for window in found), reverse=True)


def plain_average_precision(predicted, true, least):
    """VOC 2011 with all the points: greedy matches, then the area under the interpolated curve."""
    free, hits = set(range(len(true))), []
    for start, end, _ in sorted(predicted, key=lambda window: -window[2]):
        overlaps = []
        for at, (first, last) in enumerate(true):
            inside = max(0, min(end, last) - max(start, first))
            overlaps.append((inside / ((end - start) + (last - first) - inside), at))
        taken = next((at for iou, at in sorted(overlaps, reverse=True) if iou >= least and at in free), None)
        free.discard(taken)
        hits.append(taken is not None)
    points = [(0.0, 0.0)]
    for rank in range(1, len(hits) + 1):
        points.append((sum(hits[:rank]) / len(true), sum(hits[:rank]) / rank))
    area = 0.0
    for at in range(1, len(points)):
        area += (points[at][0] - points[at - 1][0]) * max(precision for _, precision in points[at:])
    return area


WINDOW = st.tuples(st.integers(0, 30), st.integers(1, 20)).map(lambda pair: [pair[0], pair[0] + pair[1]])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(WINDOW, min_size=1, max_size=4),
    st.lists(WINDOW, min_size=1, max_size=6),
    st.permutations(range(6)),
)
def test_average_precision_is_the_plain_one(true, predicted, order):
    scored = [[*window, order[at]] for at, window in enumerate(predicted)]
    got = moments.average_precision(np.array(scored, float), np.array(true, float))
    want = [plain_average_precision(scored, true, least) for least in moments.IOUS]
    np.testing.assert_allclose(got, want, atol=1e-12)
    assert (np.diff(got) <= 1e-12).all()  # never better at a stricter IoU


def highlight(id, clips, people, scores, duration=10):
    truth = {"duration": duration, "relevant_clip_ids": clips, "saliency_scores": people}
    return Answered(id, truth, {"pred_saliency_scores": scores})


def test_highlights_by_hand():
    # Five clips; clip 1 is very good for the first person, clip 3 for all three.
    rows = [highlight("1", [1, 3], [[4, 2, 1], [4, 4, 4]], [0.1, 0.9, 0.2, 0.8, 0.0])]
    got = moments.highlight_detection(rows).figures
    # VeryGood. Person 1: clips 1 and 3 rank first and second: 1. Persons 2 and 3: clip 3 at rank 2: 1/2.
    assert got["mAP VeryGood"].mean == pytest.approx(100 * (1 + 0.5 + 0.5) / 3)
    assert got["Hit@1 VeryGood"].mean == 100  # the first person is enough
    # Fair. Persons 1 and 2: both clips, 1. Person 3: clip 3, 1/2.
    assert got["mAP Fair"].mean == pytest.approx(100 * 2.5 / 3)
    assert next(iter(got)) == "mAP VeryGood"


def test_highlights_of_missing_and_excess_clips():
    # Clip 4 has no score and so 0, which is above the negative ones: found at rank 1.
    short = highlight("1", [4], [[4, 4, 4]], [-1, -1, -1, -1])
    assert moments.highlight_detection([short]).figures["mAP Fair"].mean == 100
    # The best score is beyond the video: no hit, and cut off for mAP.
    long = highlight("1", [4], [[4, 4, 4]], [0, 0, 0, 0, 1, 9])
    got = moments.highlight_detection([long]).figures
    assert (got["Hit@1 Fair"].mean, got["mAP Fair"].mean) == (0, 100)
    # A person for whom nothing is good: precision 0.
    none = highlight("1", [4], [[4, 1, 1]], [0, 0, 0, 0, 1])
    assert moments.highlight_detection([none]).figures["mAP Fair"].mean == pytest.approx(100 / 3)


def test_highlights_without_scores_miss_and_are_named():
    rows = [highlight("1", [0], [[4, 4, 4]], [1, 0, 0, 0, 0]), highlight("2", [0], [[4, 4, 4]], "the start")]
    got = moments.highlight_detection(rows)
    assert got.figures["mAP VeryGood"].mean == 50
    assert got.problems == {"no finite clip scores in the answer: a miss": ["2"]}
    with pytest.raises(UserError, match="'1': its truth has no usable duration"):
        moments.highlight_detection([highlight("1", [7], [[4, 4, 4]], [1])])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=2, max_size=12))
def test_clip_precision_is_scikit_learns_curve_interpolated(clips):
    true = np.array([clip[0] for clip in clips], float)
    scores = np.array([clip[1] for clip in clips], float)
    got = moments.clip_precision(true, scores)
    if true.min() == true.max():
        assert got == true[0]
        return
    precision, recall, _ = precision_recall_curve(true, scores)
    precision = np.maximum.accumulate(precision[:-1])  # by rising recall threshold: from the lowest score up
    levels = np.flatnonzero(np.diff(recall.astype(np.float32)))
    assert got == pytest.approx(precision[levels].mean())
