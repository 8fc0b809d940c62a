"""How well pictures, videos and ads are remembered (Behavior-LLaVA section 4, table "Memorability"):
Spearman's rho.

The paper takes "next-token logits over the task vocabulary": here the answer is the mean of 00 to 99 under
the probabilities of the two-digit words, the form in which LAMBDA is released. Layouts, as public code reads
them:

- LaMem (Khosla et al. 2015): splits/test_1.txt with lines "picture score", images/. Five splits; the first
  is used.
- MemCat (Goetschalckx and Wagemans 2019): memcat_image_data.csv, pictures under <category>/<subcategory>/.
- SUN (Isola et al. 2011): Data/Experiment data/sorted_target_data.mat with hits and misses of each picture,
  and the pictures themselves in Data/Image data/target_images.mat, or as files of the same names in images/.
  The first 2,222 of 2,400 count; the score is the hit rate.
- Memento10k (Newman et al. 2020): memento_{train,val,test}_data.json, videos/. The truths of test are not
  public.
- VideoMem (Cohendet et al. 2019): ground-truth_dev-set.csv, the videos beside it. The truths of the test set
  are not public.
- MediaEval (Predicting Media Memorability 2020/2021, TRECVid part): <split>_set/<split>_scores.csv and
  Videos/00017.mp4.
- LAMBDA (Si et al. 2024): bs_test_q.json, bs_test_a.json of behavior-in-the-wild/ad-memorability,
  video_scenes/*.npy.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from input_pipeline.errors import UserError
from jaxllava.evaluate import media
from jaxllava.evaluate.scoring import accuracy
from jaxllava.evaluate.tasks import releases
from jaxllava.evaluate.tasks.memorability_figures import reported
from jaxllava.evaluate.tasks.task import Expect, Finetune, Item, Media, Rejected, Task

DIGITS = tuple(f"{value:02d}" for value in range(100))

_SCALE = "on a scale of 00 to 99, where 99 means that everybody remembers it? Answer with two digits only."
PICTURE = (
    "People look at pictures and are asked a few minutes later which they remember. "
    f"How memorable is this picture {_SCALE}"
)
VIDEO = (
    "People watch short videos and are asked a few minutes later which they remember. "
    f"How memorable is this video {_SCALE}"
)

_MARK = re.compile(r"\s*<(?:image|video)>\s*")


def two_digits(item: Item) -> str:
    """What is taught: a score in [0, 1] as "00" to "99"; LAMBDA's own two digits as they are."""
    score = float(item.truth)
    return f"{round(score) if 'lambda' in item.meta else min(99, int(score * 100)):02d}"


def _scored(where: str, id: str, prompt: str, media: tuple[Media, ...], score: Any) -> Item | Rejected:
    value = releases.number(score)
    return Rejected(where, "no score") if value is None else Item(id, prompt, media, value)


def load_lamem(folder: Path, split: str) -> Iterator[Item | Rejected]:
    path = releases.needed(folder, f"splits/{split}_1.txt", f"{split}_1.txt")
    for where, line in releases.lines(path):
        name, _, score = line.replace("\t", " ").replace(",", " ").partition(" ")
        yield _scored(where, Path(name).stem, PICTURE, (folder / "images" / name,), score.strip())


def load_memcat(folder: Path, split: str) -> Iterator[Item | Rejected]:
    path = releases.needed(folder, "memcat_image_data.csv", "*/memcat_image_data.csv")
    root = next(
        (folder / n for n in ("MemCat_images/MemCat", "MemCat", "images") if (folder / n).is_dir()), folder
    )
    columns = {
        "image": ("image_file", "image"),
        "category": ("category",),
        "subcategory": ("subcategory",),
        "score": ("memorability_w_fa_correction", "memorability"),
    }
    for found in releases.table(path, columns):
        if isinstance(found, Rejected):
            yield found
            continue
        where, row = found
        picture = root / row["category"] / row["subcategory"] / row["image"]
        yield _scored(where, Path(row["image"]).stem, PICTURE, (picture,), row["score"])


SUN_PICTURES = 2222  # the others are textures, which the paper leaves out


def load_sun(folder: Path, split: str) -> Iterator[Item | Rejected]:
    path = releases.needed(folder, "Data/Experiment data/sorted_target_data.mat", "sorted_target_data.mat")
    rows = np.atleast_1d(_matlab(path, "sorted_target_data"))[:SUN_PICTURES]
    pictures = _sun_pictures(folder)
    for number, row in enumerate(rows):
        where = f"{path}:{number + 1}"
        hits, misses = (
            releases.number(getattr(row, "hits", None)),
            releases.number(getattr(row, "misses", None)),
        )
        name = Path(str(getattr(row, "filepath", getattr(row, "filename", "")))).name
        if not name or hits is None or misses is None or hits + misses <= 0:
            yield Rejected(where, "no file name, or no hits and misses")
        elif (folder / "images" / name).exists() or pictures is None:
            yield Item(Path(name).stem, PICTURE, (folder / "images" / name,), hits / (hits + misses))
        elif number >= pictures.shape[3]:
            yield Rejected(where, "no picture in target_images.mat")
        else:
            yield Item(Path(name).stem, PICTURE, (_png(pictures[..., number]),), hits / (hits + misses))


