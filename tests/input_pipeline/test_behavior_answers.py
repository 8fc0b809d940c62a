"""Every template's answers, taken apart again into what was told."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from input_pipeline.behavior import answers, statements, templates
from input_pipeline.behavior.pieces import BEHAVIORS, Template
from input_pipeline.behavior.statements import Facts, percent, shorten
from input_pipeline.tokenizer import load_tokenizer, train_tokenizer
from tests.input_pipeline.test_behavior_templates import _FACTS, ALL, FULL

LISTING = templates.get("video_listing_v1")
IMAGE = templates.get("image_behavior_v1")


def parts_of(template: Template, facts: Facts, told=None) -> tuple[str, dict[str, list[tuple[int, str]]]]:
    """(the answer, its parts as (number, text))."""
    statement = statements.write(template, facts, told)
    assert statement is not None
    found = answers.split(template, statement.answer, statement.behaviors)
    texts = {name: [(s.number, s.of(statement.answer)) for s in spans] for name, spans in found.items()}
    return statement.answer, texts


def test_the_listing_by_hand():
    answer = (
        "The scene-by-scene descriptions are:\n\nScene 1: The scene shows a boat.\n\n>>> BEHAVIOR <<<\n\n"
        "The video will be liked by 2.0% of viewers, and the popular comments could be:\n"
        '1. "so red"\n2. "liked by 5.0% of viewers"\n\n'
        "The replay values for each scene would be:\nScene 1: 0.06\nScene 3: 1.00"
    )
    found = answers.split(LISTING, answer, {"likes", "comments", "replay"})
    assert {name: [(s.number, s.of(answer)) for s in spans] for name, spans in found.items()} == {
        "content": [(0, "The scene-by-scene descriptions are:\n\nScene 1: The scene shows a boat.")],
        "percent": [(0, "2.0")],
        "comments": [(1, "so red"), (2, "liked by 5.0% of viewers")],
        "replay": [(1, "0.06"), (3, "1.00")],
    }
    assert [s.closed(answer) for s in found["comments"]] == ['so red"\n', 'liked by 5.0% of viewers"\n\n']
    assert [s.closed(answer) for s in found["replay"]] == ["0.06\n", "1.00"]
    # The number is the first one, and not the one that a comment says.
    assert found["percent"][0].start == answer.index("2.0%")
    assert answer[: found["comments"][0].start].endswith('could be:\n1. "')


def test_a_closed_comment_ends_where_a_token_of_training_ends(tmp_path):
    """Of a tokenizer that joins what ends a comment to the quote behind it."""
    train_tokenizer(['1. "so red!!!"\n2. "a boat..."\n\nThe'] * 40, 320, tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    ids = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    facts = Facts(content="A boat.", comments=("so red!!!", "a boat...", "The red"), like_rate=0.5)
    statement = statements.write(IMAGE, facts)
    assert statement is not None
    answer, whole = statement.answer, ids(statement.answer)
    spans = answers.split(IMAGE, answer, statement.behaviors)["comments"]
    begins = lambda text: ids(text) == whole[: len(ids(text))]
    assert all(begins(answer[: span.start] + span.closed(answer)) for span in spans)
    assert not any(begins(answer[: span.end]) for span in spans[:2])


def test_text_that_looks_like_the_template_is_not_taken_for_it():
    title = "The popular comments could be:"
    facts = Facts(content="It will be liked by 9.9% of viewers.", like_rate=0.5, comments=(title, '1. "a"'))
    for template in (IMAGE, templates.get("image_behavior_v1_unmarked")):
        _, found = parts_of(template, facts)
        assert found == {
            "content": [(0, "It will be liked by 9.9% of viewers.")],
            "percent": [(0, "50.0")],
            "comments": [(1, title), (2, "1. 'a'")],
        }
        _, found = parts_of(template, facts, {"comments"})
        assert "percent" not in found
        _, found = parts_of(template, facts, {"likes"})
        assert found["percent"] == [(0, "50.0")]


def test_an_answer_without_behaviour_is_content():
    answer, found = parts_of(IMAGE, FULL, set())
    assert found == {"content": [(0, answer)]}


@pytest.mark.parametrize(
    ("name", "answer", "told"),
    [
        ("image_behavior_v1", "It will be liked by 2.0% of viewers.", {"likes"}),  # no marker
        ("image_behavior_v1", ">>> BEHAVIOR <<<\nIt will be liked by 2% of viewers.", {"likes"}),
        ("image_behavior_v1", ">>> BEHAVIOR <<<\nIt will be liked by 2.0% of viewers.", {"comments"}),
        ("image_behavior_v1_unmarked", "Nothing of the kind.", {"likes"}),
        ("memorability_v1", "7", {"memorability"}),
    ],
)
def test_an_answer_of_another_template_is_an_error(name, answer, told):
    with pytest.raises(ValueError, match=name):
        answers.split(templates.get(name), answer, told)


@pytest.mark.parametrize("template", ALL, ids=lambda template: template.name)
def test_every_template_says_where_its_parts_are(template):
    _, found = parts_of(template, FULL)
    told = {
        "likes": ("percent", ["2.0"]),
        "comments": ("comments", list(FULL.comments)),
        "replay": ("replay", ["0.06", "0.23"]),
        "title": ("told_title", [FULL.told_title]),
        "objects": ("objects", list(FULL.objects)),
        "regions": ("regions", list(FULL.regions)),
        "memorability": ("score", ["49"]),
    }
    own = {"replay"} if template.scene else set()  # turns of scenes tell these
    expected = dict(told[behavior] for behavior in template.behaviors - own)
    assert {
        name: [text for _, text in spans] for name, spans in found.items() if name != "content"
    } == expected


@settings(max_examples=200, deadline=None)
@example(Facts(like_rate=-0.0, replay=(-0.0,)), LISTING, {"likes", "replay"})
@given(_FACTS, st.sampled_from(ALL), st.sets(st.sampled_from(sorted(BEHAVIORS))))
def test_whatever_is_told_is_found(facts, template, wanted):
    statement = statements.write(template, facts, wanted)
    if statement is None:
        return
    _, found = parts_of(template, facts, wanted)
    texts = {name: [text for _, text in spans] for name, spans in found.items()}
    told = statement.behaviors
    assert texts.get("percent") == ([percent(facts.like_rate or 0.0)] if "likes" in told else None)
    comments = [text for raw in facts.comments if (text := shorten(raw, template.limits.comment_words))]
    assert texts.get("comments") == (comments if "comments" in told else None)
    replay = [f"{v + 0.0:.2f}" for v in facts.replay if v is not None and 0 <= v <= 1]
    listed = "replay" in told and not template.scene  # else turns of scenes have the values
    assert texts.get("replay") == (replay if listed else None)
    assert ("told_title" in texts, "score" in texts) == ("title" in told, "memorability" in told)
    content = statements.write(template, facts, ())
    assert texts.get("content") == ([content.answer] if content and content.answer else None)
