"""Texts that go in front of the questions in the settings "with story": Video-4096's verbalisations of the videos."""

from __future__ import annotations

from pathlib import Path

from input_pipeline.errors import UserError
from input_pipeline.sources import lines
from jaxllava.evaluate.tasks.task import Task

_LINE = '{"id": ..., "story": ...}'


def wanted(setting: str) -> bool:
    return setting.endswith("with story")


def read(task: Task, root: Path, setting: str) -> dict[str, str]:
    """Stories by item id, of FOLDER/stories.jsonl: {"id", "story"} lines. A story that is empty or null is none.

    Raises UserError where the file is missing, or a line is not such a one.
    """
    path = root / task.folder / "stories.jsonl"
    if not path.is_file():
        raise UserError(
            f"task {task.name}: --setting {setting!r} needs {path}, a line for each question: {_LINE}"
        )
    stories: dict[str, str] = {}
    for found in lines.read_objects(path):
        where, row = found if isinstance(found, tuple) else (found.origin, None)
        story = None if row is None else row.get("story", 0)
        if row is None or "id" not in row or not isinstance(story, str | None):
            raise UserError(f"{where}: not a line {_LINE}")
        if story and story.strip():
            stories[str(row["id"])] = story
    return stories
