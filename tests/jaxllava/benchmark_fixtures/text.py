"""IMDB and Shot2Story in small, under a --data-root."""

from __future__ import annotations

import json
from pathlib import Path

from tests.jaxllava.benchmark_fixtures.small_media import frames, text

REVIEWS = {"neg": ("A dull film.<br /><br />Long, too.", "Bad."), "pos": ("A joy.", "Lovely, and short.")}


def imdb(root: Path) -> None:
    folder = root / "imdb" / "aclImdb"
    for split in ("train", "test"):
        for kind, reviews in REVIEWS.items():
            for number, review in enumerate(reviews):
                text(
                    folder / split / kind / f"{number}_{1 if kind == 'neg' else 9}.txt", f"{review} ({split})"
                )
    text(folder / "test" / "pos" / "7_8.txt", "  ")
    text(folder / "train" / "neg" / "8_1.txt", "too long " * 400)
    text(folder / "train" / "unsup" / "0_0.txt", "unknown")


def _row(split: str, number: int, shots: int = 2) -> dict:
    name = f"{split}{number}.mp4"
    return {
        "video": name,
        "id": number,
        "whole_caption": f"The video {name} shows a kitchen and then a {('dog', 'cat', 'cow')[number % 3]}.",
        "whole_ASR": f"Welcome to {name}." if number % 2 else "",
        "video_names": [f"{split}{number}_{shot}.mp4" for shot in range(shots)],
        "captions": [f"caption {shot} of {name}" for shot in range(shots)],
        "audio_captions": [f"A man says hello in shot 0 of {name}.", ""][:shots],
        "ASR": [f"hello  {shot}" for shot in range(shots)],
    }


def shot2story(root: Path) -> None:
    folder = root / "shot2story"
    for split in ("train", "val", "test"):
        rows = [_row(split, number) for number in range(4)]
        rows += [{"id": 9, "whole_caption": "no video"}, _row(split, 5) | {"whole_caption": " ", "ASR": []}]
        text(folder / "annotations" / f"20k_{split}.json", json.dumps(rows))
        for number in range(4):
            frames(folder / "videos" / f"{split}{number}.npy", number)


WRITERS = {
    "imdb": imdb,
    "imdb_1shot": imdb,
    "shot2story_audio": shot2story,
    "shot2story_summary": shot2story,
}