def _sun_pictures(folder: Path) -> np.ndarray | None:
    """uint8 [H, W, 3, pictures], or None where the pictures are files."""
    path = releases.first_of(folder, "Data/Image data/target_images.mat", "target_images.mat")
    if path is None or any((folder / "images").glob("*")):
        return None
    pictures = np.asarray(_matlab(path, "img"))
    if pictures.ndim != 4 or pictures.shape[2] != 3:
        raise UserError(f"{path}: 'img' is not pictures of three colours; get the file anew")
    return pictures.astype(np.uint8, copy=False)


def _matlab(path: Path, name: str) -> Any:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        return loadmat(path, squeeze_me=name != "img", struct_as_record=False, variable_names=[name])[name]
    except (OSError, ValueError, KeyError, NotImplementedError, MatReadError) as error:
        raise UserError(f"{path}: has no readable {name!r} ({error}); get the file anew") from None


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def load_memento10k(folder: Path, split: str) -> Iterator[Item | Rejected]:
    path = releases.needed(folder, f"memento_{split}_data.json", f"*/memento_{split}_data.json")
    for found in releases.objects(path):
        if isinstance(found, Rejected):
            yield found
            continue
        where, row = found
        name = str(row.get("filename") or row.get("name") or "")
        score = releases.number(row.get("mem_score"))
        if not name:
            yield Rejected(where, "no filename")
        elif score is None and split != "test":
            yield Rejected(where, "no score")
        else:
            yield Item(Path(name).stem, VIDEO, (_video(folder, name),), score)


def load_videomem(folder: Path, split: str) -> Iterator[Item | Rejected]:
    path = releases.needed(
        folder,
        f"ground-truth_{split}-set.csv",
        f"*/ground-truth_{split}-set.csv",
        f"*/*/ground-truth_{split}-set.csv",
    )
    columns = {
        "video": ("video", "video_name"),
        "score": ("short-term_memorability", "short_term_memorability"),
    }
    for found in releases.table(path, columns, {"long": ("long-term_memorability",)}):
        if isinstance(found, Rejected):
            yield found
            continue
        where, row = found
        yield _scored(where, Path(row["video"]).stem, VIDEO, (_video(folder, row["video"]),), row["score"])


def _video(folder: Path, name: str) -> Path:
    below = ("videos", "Videos", "sources", "source", "resized_mp4", "videos_npy", "")
    for one in below:
        if (path := media.locate(folder / one, name)).exists():
            return path
        if (path := media.locate(folder / one, Path(name).stem)).exists():
            return path
    return folder / "videos" / name


def load_mediaeval(folder: Path, split: str) -> Iterator[Item | Rejected]:
    names = {"dev": ("dev", "development"), "train": ("train", "training")}[split]
    # The release of 2021 has Memento10k's scores beside TRECVid's, under the same names.
    below = ("*[tT][rR][eE][cC][vV][iI][dD]*/**/", "**/")
    path = releases.needed(folder, *(f"{place}{name}_scores.csv" for place in below for name in names))
    columns = {
        "video": ("video_id",),
        "score": ("scores_raw_short_term", "scores_normalized_short_term", "part_1_scores"),
    }
    root = next((path.parent / n for n in ("Videos", "videos") if (path.parent / n).is_dir()), path.parent)
    for found in releases.table(path, columns):
        if isinstance(found, Rejected):
            yield found
            continue
        where, row = found
        name = row["video"].zfill(5) if row["video"].isdigit() else Path(row["video"]).stem
        yield _scored(where, name, VIDEO, (media.locate(root, name),), row["score"])


def load_lambda(folder: Path, split: str) -> Iterator[Item | Rejected]:
    questions = releases.needed(folder, f"bs_{split}_q*.json", f"data/bs_{split}_q*.json")
    answers_path = questions.with_name(questions.name.replace("_q", "_a"))
    answers: dict[str, Any] = {}
    for found in releases.objects(answers_path):
        if isinstance(found, Rejected):
            yield found
        else:
            answers[str(found[1].get("question_id"))] = found[1].get("answer")
    for found in releases.objects(questions):
        if isinstance(found, Rejected):
            yield found
            continue
        where, row = found
        id, question = str(row.get("question_id")), str(row.get("question") or "")
        score = releases.number(answers.get(id))
        prompt = _MARK.sub("\n", question).strip()
        if not prompt:
            yield Rejected(where, "an empty question")
        elif score is None or not 0 <= score <= 99:
            yield Rejected(where, "no answer of 00 to 99")
        else:
            yield Item(id, prompt, (folder / str(row.get("video_name")),), score, meta={"lambda": True})


