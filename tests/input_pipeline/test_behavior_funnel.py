"""A post joined with its comments, and a table in which every post and comment is either kept or dropped."""

from __future__ import annotations

import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from input_pipeline.behavior import clean, funnel, report
from input_pipeline.behavior.clean import Drop
from input_pipeline.behavior.rules import Rules
from input_pipeline.behavior.spill import Gone
from input_pipeline.behavior.tally import Ledger, Tally
from input_pipeline.sources import media, reddit
from input_pipeline.types import Comment, Post, Reply

KEY = funnel.key_of("reddit", "p")
REAL = Path(os.environ.get("JAXLLAVA_REAL_DATA", Path(__file__).parents[3] / "shared/data")) / "reddit"


def _post(*ids: str, **changes: Any) -> Post:
    comments = tuple(Comment(name, f"own {name}") for name in ids)
    return changed(Post("p", "reddit", "A title", "RS:1", ("a.png",), comments=comments), **changes)


def _gone(origin: str = "RS:2") -> Gone:
    return Gone("reddit", "p", origin, "media is gone", "A title")


def _reply(name: str, created: float | None = None) -> Comment:
    return Comment(name, f"reply {name}", created=created)


def _tally(read: Iterable[tuple[str, int, int]], drops: Iterable[Drop]) -> Tally:
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "a") as ledger:
        for counts in read:
            ledger.read(*counts)
        for drop in drops:
            ledger.drop(drop)
        return ledger.tally


def _last(found: Tally) -> tuple[int, int]:
    row = funnel.table(found)["steps"][-1]
    return row["kept_posts"], row["kept_comments"]


# --- join -----------------------------------------------------------------------------------------


def test_a_post_gets_its_comments_its_own_first_and_replies_by_time() -> None:
    replies = [_reply("b", 3.0), _reply("d", 1.0), _reply("c", 2.0), _reply("e"), _reply("a", 2.0)]
    post, drops = funnel.join(KEY, [_post("x", "y")], [], replies)
    assert post is not None
    assert [comment.id for comment in post.comments] == ["x", "y", "e", "d", "a", "c", "b"]
    assert drops == []
    assert changed(post, comments=()) == changed(_post(), comments=())
    again, _ = funnel.join(KEY, [_post("x", "y")], [], replies[::-1])
    assert again == post


def test_a_comment_read_twice_counts_once_and_the_posts_own_stays() -> None:
    replies = [_reply("a"), _reply("a"), _reply("a"), _reply("x")]
    post, drops = funnel.join(KEY, [_post("x", "x")], [], replies)
    assert post is not None
    assert [comment.text for comment in post.comments] == ["own x", "reply a"]
    assert [(d.step, d.reason, d.comment_id, d.comments) for d in drops] == [
        ("join", "comment read twice", "", 2),
        ("join", "comment read twice", "", 2),
    ]


def test_the_first_of_a_post_read_twice_stays() -> None:
    posts = [_post("x"), _post("y", "z", origin="RS:5")]
    post, drops = funnel.join(KEY, posts, [_gone()], [])
    assert post == posts[0]
    assert [(d.reason, d.origin, d.comment_id, d.comments) for d in drops] == [
        ("post read twice", "RS:5", None, 2),
        ("post read twice", "RS:2", None, 0),
    ]


def test_a_post_whose_media_is_gone_takes_its_comments_with_it() -> None:
    post, drops = funnel.join(KEY, [], [_gone(), _gone("RS:3")], [_reply("a"), _reply("b")])
    assert post is None
    assert [(d.step, d.reason, d.origin, d.comment_id, d.comments, d.text) for d in drops] == [
        ("media", "media is gone", "RS:2", None, 2, "A title"),
        ("media", "media is gone", "RS:3", None, 0, "A title"),
    ]


def test_comments_without_their_post_are_counted_together() -> None:
    post, drops = funnel.join(KEY, [], [], [_reply("a"), _reply("b")])
    assert post is None
    expected = Drop("join", "reddit", "p", "", "comments without their post", "", 2, "reply a")
    assert drops == [expected]


def test_a_post_without_media_goes_with_all_its_comments() -> None:
    post, drops = funnel.join(KEY, [_post("x", media=())], [], [_reply("a")])
    assert post is None
    assert [(d.step, d.reason, d.comment_id, d.comments) for d in drops] == [
        ("media", "links to no image", None, 2)
    ]


def test_an_id_may_hold_any_sign() -> None:
    post, drops = funnel.join(funnel.key_of("other", "a/b/c"), [], [], [_reply("a")])
    assert post is None
    assert (drops[0].source, drops[0].post_id) == ("other", "a/b/c")


