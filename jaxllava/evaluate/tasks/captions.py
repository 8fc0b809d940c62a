"""Dense captions of pictures, judged by GPT-4V (Behavior-LLaVA section 4, table "Dense captioning").

The paper does not say which pictures: here any folder of them. The judge gives 1 to 10 for correctness,
detail and quality; what it is to read is written as lines {"id", "image", "prompt", "caption"}.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from input_pipeline import video
from input_pipeline.partial import partial_of
from jaxllava.evaluate.scoring.answered import Answered
from jaxllava.evaluate.tasks.task import Generate, Item, Rejected, Reported, Task

PROMPT = "Describe this picture in as much detail as you can."


def load(folder: Path, split: str) -> Iterator[Item | Rejected]:
    root = folder / "images"
    for path in sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".")):
        name = path.relative_to(root).as_posix()
        if path.suffix.lower() in video.PICTURES:
            yield Item(name, PROMPT, (path,), meta={"image": str(path)})
        else:
            yield Rejected(str(path), "not a picture")


def submit(rows: Sequence[Answered], folder: Path) -> Path:
    path = folder / "captions.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    partial = partial_of(path)
    with partial.open("w", encoding="utf-8") as file:
        for row in rows:
            line = {"id": row.id, "image": row.meta["image"], "prompt": PROMPT, "caption": row.answer or ""}
            file.write(json.dumps(line) + "\n")
    return partial.replace(path)


TASKS: tuple[Task, ...] = (
    Task(
        name="dense_captions",
        family="captions",
        title="Dense captioning",
        metric="mean of correctness, detail and quality, 1 to 10",
        folder="dense_captions",
        needs={"test": ("images/*",)},
        get="Put any pictures into dense_captions/images/: the paper does not say which it takes.",
        load=load,
        protocol=Generate(1024),
        score=None,
        judge="dense captions: correctness, detail and quality of 1 to 10",
        submit=submit,
        tested="fixture",
        reported={
            "zero-shot": Reported(
                {
                    "GPT-4V": 8.43,
                    "LLaVA-1.6 34B": 7.9,
                    "LLaMA-VID": 7.4,
                    "Ad-LLaVA": 7.53,
                    "Behavior-LLaVA": 7.76,
                },
                note="Correctness/detail/quality: GPT-4V 8.4/8.5/8.4, LLaVA-1.6 34B 8.1/8.2/7.4, LLaMA-VID "
                "7.4/7.6/7.2, "
                "Ad-LLaVA 7.5/7.8/7.3, Behavior-LLaVA 7.3/8.1/7.9. The caption says that Behavior-LLaVA is "
                "better than "
                "LLaVA-1.6 34B in detail; the table does not.",
            )
        },
        note="The pictures of the paper are unknown, so its figures are no target.",
    ),
)
