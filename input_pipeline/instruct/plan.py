"""What a run asks: its recipe, the pictures or posts it names, and the requests that are drawn for them.

A plan may be gone through as often as one likes; it gives the same requests in the same order each time.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from input_pipeline.behavior import told_scenes
from input_pipeline.behavior.heldout import is_heldout
from input_pipeline.errors import UserError
from input_pipeline.instruct import books, checks, draws, pool, posts, prompts, readers, subjects, symbolic
from input_pipeline.instruct.checks import Rules
from input_pipeline.instruct.subjects import Asked, Subject
from input_pipeline.sources import llava_json, media
from input_pipeline.sources.rejected import Rejected

VERSION = 1  # raise it when the same answers would give other samples


@dataclass(frozen=True)
class Recipe:
    """What to ask about, and how answers are taken.

    Fields:
        coco: annotation files of COCO (captions, instances) and LVIS.
        jsonl: files of pictures in words, a line each.
        posts: in place of these a data set of `jaxllava prepare`; `splits` of it; `scenes`, a file of `verbalise`, and
            what its scenes are found by.
        images: folder of the pictures; '' for LLaVA JSON alone.
        prompts: folder of prompts; '' for ours.
        ratio: {kind: part of the mixture}.
        share: of all pictures, by a draw of their ids.
        languages, coordinates: see `checks.Rules`.
    """

    coco: tuple[str, ...] = ()
    jsonl: tuple[str, ...] = ()
    posts: str = ""
    splits: tuple[str, ...] = ()
    scenes: str = ""
    scenes_by: str = "sha256"
    images: str = ""
    prompts: str = ""
    ratio: Mapping[str, float] = field(default_factory=lambda: dict(draws.PAPER))
    seed: int = 0
    share: float = 1.0
    heldout: float = 0.15
    most_boxes: int = symbolic.MOST_BOXES
    languages: tuple[str, ...] = ("en",)
    coordinates: bool = False
    max_bad_fraction: float = 0.05

    def rules(self, kind: str) -> Rules:
        """What an answer of this kind must pass."""
        rules = {**checks.KINDS, **posts.RULES}[kind]
        return replace(rules, languages=self.languages, coordinates=self.coordinates)

    def check(self) -> None:
        """Raises UserError for what cannot be."""
        if bool(self.posts) == bool(self.coco or self.jsonl):
            raise UserError("give pictures in words (--coco, --jsonl) or posts (--posts), and not both")
        known = subjects.POST_KINDS if self.posts else subjects.PICTURE_KINDS
        for kind, part in self.ratio.items():
            if kind not in known:
                raise UserError(f"--kinds: {kind!r} is no kind of {'posts' if self.posts else 'pictures'}")
            if not 0 <= part < float("inf"):
                raise UserError(f"--ratio: {part:g} for {kind} is not a part of a mixture")
        if not any(self.ratio.values()):
            raise UserError("--ratio: at least one kind must have a part above 0")
        for name in ("share", "heldout", "max_bad_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    f"--{name.replace('_', '-')} {getattr(self, name):g}: a share from 0 to 1 is needed"
                )
        if self.most_boxes < 1:
            raise UserError(f"--most-boxes {self.most_boxes}: at least 1 is needed")
        for path in (*self.coco, *self.jsonl, *((self.scenes,) if self.scenes else ())):
            if not Path(path).is_file():
                raise UserError(f"{path}: no such file")
        files = [Path(path).resolve() for path in (*self.coco, *self.jsonl)]
        if twice := [str(path) for path in files if files.count(path) > 1]:
            raise UserError(f"{twice[0]}: is named twice")
        if self.images and not Path(self.images).is_dir():
            raise UserError(f"--images {self.images}: no such folder")
        for code in self.languages:
            if len(code) not in (2, 3) or not code.islower():
                raise UserError(f"--languages: {code!r} is not a language code such as 'en'")

    def fingerprint(self) -> str:
        """A hash of all that what is asked depends on; of files their names, sizes and times of change."""
        digest = hashlib.sha256(json.dumps([VERSION, asdict(self)], sort_keys=True).encode())
        paths = [Path(path) for path in (*self.coco, *self.jsonl, *((self.scenes,) if self.scenes else ()))]
        for path in paths:
            status = path.stat()
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        for kind, prompt in prompts.load(self.prompts, self.kinds).items():
            digest.update(f"{kind}\0{prompt.digest}\n".encode())
        if self.posts:
            from input_pipeline import records

            for split in self.splits:
                digest.update(records.data_hash(self.posts, split).encode())
        return digest.hexdigest()

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that have a part."""
        return tuple(kind for kind, part in self.ratio.items() if part)


@dataclass
class Survey:
    """What was found on the way through a plan."""

    read: int = 0  # pictures or posts, the bad ones among them
    asked: Counter[str] = field(default_factory=Counter)  # requests by kind
    not_asked: Counter[str] = field(default_factory=Counter)  # 'kind: reason'
    rejected: Counter[str] = field(default_factory=Counter)  # records by reason
    bad: int = 0
    faults: Counter[str] = field(default_factory=Counter)  # parts of records by reason
    examples: dict[str, list[str]] = field(default_factory=dict)  # {reason: some ids}

    def example(self, reason: str, name: str) -> None:
        """Keeps the first names for a reason."""
        if len(kept := self.examples.setdefault(reason, [])) < 3:
            kept.append(name)


