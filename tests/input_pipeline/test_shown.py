"""What marks show: pictures, whole videos, one medium behind every question; and the table that holds it."""

from __future__ import annotations

import numpy as np
import pytest

from input_pipeline import token_table
from input_pipeline.asker import Asker
from input_pipeline.conversation import TEMPLATES
from input_pipeline.encoding import IGNORE
from input_pipeline.shown import evenly, question_text, shown
from input_pipeline.token_chunks import Job
from input_pipeline.types import Clip, Record, Turn


def record(*turns: str, images: int = 0, clips: tuple[tuple[int, int], ...] = ()) -> Record:
    made = [Turn("human" if i % 2 == 0 else "gpt", text) for i, text in enumerate(turns)]
    films = tuple(Clip(first, tuple(map(float, range(count)))) for first, count in clips)
    return Record("r", "instruct", (b"",) * images, tuple(made), clips=films)


def lists(seen) -> tuple[list[int], ...]:
    return tuple(values.tolist() for values in (seen.frames, seen.start, seen.count, seen.question))


def test_a_mark_is_a_picture_or_a_whole_clip() -> None:
    one = record("<image>\n<image>\nred", "a", "<image> blue", "b", images=7, clips=((1, 4), (6, 1)))
    assert one.media == [range(1), range(1, 5), range(5, 6), range(6, 7)]
    assert lists(shown(record("<image>\nred", "a", images=4, clips=((0, 4),)), TEMPLATES["v1"])) == (
        [0, 1, 2, 3], [0], [4], [0],
    )  # fmt: skip
    several = record("<image>\n<image>\nred", "a", "<image> blue", "b", images=6, clips=((1, 4),))
    assert lists(shown(several, TEMPLATES["v1"])) == ([0, 1, 2, 3, 4, 5], [0, 1, 5], [1, 4, 1], [0, 0, 1])
    # At most three frames of a video: the middles of thirds. A picture stays.
    assert lists(shown(several, TEMPLATES["v1"], 3)) == ([0, 1, 3, 4, 5], [0, 1, 4], [1, 3, 1], [0, 0, 1])


def test_every_question_has_the_medium_of_the_conversation() -> None:
    asked = record("red", "a", "blue\n<image>", "b", "green", "c", images=3, clips=((0, 3),))
    assert lists(shown(asked, TEMPLATES["imgsp_v1"])) == ([0, 1, 2], [0, 0, 0], [3, 3, 3], [0, 1, 2])
    assert lists(shown(asked, TEMPLATES["v1"])) == ([0, 1, 2], [0], [3], [1])
    assert shown(asked, TEMPLATES["imgsp_v1"]).slots == 9
    assert shown(record("red", "a"), TEMPLATES["imgsp_v1"]).slots == 0


@pytest.mark.parametrize(
    "wrong",
    [
        record("red", "a", images=1),
        record("<image> red", "a"),
        record("<image><image> red", "a", images=3),
        record("<image> red", "a", images=3, clips=((0, 2),)),
    ],
)
def test_marks_and_media_have_to_agree(wrong: Record) -> None:
    for template in ("v1", "imgsp_v1"):
        if template == "imgsp_v1" and len(wrong.media) == 1:
            continue
        with pytest.raises(ValueError, match="as many <image> marks"):
            shown(wrong, TEMPLATES[template])


def test_evenly() -> None:
    assert evenly(range(5, 9), 0) == evenly(range(5, 9), 4) == [5, 6, 7, 8]
    assert evenly(range(10), 3) == [1, 5, 8]
    assert evenly(range(1000), 1) == [500]


def test_a_question_is_the_turn_without_marks_and_line_ends() -> None:
    assert question_text("<image>\nWhat is\nit?") == "What isit?"
    assert question_text("What is it?\n<image>") == "What is it?"
    film = "<image>so he said<image><image>and went\nWho is he,\nand why?"
    assert question_text(film) == "Who is he,and why?"
    assert question_text("<image> and <image>: which?") == " and : which?"


def test_a_table_writes_out_slots(tokenizer, asker: Asker) -> None:
    records = [
        record("<image>\nred", "blue", "green", "red", images=3, clips=((0, 3),)),
        record("red cups", "blue"),
        record("<image>\nblue", "green", images=1),
    ]
    template = TEMPLATES["imgsp_v1"]
    table = token_table.build(Job(records, tokenizer, template, 2, 500, asker=asker))
    plain = token_table.build(Job(records, tokenizer, template, 2, 500))
    assert table.images.tolist() == [3, 0, 1] and table.slots.tolist() == [6, 0, 1]
    assert table.lengths.tolist() == [len(table[i]) for i in range(3)]
    assert table.turns.tolist() == [2, 1, 1] and plain.turns.tolist() == [0, 0, 0]
    first = table[0]
    assert first.slot_frame.tolist() == [0, 1, 2, 0, 1, 2]
    assert first.slot_question.tolist() == [0, 0, 0, 1, 1, 1]
    # With questions each slot has features of its own; without, both marks show the same ones.
    assert first.image_index[first.image_index >= 0].tolist() == list(range(12))
    seen = plain[0].image_index
    assert seen[seen >= 0].tolist() == [*range(6), *range(6)]
    for i, turn in enumerate(("red", "green")):
        np.testing.assert_array_equal(first.questions[i], asker(turn))
    for sample in (first, plain[0]):
        assert (sample.labels[sample.image_index >= 0] == IGNORE).all()
        assert (sample.tokens[sample.image_index >= 0] == table.image_id).all()
    supervised = lambda sample: tokenizer.decode(sample.labels[sample.labels != IGNORE])
    assert supervised(first) == supervised(plain[0]) and "blue" in supervised(first)


def test_a_cut_sample_keeps_its_slots(tokenizer, asker: Asker) -> None:
    long = record("<image>\nred", "blue " * 40, images=5, clips=((0, 5),))
    whole = token_table.build(Job([long], tokenizer, TEMPLATES["imgsp_v1"], 2, 500, asker=asker))
    cut = int(whole.lengths[0]) - 20
    table = token_table.build(Job([long], tokenizer, TEMPLATES["imgsp_v1"], 2, cut, asker=asker))
    assert table.lengths.tolist() == [cut] and table.slots.tolist() == [5]
    np.testing.assert_array_equal(table[0].tokens, whole[0].tokens[:cut])
    few = token_table.build(Job([long], tokenizer, TEMPLATES["imgsp_v1"], 2, cut, asker=asker, most_frames=2))
    assert few.slots.tolist() == [2] and few[0].frames.tolist() == [1, 3]
    lost = token_table.build(Job([long], tokenizer, TEMPLATES["imgsp_v1"], 40, 150, asker=asker))
    assert lost.skipped == {"its images do not fit into 150 tokens": 1}
