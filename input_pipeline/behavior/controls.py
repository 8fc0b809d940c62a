"""The `shuffled` control: every post keeps its picture and title and is dealt another post's behaviour."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def derangement(ids: Iterable[str], seed: int) -> dict[str, str]:
    """Returns {id: id of another}, each used once, none its own; fewer than two ids give {}.

    The ids are put in an order that depends on the seed and on themselves alone (not on how they were
    read), and each takes from the next. So every behaviour occurs exactly as often as in the true data.
    """
    order = sorted(set(ids), key=lambda i: (hashlib.sha256(f"{seed}/{i}".encode()).digest(), i))
    if len(order) < 2:
        return {}
    return dict(zip(order, order[1:] + order[:1], strict=True))


def is_heldout(key: str, fraction: float) -> bool:
    """Whether a post, image or text is held out: a stable function of its key, equal on every machine and
    run.
    """
    share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    return share < fraction
