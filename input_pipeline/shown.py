"""What the `<image>` marks of a conversation show, and what each of them is asked: the frames behind a sample's tokens.

A mark stands for a picture or for a whole video. Templates that put an image into every question let one picture or
video stand behind several marks, each with the words of its own turn (LLaMA-VID's context tokens).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from input_pipeline.conversation import Template, place_images
from input_pipeline.tokenizer import IMAGE_TOKEN
from input_pipeline.types import Record, Turn


@dataclass(frozen=True, eq=False)
class Shown:
    """frames int32 [F]: the record's images that are read, in order. Of each of the K marks int32 [K]: `start`, the
    first of its frames (a place in `frames`), `count`, how many they are, and `question`, the turn of the human that
    it stands in, counted from 0.
    """

    frames: np.ndarray
    start: np.ndarray
    count: np.ndarray
    question: np.ndarray

    @property
    def slots(self) -> int:
        """Pairs of a frame and a question: what has positions among the tokens."""
        return int(self.count.sum())


def evenly(frames: range, most: int) -> list[int]:
    """At most so many of some frames: the middles of as many equal parts. 0 is all."""
    if not most or len(frames) <= most:
        return list(frames)
    return [frames[int((i + 0.5) * len(frames) / most)] for i in range(most)]


def shown(record: Record, template: Template, most_frames: int = 0) -> Shown:
    """What the marks of a record show under a template.

    Args: most_frames: of a video, at most; 0 is all.
    Raises ValueError, whose text is a reason to count, where marks and media do not match.
    """
    turns = [turn for turn in place_images(record.conversations, template) if turn.role == "human"]
    asked = [number for number, turn in enumerate(turns) for _ in range(turn.text.count(IMAGE_TOKEN))]
    media = record.media
    if template.image_every_turn and len(media) == 1 and asked:
        which = [0] * len(asked)
    elif len(asked) == len(media):
        which = list(range(len(media)))
    else:
        raise ValueError("as many <image> marks as images are needed")
    chosen = [evenly(frames, most_frames if len(frames) > 1 else 0) for frames in media]
    starts = np.cumsum([0, *map(len, chosen)])
    as_int32 = lambda values: np.asarray(values, np.int32)
    return Shown(
        as_int32([frame for frames in chosen for frame in frames]),
        as_int32([starts[i] for i in which]),
        as_int32([len(chosen[i]) for i in which]),
        as_int32(asked),
    )


def question_text(turn: str) -> str:
    """What of a human's turn the Q-Former reads: all but marks and line ends (`llamavid/train/train.py:478`).

    Of a turn with several marks, such as a film's frames between its subtitles, it is what stands behind the last
    mark's line, if that is anything: the question (`preprocess_multimodal_movie`).
    """
    if turn.count(IMAGE_TOKEN) > 1:
        behind = turn.rpartition(IMAGE_TOKEN)[2].partition("\n")[2]
        turn = behind if behind.strip() else turn
    return turn.replace(IMAGE_TOKEN, "").replace("\n", "")


def questions(turns: Sequence[Turn]) -> list[str]:
    """`question_text` of each turn of the human."""
    return [question_text(turn.text) for turn in turns if turn.role == "human"]