_ID = st.sampled_from("abcd")
_OWN = st.lists(st.builds(Comment, _ID, st.sampled_from(["one", "two"])), max_size=4).map(tuple)
_POST = st.builds(
    Post,
    id=st.just("p"),
    source=st.just("reddit"),
    title=st.just("t"),
    origin=st.sampled_from(["RS:1", "RS:2"]),
    media=st.sampled_from([(), ("a.png",)]),
    comments=_OWN,
)
_REPLY = st.builds(Comment, _ID, st.just("said"), created=st.sampled_from([None, 1.0, 2.0]))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(_POST, max_size=3),
    st.lists(st.sampled_from(["RS:3", "RS:4"]).map(_gone), max_size=2),
    st.lists(_REPLY, max_size=6),
)
def test_what_is_read_is_kept_or_dropped(posts: list[Post], gone: list[Gone], replies: list[Comment]) -> None:
    post, drops = funnel.join(KEY, posts, gone, replies)
    said = len(replies) + sum(len(item.comments) for item in posts)
    found = _tally([("reddit", len(posts) + len(gone), said)], drops)
    kept = post.comments if post else ()
    assert _last(found) == (int(post is not None), len(kept))
    assert all(drop.comments >= 0 and drop.step in clean.STEPS for drop in drops)
    assert {(drop.source, drop.post_id) for drop in drops} <= {("reddit", "p")}
    if posts:
        assert (post is not None) == bool(posts[0].media)
    if post is not None:
        ids = [comment.id for comment in kept]
        assert len(set(ids)) == len(ids)
        assert set(ids) == {comment.id for comment in (*posts[0].comments, *replies)}
        own = {comment.id for comment in posts[0].comments}
        assert all(comment.text != "said" for comment in kept if comment.id in own)


# --- the table ------------------------------------------------------------------------------------


def test_the_table_of_a_small_funnel() -> None:
    read = [("reddit", 3, 10), ("youtube", 2, 4)]
    drops = [
        Drop("date", "reddit", "p", "RS:1", "too old", None, 4),
        Drop("date", "youtube", "v", "v:1", "too old", None, 0),
        Drop("marked", "reddit", "q", "RS:2", "marked NSFW", "c", 1),
        Drop("marked", "youtube", "w", "w:1", "marked NSFW", None, 3),
        Drop("join", "reddit", "z", "", "comments without their post", "", 2),
    ]
    table = funnel.table(_tally(read, drops))
    rows = {row["step"]: tuple(row.values())[1:] for row in table["steps"]}
    assert list(rows) == ["read", *clean.STEPS]
    assert rows["read"] == (5, 0, 14, 0)
    assert rows["join"] == (5, 0, 12, 2)
    assert rows["date"] == (3, 2, 8, 4)
    assert rows["marked"] == (2, 1, 4, 4)
    assert rows["few comments"] == (2, 0, 4, 0)
    assert list(table["reasons"]) == ["join", "date", "marked"]
    assert table["reasons"]["marked"] == {"marked NSFW": {"posts": 1, "comments": 4}}
    assert {name: rows[-1]["kept_posts"] for name, rows in table["sources"].items()} == {
        "reddit": 2,
        "youtube": 0,
    }
    assert json.loads(json.dumps(table)) == table


def test_nothing_read_is_a_table_of_zeros() -> None:
    table = funnel.table(Tally())
    assert all(value == 0 for row in table["steps"] for key, value in row.items() if key != "step")
    assert (table["reasons"], table["sources"]) == ({}, {})


def _adds_up(table: dict[str, Any]) -> None:
    """Every row is the one before without its drops, the sources sum to the whole, and so do the reasons."""
    for rows in (table["steps"], *table["sources"].values()):
        for what in ("posts", "comments"):
            kept = [row[f"kept_{what}"] for row in rows]
            lost = [row[f"dropped_{what}"] for row in rows]
            assert min(kept + lost) >= 0
            assert all(kept[n] == kept[n - 1] - lost[n] for n in range(1, len(rows)))
            assert kept[0] - sum(lost) == kept[-1]
    for index, row in enumerate(table["steps"]):
        parts = [rows[index] for rows in table["sources"].values()]
        reasons = table["reasons"].get(row["step"], {}).values()
        assert all(row[key] == sum(part[key] for part in parts) for key in row if key != "step")
        for what in ("posts", "comments"):
            assert row[f"dropped_{what}"] == sum(counts[what] for counts in reasons)


