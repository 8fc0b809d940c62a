"""Every template word for word, what is left out where facts are missing, and how long texts are cut.

The texts in goldens/templates say what each template writes. After a wanted change (which needs a new template
name, unless nobody has used it yet), `python -m tests.input_pipeline.test_behavior_templates` writes them anew.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Collection
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.behavior import statements, templates
from input_pipeline.behavior.harmless import harmless
from input_pipeline.behavior.pieces import BEHAVIORS, Template, texts
from input_pipeline.behavior.statements import CUT, REGIONS, Facts, replay_of, shorten
from input_pipeline.errors import UserError
from input_pipeline.types import Comment, Post, Scene, Span, Turn

GOLDENS = Path(__file__).parent / "goldens" / "templates"
ALL = list(templates.TEMPLATES.values())
V1 = templates.get("image_behavior_v1")
LISTING = templates.get("video_listing_v1")
NONE: frozenset[str] = frozenset()
CONTENT = "The dominant tone of the scene is warm."
SCENES = (
    Scene(
        "a red boat on a lake.",
        0,
        4,
        ("boat", "lake"),
        ("mud green", "Off_White"),
        ("black",),
        "warm",
        "SALE",
    ),
    Scene("two people who laugh", 4, 9.5, ("people",), ("tan",), (), "neutral"),
)
FULL = Facts(
    title="A red boat",
    community="Boatmakers",
    asr="Come and buy a boat.",
    content=CONTENT,
    scenes=SCENES,
    told_title="A red boat",
    like_rate=0.02,
    comments=("so red", "I want it", "where is it?"),
    replay=(0.061, 0.23),
    duration=9.5,
    orientation="landscape",
    pace="low",
    objects=("dog", "frisbee", "car"),
    regions=tuple(reversed(REGIONS)),
    score=0.49,
)


def rendered(template: Template, facts: Facts, behaviors: Collection[str] | None = None) -> tuple[Turn, Turn]:
    turns = statements.render(template, facts, behaviors)
    assert turns is not None
    return turns


# --- word for word -----------------------------------------------------------------------------------------


def golden(template: Template) -> str:
    """What a template writes, in all its forms."""
    forms = {"everything": (FULL, None), "no behaviour": (FULL, NONE)}
    if len(template.behaviors) > 1:
        forms |= {f"only {name}": (FULL, frozenset({name})) for name in sorted(template.behaviors)}
    bare = Facts(
        told_title="x", like_rate=1.0, comments=("so red",), objects=FULL.objects, regions=FULL.regions
    )
    forms["no words"] = (replace(bare, replay=(0.5,), score=0.0), None)
    parts = [f"source: {template.source}", f"system: {template.system}"]
    for form, (facts, behaviors) in forms.items():
        parts.append(f"=== {form}")
        turns = statements.render(template, facts, behaviors)
        parts += [f"--- {turn.role}\n{turn.text}" for turn in turns] if turns else ["nothing"]
    return "\n".join(parts) + "\n"


@pytest.mark.parametrize("template", ALL, ids=lambda template: template.name)
def test_every_template_is_as_it_was(template: Template) -> None:
    assert golden(template) == (GOLDENS / f"{template.name}.txt").read_text()


def test_there_is_no_golden_of_a_template_that_is_gone() -> None:
    assert {path.stem for path in GOLDENS.glob("*.txt")} == set(templates.TEMPLATES)


def test_the_listing_letter_for_letter() -> None:
    scenes = (
        Scene("c1", 0, 1, ("t1", "t2"), ("red", "mud green"), ("black", "tan"), "cool"),
        Scene("c2", 1, 2, ("t3",), ("pink",), ("olive",), "warm"),
    )
    facts = Facts(
        title="TITLE",
        community="BRAND",
        asr="ASR",
        scenes=scenes,
        like_rate=0.02,
        comments=tuple("abcde"),
        replay=(0.06, 0.23),
    )
    human, gpt = rendered(LISTING, facts)
    assert human.text == (
        'The video advertisement is titled "TITLE" for the brand BRAND. The audio in the ad says "ASR". Analyze this '
        "video deeply, then write scene by scene description of the video and answer the following questions. What "
        "percentage of viewers would like this video, and what would be the top-5 popular comments on this video? "
        "What would the replay graph values for each scene be?\n<image>"
    )
    assert (
        gpt.text
        == """The scene-by-scene descriptions are:

