"""The language of short texts, and that a doubtful or tiny text is never called foreign."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.behavior import language


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
