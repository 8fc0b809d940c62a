"""The same picture twice: exact by SHA-256, perceptual by a difference hash checked against a colour
thumbnail.

The hash is our own 8x8 difference hash (the grey picture at 9x8, each pixel compared with its right
neighbour); the `imagehash` package is not needed. Alone it confuses drawings that differ in colour, hence
the thumbnail.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from input_pipeline.behavior.clean import Rules
from input_pipeline.types import Comment, Post

_BANDS = 4  # hashes within 3 bits of each other agree in at least one of 4 bands of 16 bits


@dataclass(frozen=True)
class Fingerprint:
    """What two copies of one picture share."""

    key: str  # of the post
    order: tuple[float, str]  # the first post is the one with the least
    sha256: str
    hash: int  # 64-bit difference hash
    thumbnail: bytes  # uint8 [8, 8, 3]


def fingerprint(key: str, created: float | None, data: bytes, image: Image.Image) -> Fingerprint:
    """Computes the fingerprint of an encoded file and the RGB image it decodes to."""
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX)).astype(np.int16)  # [8, 9]
    bits = (grey[:, 1:] > grey[:, :-1]).ravel()  # [64]
    value = int.from_bytes(np.packbits(bits).tobytes(), "big")
    thumbnail = image.resize((8, 8), Image.Resampling.BOX).tobytes()
    order = (created if created is not None else float("inf"), key)
    return Fingerprint(key, order, hashlib.sha256(data).hexdigest(), value, thumbnail)


def find_duplicates(prints: Iterable[Fingerprint], rules: Rules) -> dict[str, str]:
    """Returns {key: key of the first post with the same picture} for every picture that occurs more than
    once.

    The first post maps to itself. Pictures are compared with first occurrences only, so a chain of ever
    slightly changed copies does not join what its ends do not share.
    """
    first_by_sha: dict[str, str] = {}
    by_band: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    firsts: list[Fingerprint] = []
    thumbnails: list[np.ndarray] = []  # [8, 8, 3] of each first
    owner: dict[str, str] = {}
    for item in sorted(prints, key=lambda p: p.order):
        if item.sha256 in first_by_sha:
            owner[item.key] = first_by_sha[item.sha256]
            continue
        thumbnail = np.frombuffer(item.thumbnail, np.uint8).astype(np.int16)
        bands = [(band, item.hash >> (16 * band) & 0xFFFF) for band in range(_BANDS)]
        match = None
        for candidate in sorted({number for band in bands for number in by_band[band]}):
            if (firsts[candidate].hash ^ item.hash).bit_count() > rules.hash_distance:
                continue
            if np.abs(thumbnails[candidate] - thumbnail).mean() <= rules.thumbnail_distance:
                match = firsts[candidate].key
                break
        first_by_sha[item.sha256] = owner[item.key] = match or item.key
        if match is None:
            for band in bands:
                by_band[band].append(len(firsts))
            firsts.append(item)
            thumbnails.append(thumbnail)
    repeated = {first for key, first in owner.items() if key != first}
    return {key: first for key, first in owner.items() if first in repeated}


def merge(posts: Iterable[Post], first_id: str, merge_comments: bool) -> tuple[Post, list[Post]]:
    """Returns the first post, with the comments of its repeats added unless switched off, and the repeats."""
    posts = sorted(posts, key=lambda p: (p.id != first_id, p.created or float("inf"), p.id))
    first, repeats = posts[0], posts[1:]
    if not merge_comments:
        return first, repeats
    comments: dict[str, Comment] = {}
    for post in posts:
        for comment in post.comments:
            comments.setdefault(comment.id, comment)
    return replace(first, comments=tuple(comments.values())), repeats
