"""Captions as pairs of stage 1: each with one of the brief instructions, as LLaVA JSON and as records ('caption').

Captions are streamed twice where they are chosen by their concepts, once where all are taken; memory is a byte a
caption and what `concepts` takes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from input_pipeline import records
from input_pipeline.behavior.heldout import is_heldout
from input_pipeline.errors import UserError
from input_pipeline.images import ImageError, open_image
from input_pipeline.instruct import books, concepts, phrases, samples
from input_pipeline.sources import fields, lines, llava_json, media
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Record

_FIELDS = ("caption", "captions", "blip_caption", "text")
# Where a line that is broken ends, the next record begins.
_NEXT_LINE = re.compile(rf'\{{\s*"(?:id|image|video|conversations?|messages|{"|".join(_FIELDS)})"\s*:')
JSON, RECORDS, QUARANTINE, SUMMARY = "captions.json", "records", "quarantine.jsonl", "summary.json"


@dataclass(frozen=True)
class Caption:
    """One caption of one picture. `key` names it among all of a file of captions with one id for each picture."""

    key: str
    id: str
    image: str
    text: str
    origin: str


@dataclass(frozen=True)
class Recipe:
    """What to read, and what to choose.

    Fields:
        files: lists or lines of {id, image, caption}; see `read`.
        images: folder of the pictures; '' for LLaVA JSON alone.
        instructions: one of them is drawn for each caption; () for ours.
        balance: whether captions are chosen by their noun phrases; `least` and `most` as `concepts` has them.
    """

    files: tuple[str, ...]
    images: str = ""
    balance: bool = False
    least: int = concepts.LEAST
    most: int = concepts.MOST
    seed: int = 0
    heldout: float = 0.15
    max_bad_fraction: float = 0.05
    instructions: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises UserError for what cannot be."""
        for path in self.files:
            if not Path(path).is_file():
                raise UserError(f"{path}: no such file")
        if self.images and not Path(self.images).is_dir():
            raise UserError(f"--images {self.images}: no such folder")
        for name in ("heldout", "max_bad_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    f"--{name.replace('_', '-')} {getattr(self, name):g}: a share from 0 to 1 is needed"
                )
        for name in ("least", "most"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: at least 1 is needed")


def read(paths: Iterable[str | Path]) -> Iterator[Caption | Rejected]:
    """Yields every caption of lists or lines of {id, image, caption}.

    The caption may also be called "captions" (a list: a pair for each), "blip_caption" or "text", or be the first
    answer of "conversations" (LLaVA's own files). Without "id" the image's name without suffix is it.
    """
    for path in paths:
        for item in lines.read_list(path, _NEXT_LINE):
            yield from [item] if isinstance(item, Rejected) else _of_row(*item)


def _of_row(origin: str, row: Any) -> Iterator[Caption | Rejected]:
    if not isinstance(row, dict):
        yield Rejected(origin, "", "read", "element is not an object")
        return
    image = fields.text(row, "image") or ""
    name = fields.text(row, "id") or PurePosixPath(image).stem
    if not image:
        yield Rejected(origin, name, "fields", "no image")
        return
    value = next((row[key] for key in _FIELDS if row.get(key) is not None), None)
    if value is None and (turns := llava_json.turns_of(row)) and not isinstance(turns, str):
        value = turns[1].text
    several = value if isinstance(value, list) and value else [None if value == [] else value]
    for number, one in enumerate(several):
        text = " ".join((fields.as_text(one) or "").split())
        if llava_json.IMAGE in text:
            yield Rejected(origin, name, "fields", f"{llava_json.IMAGE} in a caption")
        elif text:
            yield Caption(f"{name}#{number}", name, image, text, origin)
        else:
            yield Rejected(origin, name, "fields", "no caption" if one is None else "a caption without text")


def make(recipe: Recipe, work: Path, out: Path, tell: Any = lambda note: None) -> dict[str, Any]:
    """Writes captions.json, records, quarantine.jsonl and summary.json into `out` and returns the summary.

    Raises: UserError for more bad captions than `max_bad_fraction`, for none that is left, and where TextBlob is
    needed and missing.
    """
    chosen, counted = None, None
    if recipe.balance:
        tell("counting noun phrases")
        pairs = concepts.Pairs(work / "pairs", recipe.seed)
        for item in read(recipe.files):
            if isinstance(item, Caption):
                pairs.add(item.key, phrases.of(item.text))
        pairs.finish()
        chosen, counted = concepts.choose(pairs, recipe.least, recipe.most)
    library = media.build([recipe.images], work / "media.sqlite") if recipe.images else None
    tell("writing")
    rejected: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    bad = total = place = 0
    with (
        (out / QUARANTINE).open("w", encoding="utf-8") as file,
        (out / JSON).open("w", encoding="utf-8") as listed,
        records.ShardWriter(out, "0") as writer,
    ):
        listed.write("[")
        written = 0
        for item in read(recipe.files):
            total += 1
            if isinstance(item, Caption):
                place += 1
                if chosen is not None and not chosen[place - 1]:
                    continue
                data = _picture(recipe, item, library)
                if not isinstance(data, Rejected):
                    turns = samples.brief(item.text, item.key, recipe.seed, recipe.instructions)
                    kept = books.Kept(item.key, "caption", item.id, item.image, "", "", turns)
                    listed.write((",\n" if written else "\n") + books.llava_line(kept))
                    written += 1
                    if data:
                        stem = PurePosixPath(item.image).stem
                        part = "heldout" if is_heldout(stem, recipe.heldout) else "train"
                        name = PurePosixPath(item.image).name
                        meta = {"origin": Path(item.origin).name, "images": [name]}
                        writer.add(f"caption_{part}", Record(item.id, "caption", (data,), turns, meta))
                    continue
                item = data
            rejected[item.reason] += 1
            bad += item.kind == "bad"
            if len(named := examples.setdefault(item.reason, [])) < 3:
                named.append(item.id or item.origin)
            file.write(json.dumps(books.quarantine_row(item), ensure_ascii=False) + "\n")
        listed.write("\n]\n")
    if bad > recipe.max_bad_fraction * total:
        worst = rejected.most_common(1)[0][0]
        raise UserError(
            f"{bad} of {total} captions are bad (most often: {worst}; the first: {', '.join(examples[worst])}); "
            "repair the input or raise --max-bad-fraction"
        )
    if not written:
        raise UserError("no caption is left" + (f" ({rejected.most_common(1)[0][0]})" if rejected else ""))
    splits: dict[str, int] = {}
    if writer.sizes:
        shards = {split: [(out / f"{split}.0", *size)] for split, size in writer.sizes.items()}
        splits = records.finish(shards, out / RECORDS)
        for split in splits:
            (out / f"{split}.0").unlink()
    return {
        "captions": place,
        "written": written,
        "bad": bad,
        "not_used": dict(rejected.most_common()),
        "examples": examples,
        "concepts": asdict(counted) if counted else None,
        "splits": splits,
        "recipe": asdict(recipe),
    }


def _picture(recipe: Recipe, item: Caption, library: media.Library | None) -> bytes | Rejected:
    """The picture's file, b'' where none is wanted."""
    if not recipe.images:
        return b""
    if llava_json.is_outside(item.image):
        return Rejected(item.origin, item.id, "media", llava_json.OUTSIDE)
    reference = llava_json.locate(recipe.images, item.image, library)
    if not reference:
        return Rejected(item.origin, item.id, "media", "media is gone", kind="gone")
    try:
        data = media.read(reference)
        open_image(data)
        return data
    except ImageError as error:
        return Rejected(item.origin, item.id, "image", error.reason)
    except OSError:
        return Rejected(item.origin, item.id, "image", "image file cannot be read")


def text(summary: dict[str, Any], out: Path) -> str:
    """A summary in a few lines."""
    lines_ = [f"{summary['written']} of {summary['captions']} captions written: {out / JSON}"]
    if found := summary["concepts"]:
        lines_.append(
            f"by their noun phrases {found['chosen']} were chosen: {found['phrases']} phrases, of which "
            f"{found['too_rare']} are too rare and {found['too_common']} more frequent than --most"
        )
    for reason, count in summary["not_used"].items():
        lines_.append(f"not used: {reason}: {count} ({', '.join(summary['examples'][reason])})")
    if summary["splits"]:
        told = ", ".join(f"{name} {count}" for name, count in summary["splits"].items())
        lines_.append(f"records: {out / RECORDS} ({told})")
    return "\n".join(lines_)
