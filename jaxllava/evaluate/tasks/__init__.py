"""The benchmarks, one `Task` each: those of Behavior-LLaVA (section 4) and LLaVA's own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from input_pipeline.errors import UserError, nearest
from jaxllava.evaluate.tasks import (
    ads,
    captions,
    gqa,
    highlights,
    hvu,
    image_emotion,
    llava_bench,
    lvu,
    memorability,
    mm_vet,
    mmbench,
    mme,
    pope,
    science_qa,
    seed_bench,
    text,
    textvqa,
    video_emotion,
    video_qa,
    vizwiz,
    vqav2,
)
from jaxllava.evaluate.tasks.task import Task

_PAPER = (lvu, hvu, video_qa, ads, video_emotion, image_emotion, memorability, captions, text, highlights)
_LLAVA = (llava_bench, science_qa, pope, mme, gqa, vqav2, textvqa, vizwiz, mmbench, seed_bench, mm_vet)
TASKS: dict[str, Task] = {
    task.name: task for task in itertools.chain(*(module.TASKS for module in (*_PAPER, *_LLAVA)))
}


def families() -> list[str]:
    return list(dict.fromkeys(task.family for task in TASKS.values()))


def choose(names: Sequence[str]) -> list[Task]:
    """The tasks that names of tasks or families (or `all`) mean, each once, in the order of the table."""
    wanted: set[str] = set()
    for name in names:
        found = [t.name for t in TASKS.values() if name in (t.name, t.family, "all")]
        if not found:
            raise UserError(f"--tasks {name}: no such task or family.{nearest(name, [*TASKS, *families()])}")
        wanted |= set(found)
    if not wanted:
        raise UserError("--tasks: name at least one task or family; jaxllava evaluate --list shows them")
    return [task for task in TASKS.values() if task.name in wanted]
