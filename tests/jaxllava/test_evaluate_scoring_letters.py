"""ScienceQA, MMBench and SEED-Bench by hand, and ScienceQA on LLaVA's own published predictions."""

from __future__ import annotations

import json

import pytest

from input_pipeline.errors import UserError
from jaxllava.evaluate.scoring import letters
from jaxllava.evaluate.scoring.answered import Answered


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("B. blue", "B"),
        ("B.", "FAILED"),  # three characters at least
        ("(B)", "FAILED"),
        ("b", "FAILED"),
        ("F", "FAILED"),
        (" B", "FAILED"),
        ("Because so. The answer is C.", "C"),
        ("The answer is C. No, The answer is D.", "FAILED"),  # twice
        ("The answer is C", "FAILED"),  # any character has to follow
        ("", "FAILED"),
    ],
)
def test_scienceqa_letter(answer, letter):
    assert letters.scienceqa_letter(answer) == letter


def science(id, truth, answer, subject, grade, hint, image, choices=3):
    meta = {"choices": ["x"] * choices, "subject": subject, "grade": grade, "hint": hint, "image": image}
    return Answered(id, truth, answer, meta=meta)


def test_scienceqa_by_hand():
    rows = [
        science("1", "A", "A", "natural science", "grade1", "look", None),
        science("2", 1, "B. x", "natural science", "grade7", "", "2.png"),
        science("3", "B", "A", "social science", "grade6", "read", "3.png"),
        science("4", "C", "The answer is D.", "language science", "grade12", "", None),
    ]
    got = letters.scienceqa(rows)
    assert {name: figure.mean for name, figure in got.figures.items()} == {
        "accuracy": 50,
        "NAT": 100,
        "SOC": 0,
        "LAN": 0,
        "TXT": 50,
        "IMG": 50,
        "NO": 0,
        "G1-6": 50,
        "G7-12": 50,
    }
    assert got.problems == {"letter beyond the choices: counted as wrong": ["4"]}
    assert list(letters.scienceqa(rows, headline="IMG").figures)[:2] == ["IMG", "accuracy"]
    with pytest.raises(UserError, match="no question is of 'IMG'"):
        letters.scienceqa([Answered("1", "A", "A", meta={"choices": ["x", "y"]})], headline="IMG")


def test_scienceqa_refuses_what_it_cannot_use():
    with pytest.raises(UserError, match="'1': its truth is 'D', not one of A, B, C"):
        letters.scienceqa([science("1", "D", "A", "natural science", "grade1", "", None)])
    with pytest.raises(UserError, match="'1': its meta has no 'choices'"):
        letters.scienceqa([Answered("1", "A", "A")])
    with pytest.raises(UserError, match="no subject 'maths'"):
        letters.scienceqa([science("1", "A", "A", "maths", "grade1", "", None)])
    with pytest.raises(UserError, match="no grade 'grade13'"):
        letters.scienceqa([science("1", "A", "A", "social science", "grade13", "", None)])


def test_scienceqa_of_llavas_predictions(real_data):
    folder = real_data / "bench/noncommercial"
    predictions = json.loads((folder / "scienceqa_predictions_llava-v1.5-13b.json").read_text())
    rows = []
    for row in predictions:
        assert letters.scienceqa_letter(row["pred"]) == row["parsed_ans"], row["question_id"]
        choices = [line for line in row["question"].split("\n") if line[1:3] == ". " and line[0] in "ABCDE"]
        meta = {"choices": choices, "image": row["is_multimodal"], "hint": ""}
        rows.append(Answered(row["question_id"], row["ground_truth"], row["pred"], meta=meta))
    got = letters.scienceqa(rows).figures
    right = [row["parsed_ans"] == row["ground_truth"] for row in predictions]
    pictured = [correct for correct, row in zip(right, predictions, strict=True) if row["is_multimodal"]]
    assert got["accuracy"].mean == pytest.approx(100 * sum(right) / len(right))
    assert got["IMG"].mean == pytest.approx(100 * sum(pictured) / len(pictured))


CHOICES = {"A": "teddy bear", "B": "rabbit", "C": "cat", "D": "dog"}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(C)", "C"),
        ("The answer is D.", "D"),
        ("A or B", None),  # two letters, and no choice's text
        ("a cute teddy bear", "A"),  # by its text
        ("A cat", "A"),  # the official rule takes the article for a letter
        ("cat and dog", None),
        ("Cannot determine the answer: B", None),
        ("spider", None),
        ("", None),
    ],
)
def test_mmbench_letter(answer, letter):
    assert letters.mmbench_letter(answer, CHOICES) == letter


def test_mmbench_counts_a_question_when_all_rotations_are_right():
    def row(index, truth, answer, category):
        meta = {"index": index, "choices": CHOICES, "category": category, "l2-category": "fine"}
        return Answered(str(index), truth, answer, meta=meta)

    rows = [
        row(7, "A", "A", "colour"),
        row(1_000_007, "B", "B", "colour"),
        row(2_000_007, "C", "C. cat", "colour"),
        row(8, "D", "D", "count"),
        row(1_000_008, 0, "B", "count"),
        row(9, "D", "no idea", "count"),
    ]
    got = letters.mmbench(rows)
    assert got.figures["accuracy"].mean == pytest.approx(100 / 3)
    assert (got.figures["accuracy"].n, got.figures["accuracy"].unit) == (3, "questions")
    assert got.figures["single pass"].mean == pytest.approx(200 / 3)
    assert got.figures["category/colour"].mean == 100
    assert got.figures["category/count"].mean == 0
    assert got.figures["l2-category/fine"].mean == pytest.approx(100 / 3)
    assert got.problems == {"no letter in the answer: counted as wrong": ["9"]}


def test_mmbench_takes_choices_as_a_list_and_the_id_as_index():
    rows = [Answered("3", "B", "rabbit", meta={"candidates": list(CHOICES.values())})]
    assert letters.mmbench(rows).figures["accuracy"].mean == 100
    with pytest.raises(UserError, match="'x': its index is 'x'"):
        letters.mmbench([Answered("x", "B", "B", meta={"choices": CHOICES})])


def test_seed_bench_by_hand():
    def row(id, truth, answer, kind, type):
        return Answered(id, truth, answer, meta={"data_type": kind, "question_type": type})

    rows = [
        row("1", "A", "A", "image", "Scene"),
        row("2", "B", "B.", "image", "Scene"),
        row("3", "C", "C", "video", "Action"),
        row("4", "D", "A", "image", "Count"),
    ]
    got = letters.seed_bench(rows)
    assert {name: figure.mean for name, figure in got.figures.items()} == {
        "accuracy": 50,
        "image": pytest.approx(100 / 3),
        "video": 100,
        "type/Action": 100,
        "type/Count": 0,
        "type/Scene": 50,
    }
    assert got.problems == {"not a single letter: counted as wrong": ["2"]}