Scene 1: The scene shows c1. The foreground colors of the scene are red, mud green, and the background colors are \
black, tan. The dominant tone of the scene is cool. This scene is categorized by the tags: t1, t2.
Scene 2: The scene shows c2. The foreground colors of the scene are pink, and the background colors are olive. \
The dominant tone of the scene is warm. This scene is categorized by the tags: t3.

>>> BEHAVIOR <<<

The video will be liked by 2.0% of viewers, and the popular comments could be:
1. "a"
2. "b"
3. "c"
4. "d"
5. "e"

The replay values for each scene would be:
Scene 1: 0.06
Scene 2: 0.23"""
    )


def test_the_image_sample_word_for_word() -> None:
    facts = Facts(
        title="A red boat",
        community="pics",
        content=CONTENT,
        like_rate=0.6251,
        comments=("so red", "I want it"),
    )
    human, gpt = rendered(V1, facts)
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


def test_lambdas_questions_are_as_its_authors_wrote_them() -> None:
    folder = Path(os.environ.get("JAXLLAVA_REAL_DATA", Path(__file__).parents[3] / "shared/data"))
    path = folder / "lambda" / "bs_test_q.part.json"
    if not path.is_file():
        pytest.skip("no real data here: set JAXLLAVA_REAL_DATA")
    head = re.compile(
        r"(?s)(.*?They watch a (\d+) second advertisement for (.*?)\. The title of the advertisement is "
        r"\"(.*?)\"\. The ad is shot in (\w+) orientation, at a (\w+) pace\. )The audio.*?(Following are the "
        r"descriptions of each scene: Scene 1: The scene shows ).*?(Return the long.*)"
    )
    compared = 0
    for row in json.loads(path.read_text()):
        if not (found := head.fullmatch(row["question"])):
            continue
        start, duration, brand, title, orientation, pace, scenes, end = found.groups()
        if '"' in title or harmless(title) != title:
            continue
        facts = Facts(
            title,
            brand,
            scenes=SCENES,
            duration=float(duration),
            orientation=orientation,
            pace=pace,
            score=0.5,
        )
        asked = statements.ask(templates.get("memorability_v1"), facts)
        assert asked.startswith(start + scenes)
        assert asked.endswith(end)
        compared += 1
    assert compared > 15


# --- the data ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ALL, ids=lambda template: template.name)
def test_templates_name_only_what_there_is(template: Template) -> None:
    assert template.behaviors <= BEHAVIORS
    assert template.source
    known = BEHAVIORS | {"behavior", "scenes", "content"}
    scene = template.scene
    own = (scene.opening, scene.question, scene.answer, scene.closing) if scene else ()
    for piece in (template.question, template.content, template.behavior, *own):
        for text in texts(piece):
            assert set(text.when) <= known
    statement = statements.write(template, FULL)
    assert statement is not None
    assert statement.behaviors == template.behaviors  # the full facts know all
    text = "".join(turn.text for turn in statement.turns)
    assert text.count("<image>") == (len(SCENES) if scene else 1)
    assert not re.search(r"[{}]", text)


def test_an_unknown_template_names_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'image_behavior_v1"):
        templates.get("image_behaviour_v1")


def test_an_unknown_behaviour_is_an_error() -> None:
    with pytest.raises(ValueError, match="'like'"):
        statements.render(V1, FULL, {"like"})


# --- what is left out --------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ALL, ids=lambda template: template.name)
def test_the_control_is_the_sample_without_behaviour(template: Template) -> None:
    known = replace(FULL, scenes=()) if template.scene else FULL
    full, control = statements.write(template, known), statements.write(template, known, NONE)
    assert full is not None
    if control is None:
        assert statements.prefix(template, known) == ""  # no content to tell
        return
    prefix = statements.prefix(template, known)
    assert full.answer.startswith(prefix)
    assert prefix.startswith(control.answer)
    assert prefix.removeprefix(control.answer).strip() == template.marker
    said = full.answer.removeprefix(prefix)
    assert "liked" in said or "votes" in said or "titled" in said or "replay" in said or "comments" in said
    # Of the question, sentences about behaviour go and nothing is added.
    rest = iter(full.question)
    assert all(character in rest for character in control.question)
    assert not re.search(r"\?|comment|like|vote|replay|following questions", control.question)
    assert statements.write(template, replace(known, like_rate=None, comments=("z",)), NONE) == control


def test_a_scene_s_turn_tells_of_the_audience_only_what_is_known_of_that_scene() -> None:
    template = templates.get("film_turns_v1")
    full, control = statements.write(template, FULL), statements.write(template, FULL, NONE)
    assert full is not None and control is not None
    assert statements.prefix(template, FULL) == ">>> BEHAVIOR <<<\n"
    assert [number for number, *_ in full.by_scene] == [1, 2]
    # Without behaviour sentences go and none is added, and there is no last turn.
    assert [(n, q.removesuffix(" What would its replay value be?"), a.partition(" Replay")[0])
            for n, q, a in full.by_scene] == list(control.by_scene)  # fmt: skip
    assert control.answer == "" and [turn.role for turn in control.turns] == ["human", "gpt"] * 2
    partly = statements.write(
        template, replace(FULL, replay=(None, 0.5), like_rate=None), {"likes", "replay"}
    )
    assert partly is not None and partly.behaviors == {"replay"}
    (_, first, said), (_, second, value) = partly.by_scene
    assert "replay" not in (first + said).lower() and second.endswith("What would its replay value be?")
    assert value.endswith("laugh. Replay value: 0.50") and partly.answer == ""
    assert full.by_scene[0][1].startswith('The video is titled "A red boat".\n<image>\nScene 1')
    assert "titled" not in full.by_scene[1][1] + full.question


def test_missing_parts_are_left_out() -> None:
    likes_h, likes_g = rendered(V1, Facts("t", content=CONTENT, like_rate=1.0))
    assert likes_h.text.endswith('"t". Describe it. What percentage of viewers would like it?')
    assert likes_g.text.endswith("<<<\nIt will be liked by 100.0% of viewers.")
    facts = Facts(community="pics", content=CONTENT, comments=("a b",))
    comments_h, comments_g = rendered(V1, facts)
    assert comments_h.text == "<image>\nDescribe it. What would be the top comments?"
    assert comments_g.text.endswith('<<<\nThe popular comments could be:\n1. "a b"')


def test_an_ablation_is_the_sample_of_a_post_that_has_no_more() -> None:
    for name, without in (
        ("likes", replace(FULL, comments=(), replay=())),
        ("comments", replace(FULL, like_rate=None, replay=())),
        ("replay", replace(FULL, like_rate=None, comments=())),
    ):
        assert statements.render(LISTING, FULL, {name}) == statements.render(LISTING, without)
        assert statements.render(templates.get(f"{name}_v1"), FULL) == statements.render(LISTING, without)


def test_at_most_five_comments_and_empty_ones_do_not_count() -> None:
    _, gpt = rendered(V1, Facts(comments=("a", "\u200b", *"bcdefg")))
    assert re.findall(r'(\d)\. "(.)"', gpt.text) == [
        ("1", "a"),
        ("2", "b"),
        ("3", "c"),
        ("4", "d"),
        ("5", "e"),
    ]


def test_a_post_with_only_empty_comments_is_not_asked_for_them() -> None:
    human, _ = rendered(V1, Facts(like_rate=0.1, comments=("\u200b", " ")))
    assert "comments" not in human.text


def test_nothing_to_answer_gives_nothing() -> None:
    assert [statements.render(template, Facts(title="t", asr="a", community="c")) for template in ALL] == [
        None
    ] * len(ALL)


def test_the_marker_is_a_switch() -> None:
    for name in ("image_behavior_v1", "video_listing_v1"):
        marked, plain = (statements.write(templates.get(n), FULL) for n in (name, f"{name}_unmarked"))
        assert marked and plain
        assert marked.question == plain.question
        assert marked.answer.replace(f">>> BEHAVIOR <<<{templates.get(name).gap}", "") == plain.answer


def test_a_title_that_is_to_be_predicted_is_not_in_the_question() -> None:
    statement = statements.write(templates.get("title_v1"), replace(FULL, title="Zebra", told_title="Zebra"))
    assert statement is not None
    assert "Zebra" not in statement.question
    assert statement.answer.endswith('\n\nIt would be titled "Zebra".')


def test_a_question_can_be_asked_before_the_answer_is_known() -> None:
    unknown = replace(FULL, like_rate=None, comments=(), replay=(), told_title="", score=None)
    for template in ALL:
        statement = statements.write(template, FULL)
        assert statement is not None
        if template.name != "salicon_objects_v1":
            assert statements.ask(template, unknown) == statement.question


def test_numbers_out_of_range_are_not_known() -> None:
    for bad in (float("nan"), -0.1, 1.1, float("inf")):
        facts = Facts(
            content=CONTENT, scenes=SCENES, like_rate=bad, replay=(bad, None), score=bad, duration=-bad
        )
        for template in ALL:
            statement = statements.write(template, facts)
            assert statement is None or not statement.behaviors


def test_an_order_of_saliency_needs_something_to_order() -> None:
    assert statements.render(templates.get("salicon_objects_v1"), Facts(objects=("dog", "dog"))) is None
    assert statements.render(templates.get("salicon_regions_v1"), Facts(regions=REGIONS[:8])) is None


# --- scenes and replay -------------------------------------------------------------------------------------


def test_replay_is_the_highest_value_over_a_scene() -> None:
    graph = (Span(0, 2, 0.1), Span(2, 4, 0.9), Span(4, 6, 0.2), Span(6, 8, float("nan")))
    assert replay_of(Scene(start=0, end=2), graph) == 0.1  # a span that ends where another begins is not met
    assert replay_of(Scene(start=1, end=5), graph) == 0.9
    assert replay_of(Scene(start=4.5, end=4.5), graph) == 0.2
    assert replay_of(Scene(start=6, end=8), graph) is None
    assert replay_of(Scene(start=8, end=9), graph) is None
    assert replay_of(Scene("no times"), graph) is None
    assert replay_of(Scene(start=0, end=2), ()) is None


@pytest.mark.parametrize(
    ("graph", "start", "end", "value"),
    [
        (((0, 2, 0.9), (2, 4, 0.1)), 1.9, 3, 0.9),  # a span is met as soon as a part of it is
        (((0, 2, 0.9), (2, 4, 0.1)), 2, 3, 0.1),
        (((0, 2, 0.1), (2, 4, 0.9)), 1, 2.1, 0.9),
        (((0, 2, 0.1), (2, 4, 0.9)), 1, 2, 0.1),
        (((0, 9, 0.4),), 3, 5, 0.4),  # a span longer than the scene
        (((4, 6, 0.2), (0, 2, 0.8), (2, 4, 0.5)), 1, 5, 0.8),  # in no order
        (((0, 1, 0.3), (5, 6, 0.7)), 0, 6, 0.7),  # spans are missing between
        (((0, 1, 0.3), (5, 6, 0.7)), 2, 4, None),
        (((0, 2, float("nan")), (2, 4, 0.2)), 0, 4, 0.2),
        (((0, 2, float("nan")),), 0, 2, None),
        (((0, 2, 1.5), (2, 4, -0.1), (4, 6, 0.0)), 0, 6, 0.0),  # no shares
    ],
)
def test_replay_of_graphs_as_they_come(graph, start: float, end: float, value: float | None) -> None:
    assert replay_of(Scene(start=start, end=end), itertools.starmap(Span, graph)) == value


def test_scenes_keep_their_numbers() -> None:
    scenes = (Scene("first"), Scene(), Scene(tone="cool"))
    _, gpt = rendered(LISTING, Facts(scenes=scenes, replay=(0.5, 0.25, None)))
    assert re.findall(r"^Scene .*$", gpt.text, re.MULTILINE) == [
        "Scene 1: The scene shows first.",
        "Scene 3: The dominant tone of the scene is cool.",
        "Scene 1: 0.50",
        "Scene 2: 0.25",
    ]


def test_facts_of_a_post() -> None:
    post = Post(
        "p", "youtube", "T", "f:1", ("x.jpg",), community="C", duration=8.0, like_rate=0.5, content=CONTENT,
        asr="said", scenes=(Scene("a", 0, 4), Scene("b", 4, 8)), comments=(Comment("1", "hi"),),
        replay=(Span(0, 4, 0.1), Span(4, 8, 0.6)),
    )  # fmt: skip
    assert statements.facts(post) == Facts(
        "T", "C", "said", CONTENT, post.scenes, "T", 0.5, ("hi",), (0.1, 0.6), duration=8.0
    )
    donor = Post(
        "d", "youtube", "D", "f:2", community="E", like_rate=0.25, comments=(Comment("2", "ho"),), duration=80.0,
        replay=(Span(0, 40, 0.8), Span(40, 80, 0.3)), asr="other", content="other",
    )  # fmt: skip
    assert statements.facts(post, donor) == Facts(
        "T", "C", "said", CONTENT, post.scenes, "D", 0.25, ("ho",), (0.8, 0.3), duration=8.0
    )


# --- long texts --------------------------------------------------------------------------------------------


def test_a_long_transcript_is_cut_between_words_and_the_question_is_whole() -> None:
    asr = " ".join(f"word{number}" for number in range(5000))
    statement = statements.write(LISTING, replace(FULL, asr=asr))
    assert statement is not None
    said = re.search(r'says "(.*?)"', statement.question)
    assert said is not None
    assert said[1] == " ".join(asr.split()[:200]) + CUT
    assert statement.asr_words == 200
    short = statements.write(LISTING, FULL)
    assert short is not None
    assert statement.question.replace(said[1], "Come and buy a boat.") == short.question
    none = statements.write(templates.get("video_listing_v1", max_asr_words=0), FULL)
    assert none is not None
    assert (none.asr_words, "audio" in none.question) == (0, False)
    three = statements.write(templates.get("video_listing_v1", max_asr_words=3), FULL)
    assert three is not None
    assert (three.asr_words, 'says "Come and buy ..."' in three.question) == (3, True)
    with pytest.raises(UserError, match="negative"):
        templates.get("video_listing_v1", max_asr_words=-1)


def test_no_sample_is_long() -> None:
    long = "lorem " * 20_000
    scenes = (Scene(long, 0, 1, (long,) * 500, (long,) * 2, (long,) * 2, long, long),) * 500
    facts = replace(
        FULL, title=long, told_title=long, community=long, asr=long, content=long, scenes=scenes,
        comments=(long,) * 500, replay=(0.5,) * 500,
    )  # fmt: skip
    for template in ALL:
        statement = statements.write(template, facts)
        assert statement is not None
        comments = template.limits.comments * 8 * template.limits.comment_words
        text = "".join(turn.text for turn in statement.turns)
        assert len(text) < 60_000 + comments
        assert text.count("<image>") == (16 if template.scene else 1)
        assert statement.scenes <= 16


def test_texts_of_real_length_are_whole() -> None:
    title = "é " * 150  # Reddit's longest
    assert shorten(title, V1.limits.title_words) == title.strip()
    comment = "ab " * 3333
    assert shorten(comment, V1.limits.comment_words) == comment.strip()


@given(st.text(max_size=300) | st.text("aé 字", max_size=2000), st.integers(0, 40))
def test_what_is_cut_is_a_beginning(text: str, words: int) -> None:
    clean, short = harmless(text), shorten(text, words)
    if short == clean:
        assert len(clean.split(" ")) <= words or not clean
        return
    assert short == "" or short.endswith(CUT)
    kept = short.removesuffix(CUT)
    assert clean.startswith(kept)
    assert len(kept.split()) <= words
    assert len(kept.encode()) <= 8 * words
    assert harmless(short) == short


def test_writing_without_spaces_is_cut_too() -> None:
    text = "字" * 100_000
    assert shorten(text, 60) == "字" * 160 + CUT
    assert shorten("a b " + text, 60).startswith("a b 字字")


# --- any facts ---------------------------------------------------------------------------------------------

_WORDS = st.text(max_size=6) | st.sampled_from(
    ["<image>", ">>> BEHAVIOR <<<", '"', "{title}", "{0}", "\n", "a"]
)
_SHARES = st.none() | st.floats(allow_nan=True)
_TIMES = st.none() | st.floats(0, 50)
_LISTS = st.lists(_WORDS, max_size=3).map(tuple)
_SCENE = st.builds(Scene, _WORDS, _TIMES, _TIMES, _LISTS, _LISTS, _LISTS, _WORDS, _WORDS)
_FACTS = st.builds(
    Facts,
    title=_WORDS,
    community=_WORDS,
    asr=_WORDS,
    content=_WORDS,
    scenes=st.lists(_SCENE, max_size=3).map(tuple),
    told_title=_WORDS,
    like_rate=_SHARES,
    comments=_LISTS,
    replay=st.lists(_SHARES, max_size=4).map(tuple),
    duration=_SHARES,
    objects=_LISTS,
    regions=st.permutations(REGIONS).map(tuple) | _LISTS,
    score=_SHARES,
)


@settings(max_examples=150)
@given(_FACTS, st.sampled_from(ALL), st.sets(st.sampled_from(sorted(BEHAVIORS))))
def test_whatever_is_known_the_sample_is_whole(facts: Facts, template: Template, wanted: set[str]) -> None:
    statement = statements.write(template, facts, wanted)
    if statement is None:
        return
    assert statement.behaviors <= wanted & template.behaviors
    questions, answers = ([turn.text for turn in statement.turns[side::2]] for side in (0, 1))
    whole = "".join(questions + answers)
    images = len(statement.by_scene) or 1  # each of a scene's turns has its own
    assert [question.count("<image>") for question in questions[:images]] == [1] * images
    assert whole.count("<image>") == images
    for question, answer in zip(questions, answers, strict=True):
        assert len(re.sub(r"\s|<image>", "", question)) > 5  # an answer has a question
        assert answer and answer == answer.strip()
        assert ">>>" not in question
        assert "  " not in question
    of_all = statement.behaviors - ({"replay"} if template.scene else set())
    assert whole.count(">>> BEHAVIOR <<<") == bool(template.marker and of_all)
    assert '""' not in whole
    if template.scene and "replay" in statement.behaviors:
        values = [f"Replay value: {v + 0.0:.2f}" for v in facts.replay if v is not None and 0 <= v <= 1]
        found = [answer[answer.index("Replay value") :] for answer in answers if "Replay value" in answer]
        assert found == values[: len(found)] and len(found) == len(values)
    if "comments" in statement.behaviors:
        expected = [text for text in map(harmless, facts.comments) if text]
        assert re.findall(r'^\d\. "(.*)"$', statement.answer, re.MULTILINE) == expected


def test_every_subset_of_behaviours_is_asked_as_it_is_answered() -> None:
    marks = {
        "likes": ("What percentage", "%"),
        "comments": ("popular comments on", '1. "'),
        "replay": ("replay graph", "values"),
    }
    for count in range(4):
        for wanted in combinations(marks, count):
            statement = statements.write(LISTING, FULL, wanted)
            assert statement is not None
            for name, (question, answer) in marks.items():
                assert (question in statement.question) == (answer in statement.answer) == (name in wanted)


if __name__ == "__main__":
    for each in ALL:
        (GOLDENS / f"{each.name}.txt").write_text(golden(each))