class Plan:
    """The requests of a recipe. Its files lie in `work`, which a later run of the same recipe finds again."""

    def __init__(self, recipe: Recipe, work: Path) -> None:
        self.recipe, self.work = recipe, work
        self.prompts = prompts.load(recipe.prompts, recipe.kinds)
        self._library: media.Library | None = None
        self._scenes: told_scenes.ToldScenes | None = None
        self._pool: pool.Pool | None = None
        self._unread: list[Rejected] = []

    def survey(self, quarantine: Path) -> Survey:
        """Goes through all once: counts, and writes a line for every record and part of one that cannot be used.

        Raises: UserError for more bad records than `max_bad_fraction`, or where nothing is left to ask.
        """
        found = Survey()
        with quarantine.open("w", encoding="utf-8") as file:

            def tell(row: dict[str, Any]) -> None:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

            for item in self._all(tell_faults=lambda one: _tell_faults(one, found, tell)):
                found.read += 1
                if isinstance(item, Rejected):
                    found.rejected[item.reason] += 1
                    found.bad += item.kind == "bad"
                    found.example(item.reason, item.id or item.origin)
                    tell(books.quarantine_row(item))
                    continue
                for asked in subjects.asks(item, self.prompts, self.recipe.ratio, self.recipe.seed):
                    if isinstance(asked, Asked):
                        found.asked[asked.kind] += 1
                    else:
                        found.not_asked[": ".join(asked)] += 1
                        found.example(": ".join(asked), item.id)
        worst = found.rejected.most_common(1)
        if found.bad > self.recipe.max_bad_fraction * found.read:
            raise UserError(
                f"{found.bad} of {found.read} records are bad (most often: {worst[0][0]}; the first: "
                f"{', '.join(found.examples[worst[0][0]])}); repair the input or raise --max-bad-fraction"
            )
        if not found.asked.total():
            raise UserError(
                "nothing to ask: "
                + (f"{worst[0][1]} records: {worst[0][0]}" if worst else "no record was found")
            )
        return found

    def asked(self) -> Iterator[Asked]:
        """Every request, in order."""
        for item in self._all():
            if isinstance(item, Subject):
                for one in subjects.asks(item, self.prompts, self.recipe.ratio, self.recipe.seed):
                    if isinstance(one, Asked):
                        yield one

    def part(self, subject: Subject) -> str:
        """'train' or 'heldout'."""
        if self.recipe.posts:
            return subject.split_key
        return "heldout" if is_heldout(subject.split_key, self.recipe.heldout) else "train"

    def _all(self, tell_faults: Any = None) -> Iterator[Subject | Rejected]:
        source = self._posts() if self.recipe.posts else self._pictures(tell_faults)
        for item in source:
            is_nameless = isinstance(item, Rejected) and not item.id  # such as a file that is cut
            if is_nameless or draws.share(self.recipe.seed, "share", item.id) < self.recipe.share:
                yield item

    def _posts(self) -> Iterator[Subject | Rejected]:
        index = self.work / "scenes.sqlite"
        if self.recipe.scenes and self._scenes is None:
            if not index.exists():
                told_scenes.build(self.recipe.scenes, self.recipe.scenes_by, index)
            self._scenes = told_scenes.load(index)
        yield from posts.read(self.recipe.posts, self.recipe.splits, self._scenes)

    def _pictures(self, tell_faults: Any) -> Iterator[Subject | Rejected]:
        if self._pool is None:
            self._fill()
        assert self._pool is not None
        yield from self._unread
        for one in self._pool.read(self.recipe.most_boxes):
            if tell_faults and one.faults:
                tell_faults(one)
            reference = ""
            if self.recipe.images:
                if llava_json.is_outside(one.image):
                    yield Rejected(one.origin, one.id, "media", llava_json.OUTSIDE)
                    continue
                reference = llava_json.locate(self.recipe.images, one.image, self._library) or ""
                if not reference:
                    yield Rejected(one.origin, one.id, "media", "media is gone", kind="gone")
                    continue
            subject = subjects.of_picture(one, reference)
            yield Rejected(one.origin, one.id, "fields", subject) if isinstance(subject, str) else subject

    def _fill(self) -> None:
        """Reads all annotations into a new pool, and lists the media."""
        path = self.work / "pool.sqlite"
        path.unlink(missing_ok=True)
        self._pool = pool.Pool(path)
        for number, name in enumerate(self.recipe.coco):
            self._unread += readers.coco(name, self._pool, number)
        for name in self.recipe.jsonl:
            self._unread += readers.jsonl(name, self._pool)
        self._pool.finish()
        self._unread += readers.strays(self._pool)
        if self.recipe.images:
            self._library = media.build([self.recipe.images], self.work / "media.sqlite")


def _tell_faults(one: symbolic.Symbolic, found: Survey, tell: Any) -> None:
    for reason, count in one.faults.items():
        found.faults[reason] += count
        found.example(reason, one.id)
        tell(
            {
                **books.quarantine_row(Rejected(one.origin, one.id, "parts", reason)),
                "kind": "part",
                "count": count,
            }
        )
