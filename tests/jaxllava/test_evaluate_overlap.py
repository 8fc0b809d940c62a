"""Lists as models write them, and ROUGE-L between lists by hand."""

from __future__ import annotations

import sys

import pytest

from input_pipeline.errors import UserError
from jaxllava.evaluate import overlap


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ('1. "so red"\n2. "I want it"', ["so red", "I want it"]),
        ("1.so red\n2) I want it\n", ["so red", "I want it"]),
        ("1. “so red” - a fan\n\n2. 'it's nice'", ["so red", "it's nice"]),
        ("- so red\n* it\n• that", ["so red", "it", "that"]),
        ('1. "cut in the mid', ["cut in the mid"]),
        ('1. ""\n2.\n3. "x"', ["x"]),
        ("1. red\n\nThe replay values for each scene would be:\nScene 1: 0.06", ["red"]),
        ("1. a\n2. b\n3. c\n4. d", ["a", "b", "c"]),
        ("A picture of a boat.\n1. red", []),
        ("1.", []),
        ("", []),
    ],
)
def test_lists_are_read_leniently(text, items):
    assert overlap.read_list(text, 3) == items


def test_rouge_l_by_hand():
    pair = overlap.rouge_l()
    # LCS "police kill the"? no: "police the gunman" has 3 of 4 words: P = R = 3/4 (Lin 2004, section 3.1).
    assert pair("police ended the gunman", "police killed the gunman") == pytest.approx(0.75)
    assert pair("the gunman kill police", "police kill the gunman") == pytest.approx(0.5)
    assert pair("Red!", "red") == 1
    assert pair("a b", "a b c") == pair("a b c", "a b") == pytest.approx(0.8)


def test_overlap_takes_the_best_of_each_side():
    table = {("x", "p"): 0.2, ("x", "q"): 0.6, ("y", "p"): 0.4, ("y", "q"): 0.5}
    got = overlap.overlap(["x", "y"], ["p", "q"], lambda one, other: table[one, other])
    assert got.precision == pytest.approx((0.6 + 0.5) / 2)
    assert got.recall == pytest.approx((0.4 + 0.6) / 2)
    assert got.f == pytest.approx(2 * 0.55 * 0.5 / 1.05)
    assert overlap.overlap(["x"], ["p"], lambda one, other: 0.0).f == 0


def test_every_post_is_dealt_another_of_its_kind():
    posts = [(f"{source}{i}", source, i % 2) for source in ("reddit", "youtube") for i in range(10)]
    dealt = overlap.donors(posts)
    assert dealt == overlap.donors(posts[::-1])
    assert set(dealt) == set(dealt.values()) == {name for name, *_ in posts}
    kinds = {name: kind for name, *kind in posts}
    assert all(name != other for name, other in dealt.items())
    assert sum(kinds[name] != kinds[other] for name, other in dealt.items()) == 4  # where circles meet
    assert overlap.donors(posts[:1]) == {}


def test_a_missing_library_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(UserError, match=r"pip install 'jaxllava\[eval\]'"):
        overlap.rouge_l()
