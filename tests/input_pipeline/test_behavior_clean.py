"""The funnel's steps on one post, each with the case it must drop and the near miss it must keep."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from input_pipeline.behavior import clean
from input_pipeline.behavior.rules import Rules, SourceRules
from input_pipeline.types import Comment, Post, Span

RULES = Rules()
DAY_2018 = 1514764800.0  # 2018-01-01 in UTC


def _post(*texts: str, **changes: Any) -> Post:
    comments = tuple(Comment(f"c{i}", text, "someone", 10 - i) for i, text in enumerate(texts))
    post = Post("p", "reddit", "A red boat", "RS:1", ("a.png",), created=1.6e9, comments=comments)
    return changed(post, **changes)


def _unchanged(outcome: clean.Outcome, post: Post) -> bool:
    return outcome.post == post and not outcome.drops


def _texts(outcome: clean.Outcome) -> list[str]:
    assert outcome.post is not None
    return [comment.text for comment in outcome.post.comments]


def _rules(source: str = "reddit", **limits: Any) -> Rules:
    return replace(RULES, **{source: replace(getattr(RULES, source), **limits)})


# --- the post itself ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "changes", "limits", "reason"),
    [
        (clean.date, {"created": DAY_2018 - 1}, {}, "too old"),
        (clean.date, {"created": DAY_2018}, {}, ""),
        (clean.date, {"created": None}, {"created_until": "2000-01-01"}, ""),
        (clean.date, {"created": DAY_2018}, {"created_from": "", "created_until": "2018-01-01"}, "too new"),
        (clean.date, {"created": DAY_2018 - 1}, {"created_from": "", "created_until": "2018-01-01"}, ""),
        (clean.date, {"created": 0.0}, {"created_from": ""}, ""),
        (clean.excluded, {"community": "Pics"}, {"communities": ("PICS", "videos")}, ""),
        (clean.excluded, {"community": "aww"}, {"communities": ("pics",)}, "of another community"),
        (clean.excluded, {"community": "Aww"}, {"exclude_communities": ("aWW",)}, "of an excluded community"),
        (clean.excluded, {"community": "awww"}, {"exclude_communities": ("aww",)}, ""),
        (
            clean.excluded,
            {"categories": ("Education", "music")},
            {"exclude_categories": ("Music",)},
            "of an excluded category",
        ),
        (clean.excluded, {"categories": ("Musicals",)}, {"exclude_categories": ("Music",)}, ""),
        (clean.views, {"views": 99}, {"min_views": 100}, "too few views"),
        (clean.views, {"views": 100}, {"min_views": 100}, ""),
        (clean.views, {"views": None}, {"min_views": 100}, ""),
        (clean.views, {"views": 0}, {}, ""),
        (clean.duration, {"duration": 500.0}, {}, ""),
        (clean.duration, {"duration": 500.5}, {}, "too long"),
        (clean.duration, {"duration": None}, {}, ""),
        (clean.duration, {"duration": 1e6}, {"max_duration": None}, ""),
        (clean.duration, {"duration": 1.0}, {"max_duration": 0.0}, "too long"),
    ],
)
def test_limits_of_the_post_itself(step: clean.Step, changes: dict, limits: dict, reason: str) -> None:
    post = _post("one two three", "four five six", **changes)
    outcome = step(post, _rules(**limits))
    if reason:
        name = getattr(step, "__name__", "")
        drop = clean.Drop(name, "reddit", "p", "RS:1", reason, None, 2, "A red boat")
        assert outcome == clean.Outcome(None, [drop])
    else:
        assert _unchanged(outcome, post)


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"source": "youtube", "views": 10_000}, False),  # the paper: more than 10,000
        ({"source": "youtube", "views": 10_001}, True),
        ({"source": "youtube", "views": 10_001, "created": 1.4e9, "duration": 9999.0}, True),
        ({"source": "youtube", "views": 10_001, "categories": ("Gaming",)}, False),
        ({"source": "other", "views": 1, "created": 1.0, "duration": 9999.0}, True),
        ({"source": "table of mine", "created": 1.0}, True),
        ({"views": 1, "categories": ("Gaming",)}, True),
    ],
)
def test_each_source_has_its_own_limits(changes: dict, kept: bool) -> None:
    outcome = clean.run(_post("one two three", **changes), clean.BEFORE_MEDIA, RULES)
    assert (outcome.post is not None) == kept


# --- marked ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"nsfw": True}, "marked NSFW"),
        ({"title": "[NSFW] boat"}, "marked NSFW"),
        ({"title": "boat (nsfl)"}, "marked NSFW"),
        ({"author": "RemindMeBot"}, "posted by a bot"),
        ({"author": "AutoModerator"}, "posted by a bot"),
        ({"author": "[deleted]"}, "deleted or removed"),
        ({"title": "[deleted by user]"}, "deleted or removed"),
        ({"title": "[ Removed by Reddit ]"}, "deleted or removed"),
        ({"removed": "moderator"}, "deleted or removed"),
    ],
)
def test_marked_posts_go_with_their_comments(changes: dict, reason: str) -> None:
    outcome = clean.marked(_post("one two three", "four five six", **changes), RULES)
    assert outcome.post is None
    assert [(d.step, d.reason, d.comment_id, d.comments) for d in outcome.drops] == [
        ("marked", reason, None, 2)
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"author": "Abbot"},
        {"author": "talbot"},
        {"title": "nsfwish boat"},
        {"title": "I am a bot"},  # what people call themselves in a title
        {"author": None},
        {"created": None},
        {"removed": ""},
    ],
)
def test_near_misses_stay(changes: dict) -> None:
    post = _post("one two three", **changes)
    assert _unchanged(clean.marked(post, RULES), post)


@pytest.mark.parametrize(
    ("author", "text", "reason"),
    [
        ("[deleted]", "still here", "deleted or removed"),
        ("a", "[removed]", "deleted or removed"),
        (None, " [Removed] ", "deleted or removed"),
        ("AutoModerator", "Welcome", "written by a bot"),
        ("imgur_rehost_bot", "mirror", "written by a bot"),
        ("Sub2Bot", "mirror", "written by a bot"),
        ("bot-of-mine", "mirror", "written by a bot"),
        ("autotldr", "mirror", "written by a bot"),
        ("a", "Hello! I am a bot, and this action was performed automatically", "written by a bot"),
        ("a", "I'm a helpful bot", "written by a bot"),
        ("a", "Beep boop", "written by a bot"),
        ("a", "careful, NSFW link", "marked NSFW"),
        ("Botanist", "a robot and a bottle", ""),
        ("robotics_fan", "beep beep", ""),
        ("Autobahn", "I am a both and a bottle", ""),
        (None, "it was removed by the moderators", ""),
    ],
)
def test_marked_comments(author: str | None, text: str, reason: str) -> None:
    outcome = clean.marked(_post(comments=(Comment("c", text, author),)), RULES)
    assert outcome.post is not None
    assert [(d.comment_id, d.reason, d.text) for d in outcome.drops] == (
        [("c", reason, text)] if reason else []
    )
    assert len(outcome.post.comments) == (0 if reason else 1)


@pytest.mark.parametrize(
    ("switch", "text"),
    [("drop_nsfw", "some nsfw link"), ("drop_bots", "beep boop it is"), ("drop_deleted", "[deleted]")],
)
def test_each_switch_switches_off_its_own_mark(switch: str, text: str) -> None:
    every = ("drop_nsfw", "drop_bots", "drop_deleted")
    alone = replace(RULES, **{name: name == switch for name in every})
    others = replace(RULES, **{name: name != switch for name in every})
    assert _texts(clean.marked(_post(text), alone)) == []
    assert _texts(clean.marked(_post(text), others)) == [text]


def test_switches_switch_off() -> None:
    off = Rules(drop_nsfw=False, drop_bots=False, drop_deleted=False, use_word_list=False)
    post = _post("[deleted] fuck nsfw", nsfw=True, author="[deleted]", title="porn", removed="moderator")
    outcome = clean.run(post, (clean.marked, clean.word_list), off)
    assert _unchanged(outcome, post)


_MARKS = st.lists(
    st.sampled_from(["nsfw", "NSFL", "nsf", "bot", "Bot", "BOT", "beep", " boop", "I'm", "this is", " a ", "an ", "_"])
    | st.sampled_from([" ", "x", "9", "-", "[", "auto", "moderator", ", and this action", "é"]),
    max_size=6,
).map("".join)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(_MARKS, _MARKS)
def test_the_quick_look_for_marks_changes_nothing(author: str, text: str) -> None:
    assert clean._is_nsfw(text) == bool(clean._NSFW_MARK.search(text))
    named = clean._BOT_NAME.fullmatch(author) or clean._BOT_NAME_CASED.fullmatch(author)
    assert clean.is_bot(author, text) == bool(named or clean._BOT_TEXT.search(text))


# --- comments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "kept"),
    [("reddit", ["one two three four", "one two three"]), ("youtube", ["one two three four"])],
)
def test_comment_length_differs_by_source(source: str, kept: list[str]) -> None:
    texts = ("w " * 101, "w " * 0, "one two three four", "one two three", "one two", "one ... !!! ---")
    assert _texts(clean.comment_length(_post(*texts, source=source), RULES)) == kept


def test_the_most_words_stay_and_one_more_goes() -> None:
    longest = ("w " * 100).strip()
    outcome = clean.comment_length(_post(longest, longest + " w"), RULES)
    assert _texts(outcome) == [longest]
    assert [drop.reason for drop in outcome.drops] == ["more than 100 words"]


def test_comment_length_counts_its_drops_and_sorts_by_score() -> None:
    comments = (
        Comment("a", "one two three", score=1),
        Comment("b", "no"),
        Comment("c", "four five six", score=7),
    )
    outcome = clean.comment_length(_post(comments=comments), RULES)
    assert _texts(outcome) == ["four five six", "one two three"]
    assert [(d.comment_id, d.reason, d.comments) for d in outcome.drops] == [("b", "fewer than 3 words", 1)]


@given(st.lists(st.none() | st.integers(-3, 3), max_size=8))
def test_popularity_orders_by_score_and_keeps_the_order_of_equals(scores: list[int | None]) -> None:
    found = clean.by_popularity(Comment(str(i), "", score=score) for i, score in enumerate(scores))
    assert sorted(int(c.id) for c in found) == list(range(len(scores)))
    for a, b in pairwise(found):
        assert (a.score or 0) > (b.score or 0) or ((a.score or 0) == (b.score or 0) and int(a.id) < int(b.id))


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("**Very** [nice photo](http://x.y/z) https://a.b/c here", "Very nice photo here"),
        ('see [this](/r/pics "title") and ![gif](giphy|x)', "see this and gif"),
        ("> somebody else's words\n\nmy own words", "my own words"),
        (">!a spoiler!< is said", ">!a spoiler!< is said"),
        ("a\n\n b\t c", "a b c"),
        ("5 * 3 is > 10", "5 3 is > 10"),
        ("www.example.org is gone", "is gone"),
        ("~~old~~ `code` &#x200B; text", "old code text"),
        ("# A heading\nand #no heading", "A heading and #no heading"),
    ],
)
def test_plain_text(raw: str, plain: str) -> None:
    assert clean.plain_text(raw) == plain


_PIECES = st.sampled_from(
    ["[", "](", ")", "(", "http", "HTTPS", "://", "www.", "wWW.", "w.", "/", ">", ">!", "\n", "*", "**", "~", "~~", "`"]
) | st.sampled_from(["&#x200B;", "# ", "#", "&", " ", "a", "b c", '"', ' "', "!", "é", "\t", "W", "w"])  # fmt: skip


def _always(text: str) -> str:
    """What `plain_text` is when nothing is left out for speed."""
    text = clean._LINK.sub(r"\1", text)
    text = clean._MARKUP.sub("", clean._URL.sub(" ", clean._QUOTE.sub(" ", text)))
    return " ".join(text.split())


@settings(max_examples=500, deadline=None)
@given(st.lists(_PIECES, max_size=9).map("".join))
@example("www.a")
@example("WWW.a")
@example("x http://a b")
@example("[a](b)")
@example("~~a~~")
@example("`a`")
@example("> a")
@example("# a")
@example("*a*")
def test_plain_text_always_applies_its_patterns(text: str) -> None:
    assert clean.plain_text(text) == _always(text)


def _count(text: str) -> int:
    return sum(any(map(str.isalnum, word)) for word in text.split())


_WORDS = st.sampled_from(
    ["a", "I", "5", "-", "!!", "_", "_a", "don't", "é", "a-b", "…", "longer", "?b", "x" * 70]
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(_WORDS, max_size=30), st.sampled_from([" ", "\n", "  "]), st.integers(0, 9), st.integers(0, 12)
)
@example(["a"] * 7, " ", 3, 6)
@example(["a"] * 6, " ", 3, 6)
@example(["x" * 70, "a"], " ", 2, 100)
def test_length_is_what_counting_every_word_gives(words: list[str], gap: str, least: int, most: int) -> None:
    text = gap.join(words)
    count = _count(text)
    wrong = f"more than {most} words" if count > most else ""
    wrong = f"fewer than {least} words" if count < least else wrong
    assert clean.count_words(text) == count
    assert clean._length(text, SourceRules(min_words=least, max_words=most)) == wrong


def test_near_duplicates_keep_the_more_popular() -> None:
    texts = ("what a lovely red boat", "What a LOVELY red boat!!", "the sea looks cold today", "lovely boat")
    (outcome,) = clean.distinct_comments([_post(*texts)], RULES)
    assert _texts(outcome) == [texts[0], texts[2], texts[3]]
    assert [(d.comment_id, d.reason) for d in outcome.drops] == [("c1", "repeats another")]


def test_many_posts_at_once_keep_their_own_comments_and_thresholds() -> None:
    texts = ("a b c d e f", "a b c d g h", "x y z")
    posts = [_post(*texts), _post(*texts, source="other"), _post(), _post("a b c d e f", id="q")]
    found = clean.distinct_comments(posts, _rules("other", similarity=0.4))
    assert [_texts(outcome) for outcome in found] == [list(texts), [texts[0], texts[2]], [], [texts[0]]]
    assert clean.distinct_comments([], RULES) == []


def test_few_comments() -> None:
    assert clean.few_comments(_post("one"), RULES).drops[0].reason == "fewer than 2 comments"
    assert clean.few_comments(_post("one", "two"), RULES).post is not None
    assert clean.few_comments(_post(source="youtube", like_rate=0.0), RULES).post is not None
    assert clean.few_comments(_post(source="youtube", replay=(Span(0, 1, 0.5),)), RULES).post is not None
    assert clean.few_comments(_post("one", source="youtube"), RULES).post is not None
    outcome = clean.few_comments(_post(source="youtube"), RULES)
    assert outcome.drops[0].reason == "no likes, comments or replay graph"


# --- steps together -------------------------------------------------------------------------------


def test_run_stops_at_the_drop_of_the_post() -> None:
    steps = (clean.comment_length, clean.few_comments, clean.word_list)
    outcome = clean.run(_post("no", "one two three", title="porn"), steps, RULES)
    assert outcome.post is None
    assert [(d.step, d.comment_id, d.comments) for d in outcome.drops] == [
        ("comment length", "c0", 1),
        ("few comments", None, 1),
    ]


def test_a_post_may_go_without_losing_its_comments() -> None:
    post = _post("one", "two")
    assert [clean.drop_post(post, "marked", "x", lost).comments for lost in (None, 0, 1)] == [2, 0, 1]


def test_all_steps_have_a_row() -> None:
    order = [step.replace(" ", "_") for step in clean.STEPS]
    names = [step.__name__ for step in (*clean.BEFORE_MEDIA, *clean.AFTER_MEDIA)]  # pyright: ignore
    last = [name.removeprefix("in_") for name in (step.__name__ for step in clean.LAST)]  # pyright: ignore
    places = [order.index(name) for name in (*names, "near-duplicate_comments", *last)]
    assert places == sorted(places)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from(["one two three", "no", "fuck it all", "[deleted]", "four five six", ""]), max_size=6
    )
)
def test_nothing_is_kept_and_dropped_or_neither(texts: list[str]) -> None:
    post = _post(*texts)
    steps = (*clean.BEFORE_MEDIA, *clean.AFTER_MEDIA, *clean.LAST)
    outcome = clean.run(post, steps, RULES)
    kept = [comment.id for comment in outcome.post.comments] if outcome.post else []
    alone = [drop.comment_id for drop in outcome.drops if drop.comment_id]
    assert len({*kept, *alone}) == len(kept) + len(alone)
    assert len(kept) + sum(drop.comments for drop in outcome.drops) == len(texts)
    assert sum(drop.comment_id is None for drop in outcome.drops) == (outcome.post is None)
    if outcome.post is not None:
        assert _unchanged(clean.run(outcome.post, steps, RULES), outcome.post)  # a clean post stays as it is
