"""Figures of written reviews by hand, and LLaVA's relative score on real reviews."""

from __future__ import annotations

import json

import pytest

from input_pipeline.errors import UserError
from jaxllava.evaluate.scoring import reviews
from jaxllava.evaluate.scoring.answered import Answered


@pytest.mark.parametrize(
    ("review", "pair"),
    [
        ("8 9\nBoth are good.", (8, 9)),
        ("8.5 10", (8.5, 10)),
        ("8,9", (8, 9)),
        ("8, 9", None),  # the comma's blank makes it three parts
        ("8", None),
        ("8 9 10", None),
        ("Assistant 1: 8", None),
        ("8 9 \nBoth", None),  # a blank at the end makes it three parts
        ("", None),
    ],
)
def test_score_pair(review, pair):
    assert reviews.score_pair(review) == pair


def review(id, answer, category):
    return Answered(id, None, answer, meta={"category": category})


def test_relative_score_by_hand():
    rows = [review("1", "8 4\nx", "conv"), review("2", "2 4\nx", "conv"), review("3", "10 10", "detail")]
    got = reviews.relative_score(rows).figures
    assert list(got) == ["all", "conv", "detail", "reference", "model"]
    # A ratio of means: 18 / 20, not the mean of 1/2, 2 and 1.
    assert got["all"].mean == pytest.approx(90)
    assert got["conv"].mean == pytest.approx(80)
    assert got["detail"].mean == pytest.approx(100)
    assert got["reference"].mean == pytest.approx(200 / 3)
    assert got["model"].mean == pytest.approx(60)


def test_unparsable_reviews_count_as_the_reference_counts_them():
    rows = [review("1", "8 4", "conv"), review("2", "8 4", "conv"), review("3", "no score", "conv")]
    counted = reviews.relative_score(rows)
    assert counted.figures["all"].mean == pytest.approx(100 * (4 + 4 - 1) / (8 + 8 - 1))
    assert counted.problems == {"no two scores in the review's first line: counted as -1 -1": ["3"]}
    without = reviews.relative_score(rows, count_unparsable=False)
    assert without.figures["all"].mean == pytest.approx(50)
    assert without.figures["all"].n == 2
    assert without.problems == {"no two scores in the review's first line: left out": ["3"]}
    with pytest.raises(UserError, match="none of the 1 reviews"):
        reviews.relative_score(rows[2:], count_unparsable=False)


