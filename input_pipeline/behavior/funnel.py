"""The funnel's beginning and its end: a post joined with its comments, and the table of what was kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from input_pipeline.behavior import clean
from input_pipeline.behavior.clean import Drop
from input_pipeline.behavior.spill import Gone
from input_pipeline.behavior.tally import Tally
from input_pipeline.types import Comment, Post


def key_of(source: str, post_id: str) -> str:
    """The key that joins a post, its comments and its rejections."""
    return f"{source}/{post_id}"


def join(
    key: str, posts: Sequence[Post], gone: Sequence[Gone], replies: Sequence[Comment]
) -> tuple[Post | None, list[Drop]]:
    """Joins what was read of one post: the first post of this key with all its comments, and what is left over.

    Args:
        key: of `key_of`.
        posts: in the order in which they were read.
        gone: the same post where its media was not there.
        replies: comments that were read apart from the post.
    """
    source, _, post_id = key.partition("/")
    comments: dict[str, Comment] = {}
    for comment in sorted(replies, key=lambda c: (c.created or 0, c.id)):
        comments.setdefault(comment.id, comment)
    origin = posts[0].origin if posts else gone[0].origin if gone else ""
    drops: list[Drop] = []
    if again := len(replies) - len(comments):
        drops.append(Drop("join", source, post_id, origin, "comment read twice", "", again))
    for post in posts[1:]:
        drops.append(clean.drop_post(post, "join", "post read twice"))
    if not posts:
        left = len(comments)
        for index, item in enumerate(gone):
            lost = 0 if index else left
            drops.append(Drop("media", source, post_id, item.origin, item.reason, None, lost, item.title))
        if not gone:
            text = next(iter(comments.values())).text if comments else ""
            drops.append(Drop("join", source, post_id, origin, "comments without their post", "", left, text))
        return None, drops
    for item in gone:
        drops.append(Drop("join", source, post_id, item.origin, "post read twice", None, 0, item.title))
    post = posts[0]
    together: dict[str, Comment] = {}
    for comment in (*post.comments, *comments.values()):
        together.setdefault(comment.id, comment)
    if both := len(post.comments) + len(comments) - len(together):  # such as replies that an API gives twice
        drops.append(Drop("join", source, post_id, origin, "comment read twice", "", both))
    if both or comments:
        post = replace(post, comments=tuple(together.values()))
    if not post.media:
        drops.append(clean.drop_post(post, "media", "links to no image"))
        return None, drops
    return post, drops


def table(tally: Tally) -> dict[str, Any]:
    """The paper's table.

    Returns:
        {"steps": [{step, kept_posts, dropped_posts, kept_comments, dropped_comments}, ...] in order,
        "reasons": {step: {reason: {"posts": n, "comments": n}}}, "sources": {source: steps as above}}. A post
        takes its comments with it. Comments dropped by themselves have posts = 0.
    """
    return {
        "steps": _rows(tally, list(tally.read)),
        "reasons": {
            step: {
                reason: dict(zip(("posts", "comments"), _sum(sources.values()), strict=True))
                for reason, sources in sorted(tally.drops[step].items())
            }
            for step in clean.STEPS
            if step in tally.drops
        },
        "sources": {source: _rows(tally, [source]) for source in sorted(tally.read)},
    }


def _rows(tally: Tally, sources: list[str]) -> list[dict[str, Any]]:
    posts, comments = _sum(tally.read[source] for source in sources)
    rows = [_row("read", posts, 0, comments, 0)]
    for step in clean.STEPS:
        lost_posts, lost_comments = _sum(
            counts[source]
            for counts in tally.drops.get(step, {}).values()
            for source in sources
            if source in counts
        )
        posts, comments = posts - lost_posts, comments - lost_comments
        rows.append(_row(step, posts, lost_posts, comments, lost_comments))
    return rows


def _sum(pairs: Any) -> tuple[int, int]:
    posts = comments = 0
    for a, b in pairs:
        posts, comments = posts + a, comments + b
    return posts, comments


def _row(step: str, posts: int, lost_posts: int, comments: int, lost_comments: int) -> dict[str, Any]:
    return {
        "step": step,
        "kept_posts": posts,
        "dropped_posts": lost_posts,
        "kept_comments": comments,
        "dropped_comments": lost_comments,
    }
