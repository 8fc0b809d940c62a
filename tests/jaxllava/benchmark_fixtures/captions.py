"""A folder of pictures to caption, under a --data-root."""

from __future__ import annotations

from pathlib import Path

from tests.jaxllava.benchmark_fixtures.small_media import picture, text


def write(root: Path) -> None:
    for seed, name in enumerate(("a.jpg", "b.png", "more/c.jpg", "more/d.webp")):
        picture(root / "dense_captions" / "images" / name, seed)
    text(root / "dense_captions" / "images" / "notes.txt", "not a picture")


WRITERS = {"dense_captions": write}
