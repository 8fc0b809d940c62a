"""Which emotion a video evokes or shows: VideoEmotion-8, CAER, Ekman-6 (Behavior-LLaVA section 4, table
"Video emotion").

The answer is the likeliest of the data set's emotion words. Layouts, as public code reads them:

- VideoEmotion-8 (Jiang et al. 2014) and Ekman-6 (Xu et al. 2016): videos (or folders of their frames) in
  folders of the emotions, "Anger/17.mp4". Splits are lists of such names: testlist01.txt, trainlist01.txt
  (VAANet's; other names with "test" and "train" are taken as well), or VAANet's JSON {"database": {name:
  {"subset", "annotations": {"label"}}}}, whose "validation" is the test. Without lists all videos are tested.
- CAER (Lee et al. 2019): train/, validation/ and test/, each with folders of the seven classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from input_pipeline import video
from input_pipeline.errors import UserError
from jaxllava.evaluate.scoring import accuracy
from jaxllava.evaluate.tasks import class_folders, releases
from jaxllava.evaluate.tasks.class_folders import EKMAN, Words
from jaxllava.evaluate.tasks.task import Choose, Finetune, Item, Rejected, Reported, Task

PLUTCHIK: Words = {
    "anger": ("angry",),
    "anticipation": (),
    "disgust": (),
    "fear": (),
    "joy": ("happiness",),
    "sadness": ("sad",),
    "surprise": (),
    "trust": (),
}
CAER: Words = {
    "anger": ("angry",),
    "disgust": (),
    "fear": (),
    "happiness": ("happy",),
    "neutral": (),
    "sadness": ("sad",),
    "surprise": (),
}
_BELOW = ("videos", "imgs", "img", "VideoEmotion8--imgs", "ek6--imgs", "EK6--imgs", "")
_SUBSETS = {"test": ("validation", "test", "testing", "val"), "train": ("training", "train")}


def _load(words: Words, folder: Path, split: str) -> Iterator[Item | Rejected]:
    root = class_folders.root_of(folder, words, *_BELOW)
    prompt = class_folders.question(words, "video")
    if names := releases.first_of(folder, f"{split}list01.txt", f"*{split}*.txt", f"*/{split}list01.txt"):
        yield from class_folders.from_list(names, root, words, prompt, True)
    elif database := releases.first_of(folder, "*_01.json", "*.json"):
        yield from _from_database(database, split, root, words, prompt)
    elif split == "test":
        yield from class_folders.from_tree(root, words, prompt, video.is_video)
    else:
        raise UserError(f"{folder}: no list of the {split} videos ({split}list01.txt)")


def _from_database(
    path: Path, split: str, root: Path, words: Words, prompt: str
) -> Iterator[Item | Rejected]:
    database: Any = releases.json_value(path, dict).get("database")
    if not isinstance(database, dict):
        raise UserError(f"{path}: has no object 'database'; it is not a list of videos as VAANet has it")
    of = releases.word_of(words)
    for name, entry in database.items():
        labels = entry.get("annotations") if isinstance(entry, dict) else None
        if not isinstance(labels, dict):
            yield Rejected(f"{path}:{name}", "no label")
        elif entry.get("subset") in _SUBSETS[split]:
            yield class_folders.named(
                f"{path}:{name}", str(labels.get("label")), name, root, of, prompt, True
            )


def load_videoemotion8(folder: Path, split: str) -> Iterator[Item | Rejected]:
    return _load(PLUTCHIK, folder, split)


def load_ekman6(folder: Path, split: str) -> Iterator[Item | Rejected]:
    return _load(EKMAN, folder, split)


def load_caer(folder: Path, split: str) -> Iterator[Item | Rejected]:
    prompt = f"Which of these emotions does the video show: {', '.join(CAER)}? Answer with one word."
    yield from class_folders.from_tree(folder / split, CAER, prompt, video.is_video)


_BEFORE = (
    "Zhang et al. 2023",
    "Zhao et al. 2020",
    "Arevalo et al. 2017",
    "Qiu et al. 2020",
    "Xu et al. 2016",
)


def _reported(
    random: float,
    zero: tuple[float, float, float],
    tuned: tuple[float, float, float],
    before: tuple[float | None, ...],
    more: Mapping[str, float] | None = None,
    note: str = "",
) -> dict[str, Reported]:
    systems = ("LLaMA-VID", "Ad-LLaVA", "Behavior-LLaVA")
    others = {name: value for name, value in zip(_BEFORE, before, strict=True) if value is not None}
    return {
        "zero-shot": Reported({"random": random, **dict(zip(systems, zero, strict=True))}, note=note),
        "fine-tuned": Reported(
            {**dict(zip(systems, tuned, strict=True)), **others, **(more or {})},
            best="Zhang et al. 2023",
            note=note,
        ),
    }


def _task(name: str, title: str, words: Words, **rest: Any) -> Task:
    return Task(
        name=name,
        family="video_emotion",
        title=title,
        metric="top-1, %",
        protocol=Choose(tuple(words)),
        score=accuracy.top1,
        tested="fixture",
        finetune=Finetune(lambda item: item.truth),
        **rest,
    )


_LISTED = {
    "train": ("*train*.txt|*/trainlist01.txt|*.json", "*/*"),
    "test": ("*/*",),
}

TASKS: tuple[Task, ...] = (
    _task(
        "videoemotion8",
        "VideoEmotion-8",
        PLUTCHIK,
        folder="videoemotion8",
        needs=_LISTED,
        get="Get the 1,101 videos from the links at https://github.com/maysonma/VAANet (research only) into "
        "videoemotion8/<Emotion>/, with testlist01.txt and trainlist01.txt of its annotations beside them.",
        load=load_videoemotion8,
        reported=_reported(
            12.5, (29.7, 29.8, 41.35), (53.8, 54.1, 56.9), before=(57.3, 54.5, 53.7, 53.3, 52.6)
        ),
        note="The data set has ten random splits; the first is used. Without a list all videos are tested.",
    ),
    _task(
        "caer",
        "CAER",
        CAER,
        folder="caer",
        needs={split: (f"{split}/*/*",) for split in ("train", "validation", "test")},
        get="Get CAER from https://caer-dataset.github.io (research only) and unpack it under caer/ (train/, "
        "validation/, test/).",
        load=load_caer,
        reported=_reported(
            14.28,
            (27.2, 27.3, 51.0),
            (75.6, 76.1, 79.3),
            before=(80.1, 78.3, 77.3, None, 77.9),
            note="The paper prints gains of 84.19 % and 3.57 %, which fit 50.1 and 78.3; its table has 51.0 "
            "and 79.3.",
        ),
        note="Seven classes with neutral, which makes chance the paper's 14.28 %, though its appendix speaks "
        "of six emotions.",
    ),
    _task(
        "ekman6",
        "Ekman-6",
        EKMAN,
        folder="ekman6",
        needs=_LISTED,
        get="Get the 1,637 videos from the links at https://github.com/kittenish/Frame-Transformer-Network "
        "(research only) into "
        "ekman6/<emotion>/, with lists testlist01.txt and trainlist01.txt of 'emotion/name' beside them.",
        load=load_ekman6,
        reported=_reported(
            16.67,
            (37.33, 37.66, 49.33),
            (57.9, 57.8, 58.4),
            before=(58.2, 55.3, 54.2, 57.3, 55.6),
            more={"eMOTIONS (Wu 2023)": 53.12},
        ),
        note="Without a list all videos are tested.",
    ),
)
