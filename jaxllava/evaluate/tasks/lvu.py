"""LVU, long-form video understanding: nine tasks on film scenes of YouTube (Behavior-LLaVA section 4, table
"LVU").

Two layouts: the release's own (https://chaoyuan.org/lvu), lvu_1.0/<task>/<split>.csv, separated by blanks in
spite of its name, "class_id class_name youtube_id imdb_id"; and MA-LMM's annotation/<split>.json, {video:
{"subset", <task>: class, <task>_answer: "(b)"}}, whose letters count the classes that occur, in the order of
their ids. Directors and writers are ids of IMDb; a class of the writers is "\\N", a film without one.
Videos: videos/<youtube id>.

Targets of the two regressions as LVU's code (chaoyuaw/lvu, load_mc_video_data) has them: like_ratio is 10
likes / (likes + dislikes), view_count the natural logarithm of the views; it takes a constant off both,
which changes no squared error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jaxllava.evaluate import media
from jaxllava.evaluate.scoring import accuracy
from jaxllava.evaluate.tasks import releases, video4096
from jaxllava.evaluate.tasks.task import Choose, Expect, Finetune, Item, Rejected, Reported, Task

# Task: what is asked for, and {the release's class: the words it is asked by}, in the order of the class ids.
_CLASSES: dict[str, tuple[str, dict[str, str]]] = {
    "scene": (
        "place",
        {name: name for name in ("office", "airport", "school", "hotel", "prison", "restaurant")},
    ),
    "way_speaking": (
        "way of speaking",
        {
            "explains": "explains",
            "confronts": "confronts",
            "discuss": "discusses",
            "teaches": "teaches",
            "threatens": "threatens",
        },
    ),
    "relationship": (
        "relationship",
        {
            "friend": "friends",
            "ex_boyfriend_ex_girlfriend": "ex-boyfriend and ex-girlfriend",
            "husband_wife": "husband and wife",
            "boyfriend_girlfriend": "boyfriend and girlfriend",
        },
    ),
    "director": (
        "director",
        {
            "nm0000229": "Steven Spielberg",
            "nm0000217": "Martin Scorsese",
            "nm0000165": "Ron Howard",
            "nm0001675": "Robert Rodriguez",
            "nm0040630": "Mark Atkins",
            "nm0001392": "Peter Jackson",
            "nm0000631": "Ridley Scott",
            "nm0000233": "Quentin Tarantino",
        },
    ),
    "genre": (
        "genre",
        {
            "Comedy": "comedy",
            "Action-Crime-Adventure": "action, crime or adventure",
            "Romance": "romance",
            "Thriller-Horror": "thriller or horror",
        },
    ),
    "writer": (
        "writer",
        {
            "\\N": "an unknown writer",
            "nm0001220": "Ian Fleming",
            "nm0000175": "Stephen King",
            "nm0000455": "John Hughes",
            "nm0462895": "David Koepp",
            "nm0000230": "Sylvester Stallone",
            "nm0326040": "Akiva Goldsman",
        },
    ),
    "year": ("decade", {str(year): f"{year}s" for year in range(1930, 2020, 10)}),
}

_LIKES = tuple(f"{value:02d}" for value in range(100))
LIKE_QUESTION = (
    "Of those who clicked like or dislike on this video, how many per cent clicked like, from 00 to 99? "
    "Answer with two digits only."
)
_VIEWS = tuple(10**power * first for power in range(1, 9) for first in (1, 3))  # 10 to 300 million
VIEW_QUESTION = "About how often was this video viewed on YouTube? Answer with a round number of views."


def like_ratio(likes: float, dislikes: float) -> float:
    return 10 * likes / (likes + dislikes)


def _views(count: int) -> str:
    return f"{count:,} views"


def _question(name: str) -> str:
    what, classes = _CLASSES[name]
    return video4096.choice(tuple(classes.values()), what)


def _video(folder: Path, id: str) -> Path:
    return media.locate(folder / "videos", id)


def _class_items(name: str, folder: Path, split: str) -> Iterator[Item | Rejected]:
    _, classes = _CLASSES[name]
    question = _question(name)
    rows = _csv_classes if (csv := _csv(folder, name, split)) else _json_classes
    path = csv or releases.needed(folder, f"annotation/{split}.json", f"{split}.json")
    for found in rows(path, name, list(classes)):
        if isinstance(found, Rejected):
            yield found
            continue
        where, id, label = found
        if label not in classes:
            yield Rejected(where, f"unknown class {label!r}")
        else:
            yield Item(id, question, (_video(folder, id),), classes[label])


def _csv(folder: Path, name: str, split: str) -> Path | None:
    return releases.first_of(folder, f"lvu_1.0/{name}/{split}.csv", f"{name}/{split}.csv")


def _csv_classes(path: Path, name: str, known: list[str]) -> Iterator[tuple[str, str, str] | Rejected]:
    for found in releases.table(path, {"label": ("class_name",), "id": ("youtube_id",)}):
        yield found if isinstance(found, Rejected) else (found[0], found[1]["id"], found[1]["label"])


def _json_classes(path: Path, name: str, known: list[str]) -> Iterator[tuple[str, str, str] | Rejected]:
    for found in releases.objects(path):
        if isinstance(found, Rejected):
            yield found
            continue
        where, row = found
        if name not in row:
            continue  # the file has all tasks' videos
        letter = str(row.get(f"{name}_answer", "")).strip("() ").lower()
        at = ord(letter) - ord("a") if len(letter) == 1 else -1
        if 0 <= at < len(known):
            yield where, str(row["id"]), known[at]
        else:
            yield Rejected(where, f"no {name}_answer of (a) to ({chr(ord('a') + len(known) - 1)})")


def _like_items(folder: Path, split: str) -> Iterator[Item | Rejected]:
    columns = {"likes": ("like_count",), "dislikes": ("dislike_count",), "id": ("youtube_id",)}
    for where, row, counts in _counted("like_ratio", folder, split, columns, ("likes", "dislikes")):
        if row is None:
            yield Rejected(where, counts)
        elif sum(counts) <= 0:
            yield Rejected(where, "neither likes nor dislikes")
        else:
            yield Item(row["id"], LIKE_QUESTION, (_video(folder, row["id"]),), like_ratio(*counts))


def _view_items(folder: Path, split: str) -> Iterator[Item | Rejected]:
    columns = {"views": ("view_count",), "id": ("youtube_id",)}
    for where, row, counts in _counted("view_count", folder, split, columns, ("views",)):
        if row is None:
            yield Rejected(where, counts)
        elif counts[0] <= 0:
            yield Rejected(where, "no views")
        else:
            yield Item(row["id"], VIEW_QUESTION, (_video(folder, row["id"]),), math.log(counts[0]))


def _counted(
    name: str, folder: Path, split: str, columns: Mapping[str, tuple[str, ...]], numbers: tuple[str, ...]
) -> Iterator[tuple[str, Any, Any]]:
    """(where, row, its numbers), or (where, None, what is wrong)."""
    path = releases.needed(folder, f"lvu_1.0/{name}/{split}.csv", f"{name}/{split}.csv")
    for found in releases.table(path, columns):
        if isinstance(found, Rejected):
            yield found.where, None, found.reason
            continue
        where, row = found
        counts = [releases.number(row[key]) for key in numbers]
        if any(count is None or count < 0 for count in counts):
            yield where, None, "no count"
        else:
            yield where, row, counts


def _taught_views(item: Item) -> str:
    return _views(min(_VIEWS, key=lambda count: abs(math.log(count) - item.truth)))


def _taught_likes(item: Item) -> str:
    return f"{min(99, round(item.truth * 10)):02d}"


_TABLE = (
    "Video4096 story + Flan-t5-xxl",
    "Video4096 story + GPT-3.5",
    "LLaMA-VID",
    "Ad-LLaVA",
    "Behavior-LLaVA",
)
_SUPERVISED = (
    "R101-slowfast+NL",
    "VideoBERT",
    "Xiao et al. 2022",
    "Qian et al. 2021",
    "Object Transformers",
)
_READER = "Video4096 story + RoBERTa"  # it reads the story alone
_FIGURES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "scene": ((60.2, 54.54, 58.12, 59.05, 64.21), (54.7, 54.9, 44.19, 32.56, 56.9, 68.65)),
    "way_speaking": ((39.07, 32.95, 35.5, 37.07, 41.03), (35.8, 37.9, 34.07, 32.86, 39.4, 38.41)),
    "relationship": ((64.1, 68.42, 60.6, 61.2, 66.43), (52.4, 52.8, 50.95, 50.95, 53.1, 62.16)),
    "like_ratio": ((0.061, 0.031, 0.314, 0.319, 0.17), (0.386, 0.320, 0.353, 0.444, 0.230, 0.054)),
    "view_count": ((12.84, 12.69, 10.34, 10.37, 5.12), (3.77, 4.46, 4.886, 4.600, 3.55, 11.84)),
    "director": ((69.9, 75.26, 65.34, 66.84, 71.12), (44.9, 47.3, 40.19, 37.76, 51.2, 45.34)),
    "genre": ((58.1, 50.84, 49.77, 55.13, 63.45), (53.0, 51.9, 48.11, 48.17, 54.6, 39.27)),
    "writer": ((52.4, 32.16, 34.23, 35.33, 39.4), (36.3, 38.5, 31.43, 27.26, 34.5, 35.93)),
    "year": ((75.6, 75.96, 72.12, 77.34, 79.3), (52.5, 36.1, 29.65, 25.31, 39.1, 7.826)),
}
_SWAPPED = "The paper's cells of Behavior-LLaVA for scene and relationship are swapped: its gains say so."


def _reported(name: str, higher: bool) -> dict[str, Reported]:
    story, tuned = _FIGURES[name]
    supervised: dict[str, float] = dict(zip(_SUPERVISED, tuned[:-1], strict=True))
    best = max(supervised, key=lambda system: supervised[system] * (1 if higher else -1))
    note = _SWAPPED if name in ("scene", "relationship") else ""
    return {
        "zero-shot with story": Reported(dict(zip(_TABLE, story, strict=True)), note=note),
        "fine-tuned": Reported(supervised, best=best),
        "fine-tuned with story": Reported({_READER: tuned[-1]}, best=_READER),
    }


def _task(name: str, title: str, **rest: Any) -> Task:
    regression = name not in _CLASSES
    layouts = ["lvu_1.0/{}/{}.csv", "{}/{}.csv"] + ([] if regression else ["annotation/{1}.json", "{1}.json"])
    if not regression:
        rest = {
            "metric": "top-1, %",
            "load": partial(_class_items, name),
            "protocol": Choose(tuple(_CLASSES[name][1].values())),
            "score": accuracy.top1,
            "finetune": Finetune(lambda item: item.truth),
            "note": video4096.NOTE,
        }
    splits = ("train", "val", "test")
    return Task(
        name=f"lvu_{name}",
        family="lvu",
        title=f"LVU {title}",
        folder="lvu",
        needs={
            split: ("|".join(layout.format(name, split) for layout in layouts), "videos/*")
            for split in splits
        },
        get="Get https://chaoyuan.org/lvu/lvu_1.0.tar.gz (MIT) into lvu/lvu_1.0/ and the videos of its "
        "youtube_id "
        "columns, as far as they are still public, into lvu/videos/.",
        tested="real data",
        higher=not regression,
        reported=_reported(name, not regression),
        **rest,
    )


TASKS: tuple[Task, ...] = (
    _task("scene", "scene"),
    _task("way_speaking", "way of speaking"),
    _task("relationship", "relationship"),
    _task(
        "like_ratio",
        "like ratio",
        metric="MSE of 10 likes / (likes + dislikes)",
        load=_like_items,
        protocol=Expect(tuple(value / 10 for value in range(100)), _LIKES),
        score=accuracy.mse,
        finetune=Finetune(_taught_likes),
        note="The answer is the mean of 00 to 99 per cent under the words' probabilities. " + video4096.NOTE,
    ),
    _task(
        "view_count",
        "view count",
        metric="MSE of ln(views)",
        load=_view_items,
        protocol=Expect(tuple(map(math.log, _VIEWS)), tuple(map(_views, _VIEWS))),
        score=accuracy.mse,
        finetune=Finetune(_taught_views),
        note="The answer is the mean of ln(views) over round numbers, 10 to 300 million, under their "
        "probabilities. " + video4096.NOTE,
    ),
    _task("director", "director"),
    _task("genre", "genre"),
    _task("writer", "writer"),
    _task("year", "decade"),
)
