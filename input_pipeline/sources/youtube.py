"""Reads what yt-dlp and video2dataset say of a video: its counts, comments, replay graph, chapters and captions.

One file holds one video. The picture is the thumbnail beside the file, and the captions are those beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from input_pipeline.errors import UserError
from input_pipeline.sources import captions, cells, fields, media
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Comment, Post, Scene, Span

_SUFFIX = ".info.json"
_MARK = b'"yt_meta_dict"'  # only video2dataset writes it
_HEAD = 2**16  # bytes in which it stands: its own columns come first, and they are short
_LONGEST = 1e8  # seconds, three years: what says more is no duration
_ID_IN_URL = re.compile(r"(?:[?&]v=|youtu\.be/|/(?:shorts|embed|live|v)/)([\w-]{11})(?![\w-])", re.ASCII)
_TRACKS = ("subtitles", "automatic_captions")  # people's own, and YouTube's
_CODE = re.compile(r"[A-Za-z0-9-]{1,40}")  # of a language: it becomes part of a file name


def list_files(folder: str | Path) -> list[Path]:
    """Returns the info files below the folder, sorted: *.info.json, and *.json that video2dataset wrote.

    A single file is itself. Raises UserError where there is no such folder.
    """
    path = Path(folder)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; it should hold yt-dlp's *{_SUFFIX} files")
    return sorted(
        file for file in path.rglob("*.json") if file.name.endswith(_SUFFIX) or _is_video2dataset(file)
    )


def read_video(
    path: str | Path, library: media.Library, languages: Sequence[str] = ("en",), films: bool = False
) -> Iterator[Post | Rejected]:
    """Yields the video as a Post, or the one Rejected that tells why not; then a Rejected per unusable part.

    `like_rate` is likes/views. Comments keep the order of the file, replies among them. Files that are broken,
    playlists and videos without a picture are Rejected (kinds 'bad', 'skipped' and 'gone').

    Args:
        path: yt-dlp's info file of any year, or video2dataset's. The video is record 1 of it, and its comments
            are the records after that.
        library: where the thumbnail is looked for: under the file's name in its folder, then under the id.
        languages: of the captions, the best first. 'en' also stands for 'en-orig', 'en-US' and the like.
        films: a video whose film is there needs no thumbnail.
    """
    path = Path(path)
    file = fields.writable(str(path))
    stem = path.name.removesuffix(_SUFFIX).removesuffix(".json")
    rejected = partial(Rejected, f"{file}:1", fields.writable(stem), source="youtube")
    try:
        record = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError):
        yield rejected("read", "file is not JSON")
        return
    except OSError:
        yield rejected("read", "file cannot be read")
        return
    if not isinstance(record, dict):
        yield rejected("read", "file is not a JSON object")
        return
    info, subtitles = _unpacked(record)
    if info.get("_type") not in (None, "video"):
        yield rejected("read", "a playlist, not a video", kind="skipped")
        return
    address = fields.text(info, "webpage_url") or fields.text(record, "url") or ""
    video_id = (fields.text(info, "id") or "").strip() or _id_in(address)
    title = fields.text(info, "title")
    if not video_id:
        yield rejected("fields", "video without an id")
        return
    rejected = partial(Rejected, f"{file}:1", video_id, source="youtube")
    if title is None:
        if record.get("status", "success") != "success":
            yield rejected("media", "video was not downloaded", kind="gone")
        else:
            yield rejected("fields", "video without a title")
        return
    picture = _picture(library, video_id, stem, path.parent)
    if picture is None and not (films and library.film(stem, video_id)):
        yield rejected("media", "media is gone", kind="gone")
        return
    likes, views = fields.integer(info, "like_count"), fields.integer(info, "view_count")
    duration = fields.number(info, "duration")
    duration = duration if duration and 0 < duration < _LONGEST else None
    comments, problems = _comments(info.get("comments"), video_id, file)
    asr, captions_problems = _asr(path, stem, info, subtitles, languages, video_id)
    yield Post(
        id=video_id,
        source="youtube",
        title=title.strip(),
        origin=f"{file}:1",
        media=(picture,) if picture else (),
        community=fields.text(info, "channel") or fields.text(info, "uploader") or "",
        author=fields.text(info, "uploader"),
        created=_created(info),
        nsfw=(fields.number(info, "age_limit") or 0) >= 18,
        likes=likes,
        views=views,
        like_rate=cells.share(likes, views),
        duration=duration,
        comments=tuple(comments),
        url=address,
        description=fields.text(info, "description") or "",
        categories=tuple(_words(info.get("categories"))),
        asr=asr,
        replay=_replay(info.get("heatmap"), duration),
        scenes=tuple(_chapters(info.get("chapters"))),
    )
    yield from problems
    yield from captions_problems


def _picture(library: media.Library, video_id: str, stem: str = "", folder: Path | None = None) -> str | None:
    """Returns the reference of the picture called `stem` in `folder`, else of the one called after the video."""
    try:
        beside = library.find(stem, folder=folder) if folder is not None else None
    except UnicodeEncodeError:  # a name in another encoding: no library can hold it
        beside = None
    return beside or library.find(video_id)


def _is_video2dataset(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _MARK in file.read(_HEAD)
    except OSError:
        return False


def _unpacked(record: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Returns the info and the subtitles of a record, which video2dataset puts one level down."""
    if "yt_meta_dict" not in record:
        return record, None
    meta = record["yt_meta_dict"]
    meta = meta if isinstance(meta, dict) else {}
    info = meta.get("info")
    return info if isinstance(info, dict) else {}, meta.get("subtitles")


