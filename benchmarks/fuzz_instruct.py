"""Readers of `jaxllava prepare instruct` and `prepare captions` under test: annotations, JSON lines, captions,
posts and their scenes."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from benchmarks import fuzz_records as draw
from benchmarks.fuzz_damage import dumps
from benchmarks.fuzz_kind import Kind, Wrong
from input_pipeline import records
from input_pipeline.behavior import told_scenes
from input_pipeline.errors import UserError
from input_pipeline.instruct import captions, plan, posts, readers
from input_pipeline.instruct.pool import Pool
from input_pipeline.instruct.symbolic import Symbolic
from input_pipeline.sources import fields, llava_json, media
from input_pipeline.sources.lines import Passed
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Record, Turn

_CUT = "a box that reaches beyond the picture (cut to it)"  # of a box that is taken
_CATEGORIES = [{"id": n, "name": name} for n, name in ((1, "cup"), (2, "traffic_light"), (90, "dog"))]
_SPLIT = "behavior_train"


def _number(rng: Random) -> int:
    return rng.randrange(10**11)


# --- annotations of COCO and LVIS --------------------------------------------------------------------------


def _picture(what: str, rng: Random) -> dict[str, Any]:
    """A picture with its annotations."""
    number = _number(rng)
    image: dict[str, Any] = {"id": number, "width": 640, "height": 480, "license": 3}
    name = f"{number:012d}.jpg"
    if what == "lvis":
        image |= {"coco_url": f"http://images.cocodataset.org/train2017/{name}", "neg_category_ids": [2]}
    else:
        image["file_name"] = rng.choice((name, f"COCO_val2014_{name}"))
    told = [_annotation(what, rng, number) for _ in range(rng.randint(0, 5))]
    return {"image": image, "annotations": told}


def _annotation(what: str, rng: Random, image: int) -> dict[str, Any]:
    row: dict[str, Any] = {"id": _number(rng), "image_id": image}
    if what == "captions":
        return row | {"caption": draw.words(rng)}
    box = [rng.random() * 600, rng.random() * 400, rng.random() * 60, rng.random() * 90]
    return row | {
        "bbox": box,
        "category_id": rng.choice((1, 2, 90)),
        "segmentation": [[1.0, 2.5, 3.0]],
        "area": 7.5,
    }


def _as_coco(rng: Random, rows: list[Any], layout: str) -> dict[str, bytes]:
    lists: dict[str, list[Any]] = {"images": [], "annotations": []}
    for row in rows:
        row = row if isinstance(row, dict) else {}
        lists["images"].append(row.get("image"))
        told = row.get("annotations")
        lists["annotations"] += told if isinstance(told, list) else []
    if layout == "mixed":  # annotations of a picture may stand anywhere
        rng.shuffle(lists["annotations"])
    members = {"info": {"year": 2014, "a": [1]}, **lists, "categories": _CATEGORIES, "licenses": [{"id": 1}]}
    names = rng.sample(list(members), len(members))
    return {"a.json": dumps({name: members[name] for name in names}, indent=rng.choice((None, None, 1)))}


def _read_coco(path: Path, library: media.Library) -> Iterator[Any]:
    pool = _new_pool(path)
    try:
        yield from readers.coco(path, pool)
        pool.finish()
        for _, count in pool.strays():
            yield Passed(f"{path}", count, "annotations of an image that is not listed")
        yield from pool.read()
    finally:
        pool.close()


def _new_pool(path: Path) -> Pool:
    place = path.parent / "pool.sqlite"
    place.unlink(missing_ok=True)
    return Pool(place)


def _annotated(item: Any) -> int:
    """A picture accounts for itself and for all that is told of it, taken or counted as a fault."""
    if isinstance(item, Symbolic):
        faults = sum(count for reason, count in item.faults.items() if reason != _CUT)
        return 1 + len(item.captions) + len(item.boxes) + faults
    return item.count if isinstance(item, Passed) else 1


# --- JSON lines of pictures in words -----------------------------------------------------------------------


def _told_picture(rng: Random) -> dict[str, Any]:
    name = f"p{_number(rng)}"
    boxes = [
        {"category": rng.choice(("cup", "dog")), "bbox": [0.1, 0.2, round(0.3 + rng.random() / 2, 3), 0.75]}
        for _ in range(rng.randint(0, 4))
    ]
    row = {"id": name, "image": rng.choice(draw.PICTURES), "captions": [draw.words(rng)], "instances": boxes}
    keys = list(row) if rng.random() < 0.5 else rng.sample(list(row), len(row))
    return {key: row[key] for key in keys} | {"width": 640, "height": 480}


def _read_lines(path: Path, library: media.Library) -> Iterator[Any]:
    pool = _new_pool(path)
    try:
        yield from readers.jsonl(path, pool)
        pool.finish()
        yield from pool.read()
    finally:
        pool.close()


def _survey(what: str, path: Path, library: media.Library) -> Iterator[Any]:
    """The whole way to the requests; what its report counts is held against what it yields and writes."""
    work = Path(tempfile.mkdtemp(dir=path.parent))
    try:
        images = str(path.parent / "root") if what == "jsonl" else ""
        files: dict[str, Any] = {what: (str(path),)}
        recipe = plan.Recipe(**files, images=images, max_bad_fraction=1.0)
        made = plan.Plan(recipe, work)
        try:
            found = made.survey(work / "quarantine.jsonl")
        except UserError as error:
            raise UserError(f"{path}: {error}") from None  # it has but this one
        rows = [json.loads(line) for line in (work / "quarantine.jsonl").read_text("utf-8").split("\n")[:-1]]
        told = Counter(row["reason"] for row in rows if row["kind"] != "part")
        parts: Counter[str] = Counter()
        for row in rows:
            parts[row["reason"]] += row["count"] if row["kind"] == "part" else 0
        if told != found.rejected or +parts != found.faults:
            raise Wrong(
                f"quarantine.jsonl and the summary differ: {told} {found.rejected} {parts} {found.faults}"
            )
        asked = list(made.asked())
        if Counter(one.kind for one in asked) != found.asked:
            raise Wrong(f"asked otherwise than was counted: {found.asked}")
        subjects = {one.subject.id: one.subject for one in asked}
        json.dumps([one.messages for one in asked], ensure_ascii=False).encode()
        for reason, count in found.rejected.items():
            yield Passed(str(path), count, reason)
        yield from subjects.values()
        silent = found.read - found.rejected.total() - len(subjects)
        if silent < 0 or silent > sum(found.not_asked.values()):
            raise Wrong(f"{silent} pictures are neither asked about nor named: {found.not_asked}")
        yield Passed(str(path), silent, "no kind can be asked")
    finally:
        shutil.rmtree(work)


# --- captions ----------------------------------------------------------------------------------------------


def _caption(rng: Random) -> dict[str, Any]:
    row: dict[str, Any] = {"id": f"c{_number(rng)}", "image": rng.choice(draw.PICTURES)}
    key = rng.choice(("caption", "captions", "blip_caption", "text", "conversations"))
    said: Any = draw.words(rng)
    if key == "captions":
        said = [draw.words(rng) for _ in range(rng.randint(1, 3))]
    if key == "conversations":
        said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": said}]
    return {key: said, **row} if rng.random() < 0.3 else {**row, key: said}


def _captions_of(records: list[Any], items: list[Any]) -> tuple[int, int]:
    """A list of captions is as many records as it has; an empty one is one that has none."""
    expected = 0
    for row in records:
        several = None
        image = (fields.text(row, "image") if isinstance(row, dict) else "") or "@raw-"
        if isinstance(row, dict) and not image.startswith(
            "@raw-"
        ):  # a mark becomes a number or a list in the file
            told = (row.get(key) for key in ("caption", "captions", "blip_caption", "text"))
            several = next((value for value in told if value is not None), None)
        expected += len(several) if isinstance(several, list) and several else 1
    return expected, len(items)


def _read_captions(path: Path, library: media.Library) -> Iterator[Any]:
    return captions.read([path])


def _make_captions(path: Path, library: media.Library) -> Iterator[Any]:
    """The whole command; what it wrote is read again."""
    work = Path(tempfile.mkdtemp(dir=path.parent))
    try:
        recipe = captions.Recipe((str(path),), max_bad_fraction=1.0)
        summary = captions.make(recipe, work, work)
        rejected = Counter(
            json.loads(line)["reason"]
            for line in (work / captions.QUARANTINE).read_text("utf-8").split("\n")[:-1]
        )
        if dict(rejected.most_common()) != summary["not_used"]:
            raise Wrong(f"quarantine.jsonl and the summary differ: {rejected} {summary['not_used']}")
        written = list(llava_json.read(work / captions.JSON, path.parent / "root", library))
        taken = [one for one in written if not isinstance(one, Rejected)]
        bad = [
            one for one in written if isinstance(one, Rejected) and one.kind == "bad" and one.stage != "media"
        ]
        if len(written) != summary["written"] or bad:
            raise Wrong(f"{summary['written']} written, {len(written)} read again; {bad[:1]}")
        for reason, count in rejected.items():
            yield Passed(str(path), count, reason)
        yield Passed(str(path), len(written) - len(taken), "media is gone")
        yield from taken
        captions.text(summary, work).encode()
    finally:
        shutil.rmtree(work)


# --- posts and their scenes --------------------------------------------------------------------------------


def _post(rng: Random) -> dict[str, Any]:
    return {
        "post_id": f"v{_number(rng)}", "source": rng.choice(("reddit", "youtube")), "title": draw.words(rng),
        "content": draw.words(rng), "likes": rng.randrange(900), "views": 1000, "like_rate": rng.random(),
        "comments": [draw.words(rng) for _ in range(rng.randint(0, 3))], "origin": "posts.jsonl:3",
        "replay": [[0.0, 2.0, 0.5], [2.0, 4.0, 1.0]], "scene_times": [[0.0, 2.0], [2.0, 4.0]],
    }  # fmt: skip


def _meta(row: Any) -> dict[str, Any]:
    """What a writer of records can have written, which is JSON."""
    try:
        meta = json.loads(dumps(row).decode("utf-8", "replace"), parse_int=lambda text: int(text) % 2**63)
        meta = msgspec.json.decode(msgspec.json.encode(_plain(meta)))
    except (ValueError, RecursionError):
        return {}
    return meta if isinstance(meta, dict) else {}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {fields.writable(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return fields.writable(value) if isinstance(value, str) else value


def _as_records(rng: Random, rows: list[Any], layout: str) -> dict[str, bytes]:
    """A prepared data set whose records tell posts. What is no object tells none."""
    with tempfile.TemporaryDirectory() as place:
        turns = (Turn("human", "<image>\nWhat?"), Turn("gpt", "That."))
        made = (Record(f"r{n}", "behavior", (b"x",), turns, _meta(row)) for n, row in enumerate(rows))
        root = Path(place)
        records.write({_SPLIT: made}, root)
        # The reader is given the first.
        found = sorted(root.rglob("*.array_record*")) + sorted(root.rglob("*.json"))
        return {str(file.relative_to(root)): file.read_bytes() for file in found}


def _read_posts(path: Path, library: media.Library) -> Iterator[Any]:
    records.data_hash(path.parent, _SPLIT)  # as a recipe's fingerprint has it
    return posts.read(path.parent, [_SPLIT])


def _scenes(rng: Random) -> dict[str, Any]:
    number = _number(rng)
    scene = {"caption": draw.words(rng), "start": 0.0, "end": 2.0, "tags": ["a"], "foreground": ["Navy_Blue"]}
    return {"media": f"f{number}.mp4", "sha256": f"{number:064x}", "scenes": [scene], "asr": draw.words(rng)}


def _read_scenes(path: Path, library: media.Library) -> Iterator[Any]:
    index = path.parent / "scenes.sqlite"
    index.unlink(missing_ok=True)
    told_scenes.build(path, "sha256", index)
    found = told_scenes.load(index)
    assert found is not None
    seen = set()
    for line in path.read_bytes().decode("utf-8", "replace").split("\n"):
        row = json.loads(line) if line.strip() else {}
        key = fields.text(row, "sha256") or ""
        told = found.scenes_of(key) if key else None
        if key and told is None:
            raise Wrong(f"scenes of {key!r} are lost")
        if told is not None and key not in seen:
            yield told
        elif told is not None:
            yield Passed(str(path), 1, "of a medium that is told already")
        seen.add(key)


KINDS: dict[str, Kind] = {
    **{
        f"instruct_coco_{what}": Kind(
            partial(_picture, what),
            _read_coco,
            _as_coco,
            ("in order", "mixed"),
            (),
            lambda record: [record["image"], *record["annotations"]],
            count=lambda record: 1 + len(record["annotations"]),
            size=20,
            names=lambda record: [f"{record['image']['id']:012d}"],
            weight=_annotated,
        )
        for what in ("captions", "instances", "lvis")
    },
    "instruct_jsonl": Kind(
        _told_picture,
        _read_lines,
        layouts=("lines", "list"),
        lines=(),
        size=30,
        names=lambda record: [record["id"]],
    ),
    "instruct_survey": Kind(
        _told_picture,
        partial(_survey, "jsonl"),
        layouts=("lines",),
        lines=(),
        size=30,
        packs=False,
        refuses=True,
        is_named=True,
    ),
    "instruct_survey_coco": Kind(
        partial(_picture, "captions"),
        partial(_survey, "coco"),
        _as_coco,
        ("in order", "mixed"),
        (),
        account=lambda records, items: (0, 0),  # of pictures and annotations, which `instruct_coco_captions` counts
        size=20,
        packs=False,
        apart=False,
        refuses=True,
        names=lambda record: [f"{record['image']['id']:012d}"] if record["annotations"] else [],
    ),
    "instruct_captions": Kind(
        _caption,
        _read_captions,
        layouts=("lines", "list"),
        lines=(),
        account=_captions_of,
        size=30,
        names=lambda record: [record["id"]],
    ),
    "instruct_captions_made": Kind(
        _caption,
        _make_captions,
        layouts=("lines", "list"),
        lines=(),
        account=_captions_of,
        size=30,
        packs=False,
        apart=False,
        refuses=True,
    ),
    "instruct_posts": Kind(
        _post, _read_posts, _as_records, ("records",), (), size=12, packs=False, refuses=True, is_named=True,
        is_binary=True, names=lambda record: [f"{record['source']}/{record['post_id']}"],
    ),
    "instruct_scenes": Kind(
        _scenes, _read_scenes, layouts=("lines",), lines=(), size=5, packs=False, refuses=True
    ),
}  # fmt: skip
