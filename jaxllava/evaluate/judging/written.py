"""Files of reviews that are there already (`--judge-reviews`): several are repeats of the same questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from input_pipeline.errors import UserError
from input_pipeline.sources import fields
from jaxllava.evaluate.scoring.answered import Problems
from jaxllava.evaluate.tasks.task import Task

FLAG = "--judge-reviews"
Review = TypeVar("Review")


def together(
    task: Task, paths: Sequence[Path], read: Callable[[Path], dict[str, Review]], problems: Problems
) -> tuple[list[str], list[dict[str, Review]]]:
    """Returns the questions of all files, in the order in which they come, and each file's reviews by question.

    Args:
        task: whose reviews they are. Where it tells how many questions it has, another number is noted.
        paths: each a judging of the same questions.
        read: the reviews of one file, by what names their question; raises UserError where it holds none.
        problems: is told of questions that some file lacks.

    Raises UserError for a file that cannot be read, is given twice, or has no question in common with the first.
    """
    found: list[dict[str, Review]] = []
    for at, path in enumerate(paths):
        try:
            path.open("rb").close()
        except OSError as error:
            raise UserError(f"{FLAG} {path}: cannot be read ({error.strerror})") from None
        if any(path.samefile(other) for other in paths[:at]):
            raise UserError(f"{FLAG} {path}: given twice; the same reviews are no second judging")
        found.append(read(path))
        if not found[0].keys() & found[-1].keys():
            raise UserError(
                f"{FLAG} {path}: has none of the questions of {paths[0]}; several files are repeats of the same "
                "questions: join parts of one judging into one file"
            )
    questions = list(dict.fromkeys(question for reviews in found for question in reviews))
    for path, reviews in zip(paths, found, strict=True):
        for question in questions:
            if question not in reviews:
                problems.note(f"no review in {fields.writable(str(path))}", question)
    if task.size > len(questions):
        told = f"{len(questions)} of the benchmark's {task.size} questions have a review"
        problems[f"{told}, the papers' figures are over all of them"] = []
    elif 0 < task.size < len(questions):
        problems[f"reviews of {len(questions)} questions, where the benchmark has {task.size}"] = []
    return questions, found


def no_form(task: Task, path: Path, form: str) -> UserError:
    """The error of a file that holds no reviews as the task has them."""
    return UserError(f"{FLAG} {path}: no reviews of {task.name}; they are {form}")
