"""SEED-Bench: multiple choice on pictures (types 1 to 9) and on videos (10 to 12).

The release (AILab-CVC/SEED-Bench on the Hugging Face hub) is SEED-Bench.json, {"question_type": {name: id},
"questions": [{"question_id", "question", "choice_a" to "choice_d", "answer", "data_type", "data_id",
"question_type_id", "segment"}]}, and SEED-Bench-image.zip, pictures by `data_id`. Its videos come from
their own data sets: by LLaVA's extract_video_frames.py and SEED's DATASET.md under
videos/20bn-something-something-v2 (whole videos), EPIC-KITCHENS (segment in seconds) and
BreakfastII_15fps_qvga_sync (segment in frames, 15 a second). LLaVA asks about a single frame from the
middle, which it keeps as SEED-Bench-video-image/{type}_{id}.png, and its eval.zip adds
seed_bench/llava-seed-bench.jsonl with all questions.

`seed` is LLaVA's: pictures and middle frames. `seed_image` is the pictures alone, `seed_video` the videos
themselves, as many frames as --frames says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jaxllava.evaluate.scoring import letters
from jaxllava.evaluate.scoring.answered import Answered
from jaxllava.evaluate.tasks.llava_layout import (
    LETTER,
    LOADER_TOKENS,
    Asked,
    numbered,
    options,
    question_file,
    read_json,
    records_of,
    said,
    text_of,
    write_text,
)
from jaxllava.evaluate.tasks.llava_reported import zero_shot
from jaxllava.evaluate.tasks.task import Clip, Generate, Item, Media, Rejected, Task

_FILE = "SEED-Bench.json"
_LLAVA = "llava-seed-bench.jsonl"
_CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")
_BREAKFAST_RATE = 15.0  # frames a second
_VIDEOS = {
    10: "videos/20bn-something-something-v2",
    11: "videos/EPIC-KITCHENS",
    12: "videos/BreakfastII_15fps_qvga_sync",
}

Question = dict[str, Any]


def load(
    folder: Path, split: str, *, media: Callable[[Path, Question], Media | str], kinds: Sequence[str]
) -> Iterator[Item | Rejected]:
    """Items of the `kinds` "image" and "video"; `media` gives a question's picture or video, or why there is none."""
    path = folder / _FILE
    types = read_json(path, dict).get("question_type")
    names = {id: name for name, id in types.items()} if isinstance(types, dict) else {}
    found: dict[str, Item | Rejected] = {}
    others: set[str] = set()  # of a kind that is not asked for
    for index, one in enumerate(numbered(path, records_of(path, "questions"))):
        if isinstance(one, Rejected):
            found[f"?{index}"] = one
            continue
        where, question = one
        if question.get("data_type") in kinds or question.get("data_type") not in ("image", "video"):
            id = str(question.get("question_id") or f"?{index}")
            key = id if id not in found else f"{id}?{index}"  # a second of the id is read's to reject
            found[key] = _item(where, folder, question, names, media)
        else:
            others.add(str(question.get("question_id")))
    llava = folder / _LLAVA
    if not llava.exists():
        yield from found.values()
        return
    yield from (one for one in found.values() if isinstance(one, Rejected))
    for asked in question_file(llava):
        if isinstance(asked, Rejected):
            yield asked
        elif isinstance(item := found.get(str(asked.id)), Item):
            yield _in_llavas_words(folder, asked, item)
        elif str(asked.id) not in others and str(asked.id) not in found:
            yield Rejected(asked.where, f"{_FILE} has no question of this id")


def _in_llavas_words(folder: Path, asked: Asked, item: Item) -> Item:
    """The item with the prompt of LLaVA's file, its own id, and its picture where LLaVA has one of the same kind."""
    one = item.media[0]
    llavas = (
        (folder / asked.image,)
        if isinstance(one, Path) and not _is_release_video(folder, one)
        else item.media
    )
    meta = {**item.meta, "line": {"question_id": asked.id}}
    return Item(item.id, asked.text, llavas, item.truth, meta=meta)


def _is_release_video(folder: Path, path: Path) -> bool:
    return (folder / "videos") in path.parents


