"""Reads conversation files of LLaVA and its kin: a JSON list of {id, image, video, conversations: [..]}.

A turn is {"from": "human" or "gpt", "value": text}, or {"role": "user" or "assistant", "content": text}. The list
may also be called "conversation" (LAMBDA) or "messages" (OpenAI).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from input_pipeline.sources import fields, lines, media
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Turn

IMAGE = "<image>"
VIDEO = "<video>"
OUTSIDE = "image lies outside the images folder"
VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v", ".npy", ".npz", ".pkl")

_LISTS = ("conversations", "conversation", "messages")
_ROLES = {"human": "human", "gpt": "gpt", "user": "human", "assistant": "gpt"}
_MARKS = re.compile(f"{IMAGE}|{VIDEO}")


@dataclass(frozen=True)
class Sample:
    """One conversation with references to its media, not yet read.

    Every medium has an `<image>` in a human turn. Of a sample with both kinds, meta["media"] tells the order:
    a list of "image" and "video".
    """

    id: str
    origin: str  # 'file:index'
    images: tuple[str, ...]  # references, as `sources.media.read` takes them
    conversations: tuple[Turn, ...]
    videos: tuple[str, ...] = ()  # references: film files, or frames as .npy
    meta: dict[str, Any] = field(default_factory=dict)  # JSON-able

    @property
    def split_key(self) -> str:
        """What decides train or held out: all samples of one image or video go the same way."""
        first = next(iter(self.images + self.videos), None)
        return PurePosixPath(media.name_of(first)).stem if first else self.id


def read(
    path: str | Path, images_root: str | Path, library: media.Library | None = None
) -> Iterator[Sample | Rejected]:
    """Yields a Sample per record; a record without "image" and "video" is text only. Streams the list.

    As in LLaVA, a conversation that begins with the assistant loses that turn, and the images and the `<image>`
    marks of the human turns must be equal in number. A video's mark is `<image>` or `<video>`, which becomes
    `<image>`; where a record has images and videos, all marked `<image>`, the images come first.

    Args:
        path: .json, .jsonl, .gz or .zst.
        images_root: where the paths of images and videos begin.
        library: searched by file name for what is not there, such as in tar shards.
    """
    for item in lines.read_list(path):
        yield item if isinstance(item, Rejected) else sample(*item, images_root, library)


def read_turns(path: str | Path) -> Iterator[tuple[str, tuple[Turn, ...]] | Rejected]:
    """Yields (id, turns) per record, whatever its media: for looking at tokens."""
    for item in lines.read_list(path):
        if isinstance(item, Rejected):
            yield item
            continue
        origin, row = item
        name = (fields.text(row, "id") if isinstance(row, dict) else None) or _default_id(origin)
        turns = turns_of(row) if isinstance(row, dict) else "element is not an object"
        yield Rejected(origin, name, "fields", turns) if isinstance(turns, str) else (name, turns)


def sample(
    origin: str, row: Any, root: str | Path, library: media.Library | None = None
) -> Sample | Rejected:
    """Returns the Sample of one decoded record, as `read` has it."""
    if not isinstance(row, dict):
        return Rejected(origin, "", "read", "element is not an object")
    sample_id = fields.text(row, "id") or _default_id(origin)
    turns = turns_of(row)
    if isinstance(turns, str):
        return Rejected(origin, sample_id, "fields", turns)
    names: dict[str, list[str]] = {}
    for key in ("image", "video"):
        value = row.get(key)
        listed = value if isinstance(value, list) else [] if value is None else [value]
        if any(not isinstance(name, str) or not name for name in listed):
            return Rejected(origin, sample_id, "fields", f"{key} is neither a file name nor a list of them")
        names[key] = [fields.as_text(name) or "" for name in listed]
    images, videos = names["image"], names["video"]
    order = _order(turns, len(images), len(videos))
    if order is None:
        kinds = "media" if videos else "images"
        return Rejected(origin, sample_id, "fields", f"number of {IMAGE} marks and of {kinds} differ")
    for key in names:
        if any(map(is_outside, names[key])):
            return Rejected(origin, sample_id, "media", OUTSIDE.replace("image", key, 1))
    found = {key: [locate(root, name, library, key == "video") for name in names[key]] for key in names}
    if not all(found["image"] + found["video"]):
        return Rejected(origin, sample_id, "media", "media is gone", kind="gone")
    if videos:
        turns = tuple(
            Turn(t.role, t.text.replace(VIDEO, IMAGE) if t.role == "human" else t.text) for t in turns
        )
    return Sample(
        sample_id,
        origin,
        tuple(ref for ref in found["image"] if ref),
        turns,
        tuple(ref for ref in found["video"] if ref),
        {"media": order} if images and videos else {},
    )


def is_outside(name: str) -> bool:
    """Whether a medium's name leads out of the folder that it is looked for in."""
    return ".." in Path(name).parts or Path(name).is_absolute()


def locate(
    root: str | Path, name: str, library: media.Library | None = None, is_video: bool = False
) -> str | None:
    """Returns the reference of a medium under `root`, else of one of that file name in the library, else None.

    Names that repeat the folder's own name are common: images/1.png in .../images.
    """
    root = Path(root)
    paths = [root / name]
    if Path(name).parts[:1] == (root.name,):
        paths.append(root.parent / name)
    for path in paths:
        try:
            if path.is_file():
                return str(path)
        except OSError:  # a name that is too long for one
            pass
    found = library.find(PurePosixPath(name).name) if library else None
    # A library takes another suffix for the same: a video must not become its thumbnail.
    if found and is_video and not media.name_of(found).lower().endswith(VIDEO_SUFFIXES):
        return None
    return found


def _default_id(origin: str) -> str:
    return origin.rpartition("/")[2]


def _order(turns: tuple[Turn, ...], images: int, videos: int) -> list[str] | None:
    """Returns which kind of medium each mark stands for, None where marks and media do not agree."""
    human = [turn.text for turn in turns if turn.role == "human"]
    # Without a video, <video> is a word like others, such as in talk of web pages.
    marks = [mark for words in human for mark in _MARKS.findall(words) if videos or mark == IMAGE]
    if len(marks) != images + videos:
        return None
    order = ["video" if mark == VIDEO else "image" for mark in marks]
    if "video" not in order:
        return ["image"] * images + ["video"] * videos
    return order if order.count("video") == videos else None


def turns_of(record: dict[str, Any]) -> tuple[Turn, ...] | str:
    """Returns the turns of a decoded record, or why there are none."""
    rows = next((record[key] for key in _LISTS if record.get(key) is not None), None)
    if not isinstance(rows, list):
        return "no list of conversations"
    turns: list[Turn] = []
    for row in rows:
        row = row if isinstance(row, dict) else {}
        role = row.get("from", row.get("role"))
        role = _ROLES.get(role) if isinstance(role, str) else None
        value = fields.text(row, "value" if "value" in row else "content")
        if role is None:
            return "a turn is neither human nor gpt"
        if value is None or not value.strip():
            return "a turn has no text"
        turns.append(Turn("human" if role == "human" else "gpt", value))
    if turns and turns[0].role == "gpt":
        turns = turns[1:]
    if not turns or turns[-1].role != "gpt":
        return "conversation does not end with an answer"
    if any(turn.role != ("human", "gpt")[i % 2] for i, turn in enumerate(turns)):
        return "turns do not alternate"
    if any(IMAGE in turn.text for turn in turns if turn.role == "gpt"):
        return f"{IMAGE} in an answer"
    return tuple(turns)
