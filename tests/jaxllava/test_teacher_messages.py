"""What names a request's answer in a cache."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jaxllava.teacher.messages import Message, Request

ASKED = Request("a", (Message("system", "s"), Message("user", "u", (b"picture",))))


def test_a_key_changes_no_answer() -> None:
    assert ASKED.identity("m") == replace(ASKED, key="b").identity("m")
    assert len(ASKED.identity("m")) == 64


@pytest.mark.parametrize(
    "other",
    [
        replace(ASKED, messages=ASKED.messages[1:]),
        replace(ASKED, messages=(*ASKED.messages[:1], Message("user", "u", (b"another",)))),
        replace(ASKED, messages=(*ASKED.messages[:1], Message("assistant", "u", (b"picture",)))),
        replace(ASKED, max_tokens=1),
        replace(ASKED, temperature=0.5),
        replace(ASKED, top_p=0.5),
        replace(ASKED, draw=1),
    ],
)
def test_what_an_answer_depends_on_is_in_its_name(other: Request) -> None:
    assert other.identity("m") != ASKED.identity("m") != ASKED.identity("n")
