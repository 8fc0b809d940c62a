"""The same picture twice: exact by SHA-256, perceptual by imagehash's pHash checked against a colour thumbnail.

The perceptual hash sees a grey picture. Alone it confuses drawings that differ in colour, hence the
thumbnail.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import imagehash
import numpy as np
from msgspec.structs import replace
from PIL import Image

from input_pipeline.behavior.rules import Rules
from input_pipeline.types import Comment, Post


@dataclass(frozen=True)
class Fingerprint:
    """What two copies of one picture share."""

    sha256: bytes  # 32
    hash: int  # 64-bit pHash
    thumbnail: bytes  # uint8 [8, 8, 3]


def fingerprint(data: bytes, image: Image.Image) -> Fingerprint:
    """Computes the fingerprint of an encoded file and the RGB image it decodes to."""
    bits = imagehash.phash(image).hash.ravel()  # [64]
    thumbnail = image.resize((8, 8), Image.Resampling.BOX).tobytes()
    value = int.from_bytes(np.packbits(bits).tobytes(), "big")
    return Fingerprint(hashlib.sha256(data).digest(), value, thumbnail)


class Pictures:
    """Fingerprints seen so far, to be asked for one near to another."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._by_sha: dict[bytes, int] = {}
        self._thumbnails = np.zeros((1024, 192), np.uint8)
        self._count = 0
        # Two thumbnails differ at least as much as their means do. So a picture meets only those of about its own
        # brightness, a tenth of all, and no near one is missed.
        self._shelves = [_Shelf() for _ in range(256)]

    def find(self, item: Fingerprint) -> int | None:
        """Returns the number of the first picture that is the same, or None."""
        if (same := self._by_sha.get(item.sha256)) is not None:
            return same
        thumbnail = np.frombuffer(item.thumbnail, np.uint8)
        mean, reach = float(thumbnail.mean()), self._rules.thumbnail_distance
        first, last = max(math.floor(mean - reach), 0), min(math.floor(mean + reach), 255)
        value, distance = np.uint64(item.hash), self._rules.hash_distance
        near = [
            found for shelf in self._shelves[first : last + 1] if (found := shelf.near(value, distance)).size
        ]
        if not near:
            return None
        candidates = np.sort(np.concatenate(near))
        difference = np.abs(self._thumbnails[candidates].astype(np.int16) - thumbnail).mean(-1)
        candidates = candidates[difference <= reach]
        return int(candidates[0]) if candidates.size else None

    def add(self, item: Fingerprint) -> int:
        """Adds a picture and returns its number."""
        number = self._count
        if number == len(self._thumbnails):
            self._thumbnails = np.concatenate([self._thumbnails, np.zeros_like(self._thumbnails)])
        thumbnail = np.frombuffer(item.thumbnail, np.uint8)
        self._thumbnails[number] = thumbnail
        self._shelves[math.floor(thumbnail.mean())].add(item.hash, number)
        self._by_sha[item.sha256] = number
        self._count += 1
        return number

    def same(self, item: Fingerprint, number: int) -> None:
        """Remembers that this file, too, is picture `number`."""
        self._by_sha[item.sha256] = number


class _Shelf:
    """The hashes of some pictures, in arrays that grow."""

    def __init__(self) -> None:
        self._hashes = np.zeros(16, np.uint64)
        self._numbers = np.zeros(16, np.int64)
        self._count = 0

    def near(self, value: np.uint64, distance: int) -> np.ndarray:
        """The numbers of pictures whose hash differs in at most `distance` bits."""
        hashes = self._hashes[: self._count]
        return self._numbers[: self._count][np.bitwise_count(hashes ^ value) <= distance]

    def add(self, value: int, number: int) -> None:
        if self._count == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.zeros_like(self._hashes)])
            self._numbers = np.concatenate([self._numbers, np.zeros_like(self._numbers)])
        self._hashes[self._count], self._numbers[self._count] = value, number
        self._count += 1


def find_duplicates(prints: Sequence[Fingerprint], rules: Rules) -> dict[int, int]:
    """Returns {index: index of the first with the same picture} for every picture that occurs again.

    The first maps to itself. Pictures are compared with first occurrences only, so a chain of ever slightly
    changed copies does not join what its ends do not share.

    Args:
        prints: the first of several is the one that stays.
        rules: how near is the same.
    """
    pictures = Pictures(rules)
    firsts: list[int] = []  # picture number -> index
    owner: dict[int, int] = {}
    for index, item in enumerate(prints):
        number = pictures.find(item)
        if number is None:
            pictures.add(item)
            firsts.append(index)
        else:
            pictures.same(item, number)
            owner[index] = owner[firsts[number]] = firsts[number]
    return owner


def merge(posts: Sequence[Post], merge_comments: bool) -> tuple[Post, int]:
    """Returns the first post, with the comments of the others added unless switched off, and how many are lost."""
    first = posts[0]
    before = sum(len(post.comments) for post in posts)
    if merge_comments:
        comments: dict[tuple[str, str], Comment] = {}
        for post in posts:
            for comment in post.comments:
                comments.setdefault(
                    (post.id, comment.id), comment
                )  # some sources number from 1 in every post
        first = replace(first, comments=tuple(comments.values()))
    return first, before - len(first.comments)
