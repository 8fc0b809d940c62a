"""POPE: is an object in the picture? Three ways to draw the objects that are not (random, popular,
adversarial).

Two layouts of AoiDragon/POPE on COCO val2014, under pope/: `coco/coco_pope_{category}.json` (JSON lines
{"question_id", "image", "text", "label"}) is the release; LLaVA's eval.zip adds `llava_pope_test.jsonl`,
all three in one file with its own ids and some words misspelt ("imange"), which go to the model as they
are. LLaVA's scorer pairs both by their order; here a question finds its label by picture and words, so that
a later release with more lines fits as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jaxllava.evaluate.scoring import yes_no
from jaxllava.evaluate.tasks.llava_layout import LOADER_TOKENS, Asked, question_file, read_lines, short
from jaxllava.evaluate.tasks.llava_reported import zero_shot
from jaxllava.evaluate.tasks.task import Generate, Item, Rejected, Task

# What LLaVA's file adds to the line number of a category's file.
_FIRST_ID = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}
_IMAGES = "val2014"

Labels = dict[tuple[str, str], str]  # (picture, question) -> label


def _labels(path: Path) -> tuple[Labels, list[tuple[str, int, str, str] | Rejected]]:
    """The labels of a category, and its questions: where, line number from 1, picture, text."""
    labels: Labels = {}
    asked: list[tuple[str, int, str, str] | Rejected] = []
    for number, found in enumerate(read_lines(path), 1):
        if isinstance(found, Rejected):
            asked.append(found)
            continue
        where, line = found
        image, text, label = (line.get(key) for key in ("image", "text", "label"))
        if not (isinstance(image, str) and image and isinstance(text, str) and text.strip()):
            asked.append(Rejected(where, "no image or no text"))
        elif not isinstance(label, str) or label.strip().lower() not in ("yes", "no"):
            asked.append(Rejected(where, "label is neither yes nor no"))
        else:
            labels[_key(image, text)] = label.strip().lower()
            asked.append((where, number, image, text))
    return labels, asked


def _key(image: str, text: str) -> tuple[str, str]:
    return image, " ".join(text.split("\n")[0].replace("imange", "image").split()).lower()


def load(folder: Path, split: str) -> Iterator[Item | Rejected]:
    files = {category: folder / "coco" / f"coco_pope_{category}.json" for category in _FIRST_ID}
    release = {category: _labels(path) for category, path in files.items() if path.exists()}
    path = folder / "llava_pope_test.jsonl"
    if not path.exists():
        for category, (labels, asked) in release.items():
            for one in asked:
                if isinstance(one, Rejected):
                    yield one
                    continue
                _, number, image, text = one
                id = _FIRST_ID[category] + number
                yield _item(folder, id, image, short(text), category, labels[_key(image, text)])
        return
    for _, asked in release.values():
        yield from (one for one in asked if isinstance(one, Rejected))
    for one in question_file(path):
        yield one if isinstance(one, Rejected) else _labelled(folder, one, release)


def _labelled(folder: Path, asked: Asked, release: dict[str, tuple[Labels, list]]) -> Item | Rejected:
    if asked.category not in _FIRST_ID:
        return Rejected(asked.where, "category is none of random, popular, adversarial")
    label = None
    if asked.category in release:  # else: asked without a truth
        label = release[asked.category][0].get(_key(asked.image, asked.text))
        if label is None:
            return Rejected(asked.where, f"coco_pope_{asked.category}.json has no label for the question")
    return _item(folder, asked.id, asked.image, asked.text, asked.category, label)


def _item(folder: Path, id: int | str, image: str, prompt: str, category: str, label: str | None) -> Item:
    meta = {"category": category, "image": image, "line": {"question_id": id}}
    return Item(str(id), prompt, (folder / _IMAGES / image,), label, meta=meta)


TASKS: tuple[Task, ...] = (
    Task(
        name="pope",
        family="llava",
        title="POPE",
        metric="mean F1 of random, popular and adversarial, %",
        folder="pope",
        needs={"test": ("coco/coco_pope_*.json", f"{_IMAGES}/*")},
        get="The folder output/coco of https://github.com/AoiDragon/POPE (MIT) as pope/coco, and COCO's val2014 "
        "pictures (http://images.cocodataset.org/zips/val2014.zip) as pope/val2014.",
        load=load,
        protocol=Generate(LOADER_TOKENS),
        score=yes_no.pope,
        tested="real data",
        reported=zero_shot(
            "pope",
            "F1 random/popular/adversarial: LLaVA-1.5 7B 87.3/86.1/84.2, 13B 87.1/86.2/84.5, HD-13B 87.5/86.4/85.0",
        ),
        note="Every answer without the word no or not counts as yes, as in LLaVA's scorer.",
    ),
)
