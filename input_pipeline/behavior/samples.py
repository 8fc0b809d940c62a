"""From clean posts, conversations and texts to record specs: records that hold references in place of media.

A spec is a JSON object {key, id, task, images, conversations, meta}, with videos where there are some (and the times at
which one is shown, where these are chosen; `apart`, where each scene is shown by itself, the numbers of those scenes).
Specs are small, so they can be moved and grouped; the media are read at the last moment.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from input_pipeline.behavior import films, statements
from input_pipeline.behavior.pieces import Template
from input_pipeline.sources import media
from input_pipeline.sources.llava_json import Sample
from input_pipeline.sources.text import Document
from input_pipeline.types import Clip, Post, Record, Turn

Spec = dict[str, Any]


def behavior(
    post: Post, template: Template, behaviors: Collection[str] | None = None, task: str = "behavior"
) -> Spec | None:
    """Returns the sample of a clean post in one arm of an experiment; None where there is nothing to answer.

    A post of which no wanted behaviour is known tells its content alone, so that all arms have the same posts.

    Args:
        post: a clean post.
        template: the wording.
        behaviors: what may be told, of `pieces.BEHAVIORS`; some are an ablation, none is the control (same
            picture, same words, no behaviour questions and no behaviour), None is all that the template has.
        task: what the record calls itself.
    """
    statement = statements.write(template, _facts(template, post), behaviors)
    return _post_spec(post, task, template, statement) if statement else None


def shuffled(
    post: Post, donor: Post, template: Template, behaviors: Collection[str] | None = None
) -> Spec | None:
    """Returns the control that tells the behaviour of another post; None where there is nothing to answer.

    `meta` tells the post's true behaviour, as in the other arms, and in `dealt_from` whose was told.

    Args:
        post: whose picture and content it is.
        donor: whose behaviour it is.
        template, behaviors: as in `behavior`.
    """
    statement = statements.write(template, _facts(template, post, donor), behaviors)
    if statement is None:
        return None
    spec = _post_spec(post, "shuffled", template, statement)
    spec["meta"]["dealt_from"] = donor.id
    return spec


def _facts(template: Template, post: Post, donor: Post | None = None) -> statements.Facts:
    """What is known of a post; scenes only of films, where each has a turn that shows it."""
    known = statements.facts(post, donor)
    return replace(known, scenes=(), replay=()) if template.scene and not post.film else known


def _post_spec(post: Post, task: str, template: Template, statement: statements.Statement) -> Spec:
    return {
        "key": f"{post.source}/{post.id}",
        "id": post.id,
        "task": task,
        "images": [] if post.film else list(post.media[:1]),
        **({"videos": [post.film]} if post.film else {}),
        **({"apart": [number for number, *_ in statement.by_scene]} if statement.by_scene else {}),
        "conversations": [[turn.role, turn.text] for turn in statement.turns],
        "meta": {
            "post_id": post.id,
            "source": post.source,
            "origin": short_origin(post.origin),
            "template": template.name,
            "behaviors": sorted(statement.behaviors),
            "title": post.title,
            "community": post.community,
            "content": post.content,
            "duration": post.duration,
            "asr_words": statement.asr_words,
            "scenes": statement.scenes,
            **({"scene_turns": len(statement.by_scene)} if statement.by_scene else {}),
            **({"scene_times": _times(post)} if post.film else {}),
            "likes": post.likes,
            "views": post.views,
            "like_rate": post.like_rate,
            "comments": [comment.text for comment in post.comments],
            **(
                {"replay": [[span.start, span.end, span.value] for span in post.replay]}
                if post.replay
                else {}
            ),
        },
    }


def _times(post: Post) -> list[list[float | None]]:
    """[start, end] of each scene in seconds, by which a replay graph is read."""
    return [[scene.start, scene.end] for scene in post.scenes]


def conversation(sample: Sample, task: str, key: str) -> Spec:
    """The record of a LLaVA conversation ('instruct') or caption ('caption'), as it is."""
    names = {"images": sample.images, **({"videos": sample.videos} if sample.videos else {})}
    return {
        "key": key,
        "id": sample.id,
        "task": task,
        "images": list(sample.images),
        "videos": list(sample.videos),
        "conversations": [[turn.role, turn.text] for turn in sample.conversations],
        "meta": {
            **sample.meta,
            "origin": short_origin(sample.origin),
            **{kind: [media.name_of(reference) for reference in found] for kind, found in names.items()},
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


def load(
    spec: Spec,
    load_image: Callable[[str], bytes] = media.read,
    load_film: Callable[[str, Sequence[float] | None], films.Frames] | None = None,
) -> Record:
    """Reads a spec's media; of a video its frames.

    Args:
        spec: as this module makes them.
        load_image: gives the bytes of an image's reference; OSError where it cannot.
        load_film: gives (encoded frames, their times in seconds) of a video's reference at these times, or at its own
            choice of times; OSError or VideoError where it cannot. By default one frame a second.
    """
    read = load_film or (lambda reference, times: films.load(reference, times, films.Showing("frames")))
    pictures, videos = iter(spec["images"]), iter(spec.get("videos", ()))
    order = spec["meta"].get("media") or ["image"] * len(spec["images"]) + ["video"] * len(
        spec.get("videos", ())
    )
    images: list[bytes] = []
    clips: list[Clip] = []
    for kind in order:
        if kind == "image":
            images.append(load_image(next(pictures)))
            continue
        frames, times = read(next(videos), spec.get("times"))
        shown = [(time,) for time in times] if spec.get("apart") else [tuple(times)]
        clips += [Clip(len(images) + place, own) for place, own in enumerate(shown)]
        images += frames
    return Record(
        id=spec["id"],
        task=spec["task"],
        images=tuple(images),
        conversations=tuple(Turn(role, text) for role, text in spec["conversations"]),
        meta=spec["meta"],
        clips=tuple(clips),
    )