def _whole(posts: list[Post], rules: Rules) -> tuple[list[Post], list[Drop]]:
    """All steps on joined posts, as the stages run them, without the looks at pictures."""
    drops: list[Drop] = []

    def through(items: Iterable[Post], steps: tuple[clean.Step, ...]) -> list[Post]:
        kept = []
        for post in items:
            outcome = clean.run(post, steps, rules)
            drops.extend(outcome.drops)
            kept += [outcome.post] if outcome.post else []
        return kept

    middle = through(posts, (*clean.BEFORE_MEDIA, *clean.AFTER_MEDIA))
    distinct = clean.distinct_comments(middle, rules)
    drops.extend(drop for outcome in distinct for drop in outcome.drops)
    return through([outcome.post for outcome in distinct if outcome.post], clean.LAST), drops


_SAID = st.sampled_from(
    [
        "what a lovely red boat",
        "What a LOVELY red boat!!",
        "the sea looks cold today",
        "no",
        "w " * 101,
        "> only a quote",
        "[deleted]",
        "I am a bot, beep boop",
        "this is nsfw stuff here",
        "oh fuck this is great",
        "Ich habe diesen Hafen schon oft gesehen",
        "",
    ]
)
_ANY_POST = st.builds(
    Post,
    id=st.uuids().map(str),
    source=st.sampled_from(["reddit", "youtube", "other", "table"]),
    title=st.sampled_from(["A red boat", "Porn", "NSFW boat", "Der alte Hafen bei Nacht im Winter"]),
    origin=st.just("f:1"),
    media=st.just(("a.png",)),
    community=st.sampled_from(["pics", "aww"]),
    author=st.sampled_from([None, "someone", "AutoModerator"]),
    created=st.sampled_from([None, 1.4e9, 1.6e9]),
    nsfw=st.sampled_from([False, False, True]),
    removed=st.sampled_from(["", "", "moderator"]),
    views=st.sampled_from([None, 10, 20_000]),
    like_rate=st.sampled_from([None, 0.5]),
    duration=st.sampled_from([None, 10.0, 900.0]),
    categories=st.sampled_from([(), ("Music",)]),
    comments=st.lists(
        st.builds(
            Comment, st.uuids().map(str), _SAID, st.sampled_from([None, "a", "[deleted]"]), st.integers(0, 9)
        ),
        max_size=6,
    ).map(tuple),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(_ANY_POST, max_size=6), st.booleans())
def test_the_table_adds_up_for_any_posts(posts: list[Post], strict: bool) -> None:
    rules = Rules()
    if not strict:  # so that more goes through the later steps
        rules = Rules(drop_nsfw=False, drop_bots=False, reddit=replace(rules.other, languages=("en",)))
    kept, drops = _whole(posts, rules)
    found = _tally([(post.source, 1, len(post.comments)) for post in posts], drops)
    _adds_up(funnel.table(found))
    assert _last(found) == (len(kept), sum(len(post.comments) for post in kept))
    for source in {post.source for post in posts}:
        last = funnel.table(found)["sources"][source][-1]
        assert last["kept_posts"] == sum(post.source == source for post in kept)


@pytest.mark.skipif(not REAL.is_dir(), reason="no real sample data")
def test_the_table_adds_up_for_real_posts(tmp_path: Path) -> None:
    library = media.of_folder(tmp_path / "none", tmp_path / "index")
    posts: defaultdict[str, list[Post]] = defaultdict(list)
    gone: defaultdict[str, list[Gone]] = defaultdict(list)
    replies: defaultdict[str, list[Comment]] = defaultdict(list)
    for name in ("dump_mixed_years", "image_posts", "image_posts"):  # one of them twice
        for item in reddit.read_submissions(REAL / f"RS_{name}.ndjson", library):
            if isinstance(item, Post):
                posts[item.id].append(item)
            elif getattr(item, "kind", "") == "gone":
                gone[item.id].append(Gone.of(item))  # pyright: ignore
        for item in reddit.read_comments(REAL / f"RC_{name}.ndjson"):
            if isinstance(item, Reply):
                replies[item.post_id].append(item.comment)
    joined, drops, read = [], [], []
    for number, key in enumerate(sorted({*posts, *gone, *replies})):
        mine, lost, said = posts[key], gone[key], replies[key]
        # The pictures of the samples are not there: half of the posts are taken as if they were.
        if lost and number % 2:
            mine = [Post(key, "reddit", "A title", item.origin, ("a.png",), created=1.6e9) for item in lost]
            lost = []
        read.append(("reddit", len(mine) + len(lost), len(said)))
        post, out = funnel.join(funnel.key_of("reddit", key), mine, lost, said)
        drops += out
        joined += [post] if post else []
    kept, more = _whole(joined, Rules())
    found = _tally(read, drops + more)
    _adds_up(funnel.table(found))
    assert _last(found) == (len(kept), sum(len(post.comments) for post in kept))
    assert kept
    assert "comment read twice" in funnel.table(found)["reasons"]["join"]
    assert report.check(found, 1.0) == ""
