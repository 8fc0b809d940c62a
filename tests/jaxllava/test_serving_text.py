"""Texts of answers as their tokens come."""

from __future__ import annotations

import numpy as np
import pytest

from jaxllava.serving.text import Writing


@pytest.fixture(scope="module")
def decode(tokenizer):
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True))


def written(writing: Writing, ids: list[int]) -> list[str]:
    parts = []
    for token in ids:
        parts.append(writing.add(token))
        if writing.stopped:
            break
    return [*parts, writing.finish()]


def test_parts_are_the_whole(tokenizer, decode):
    """Of random tokens: halves of characters, spaces and specials among them."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        ids = rng.integers(0, len(tokenizer), rng.integers(1, 60)).tolist()
        writing = Writing(decode, ())
        assert "".join(written(writing, ids)) == writing.whole() == decode(ids).strip()


def test_parts_end_in_front_of_a_stop(tokenizer, decode):
    ids = tokenizer.encode("  one red cup, two blue ‘boats’ ###\n three \n", add_special_tokens=False)
    for stops, want in (
        (["two"], "one red cup,"),
        (["###", "boats"], "one red cup, two blue ‘"),
        (["never"], "one red cup, two blue ‘boats’ ###\n three"),
        ([" ", "one red cup"], "one"),
        (["\n three \n"], "one red cup, two blue ‘boats’ ###"),
    ):
        writing = Writing(decode, stops)
        assert "".join(written(writing, ids)) == writing.whole() == want
        assert writing.stopped == (stops != ["never"])


def test_what_may_be_a_stop_waits(tokenizer, decode):
    ids = [
        token for part in ("ab", "#", "#", "c") for token in tokenizer.encode(part, add_special_tokens=False)
    ]
    writing = Writing(decode, ["###"])
    parts = [writing.add(token) for token in ids]
    assert "".join(parts) == "ab##c" and parts[-1].endswith("##c") and "#" not in "".join(parts[:-1])
    # Half a character waits for the other half, and is told when the answer ends with it.
    writing = Writing(decode, [])
    half, rest = tokenizer.encode("é", add_special_tokens=False)
    assert writing.add(half) == "" and writing.add(rest) == "é"
    assert writing.add(half) == "" and writing.finish() == "\ufffd"
