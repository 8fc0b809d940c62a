"""Reads Reddit dumps (Pushshift, Arctic Shift): submissions and comments as NDJSON."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from input_pipeline.sources import fields, lines, media
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Comment, Post

_IMAGE_HOSTS = ("i.redd.it", "i.reddituploads.com", "imgur.com", "preview.redd.it")
_URLS = ("url_overridden_by_dest", "url")
_REMOVED_TITLES = ("[removed]", "[deleted]", "[deleted by user]", "[ removed by reddit ]")


def read_submissions(path: str | Path, media_folder: str | Path) -> Iterator[Post | Rejected]:
    """Yields a Post per submission, without comments.

    A post that links to no image has `media=()`: the funnel drops it. A post whose image is not in
    `media_folder` is Rejected with kind 'gone' and the post's id. `extra` holds 'removed' (why, if it was)
    and 'url'.

    Args:
        path: .ndjson, .gz or .zst.
        media_folder: images by the last path component of the post's URL; another suffix will do.
    """
    for item in lines.read_objects(path):
        yield item if isinstance(item, Rejected) else _submission(*item, str(media_folder))


def read_comments(path: str | Path) -> Iterator[tuple[str, Comment] | Rejected]:
    """Yields (post id, Comment) per comment; a null author counts as '[deleted]'."""
    for item in lines.read_objects(path):
        if isinstance(item, Rejected):
            yield item
            continue
        origin, row = item
        comment_id, link = _id(row, "t1_"), fields.text(row, "link_id")
        body = fields.text(row, "body")
        if comment_id is None:
            yield Rejected(origin, "", "fields", "comment without an id")
        elif not link:
            yield Rejected(origin, comment_id, "fields", "comment without a link_id")
        elif body is None:
            yield Rejected(origin, comment_id, "fields", "comment without a body")
        else:
            score = fields.integer(row, "score")
            yield (
                link.removeprefix("t3_"),
                Comment(
                    id=comment_id,
                    text=html.unescape(body),
                    author=_author(row),
                    score=fields.integer(row, "ups") if score is None else score,
                    created=fields.number(row, "created_utc"),
                ),
            )


def _submission(origin: str, row: dict[str, Any], folder: str) -> Post | Rejected:
    post_id, title = _id(row, "t3_"), fields.text(row, "title")
    if post_id is None:
        kind = "a comment among submissions" if "body" in row else "submission without an id"
        return Rejected(origin, "", "fields", kind, source="reddit")
    if title is None:
        kind = "a comment among submissions" if "body" in row else "submission without a title"
        return Rejected(origin, post_id, "fields", kind, source="reddit")
    removed = _removed(row, title)
    linked = row.get("gallery_data") or any(fields.text(row, key) for key in _URLS)
    if not (linked or removed or fields.flag(row, "is_self")):
        return Rejected(origin, post_id, "fields", "submission without a url", source="reddit")
    names = _media_names(row)
    found = [path for path in (media.find(folder, name) for name in names) if path]
    if names and not found:
        return Rejected(origin, post_id, "media", "media is gone", kind="gone", source="reddit")
    ratio = fields.number(row, "upvote_ratio")
    score = fields.integer(row, "score")
    return Post(
        id=post_id,
        source="reddit",
        title=html.unescape(title).strip(),
        media=tuple(found),
        origin=origin,
        community=fields.text(row, "subreddit") or "",
        author=_author(row),
        created=fields.number(row, "created_utc"),
        nsfw=fields.flag(row, "over_18"),
        likes=fields.integer(row, "ups") if score is None else score,
        like_rate=ratio if ratio is not None and 0 <= ratio <= 1 else None,
        extra={"removed": removed, "url": fields.text(row, "url") or ""},
    )


def _id(row: dict[str, Any], prefix: str) -> str | None:
    value = fields.text(row, "id") or fields.text(row, "name")
    value = value.removeprefix(prefix).strip() if value else None
    return value if value and re.fullmatch(r"[\w\-.]+", value) else None


def _author(row: dict[str, Any]) -> str | None:
    """A missing field is unknown, a null one is a deleted account."""
    if "author" in row and row["author"] is None:
        return "[deleted]"
    return fields.text(row, "author")


def _removed(row: dict[str, Any], title: str) -> str:
    by = fields.text(row, "removed_by_category") or fields.text(row, "removed_by")
    if by:
        return by
    if title.strip().lower() in _REMOVED_TITLES:
        return "title"
    body = (fields.text(row, "selftext") or "").strip().lower()
    return "body" if body in ("[removed]", "[deleted]") else ""


def _media_names(row: dict[str, Any]) -> list[str]:
    """Returns the file names of the post's images: the gallery in its order, else the linked image."""
    gallery = row.get("gallery_data")
    items = gallery.get("items") if isinstance(gallery, dict) else None
    if isinstance(items, list):
        names = [fields.text(item, "media_id") for item in items if isinstance(item, dict)]
        if any(names):
            return [name for name in names if name]
    for key in _URLS:
        url = html.unescape(fields.text(row, key) or "")
        name = media.url_name(url)
        if name and _is_image(url, name, row):
            return [name]
    return []


def _is_image(url: str, name: str, row: dict[str, Any]) -> bool:
    if name.lower().endswith((*media.IMAGE_SUFFIXES, ".gifv")):
        return True
    if fields.flag(row, "is_self") or fields.flag(row, "is_video"):
        return False
    host = (urlsplit(url).hostname or "").removeprefix("www.").removeprefix("m.")
    if host == "imgur.com" and re.search(r"/(a|gallery|r|t|user)/", url):
        return False  # an album: which of its images is shown cannot be known
    return host in _IMAGE_HOSTS or host.endswith(".imgur.com") or row.get("post_hint") == "image"
