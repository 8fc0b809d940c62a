"""Accuracy, exact match, F1 and predicted numbers by hand and against scikit-learn; what every metric refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from input_pipeline.errors import UserError
from jaxllava.evaluate.scoring import accuracy, letters, moments, retrieval, reviews, text, vqa, yes_no
from jaxllava.evaluate.scoring.answered import Answered

EVERY_METRIC = [
    *(
        accuracy.top1,
        accuracy.exact_match,
        accuracy.f1,
        accuracy.spearman,
        accuracy.mse,
        accuracy.lvu_view_count,
    ),
    *(vqa.vqav2, vqa.vizwiz, vqa.textvqa, vqa.gqa, yes_no.pope, yes_no.mme),
    *(letters.scienceqa, letters.mmbench, letters.seed_bench),
    *(moments.moment_retrieval, moments.highlight_detection, retrieval.hvu_map, retrieval.hvu_retrieval),
    *(reviews.relative_score, reviews.video_qa, reviews.video_dialogue, reviews.dense_captions, text.overlap),
]


def answered(pairs, **meta) -> list[Answered]:
    return [Answered(f"q{at}", truth, answer, meta=dict(meta)) for at, (truth, answer) in enumerate(pairs)]


@pytest.mark.parametrize("metric", EVERY_METRIC, ids=lambda metric: metric.__name__)
def test_no_rows_and_an_id_twice_are_refused(metric):
    with pytest.raises(UserError, match="no answered questions"):
        metric([])
    with pytest.raises(UserError, match="'q7' occurs twice"):
        metric([Answered("q7", "yes", "yes"), Answered("q7", "yes", "no")])


def test_top1_by_hand():
    rows = answered([("joy", "joy"), ("fear", "joy"), (["fear", "anger"], "anger"), ("joy", "joy")])
    got = accuracy.top1(rows).figures["accuracy"]
    assert got.mean == 75
    assert 0 <= got.low <= 75 <= got.high <= 100
    assert got.n == 4


def test_top1_of_categories_and_clubbed_labels():
    rows = [
        Answered("a", "amused", "cheerful", meta={"category": "ad"}),
        Answered("b", "sad", "sad", meta={"category": "ad"}),
        Answered("c", "sad", "amused", meta={"category": "film"}),
    ]
    groups = {"amused": "joy", "cheerful": "joy", "sad": "sadness"}
    got = accuracy.top1(rows, clubbed=groups).figures
    assert got["accuracy"].mean == pytest.approx(100 / 3)
    assert got["accuracy clubbed"].mean == pytest.approx(200 / 3)
    assert (got["accuracy/ad"].mean, got["accuracy/film"].mean) == (50, 0)
    with pytest.raises(UserError, match="'a': its label 'amused' is in no group"):
        accuracy.top1(rows, clubbed={"sad": "sadness"})


def test_top1_names_what_cannot_count():
    rows = [
        Answered("good", "a", "a", scores=(-1.0, -2.0)),
        Answered("nan", "a", "a", scores=(math.nan, -2.0)),
        Answered("empty", "a", ""),
    ]
    got = accuracy.top1(rows)
    assert got.figures["accuracy"].mean == pytest.approx(100 / 3)
    assert got.problems == {
        "scores that are not finite: counted as wrong": ["nan"],
        "empty answer: counted as wrong": ["empty"],
    }
    for truth in (None, math.nan, []):
        with pytest.raises(UserError, match="'q0': its truth is"):
            accuracy.top1(answered([(truth, "a")]))


def test_exact_match_by_rule():
    rows = answered([("a red car", "The Red Car!"), ("2", "two"), ("yes", "Yes.")])
    means = {
        rule: accuracy.exact_match(rows, normalise=rule).figures["exact match"].mean
        for rule in accuracy.NORMALISATIONS
    }
    assert means["none"] == means["strip"] == 0
    assert means["lower"] == pytest.approx(100 / 3)  # yes
    assert means["squad"] == pytest.approx(200 / 3)  # and the car
    assert means["vqa"] == 100  # and the number
    assert accuracy.exact_match(answered([("", "")])).figures["exact match"].mean == 0


def test_f1_is_scikit_learns():
    generator = np.random.default_rng(0)
    labels = np.array(["joy", "fear", "anger"])
    true, said = labels[generator.integers(0, 3, (2, 60))]
    rows = answered(zip(true.tolist(), said.tolist(), strict=True))
    got = accuracy.f1(rows)
    assert got.figures["f1"].mean == pytest.approx(100 * f1_score(true, said, average="macro"))
    assert got.figures["accuracy"].mean == pytest.approx(100 * (true == said).mean())
    one = accuracy.f1(rows, positive="joy").figures["f1 of joy"]
    assert one.mean == pytest.approx(100 * f1_score(true == "joy", said == "joy"))
    assert one.low < one.mean < one.high


def test_f1_of_answers_that_are_no_label():
    got = accuracy.f1(answered([("a", "a"), ("b", "c"), ("b", "")]))
    # a: 1; b: never answered, 0.
    assert got.figures["f1"].mean == 50
    assert got.problems == {
        "answer is none of the labels: counted as wrong": ["q1"],
        "empty answer: counted as wrong": ["q2"],
    }


def test_numbers_by_hand():
    rows = answered([(1, 2), (2, np.float32(2)), (3, "about 3."), (4, "3")])
    got = accuracy.spearman(rows).figures
    assert list(got) == ["spearman", "mse", "pearson", "r2"]
    assert got["mse"].mean == 0.5
    assert got["r2"].mean == pytest.approx(1 - 2 / 5)
    # ranks 1.5 1.5 3.5 3.5 against 1 2 3 4: covariance 4, variances 4 and 5
    assert got["spearman"].mean == pytest.approx(4 / math.sqrt(20))
    assert got["pearson"].mean == pytest.approx(4 / math.sqrt(20) * 1, abs=1e-12)
    assert next(iter(accuracy.mse(rows).figures)) == "mse"


def test_answers_without_a_number_are_left_out_and_named():
    rows = answered([(1, 1), (2, 2), (3, "high"), (4, math.nan), (5, None)])
    got = accuracy.spearman(rows)
    assert got.figures["spearman"].n == 2
    assert got.problems == {"no finite number in the answer: left out": ["q2", "q3", "q4"]}
    with pytest.raises(UserError, match="neither it nor any of the 2 questions has a number"):
        accuracy.mse(answered([(1, "low"), (2, "high")]))
    with pytest.raises(UserError, match="'q0': its truth is nan"):
        accuracy.spearman(answered([(math.nan, 1), (2, 2)]))


def test_one_truth_has_an_error_and_no_correlation():
    got = accuracy.mse(answered([(3, 1), (3, 2)]))
    assert got.figures["mse"].mean == 2.5
    assert list(got.problems) == ["spearman, pearson, r2 left out: fewer than two different truths"]
    with pytest.raises(UserError, match="differ in truth"):
        accuracy.spearman(answered([(3, 1), (3, 2)]))


@pytest.mark.parametrize(
    ("said", "number"),
    [("1,234,567 views", 1234567), ("-2.5e3", -2500), ("0.7", 0.7), ("between 3 and 4", 3), ("none", None)],
)
def test_number_in(said, number):
    assert accuracy.number_in(said) == number


def test_lvu_targets():
    views = accuracy.lvu_view_count(answered([(1000, 1000 * math.e), (500, 500)])).figures["mse"]
    assert views.mean == pytest.approx(0.5)
    ratio = accuracy.lvu_like_ratio(answered([(0.9, 0.8), (0.5, 0.5)])).figures["mse"]
    assert ratio.mean == pytest.approx(0.5)
    got = accuracy.lvu_view_count(answered([(1000, 0), (500, 500), (600, 600)]))
    assert got.problems == {"answer not above 0, so that it has no logarithm: left out": ["q0"]}
    with pytest.raises(UserError, match="'q0': its truth 90 is not a share"):
        accuracy.lvu_like_ratio(answered([(90, 0.8), (0.5, 0.5)]))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=12), st.randoms()
)
def test_order_and_bounds(pairs, random):
    rows = answered(pairs)
    shuffled = random.sample(rows, len(rows))
    for metric in (accuracy.top1, accuracy.exact_match, accuracy.f1):
        first, again = metric(rows).figures, metric(shuffled).figures
        assert first.keys() == again.keys()
        for name, figure in first.items():
            assert figure.mean == pytest.approx(again[name].mean)
            assert 0 <= figure.low <= figure.high <= 100 + 1e-9
