"""HVU's mAP against scikit-learn, and the choice of five tags by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from input_pipeline.errors import UserError
from jaxllava.evaluate.scoring import retrieval
from jaxllava.evaluate.scoring.answered import Answered


def test_map_is_scikit_learns():
    generator = np.random.default_rng(0)
    tags = [f"tag{at}" for at in range(6)]
    meta = {"candidates": tags, "categories": ["scene"] * 2 + ["object"] * 4}
    scores = generator.integers(0, 5, (30, 6)) / 4  # ties
    true = generator.random((30, 6)) < 0.4
    true[:, 5] = False
    rows = [
        Answered(
            str(at),
            [tag for tag, has in zip(tags, true[at], strict=True) if has],
            None,
            tuple(scores[at]),
            meta,
        )
        for at in range(30)
    ]
    got = retrieval.hvu_map(rows, resamples=50)
    each = [100 * average_precision_score(true[:, at], scores[:, at]) for at in range(5)]
    assert got.figures["scene"].mean == pytest.approx(np.mean(each[:2]))
    assert got.figures["object"].mean == pytest.approx(np.mean(each[2:]))
    assert got.figures["overall"].mean == pytest.approx((np.mean(each[:2]) + np.mean(each[2:])) / 2)
    assert next(iter(got.figures)) == "overall"
    assert got.figures["overall"].low < got.figures["overall"].mean < got.figures["overall"].high
    assert got.problems == {"1 of 6 tags occur in no video: left out": []}


def test_map_resamples_as_weights_do():
    generator = np.random.default_rng(1)
    for levels in (1, 3, 1000):  # one rank for all, ties, none
        scores, true = generator.integers(0, levels, 25) / levels, generator.random(25) < 0.4
        weights = generator.integers(0, 3, (25, 4)).astype(float)
        got = retrieval._weighted_precision(scores, true, weights)
        want = [average_precision_score(true, scores, sample_weight=column) for column in weights.T]
        np.testing.assert_allclose(got, want)


def test_maps_interval_holds_its_value_where_tags_are_rare():
    generator = np.random.default_rng(2)
    meta = {"candidates": ["a", "b", "c"], "categories": ["scene", "scene", "object"]}
    rows = [
        Answered(
            str(at),
            [tag for tag in "abc" if generator.random() < 0.05 * (tag != "c") or at == 7],
            None,
            tuple(generator.random(3)),
            meta,
        )
        for at in range(200)
    ]
    # Its own category has one rare tag, which many resamples lack.
    for figure in retrieval.hvu_map(rows).figures.values():
        assert figure.low <= figure.mean <= figure.high and figure.low < figure.high


def test_map_refuses_what_it_cannot_rank():
    meta = {"candidates": ["a", "b"], "categories": ["scene", "object"]}
    with pytest.raises(UserError, match="'1': its scores are not finite"):
        retrieval.hvu_map([Answered("1", ["a"], None, (1.0, float("nan")), meta)])
    with pytest.raises(UserError, match="'1': its tag 'c' is not among the candidates"):
        retrieval.hvu_map([Answered("1", ["c"], None, (1.0, 0.0), meta)])
    with pytest.raises(UserError, match="'2': it has not the 2 tags"):
        retrieval.hvu_map(
            [Answered("1", ["a"], None, (1.0, 0.0), meta), Answered("2", ["a"], None, (1.0,), meta)]
        )


CANDIDATES = ["beach", "kitchen", "ball", "ball_game", "car", "running", "cooking", "party"]
KINDS = ["scene", "scene", "object", "event", "object", "action", "action", "event"]
META = {"candidates": CANDIDATES, "categories": KINDS}


def test_five_picks_by_hand():
    rows = [
        # scene: right, then wrong: 1. object: wrong, then right: 1/2. action: right: 1.
        Answered("1", ["beach", "car", "running"], ["beach", "ball", "car", "running", "kitchen"], meta=META),
        # scene: wrong: 0. event: right twice: 1. A sixth pick does not count.
        Answered(
            "2",
            ["ball_game", "party"],
            ["kitchen", "ball_game", "party", "cooking", "ball", "car"],
            meta=META,
        ),
    ]
    got = retrieval.hvu_retrieval(rows).figures
    means = {name: figure.mean for name, figure in got.items()}
    assert means == {
        "overall": pytest.approx((50 + 100 + 25 + 50) / 4),
        "action": 50,  # 1 and 0
        "event": 100,  # the second video only
        "object": 25,  # 1/2 and 0
        "scene": 50,  # 1 and 0
    }
    assert next(iter(means)) == "overall"
    assert got["event"].n == 1


def test_picks_by_score_and_from_text():
    scores = (0.9, 0.1, 0.8, 0.7, 0.6, 0.5, 0.2, 0.0)  # beach, ball, ball_game, car, running
    by_score = Answered("1", ["beach"], None, scores, META)
    by_text = Answered("2", ["beach"], "Beach; ball, then Ball Game, car and running. Party", meta=META)
    assert retrieval.tags_in(by_text.answer, CANDIDATES) == [
        "beach",
        "ball",
        "ball_game",
        "car",
        "running",
        "party",
    ]
    first, second = (retrieval.hvu_retrieval([row]).figures for row in (by_score, by_text))
    assert {name: figure.mean for name, figure in first.items()} == {
        name: figure.mean for name, figure in second.items()
    }


def test_a_name_within_another_is_no_mention():
    assert retrieval.tags_in("a ball_game", CANDIDATES) == ["ball_game"]
    assert retrieval.tags_in("carpet, eyeball", CANDIDATES) == []


def test_missing_picks_are_named():
    good = Answered("good", ["beach"], ["beach", "ball", "car", "party", "cooking"], meta=META)
    rows = [
        good,
        Answered("few", ["beach"], ["beach"], meta=META),
        Answered("none", ["beach"], "I see", meta=META),
    ]
    got = retrieval.hvu_retrieval([*rows, Answered("nan", ["beach"], None, (float("nan"),) * 8, META)])
    assert got.problems == {
        "less than 5 picks": ["few"],
        "no pick among the candidates": ["none"],
        "scores that are not finite: no picks": ["nan"],
    }
    assert got.figures["scene"].n == 2
    with pytest.raises(UserError, match="none of the 1 answers names any"):
        retrieval.hvu_retrieval([rows[2]])
    with pytest.raises(UserError, match="'x': its candidates have not one category each"):
        retrieval.hvu_retrieval(
            [Answered("x", [], [], meta={"candidates": ["a"], "categories": {"b": "scene"}})]
        )
