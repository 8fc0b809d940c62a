"""Reads LLaVA conversation files: a JSON list of {id, image, conversations: [{from, value}, ...]}."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from input_pipeline.sources import fields, lines
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Turn

IMAGE = "<image>"


@dataclass(frozen=True)
class Sample:
    """One conversation with the paths of its images, not yet read."""

    id: str
    origin: str  # 'file:index'
    images: tuple[str, ...]  # paths
    conversations: tuple[Turn, ...]

    @property
    def split_key(self) -> str:
        """What decides train or held out: all samples of one image go the same way."""
        return Path(self.images[0]).stem if self.images else self.id


def read(path: str | Path, images_root: str | Path) -> Iterator[Sample | Rejected]:
    """Yields a Sample per record; a record without "image" is text only. Streams the list.

    As in LLaVA, a conversation that begins with the assistant loses that turn. The images and the `<image>`
    marks of the human turns must be equal in number.
    """
    for item in lines.read_list(path):
        yield item if isinstance(item, Rejected) else _sample(*item, Path(images_root))


def read_turns(path: str | Path) -> Iterator[tuple[str, tuple[Turn, ...]] | Rejected]:
    """Yields (id, turns) per record, whatever its media: for looking at tokens."""
    for item in lines.read_list(path):
        if isinstance(item, Rejected):
            yield item
            continue
        origin, row = item
        name = (fields.text(row, "id") if isinstance(row, dict) else None) or origin.rpartition("/")[2]
        turns = _turns(row.get("conversations")) if isinstance(row, dict) else "element is not an object"
        yield Rejected(origin, name, "fields", turns) if isinstance(turns, str) else (name, turns)


def _sample(origin: str, row: Any, root: Path) -> Sample | Rejected:
    if not isinstance(row, dict):
        return Rejected(origin, "", "read", "element is not an object")
    sample_id = fields.text(row, "id") or origin.rpartition("/")[2]
    turns = _turns(row.get("conversations"))
    if isinstance(turns, str):
        return Rejected(origin, sample_id, "fields", turns)
    value = row.get("image")
    names = value if isinstance(value, list) else [] if value is None else [value]
    if any(not isinstance(name, str) or not name for name in names):
        return Rejected(origin, sample_id, "fields", "image is neither a file name nor a list of them")
    marks = sum(turn.text.count(IMAGE) for turn in turns if turn.role == "human")
    if marks != len(names):
        return Rejected(origin, sample_id, "fields", f"number of {IMAGE} marks and of images differ")
    paths = tuple(_locate(root, name) for name in names)
    if any(".." in Path(name).parts or Path(name).is_absolute() for name in names):
        return Rejected(origin, sample_id, "media", "image lies outside the images folder")
    if not all(path.is_file() for path in paths):
        return Rejected(origin, sample_id, "media", "media is gone", kind="gone")
    return Sample(sample_id, origin, tuple(map(str, paths)), turns)


def _locate(root: Path, name: str) -> Path:
    path = root / name
    # Names that repeat the folder's own name are common: images/1.png in .../images.
    if Path(name).parts[:1] == (root.name,) and not path.exists():
        return root.parent / name
    return path


def _turns(rows: Any) -> tuple[Turn, ...] | str:
    """Returns the turns, or why there are none."""
    if not isinstance(rows, list):
        return "no list of conversations"
    turns: list[Turn] = []
    for row in rows:
        role = row.get("from") if isinstance(row, dict) else None
        value = fields.text(row, "value") if isinstance(row, dict) else None
        if role not in ("human", "gpt"):
            return "a turn is neither human nor gpt"
        if value is None or not value.strip():
            return "a turn has no text"
        turns.append(Turn(role, value))
    if turns and turns[0].role == "gpt":
        turns = turns[1:]
    if not turns or turns[-1].role != "gpt":
        return "conversation does not end with an answer"
    if any(turn.role != ("human", "gpt")[i % 2] for i, turn in enumerate(turns)):
        return "turns do not alternate"
    if any(IMAGE in turn.text for turn in turns if turn.role == "gpt"):
        return f"{IMAGE} in an answer"
    return tuple(turns)
