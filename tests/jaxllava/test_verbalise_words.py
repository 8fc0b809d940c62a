"""How a model's answers become a caption and tags, whatever it writes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllava.verbalise.words import MOST_TAGS, parse_caption, parse_tags

# Pieces of what models write, so that random texts come near to real ones.
_PIECES = st.sampled_from(
    ["A man", "the image shows", "In this image,", "NASA", "dog", "Dog", "and", ", ", ". ", "\n", "1. ", "- ", '"',
     "Mr.", "…", "\x1b", "\ufffd", "Caption:", "Tags:", "красный", "赤い、", "; ", "3.5", "  ", "there are", "İ"]
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=200), st.lists(_PIECES, max_size=40).map(" ".join))


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("A man riding a wave on a surfboard.", "a man riding a wave on a surfboard"),
        ("The image shows a dog. It is happy.", "a dog"),
        ("In this image, there are two cats!", "two cats"),
        ("This is a black and white photo of a road.", "a road"),
        ("The scene is set in a kitchen.", "a kitchen"),
        ("The man in the image holds a cup.", "the man in the image holds a cup"),
        ('Caption: "Children play."', "children play"),
        ("\n\nA cup.\n\nA second paragraph.", "a cup"),
        ("Dr. J. Doe stands 3.5 meters away. Yes.", "Dr. J. Doe stands 3.5 meters away"),
        ("A sign that says what? Nobody knows", "a sign that says what"),
        ("Is this a cup?", "is this a cup"),
        ("NASA rocket on a pad", "NASA rocket on a pad"),
        ("McDonald's at night", "McDonald's at night"),
        ("Barack Obama speaks", "Barack Obama speaks"),
        ("The Eiffel Tower at night", "the Eiffel Tower at night"),
        ("Nike shoes with the Nike logo", "Nike shoes with the Nike logo"),
        ("Red shoes with a red logo", "red shoes with a red logo"),
        ("A cup and a cup and a cup and a cup and a", "a cup"),
        ("red red red red red red red", "red"),
        ("A dog very very happy", "a dog very very happy"),
        ("A \x1bdog\ufffd.", "a dog"),
        ("The image shows.", "the image shows"),
        ("...", ""),
        ("", ""),
    ],
)
def test_a_caption_goes_on_the_papers_sentence(answer, caption):
    assert parse_caption(answer) == caption


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_any_caption_is_one_bounded_line_without_a_stop(text):
    caption = parse_caption(text)
    assert caption == " ".join(caption.split()) and not caption.endswith((".", ",", "…", "?", "!"))
    assert len(caption.split(" ")) <= 100 and "\ufffd" not in caption and "\x1b" not in caption
    assert caption.lower() in " ".join(
        text.replace("\x1b", " ").replace("\ufffd", " ").split()
    ).lower() or any(not letter.isprintable() for letter in text), "it is a part of the answer"


@pytest.mark.parametrize(
    ("answer", "tags"),
    [
        ("dog, Cat, DOG, a tree, and sky.", ("dog", "cat", "a tree", "sky")),
        ("1. Man\n2. Car (red)\n3. man", ("man", "car (red)")),
        ("Tags: surf; wave", ("surf", "wave")),
        ("- beach\n- “sea”\n* **sun**", ("beach", "sea", "sun")),
        ("The image features a man who stands on a road, car", ("car",)),
        (", , ;\n, -- , !", ()),
        ("", ()),
        ("dog, " * 500, ("dog",)),
    ],
)
def test_tags_are_read_strictly(answer, tags):
    assert parse_tags(answer) == tags


def test_the_last_tag_of_an_answer_that_was_cut_is_left_out():
    assert parse_tags("dog, cat, dog, ca", cut=True) == ("dog", "cat")
    assert parse_tags("dog, cat, ", cut=True) == ("dog", "cat")


def test_there_are_no_more_than_the_templates_tell():
    assert len(parse_tags(", ".join(f"t{n}" for n in range(50)))) == MOST_TAGS == 20


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_any_tags_are_few_small_single_and_read_back_as_they_are(text):
    tags = parse_tags(text)
    assert len(tags) <= MOST_TAGS and len(set(tags)) == len(tags)
    for tag in tags:
        assert tag == tag.strip() == tag.lower() and any(map(str.isalnum, tag)) and len(tag) <= 50
        assert not set(tag) & set(",;\n\r|、\ufffd")
    assert parse_tags(", ".join(tags)) == tags
