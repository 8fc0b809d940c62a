"""Reads the content-behavior-corpus: YouTube videos with likes, views, replay graphs and words per scene.

Only the names of its columns are public: video_id, asr_raw [{start, end, text, words}], asr_grouped, ocr,
blip2_annotations {actions, captions, objects}, replay_graphs {.., markers [{start, end, replay_score}]}, likes,
views, metadata {title, ..}. What is assumed beyond that:

- any nested value may be null, JSON text of itself, or columns in place of rows ({"start": [..], "end": [..]});
- captions, objects and ocr are lists with an item per scene (else they are not used), where an item of objects
  or ocr is a text or a list of texts;
- markers are in seconds, as the paper merges them to steps of more than a second;
- metadata names the channel or brand under one of the keys that yt-dlp and YouTube's API use.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from input_pipeline.errors import UserError
from input_pipeline.sources import cells, fields, media, rows
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Post, Scene

COLUMNS = (
    "video_id", "asr_raw", "asr_grouped", "ocr", "blip2_annotations", "replay_graphs", "likes", "views",
    "metadata", "title",
)  # fmt: skip
_COMMUNITY = (
    "channel",
    "channel_title",
    "channelTitle",
    "channel_name",
    "brand",
    "company",
    "uploader",
    "author",
)
_CREATED = ("timestamp", "published_at", "publishedAt", "publish_date", "upload_date")


def read(path: str | Path, library: media.Library, batch_rows: int = 256) -> Iterator[Post | Rejected]:
    """Yields a Post of source 'youtube' per video, without comments, which the corpus lacks.

    Its one medium is what the library holds under the video's id; a video without one is Rejected with kind
    'gone'. `replay` has the markers' times as they are (seconds); `scenes` the captions with the objects as tags
    and the text in the picture; `asr` all that is said, in order.

    Args:
        path: .parquet, .jsonl or .json (the latter two also as .gz or .zst).
        library: where the thumbnails or frames lie.
        batch_rows: how many rows of a parquet file are held in memory at a time.

    Raises:
        UserError: the file is missing, of another format, or has no column video_id.
    """
    found = rows.header(path)
    if found and "video_id" not in found:
        raise UserError(f"{path}: is not of the content-behavior-corpus: no column video_id; "
                        f"it has {rows.listed(found)}")  # fmt: skip
    return _posts(path, library, batch_rows)


def _posts(path: str | Path, library: media.Library, batch_rows: int) -> Iterator[Post | Rejected]:
    for item in rows.read(path, COLUMNS, batch_rows):
        yield item if isinstance(item, Rejected) else _post(*item, library)


def _post(origin: str, row: dict[str, Any], library: media.Library) -> Post | Rejected:
    video_id = (fields.text(row, "video_id") or "").strip()
    if not video_id:
        return Rejected(origin, "", "fields", "video without an id", source="youtube")
    metadata = cells.unpacked(row.get("metadata"))
    metadata = metadata if isinstance(metadata, dict) else {}
    title = fields.text(metadata, "title") or fields.text(row, "title")
    if title is None:
        return Rejected(origin, video_id, "fields", "video without a title", source="youtube")
    found = library.find(video_id)
    if found is None:
        return Rejected(origin, video_id, "media", "media is gone", kind="gone", source="youtube")
    graph = cells.unpacked(row.get("replay_graphs"))
    likes, views = fields.integer(row, "likes"), fields.integer(row, "views")
    created = (cells.seconds_since_epoch(metadata, key) for key in _CREATED)
    return Post(
        id=video_id,
        source="youtube",
        title=title.strip(),
        origin=origin,
        media=(found,),
        community=next(filter(None, (fields.text(metadata, key) for key in _COMMUNITY)), "").strip(),
        created=next((value for value in created if value is not None), None),
        likes=likes,
        views=views,
        like_rate=cells.share(likes, views),
        duration=fields.number(metadata, "duration"),
        description=fields.text(metadata, "description") or "",
        categories=tuple(cells.texts(metadata.get("categories"))),
        asr=" ".join(cells.texts(row.get("asr_raw"))) or " ".join(cells.texts(row.get("asr_grouped"))),
        replay=cells.spans(graph.get("markers") if isinstance(graph, dict) else graph, "replay_score"),
        scenes=_scenes(cells.unpacked(row.get("blip2_annotations")), row.get("ocr")),
    )


def _scenes(annotations: Any, ocr: Any) -> tuple[Scene, ...]:
    if not isinstance(annotations, dict):
        return ()
    captions, objects, ocr = (
        cells.unpacked(v) for v in (annotations.get("captions"), annotations.get("objects"), ocr)
    )
    if not isinstance(captions, list):
        return ()
    n = len(captions)
    tags = objects if isinstance(objects, list) and len(objects) == n else [None] * n
    written = ocr if isinstance(ocr, list) and len(ocr) == n else [None] * n
    scenes = tuple(
        Scene(
            caption=" ".join(cells.texts(caption)),
            tags=tuple(_tags(names)),
            text=", ".join(cells.texts(words)),
        )
        for caption, names, words in zip(captions, tags, written, strict=True)
    )
    return scenes if any(scene.caption for scene in scenes) else ()


def _tags(value: Any) -> list[str]:
    value = cells.unpacked(value)
    names = value.split(",") if isinstance(value, str) else cells.texts(value)
    return list(dict.fromkeys(clean for name in names if (clean := (fields.as_text(name) or "").strip())))
