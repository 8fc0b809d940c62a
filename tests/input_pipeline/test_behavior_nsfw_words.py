"""The word list: words and phrases, whole and in any case, from our list or the user's."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from configs.prepare import get_config
from input_pipeline import recipe
from input_pipeline.behavior import clean, nsfw_words
from input_pipeline.behavior.rules import Rules
from input_pipeline.errors import UserError
from input_pipeline.types import Comment, Post

RULES = Rules()


def _post(*texts: str, **changes: Any) -> Post:
    comments = tuple(Comment(f"c{i}", text) for i, text in enumerate(texts))
    return changed(Post("p", "reddit", "A red boat", "RS:1", comments=comments), **changes)


def _texts(outcome: clean.Outcome) -> list[str]:
    assert outcome.post is not None
    return [comment.text for comment in outcome.post.comments]


def test_word_list_takes_out_posts_and_comments() -> None:
    outcome = clean.word_list(_post("a b c", title="Porn"), RULES)
    assert [(d.reason, d.comment_id, d.comments) for d in outcome.drops] == [
        ("NSFW word in the title", None, 1)
    ]
    outcome = clean.word_list(_post("what the FUCK man", "a cockatoo in Scunthorpe", "jerk  OFF"), RULES)
    assert _texts(outcome) == ["a cockatoo in Scunthorpe", "jerk  OFF"]
    assert [(d.reason, d.comment_id) for d in outcome.drops] == [("NSFW word", "c0")]
    assert _texts(clean.word_list(_post("do not jerk off, jerk", "a jerk"), RULES)) == ["a jerk"]


def test_the_users_word_list(tmp_path: Path) -> None:
    own = tmp_path / "words.txt"
    own.write_text("Red Boat\n\n  a$$ \nétoile\n:-X\n", encoding="utf-8")
    rules = replace(RULES, nsfw_words=str(own))
    assert clean.word_list(_post(), rules).post is None
    texts = (
        "you A$$!",
        "a$$et",
        "une ÉTOILE",
        "étoiles",
        "ha:-x",
        "ha :-x",
        "red  boats",
        "a fuck",
        "red boats",
    )
    assert _texts(clean.word_list(_post(*texts, title="Sea"), rules)) == [
        *("a$$et", "étoiles", "ha:-x", "red  boats", "a fuck", "red boats")
    ]


@pytest.mark.parametrize(
    ("data", "match"), [(None, "cannot be read"), (b"\xff\xfe", "cannot be read"), (b"\n \n", "is empty")]
)
def test_a_word_list_that_is_none_is_the_users_mistake(
    tmp_path: Path, data: bytes | None, match: str
) -> None:
    path = tmp_path / "words.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=match) as caught:
        clean.word_list(_post(), replace(RULES, nsfw_words=str(path)))
    assert "\n" not in str(caught.value)


_LISTED = st.text("abA$- _", min_size=1, max_size=4).map(str.strip).filter(bool)


@settings(max_examples=300, deadline=None)
@given(st.lists(_LISTED, min_size=1, max_size=4), st.text("abAB$- _", max_size=10))
def test_the_word_list_is_one_pattern(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "listed.txt"
    path.write_text("\n".join(words))
    nsfw_words.finder.cache_clear()
    expected = any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in words)
    assert nsfw_words.finder(str(path))(text) == expected


def test_a_list_that_was_changed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("boat\n")
    config: Any = recipe.plain(get_config())
    config["clean"]["nsfw_words"] = str(path)
    rules, _ = recipe.check(config)[:2]
    assert clean.word_list(_post(), rules).post is None
    path.write_text("ship\n")
    recipe.check(config)
    assert clean.word_list(_post(), rules).post is not None