def _item(
    where: str,
    folder: Path,
    question: Question,
    names: Mapping[Any, str],
    media: Callable[[Path, Question], Media | str],
) -> Item | Rejected:
    kind, text, id = question.get("data_type"), text_of(question, "question"), question.get("question_id")
    if kind not in ("image", "video"):
        return Rejected(where, "data_type is neither image nor video")
    if text is None or not isinstance(id, str | int) or text_of(question, "data_id") is None:
        return Rejected(where, "no question, question_id or data_id")
    choices = [question.get(choice) for choice in _CHOICES]
    if any(choice is None or choice == "" for choice in choices):
        return Rejected(where, "not four choices")
    if question.get("answer") not in ("A", "B", "C", "D"):
        return Rejected(where, "answer is none of A, B, C, D")
    found = media(folder, question)
    if isinstance(found, str):
        return Rejected(where, found)
    prompt = f"{options(text, [str(choice) for choice in choices])}\n{LETTER}"
    meta = {
        "data_type": kind,
        "question_type": names.get(question.get("question_type_id"), str(question.get("question_type_id"))),
        "line": {"question_id": int(id) if str(id).isdigit() else id},
    }
    return Item(str(id), prompt, (found,), question["answer"], meta=meta)


def _picture(folder: Path, question: Question) -> Media | str:
    return folder / "SEED-Bench-image" / question["data_id"]


def _middle_frame(folder: Path, question: Question) -> Media | str:
    if question["data_type"] == "image":
        return _picture(folder, question)
    return (
        folder
        / "SEED-Bench-video-image"
        / f"{question.get('question_type_id')}_{question['question_id']}.png"
    )


def _video(folder: Path, question: Question) -> Media | str:
    kind = question.get("question_type_id")
    if kind not in _VIDEOS:
        return "question_type_id is of no video data set"
    name = question["data_id"]
    path = folder / _VIDEOS[kind] / (name.split("/")[-1] if kind == 11 else name)
    if kind == 10:
        return path
    segment = question.get("segment")
    if (
        not isinstance(segment, list)
        or len(segment) != 2
        or not all(isinstance(x, int | float) for x in segment)
    ):
        return "segment is not two numbers"
    start, end = (x / _BREAKFAST_RATE if kind == 12 else float(x) for x in segment)
    return Clip(path, start, end) if 0 <= start < end else "segment ends before it begins"


def submit(rows: Sequence[Answered], folder: Path) -> Path:
    """seed_bench.jsonl: {"question_id", "prediction"} lines, ids as texts, for SEED-Bench's leaderboard."""
    lines = (json.dumps({"question_id": row.id, "prediction": said(row)}) + "\n" for row in rows)
    return write_text(folder, "seed_bench.jsonl", "".join(lines))


_GET = (
    "SEED-Bench.json and SEED-Bench-image.zip from https://huggingface.co/datasets/AILab-CVC/SEED-Bench "
    "(CC BY-NC 4.0), the pictures as seed_bench/SEED-Bench-image"
)


def _task(name: str, title: str, needs: tuple[str, ...], get: str, load: Any, note: str = "") -> Task:
    return Task(
        name=name,
        family="llava",
        title=title,
        metric="accuracy, %",
        folder="seed_bench",
        needs={"test": (_FILE, *needs)},
        get=get,
        load=load,
        protocol=Generate(LOADER_TOKENS),
        score=letters.seed_bench,
        submit=submit,
        tested="fixture",
        reported=zero_shot(name),
        note=note,
    )


TASKS: tuple[Task, ...] = (
    _task(
        "seed",
        "SEED-Bench, pictures and middle frames",
        ("SEED-Bench-image/*", "SEED-Bench-video-image/*"),
        f"{_GET}; of the videos that its DATASET.md names the middle frames by LLaVA's extract_video_frames.py as "
        "seed_bench/SEED-Bench-video-image.",
        partial(load, media=_middle_frame, kinds=("image", "video")),
        "LLaVA-1.5 reports image/video 66.1/37.3 (7B) and 68.2/42.7 (13B).",
    ),
    _task(
        "seed_image",
        "SEED-Bench, pictures",
        ("SEED-Bench-image/*",),
        f"{_GET}.",
        partial(load, media=_picture, kinds=("image",)),
    ),
    _task(
        "seed_video",
        "SEED-Bench, videos",
        ("videos/*/*",),
        f"{_GET.split(', the')[0]}, and the videos that its DATASET.md names under seed_bench/videos, in folders "
        "20bn-something-something-v2, EPIC-KITCHENS and BreakfastII_15fps_qvga_sync.",
        partial(load, media=_video, kinds=("video",)),
        "LLaVA's own figures on videos are of a single frame: seed.",
    ),
)
