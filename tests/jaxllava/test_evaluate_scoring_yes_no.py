"""POPE and MME by hand, and POPE on LLaVA's own published answers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.errors import UserError
from jaxllava.evaluate.scoring import yes_no
from jaxllava.evaluate.scoring.answered import Answered


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("No", "no"),
        ("no, there is none", "no"),
        ("Yes. There is no dog", "yes"),  # the first sentence only
        ("There is not a dog", "no"),
        ("No.", "no"),
        ("NO", "yes"),  # not one of the three words
        ("nothing", "yes"),
        ("", "yes"),
        ("There is a cat,no dog", "yes"),  # the comma goes before the words are told apart
    ],
)
def test_pope_answer(answer, said):
    assert yes_no.pope_answer(answer) == said


def pope_rows(category: str, cells: dict[tuple[str, str], int]) -> list[Answered]:
    """(truth, answer) -> how many."""
    pairs = [pair for pair, count in cells.items() for _ in range(count)]
    return [
        Answered(f"{category}{at}", truth, answer, meta={"category": category, "image": f"{at % 4}.jpg"})
        for at, (truth, answer) in enumerate(pairs)
    ]


def test_pope_by_hand():
    # random: TP 3, FN 1, FP 1, TN 5 -> precision 3/4, recall 3/4, F1 3/4, accuracy 8/10, yes 4/10
    rows = pope_rows("random", {("yes", "Yes"): 3, ("yes", "No"): 1, ("no", "Yes"): 1, ("no", "No"): 5})
    # popular: TP 4, FN 0, FP 4, TN 2 -> precision 1/2, recall 1, F1 2/3, accuracy 6/10, yes 8/10
    rows += pope_rows("popular", {("yes", "Yes"): 4, ("no", "Yes"): 4, ("no", "No"): 2})
    got = yes_no.pope(rows).figures
    assert next(iter(got)) == "f1"
    assert got["f1"].mean == pytest.approx(100 * (3 / 4 + 2 / 3) / 2)
    assert got["accuracy"].mean == pytest.approx(70)
    assert [
        got[f"{name}/random"].mean for name in ("f1", "accuracy", "precision", "recall", "yes ratio")
    ] == [pytest.approx(value) for value in (75, 80, 75, 75, 40)]
    assert [
        got[f"{name}/popular"].mean for name in ("f1", "accuracy", "precision", "recall", "yes ratio")
    ] == [pytest.approx(value) for value in (200 / 3, 60, 50, 100, 80)]
    assert (got["f1"].unit, got["f1"].n) == ("pictures", 4)
    assert got["f1"].low < got["f1"].mean < got["f1"].high


def test_pope_names_what_counts_as_yes():
    rows = [
        Answered("1", "no", "maybe"),
        Answered("2", "no", ""),
        Answered("3", "yes", "Yes"),
        Answered("4", "no", "no"),
    ]
    got = yes_no.pope(rows)
    assert got.figures["accuracy"].mean == 50
    assert (got.figures["f1"].unit, got.figures["f1"].n) == ("items", 4)
    assert got.problems == {
        "neither yes nor no in the answer: counts as yes": ["1"],
        "empty answer: counts as yes": ["2"],
    }
    with pytest.raises(UserError, match="'5': its truth is 'Yes'"):
        yes_no.pope([Answered("5", "Yes", "Yes")])


def test_pope_without_a_yes_is_zero():
    got = yes_no.pope([Answered("1", "yes", "no"), Answered("2", "no", "no")]).figures
    assert (got["f1"].mean, got["precision"].mean, got["recall"].mean, got["accuracy"].mean) == (0, 0, 0, 50)


def test_pope_of_llavas_answers(real_data):
    bench = real_data / "bench"

    def lines(name):
        return [json.loads(line) for line in (bench / name).read_text().splitlines()]

    questions = lines("pope_questions.jsonl")
    answers = {row["question_id"]: row["text"] for row in lines("pope_answers_llava-v1.5-13b.jsonl")}
    rows, counts = [], {}
    for category in ("random", "popular", "adversarial"):
        labels = lines(f"coco_pope_{category}.json")
        asked = [row for row in questions if row["category"] == category]
        cell = counts.setdefault(category, dict.fromkeys(("tp", "fp", "fn", "tn"), 0))
        for question, label in zip(asked, labels, strict=True):
            assert question["image"] == label["image"]
            answer = answers[question["question_id"]]
            meta = {"category": category, "image": question["image"]}
            rows.append(Answered(str(question["question_id"]), label["label"], answer, meta=meta))
            said = answer.strip().lower().rstrip(".")  # these answers are bare words
            assert said in ("yes", "no")
            cell[("t" if said == label["label"] else "f") + ("p" if said == "yes" else "n")] += 1
    got = yes_no.pope(rows)
    assert not got.problems
    f1s = []
    for category, cell in counts.items():
        f1 = 200 * cell["tp"] / (2 * cell["tp"] + cell["fp"] + cell["fn"])
        accuracy = 100 * (cell["tp"] + cell["tn"]) / sum(cell.values())
        f1s.append(f1)
        assert got.figures[f"f1/{category}"].mean == pytest.approx(f1)
        assert got.figures[f"accuracy/{category}"].mean == pytest.approx(accuracy)
    assert got.figures["f1"].mean == pytest.approx(sum(f1s) / 3)
    assert (got.figures["f1"].unit, got.figures["f1"].n) == ("pictures", 4)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        (" YES!", "yes"),
        ("I know", "other"),  # four letters hold no "no" yet
        ("It is", "other"),
        ("", "other"),
        ("know", "no"),
    ],
)
def test_mme_answer(answer, said):
    assert yes_no.mme_answer(answer) == said


def mme_rows(subtask: str, pictures: list[tuple[str, str]]) -> list[Answered]:
    """Two answers a picture; the truths are yes, then no."""
    rows = []
    for at, answers in enumerate(pictures):
        for truth, answer in zip(("yes", "no"), answers, strict=True):
            meta = {"category": subtask, "image": f"{at}.png"}
            rows.append(Answered(f"{subtask}{at}{truth}", truth, answer, meta=meta))
    return rows


def test_mme_by_hand():
    # existence: 4 pictures, 6 of 8 right, both on 2 -> 75 + 50
    rows = mme_rows("existence", [("Yes", "No"), ("yes", "no"), ("Yes", "Yes"), ("No", "No")])
    # OCR: 2 pictures, 3 of 4 right, both on 1 -> 75 + 50; a question's blank answer is wrong
    rows += mme_rows("OCR", [("Yes", "No"), ("Yes", "")])
    # code_reasoning: all right -> 200
    rows += mme_rows("code_reasoning", [("yes, it does", "no")])
    got = yes_no.mme(rows)
    means = {name: figure.mean for name, figure in got.figures.items()}
    assert means == {"perception": 250, "cognition": 200, "existence": 125, "OCR": 125, "code_reasoning": 200}
    assert list(means)[:2] == ["perception", "cognition"]
    assert got.figures["perception"].n == 6
    assert got.figures["perception"].low < 250 < got.figures["perception"].high
    assert got.problems["empty answer: counted as wrong"] == ["OCR1no"]
    assert sum(what.startswith("no questions of subtask") for what in got.problems) == 11


def test_mme_resamples_pictures_within_their_subtask():
    # Each subtask is certain, so that the sum is, whatever is drawn: drawing across subtasks would not be.
    rows = mme_rows("existence", [("Yes", "No")] * 3) + mme_rows("count", [("No", "Yes")] * 5)
    got = yes_no.mme(rows).figures["perception"]
    assert (got.mean, got.low, got.high) == (200, 200, 200)


def test_mme_refuses_what_is_no_pair():
    rows = mme_rows("existence", [("Yes", "No"), ("Yes", "No")])
    got = yes_no.mme(rows[:3])
    assert got.figures["existence"].n == 1
    assert got.problems["the picture's other question has no answer: left out"] == ["existence1yes"]
    with pytest.raises(UserError, match="whole pairs"):
        yes_no.mme(rows[:1])
    third = Answered("third", "yes", "yes", meta={"category": "existence", "image": "0.png"})
    with pytest.raises(UserError, match=r"'third': a third question on picture '0\.png'"):
        yes_no.mme([*rows, third])
    with pytest.raises(UserError, match=r"no subtask 'counts'\. Did you mean 'count'"):
        yes_no.mme(mme_rows("counts", [("Yes", "No")]))
    with pytest.raises(UserError, match="'x': its meta has no 'category'"):
        yes_no.mme([Answered("x", "yes", "yes")])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["Yes", "No", "?"]), st.sampled_from(["Yes", "No", ""])),
        min_size=1,
        max_size=6,
    ),
    st.randoms(),
)
def test_order_and_bounds(pictures, random):
    rows = mme_rows("existence", pictures)
    shuffled = random.sample(rows, len(rows))
    for metric, most in ((yes_no.mme, 200), (yes_no.pope, 100)):
        first, again = metric(rows).figures, metric(shuffled).figures
        for name, figure in first.items():
            assert figure.mean == pytest.approx(again[name].mean)
            assert 0 <= figure.low <= figure.high <= most + 1e-9
