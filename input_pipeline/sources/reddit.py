"""Reads Reddit dumps (Pushshift, Arctic Shift): submissions and comments as NDJSON.

A month of comments is hundreds of millions of lines, of which few fields are wanted. So a line is decoded into
a struct of those fields alone; only a line that this decoder refuses (NaN, lone surrogates, a byte-order mark)
goes through Python's own, slower JSON. Both ways meet in the same functions, which bear every type that the
fields have had over the years.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import msgspec

from input_pipeline.sources import fields, lines, media
from input_pipeline.sources.lines import Passed
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Comment, Post, Reply

Durations = Callable[[str], float | None]  # from the id of a YouTube video to its seconds, None where unknown

_IMAGE_HOSTS = ("i.redd.it", "i.reddituploads.com", "imgur.com", "preview.redd.it")
_YOUTUBE_HOSTS = ("youtube.com", "m.youtube.com", "music.youtube.com", "youtube-nocookie.com")
_ID = re.compile(r"[\w\-.]+")
_VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}(?![A-Za-z0-9_-])")
_BASE_36 = "0123456789abcdefghijklmnopqrstuvwxyz"


class _Row(msgspec.Struct, gc=False):
    """What posts and comments share. Only in `author` and `body` does a missing field differ from a null one."""

    id: Any = None
    name: Any = None
    author: Any = msgspec.UNSET
    body: Any = msgspec.UNSET
    score: Any = None
    ups: Any = None
    created_utc: Any = None
    subreddit: Any = None


class _CommentRow(_Row, gc=False):
    link_id: Any = None


class _PostRow(_Row, gc=False):
    title: Any = None
    url: Any = None
    url_overridden_by_dest: Any = None
    gallery_data: Any = None
    post_hint: Any = None
    is_self: Any = None
    is_video: Any = None
    over_18: Any = None
    upvote_ratio: Any = None
    selftext: Any = None
    removed_by_category: Any = None
    removed_by: Any = None
    crosspost_parent_list: Any = None


_AnyRow = TypeVar("_AnyRow", bound=_Row)


def read_submissions(
    path: str | Path,
    library: media.Library,
    communities: Collection[str] = frozenset(),
    durations: Durations | None = None,
) -> Iterator[Post | Rejected | Passed]:
    """Yields a Post per submission, without comments.

    A post that links to neither an image nor a YouTube video has `media=()`: the funnel drops it. A post whose
    media is not in the library is Rejected with kind 'gone' and the post's id. A post about a YouTube video has
    the video's canonical address as its `url`.

    Args:
        path: .ndjson, .gz or .zst.
        library: images by the last path component of the post's URL, videos by their YouTube id; another suffix
            will do.
        communities: names of subreddits in lower case; posts of others are counted in one Passed at the end. A
            post that names none is kept. Empty means all.
        durations: gives the seconds of a YouTube video.

    Raises:
        UserError: the file is missing or cannot be opened.
    """
    file = fields.writable(str(path))
    for item in _rows(path, _PostRow, communities):
        yield _post(item[1], f"{file}:{item[0]}", library, durations) if isinstance(item, tuple) else item


def read_comments(
    path: str | Path, communities: Collection[str] = frozenset()
) -> Iterator[Reply | Rejected | Passed]:
    """Yields a Reply per comment; a null author counts as '[deleted]'.

    Args:
        path: .ndjson, .gz or .zst.
        communities: as for `read_submissions`.

    Raises:
        UserError: the file is missing or cannot be opened.
    """
    file = fields.writable(str(path))
    for item in _rows(path, _CommentRow, communities):
        yield _reply(item[1], file, item[0]) if isinstance(item, tuple) else item


def post(
    row: dict[str, Any], origin: str, library: media.Library, durations: Durations | None = None
) -> Post | Rejected:
    """Turns one decoded submission into a Post, as `read_submissions` does. `origin` is 'file:record'."""
    return _post(_picked(row, _PostRow), origin, library, durations)


def reply(row: dict[str, Any], origin: str) -> Reply | Rejected:
    """Turns one decoded comment into a Reply, as `read_comments` does. `origin` is 'file:record'."""
    file, _, record = origin.rpartition(":")
    return _reply(_picked(row, _CommentRow), file, record)


def video_id(url: str) -> str | None:
    """Returns the id of the YouTube video that a URL (no longer HTML-escaped) leads to, else None."""
    if "youtu" not in url.lower():
        return None
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").removeprefix("www.")
        first, _, rest = parts.path.lstrip("/").partition("/")
        if host == "youtu.be":
            candidate = first
        elif host not in _YOUTUBE_HOSTS:
            return None
        elif first == "attribution_link":  # what the share button once made: the rest is in a parameter
            inner = parse_qs(parts.query).get("u", [""])[0]
            return None if "attribution_link" in inner else video_id(f"https://youtube.com{inner}")
        elif first in ("shorts", "embed", "v", "live"):
            candidate = rest
        else:
            candidate = ""
        if first in ("watch", ""):
            candidate = parse_qs(parts.query).get("v", [""])[0]
    except ValueError:  # such as an unclosed [ in the host
        return None
    match = _VIDEO_ID.match(candidate)
    return match[0] if match else None


def _rows(
    path: str | Path, kind: type[_AnyRow], communities: Collection[str]
) -> Iterator[tuple[int, _AnyRow] | Rejected | Passed]:
    decode = msgspec.json.Decoder(kind).decode
    passed, file = 0, fields.writable(str(path))
    for item in lines.read_raw(path):
        if isinstance(item, Rejected):
            yield item
            continue
        number, line = item
        try:
            if not line.isascii():
                line.decode()  # the decoder does not look into what it leaves out
            row = decode(line)
        except (ValueError, RecursionError):
            value = lines.parse_object(line, f"{file}:{number}")
            if isinstance(value, Rejected):
                yield value
                continue
            row = _picked(value, kind)
        if communities:
            name = fields.as_text(row.subreddit)
            if name and name.lower() not in communities:
                passed += 1
                continue
        yield number, row
    if passed:
        yield Passed(file, passed, "of another community")


def _picked(row: dict[str, Any], kind: type[_AnyRow]) -> _AnyRow:
    return kind(**{key: row[key] for key in kind.__struct_fields__ if key in row})


def _reply(row: _CommentRow, file: str, record: int | str) -> Reply | Rejected:
    comment_id, link = _id(row, "t1_"), _identifier(row.link_id)
    body = fields.as_text(row.body)
    if comment_id is None:
        return Rejected(f"{file}:{record}", "", "fields", "comment without an id")
    if not link:
        return Rejected(f"{file}:{record}", comment_id, "fields", "comment without a link_id")
    if body is None:
        return Rejected(f"{file}:{record}", comment_id, "fields", "comment without a body")
    return Reply(
        "reddit",
        link.removeprefix("t3_"),
        Comment(
            comment_id, fields.unescape(body), _author(row), _score(row), fields.as_time(row.created_utc)
        ),
    )


def _post(row: _PostRow, origin: str, library: media.Library, durations: Durations | None) -> Post | Rejected:
    post_id, title = _id(row, "t3_"), fields.as_text(row.title)
    if post_id is None or title is None:
        reason = "submission without an id" if post_id is None else "submission without a title"
        if row.body is not msgspec.UNSET:
            reason = "a comment among submissions"
        return Rejected(origin, post_id or "", "fields", reason, source="reddit")
    removed = _removed(row, title)
    shown = [row, *_crossposted(row)]
    if not (
        removed or fields.as_flag(row.is_self) or any(one.gallery_data or any(_urls(one)) for one in shown)
    ):
        return Rejected(origin, post_id, "fields", "submission without a url", source="reddit")
    names, video = next((linked for linked in map(_linked, shown) if linked[0]), ([], None))
    found = [reference for reference in map(library.find, names) if reference]
    if names and not found:
        return Rejected(origin, post_id, "media", "media is gone", kind="gone", source="reddit")
    ratio = fields.as_number(row.upvote_ratio)
    return Post(
        id=post_id,
        source="reddit",
        title=fields.unescape(title).strip(),
        origin=origin,
        media=tuple(found),
        community=fields.as_text(row.subreddit) or "",
        author=_author(row),
        created=fields.as_time(row.created_utc),
        nsfw=any(fields.as_flag(one.over_18) for one in shown),
        removed=removed,
        likes=_score(row),
        like_rate=ratio if ratio is not None and 0 <= ratio <= 1 else None,
        duration=durations(video) if durations and video else None,
        url=f"https://www.youtube.com/watch?v={video}" if video else next(filter(None, _urls(row)[::-1]), ""),
    )


def _id(row: _Row, prefix: str) -> str | None:
    if type(row.id) is str and row.id.isalnum():  # nearly always
        return row.id
    value = _identifier(row.id) or _identifier(row.name)
    value = value.removeprefix(prefix).strip() if value else None
    return value if value and _ID.fullmatch(value) else None


def _identifier(value: Any) -> str | None:
    """Ids are numbers in base 36; where a dump gives one as a number, it is written as Reddit writes it."""
    if type(value) is not int or not 0 < value < 2**63:
        return fields.as_text(value)
    digits = ""
    while value:
        value, digit = divmod(value, 36)
        digits = _BASE_36[digit] + digits
    return digits


def _author(row: _Row) -> str | None:
    """A missing field is unknown, a null one is a deleted account."""
    return "[deleted]" if row.author is None else fields.as_text(row.author)


def _score(row: _Row) -> int | None:
    score = fields.as_integer(row.score)
    return fields.as_integer(row.ups) if score is None else score


def _removed(row: _PostRow, title: str) -> str:
    by = fields.as_text(row.removed_by_category) or fields.as_text(row.removed_by)
    if by:
        return by
    if title.strip().lower() in fields.REMOVED_TITLES:
        return "title"
    body = (fields.as_text(row.selftext) or "").strip().lower()
    return "body" if body in ("[removed]", "[deleted]") else ""


def _crossposted(row: _PostRow) -> list[_PostRow]:
    """Returns the post that this one passes on, where it is one and holds it."""
    parents = row.crosspost_parent_list
    parent = parents[0] if isinstance(parents, list) and parents else None
    return [_picked(parent, _PostRow)] if isinstance(parent, dict) else []


def _urls(row: _PostRow) -> tuple[str, str]:
    """Returns where the post leads, the surer address first."""
    first, second = fields.as_text(row.url_overridden_by_dest), fields.as_text(row.url)
    return fields.unescape(first or ""), fields.unescape(second or "")


def _linked(row: _PostRow) -> tuple[list[str], str | None]:
    """Returns the names of the post's media, and the id of its video if it is one.

    That is the gallery in its order, else the linked video or image.
    """
    items = row.gallery_data.get("items") if isinstance(row.gallery_data, dict) else None
    if isinstance(items, list):
        names = [fields.text(item, "media_id") for item in items if isinstance(item, dict)]
        if any(names):
            return [name for name in names if name], None
    for url in _urls(row):
        video = video_id(url) if url and not fields.as_flag(row.is_self) else None
        if video:
            return [video], video
        name = media.url_name(url)
        if name and _is_image(url, name, row):
            return [name], None
    return [], None


def _is_image(url: str, name: str, row: _PostRow) -> bool:
    if name.lower().endswith((*media.IMAGE_SUFFIXES, ".gifv")):
        return True
    if fields.as_flag(row.is_self) or fields.as_flag(row.is_video):
        return False
    host = (urlsplit(url).hostname or "").removeprefix("www.").removeprefix("m.")
    if host == "imgur.com" and re.search(r"/(a|gallery|r|t|user)/", url):
        return False  # an album: which of its images is shown cannot be known
    return host in _IMAGE_HOSTS or host.endswith(".imgur.com") or row.post_hint == "image"
