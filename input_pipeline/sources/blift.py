"""Reads BLIFT as Hugging Face has it: Reddit posts with all their comments, as parquet or JSON lines.

The data set has the columns url, permalink, comments, num_comments, subreddit and title: no votes, dates or
authors. People add them; `read` takes those whose names are clear.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from input_pipeline.errors import UserError
from input_pipeline.sources import cells, fields, media, rows
from input_pipeline.sources.rejected import Rejected
from input_pipeline.sources.rows import Row
from input_pipeline.types import Comment, Post

NEEDED = ("url", "permalink", "comments", "title")
OPTIONAL = ("subreddit", "author", "score", "ups", "likes", "upvote_ratio", "created_utc", "over_18")

_POST_ID = re.compile(r"(?:^|/)comments/([A-Za-z0-9_]{1,20})(?:[/?#]|$)")


def read(path: str | Path, library: media.Library, batch_rows: int = 1024) -> Iterator[Post | Rejected]:
    """Yields a Post of source 'reddit' per row.

    Its media is what the last part of `url` names, or the video id of a YouTube link; where the library lacks
    it, the row is Rejected with kind 'gone'. A url that names nothing gives `media=()`. Comments keep their
    order and have no scores; nulls among them are left out. Titles and comments are unescaped, as Reddit gives
    `&`, `<` and `>` escaped. Taken as well, where there: score (or ups, or likes), upvote_ratio (the like rate),
    created_utc (epoch seconds or a timestamp), over_18, author.

    Args:
        path: .parquet, or .jsonl or .json (both also as .gz or .zst).
        library: where the media lie.
        batch_rows: how many rows of a parquet file are held in memory at a time.

    Raises:
        UserError: the file is missing, of another format, or lacks columns; the message names them.
    """
    found = rows.header(path)
    missing = [name for name in NEEDED if name not in found]
    if found and missing:
        raise UserError(
            f"{path}: is not BLIFT: no column {', '.join(missing)}; it has {rows.listed(found)}. "
            f"Tables with other columns need a map of their columns"
        )
    return _posts(path, library, batch_rows)


def _posts(path: str | Path, library: media.Library, batch_rows: int) -> Iterator[Post | Rejected]:
    for item in rows.read(path, (*NEEDED, *OPTIONAL), batch_rows):
        yield item if isinstance(item, Rejected) else _post(*item, library)


def _post(origin: str, row: Row, library: media.Library) -> Post | Rejected:
    match = _POST_ID.search(fields.text(row, "permalink") or "")
    if match is None:
        return Rejected(origin, "", "fields", "permalink without a post id", source="reddit")
    post_id = match[1]
    title = fields.text(row, "title")
    if title is None:
        return Rejected(origin, post_id, "fields", "post without a title", source="reddit")
    comments = row.get("comments")
    if comments is not None and not isinstance(comments, list):
        return Rejected(origin, post_id, "fields", "comments are not a list", source="reddit")
    url = fields.unescape(fields.text(row, "url") or "").strip()
    name = cells.media_name(url)
    found = library.find(name)
    if name and found is None:
        return Rejected(origin, post_id, "media", "media is gone", kind="gone", source="reddit")
    title = fields.unescape(title).strip()
    ratio = fields.number(row, "upvote_ratio")
    votes = (fields.integer(row, key) for key in ("score", "ups", "likes"))
    return Post(
        id=post_id,
        source="reddit",
        title=title,
        origin=origin,
        media=(found,) if found else (),
        community=fields.text(row, "subreddit") or "",
        author=fields.text(row, "author"),
        created=cells.seconds_since_epoch(row, "created_utc"),
        nsfw=fields.flag(row, "over_18"),
        removed="title" if title.lower() in fields.REMOVED_TITLES else "",
        likes=next((value for value in votes if value is not None), None),
        like_rate=ratio if ratio is not None and 0 <= ratio <= 1 else None,
        comments=tuple(
            Comment(id=f"{post_id}#{n}", text=fields.unescape(words))
            for n, value in enumerate(comments or ())
            if (words := fields.as_text(value)) is not None
        ),
        url=url,
    )
