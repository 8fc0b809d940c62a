"""Reads saved answers of the YouTube Data API v3: videos as posts, comments and replies by themselves.

A file holds one answer, a JSON list of answers, or an answer per line; single items, without the answer around
them, are taken as well.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from input_pipeline.sources import cells, fields, lines, media
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Comment, Post, Reply

# YouTube's public category numbers, under the names that yt-dlp gives too.
CATEGORIES = {
    "1": "Film & Animation",
    "2": "Autos & Vehicles",
    "10": "Music",
    "15": "Pets & Animals",
    "17": "Sports",
    "18": "Short Movies",
    "19": "Travel & Events",
    "20": "Gaming",
    "21": "Videoblogging",
    "22": "People & Blogs",
    "23": "Comedy",
    "24": "Entertainment",
    "25": "News & Politics",
    "26": "Howto & Style",
    "27": "Education",
    "28": "Science & Technology",
    "29": "Nonprofits & Activism",
    "30": "Movies",
    "31": "Anime/Animation",
    "32": "Action/Adventure",
    "33": "Classics",
    "34": "Comedy",
    "35": "Documentary",
    "36": "Drama",
    "37": "Family",
    "38": "Foreign",
    "39": "Horror",
    "40": "Sci-Fi/Fantasy",
    "41": "Thriller",
    "42": "Shorts",
    "43": "Shows",
    "44": "Trailers",
}

_DURATION = re.compile(
    r"P(?:(\d{1,6})W)?(?:(\d{1,6})D)?(?:T(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9}(?:\.\d{1,9})?)S)?)?"
)
_UNITS = (7 * 86_400, 86_400, 3_600, 60, 1)
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_GONE = ("deleted", "failed", "rejected")  # states of an upload
_HEAD = 2**16  # bytes
_NEXT = re.compile(r'\{\s*"kind"\s*:\s*"youtube#')  # where reading goes on after a broken answer

_What = Literal["video", "comment", "reply", "caption", "other", "broken"]


class _Record(NamedTuple):
    what: _What
    row: Any
    video_id: str = ""  # of a comment, where what is around it tells


def read(path: str | Path, library: media.Library) -> Iterator[Post | Reply | Rejected]:
    """Yields a Post per video, without comments, a Reply per comment, and a Rejected per record of neither kind.

    Records are counted over the whole file, the replies within a thread among them, and `origin` holds the count.
    A video without a picture is Rejected with kind 'gone', and what tells of other things (captions, channels)
    with kind 'skipped'.

    Args:
        path: .json or .ndjson, also .gz or .zst. Raises UserError where it is missing.
        library: where pictures are found by the ids of the videos.
    """
    path = Path(path)
    origins = (f"{fields.writable(str(path))}:{number}" for number in itertools.count(1))
    for answer in _answers(path):
        if isinstance(answer, Rejected):
            yield replace(answer, origin=next(origins))
        elif not isinstance(answer, dict):
            yield Rejected(next(origins), "", "read", "answer is not an object")
        elif "error" in answer and "items" not in answer:
            yield Rejected(next(origins), "", "read", "an error answer of the API")
        elif not isinstance(items := answer.get("items", [answer]), list):
            yield Rejected(next(origins), "", "read", "answer without a list of items")
        else:
            for item in items:
                for record in _records(item):
                    yield _read(next(origins), record, library)


def seconds(duration: str) -> float | None:
    """Returns the length of an ISO 8601 duration such as 'P1DT2H3M4S'; None for another text and for no time."""
    match = _DURATION.fullmatch(duration)
    if not match:
        return None
    return sum(float(part) * unit for part, unit in zip(match.groups("0"), _UNITS, strict=True)) or None


def _answers(path: Path) -> Iterator[Any]:
    rows = lines.read_objects(path) if _one_per_line(path) else lines.read_list(path, resume=_NEXT)
    for row in rows:
        yield row if isinstance(row, Rejected) else row[1]


def _one_per_line(path: Path) -> bool:
    """Whether the first line is a whole object, or a broken one. Printed neatly, an object begins with less."""
    line, newline, _ = lines.head(path, _HEAD).partition(b"\n")
    if not line.startswith(b"{"):
        return False
    try:
        return not newline or isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return line.rstrip().endswith(b"}")


def _records(item: Any) -> Iterator[_Record]:
    """Yields the records of an item: a thread is its first comment and the replies to it."""
    what = _what(item)
    if what != "thread":
        yield _Record(what, item)
        return
    snippet = _part(item, "snippet")
    first = snippet.get("topLevelComment")
    video_id = fields.text(snippet, "videoId") or fields.text(_part(_dict(first), "snippet"), "videoId") or ""
    yield _Record("comment", first, video_id)
    replies = _part(item, "replies").get("comments")
    for reply in replies if isinstance(replies, list) else []:
        yield _Record("reply", reply, video_id)


def _what(item: Any) -> _What | Literal["thread"]:
    if not isinstance(item, dict):
        return "broken"
    kind, snippet = fields.text(item, "kind"), _part(item, "snippet")
    if kind is None:  # an answer cut down to chosen fields often lacks it
        if "topLevelComment" in snippet:
            return "thread"
        if "textOriginal" in snippet or "textDisplay" in snippet:
            return "reply" if "parentId" in snippet else "comment"
        return "video" if "title" in snippet or "statistics" in item else "other"
    match kind.removeprefix("youtube#"):
        case "commentThread":
            return "thread"
        case "comment":
            return "reply" if "parentId" in snippet else "comment"
        case "video":
            return "video"
        case "searchResult":  # channels and playlists are found as well
            return "video" if "videoId" in _part(item, "id") else "other"
        case "playlistItem":
            return "video"
        case "caption":
            return "caption"
    return "other"


def _read(origin: str, record: _Record, library: media.Library) -> Post | Reply | Rejected:
    name = fields.text(_dict(record.row), "id") or ""
    match record.what:
        case "video":
            return _video(origin, record.row, library)
        case "comment" | "reply":
            return _comment(origin, record)
        case "caption":
            return Rejected(origin, name, "fields", "a caption track without its words", kind="skipped")
        case "other":
            return Rejected(origin, name, "fields", "neither a video nor a comment", kind="skipped")
    return Rejected(origin, "", "fields", "item is not an object")


def _video(origin: str, item: dict[str, Any], library: media.Library) -> Post | Rejected:
    snippet, statistics, content = (_part(item, key) for key in ("snippet", "statistics", "contentDetails"))
    # Search results and items of playlists have ids of their own, or none.
    owners = (_part(item, "id"), _part(snippet, "resourceId"), content)
    ids = [fields.text(owner, "videoId") for owner in owners] + [fields.text(item, "id")]
    video_id = next((value.strip() for value in ids if value and value.strip()), "")
    title = fields.text(snippet, "title")
    if not video_id:
        return Rejected(origin, "", "fields", "video without an id", source="youtube")
    if title is None:
        return Rejected(origin, video_id, "fields", "video without a title", source="youtube")
    picture = library.find(video_id)
    if picture is None:
        return Rejected(origin, video_id, "media", "media is gone", kind="gone", source="youtube")
    description = fields.text(snippet, "description") or ""
    if fields.text(item, "kind") == "youtube#searchResult":  # escaped there, and there alone
        title, description = fields.unescape(title), fields.unescape(description)
    likes, views = fields.integer(statistics, "likeCount"), fields.integer(statistics, "viewCount")
    # In a playlist the channel is that of its keeper.
    channel = fields.text(snippet, "videoOwnerChannelTitle") or fields.text(snippet, "channelTitle")
    category = fields.text(snippet, "categoryId")
    state = fields.text(_part(item, "status"), "uploadStatus")
    return Post(
        id=video_id,
        source="youtube",
        title=title.strip(),
        origin=origin,
        media=(picture,),
        community=channel or "",
        author=channel,
        created=fields.as_date(content.get("videoPublishedAt")) or fields.as_date(snippet.get("publishedAt")),
        nsfw=_part(content, "contentRating").get("ytRating") == "ytAgeRestricted",
        removed=state if state in _GONE else "",
        likes=likes,
        views=views,
        like_rate=cells.share(likes, views),
        duration=seconds(fields.text(content, "duration") or ""),
        url=f"https://www.youtube.com/watch?v={video_id}",
        description=description,
        categories=(CATEGORIES.get(category, category),) if category else (),
    )


def _comment(origin: str, record: _Record) -> Reply | Rejected:
    if not isinstance(record.row, dict):
        return Rejected(origin, "", "comment", "comment is not an object")
    snippet = _part(record.row, "snippet")
    comment_id = fields.text(record.row, "id")
    words, markup = fields.text(snippet, "textOriginal"), fields.text(snippet, "textDisplay")
    if words is None and markup is not None:
        words = fields.unescape(_TAG.sub("", _BREAK.sub("\n", markup)))
    video_id = fields.text(snippet, "videoId") or record.video_id
    if not comment_id:
        return Rejected(origin, "", "comment", "comment without an id")
    if words is None:
        return Rejected(origin, comment_id, "comment", "comment without text")
    if not video_id:
        return Rejected(origin, comment_id, "comment", f"{record.what} without its video")
    return Reply(
        source="youtube",
        post_id=video_id,
        comment=Comment(
            id=comment_id,
            text=words,
            author=fields.text(snippet, "authorDisplayName"),
            score=fields.integer(snippet, "likeCount"),
            created=fields.as_date(snippet.get("publishedAt")),
        ),
    )


def _part(row: dict[str, Any], key: str) -> dict[str, Any]:
    """Returns an object inside an object, an empty one where there is none."""
    return _dict(row.get(key))


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
