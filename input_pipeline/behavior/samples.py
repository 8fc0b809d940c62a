"""From clean posts, conversations and texts to record specs: records that hold paths in place of images.

A spec is a JSON object {key, id, task, images, conversations, meta}. Specs are small, so Beam can move and
group them; `records.write` gets the records with their images read at the last moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from input_pipeline.behavior import templates
from input_pipeline.behavior.controls import derangement
from input_pipeline.behavior.templates import Template
from input_pipeline.sources.llava_json import Sample
from input_pipeline.sources.text import Document
from input_pipeline.types import Post, Record, Turn

Spec = dict[str, Any]


def behavior(post: Post, template: Template) -> Spec:
    """The behaviour sample of a clean post."""
    turns = templates.turns(
        template,
        post.title,
        post.community,
        post.extra["content"],
        post.like_rate,
        [comment.text for comment in post.comments],
    )
    return _post_spec(post, "behavior", template, turns)


def ad(post: Post, template: Template) -> Spec:
    """The control without behaviour: same picture, same words, no behaviour questions and no behaviour."""
    turns = templates.turns(template, post.title, post.community, post.extra["content"])
    return _post_spec(post, "ad", template, turns)


def shuffled(posts: Iterable[Post], template: Template, seed: int) -> list[Spec]:
    """The control with the behaviour of other posts, dealt among these posts (of one source and split).

    `meta` tells the true behaviour, as in the other arms, and the post that the told one was taken from. A
    post that is alone has no one to take from and is left out.
    """
    by_id = {post.id: post for post in posts}
    specs = []
    for post_id, donor_id in derangement(by_id, seed).items():
        post, donor = by_id[post_id], by_id[donor_id]
        turns = templates.turns(
            template,
            post.title,
            post.community,
            post.extra["content"],
            donor.like_rate,
            [comment.text for comment in donor.comments],
        )
        spec = _post_spec(post, "shuffled", template, turns)
        spec["meta"]["dealt_from"] = donor_id
        specs.append(spec)
    return specs


def _post_spec(post: Post, task: str, template: Template, turns: tuple[Turn, Turn]) -> Spec:
    return {
        "key": f"{post.source}/{post.id}",
        "id": post.id,
        "task": task,
        "images": list(post.media[:1]),
        "conversations": [[turn.role, turn.text] for turn in turns],
        "meta": {
            "post_id": post.id,
            "source": post.source,
            "origin": short_origin(post.origin),
            "template": template.name,
            "title": post.title,
            "community": post.community,
            "content": post.extra["content"],
            "likes": post.likes,
            "views": post.views,
            "like_rate": post.like_rate,
            "comments": [comment.text for comment in post.comments],
        },
    }


def conversation(sample: Sample, task: str, key: str) -> Spec:
    """The record of a LLaVA conversation ('instruct') or caption ('caption'), as it is."""
    return {
        "key": key,
        "id": sample.id,
        "task": task,
        "images": list(sample.images),
        "conversations": [[turn.role, turn.text] for turn in sample.conversations],
        "meta": {
            "origin": short_origin(sample.origin),
            "images": [Path(path).name for path in sample.images],
        },
    }


def document(item: Document, key: str) -> Spec:
    """The record of a plain text: one turn, task 'text'."""
    return {
        "key": key,
        "id": item.id,
        "task": "text",
        "images": [],
        "conversations": [["gpt", item.text]],
        "meta": {"origin": short_origin(item.origin)},
    }


def short_origin(origin: str) -> str:
    """Cuts the folders off an origin, so that a data set does not depend on where its raw files lay."""
    return Path(origin).name


def load(spec: Spec) -> tuple[str, Record]:
    """Reads a spec's images: (key, Record)."""
    return spec["key"], Record(
        id=spec["id"],
        task=spec["task"],
        images=tuple(Path(path).read_bytes() for path in spec["images"]),
        conversations=tuple(Turn(role, text) for role, text in spec["conversations"]),
        meta=spec["meta"],
    )
