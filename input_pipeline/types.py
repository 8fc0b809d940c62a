"""The plain data types that flow from the raw files to the instruction records.

Posts and comments are msgspec structs: they go by the million through files between the stages of `prepare`,
which write and read them without a line of code for it. `msgspec.structs.replace` makes changed copies. None
can be part of a cycle, hence gc=False: Python's collector would go through all of them again and again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec


class Comment(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One reaction in words. `score` is net votes or likes of the comment, None where the source has none."""

    id: str
    text: str
    author: str | None = None
    score: int | None = None
    created: float | None = None  # seconds since the epoch, UTC


class Span(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One step of a replay graph: how much a stretch of a video was watched again, in [0, 1]."""

    start: float  # seconds
    end: float
    value: float


class Scene(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One scene of a video in words; what is not known is empty. Times are seconds."""

    caption: str = ""
    start: float | None = None
    end: float | None = None
    tags: tuple[str, ...] = ()
    foreground: tuple[str, ...] = ()  # colour names, the commonest first
    background: tuple[str, ...] = ()
    tone: str = ""
    text: str = ""  # what is written in the picture
    keyframe: float | None = None  # when the frame that stands for it is shown


class Post(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="post"):
    """One piece of content with its receivers' behaviour, as read from a raw file.

    `media` holds references that `sources.media.read` takes, in order. `like_rate` is the share of receivers
    who liked it, in [0, 1]: likes/views where both are known, else the upvote ratio, else None. `origin` is
    'file:record', so that every later message can name the record.
    """

    id: str
    source: str  # 'reddit', 'youtube' or 'other': whose thresholds apply
    title: str
    origin: str
    media: tuple[str, ...] = ()
    community: str = ""  # subreddit, channel or brand
    author: str | None = None
    created: float | None = None
    nsfw: bool = False
    removed: str = ""  # by whom or why, where it was
    likes: int | None = None
    views: int | None = None
    like_rate: float | None = None
    duration: float | None = None  # seconds, videos only
    comments: tuple[Comment, ...] = ()
    url: str = ""
    description: str = ""
    categories: tuple[str, ...] = ()
    asr: str = ""  # what is said in it
    replay: tuple[Span, ...] = ()  # the replay graph, in order of time
    scenes: tuple[Scene, ...] = ()
    content: str = ""  # a statement of what the picture shows, where one was measured
    film: str = ""  # a reference, as in `media`, to the video itself, where it is at hand and wanted


class Reply(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="reply"):
    """A comment that was read apart from its post."""

    source: str
    post_id: str
    comment: Comment


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation, in LLaVA's roles. `<image>` in a human turn stands for the next image."""

    role: Literal["human", "gpt"]
    text: str


@dataclass(frozen=True)
class Clip:
    """A video as frames: `len(times)` of a record's images from `first` on, shown at these times (seconds, 0 is the
    video's start). Times that are not known are NaN in memory and null on disk.
    """

    first: int
    times: tuple[float, ...]


@dataclass(frozen=True)
class Record:
    """One instruction sample.

    `images` are encoded pictures, a video's frames among them; `clips` says which are one video. An `<image>` in the
    conversation stands for a picture or for a whole clip. `meta` is JSON-able provenance and targets.
    """

    id: str
    task: str
    images: tuple[bytes, ...]
    conversations: tuple[Turn, ...]
    meta: dict[str, Any] = field(default_factory=dict)
    clips: tuple[Clip, ...] = ()

    @property
    def media(self) -> list[range]:
        """What the marks stand for, in order: for each the places in `images`."""
        clips = {clip.first: len(clip.times) for clip in self.clips}
        found, place = [], 0
        while place < len(self.images):
            count = clips.get(place, 1)
            found.append(range(place, place + count))
            place += count
        return found
