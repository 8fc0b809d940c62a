"""Choices by a seeded hash: of a name alone, so that they stay as they are when there is more to choose from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

# Samples of LLaVA-Instruct-158K by kind (paper, section 3).
PAPER = {"conversation": 58, "detail": 23, "complex": 77}


def share(seed: int, *names: str) -> float:
    """A number in [0, 1) for these names."""
    digest = hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def one_of(options: Sequence[str], seed: int, *names: str) -> str:
    """One of the options, all equally likely."""
    return options[int(share(seed, *names) * len(options))]


def kinds(name: str, ratio: Mapping[str, float], seed: int) -> tuple[str, ...]:
    """Which kinds of sample a picture is asked for: the most frequent kind of all pictures, the others of as many as
    their ratio says. Of one picture the kinds are drawn each by itself.
    """
    most = max(ratio.values())
    return tuple(kind for kind, part in ratio.items() if share(seed, "kind", kind, name) < part / most)


def balanced(counts: Mapping[str, int], ratio: Mapping[str, float]) -> dict[str, int]:
    """How many of each kind make the largest mixture in this ratio. A kind of ratio 0, or without one, has none; one
    that was wanted and has no samples leaves the others as they would be without it.

    Samples are then taken by the rank of their draws, so that more of them move only where each kind is cut.
    """
    there = {kind: counts.get(kind, 0) for kind, part in ratio.items() if part > 0 and counts.get(kind, 0)}
    scale = min((count / ratio[kind] for kind, count in there.items()), default=0.0)
    # 58 * (n / 58) may fall short of n by a rounding.
    return {kind: min(count, int(scale * ratio[kind] + 1e-6)) for kind, count in there.items()}
