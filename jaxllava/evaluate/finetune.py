"""A benchmark's training split as instruction records, for the fine-tuned settings: `jaxllava prepare --task`.

The conversation is the one that the evaluation has, with the truth as its answer, so that what is trained is
what is asked.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from input_pipeline import records
from input_pipeline.errors import UserError
from input_pipeline.types import Record, Turn
from input_pipeline.video import is_video
from jaxllava.evaluate.ask import turns
from jaxllava.evaluate.media import MediaError, open_media
from jaxllava.evaluate.tasks.task import Finetune, Item, Task, read
from jaxllava.videos import Video

_AHEAD = 64  # questions whose media are opened beside the writing
_QUALITY = 95  # of frames stored as JPEG
MOST_BAD = 0.05  # of the questions may lack their media


def prepare(
    task: Task,
    data_root: Path,
    out: Path,
    frames: int = 4,
    fraction: float = 1.0,
    heldout: float = 0.05,
    progress: Callable[..., None] = lambda *given: None,
) -> dict[str, Any]:
    """Writes `out/records` with the splits `instruct_train` and `instruct_heldout`; returns the summary
    (`summary.json`).

    Args:
        frames: of a video.
        fraction: of the training questions that is used, drawn by a hash of their ids: 0.25 is part of 0.5.
        heldout: of their pictures and videos, the part whose questions validate (Henry's protocol has 5 %).

    What cannot be written stands in `quarantine.jsonl` with its reason, and so do the faults of videos that can. Raises
    UserError where the task has no training split, `out` holds something, or more than 5 % cannot be written.
    """
    recipe = task.finetune
    if recipe is None:
        raise UserError(
            f"--task {task.name}: its release has no training split; it is evaluated zero-shot only"
        )
    if not 0 < fraction <= 1:
        raise UserError(f"--fraction {fraction}: a share above 0 and up to 1 is needed")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"--out {out}: is not empty; give a new folder")
    found = read(task, data_root, recipe.split)
    chosen = sorted((i for i in found.items if i.truth is not None), key=lambda item: _draw(item.id))
    chosen = chosen[: max(1, round(len(chosen) * fraction))]
    seen = dict.fromkeys(_picture(item) for item in chosen)
    pictures = set(list(seen)[:: round(1 / heldout)]) if heldout and len(seen) > 1 else set()
    held = {item.id for item in chosen if _picture(item) in pictures}
    quarantine = [
        {"where": where, "reason": reason} for reason, places in found.rejected.items() for where in places
    ]
    bad: list[dict[str, str]] = []
    faults: list[dict[str, str]] = []  # of videos that are used

    done = itertools.count(1)

    def made(validates: bool) -> Iterator[Record]:
        asked = [item for item in chosen if (item.id in held) == validates]
        for item, record, notes in _records(asked, task, recipe, frames):
            progress(next(done), len(chosen))
            if isinstance(record, str):
                bad.append({"where": item.id, "reason": record})
            else:
                faults.extend({"where": item.id, "reason": f"used, but: {note}"} for note in notes)
                yield record

    out.mkdir(parents=True, exist_ok=True)
    splits = {"instruct_train": made(False), **({"instruct_heldout": made(True)} if held else {})}
    lengths = records.write(splits, out / "records")
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in (*quarantine, *bad, *faults)]
    (out / "quarantine.jsonl").write_text("".join(lines))
    if len(bad) > MOST_BAD * len(chosen):
        raise UserError(
            f"--task {task.name}: {len(bad)} of {len(chosen)} training questions cannot be used "
            f"({bad[0]['where']}: {bad[0]['reason']}); {out / 'quarantine.jsonl'} has all"
        )
    summary = {
        "task": task.name,
        "split": recipe.split,
        "questions": len(found.items),
        "used": len(chosen) - len(bad),
        "fraction": fraction,
        "splits": lengths,
        "answers": Counter(recipe.answer(item) for item in chosen).most_common(20),
        "rejected": {reason: len(places) for reason, places in found.rejected.items()},
        "unusable": len(bad),
        "faulty": len(faults),
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    return summary


def _picture(item: Item) -> str:
    """What a question is about: two questions on one picture are on one side of the split."""
    first = item.media[0] if item.media else item.id
    return hashlib.sha256(first).hexdigest() if isinstance(first, bytes) else str(first)


def _draw(id: str) -> bytes:
    return hashlib.sha256(f"finetune {id}".encode()).digest()


def _records(
    items: list[Item], task: Task, recipe: Finetune, frames: int
) -> Iterator[tuple[Item, Record | str, list[str]]]:
    """A record of each item, or why there is none; what is wrong with media that could be used."""

    def one(item: Item) -> tuple[Item, Record | str, list[str]]:
        notes: list[str] = []
        try:
            images = tuple(_encoded(item, frames, notes.append))
        except MediaError as error:
            return item, str(error), []
        answer = Turn("gpt", recipe.answer(item))
        if not answer.text:
            return item, "an empty answer", []
        words = (*turns(item, len(images)), answer)
        return item, Record(item.id, task.name, images, words, {"source": task.name}), notes

    with ThreadPoolExecutor(4) as pool:
        for start in range(0, len(items), _AHEAD):
            yield from pool.map(one, items[start : start + _AHEAD])


def _encoded(item: Item, frames: int, tell: Callable[[str], None]) -> Iterator[bytes]:
    """Encoded pictures: files as they are, once they are known to open, and frames of videos as JPEG."""
    for one in item.media:
        opened = open_media((one,), frames, tell)
        if isinstance(one, bytes):
            yield one
        elif isinstance(one, Path) and not is_video(one):
            yield one.read_bytes()
        else:
            yield from (_jpeg(image) for image in opened if not isinstance(image, Video))


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return buffer.getvalue()
