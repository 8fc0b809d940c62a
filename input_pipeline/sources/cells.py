"""Reads one cell of a table: text that may be JSON, lists in any shape, times, replay graphs, links to media.

`fields` has the plain values; here are those that are made of them.
"""

from __future__ import annotations

import itertools
import json
import re
from pathlib import PurePosixPath
from typing import Any

from input_pipeline.sources import fields, media
from input_pipeline.types import Scene, Span

_YOUTUBE_ID = re.compile(
    r"(?:https?:)?(?://)?(?:[\w-]+\.)*"
    r"(?:youtu\.be/|youtube(?:-nocookie)?\.com/(?:watch/?\?(?:[^#]*&)?v=|attribution_link\?[^#]*v%3D|"
    r"shorts/|embed/|live/|v/))([\w-]{11})",
    re.ASCII | re.IGNORECASE,
)


def unpacked(value: Any) -> Any:
    """Returns the list or object that a text of JSON holds; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            pass
    return value


def as_list(value: Any) -> list[Any]:
    """Returns the items of a list, of a text of JSON, or of an object of columns; [] for null, [x] for one."""
    value = unpacked(value)
    if isinstance(value, dict) and value and all(isinstance(inner, list) for inner in value.values()):
        return [dict(zip(value, inner, strict=True)) for inner in itertools.zip_longest(*value.values())]
    return value if isinstance(value, list) else [] if value is None else [value]


def texts(value: Any) -> list[str]:
    """Returns the texts of a text, of a list of texts, or of objects with a "text"; without those that are blank."""
    value = unpacked(value)
    if isinstance(value, dict) and isinstance(value.get("segments"), list):
        value = value["segments"]  # as Whisper gives them
    found = (
        fields.text(item, "text") if isinstance(item, dict) else fields.as_text(item)
        for item in as_list(value)
    )
    return [clean for words in found if words and (clean := words.strip())]


def share(likes: int | None, views: int | None) -> float | None:
    """Returns likes/views where both are known and make sense, else None."""
    return likes / views if likes is not None and views and 0 <= likes <= views else None


def spans(value: Any, key: str = "value", duration: float | None = None) -> tuple[Span, ...]:
    """Returns a replay graph in order of time; steps that are not numbers or lie at no time are left out.

    Values above 1 are counts: then all are divided by the greatest, as YouTube does.

    Args:
        value: a list, or JSON text of one, of {"start", "end", key} with times in seconds, or of numbers, which
            stand for equal parts of the video.
        key: what an object calls its value.
        duration: of the video in seconds; without it a number stands for one second.
    """
    items = as_list(value)
    step = duration / len(items) if items and duration and duration > 0 else 1.0
    found: list[Span] = []
    for n, item in enumerate(items):
        if isinstance(item, dict):
            start, end = fields.number(item, "start"), fields.number(item, "end")
            height = fields.number(item, key)
        else:
            start, end, height = n * step, (n + 1) * step, fields.as_number(item)
        if start is not None and end is not None and height is not None and 0 <= start < end and height >= 0:
            found.append(Span(start, end, height))
    top = max((span.value for span in found), default=0.0)
    if top > 1:
        found = [Span(span.start, span.end, span.value / top) for span in found]
    return tuple(sorted(found, key=lambda span: span.start))


def scenes(value: Any) -> tuple[Scene, ...]:
    """Returns the scenes of a video in words, in their order; what is no object is left out.

    Args:
        value: a list, or JSON text of one, of {"caption", "start", "end", "tags", "foreground", "background", "tone",
            "text", "keyframe"}: times in seconds (of its picture: "keyframe"), tags and colours lists or text with
            commas, all of them optional.
    """

    def several(item: dict[str, Any], key: str) -> tuple[str, ...]:
        given = item.get(key)
        return tuple(texts(given.split(",") if isinstance(given, str) else given))

    return tuple(
        Scene(
            caption=fields.text(item, "caption") or "",
            start=fields.number(item, "start"),
            end=fields.number(item, "end"),
            tags=several(item, "tags"),
            foreground=several(item, "foreground"),
            background=several(item, "background"),
            tone=fields.text(item, "tone") or "",
            text=fields.text(item, "text") or "",
            keyframe=fields.number(item, "keyframe"),
        )
        for item in as_list(value)
        if isinstance(item, dict)
    )


def seconds_since_epoch(row: dict[str, Any], key: str) -> float | None:
    """Returns a time given as seconds since the epoch or as ISO 8601 text (UTC where it has no zone), else None."""
    value = row.get(key)
    if (
        len((fields.as_text(value) or "").strip()) != 8
    ):  # 20210131 is a date, and as seconds it would lie in 1970
        seconds = fields.as_time(value)
        if seconds is not None:
            return seconds
    return fields.as_date(value)


def media_name(link: str) -> str:
    """Returns by what name a library may hold what a link, path or file name tells ('' where it names nothing).

    A YouTube link gives the video's id, any other link or path its last part.
    """
    link = link.strip()
    if match := _YOUTUBE_ID.match(link):
        return match[1]
    if "://" in link:
        return media.url_name(link)
    return PurePosixPath(link.replace("\\", "/")).name