def _id_in(address: str) -> str:
    match = _ID_IN_URL.search(address)
    return match[1] if match else ""


def _words(values: Any) -> list[str]:
    return [word for value in values if (word := fields.as_text(value))] if isinstance(values, list) else []


def _comments(rows: Any, video_id: str, file: str) -> tuple[list[Comment], list[Rejected]]:
    comments: list[Comment] = []
    problems: list[Rejected] = []
    if rows is not None and not isinstance(rows, list):
        problems.append(Rejected(f"{file}:1", video_id, "comment", "comments are not a list"))
        rows = None
    for index, row in enumerate(rows or []):
        origin = f"{file}:{index + 2}"
        if not isinstance(row, dict):
            problems.append(Rejected(origin, "", "comment", "comment is not an object"))
            continue
        comment_id, words = fields.text(row, "id") or f"{video_id}#{index}", fields.text(row, "text")
        if words is None:
            problems.append(Rejected(origin, comment_id, "comment", "comment without text"))
            continue
        comments.append(
            Comment(
                id=comment_id,
                text=words,
                author=fields.text(row, "author"),
                score=fields.integer(row, "like_count"),
                created=fields.as_time(row.get("timestamp")),
            )
        )
    return comments, problems


def _replay(rows: Any, duration: float | None) -> tuple[Span, ...]:
    """The graph in order of time. Where a row lacks its times, all are taken to be equally long."""
    rows = rows if isinstance(rows, list) else []
    found = []  # (place, start, end, value)
    for index, row in enumerate(rows):
        value = fields.number(row, "value") if isinstance(row, dict) else None
        if value is not None and 0 <= value <= 1:
            found.append((index, fields.number(row, "start_time"), fields.number(row, "end_time"), value))
    if all(start is not None and end is not None and 0 <= start < end for _, start, end, _ in found):
        return tuple(
            sorted((Span(start, end, value) for _, start, end, value in found), key=lambda span: span.start)
        )
    step = duration / len(rows) if duration else 1.0
    return tuple(Span(index * step, (index + 1) * step, value) for index, _, _, value in found)


def _chapters(rows: Any) -> Iterator[Scene]:
    for row in rows if isinstance(rows, list) else []:
        if not isinstance(row, dict):
            continue
        start, end = fields.number(row, "start_time"), fields.number(row, "end_time")
        if start is not None:
            # A chapter's title names what it is about, not what is seen: it would be told as "The scene shows Intro."
            yield Scene(start=start, end=end)


def _created(info: dict[str, Any]) -> float | None:
    for key in ("timestamp", "release_timestamp"):
        if (stamp := fields.as_time(info.get(key))) is not None:
            return stamp
    return fields.as_date(info.get("upload_date"))


def _asr(
    path: Path, stem: str, info: dict[str, Any], subtitles: Any, languages: Sequence[str], video_id: str
) -> tuple[str, list[Rejected]]:
    """Returns what the first track with words says, and what was wrong with those before it."""
    problems = []
    for origin, load in _tracks(path, stem, info, subtitles, languages):
        try:
            words = captions.transcript(load())
        except captions.CaptionsError as error:
            problems.append(Rejected(fields.writable(origin), video_id, "captions", str(error)))
            continue
        if words:
            return words, problems
    return "", problems


def _tracks(
    path: Path, stem: str, info: dict[str, Any], subtitles: Any, languages: Sequence[str]
) -> Iterator[tuple[str, Callable[[], list[captions.Line]]]]:
    """Yields the origins of the tracks and how to read them: those beside the file, then those inside it."""
    requested = info.get("requested_subtitles")
    requested = requested if isinstance(requested, dict) else {}
    inside = subtitles if isinstance(subtitles, dict) else {}
    codes = _codes(info, [*inside, *requested], languages)
    for code in codes:
        for format in captions.FORMATS:
            beside = path.with_name(f"{stem}.{code}.{format}")
            if _is_file(beside):
                yield f"{beside}:1", partial(captions.read, beside)
    if isinstance(subtitles, list):  # of one language, the one that was asked for
        yield f"{path}:1", partial(captions.from_rows, subtitles)
    for code in codes:
        if code in inside:
            yield f"{path}:1", partial(captions.from_rows, inside[code])
        track = requested.get(code)
        if isinstance(track, dict) and (data := fields.text(track, "data")):
            yield f"{path}:1", partial(captions.parse, data, fields.text(track, "ext") or "vtt")


def _codes(info: dict[str, Any], more: list[str], languages: Sequence[str]) -> list[str]:
    """Returns the codes under which tracks of the languages may lie, the best first: by language, people's own
    before automatic ones, then the plain code, YouTube's own hearing, and the others."""
    manual, automatic = ([*track] if isinstance(track := info.get(key), dict) else [] for key in _TRACKS)
    codes = []
    for language in languages:
        named = [code for code in (*manual, *more, *automatic) if code.startswith(f"{language}-")]
        family = [language, f"{language}-orig", *named, f"{language}-US", f"{language}-GB"]
        codes += sorted(filter(_CODE.fullmatch, family), key=lambda code: code not in manual)
    return list(dict.fromkeys(codes))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for the file system
        return False
