"""Releases of the seven memorability data sets in small, under a --data-root."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.jaxllava.benchmark_fixtures.small_media import film, frames, picture, text

SCORES = (0.5, 0.75, 0.625, 0.875, 0.25)


def lamem(root: Path) -> None:
    for split in ("train", "val", "test"):
        rows = [f"0000{i}.jpg {score:.6f}" for i, score in enumerate(SCORES)]
        text(root / "lamem" / "splits" / f"{split}_1.txt", "\n".join([*rows, "00009.jpg", ""]))
    for i in range(len(SCORES)):
        picture(root / "lamem" / "images" / f"0000{i}.jpg", i)


def memcat(root: Path) -> None:
    head = "id,image_file,category,subcategory,memorability_wo_fa_correction,memorability_w_fa_correction"
    rows = [f"{i},COCO_{i}.jpg,animal,bear,0.9,{score}" for i, score in enumerate(SCORES)]
    text(
        root / "memcat" / "memcat_image_data.csv",
        "\n".join([head, *rows, "9,COCO_9.jpg,animal,bear,0.9,n/a"]),
    )
    for i in range(len(SCORES)):
        picture(root / "memcat" / "MemCat" / "animal" / "bear" / f"COCO_{i}.jpg", i)


def sun_memorability(root: Path) -> None:
    """The .mat files of the release: a structure array, and the pictures [H, W, 3, pictures]."""
    from scipy.io import savemat

    data = root / "sun_memorability" / "Data"
    (data / "Experiment data").mkdir(parents=True, exist_ok=True)
    (data / "Image data").mkdir(exist_ok=True)
    kinds = [("filepath", object), ("hits", object), ("misses", object)]
    rows = np.zeros((5, 1), kinds)
    for i, (hits, misses) in enumerate([(60, 20), (20, 60), (40, 40), (70, 10), (0, 0)]):
        rows[i, 0] = (f"sun/sun_{i}_crop.jpg", hits, misses)
    savemat(data / "Experiment data" / "sorted_target_data.mat", {"sorted_target_data": rows})
    pictures = np.random.default_rng(0).integers(0, 255, (16, 16, 3, 5), np.uint8)
    savemat(data / "Image data" / "target_images.mat", {"img": pictures})


def memento10k(root: Path) -> None:
    folder = root / "memento10k"
    for split in ("train", "val", "test"):
        rows = [
            {"filename": f"{split}{i}.mp4", "mem_score": score, "mem_alpha": -0.1}
            for i, score in enumerate(SCORES)
        ]
        if split == "test":
            rows = [{"filename": row["filename"]} for row in rows]
        text(folder / f"memento_{split}_data.json", json.dumps([*rows, {"captions": []}]))
        for i in range(len(SCORES)):
            frames(folder / "videos" / f"{split}{i}.npy", i)


def videomem(root: Path) -> None:
    head = "video,short-term_memorability,nb_short-term_annotations,long-term_memorability,nb_long-term_annotations"
    rows = [f"video{i}.webm,{score},33,0.7,12" for i, score in enumerate(SCORES)]
    text(root / "videomem" / "ground-truth" / "ground-truth_dev-set.csv", "\n".join([head, *rows]))
    for i in range(len(SCORES)):
        frames(root / "videomem" / "videos" / f"video{i}.npy", i)


def mediaeval_memorability(root: Path) -> None:
    head = "video_id,annotations_short_term,scores_raw_short_term,scores_raw_long_term,scores_normalized_short_term"
    for split in ("train", "dev"):
        folder = root / "mediaeval_memorability" / f"{split}_set"
        rows = [f"{i},16,{score},0.4,0.9" for i, score in enumerate(SCORES)]
        text(folder / f"{split}_scores.csv", "\n".join([head, *rows]))
        for i in range(len(SCORES)):
            frames(folder / "Videos" / f"{i:05d}.npy", i)
    film(root / "mediaeval_memorability" / "dev_set" / "Videos" / "00007.mp4")


def lambda_(root: Path) -> None:
    folder = root / "lambda"
    questions, answers = [], []
    for id, score in ((17, "00"), (18, "49"), (19, "99"), (20, "24"), (21, "no")):
        asked = (
            f"For the given ad: ad {id}. Return the score of the video on a scale of 00 to 99. \n<image>\n"
        )
        questions.append({"video_name": f"video_scenes/{id}.npy", "question": asked, "question_id": id})
        answers.append({"answer": score, "question_id": id})
        frames(folder / "video_scenes" / f"{id}.npy", id)
    text(folder / "bs_test_q.json", json.dumps(questions))
    text(folder / "bs_test_a.json", json.dumps(answers))


WRITERS = {
    "lamem": lamem,
    "memcat": memcat,
    "sun_memorability": sun_memorability,
    "memento10k": memento10k,
    "videomem": videomem,
    "mediaeval_memorability": mediaeval_memorability,
    "lambda": lambda_,
}
