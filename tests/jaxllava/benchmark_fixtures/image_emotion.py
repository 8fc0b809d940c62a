"""Releases of IAPSa, Abstract, Emotion6 and EmoSet in small, under a --data-root."""

from __future__ import annotations

import json
from pathlib import Path

from tests.jaxllava.benchmark_fixtures.small_media import picture, text

EMOTIONS = ("amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness")


def iapsa(root: Path) -> None:
    for seed, emotion in enumerate(EMOTIONS[:4]):
        picture(root / "iapsa" / emotion.capitalize() / f"{seed + 10}.jpg", seed)


def abstract(root: Path) -> None:
    """Names and heads in single quotes, as the release has them; line 4 has a tie, line 7 lacks a vote."""
    rows = (
        "'','Amusement','Anger','Awe','Content','Disgust','Excitement','Fear','Sad'",
        "'abstract_0001.jpg',1,7,1,2,0,3,0,0",
        "'abstract_0002.jpg',0,0,0,1,0,2,3,8",
        "'abstract_0003.jpg',4,0,4,1,0,2,3,0",
        "'abstract_0004.jpg',0,0,1,9,0,2,1,1",
        "'abstract_0005.jpg',9,0,1,2,0,2,0,0",
        "'abstract_0006.jpg',9,0,1,2,0,2,0",
    )
    folder = root / "abstract" / "testImages_abstract"
    text(folder / "ABSTRACT_groundTruth.csv", "\r\n".join(rows) + "\r\n")
    for number in range(1, 7):
        picture(folder / f"abstract_{number:04d}.jpg", number)


def emotion6(root: Path) -> None:
    head = "[image_filename] [valence] [arousal] [prob. anger] [prob. disgust] [prob. fear] [prob. joy]"
    rows = [
        head,
        "disgust/1.jpg\t2.5\t3.8\t0.13\t0.7\t0",
        "anger/2.jpg\t3\t4\t1\t0\t0",
        "joy/3.jpg\t7\t4\t0\t0\t0",
        "surprise/10.jpg\t5\t5\t0\t0\t0",
        "boredom/4.jpg\t5\t5\t0\t0\t0",
    ]
    text(root / "emotion6" / "ground_truth.txt", "\n".join(rows))
    for seed, name in enumerate(row.split("\t")[0] for row in rows[1:]):
        picture(root / "emotion6" / "images" / name, seed)


def emoset(root: Path) -> None:
    folder = root / "emoset"
    info = {"emotion": {"idx2label": {str(i): emotion for i, emotion in enumerate(EMOTIONS)}}}
    text(folder / "info.json", json.dumps(info))
    for split in ("train", "val", "test"):
        rows: list[list] = [
            [
                emotion,
                f"image/{emotion}/{emotion}_{split}.jpg",
                f"annotation/{emotion}/{emotion}_{split}.json",
            ]
            for emotion in EMOTIONS[:3]
        ]
        rows.append([7, "sadness_0", f"image/sadness/sadness_{split}.jpg", "annotation/sadness/x.json"])
        rows.append(["boredom", "image/boredom/1.jpg", "annotation/boredom/1.json"])
        text(folder / f"{split}.json", json.dumps(rows))
        for seed, row in enumerate(rows[:4]):
            picture(folder / row[-2], seed)


WRITERS = {"iapsa": iapsa, "abstract": abstract, "emotion6": emotion6, "emoset": emoset}
