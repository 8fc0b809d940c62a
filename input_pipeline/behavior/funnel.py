"""The funnel as Beam transforms: joins, groups and bookkeeping around the pure functions of this package.

Every element is a Post or a small tuple; images are opened from their paths and never travel. What is
dropped or rejected leaves as an event, so that the table of `funnel.json` is a sum over events and nothing
else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from input_pipeline.behavior import clean, duplicates, verbalise
from input_pipeline.behavior.clean import Drop, Rules
from input_pipeline.behavior.engine import AsDict, PCollection, TaggedOutput, beam
from input_pipeline.images import ImageError, open_image
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Comment, Post

DROPS, REJECTED, READ = "drops", "rejected", "read"


@dataclass(frozen=True)
class Read:
    """How many posts and comments a source had, before the funnel."""

    source: str
    posts: int
    comments: int


def key_of(source: str, post_id: str) -> str:
    """The key that joins a post, its comments and its rejections."""
    return f"{source}/{post_id}"


class Join(beam.DoFn):
    """(key, {posts, rejected, comments}) -> one Post with its comments; the rest are events."""

    def process(self, element: tuple[str, dict[str, Iterable[Any]]]) -> Iterator[Any]:
        key, groups = element
        source, _, post_id = key.partition("/")
        posts: list[Post] = sorted(groups["posts"], key=lambda p: (_place(p.origin), p.origin))
        gone: list[Rejected] = list(groups["rejected"])
        read: list[Comment] = sorted(groups["comments"], key=lambda c: (c.created or 0, c.id))
        own = sum(len(post.comments) for post in posts)
        count = Read(source, len(posts) + len(gone), len(read) + own)
        yield TaggedOutput(READ, count)

        comments: dict[str, Comment] = {}
        for comment in read:
            comments.setdefault(comment.id, comment)
        origin = posts[0].origin if posts else gone[0].origin if gone else ""
        if again := len(read) - len(comments):
            yield _drop("join", source, post_id, origin, "comment read twice", "", again)
        for post in posts[1:]:
            yield _drop("join", source, post_id, post.origin, "post read twice", None, len(post.comments))
        if not posts:
            left = len(comments)
            for index, item in enumerate(gone):
                yield _drop("media", source, post_id, item.origin, item.reason, None, 0 if index else left)
            if not gone:
                yield _drop("join", source, post_id, origin, "comments without their post", "", left)
            return
        for item in gone:
            yield _drop("join", source, post_id, item.origin, "post read twice", None, 0)
        post = replace(posts[0], comments=(*posts[0].comments, *comments.values()))
        if not post.media:
            yield _drop("media", source, post_id, origin, "links to no image", None, len(post.comments))
        else:
            yield post


def _place(origin: str) -> int:
    line = origin.rpartition(":")[2]
    return int(line) if line.isdigit() else 0


def _drop(
    step: str, source: str, post_id: str, origin: str, reason: str, comment: str | None, count: int
) -> TaggedOutput:
    return TaggedOutput(DROPS, Drop(step, source, post_id, origin, reason, comment, count))


class Steps(beam.DoFn):
    """Runs the steps of `clean` on a post."""

    def __init__(self, steps: tuple[clean.Step, ...], rules: Rules) -> None:
        self.steps, self.rules = steps, rules

    def process(self, post: Post) -> Iterator[Any]:
        outcome = clean.run(post, self.steps, self.rules)
        for drop in outcome.drops:
            yield TaggedOutput(DROPS, drop)
        if outcome.post is not None:
            yield outcome.post


class Look(beam.DoFn):
    """Opens a post's first image: (Post with 'content' in extra, Fingerprint), or a rejection."""

    def process(self, post: Post) -> Iterator[Any]:
        path = Path(post.media[0])
        try:
            data = path.read_bytes()
            image = open_image(data)
        except (ImageError, OSError) as error:
            reason = error.reason if isinstance(error, ImageError) else "image file cannot be read"
            yield TaggedOutput(REJECTED, Rejected(post.origin, post.id, "image", reason, source=post.source))
            yield _drop(
                "unreadable image", post.source, post.id, post.origin, reason, None, len(post.comments)
            )
            return
        key = key_of(post.source, post.id)
        content = verbalise.content_statement(image)
        print_ = duplicates.fingerprint(key, post.created, data, image)
        yield replace(post, media=post.media[:1], extra={**post.extra, "content": content}), print_


