"""HVU, holistic video understanding: tags of six categories by Video-4096's choice (Behavior-LLaVA section
4, table
"HVU").

The release (github.com/holistic-video-understanding/HVU-Dataset): HVU_Val_V1.0.csv with "Tags" joined by
"|", youtube_id, time_start and time_end in seconds, and HVU_Tags_Categories_V1.0.csv with the category of
each tag. The mini set (Mini-HVU) has the same columns. Videos are cut ones, videos/<youtube
id>_<start>_<end> as the download scripts name them (also with the seconds in six digits), or whole ones,
videos/<youtube id>, of which the stretch is read.

What the papers say: 30 random tags, equally many of each category, the model picks five, and these are
mapped back to their categories. They do not say how the 30 are drawn. Here: of each category one of the
video's own tags, where it has any, and others of that category to make five, drawn with a seed that is the
video's id, so that every model gets the same ones. Figures do not compare with supervised mAP over all tags.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from input_pipeline.errors import UserError
from jaxllava.evaluate import media
from jaxllava.evaluate.scoring import retrieval
from jaxllava.evaluate.scoring.answered import Answered, Scored
from jaxllava.evaluate.tasks import releases, video4096
from jaxllava.evaluate.tasks.task import Clip, Item, Media, Rank, Rejected, Reported, Task

CATEGORIES = retrieval.CATEGORIES
OF_EACH = 5  # tags of a category among the 30


def tags_of(folder: Path) -> dict[str, list[str]]:
    """The tags of each category, sorted."""
    path = releases.needed(
        folder, "HVU_Tags_Categories*.csv", "*/HVU_Tags_Categories*.csv", "*categories*.csv"
    )
    found: dict[str, set[str]] = {category: set() for category in CATEGORIES}
    for row in releases.table(path, {"tag": ("Tag", "Tags"), "category": ("Category", "Categories")}):
        if isinstance(row, Rejected):
            raise UserError(f"{row.where}: {row.reason}; get the file anew")
        category = row[1]["category"].lower().removesuffix("s")
        if category not in found:
            raise UserError(f"{row[0]}: unknown category {category!r}; HVU has {', '.join(CATEGORIES)}")
        found[category].add(row[1]["tag"])
    if short := [category for category, tags in found.items() if len(tags) < OF_EACH]:
        raise UserError(f"{path}: less than {OF_EACH} tags of the category {short[0]!r}")
    return {category: sorted(tags) for category, tags in found.items()}


def thirty(id: str, own: set[str], tags: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """(tag, category) of the tags to choose from, in a random order that the id fixes."""
    rng = random.Random(f"hvu {id}")
    found: list[tuple[str, str]] = []
    for category in CATEGORIES:
        mine = [tag for tag in tags[category] if tag in own]
        others = [tag for tag in tags[category] if tag not in own]
        first = rng.sample(mine, min(1, len(mine)))
        rest = rng.sample(others, min(OF_EACH - len(first), len(others)))
        found += [(tag, category) for tag in first + rest]
    rng.shuffle(found)
    return found


def word(tag: str) -> str:
    """A tag as it is asked for: some end in what was a bracket, "backflip_human_"."""
    return " ".join(tag.replace("_", " ").split())


def load(folder: Path, split: str) -> Iterator[Item | Rejected]:
    tags = tags_of(folder)
    known = {tag for of_one in tags.values() for tag in of_one}
    path = releases.needed(folder, "HVU_Val*.csv", "MHVU_Val*.csv", "hvu_val*.csv", "*/*HVU_Val*.csv")
    columns = {"tags": ("Tags",), "id": ("youtube_id",), "start": ("time_start",), "end": ("time_end",)}
    for found in releases.table(path, columns):
        if isinstance(found, Rejected):
            yield found
            continue
        where, row = found
        start, end = releases.number(row["start"]), releases.number(row["end"])
        own = {tag.strip() for tag in row["tags"].split("|")} & known
        if start is None or end is None or end <= start:
            yield Rejected(where, "no time_start before a time_end")
        elif not own:
            yield Rejected(where, "no tag that the categories have")
        else:
            id = f"{row['id']}_{int(start)}_{int(end)}"
            chosen = thirty(id, own, tags)
            words = tuple(word(tag) for tag, _ in chosen)
            question = (
                f"Given {', '.join(words)} identify the five tags that are most relevant to the video and "
                f"answer "
                "with just the most relevant tags."
            )
            meta = {"candidates": list(words), "categories": [category for _, category in chosen]}
            truth = [word(tag) for tag, _ in chosen if tag in own]
            yield Item(id, question, (_video(folder, row["id"], start, end),), truth, words, meta=meta)


def _video(folder: Path, id: str, start: float, end: float) -> Media:
    names = (f"{id}_{int(start)}_{int(end)}", f"{id}_{int(start):06d}_{int(end):06d}")
    paths = [media.locate(folder / "videos", name) for name in names]
    if cut := next((path for path in paths if path.exists()), None):
        return cut
    whole = media.locate(folder / "videos", id)
    return Clip(whole, start, end) if whole.exists() else paths[0]


def score(category: str, rows: Sequence[Answered]) -> Scored:
    """The figures of `retrieval.hvu_retrieval`, that of the category first."""
    scored = retrieval.hvu_retrieval(rows)
    if category not in scored.figures:
        raise UserError(f"HVU: in none of the {len(rows)} videos a tag of the category {category} was picked")
    first = {category: scored.figures[category]}
    return Scored(first | scored.figures, scored.problems)


_SYSTEMS = ("LLaMA-VID", "Ad-LLaVA", "Behavior-LLaVA")
_STORY = ("Video4096 story + Flan-t5-xxl", "Video4096 story + GPT-3.5", "LLaMA-VID", "Behavior-LLaVA")
_SUPERVISED = ("3D-Resnet", "3D-STCNet", "HATNet", "3D-Resnet multitask", "HATNet multitask")
_FIGURES: dict[str, tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]] = {
    "scene": ((47.25, 49.10, 52.03), (59.66, 60.2, 60.3, 60.4), (50.6, 51.9, 55.8, 51.7, 57.2)),
    "object": ((65.26, 65.35, 65.33), (98.89, 99.16, 99.92, 99.89), (28.6, 30.1, 34.2, 29.6, 35.1)),
    "action": ((78.12, 77.45, 77.95), (98.96, 98.72, 99.01, 98.23), (48.2, 50.3, 51.8, 48.9, 53.5)),
    "event": ((28.03, 31.45, 32.66), (38.42, 40.79, 39.33, 40.97), (35.9, 35.8, 38.5, 36.6, 39.8)),
    "attribute": ((42.33, 43.33, 45.67), (67.76, 67.17, 66.66, 67.23), (29.0, 29.9, 33.6, 31.1, 34.9)),
    "concept": ((50.03, 50.70, 51.20), (86.99, 88.6, 87.33, 88.33), (22.5, 22.7, 26.1, 24.1, 27.3)),
    "overall": ((51.83, 52.91, 54.14), (75.12, 75.77, 75.425, 75.84), (35.8, 36.7, 40.0, 37.0, 41.3)),
}


def _task(category: str) -> Task:
    zero, story, tuned = _FIGURES[category]
    return Task(
        name=f"hvu_{category}",
        family="hvu",
        title=f"HVU {category}",
        metric="precision of five tags of thirty, %",
        folder="hvu",
        answers="hvu",
        split="val",
        needs={
            "val": (
                "HVU_Val*.csv|MHVU_Val*.csv|hvu_val*.csv|*/*HVU_Val*.csv",
                "HVU_Tags_Categories*.csv|*/HVU_Tags_Categories*.csv|*categories*.csv",
                "videos/*",
            )
        },
        get="Get HVU_Val_V1.0.csv (in a zip) and HVU_Tags_Categories_V1.0.csv from "
        "https://github.com/holistic-video-understanding/HVU-Dataset (research only) into hvu/ and the "
        "videos of its "
        "youtube_id column, as far as they are still public, into hvu/videos/.",
        load=load,
        protocol=Rank(retrieval.PICKS),
        score=partial(score, category),
        tested="fixture",
        reported={
            "zero-shot": Reported(dict(zip(_SYSTEMS, zero, strict=True))),
            "zero-shot with story": Reported(dict(zip(_STORY, story, strict=True))),
            "fine-tuned": Reported(
                dict(zip(_SUPERVISED, tuned, strict=True)),
                best="HATNet multitask",
                note="Supervised mAP over all tags: another metric.",
            ),
        },
        note="The 30 tags are one of the video's own of each category, where it has any, and others, drawn "
        "by the video's id. " + video4096.NOTE,
    )


TASKS: tuple[Task, ...] = tuple(map(_task, _FIGURES))
