"""VQA accuracies by the official rules: normalisation, agreement with ten people, GQA's exact match."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.errors import UserError
from jaxllava.evaluate.scoring import vqa
from jaxllava.evaluate.scoring.answered import Answered

# Worked out with the rules of vqaEval.py, by hand.
OFFICIAL = {
    "The dog.": "dog",
    "a RED  car": "red car",
    "two cats and none": "2 cats and 0",
    "eleven": "eleven",
    "1,000": "1000",  # a thousands comma: every mark goes
    "1,000 red-white": "1000 redwhite",
    "red,white": "red white",  # a mark between letters becomes a blank
    "red, white": "red white",  # a mark beside a blank goes
    "red-white": "red white",
    "2.5": "2.5",
    "5.": "5",
    ".5": ".5",
    "U.S.": "us",
    "dont": "don't",
    "couldntve": "couldntve",  # not in the table, which drops one apostrophe at a time
    "couldnt've": "couldn't've",
    "somebody'd": "somebodyd",  # (sic)
    "oclock": "o'clock",
    "it's": "it's",
    "what? (no)": "what no",
    "yes\nno\t": "yes no",
    "a": "",
}


@pytest.mark.parametrize(("answer", "normal"), OFFICIAL.items())
def test_official_normalisation(answer, normal):
    assert vqa.official(answer) == normal


def test_m4c_differs_in_commas_and_possessives():
    assert vqa.m4c("red,white") == "redwhite"
    assert vqa.official("red,white") == "red white"
    assert vqa.m4c("The dog's bowl?") == "dog 's bowl"
    assert vqa.m4c("The poster shows a 10% discount.") == "poster shows 10% discount"


def test_agreement_is_the_mean_over_left_out_people():
    for people, matches in itertools.product((2, 3, 10), range(11)):
        if matches > people:
            continue
        matching = [True] * matches + [False] * (people - matches)
        shares = [min(1, sum(matching[:at] + matching[at + 1 :]) / 3) for at in range(people)]
        assert vqa.agreement(matches, people) == pytest.approx(sum(shares) / people)
    assert vqa.agreement(3, 10) == pytest.approx(0.9)  # the well-known 0.3 steps of ten people
    assert vqa.agreement(4, 10) == 1


def ten(answer: str, times: int, other: str = "other") -> list[str]:
    return [answer] * times + [other] * (10 - times)


def test_vqav2_by_hand():
    rows = [
        Answered("1", ten("yes", 10), "Yes.", meta={"answer_type": "yes/no", "question_type": "is the"}),
        Answered("2", ten("2", 3), "two", meta={"answer_type": "number", "question_type": "how many"}),
        Answered("3", ten("red", 1), "red", meta={"answer_type": "other", "question_type": "what"}),
        Answered("4", ten("red", 2), "", meta={"answer_type": "other", "question_type": "what"}),
    ]
    got = vqa.vqav2(rows)
    assert next(iter(got.figures)) == "accuracy"
    assert got.figures["accuracy"].mean == pytest.approx(100 * (1 + 0.9 + 0.3 + 0) / 4)
    assert got.figures["accuracy/other"].mean == pytest.approx(15)
    assert got.figures["accuracy/how many"].mean == pytest.approx(90)
    assert got.problems == {"empty answer: matches what people left empty, if any": ["4"]}


def test_vqav2_leaves_unanimous_truths_as_they_are():
    # Where all ten agree the script does not touch the truths: "dog." is never met by a normalised answer.
    rows = [Answered("1", ["dog."] * 10, "dog.")]
    assert vqa.vqav2(rows).figures["accuracy"].mean == 0
    rows = [Answered("1", ["dog."] * 9 + ["cat"], "dog.")]
    assert vqa.vqav2(rows).figures["accuracy"].mean == 100
    # And only their punctuation: an article or a capital stays.
    assert vqa.vqav2([Answered("1", ten("the dog", 9), "the dog")]).figures["accuracy"].mean == 0


def test_submitted_answers_pass_the_processor_first():
    rows = [Answered("1", ten("redwhite", 9), "red,white")]
    assert vqa.vqav2(rows).figures["accuracy"].mean == 0
    assert vqa.vqav2(rows, submitted=True).figures["accuracy"].mean == 100


def test_vizwiz_takes_truths_as_they_are_and_its_own_apostrophes():
    rows = [
        Answered("1", ten("unanswerable", 8), "Unanswerable", meta={"answer_type": "unanswerable"}),
        Answered("2", ten("don’t", 8), "dont", meta={"answer_type": "other"}),
        Answered("3", ten("Dog.", 8), "Dog.", meta={"answer_type": "other"}),
        Answered("4", ten("couldn't", 8), "couldnt", meta={"answer_type": "straight"}),  # one of a few
    ]
    got = vqa.vizwiz(rows).figures
    assert got["accuracy/straight"].mean == 100
    assert got["accuracy/unanswerable"].mean == 100
    assert got["accuracy/other"].mean == 50


def test_textvqa_normalises_both_sides():
    rows = [Answered("1", ten("The Dog.", 3, "Cat"), "dog")]
    assert vqa.textvqa(rows).figures["accuracy"].mean == pytest.approx(90)
    with pytest.raises(UserError, match="'1': its truth has 2 answers"):
        vqa.textvqa([Answered("1", ["a", "b"], "a")])
    with pytest.raises(UserError, match="'1': its truth is not the list"):
        vqa.vqav2([Answered("1", "a", "a")])


def test_textvqa_question_of_every_prompt():
    prompts = [
        "What is it?\nReference OCR token: A, B\nAnswer the question.",
        "Reference OCR token: A, B\nWhat is it?\nAnswer the question.",
        "What is it?\nAnswer the question.",
        "OCR tokens: A. Question: What is it? Short answer:",
    ]
    assert {vqa.textvqa_question(prompt) for prompt in prompts} == {"what is it?"}
    with pytest.raises(ValueError, match="no TextVQA prompt"):
        vqa.textvqa_question("What is it?")


def test_textvqa_questions_of_the_real_file(real_data):
    for line in (real_data / "bench/textvqa_val_questions.jsonl").read_text().splitlines():
        prompt = json.loads(line)["text"]
        question = vqa.textvqa_question(prompt)
        assert question == prompt.split("\n")[0].lower()


def test_gqa_by_hand():
    rows = [
        Answered("1", "yes", "Yes.", meta={"structural": "verify", "semantic": "attr"}),
        Answered("2", "woman", "a woman", meta={"structural": "query", "semantic": "rel"}),
        Answered("3", "left", "left..", meta={"structural": "choose", "semantic": "rel"}),
        Answered("4", "cat", "cat", meta={"structural": "query", "semantic": "cat"}),
    ]
    got = vqa.gqa(rows).figures
    assert next(iter(got)) == "accuracy"
    assert {name: figure.mean for name, figure in got.items()} == {
        "accuracy": 75,
        "binary": 100,
        "open": 50,
        "structural/choose": 100,
        "structural/query": 50,
        "structural/verify": 100,
        "semantic/attr": 100,
        "semantic/cat": 100,
        "semantic/rel": 50,
    }
    assert list(vqa.gqa([Answered("1", "yes", "no")]).figures) == ["accuracy"]
    with pytest.raises(UserError, match="'5': its meta has no 'structural'"):
        vqa.gqa([*rows, Answered("5", "a", "a")])


WORDS = st.lists(st.sampled_from(["two", "a", "dont", "red,", "1,000", "x-y", "No.", "the", "?"]), max_size=5)


@settings(max_examples=40, deadline=None)
@given(WORDS)
def test_normalised_texts_are_in_lower_case_without_articles(words):
    for rule in (vqa.official, vqa.m4c):
        normal = rule(" ".join(words))
        assert normal == " ".join(normal.split()) == normal.lower()
        assert not {"a", "an", "the", "two", ","} & set(normal.split())
