"""The language of short texts, and that a doubtful or tiny text is never called foreign."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from input_pipeline.behavior import clean, language
from input_pipeline.behavior.rules import Rules
from input_pipeline.types import Comment, Post


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the identifier must not use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("I would love to visit this place in the winter", "en"),
        ("I WOULD LOVE TO VISIT THIS PLACE IN THE WINTER", "en"),
        ("I Love It So Much Here", "en"),
        ("Wo wurde dieses schöne Foto aufgenommen?", "de"),
        ("¿Dónde está este lugar tan bonito?", "es"),
        ("Quel bel endroit, je veux\n\ny aller\r\nbientôt", "fr"),
        ("Какая красивая фотография моря", "ru"),
        ("この写真はとても美しいですね", "ja"),
    ],
)
def test_languages(text: str, code: str) -> None:
    found, sure = language.identify(text)
    assert found == code
    assert 0.5 < sure <= 1.01  # fastText rounds


@pytest.mark.parametrize("text", ["", "lol", "12345 67890 !!! ??? 1234", "so nice <3 <3", "  \n ", "😀" * 40])
def test_too_few_letters_say_nothing(text: str) -> None:
    assert language.identify(text) == ("", 0.0)
    assert not language.is_foreign(text, ("en",), 0.0)


@pytest.mark.parametrize(
    ("found", "score", "foreign"),
    [
        (("de", 0.5), 0.5, True),
        (("de", 0.49), 0.5, False),
        (("en", 0.99), 0.5, False),
        (("fr", 0.99), 0.5, False),
        (("", 0.0), 0.0, False),
    ],
)
def test_foreign_is_unwanted_and_sure(
    found: tuple[str, float], score: float, foreign: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language, "identify", lambda text: found)
    assert language.is_foreign("whatever", ("en", "fr"), score) == foreign


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_taken(text: str) -> None:
    code, sure = language.identify(text)
    assert (code == "" and sure == 0.0) or (code.isascii() and 2 <= len(code) <= 3 and 0 < sure <= 1.01)


def test_long_texts_are_judged_by_their_beginning() -> None:
    english = "I would love to visit this place in the winter. "
    assert language.identify(english * 2000) == language.identify((english * 2000)[:1000])


# --- the step -------------------------------------------------------------------------------------


def _rules(*languages: str) -> Rules:
    return replace(Rules(), reddit=replace(Rules().reddit, languages=languages))


ENGLISH = _rules("en")


def _post(*texts: str, **changes: Any) -> Post:
    comments = tuple(Comment(f"c{i}", text) for i, text in enumerate(texts))
    return changed(Post("p", "reddit", "A red boat", "RS:1", comments=comments), **changes)


def _texts(outcome: clean.Outcome) -> list[str]:
    assert outcome.post is not None
    return [comment.text for comment in outcome.post.comments]


def _unchanged(outcome: clean.Outcome, post: Post) -> bool:
    return outcome.post == post and not outcome.drops


def test_in_language_takes_out_what_is_surely_foreign() -> None:
    english, german = "I have seen this harbour many times", "Ich habe diesen Hafen schon oft gesehen"
    outcome = clean.in_language(_post(english, german, "lol", "So schön!", title=english), ENGLISH)
    assert _texts(outcome) == [english, "lol", "So schön!"]
    assert [(d.step, d.reason, d.comment_id) for d in outcome.drops] == [
        ("language", "in another language", "c1")
    ]
    gone = clean.in_language(_post(german, german, title="Der alte Hafen bei Nacht"), ENGLISH)
    assert [(d.reason, d.comment_id, d.comments) for d in gone.drops] == [("in another language", None, 2)]
    both = _rules("en", "de")
    assert _texts(clean.in_language(_post(english, german), both)) == [english, german]


def test_a_post_is_judged_with_its_comments() -> None:
    english = "I have seen this harbour many times"
    title = "Der alte Hafen bei Nacht"
    assert clean.in_language(_post(title=title), ENGLISH).post is None
    assert clean.in_language(_post(*[english] * 9, title=title), ENGLISH).post is not None


def test_without_wanted_languages_or_certainty_all_stay() -> None:
    post = _post("Ich habe diesen Hafen schon oft gesehen", title="Der alte Hafen bei Nacht")
    assert _unchanged(clean.in_language(post, Rules()), post)
    never = replace(ENGLISH, language_score=1.01)
    assert _unchanged(clean.in_language(post, never), post)
