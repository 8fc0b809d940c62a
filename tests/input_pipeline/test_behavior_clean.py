"""The funnel's steps on one post, each with the case it must drop and the near miss it must keep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from input_pipeline.behavior import clean
from input_pipeline.behavior.clean import Rules
from input_pipeline.behavior.similarity import near_duplicates
from input_pipeline.errors import UserError
from input_pipeline.types import Comment, Post

RULES = Rules()


def _post(*texts: str, **changes) -> Post:
    comments = tuple(Comment(f"c{i}", text, "someone", 10 - i) for i, text in enumerate(texts))
    post = Post("p", "reddit", "A red boat", ("a.png",), "RS:1", created=1.6e9, comments=comments)
    return replace(post, **changes)


def _texts(outcome: clean.Outcome) -> list[str]:
    assert outcome.post is not None
    return [comment.text for comment in outcome.post.comments]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"nsfw": True}, "marked NSFW"),
        ({"title": "[NSFW] boat"}, "marked NSFW"),
        ({"author": "RemindMeBot"}, "posted by a bot"),
        ({"author": "[deleted]"}, "deleted or removed"),
        ({"title": "[deleted by user]"}, "deleted or removed"),
        ({"extra": {"removed": "moderator"}}, "deleted or removed"),
        ({"created": 1.4e9}, "too old"),
        ({"source": "youtube", "views": 10_000}, "too few views"),
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
        {"author": None},
        {"created": None},
        {"source": "youtube", "views": 10_001, "created": 1.4e9},
        {"extra": {"removed": ""}},
    ],
)
def test_near_misses_stay(changes: dict) -> None:
    post = _post("one two three", **changes)
    assert clean.marked(post, RULES) == clean.Outcome(post)


@pytest.mark.parametrize(
    ("author", "text", "reason"),
    [
        ("[deleted]", "still here", "deleted or removed"),
        ("a", "[removed]", "deleted or removed"),
        ("AutoModerator", "Welcome", "written by a bot"),
        ("imgur_rehost_bot", "mirror", "written by a bot"),
        ("a", "Hello! I am a bot, and this action was performed automatically", "written by a bot"),
        ("a", "careful, NSFW link", "marked NSFW"),
        ("Botanist", "a robot and a bottle", ""),
    ],
)
def test_marked_comments(author: str, text: str, reason: str) -> None:
    outcome = clean.marked(_post(comments=(Comment("c", text, author),)), RULES)
    assert outcome.post is not None
    assert [d.reason for d in outcome.drops] == ([reason] if reason else [])
    assert len(outcome.post.comments) == (0 if reason else 1)


def test_switches_switch_off() -> None:
    off = Rules(drop_nsfw=False, drop_bots=False, drop_deleted=False, use_word_list=False)
    post = _post("[deleted] fuck nsfw", nsfw=True, author="[deleted]", title="porn")
    outcome = clean.run(post, (clean.marked, clean.word_list), off)
    assert outcome == clean.Outcome(post)


@pytest.mark.parametrize(
    ("source", "kept"),
    [("reddit", ["one two three four", "one two three"]), ("youtube", ["one two three four"])],
)
def test_comment_length_differs_by_source(source: str, kept: list[str]) -> None:
    texts = ("w " * 101, "w " * 0, "one two three four", "one two three", "one two", "one ... !!! ---")
    assert _texts(clean.comment_length(_post(*texts, source=source), RULES)) == kept


def test_comment_length_counts_its_drops_and_sorts_by_score() -> None:
    comments = (
        Comment("a", "one two three", score=1),
        Comment("b", "no"),
        Comment("c", "four five six", score=7),
    )
    outcome = clean.comment_length(_post(comments=comments), RULES)
    assert _texts(outcome) == ["four five six", "one two three"]
    assert [(d.comment_id, d.reason, d.comments) for d in outcome.drops] == [("b", "fewer than 3 words", 1)]


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("**Very** [nice photo](http://x.y/z) https://a.b/c here", "Very nice photo here"),
        ("> somebody else's words\n\nmy own words", "my own words"),
        ("a\n\n b\t c", "a b c"),
        ("5 * 3 is > 10", "5 3 is > 10"),
    ],
)
def test_plain_text(raw: str, plain: str) -> None:
    assert clean.plain_text(raw) == plain


def test_near_duplicates_keep_the_more_popular() -> None:
    texts = ("what a lovely red boat", "What a LOVELY red boat!!", "the sea looks cold today", "lovely boat")
    outcome = clean.distinct_comments(_post(*texts), RULES)
    assert _texts(outcome) == [texts[0], texts[2], texts[3]]
    assert [d.comment_id for d in outcome.drops] == ["c1"]


def test_similarity_is_the_cosine_of_tfidf() -> None:
    # n = 2. boat is in both: idf 1. red and blue are in one: idf ln(3/2) + 1. cos = 1 / (1 + idf^2).
    expected = 1 / (1 + (0.4054651081 + 1) ** 2)
    texts = ["red boat", "blue boat"]
    assert near_duplicates(texts, expected - 1e-6) == {1}
    assert near_duplicates(texts, expected + 1e-6) == set()
    assert near_duplicates(["", "!", "?"], 0.6) == set()


def test_thresholds_differ_by_source() -> None:
    texts = ("a b c d e f", "a b c d g h", "x y z")
    assert (
        len(
            _texts(clean.distinct_comments(_post(*texts), Rules.from_config({"reddit": {"similarity": 0.4}})))
        )
        == 2
    )
    assert len(_texts(clean.distinct_comments(_post(*texts), RULES))) == 3


def test_word_list(tmp_path: Path) -> None:
    assert clean.word_list(_post(title="Porn"), RULES).drops[0].reason == "NSFW word in the title"
    outcome = clean.word_list(_post("what the FUCK man", "a cockatoo in Scunthorpe"), RULES)
    assert _texts(outcome) == ["a cockatoo in Scunthorpe"]
    own = tmp_path / "words.txt"
    own.write_text("red boat\n\n")
    assert clean.word_list(_post(), replace(RULES, nsfw_words=str(own))).post is None
    with pytest.raises(UserError, match="cannot be read"):
        clean.word_list(_post(), replace(RULES, nsfw_words=str(tmp_path / "none")))


def test_few_comments() -> None:
    assert clean.few_comments(_post("one"), RULES).drops[0].reason == "fewer than 2 comments"
    assert clean.few_comments(_post("one", "two"), RULES).post is not None
    assert clean.few_comments(_post(source="youtube", like_rate=0.1), RULES).post is not None
    assert clean.few_comments(_post(source="youtube"), RULES).drops[0].reason == "neither likes nor comments"


def test_run_stops_at_the_drop_of_the_post() -> None:
    outcome = clean.run(_post("no", "one two three"), clean.AFTER_MEDIA, RULES)
    assert outcome.post is None
    assert [(d.step, d.comment_id, d.comments) for d in outcome.drops] == [
        ("comment length", "c0", 1),
        ("few comments", None, 1),
    ]


def test_rules_from_config() -> None:
    rules = Rules.from_config({"reddit": {"min_words": 9}, "merge_comments": False})
    assert (rules.reddit.min_words, rules.reddit.min_comments, rules.merge_comments) == (9, 2, False)
    assert rules.youtube == Rules().youtube
    with pytest.raises(UserError, match=r"clean.reddit.min_word: no such setting. Did you mean 'min_words'"):
        Rules.from_config({"reddit": {"min_word": 1}})
    with pytest.raises(UserError, match=r"clean.drop_nsf: no such setting"):
        Rules.from_config({"drop_nsf": 1})
    with pytest.raises(UserError, match="is not a day"):
        Rules.from_config({"reddit": {"created_from": "soon"}})