def _task(name: str, title: str, **rest: Any) -> Task:
    return Task(
        name=name,
        family="memorability",
        title=title,
        metric="Spearman's rho",
        protocol=Expect(tuple(float(v) for v in range(100)), DIGITS),
        score=accuracy.spearman,
        tested=rest.pop("tested", "fixture"),
        reported=reported(name),
        **rest,
    )


_ALL_TESTED = "No split is published: all are tested, which suits models that have seen none of them."

TASKS: tuple[Task, ...] = (
    _task(
        "lamem",
        "LaMem",
        folder="lamem",
        needs={
            split: (f"splits/{split}_1.txt|{split}_1.txt", "images/*") for split in ("train", "val", "test")
        },
        get="Get lamem.tar.gz from http://memorability.csail.mit.edu/download.html (research only) and "
        "unpack it under lamem/ "
        "(splits/, images/).",
        load=load_lamem,
        tested="real data",
        finetune=Finetune(two_digits),
        note="The first of the five splits.",
    ),
    _task(
        "memcat",
        "MemCat",
        folder="memcat",
        needs={"test": ("memcat_image_data.csv|*/memcat_image_data.csv", "*/*/*")},
        get="Get the images and data from https://gestaltrevision.be/projects/memcat (research only) and "
        "unpack them under memcat/.",
        load=load_memcat,
        note="The score is the release's, corrected for false alarms. " + _ALL_TESTED,
    ),
    _task(
        "sun_memorability",
        "SUN memorability (Isola et al.)",
        folder="sun_memorability",
        needs={
            "test": (
                "Data/Experiment data/sorted_target_data.mat|sorted_target_data.mat",
                "Data/Image data/target_images.mat|target_images.mat|images/*",
            )
        },
        get="Get http://web.mit.edu/phillipi/Public/WhatMakesAnImageMemorable/cvpr_memorability_data.zip "
        "(research only) and unpack "
        "it under sun_memorability/ (Data/).",
        load=load_sun,
        note="The score is the hit rate of Isola et al. " + _ALL_TESTED,
    ),
    _task(
        "memento10k",
        "Memento10k",
        folder="memento10k",
        split="val",
        needs={
            split: (f"memento_{split}_data.json|*/memento_{split}_data.json", "videos/*|videos_npy/*")
            for split in ("train", "val", "test")
        },
        get="Ask for Memento10k at http://memento.csail.mit.edu (research only) and unpack it under "
        "memento10k/ "
        "(memento_*_data.json, videos/).",
        load=load_memento10k,
        finetune=Finetune(two_digits),
        note="The truths of the test split are not public: the validation split is scored.",
    ),
    _task(
        "videomem",
        "VideoMem",
        folder="videomem",
        split="dev",
        needs={
            "dev": (
                "ground-truth_dev-set.csv|*/ground-truth_dev-set.csv|*/*/ground-truth_dev-set.csv",
                "videos/*|Videos/*|sources/*|source/*|resized_mp4/*|*.webm",
            )
        },
        get="Ask for VideoMem at https://www.interdigital.com/data_sets/video-memorability-dataset (research "
        "only) and put "
        "ground-truth_dev-set.csv and the videos (as videos/) under videomem/.",
        load=load_videomem,
        note="Short-term memorability, as the paper does not say which; of the development set, as the "
        "truths of the test set are "
        "not public. Models must not have been trained on it.",
    ),
    _task(
        "mediaeval_memorability",
        "MediaEval Predicting Media Memorability (TRECVid)",
        folder="mediaeval_memorability",
        split="dev",
        needs={
            "train": ("**/train_scores.csv|**/training_scores.csv",),
            "dev": ("**/dev_scores.csv|**/development_scores.csv",),
        },
        get="Ask for the TRECVid part of MediaEval's Predicting Media Memorability 2020 or 2021 at "
        "https://multimediaeval.github.io "
        "(research only) and unpack it under mediaeval_memorability/ (train_set/, dev_set/ with Videos/).",
        load=load_mediaeval,
        finetune=Finetune(two_digits),
        note="Raw short-term scores of the development videos, as the paper does not say which and the "
        "truths of the test are not "
        "public.",
    ),
    _task(
        "lambda",
        "LAMBDA (long-term memorability of ads)",
        folder="lambda",
        needs={
            "test": ("bs_test_q*.json|data/bs_test_q*.json", "video_scenes/*"),
        },
        get="Get data/bs_test_q.json and bs_test_a.json from "
        "https://github.com/behavior-in-the-wild/ad-memorability (MIT) and the "
        "frames (research only) that its README names; put them under lambda/ (video_scenes/*.npy).",
        load=load_lambda,
        tested="real data",
        note="The question is the release's, which describes the ad's scenes in words; its <image> stands in "
        "front, as the "
        "media of all tasks do.",
    ),
)
