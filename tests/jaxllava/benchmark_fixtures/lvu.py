"""LVU's release in small, under a --data-root: all nine tasks on the same five videos."""

from __future__ import annotations

from pathlib import Path

from tests.jaxllava.benchmark_fixtures.small_media import frames, text

VIDEOS = ("-aaaaaaaaaa", "bbbbbbbbbbb", "ccccccccccc", "ddddddddddd", "eeeeeeeeeee")
CLASSES = {
    "scene": ("0 office", "1 airport", "2 school", "3 hotel", "9 beach"),
    "way_speaking": ("0 explains", "1 confronts", "2 discuss", "3 teaches", "4 threatens"),
    "relationship": ("0 friend", "2 husband_wife", "3 boyfriend_girlfriend", "0 friend", "0 friend"),
    "director": ("0 nm0000229", "1 nm0000217", "4 nm0000165", "9 nm0000233", "8 nm0000631"),
    "genre": ("0 Comedy", "1 Action-Crime-Adventure", "2 Romance", "3 Thriller-Horror", "0 Comedy"),
    "writer": ("0 \\N", "1 nm0001220", "2 nm0000175", "5 nm0000455", "9 nm0326040"),
    "year": ("0 1930", "1 1940", "7 2000", "8 2010", "8 2010"),
}


def write(root: Path) -> None:
    folder = root / "lvu" / "lvu_1.0"
    for split in ("train", "val", "test"):
        for name, classes in CLASSES.items():
            rows = [
                f"{label} {id} tt000{i}" for i, (label, id) in enumerate(zip(classes, VIDEOS, strict=True))
            ]
            text(
                folder / name / f"{split}.csv",
                "\n".join(["class_id class_name youtube_id imdb_id", *rows, ""]),
            )
        likes = (("90", "10"), ("3", "1"), ("1", "1"), ("0", "4"), ("0", "0"))
        rows = [f"{a} {b} {id} tt0" for (a, b), id in zip(likes, VIDEOS, strict=True)]
        head = "like_count dislike_count youtube_id imdb_id"
        text(folder / "like_ratio" / f"{split}.csv", "\n".join([head, *rows]))
        views = ("1000", "30000", "100", "1000000", "none")
        rows = [f"{count} {id} tt0" for count, id in zip(views, VIDEOS, strict=True)]
        text(folder / "view_count" / f"{split}.csv", "\n".join(["view_count youtube_id imdb_id", *rows]))
    for seed, id in enumerate(VIDEOS):
        frames(root / "lvu" / "videos" / f"{id}.npy", seed)


WRITERS = {"lvu": write}
