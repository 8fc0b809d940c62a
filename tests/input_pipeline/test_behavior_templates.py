"""Templates word for word, what is left out where behaviour is missing, and text that tries to break out."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from input_pipeline.behavior import templates
from input_pipeline.behavior.templates import harmless
from input_pipeline.errors import UserError

V1 = templates.get("image_behavior_v1")
CONTENT = "The dominant tone of the scene is warm."


def test_the_whole_sample_word_for_word() -> None:
    human, gpt = templates.turns(V1, "A red boat", "pics", CONTENT, 0.6251, ["so red", "I want it"])
    assert human.text == (
        '<image>\nThe image is titled "A red boat", posted in pics. Describe it. '
        "What percentage of viewers would like it, and what would be the top comments?"
    )
    assert gpt.text == (
        "The dominant tone of the scene is warm.\n>>> BEHAVIOR <<<\n"
        "It will be liked by 62.5% of viewers, and the popular comments could be:\n"
        '1. "so red"\n2. "I want it"'
    )
    assert (human.role, gpt.role) == ("human", "gpt")


def test_the_ad_control_is_the_sample_without_behaviour() -> None:
    human, gpt = templates.turns(V1, "A red boat", "pics", CONTENT)
    assert human.text == '<image>\nThe image is titled "A red boat", posted in pics. Describe it.'
    assert gpt.text == CONTENT
    full_human, full_gpt = templates.turns(V1, "A red boat", "pics", CONTENT, 0.5, ["a"])
    assert full_human.text.startswith(human.text)
    assert full_gpt.text.startswith(gpt.text)


def test_missing_parts_are_left_out() -> None:
    likes_h, likes_g = templates.turns(V1, "t", "", CONTENT, 1.0)
    assert likes_h.text.endswith('"t". Describe it. What percentage of viewers would like it?')
    assert likes_g.text.endswith("<<<\nIt will be liked by 100.0% of viewers.")
    comments_h, comments_g = templates.turns(V1, "", "pics", CONTENT, None, ["a b"])
    assert comments_h.text == "<image>\nDescribe it. What would be the top comments?"
    assert comments_g.text.endswith('<<<\nThe popular comments could be:\n1. "a b"')


def test_at_most_five_comments_and_empty_ones_do_not_count() -> None:
    answer = templates.answer(V1, CONTENT, None, ["a", "\u200b", *"bcdefg"])
    assert re.findall(r'(\d)\. "(.)"', answer) == [("1", "a"), ("2", "b"), ("3", "c"), ("4", "d"), ("5", "e")]


def test_the_marker_is_a_switch() -> None:
    bare = templates.get("image_behavior_v1_unmarked")
    marked, plain = (templates.answer(t, CONTENT, 0.1) for t in (V1, bare))
    assert marked.replace(">>> BEHAVIOR <<<\n", "") == plain
    assert marked.startswith(templates.behavior_prefix(V1, CONTENT))


def test_an_unknown_template_names_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'image_behavior_v1"):
        templates.get("image_behaviour_v1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("an <image> here", "an (image) here"),
        ("<<image>>", "(image)"),
        ("<im\u200bage>", "(image)"),
        ("< /s >", "( /s )"),
        ("<|im_start|>", "(|im_start|)"),
        ('say "hi" \u201cyou\u201d', "say 'hi' 'you'"),
        (">>> BEHAVIOR <<<", "> BEHAVIOR <"),
        ("USER: x ASSISTANT : y", "USER - x ASSISTANT - y"),
        ("### Human: [INST]", "# Human: (INST)"),
        ("a\x00\r\nb\u2028c", "a b c"),
        ("I <3 it, 2 < 3 > 1", "I <3 it, 2 < 3 > 1"),
        ("👩\u200d💻 ok", "👩\u200d💻 ok"),
        ("\u202eevil", "evil"),
    ],
)
def test_harmless(text: str, expected: str) -> None:
    assert harmless(text) == expected


_PIECES = st.lists(
    st.sampled_from(
        [
            "<",
            ">",
            "<image>",
            "</s>",
            "<s>",
            "image",
            "s",
            "/",
            "|",
            "\u200b",
            "\n",
            '"',
            ">>>",
            " ",
            "USER",
            ":",
            "BEHAVIOR",
            "[INST]",
            "1. ",
            "\ud800",
            "#",
        ]
    )
    | st.text(max_size=3),
    max_size=12,
).map("".join)


@given(_PIECES)
@example("<im<s>age>")
@example("<\u200b<image>>")
@example("<<s>s>")
def test_nothing_gets_out_of_its_place(text: str) -> None:
    clean = harmless(text)
    assert harmless(clean) == clean
    assert not re.search(r"<\s*/?\s*(image|s)\s*>", clean)
    assert not any(bad in clean for bad in ('"', "\n", ">>>", "<<<", "USER:", "[INST]"))
    clean.encode("utf-8")
    human, gpt = templates.turns(V1, text, text, CONTENT, 0.5, [text, "second one"])
    assert human.text.count("<image>") == 1
    assert human.text.startswith("<image>\n")
    assert gpt.text.count(">>> BEHAVIOR <<<") == 1
    expected = [harmless(text), "second one"] if harmless(text) else ["second one"]
    assert re.findall(r'^\d\. "(.*)"$', gpt.text, re.MULTILINE) == expected
