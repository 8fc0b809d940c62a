"""What is taken of a teacher's answers, and what is not and why."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from input_pipeline.instruct import checks, draws, parse, posts, prompts, wording
from input_pipeline.instruct.checks import KINDS, Known
from input_pipeline.instruct.parse import Pair

REAL = Path(os.environ.get("JAXLLAVA_REAL_DATA", Path(__file__).parents[3] / "shared/data")) / "llava"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no real sample data")

CAPS = "A red cup stands on a table.\nA cup and two plates."
GOOD = [
    Pair("What is on the table?", "There is a red cup on the table."),
    Pair("How many plates are there?", "There are two plates beside the cup."),
]
LONG = (
    "A red cup stands on a wooden table, and beside it there are two plates. The cup is on the left, close to the "
    "edge, and the plates are in the middle. Nothing else can be seen on the table."
)
TOLD = Known(CAPS)


def read(pairs: list[Pair], kind: str = "conversation", known: Known = TOLD, finish: str = "stop", **rules):
    return checks.read(parse.write(pairs), finish, replace(KINDS[kind], **rules), known)


def test_a_good_answer_is_taken_as_it_is() -> None:
    assert read(GOOD) == GOOD
    assert checks.read(LONG, "stop", KINDS["detail"], Known(CAPS), "Describe it.") == [
        Pair("Describe it.", LONG)
    ]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("The caption says that it is red and round.", "speaks of what it was told as of a text"),
        ("It is red, as stated in the description of it.", "speaks of what it was told as of a text"),
        ("According to the given information it is a red cup.", "speaks of what it was told as of a text"),
        ("The second sentence mentions that there are plates.", "speaks of what it was told as of a text"),
        ("The cup stands there, as the coordinates show.", "speaks of what it was told as of a text"),
        ("The bounding box of the cup lies on the left.", "speaks of what it was told as of a text"),
        ("It lies at [0.12, 0.3, 0.4, 0.56] in the picture.", "tells coordinates"),
        ("The cup reaches from 0.123 to 0.456 of the width.", "tells coordinates"),
        ("As an AI language model I do not know what is there.", "refused"),
        ("I'm sorry, but I can't tell what it is.", "refused"),
        ("Look here: <image> there is the cup.", "a control token in it"),
        ("word " * 601, "answer of too many words"),
        (
            "Auf dem Tisch steht eine rote Tasse, und daneben liegen zwei Teller aus Porzellan.",
            "in another language",
        ),
    ],
)
def test_bad_answers(answer: str, reason: str) -> None:
    # The good pair is short beside the German one, which decides.
    pairs = [GOOD[1], Pair("What is there?", answer)] if "language" not in reason else [
        Pair("What is on it?", answer), Pair("What else?", answer + " Sonst ist nichts zu sehen.")
    ]  # fmt: skip
    assert read(pairs) == reason


@pytest.mark.parametrize(
    "answer",
    [
        "The dove is symbolic of peace, and her shoes coordinate well with the bag.",
        "She coordinates the team, and reads the information provided by the sign.",
        "It is not possible to say that with certainty from this picture.",
        "The sentence on the wall is hard to read, as is the text below it.",
        "The boxes on the left are full, and a description in chalk stands above them.",
        "Tickets cost from 0.5 to 12 dollars.",
    ],
)
def test_words_that_only_look_like_sources(answer: str) -> None:
    assert isinstance(read([GOOD[0], Pair("What else is there?", answer)]), list)


def test_other_reasons() -> None:
    assert read(GOOD, finish="length").startswith("cut")
    assert read(GOOD[:1]) == "too few questions"
    assert read(GOOD, "complex") == "too many questions"
    assert read([*GOOD, Pair("what is on the  table?", "A cup it is.")]) == "the same question twice"
    assert checks.read("Sorry, no.", "stop", KINDS["detail"], Known(CAPS), "Describe it.") == "refused"
    assert (
        checks.read("A cup.", "stop", KINDS["detail"], Known(CAPS), "Describe it.")
        == "answer of too few words"
    )
    copied = Known(CAPS, frozenset([" ".join(parse.write(GOOD).split())]))
    assert read(GOOD, known=copied) == "an example told again"
    assert read(GOOD, languages=("de",)) == "in another language"
    assert read(GOOD, languages=()) == GOOD


def test_what_is_said_to_the_one_who_asked_is_not_taken() -> None:
    describe = lambda text: checks.read(text, "stop", KINDS["detail"], TOLD, "Describe it.")
    for text in (
        f"Certainly! {LONG}",
        f"Of course. Here is a full description of the picture. {LONG}",
        f"{LONG}\n\nLet me know if you would like me to adjust this description!",
        f"{LONG} If you'd like more details, just ask.",
    ):
        assert describe(text) == "speaks to the one who asked for it"
    assert (
        describe(f"Based on the details you shared, this is a cup. {LONG}")
        == "speaks of what it was told as of a text"
    )
    for text in (
        f"{LONG} The sign says: let me know what you want.\nIt is red.",
        f"Sure enough, it is a cup. {LONG}",
    ):
        assert isinstance(describe(text), list)
    ends = [GOOD[0], replace(GOOD[1], answer=GOOD[1].answer + " Let me know if you'd like more questions!")]
    assert read(ends) == "speaks to the one who asked for it"
    assert read([GOOD[0], replace(GOOD[1], answer="Sure! " + GOOD[1].answer)])[1].answer.startswith("Sure!")
    assert read([GOOD[0], replace(GOOD[1], answer="<think>Plates?</think> Two.")]) == "a control token in it"


def test_words_of_the_picture_itself_and_wanted_coordinates_are_taken() -> None:
    meme = [GOOD[0], Pair("What does it say?", "It has a caption at the top in large white letters.")]
    assert read(meme) == "speaks of what it was told as of a text"
    assert read(meme, known=Known("A meme with a funny caption.")) == meme
    places = [
        GOOD[0],
        Pair("Give the coordinates of the cup.", "The bounding box is [0.12, 0.3, 0.4, 0.56]."),
    ]
    assert isinstance(read(places), str)
    assert read(places, coordinates=True) == places


@pytest.mark.parametrize(
    ("text", "strange"),
    [
        ("62.5% liked it, 63% or so", []),
        ("62.4% liked it", ["62.4"]),
        ("scene 2 has 0.8", []),
        ("a value of 1", ["1"]),
        ("1,200 likes", []),
        ("1,300 likes", ["1,300"]),
        ("no number, twice", []),
        ("the 2 of them, at 4K and 3d", ["4", "3"]),
    ],
)
def test_numbers_must_be_known(text: str, strange: list[str]) -> None:
    known = checks.numbers_of("Liked by 62.5%. Replay value of scene 2: 0.83. Likes: 1200")
    assert checks.unknown_numbers(text, known) == strange


def test_our_prompts_pass_our_own_checks() -> None:
    rules = {**KINDS, **posts.RULES}
    for kind, prompt in prompts.load(None, prompts.FOLDERS).items():
        assert prompt.examples
        for asked, told in prompt.examples:
            assert isinstance(checks.read(told, "stop", rules[kind], Known(asked), "Describe it."), list), (
                kind,
                told,
            )


def test_there_are_as_many_instructions_as_the_paper_has() -> None:
    assert (len(set(wording.DETAIL)), len(set(wording.BRIEF))) == (16, 11)


def test_draws_stay_when_there_is_more() -> None:
    ratio = {**draws.PAPER}
    ids = [str(number) for number in range(4000)]
    drawn = {name: draws.kinds(name, ratio, 0) for name in ids}
    counts = {kind: sum(kind in found for found in drawn.values()) for kind in ratio}
    assert counts["complex"] == 4000
    assert counts["conversation"] / 4000 == pytest.approx(58 / 77, abs=0.03)
    assert counts["detail"] / 4000 == pytest.approx(23 / 77, abs=0.03)
    # Each kind is drawn by itself.
    detail = [found for found in drawn.values() if "detail" in found]
    assert sum("conversation" in found for found in detail) / len(detail) == pytest.approx(58 / 77, abs=0.05)
    assert {name: draws.kinds(name, ratio, 1) for name in ids} != drawn
    assert draws.balanced({"conversation": 580, "detail": 230, "complex": 900}, ratio) == {
        "conversation": 580, "detail": 230, "complex": 770
    }  # fmt: skip
    assert draws.balanced({"conversation": 0, "detail": 23, "complex": 100}, ratio) == {
        "detail": 23,
        "complex": 77,
    }
    assert draws.balanced({}, ratio) == {}


@needs_real
def test_the_release() -> None:
    kinds = {"conversation": "conversation", "detail_description": "detail"}
    for prompt in prompts.load(REAL / "prompts", tuple(kinds.values())).values():
        assert len(prompt.examples) in (2, 3)
    for folder, kind in kinds.items():
        for told in sorted((REAL / "prompts" / folder).glob("*_conv.txt")):
            caps = told.with_name(told.name.replace("_conv", "_caps")).read_text()
            assert isinstance(
                checks.read(told.read_text(), "stop", KINDS[kind], Known(caps), "Describe it."), list
            )
    # GPT-4's answers to single questions are all taken.
    rows = [json.loads(line) for line in (REAL / "coco2014_val_gpt4_qa.jsonl").read_text().splitlines()]
    for row in rows:
        kind = {"conv": "conversation"}.get(row["type"], row["type"])
        rules = KINDS[kind] if kind == "detail" else replace(KINDS[kind], pairs=(1, 1))
        text = row["output"] if kind == "detail" else parse.write([Pair(row["instruction"], row["output"])])
        assert isinstance(checks.read(text, "stop", rules, Known(""), row["instruction"]), list), row
    assert len(rows) == 45
