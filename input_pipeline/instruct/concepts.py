"""Choosing captions so that all concepts are there and none too often, as LLaVA's CC-595K was chosen out of CC3M.

LLaVA's rule (paper, appendix on data): count in how many captions each noun phrase stands; leave out phrases that stand
in fewer than 3; from the rarest phrase up add the captions that have it, and of a phrase with more than 100 captions a
random 100. What comes out does not depend on the order of the phrases, so it is computed phrase by phrase: a caption
is chosen if one of its phrases is rare enough, or drew it.

The random 100 are those of the lowest draws (a hash of seed, phrase and the caption's name), so that the choice is the
same on every machine, and more captions change it only a little.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LEAST, MOST = 3, 100  # the paper's
_PART = 2**22  # (phrase, caption) pairs that are looked at together: 100 MB at the height of sorting
_BLOCK = 2**18
_PAIR = np.dtype([("phrase", "<u8"), ("caption", "<u4"), ("draw", "<u8")])


@dataclass(frozen=True)
class Counted:
    """captions: how many were read; chosen: of them; phrases: all, too_rare and too_common of them. A caption without a
    phrase that counts is never chosen.
    """

    captions: int
    chosen: int
    phrases: int
    too_rare: int
    too_common: int


class Pairs:
    """(phrase, caption) pairs in a file, 20 bytes each, written in the first pass over the captions."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.seed = path, seed
        self.captions = self.count = 0
        self._file = path.open("wb")
        self._held: list[tuple[int, int, int]] = []

    def add(self, name: str, phrases: Iterable[str]) -> None:
        """Adds the next caption. `name`: of the caption, for the draws."""
        for phrase in phrases:
            self._held.append((_hash(phrase), self.captions, _hash(f"{self.seed}\0{phrase}\0{name}")))
        self.captions += 1
        if len(self._held) >= _BLOCK:
            self._put()

    def finish(self) -> None:
        """Ends the first pass."""
        self._put()
        self._file.close()

    def _put(self) -> None:
        np.array(self._held, _PAIR).tofile(self._file)
        self.count += len(self._held)
        self._held = []

    def read(self, part: int, parts: int) -> np.ndarray:
        """The pairs of the phrases of one part of all."""
        found = []
        for start in range(0, self.count, _BLOCK):
            block = np.fromfile(
                self.path, _PAIR, min(_BLOCK, self.count - start), offset=start * _PAIR.itemsize
            )
            found.append(block[(block["phrase"] >> np.uint64(32)) % np.uint64(parts) == part])
        return np.concatenate(found) if found else np.empty(0, _PAIR)


def choose(
    pairs: Pairs, least: int = LEAST, most: int = MOST, part: int = _PART
) -> tuple[np.ndarray, Counted]:
    """Returns (bool [captions] which are chosen, counts). Memory: a byte a caption, and what a part takes."""
    chosen = np.zeros(pairs.captions, bool)
    phrases = rare = common = 0
    parts = max(1, -(-pairs.count // part))
    for number in range(parts):
        found = pairs.read(number, parts)
        found = found[np.lexsort((found["caption"], found["draw"], found["phrase"]))]
        if not len(found):
            continue
        starts = np.flatnonzero(np.r_[True, found["phrase"][1:] != found["phrase"][:-1]])  # [P]
        sizes = np.diff(np.r_[starts, len(found)])  # [P]
        place = np.arange(len(found)) - np.repeat(starts, sizes)  # rank of the draw within its phrase
        chosen[found["caption"][(place < most) & np.repeat(sizes >= least, sizes)]] = True
        phrases += len(sizes)
        rare += int((sizes < least).sum())
        common += int((sizes > most).sum())
    return chosen, Counted(pairs.captions, int(chosen.sum()), phrases, rare, common)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
