"""Words without pictures, and summaries: IMDB and Shot2Story (Behavior-LLaVA section 4, tables "Audio and
text" and
"More behaviours").

- IMDB (Maas et al. 2011): aclImdb/{train,test}/{pos,neg}/*.txt, a review a file. The one-shot task shows one
  review of the training split with its answer, which is drawn by the question's id from those of at most
  1,500 bytes.
- Shot2Story (Han et al. 2023): 20k_{train,val,test}.json, [{"video", "whole_caption", "whole_ASR",
  "video_names", "captions", "audio_captions", "ASR"}], the last four one per shot; videos/. Three examples
  of the training split come before each question.

The paper gives neither prompts nor how sound reaches a model without ears: here as the release's transcript
(ASR).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from input_pipeline.errors import UserError
from input_pipeline.types import Turn
from jaxllava.evaluate import media
from jaxllava.evaluate.scoring import accuracy, text
from jaxllava.evaluate.tasks import releases
from jaxllava.evaluate.tasks.task import Choose, Finetune, Generate, Item, Rejected, Reported, Task

# --- IMDB ---

_SENTIMENTS = {"neg": "negative", "pos": "positive"}
_SHORT = 1500  # bytes of a review that is shown as an example
QUESTION = "Is this review of a film positive or negative? Answer with one word."


def _review(path: Path) -> str:
    return " ".join(releases.text(path).replace("<br />", " ").split())


def _reviews(folder: Path, split: str) -> list[tuple[Path, str]]:
    """(file, sentiment) of a split, negative ones first, by name."""
    root = next((folder / name for name in ("aclImdb", "") if (folder / name / split).is_dir()), folder)
    found = [
        (path, word)
        for kind, word in _SENTIMENTS.items()
        for path in sorted((root / split / kind).glob("*.txt"))
    ]
    if not found:
        raise UserError(f"{root / split}: no reviews in neg/*.txt and pos/*.txt")
    return found


def load_imdb(examples: int, folder: Path, split: str) -> Iterator[Item | Rejected]:
    shown = (
        [(p, word) for p, word in _reviews(folder, "train") if p.stat().st_size <= _SHORT] if examples else []
    )
    if examples and len(shown) < examples:
        raise UserError(f"{folder}: no review of at most {_SHORT} bytes in the training split to show")
    for path, sentiment in _reviews(folder, split):
        id = f"{path.parent.name}/{path.stem}"
        review = _review(path)
        if not review:
            yield Rejected(str(path), "an empty review")
            continue
        drawn = random.Random(f"imdb {id}").sample(shown, examples)
        shots = [
            turn
            for example, word in drawn
            for turn in (Turn("human", f"{_review(example)}\n{QUESTION}"), Turn("gpt", word))
        ]
        yield Item(id, f"{review}\n{QUESTION}", truth=sentiment, shots=tuple(shots))


def _imdb(name: str, title: str, examples: int, figures: dict[str, float], **rest: Any) -> Task:
    reviews = lambda split: f"aclImdb/{split}/pos/*.txt|{split}/pos/*.txt"
    train = (reviews("train"),)
    return Task(
        name=name,
        family="text",
        title=title,
        metric="top-1, %",
        folder="imdb",
        needs={"train": train, "test": (reviews("test"), *(train if examples else ()))},
        get="Get https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz (research only) and unpack "
        "it under imdb/ "
        "(aclImdb/).",
        load=partial(load_imdb, examples),
        protocol=Choose(tuple(_SENTIMENTS.values())),
        score=accuracy.top1,
        tested="fixture",
        **rest,
        reported={"zero-shot": Reported(figures)},
    )


# --- Shot2Story ---

_EXAMPLES = 3
NARRATION = "Describe in a sentence or two what is said or narrated."
SUMMARY = "Summarise the video in one paragraph that follows its shots."


def _annotations(folder: Path, split: str) -> Path:
    names = [f"20k_{split}.json"] + (["43k_human_train.json"] if split == "train" else [])
    return releases.needed(
        folder, *(f"{below}{n}" for n in names for below in ("", "annotations/", "*/annotations/"))
    )


def _texts(row: dict[str, Any], key: str) -> list[str]:
    value = row.get(key)
    return [" ".join(str(one).split()) for one in value] if isinstance(value, list) else []


def _text(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    return " ".join(value.split()) if isinstance(value, str) else ""


def _heard(words: str, question: str) -> str:
    return f'What is said: "{words}"\n{question}' if words else question


def _narrations(row: dict[str, Any]) -> Iterator[tuple[int, str, str]]:
    """(shot, what is said, its description) of the shots that have both."""
    for shot, (words, told) in enumerate(
        zip(_texts(row, "ASR"), _texts(row, "audio_captions"), strict=False)
    ):
        if words and told:
            yield shot, words, told


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]] | Rejected]:
    for found in releases.objects(path):
        if isinstance(found, tuple) and not str(found[1].get("video") or ""):
            yield Rejected(found[0], "no video")
        else:
            yield found


def _shown(folder: Path, kind: str) -> tuple[Turn, ...]:
    """Three examples: the first of the training split that have what it takes. They show no pictures."""
    shots: list[Turn] = []
    for found in _rows(_annotations(folder, "train")):
        if isinstance(found, Rejected):
            continue
        row = found[1]
        if kind == "audio":
            _, words, told = next(_narrations(row), (0, "", ""))
            asked = _heard(words, NARRATION)
        else:
            listed = [f"{n}. {caption}" for n, caption in enumerate(_texts(row, "captions"), 1)]
            words, told = "\n".join(listed), _text(row, "whole_caption")
            asked = f"The shots of a video:\n{words}\n{_heard(_text(row, 'whole_ASR'), SUMMARY)}"
        if words and told:
            shots += [Turn("human", asked), Turn("gpt", told)]
        if len(shots) == 2 * _EXAMPLES:
            return tuple(shots)
    raise UserError(f"{_annotations(folder, 'train')}: less than {_EXAMPLES} videos to show as examples")


def load_audio(folder: Path, split: str) -> Iterator[Item | Rejected]:
    shots = _shown(folder, "audio")
    for found in _rows(_annotations(folder, split)):
        if isinstance(found, Rejected):
            yield found
            continue
        where, row = found
        narrations = list(_narrations(row))
        if not narrations:
            yield Rejected(where, "no shot in which something is said and described")
        for shot, words, told in narrations:
            yield Item(f"{row['video']}#{shot}", _heard(words, NARRATION), truth=told, shots=shots)


def load_summary(folder: Path, split: str) -> Iterator[Item | Rejected]:
    shots = _shown(folder, "summary")
    for found in _rows(_annotations(folder, split)):
        if isinstance(found, Rejected):
            yield found
            continue
        where, row = found
        told = _text(row, "whole_caption")
        if not told:
            yield Rejected(where, "no whole_caption")
            continue
        video = media.locate(folder / "videos", Path(str(row["video"])).stem)
        exact = folder / "videos" / str(row["video"])
        prompt = _heard(_text(row, "whole_ASR"), SUMMARY)
        yield Item(str(row["video"]), prompt, (exact if exact.exists() else video,), told, shots=shots)


def _shot2story(
    name: str,
    title: str,
    figures: dict[str, tuple[float, float, float]],
    media_needed: Sequence[str],
    **rest: Any,
) -> Task:
    file = lambda name: "|".join(below + name for below in ("", "annotations/", "*/annotations/"))
    train = f"{file('20k_train.json')}|{file('43k_human_train.json')}"
    told = ", ".join(f"{system} {rouge}/{meteor}" for system, (_, rouge, meteor) in figures.items())
    return Task(
        name=name,
        family="text",
        title=title,
        metric="BLEU-4, %",
        folder="shot2story",
        needs={split: (file(f"20k_{split}.json"), train, *media_needed) for split in ("val", "test")},
        get="Get 20k_train.json and 20k_test.json from https://huggingface.co/datasets/mhan/shot2story (CC "
        "BY-NC-SA 4.0) into "
        "shot2story/annotations/ and the videos that its DATA.md links to into shot2story/videos/.",
        protocol=Generate(256),
        score=text.captions,
        tested="fixture",
        reported={
            "zero-shot": Reported(
                {system: bleu for system, (bleu, _, _) in figures.items()},
                note=f"With three examples. ROUGE/METEOR: {told}.",
            )
        },
        **rest,
    )


TASKS: tuple[Task, ...] = (
    _imdb(
        "imdb",
        "IMDB reviews (no example)",
        0,
        {"LLaMA-VID": 80.3, "Behavior-LLaVA": 84.1},
        finetune=Finetune(lambda item: item.truth),
    ),
    _imdb(
        "imdb_1shot",
        "IMDB reviews (one example)",
        1,
        {"LLaMA-VID": 87.9, "Behavior-LLaVA": 90.2},
        note="One example with its answer, drawn by the question's id: the paper does not say which it "
        "shows.",
    ),
    _shot2story(
        "shot2story_audio",
        "Shot2Story: what is said, summarised (three examples)",
        {"VALOR": (6.6, 10.0, 23.9), "LLaMA-VID": (15.1, 18.3, 30.7), "Behavior-LLaVA": (19.0, 25.1, 39.3)},
        (),
        load=load_audio,
        note="A question for each shot, with its transcript; the truth is the release's narration caption, "
        "the only truth "
        "on sound that it has.",
    ),
    _shot2story(
        "shot2story_summary",
        "Shot2Story: summary of several shots (three examples)",
        {
            "Video-ChatGPT": (5.0, 14.0, 19.7),
            "LLaMA-VID": (9.1, 16.5, 20.3),
            "Behavior-LLaVA": (10.6, 18.3, 22.7),
            "Behavior-LLaVA + replay graphs": (11.2, 19.1, 25.3),
            "Behavior-LLaVA + memorability": (11.9, 20.3, 26.9),
        },
        ("videos/*",),
        load=load_summary,
        note="The examples show the captions of their shots in place of pictures.",
    ),
)