class Merge(beam.DoFn):
    """(key of the first post, posts with one picture) -> the first post with the comments of all."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    def process(self, element: tuple[str, Iterable[Post]]) -> Iterator[Any]:
        first_key, posts = element
        before = list(posts)
        first, repeats = duplicates.merge(before, first_key, self.rules.merge_comments)
        # Comments that moved to the first post are not lost; only those that did not are counted.
        lost = sum(len(post.comments) for post in before) - len(first.comments)
        for index, post in enumerate(repeats):
            count = 0 if index else lost
            yield _drop(
                "duplicate media", post.source, post.id, post.origin, "picture seen before", None, count
            )
        yield first


def clean_posts(
    posts: PCollection, rejected: PCollection, comments: PCollection, rules: Rules
) -> tuple[PCollection, PCollection, PCollection, PCollection]:
    """Runs the whole funnel.

    Args:
        posts: Post, comments not joined yet (a video brings its own).
        rejected: Rejected, of posts whose media is gone.
        comments: (key of the post, Comment).
        rules: thresholds.

    Returns:
        Posts that are left, Drop events, Rejected (unreadable images), Read counts.
    """
    events = (DROPS, READ)
    joined = (
        {
            "posts": posts | "Key posts" >> beam.Map(lambda p: (key_of(p.source, p.id), p)),
            "rejected": rejected | "Key gone" >> beam.Map(lambda r: (key_of(r.source, r.id), r)),
            "comments": comments,
        }
        | "Group by post" >> beam.CoGroupByKey()
        | "Join" >> beam.ParDo(Join()).with_outputs(*events, main="posts")
    )
    unmarked = joined.posts | "Marked" >> beam.ParDo(Steps(clean.BEFORE_MEDIA, rules)).with_outputs(
        DROPS, main="posts"
    )
    seen = unmarked.posts | "Look" >> beam.ParDo(Look()).with_outputs(DROPS, REJECTED, main="posts")
    drops = [joined.drops, unmarked.drops, seen.drops]
    if rules.drop_duplicate_media:
        repeats = (
            seen.posts
            | "Prints" >> beam.Map(lambda pair: (0, pair[1]))
            | "Together" >> beam.GroupByKey()
            | "Find" >> beam.FlatMapTuple(lambda _, prints: duplicates.find_duplicates(prints, rules).items())
        )
        distinct = (
            seen.posts
            | "First key" >> beam.Map(_first_key, firsts=AsDict(repeats))
            | "Group by picture" >> beam.GroupByKey()
            | "Merge" >> beam.ParDo(Merge(rules)).with_outputs(DROPS, main="posts")
        )
        drops.append(distinct.drops)
        left = distinct.posts
    else:
        left = seen.posts | "Posts" >> beam.Keys()
    cleaned = left | "Comments" >> beam.ParDo(Steps(clean.AFTER_MEDIA, rules)).with_outputs(
        DROPS, main="posts"
    )
    drops.append(cleaned.drops)
    return cleaned.posts, drops | "Drops" >> beam.Flatten(), seen.rejected, joined.read


def _first_key(pair: tuple[Post, duplicates.Fingerprint], firsts: dict[str, str]) -> tuple[str, Post]:
    post, print_ = pair
    return firsts.get(print_.key, print_.key), post


def table(reads: Iterable[Read], drops: Iterable[Drop]) -> dict[str, Any]:
    """Sums events to the paper's table.

    Returns:
        {"steps": [{step, kept_posts, dropped_posts, kept_comments, dropped_comments}, ...] in order,
        "reasons": {step: {reason: {"posts": n, "comments": n}}}, "sources": {source: steps as above}}. A post
        takes its comments with it. Comments dropped by themselves have posts = 0.
    """
    reads, drops = list(reads), list(drops)
    reasons: dict[str, dict[str, Counter[str]]] = {}
    for drop in drops:
        counts = reasons.setdefault(drop.step, {}).setdefault(drop.reason, Counter(posts=0, comments=0))
        counts["posts"] += drop.comment_id is None
        counts["comments"] += drop.comments
    return {
        "steps": _rows(reads, drops),
        "reasons": {
            step: {r: dict(c) for r, c in sorted(reasons[step].items())}
            for step in clean.STEPS
            if step in reasons
        },
        "sources": {
            source: _rows([r for r in reads if r.source == source], [d for d in drops if d.source == source])
            for source in sorted({r.source for r in reads})
        },
    }


def _rows(reads: list[Read], drops: list[Drop]) -> list[dict[str, Any]]:
    posts, comments = sum(r.posts for r in reads), sum(r.comments for r in reads)
    rows = [_row("read", posts, 0, comments, 0)]
    for step in clean.STEPS:
        taken = [drop for drop in drops if drop.step == step]
        lost_posts = sum(drop.comment_id is None for drop in taken)
        lost_comments = sum(drop.comments for drop in taken)
        posts, comments = posts - lost_posts, comments - lost_comments
        rows.append(_row(step, posts, lost_posts, comments, lost_comments))
    return rows


def _row(step: str, posts: int, lost_posts: int, comments: int, lost_comments: int) -> dict[str, Any]:
    return {
        "step": step,
        "kept_posts": posts,
        "dropped_posts": lost_posts,
        "kept_comments": comments,
        "dropped_comments": lost_comments,
    }
