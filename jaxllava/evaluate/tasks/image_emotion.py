"""Which emotion a picture evokes: IAPSa, Abstract, Emotion6 and EmoSet (Behavior-LLaVA section 4, table
"Image emotion").

The answer is the likeliest of the data set's emotion words, as the paper has it ("next-token logits over the task
vocabulary"). Layouts, as public code reads them:

- IAPSa: 395 pictures of IAPS with one emotion of Mikels et al. 2005 each, in folders of the eight emotions.
  The norms give the labels as tables in print, so there is no file to read.
- Abstract: ABSTRACT_groundTruth.csv with names in single quotes and the votes of about 14 people for eight
  emotions. Of 280 pictures 228 have one emotion with the most votes: those are the data set of the
  literature.
- Emotion6: images/<emotion>/<number>.jpg with ground_truth.txt (tab separated: file, valence, arousal,
  probabilities). The class is the folder, the emotion that the picture was searched for: 330 of each. Lists
  "path number" are read too.
- EmoSet-118K: train.json, val.json, test.json, lists of [emotion, (id,) picture, annotation], and info.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from input_pipeline.errors import UserError
from jaxllava.evaluate.scoring import accuracy
from jaxllava.evaluate.tasks import class_folders, releases
from jaxllava.evaluate.tasks.class_folders import EKMAN, MIKELS
from jaxllava.evaluate.tasks.task import Choose, Finetune, Item, Rejected, Reported, Task

_WHAT = "picture"


def load_iapsa(folder: Path, split: str) -> Iterator[Item | Rejected]:
    root = class_folders.root_of(folder, MIKELS, "images", "IAPSsubset", "")
    prompt = class_folders.question(MIKELS, _WHAT)
    yield from class_folders.from_tree(root, MIKELS, prompt, class_folders.is_picture)


def load_abstract(folder: Path, split: str) -> Iterator[Item | Rejected]:
    path = releases.needed(folder, "ABSTRACT_groundTruth.csv", "*/ABSTRACT_groundTruth.csv")
    of, prompt = releases.word_of(MIKELS), class_folders.question(MIKELS, _WHAT)
    header: list[str] = []
    for where, line in releases.lines(path):
        cells = [cell.strip().strip("'\"").strip() for cell in line.split(",")]
        if not header:
            header = [of(cell) for cell in cells[1:]]
            if sorted(header) != sorted(MIKELS):
                raise UserError(f"{path}: the first line has not the eight emotions; get the file anew")
            continue
        votes = [releases.number(cell) for cell in cells[1:]]
        if len(votes) != len(header) or None in votes:
            yield Rejected(where, "not a number of votes for each emotion")
            continue
        most = max(votes, key=lambda v: v or 0)
        if votes.count(most) > 1:
            yield Rejected(where, "no one emotion has the most votes")
        else:
            picture = path.parent / cells[0]
            yield Item(picture.stem, prompt, (picture,), header[votes.index(most)], meta={"votes": votes})


def load_emotion6(folder: Path, split: str) -> Iterator[Item | Rejected]:
    root = class_folders.root_of(folder, EKMAN, "images", "Emotion6/images", "")
    prompt = class_folders.question(EKMAN, _WHAT)
    if truth := releases.first_of(folder, "ground_truth.txt", "*/ground_truth.txt"):
        for number, found in enumerate(class_folders.from_list(truth, root, EKMAN, prompt, False)):
            if number or isinstance(found, Item):  # the first line says what the columns are
                yield found
    elif names := releases.first_of(folder, "*test*.txt"):
        yield from class_folders.from_list(names, root, EKMAN, prompt, False)
    else:
        yield from class_folders.from_tree(root, EKMAN, prompt, class_folders.is_picture)


def load_emoset(folder: Path, split: str) -> Iterator[Item | Rejected]:
    path = folder / f"{split}.json"
    of, prompt = releases.word_of(MIKELS), class_folders.question(MIKELS, _WHAT)
    by_number = _emoset_numbers(folder / "info.json")
    for index, entry in enumerate(releases.json_value(path, list), 1):
        where = f"{path}:{index}"
        if not isinstance(entry, list) or len(entry) < 3 or not isinstance(entry[-2], str):
            yield Rejected(where, "not [emotion, id, picture, annotation]")
            continue
        emotion = of(by_number.get(str(entry[0]), str(entry[0])))
        if not emotion:
            yield Rejected(where, f"unknown emotion {entry[0]!r}")
        else:
            picture = folder / entry[-2]
            yield Item(picture.stem, prompt, (picture,), emotion)


def _emoset_numbers(path: Path) -> dict[str, str]:
    """{number of an emotion: its name} of info.json; none where the file is not there."""
    if not path.is_file():
        return {}
    info: Any = releases.json_value(path, dict)
    names = info.get("emotion", {}).get("idx2label") if isinstance(info.get("emotion"), dict) else None
    if not isinstance(names, dict):
        raise UserError(f"{path}: has no emotion/idx2label; it is not EmoSet's info.json")
    return {str(number): str(name) for number, name in names.items()}


def _reported(
    random: float, figures: tuple[tuple[str, float, float], ...], best: str = "", **other: float
) -> dict:
    zero = {"random": random, **{name: value for name, value, _ in figures}, "GPT-4V": other["gpt4v"]}
    tuned = {name: value for name, _, value in figures}
    tuned |= {"MDAN": other["mdan"]} | ({"Stimuli-aware": other["stimuli"]} if "stimuli" in other else {})
    return {"zero-shot": Reported(zero), "fine-tuned": Reported(tuned, best=best)}


def _task(name: str, title: str, words: class_folders.Words, **rest: Any) -> Task:
    return Task(
        name=name,
        family="image_emotion",
        title=title,
        metric="top-1, %",
        protocol=Choose(tuple(words)),
        score=accuracy.top1,
        tested=rest.pop("tested", "fixture"),
        **rest,
    )


_SPLIT_NOTE = "The paper does not say which pictures it fine-tunes on and tests; here all are tested."

TASKS: tuple[Task, ...] = (
    _task(
        "iapsa",
        "IAPSa (8 emotions)",
        MIKELS,
        folder="iapsa",
        needs={"test": ("*/*.jpg|*/*.JPG|images/*/*.jpg|IAPSsubset/*/*.jpg",)},
        get="IAPS comes on request from https://csea.phhp.ufl.edu/media/iapsmessage.html (research only); "
        "put the 395 pictures "
        "that Mikels et al. 2005 label into iapsa/<emotion>/*.jpg.",
        load=load_iapsa,
        reported=_reported(
            12.5,
            (("LLaMA-VID", 43.41, 84.93), ("Ad-LLaVA", 43.22, 85.13), ("Behavior-LLaVA", 57.97, 87.36)),
            best="MDAN",
            gpt4v=83.33,
            mdan=85.96,
        ),
        note=_SPLIT_NOTE,
    ),
    _task(
        "abstract",
        "Abstract paintings (8 emotions)",
        MIKELS,
        folder="abstract",
        needs={"test": ("ABSTRACT_groundTruth.csv|*/ABSTRACT_groundTruth.csv", "*.jpg|*/*.jpg")},
        get="Get testImages_abstract.zip from https://www.imageemotion.org (research only) and unpack it "
        "under abstract/.",
        load=load_abstract,
        reported=_reported(
            12.5,
            (("LLaMA-VID", 43.24, 71.23), ("Ad-LLaVA", 43.01, 71.16), ("Behavior-LLaVA", 64.21, 81.41)),
            best="MDAN",
            gpt4v=71.12,
            mdan=78.34,
        ),
        note="Pictures without one emotion that has the most votes are rejected (280 give the 228 of the "
        "literature). " + _SPLIT_NOTE,
    ),
    _task(
        "emotion6",
        "Emotion6 (6 emotions)",
        EKMAN,
        folder="emotion6",
        needs={
            "test": (
                "ground_truth.txt|*/ground_truth.txt|*test*.txt|images/*/*.jpg|*/*.jpg",
                "images/*/*|*/images/*/*|*/*.jpg",
            )
        },
        get="Get Emotion6.zip from http://chenlab.ece.cornell.edu/people/kuanchuan (research only) and "
        "unpack it under "
        "emotion6/ (images/, ground_truth.txt).",
        load=load_emotion6,
        reported=_reported(
            16.67,
            (("LLaMA-VID", 40.37, 62.87), ("Ad-LLaVA", 43.21, 62.66), ("Behavior-LLaVA", 49.71, 72.31)),
            best="MDAN",
            gpt4v=65.47,
            mdan=61.66,
            stimuli=61.62,
        ),
        tested="real data",
        note="The class is the emotion that the picture was searched for (its folder), which makes chance "
        "1/6 as in the paper; "
        "the likeliest of the people's answers can be another one. " + _SPLIT_NOTE,
    ),
    _task(
        "emoset",
        "EmoSet-118K (8 emotions)",
        MIKELS,
        folder="emoset",
        needs={
            "train": ("train.json", "image/*"),
            "val": ("val.json", "image/*"),
            "test": ("test.json", "image/*"),
        },
        get="Ask for EmoSet-118K at https://github.com/JingyuanYY/EmoSet (research only) and unpack it under "
        "emoset/ "
        "(train.json, val.json, test.json, info.json, image/).",
        load=load_emoset,
        reported=_reported(
            12.5,
            (("LLaMA-VID", 45.23, 80.31), ("Ad-LLaVA", 44.38, 79.88), ("Behavior-LLaVA", 50.38, 83.21)),
            best="Stimuli-aware",
            gpt4v=79.16,
            mdan=75.75,
            stimuli=78.40,
        ),
        finetune=Finetune(lambda item: item.truth),
    ),
)
