"""Decontamination: the ids and pictures of benchmarks, which must not be trained on."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import msgspec

from input_pipeline.behavior.duplicates import Fingerprint, Pictures, fingerprint
from input_pipeline.behavior.rules import Rules
from input_pipeline.errors import UserError
from input_pipeline.images import ImageError, open_image
from input_pipeline.partial import partial_of
from input_pipeline.sources import cells, media
from input_pipeline.types import Post


class EvaluationSet:
    """The ids and pictures of benchmarks, which must not be trained on."""

    def __init__(
        self, ids: Iterable[str], prints: Iterable[Fingerprint], rules: Rules, unreadable: int = 0
    ) -> None:
        self.unreadable = unreadable  # pictures that have no fingerprint
        self._ids = frozenset(ids)
        self._pictures = Pictures(rules)
        for item in prints:
            self._pictures.add(item)

    def has_post(self, post: Post) -> bool:
        """Whether the post's id, or the name of its media or of what it links to, is one of the ids.

        A YouTube link names its video.
        """
        if not self._ids:
            return False
        names = {post.id}
        for name in (*map(media.name_of, post.media), cells.media_name(post.url)):
            names |= {name, PurePosixPath(name).stem, name.partition(".")[0]}
        return not self._ids.isdisjoint(names)

    def has_picture(self, item: Fingerprint) -> bool:
        """Whether the picture is one of the pictures."""
        return self._pictures.find(item) is not None


def read_ids(path: str) -> Iterator[str]:
    """Yields the ids of a file with one a line."""
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            for line in file:
                if word := line.strip():
                    yield word
    except (UnicodeDecodeError, IsADirectoryError):
        raise UserError(f"{path}: must be a text file with an id a line (clean.evaluation_ids)") from None


def prints_under(root: str, index: Path) -> Iterator[tuple[str, Fingerprint | None]]:
    """Yields (reference, fingerprint) of every image under a folder or in a tar file; None if unreadable."""
    for reference in media.build([root], index).references():
        try:
            data = media.read(reference)
            yield reference, fingerprint(data, open_image(data))
        except (ImageError, OSError):
            yield reference, None


def write(path: Path, rules: Rules) -> None:
    """Fingerprints all that the rules name, once for all tasks."""
    ids = [word for file in rules.evaluation_ids for word in read_ids(file)]
    prints, broken = [], 0
    for number, root in enumerate(rules.evaluation_images):
        for _, item in prints_under(root, path.with_name(f"{path.name}.{number}.sqlite")):
            if item is None:
                broken += 1
            else:
                prints.append((item.sha256, item.hash, item.thumbnail))
    partial_of(path).write_bytes(msgspec.msgpack.encode((ids, prints, broken)))
    partial_of(path).replace(path)


@functools.lru_cache(2)
def load(path: Path, rules: Rules) -> EvaluationSet | None:
    """What `write` wrote, or None where there is nothing."""
    if not path.exists():
        return None
    ids, prints, broken = msgspec.msgpack.decode(
        path.read_bytes(), type=tuple[list[str], list[tuple[bytes, int, bytes]], int]
    )
    return EvaluationSet(ids, (Fingerprint(*item) for item in prints), rules, broken)


def warnings(path: Path, rules: Rules) -> list[str]:
    """What the user has to know of the evaluation sets."""
    known = load(path, rules)
    if known is None or not known.unreadable:
        return []
    return [
        f"{known.unreadable} pictures of evaluation sets could not be read: posts with them were not taken out"
    ]
