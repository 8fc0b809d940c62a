"""From a teacher's answer to the turns of a sample."""

from __future__ import annotations

from collections.abc import Sequence

from input_pipeline.instruct import draws, wording
from input_pipeline.instruct.parse import Pair
from input_pipeline.sources.llava_json import IMAGE
from input_pipeline.types import Turn


def question(kind: str, name: str, seed: int, questions: Sequence[str] = ()) -> str:
    """The question of a kind that the teacher writes no questions for, drawn for a picture; '' where it does.

    Args: questions: to draw from, in place of ours.
    """
    return draws.one_of(questions or wording.DETAIL, seed, "detail", name) if kind == "detail" else ""


def turns(pairs: Sequence[Pair], key: str, seed: int, media: int = 1) -> tuple[Turn, ...]:
    """The turns of a sample. The picture stands in front of the first question or behind it, drawn by its key, as in
    LLaVA's files; several media stand in front.

    Args:
        pairs: question and answer of each exchange.
        key: of the request.
        seed: of the draws.
        media: how many `<image>` marks there are to be.
    """
    marks = "\n".join([IMAGE] * media)
    found: list[Turn] = []
    for pair in pairs:
        asked = pair.question
        if not found and marks:
            in_front = media > 1 or draws.share(seed, "place", key) < 0.5
            asked = f"{marks}\n{asked}" if in_front else f"{asked}\n{marks}"
        found += [Turn("human", asked), Turn("gpt", pair.answer)]
    return tuple(found)


def brief(caption: str, key: str, seed: int, instructions: Sequence[str] = ()) -> tuple[Turn, ...]:
    """A caption as a pair of stage 1: one of the brief instructions (ours, if none are given), and the caption."""
    return turns([Pair(draws.one_of(instructions or wording.BRIEF, seed, "brief", key), caption)], key, seed)
