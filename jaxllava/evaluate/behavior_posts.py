"""Held-out posts as the evaluation asks for them: where an answer tells what, and which posts cannot be scored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from input_pipeline import records
from input_pipeline.behavior import answers, templates
from input_pipeline.behavior.rules import SOURCES
from input_pipeline.errors import UserError
from input_pipeline.images import ImageError, open_image
from input_pipeline.records import RecordSource
from input_pipeline.tokenizer import IMAGE_TOKEN
from input_pipeline.types import Record, Turn
from jaxllava.prompts import Size
from jaxllava.videos import Video

SPLIT = "behavior_heldout"
Problems = dict[str, list[str]]  # what is wrong -> the posts, by id


@dataclass(frozen=True)
class Asked:
    """`prompt`: the turns up to a question; `answer`: the record's to it; `shown`: how many media it has by then."""

    prompt: tuple[Turn, ...]
    answer: str
    shown: int


@dataclass(frozen=True)
class Post:
    """One held-out record without its pictures, which stay on disk.

    `id` is 'source/post id'; `sizes` are (width, height) of its pictures, of a video those of its frames; `parts` say
    where what is told stands (see `answers.split`), in the last answer; or, of replay values that turns of scenes tell,
    each in the answer of its scene.
    """

    id: str
    source: str
    turns: tuple[Turn, ...]
    parts: answers.Parts
    like_rate: float | None
    index: int  # in the split
    sizes: tuple[Size | tuple[Size, ...], ...] = ()
    by_scene: tuple[
        int, ...
    ] = ()  # the turns that tell the replay values, where these have turns of their own

    def asked(self, part: str, number: int) -> Asked:
        """How one of the parts is asked for."""
        own = self.by_scene[number] if part == "replay" and self.by_scene else len(self.turns) // 2 - 1
        before = self.turns[: 2 * own + 1]
        shown = sum(turn.text.count(IMAGE_TOKEN) for turn in before if turn.role == "human")
        return Asked(before, self.turns[2 * own + 1].text, shown)

    @property
    def answer(self) -> str:
        """The last one."""
        return self.turns[-1].text

    @property
    def comments(self) -> list[str]:
        """The comments as the answer has them, the most popular first."""
        return [span.of(self.answer) for span in self.parts.get("comments", ())]


@dataclass(frozen=True)
class HeldoutPosts:
    """Posts to score, and those that were passed over, by reason."""

    posts: list[Post]
    split: RecordSource
    left_out: Problems = field(default_factory=dict)

    def pictures(self, post: Post) -> list[bytes | Video]:
        """The encoded pictures of one of the posts, and its videos."""
        record: Record = self.split[post.index]
        films = {clip.first for clip in record.clips}
        return [
            Video([record.images[i] for i in places])
            if places.start in films
            else record.images[places.start]
            for places in record.media
        ]

    @property
    def sources(self) -> list[str]:
        """The sources present, in the order of `rules.SOURCES`."""
        present = {post.source for post in self.posts}
        return [source for source in SOURCES if source in present]


def load(data: Path, limit: int) -> HeldoutPosts:
    """The first `limit` posts of the split behavior_heldout that can be scored.

    Posts before the last of them that tell nothing, have no picture that can be read, come twice or do not follow their
    template are passed over, counted and named.

    Raises: UserError where the data set has no such split or none of its posts can be scored.
    """
    if limit < 1:
        raise UserError(f"--limit {limit}: at least 1 held-out post is needed")
    if SPLIT not in records.splits(data):
        raise UserError(
            f"{data}: no split {SPLIT}: prepare it with the arm behavior and --config.heldout_fraction above 0"
        )
    split = records.open_split(data, SPLIT)
    posts: list[Post] = []
    left_out: Problems = defaultdict(list)
    known: set[str] = set()
    for index in range(len(split)):
        record: Record = split[index]
        name = _name(record)
        try:
            post = _read(record, index)
            if post.id in known:
                raise _Unfit("comes twice")
        except _Unfit as error:
            left_out[str(error)].append(name)
            continue
        known.add(post.id)
        posts.append(post)
        if len(posts) == limit:
            break
    if not posts:
        raise UserError(
            f"{data}: of {len(split)} held-out posts none can be scored: {told(left_out) or 'it is empty'}"
        )
    return HeldoutPosts(posts, split, dict(left_out))


class _Unfit(Exception):
    """Why a record is passed over."""


def _name(record: Record) -> str:
    return f"{_source(record)}/{record.meta.get('post_id') or record.id}"


def _source(record: Record) -> str:
    source = record.meta.get("source")
    return source if source in SOURCES else "other"


def _read(record: Record, index: int) -> Post:
    behaviors = record.meta.get("behaviors")
    if not behaviors:
        raise _Unfit("tells no reaction")
    name = str(record.meta.get("template"))
    if name not in templates.TEMPLATES:
        raise _Unfit(f"was written by a template {name!r} that is not known")
    template, turns = templates.get(name), record.conversations
    questions, answered = ([turn.text for turn in turns[side::2]] for side in (0, 1))
    scenes = record.meta.get("scene_turns", 0)
    if [turn.role for turn in turns] != ["human", "gpt"] * max(1, len(answered) if scenes else 1):
        raise _Unfit("is not one question and one answer")
    if not record.images:
        raise _Unfit("has no picture")
    if "".join(questions).count(IMAGE_TOKEN) != len(record.media):
        raise _Unfit(f"has other than one {IMAGE_TOKEN} for each picture or video")
    films = {clip.first for clip in record.clips}
    try:
        of_media = [tuple(open_image(record.images[i]).size for i in places) for places in record.media]
        sizes = tuple(
            of if places.start in films else of[0] for of, places in zip(of_media, record.media, strict=True)
        )
    except ImageError as error:
        raise _Unfit(f"has a picture that cannot be read ({error.reason})") from None
    values = [answers.value_of_turn(told) for told in answered[:scenes]]
    try:
        parts = answers.split(template, answered[-1], behaviors) if len(answered) > scenes else {}
    except ValueError:
        raise _Unfit(f"does not follow its template {name}") from None
    if known := tuple(value for value in values if value):
        parts["replay"] = known
    by_scene = tuple(place for place, value in enumerate(values) if value)
    rate = record.meta.get("like_rate")
    return Post(_name(record), _source(record), turns, parts, rate, index, sizes, by_scene)


def told(problems: Mapping[str, Iterable[str]], most: int = 3) -> str:
    """Problems in words: how many posts each has, and the first of them."""
    said = []
    for reason, ids in problems.items():
        unique = list(dict.fromkeys(ids))
        rest = ", ..." if len(unique) > most else ""
        said.append(f"{len(unique)} {reason} ({', '.join(unique[:most])}{rest})")
    return "; ".join(said)
