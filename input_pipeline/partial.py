"""Files that appear under their names only when they are whole."""

from __future__ import annotations

import os
from pathlib import Path


def partial_of(path: str | Path) -> Path:
    """Where to write what will be `path`: beside it, and of this process alone.

    A worker that outlives its run, as one may after `kill -9`, then cannot spoil what the next run writes.
    """
    return Path(f"{path}.{os.getpid()}.partial")
