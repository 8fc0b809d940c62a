"""Posts and their audience in words, for questions on why people reacted as they did.

What is told of a post is what `jaxllava prepare` found: title, scenes (caption, colours, tone; from a file of `jaxllava
verbalise`), or what was measured of its picture; likes, comments and, scene by scene, replay values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from input_pipeline import records
from input_pipeline.behavior import statements, told_scenes
from input_pipeline.errors import UserError
from input_pipeline.instruct.checks import Rules
from input_pipeline.instruct.subjects import POST_KINDS, Subject
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Comment, Post, Record, Scene, Span

RULES = {
    "audience_conversation": Rules((2, 20), numbers=True),
    "audience_reasons": Rules((1, 1), answer=(20, 600), numbers=True),
}
_MOST_SCENES, _MOST_COMMENTS = 16, 8
_TITLE_WORDS, _CAPTION_WORDS, _COMMENT_WORDS = 60, 100, 60


def told(post: Post) -> str:
    """What a teacher is told of a post; two parts with a blank line between: the content, and the reactions.

    Both must be there: '' where one is missing.
    """
    content = list(_content(post))
    reactions = list(_reactions(post))
    return "\n".join([*content, "", *reactions]) if content and reactions else ""


def _content(post: Post) -> Iterator[str]:
    seen = list(_scenes(post))
    title = statements.shorten(post.title, _TITLE_WORDS)
    if title:
        yield f"Title: {title}"
    yield from (text for _, text in seen)
    if not seen and (content := statements.shorten(post.content, _CAPTION_WORDS)):
        yield f"Shown: {content}"


def _scenes(post: Post) -> Iterator[tuple[int, str]]:
    """(number from 1 on, what is told) of every scene of which something is."""
    for number, scene in enumerate(post.scenes[:_MOST_SCENES], 1):
        words = statements.shorten(scene.caption, _CAPTION_WORDS, mark="").rstrip(" .")
        colours = [*scene.foreground, *(name for name in scene.background if name not in scene.foreground)]
        parts = [
            words,
            f"Colours: {', '.join(name.replace('_', ' ').lower() for name in colours)}" if colours else "",
            f"Tone: {scene.tone}" if scene.tone else "",
            f"Written in it: {text}" if (text := statements.shorten(scene.text, 30)) else "",
        ]
        if parts := [part for part in parts if part]:
            yield number, f"Scene {number}: {'. '.join(parts)}."


def _reactions(post: Post) -> Iterator[str]:
    if post.like_rate is not None and 0 <= post.like_rate <= 1:
        who = "those who voted" if post.source == "reddit" else "those who saw it"
        yield f"Liked by {statements.percent(post.like_rate)}% of {who}."
    elif post.likes is not None:
        yield f"Likes: {post.likes}"
    for comment in post.comments[:_MOST_COMMENTS]:
        if text := statements.shorten(comment.text, _COMMENT_WORDS):
            yield f"Comment: {text}"
    # Of a scene that nobody describes one cannot say why it was watched again.
    for number, _ in _scenes(post):
        value = statements.replay_of(post.scenes[number - 1], post.replay)
        if value is not None:
            yield f"Replay value of scene {number}: {value + 0.0:.2f}"


class _Meta(msgspec.Struct, frozen=True):
    """What `jaxllava prepare` writes of a post into its records' meta."""

    post_id: str | int
    source: str | None = None
    title: str | None = None
    origin: str | None = None
    content: str | None = None
    likes: int | None = None
    views: int | None = None
    like_rate: float | None = None
    comments: tuple[str, ...] | None = None
    replay: tuple[Span, ...] | None = None
    scene_times: tuple[tuple[float | None, float | None], ...] | None = None


def of_record(record: Record, scenes: told_scenes.ToldScenes | None = None) -> Post | str:
    """The post that a record of `jaxllava prepare` tells; or why it is none."""
    if not record.meta.get("post_id"):
        return "a record that is not of a post"
    try:
        meta = msgspec.convert(record.meta, _Meta)
    except msgspec.ValidationError:
        return "a record whose post is not as jaxllava prepare tells one"
    post = Post(
        id=str(meta.post_id),
        source=meta.source or "other",
        title=meta.title or "",
        origin=meta.origin or "",
        content=meta.content or "",
        likes=meta.likes,
        views=meta.views,
        like_rate=meta.like_rate,
        comments=tuple(Comment(str(number), text) for number, text in enumerate(meta.comments or ())),
        replay=meta.replay or (),
        scenes=tuple(Scene(start=start, end=end) for start, end in meta.scene_times or ()),
    )
    if scenes is None:
        return post
    return scenes.tell(post, hashlib.sha256(record.images[0]).hexdigest() if record.images else "")


def read(
    data: str | Path, splits: Sequence[str], scenes: told_scenes.ToldScenes | None = None
) -> Iterator[Subject | Rejected]:
    """Yields a subject for each record of these splits, whose names end in _train or _heldout; one record at a time."""
    seen: set[str] = set()
    for split in splits:
        part = split.rpartition("_")[2]
        if part not in ("train", "heldout"):
            raise UserError(f"--split {split}: a split of posts that ends in _train or _heldout is needed")
        source: Any = records.open_split(data, split)
        for index in range(len(source)):
            record = source[index]
            origin = f"{split}:{index}"
            post = of_record(record, scenes)
            if not isinstance(post, str) and (name := f"{post.source}/{post.id}") in seen:
                post = "a post that another record tells already"
            if isinstance(post, str):
                yield Rejected(origin, record.id, "fields", post)
            elif not (text := told(post)):
                yield Rejected(origin, record.id, "fields", "content or audience not known", "skipped")
            else:
                texts = dict.fromkeys(POST_KINDS, text)
                seen.add(name := f"{post.source}/{post.id}")
                yield Subject(name, texts, part, "", origin, post.origin, media=len(record.media))
