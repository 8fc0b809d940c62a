"""HVU's release in small, under a --data-root: cut videos by both ways of naming, and a whole one."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

from tests.jaxllava.benchmark_fixtures.small_media import film, frames, text

CATEGORIES = ("scene", "object", "action", "event", "attribute", "concept")
# Many words of like length, dealt at random: a model that has learned nothing then picks tags of every category.
_WORDS = ["_".join(three) for three in itertools.product(("ba", "ke", "li", "mo", "nu"), repeat=3)]
_DEALT = random.Random(1).sample(_WORDS, 120)
TAGS = {category: sorted(_DEALT[at::6]) for at, category in enumerate(CATEGORIES)}


def of(category: str, *which: int) -> str:
    return "|".join(TAGS[category][at] for at in which)


VIDEOS = (
    (
        "|".join(of(category, at) for at, category in enumerate(CATEGORIES)) + "|nothing",
        "vvvvvvvvvv1",
        10,
        20,
    ),
    (f"{of('scene', 0, 1)}|{of('object', 0)}", "vvvvvvvvvv2", 0, 10),
    (of("concept", 0), "vvvvvvvvvv3", 0, 2),
    (f"{of('event', 0, 1)}|{of('action', 6)}", "vvvvvvvvvv4", 3, 13),
    *((f"{of('attribute', 0)}|{of('object', 3)}", f"wwwwwwwwww{n}", 5, 15) for n in range(4)),
)


def write(root: Path) -> None:
    folder = root / "hvu"
    rows = [f"{tag},{category.capitalize()}" for category in CATEGORIES for tag in TAGS[category]]
    text(folder / "HVU_Tags_Categories_V1.0.csv", "\n".join(["Tag,Category", *rows]))
    lines = [f"{tags},{id},{start},{end}" for tags, id, start, end in VIDEOS]
    bad = ["nothing,vvvvvvvvvv5,0,10", f"{of('scene', 0)},vvvvvvvvvv6,9,3"]
    text(folder / "HVU_Val_V1.0.csv", "\n".join(["Tags,youtube_id,time_start,time_end", *lines, *bad]))
    frames(folder / "videos" / "vvvvvvvvvv1_10_20.npy", 1)
    frames(folder / "videos" / "vvvvvvvvvv2_000000_000010.npy", 2)
    film(folder / "videos" / "vvvvvvvvvv3.mp4", seconds=4)
    frames(folder / "videos" / "vvvvvvvvvv4_3_13.npy", 4)
    for n in range(4):
        frames(folder / "videos" / f"wwwwwwwwww{n}_5_15.npy", n)


WRITERS = {"hvu": write}
