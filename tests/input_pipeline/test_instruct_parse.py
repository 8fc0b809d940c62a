"""Teachers' answers: whatever is written either comes back as it was meant or is refused with a reason."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from input_pipeline.instruct import parse
from input_pipeline.instruct.parse import Pair, Unreadable

words = (
    st.text(st.characters(codec="utf-8", exclude_characters="=:`"), min_size=1).map(str.strip).filter(bool)
)
words = words.map(lambda text: "\n".join(line.strip() for line in text.splitlines()).strip()).filter(bool)


@given(
    st.lists(st.builds(Pair, words, words), min_size=1, max_size=6),
    st.sampled_from(["", "\n===", "\n===\n\n"]),
)
def test_what_is_written_is_read(pairs: list[Pair], end: str) -> None:
    plain = [Pair(one.question.replace("\r", "\n"), one.answer.replace("\r", "\n")) for one in pairs]
    assert parse.pairs(parse.write(plain) + end) == plain


@given(
    st.lists(st.sampled_from(["Question:", "Answer:", "===", "\n", " ", "x", "=", "```", "\r\n", ":"])).map(
        "".join
    )
)
def test_nothing_else_escapes(text: str) -> None:
    try:
        found = parse.pairs(text)
    except Unreadable as error:
        assert str(error) == str(error).strip() != ""
        return
    assert found
    assert all(pair.question.strip() and pair.answer.strip() for pair in found)
    assert not any("===" in part.split("\n") for pair in found for part in (pair.question, pair.answer))
    assert parse.pairs(parse.write(found)) == found


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (parse.pairs, parse.plain):
        with contextlib.suppress(Unreadable):
            assert read(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("Question:\nWhat?\n===\n", "question without an answer"),
        ("Answer:\nYes\n===", "answer without a question"),
        ("Question:\nWhat?\n===\nAnswer:\n\n===", "answer without text"),
        ("Question:\n===\nAnswer:\nYes", "question without text"),
        ("Question:\nWhat?\nAnswer:\nYes", "no === between question and answer"),
        ("One.\nTwo.\nQuestion:\nWhat?\n===\nAnswer:\nYes", "a block that is neither question nor answer"),
        ("Sure!\n===\nQuestion:\nWhat?\n===\nAnswer:\nYes", "a block that is neither question nor answer"),
        ("Question:\na\n===\nQuestion:\nb\n===\nAnswer:\nc", "question without an answer"),
        ("Question:\na\n===\nAnswer:\nb\n===\nAnswer:\nc", "answer without a question"),
        (
            "Question:\na\n===\nAnswer:\nb\n===\n===\nQuestion:\na",
            "a block that is neither question nor answer",
        ),
    ],
)
def test_reasons(text: str, reason: str) -> None:
    with pytest.raises(Unreadable, match=f"^{reason}$"):
        parse.pairs(text)


def test_forms_that_are_taken() -> None:
    pair = [Pair("What is it?", "A cup.\n\nIt is red.")]
    assert parse.pairs("Question: What is it?\n====\nAnswer: A cup.\n\nIt is red.\n===") == pair
    assert (
        parse.pairs("```\nQuestion:\r\nWhat is it?\r\n===\r\nAnswer:\r\nA cup.\r\n\r\nIt is red.\n```")
        == pair
    )


@pytest.mark.parametrize(
    "text",
    [
        "<think>What to ask?\n===\nQuestion: a\n</think>\n\nQuestion:\nWhat is it?\n===\nAnswer:\nA cup.",
        "**Question:**\nWhat is it?\n===\n**Answer:** A cup.\n===",
        "**Question**: What is it?\n===\n__Answer:__\nA cup.",
        "### Question 1:\nWhat is it?\n===\n### Answer 1:\nA cup.",
        "question: What is it?\n===\nanswer: A cup.",
        "Here is a conversation about the picture:\n\nQuestion:\nWhat is it?\n===\nAnswer:\nA cup.",
        "```\nHere it is.\nQuestion:\nWhat is it?\n===\nAnswer:\nA cup.\n===\n```",
    ],
)
def test_what_models_put_around_blocks_is_dropped(text: str) -> None:
    assert parse.pairs(text) == [Pair("What is it?", "A cup.")]
    assert parse.pairs("Question:\nBold?\n===\nAnswer:**Yes**, it is.")[0].answer == "**Yes**, it is."


@pytest.mark.parametrize(
    "around",
    [
        "<think>It is a cup, so {}</think>\n",
        "Sure! Here's a detailed description of the image:\n\n",
        "Here is a description of the picture:\n",
        "**Description**\n\n",
        "Description: ",
        "## Detailed image description\n",
        "**Description:** ",
    ],
)
def test_what_models_put_in_front_of_a_text_is_dropped(around: str) -> None:
    text = "The description of a cup stands on it: it is red.\n\nSure enough, it is."
    assert parse.plain(around + text) == text


def test_plain_text_has_no_blocks() -> None:
    assert parse.plain("```text\nA cup.\n```") == "A cup."
    for text in ("Question:\na\n===\nAnswer:\nb", "a\n===\nb", "Well.\nAnswer: b"):
        with pytest.raises(Unreadable, match="blocks"):
            parse.plain(text)