def test_relative_score_of_real_reviews(real_data):
    lines = (real_data / "llava/llava_bench_wild_reviews.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    rows = [review(str(record["id"]), record["content"], record["category"]) for record in records]
    for record in records:
        assert list(reviews.score_pair(record["content"]) or (-1, -1)) == record["tuple"]
    got = reviews.relative_score(rows).figures
    pairs = [record["tuple"] for record in records]
    assert got["all"].mean == pytest.approx(
        100 * sum(pair[1] for pair in pairs) / sum(pair[0] for pair in pairs)
    )
    for category in {record["category"] for record in records}:
        own = [record["tuple"] for record in records if record["category"] == category]
        assert got[category].mean == pytest.approx(
            100 * sum(pair[1] for pair in own) / sum(pair[0] for pair in own)
        )


def test_scores_of_the_text_benchmarks_reviews(real_data):
    lines = (real_data / "llava/review_alpaca-13b_vicuna-13b.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    read = [(reviews.score_pair(record["text"]), tuple(record["score"])) for record in records]
    # An older parser wrote this file; where ours reads two scores, they are the same.
    assert all(ours == theirs for ours, theirs in read if ours is not None)
    assert sum(ours is not None for ours, _ in read) > 0.9 * len(read)


def test_video_qa_by_hand():
    rows = [
        Answered("1", None, {"pred": "yes", "score": 4}),
        Answered("2", None, "{'pred': 'No', 'score': 4.8}"),  # int(4.8) is 4
        Answered("3", None, [{"predicted": "Yes, it does", "score": "5"}, {"q": "?"}]),
        Answered("4", None, "{'pred': 'yes', 'score': '4.8'}"),  # int("4.8") is an error
        Answered("5", None, "yes, 5"),
        Answered("6", None, {"pred": "maybe", "score": 3}),
        Answered("7", None, {"pred": "yes"}),
        Answered("8", None, {"pred": "yes", "score": 9}),
    ]
    got = reviews.video_qa(rows)
    assert list(got.figures) == ["accuracy", "score"]
    assert got.figures["accuracy"].mean == pytest.approx(200 / 3)
    assert got.figures["score"].mean == pytest.approx(13 / 3)
    assert got.problems == {"no yes or no and score 0-5 in the review: left out": ["4", "5", "6", "7", "8"]}
    with pytest.raises(UserError, match="none of the 1 reviews"):
        reviews.video_qa(rows[4:5])


def test_video_dialogue_is_the_mean_of_its_categories():
    rows = [
        Answered("1", None, {"score": 4}, meta={"category": "detail"}),
        Answered("2", None, "{'score': 2}", meta={"category": "detail"}),
        Answered("3", None, "{'score': 1}", meta={"category": "context"}),
        Answered("4", None, "score: 1", meta={"category": "context"}),
    ]
    got = reviews.video_dialogue(rows)
    assert {name: figure.mean for name, figure in got.figures.items()} == {
        "mean": 2,
        "context": 1,
        "detail": 3,
    }
    assert got.problems == {"no score 0-5 in the review: left out": ["4"]}


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("8", 8),
        ("Score: 7.5", 7.5),
        ("10", 10),
        ("8/10", 8),
        ("11", None),
        ("0", None),
        ("very good", None),
        ("The caption scores well: it names 2 dogs and a ball.\nScore: 8", 8),
        ("The highest score is 10.\n\n**Score: 8**", 8),
        ("It shows 3 dogs.\n**Score:** 6/10\n", 6),
        ("Score: 4\nOn second thoughts it is better.\r\n### Final score: 7 out of 10.\r\n", 7),
        ("Score: 4\nScore: 11", None),
        ("Score: 80/100", None),
        ("Score: -8", None),
        ("On 1 to 10 it is between 8 and 9.", None),
        ("The caption names 3 dogs.", None),
    ],
)
def test_caption_score(answer, score):
    assert reviews.caption_score(answer) == score


def test_the_last_line_of_a_cut_review_may_be_half_a_line():
    assert reviews.caption_score("Long.\nScore: 1", is_cut=True) is None
    assert reviews.caption_score("1", is_cut=True) is None
    assert reviews.caption_score("Score: 10\nBecause the cap", is_cut=True) == 10


def test_dense_captions_by_hand():
    def row(picture, criterion, answer):
        meta = {"image": picture, "criterion": criterion}
        return Answered(f"{picture}{criterion}", None, answer, meta=meta)

    rows = [
        *(row("a", "correctness", "8"), row("a", "detail", 6), row("a", "quality", "Score: 10")),
        *(row("b", "correctness", "6"), row("b", "detail", "8.0"), row("b", "quality", "none")),
    ]
    got = reviews.dense_captions(rows)
    means = {name: figure.mean for name, figure in got.figures.items()}
    assert means == {"average": pytest.approx((7 + 7 + 10) / 3), "correctness": 7, "detail": 7, "quality": 10}
    assert (got.figures["average"].unit, got.figures["average"].n) == ("pictures", 2)
    assert got.problems == {"no score from 1 to 10 in the review: left out": ["bquality"]}
    with pytest.raises(UserError, match="no review of detail, quality has a score"):
        reviews.dense_captions(rows[:1])
    with pytest.raises(UserError, match="no criterion 'length'"):
        reviews.dense_captions([row("a", "length", "8")])
