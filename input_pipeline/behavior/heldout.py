"""Which posts, pictures and texts are held out."""

from __future__ import annotations

import hashlib


def is_heldout(key: str, fraction: float) -> bool:
    """Whether a post, image or text is held out: a stable function of its key, equal on every machine and
    run.
    """
    share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    return share < fraction
