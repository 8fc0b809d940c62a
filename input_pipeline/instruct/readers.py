"""Reads what tells of pictures in words into a pool: COCO's and LVIS's annotations, and JSON lines.

Every record that cannot be used is yielded as Rejected; none is passed over in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from input_pipeline.instruct import symbolic
from input_pipeline.instruct.pool import Pool
from input_pipeline.sources import fields, lines, media, members
from input_pipeline.sources.rejected import Rejected

_COCO = ("images", "annotations", "categories")
_ANOTHERS = "an id that another record has already"
# Where a line that is broken ends, the next record begins.
_NEXT_LINE = re.compile(r'\{\s*"(?:id|image|captions|instances|width|height)"\s*:')


def coco(path: str | Path, pool: Pool, number: int = 0) -> Iterator[Rejected]:
    """Reads captions_*.json, instances_*.json or LVIS's lvis_v1_*.json; which one its records tell.

    An image's id is its number with twelve digits, as in COCO's file names, so that captions, instances and LVIS (whose
    pictures are COCO's) meet. LVIS has no file names, so the last part of `coco_url` is taken; its categories are
    written with spaces; its lists of categories that are known not to be there, or not to be marked in full, are not
    told.

    Args:
        path: .json, .gz or .zst.
        pool: to add to.
        number: of the file among all that are read: category ids are its own.
    """
    file = fields.writable(str(path))
    found = 0
    for item in members.read(path, _COCO):
        if isinstance(item, Rejected):
            yield item
            continue
        kind, origin, row = item
        found += kind != "categories"
        problem = "not an object"
        if isinstance(row, dict):
            add = {"images": _image, "annotations": _annotation, "categories": _category}[kind]
            problem = add(row, pool, number, _counted(origin))
        if problem:
            name = (
                _name(row.get("image_id" if kind == "annotations" else "id")) if isinstance(row, dict) else ""
            )
            yield Rejected(_counted(origin), name, "fields", f"{kind}: {problem}")
    if not found:
        yield Rejected(f"{file}:0", "", "read", "neither images nor annotations as COCO has them")


def _name(value: Any) -> str:
    """COCO's way to write an image's number, also of one in a text; any other id as it is, '' for what is none."""
    number = fields.as_integer(value)
    if isinstance(value, float) and number != value:
        return ""
    if number is not None and (not isinstance(value, str) or (value.isascii() and value.isdecimal())):
        return f"{number:012d}"
    return fields.as_text(value) or ""


def _counted(origin: str) -> str:
    """'file:list/index' as 'file:index', which reports take apart."""
    file, _, place = origin.rpartition(":")
    return f"{file}:{place.rpartition('/')[2]}"


def _image(row: dict[str, Any], pool: Pool, number: int, origin: str) -> str:
    name = _name(row.get("id"))
    if not name:
        return "no id"
    image = fields.text(row, "file_name") or media.url_name(fields.text(row, "coco_url") or "")
    if not image:
        return "no file name"
    # The same picture stands in captions, instances and LVIS; whoever comes first names its file.
    if pool.is_of(name, number):
        return _ANOTHERS
    pool.add_picture(name, image, (_length(row, "width"), _length(row, "height")), Path(origin).name, number)
    return ""


def _length(row: dict[str, Any], key: str) -> float | None:
    value = fields.number(row, key)
    return value if value is not None and value > 0 else None


def _annotation(row: dict[str, Any], pool: Pool, number: int, origin: str) -> str:
    name = _name(row.get("image_id"))
    if not name:
        return "no image_id"
    if "caption" in row:
        pool.add_caption(name, fields.text(row, "caption") or "")
        return ""
    if "bbox" not in row:
        return "neither caption nor bbox"
    category = fields.text(row, "category_id")
    pool.add_box(name, f"\0{number}:{category}" if category else "", row["bbox"], "sides")
    return ""


def _category(row: dict[str, Any], pool: Pool, number: int, origin: str) -> str:
    key, name = fields.text(row, "id"), fields.text(row, "name")
    if not key or not name:
        return "no id or no name"
    is_new = pool.add_category(f"{number}:{key}", " ".join(name.replace("_", " ").split()))
    return "" if is_new else _ANOTHERS


def jsonl(path: str | Path, pool: Pool) -> Iterator[Rejected]:
    """Reads lines of {id, image, captions, instances: [{category, bbox}]}, the form of LLaVA's `caps_boxes` files.

    Boxes are x1, y1, x2, y2: fractions, or pixels where a number of the picture's boxes is above 2 (then `width` and
    `height` are needed). `id` may be missing where there is an image: then it is the file's name without suffix.
    """
    for item in lines.read_list(path, _NEXT_LINE):
        if isinstance(item, Rejected):
            yield item
            continue
        origin, row = item
        if not isinstance(row, dict):
            yield Rejected(origin, "", "read", "line is not an object")
            continue
        image = fields.text(row, "image") or ""
        name = fields.text(row, "id") or (PurePosixPath(image).stem if image else "")
        if not name:
            yield Rejected(origin, "", "fields", "neither id nor image")
            continue
        captions, boxes = _list(row.get("captions")), _list(row.get("instances"))
        if captions is None or boxes is None:
            what = "captions" if captions is None else "instances"
            yield Rejected(origin, name, "fields", f"{what} is no list")
            continue
        if name in pool:
            yield Rejected(origin, name, "fields", _ANOTHERS)
            continue
        pool.add_picture(
            name, image or name, (_length(row, "width"), _length(row, "height")), Path(origin).name
        )
        for caption in captions:
            pool.add_caption(name, fields.as_text(caption) or "")
        found = [one if isinstance(one, dict) else {} for one in boxes]
        form = symbolic.pixels_or_fractions(one.get("bbox") for one in found)
        for one in found:
            pool.add_box(name, (fields.text(one, "category") or "").lstrip("\0"), one.get("bbox"), form)


def _list(value: Any) -> list[Any] | None:
    """The list; a single caption counts as one of one, nothing as an empty one."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    return value if isinstance(value, list) else None


def strays(pool: Pool) -> Iterator[Rejected]:
    """Annotations of pictures that no file names."""
    for name, _ in pool.strays():
        yield Rejected("annotations:0", name, "fields", "annotations of an image that is not listed")
