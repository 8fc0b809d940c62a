"""Releases of VideoEmotion-8, CAER and Ekman-6 in small, under a --data-root."""

from __future__ import annotations

import json
from pathlib import Path

from tests.jaxllava.benchmark_fixtures.small_media import film, frames, picture, text


def videoemotion8(root: Path) -> None:
    """Arrays of frames, a video file and a folder of frames; VAANet's lists, whose names carry another suffix."""
    folder = root / "videoemotion8"
    frames(folder / "videos" / "Anger" / "1.npy", 1)
    frames(folder / "videos" / "Anticipation" / "2.npy", 2)
    film(folder / "videos" / "Trust" / "10.mp4")
    picture(folder / "videos" / "Joy" / "7" / "000001.jpg")
    frames(folder / "videos" / "Fear" / "3.npy", 3)
    text(
        folder / "testlist01.txt",
        "Anger/1.mp4 1\nAnticipation/2.mp4 2\n\nTrust/10 8\nJoy/7 5\nBoredom/9 9\nFear/3 4\n",
    )
    text(folder / "trainlist01.txt", "Fear/3 4\nAnger/1 1\n")


def caer(root: Path) -> None:
    for split in ("train", "validation", "test"):
        for seed, emotion in enumerate(("Anger", "Happy", "Neutral", "Sad")):
            frames(root / "caer" / split / emotion / f"{seed:04d}.npy", seed)
    text(root / "caer" / "test" / "Sad" / "notes.txt", "no video")


def ekman6(root: Path) -> None:
    """VAANet's JSON instead of lists."""
    folder = root / "ekman6"
    database = {}
    for seed, (emotion, subset) in enumerate(
        [("anger", "validation"), ("disgust", "validation"), ("joy", "validation"), ("surprise", "validation"),
         ("fear", "training")]
    ):  # fmt: skip
        frames(folder / emotion / f"{seed}.npy", seed)
        database[str(seed)] = {"subset": subset, "annotations": {"label": emotion}}
    database["5"] = {"subset": "validation"}
    text(folder / "ek6_01.json", json.dumps({"labels": [], "database": database}))


WRITERS = {"videoemotion8": videoemotion8, "caer": caer, "ekman6": ekman6}
