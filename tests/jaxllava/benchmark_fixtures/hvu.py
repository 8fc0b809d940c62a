"""HVU's release in small, under a --data-root: cut videos by both ways of naming, and a whole one."""

from __future__ import annotations

from pathlib import Path

from tests.jaxllava.benchmark_fixtures.small_media import film, frames, text

CATEGORIES = ("scene", "object", "action", "event", "attribute", "concept")
TAGS = {category: [f"{category}_{letter}" for letter in "abcdefg"] for category in CATEGORIES}
VIDEOS = (
    ("scene_a|object_b|action_c|event_d|attribute_e|concept_f|nothing", "vvvvvvvvvv1", 10, 20),
    ("scene_a|scene_b|object_a", "vvvvvvvvvv2", 0, 10),
    ("concept_a", "vvvvvvvvvv3", 0, 2),
    ("event_a|event_b|action_g", "vvvvvvvvvv4", 3, 13),
)


def write(root: Path) -> None:
    folder = root / "hvu"
    rows = [f"{tag},{category.capitalize()}" for category in CATEGORIES for tag in TAGS[category]]
    text(folder / "HVU_Tags_Categories_V1.0.csv", "\n".join(["Tag,Category", *rows]))
    lines = [f"{tags},{id},{start},{end}" for tags, id, start, end in VIDEOS]
    bad = ["nothing,vvvvvvvvvv5,0,10", "scene_a,vvvvvvvvvv6,9,3"]
    text(folder / "HVU_Val_V1.0.csv", "\n".join(["Tags,youtube_id,time_start,time_end", *lines, *bad]))
    frames(folder / "videos" / "vvvvvvvvvv1_10_20.npy", 1)
    frames(folder / "videos" / "vvvvvvvvvv2_000000_000010.npy", 2)
    film(folder / "videos" / "vvvvvvvvvv3.mp4", seconds=4)
    frames(folder / "videos" / "vvvvvvvvvv4_3_13.npy", 4)


WRITERS = {"hvu": write}
