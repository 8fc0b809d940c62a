"""The plain data types that flow from the raw files to the instruction records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Comment:
    """One reaction in words. `score` is net votes or likes of the comment, None where the source has none."""

    id: str
    text: str
    author: str | None = None
    score: int | None = None
    created: float | None = None  # seconds since the epoch, UTC


@dataclass(frozen=True)
class Post:
    """One piece of content with its receivers' behaviour, as read from a raw file.

    `media` holds file paths (absolute, or relative to the working directory) in order. `like_rate` is the share of
    receivers who liked it, in [0, 1]: likes/views where both are known, else the upvote ratio, else None.
    `origin` is 'file:line', so that every later message can name the record.
    """

    id: str
    source: Literal["reddit", "youtube", "other"]
    title: str
    media: tuple[str, ...]
    origin: str
    community: str = ""  # subreddit or channel
    author: str | None = None
    created: float | None = None
    nsfw: bool = False
    likes: int | None = None
    views: int | None = None
    like_rate: float | None = None
    duration: float | None = None  # seconds, videos only
    comments: tuple[Comment, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation, in LLaVA's roles. `<image>` in a human turn stands for the next image."""

    role: Literal["human", "gpt"]
    text: str


@dataclass(frozen=True)
class Record:
    """One instruction sample. `images` are encoded files as they came; `meta` is JSON-able provenance and targets."""

    id: str
    task: str
    images: tuple[bytes, ...]
    conversations: tuple[Turn, ...]
    meta: dict[str, Any] = field(default_factory=dict)
