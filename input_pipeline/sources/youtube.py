"""Reads yt-dlp's *.info.json files: one video each, with its comments, counts and the thumbnail beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from input_pipeline.errors import UserError
from input_pipeline.sources import fields, media
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Comment, Post

_SUFFIX = ".info.json"


def list_files(folder: str | Path) -> list[Path]:
    """Returns the folder's *.info.json files, sorted; also those of its folders. A single file is itself."""
    path = Path(folder)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; it should hold yt-dlp's *{_SUFFIX} files")
    return sorted(path.rglob(f"*{_SUFFIX}"))


def read_video(path: str | Path) -> Post | Rejected:
    """Returns the video as a Post whose only medium is the thumbnail `<name>.jpg|png|webp` beside it.

    `like_rate` is likes/views. Comments keep their order. `extra` holds 'heatmap' (the replay graph: values
    in [0, 1], in order of time) and 'description'. Broken files, playlists and videos without a thumbnail
    are Rejected (kinds 'bad', 'skipped' and 'gone').
    """
    path = Path(path)
    origin = f"{path}:1"
    stem = path.name.removesuffix(_SUFFIX)
    try:
        info = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return Rejected(origin, stem, "read", "file is not JSON", source="youtube")
    except OSError:
        return Rejected(origin, stem, "read", "file cannot be read", source="youtube")
    if not isinstance(info, dict):
        return Rejected(origin, stem, "read", "file is not a JSON object", source="youtube")
    video_id, title = fields.text(info, "id"), fields.text(info, "title")
    if info.get("_type", "video") != "video":
        return Rejected(origin, stem, "read", "a playlist, not a video", kind="skipped", source="youtube")
    if not video_id:
        return Rejected(origin, stem, "fields", "video without an id", source="youtube")
    if title is None:
        return Rejected(origin, video_id, "fields", "video without a title", source="youtube")
    thumbnail = media.find(str(path.parent), stem)
    if thumbnail is None:
        return Rejected(origin, video_id, "media", "media is gone", kind="gone", source="youtube")
    likes, views = fields.integer(info, "like_count"), fields.integer(info, "view_count")
    rate = likes / views if likes is not None and views and 0 <= likes <= views else None
    return Post(
        id=video_id,
        source="youtube",
        title=title.strip(),
        media=(thumbnail,),
        origin=origin,
        community=fields.text(info, "channel") or fields.text(info, "uploader") or "",
        author=fields.text(info, "uploader"),
        created=_created(info),
        nsfw=(fields.integer(info, "age_limit") or 0) >= 18,
        likes=likes,
        views=views,
        like_rate=rate,
        duration=fields.number(info, "duration"),
        comments=tuple(_comments(info.get("comments"), video_id)),
        extra={
            "heatmap": _heatmap(info.get("heatmap")),
            "description": fields.text(info, "description") or "",
        },
    )


def _comments(rows: Any, video_id: str) -> Iterator[Comment]:
    for index, row in enumerate(rows if isinstance(rows, list) else []):
        words = fields.text(row, "text") if isinstance(row, dict) else None
        if words is None:
            continue
        yield Comment(
            id=fields.text(row, "id") or f"{video_id}#{index}",
            text=words,
            author=fields.text(row, "author"),
            score=fields.integer(row, "like_count"),
            created=fields.number(row, "timestamp"),
        )


def _heatmap(rows: Any) -> list[float]:
    values = (
        [fields.number(row, "value") for row in rows if isinstance(row, dict)]
        if isinstance(rows, list)
        else []
    )
    return [value for value in values if value is not None]


def _created(info: dict[str, Any]) -> float | None:
    stamp = fields.number(info, "timestamp")
    if stamp is not None:
        return stamp
    try:
        return (
            datetime.strptime(fields.text(info, "upload_date") or "", "%Y%m%d")
            .replace(tzinfo=UTC)
            .timestamp()
        )
    except ValueError:
        return None
