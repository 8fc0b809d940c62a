"""MSVD-QA, MSRVTT-QA and ActivityNet-QA in small, under a --data-root, each as its authors release it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.jaxllava.benchmark_fixtures.small_media import film, frames, text

ASKED = (
    ("what does a man play?", "guitar"),
    ("who sings?", "woman"),
    ("where is it?", "park"),
    ("how many?", "two"),
)


def msvd_qa(root: Path) -> None:
    folder = root / "msvd_qa"
    text(folder / "youtube_mapping.txt", "abc_10_20 vid1\ndef_0_7 vid2\n")
    for split in ("train", "val", "test"):
        rows = [
            {"id": i + 50, "video_id": 1 + i % 2, "question": question, "answer": answer}
            for i, (question, answer) in enumerate(ASKED)
        ]
        rows += [
            {"id": 60, "video_id": 1, "question": " ", "answer": "x"},
            {"id": 61, "video_id": 1, "question": "q"},
        ]
        text(folder / f"{split}_qa.json", json.dumps(rows))
    film(folder / "videos" / "abc_10_20.avi")
    frames(folder / "videos" / "def_0_7.npy")


def msrvtt_qa(root: Path) -> None:
    folder = root / "msrvtt_qa"
    for split in ("train", "val", "test"):
        rows = [
            {"id": i, "video_id": 7010 + i, "category_id": 4, "question": question, "answer": answer}
            for i, (question, answer) in enumerate(ASKED)
        ]
        text(folder / f"{split}_qa.json", json.dumps(rows))
    for i in range(4):
        frames(folder / "videos" / f"video{7010 + i}.npy", i)


def activitynet_qa(root: Path) -> None:
    folder = root / "activitynet_qa"
    for split in ("train", "val", "test"):
        ids = [f"v_aaaaaaaaa{i}_3" for i in range(5)]
        asked = [*(question for question, _ in ASKED), "and?"]
        rows = [
            {"video_name": id[2:-2], "question": question, "question_id": id}
            for id, question in zip(ids, asked, strict=True)
        ]
        text(folder / f"{split}_q.json", json.dumps(rows))
        answers = [
            {"answer": answer, "type": 3, "question_id": id}
            for id, (_, answer) in zip(ids, ASKED, strict=False)
        ]
        text(folder / f"{split}_a.json", json.dumps(answers[::-1]))
    for i in range(4):
        frames(folder / "videos" / f"v_aaaaaaaaa{i}.npy", i)


WRITERS = {"msvd_qa": msvd_qa, "msrvtt_qa": msrvtt_qa, "activitynet_qa": activitynet_qa}
