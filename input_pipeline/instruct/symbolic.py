"""Pictures in words, as a teacher that sees none is told of them: captions, and boxes as fractions of the picture.

LLaVA's two "symbolic representations" (paper, section 3; prompts of the release): captions on a line each, and behind a
blank line `category: [x1, y1, x2, y2]`, corners from the upper left one on, rounded to three decimals.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from input_pipeline.sources import fields

MOST_BOXES = 100  # of a picture; LVIS has pictures with hundreds, COCO at most 93
MOST_CAPTIONS = 20
_DECIMALS = 3
_WORDS = 8000  # characters of one caption; what is longer is no caption

Form = Literal["fractions", "corners", "sides"]


@dataclass(frozen=True)
class Box:
    """A thing and where it is: corners in [0, 1], rounded to three decimals, x1 < x2 and y1 < y2."""

    category: str
    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def area(self) -> float:
        """Share of the picture."""
        return (self.x2 - self.x1) * (self.y2 - self.y1)

    def __str__(self) -> str:
        return f"{self.category}: [{self.x1}, {self.y1}, {self.x2}, {self.y2}]"


@dataclass(frozen=True)
class Symbolic:
    """One picture in words.

    Fields:
        id: names it among all pictures of a run.
        image: the file's name, below the folder of pictures.
        captions: each on one line.
        boxes: in the order of the annotations.
        origin: 'file:record' of what it was read from.
        faults: what was left out of it, {reason: how often}.
    """

    id: str
    image: str
    captions: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    origin: str = ""
    faults: dict[str, int] = field(default_factory=dict, compare=False)

    def text(self, boxes: bool) -> str:
        """What the teacher is told: captions; with `boxes` a blank line and the boxes behind them."""
        parts = ["\n".join(self.captions)]
        if boxes:
            parts.append("\n".join(map(str, self.boxes)))
        return "\n\n".join(part for part in parts if part)


def box(category: Any, numbers: Any, form: Form, width: float | None, height: float | None) -> Box | str:
    """One annotated box, clipped to the picture; or why it is none, in a phrase that can be counted.

    Args:
        category: its name.
        numbers: four numbers.
        form: "fractions" (x1, y1, x2, y2 in [0, 1]), "corners" (the same in pixels) or "sides" (COCO's x, y, width,
            height in pixels).
        width, height: of the picture, pixels.
    """
    name = " ".join((fields.as_text(category) or "").split())
    if not name:
        return "a box without a category"
    if not isinstance(numbers, list | tuple) or len(numbers) != 4:
        return "a box that is not four numbers"
    values = [fields.as_number(number) for number in numbers]
    if any(value is None for value in values):
        return "a box with something that is not a number"
    x1, y1, x2, y2 = (float(value) for value in values if value is not None)
    if form == "sides":
        x2, y2 = x1 + x2, y1 + y2
    if form != "fractions":
        if not width or not height:
            return "a box in pixels of a picture whose size is not known"
        x1, x2, y1, y2 = x1 / width, x2 / width, y1 / height, y2 / height
    if not (x1 < x2 and y1 < y2):
        return "a box without area"
    if x1 >= 1 or y1 >= 1 or x2 <= 0 or y2 <= 0:
        return "a box outside the picture"
    corners = [round(min(max(value, 0.0), 1.0), _DECIMALS) for value in (x1, y1, x2, y2)]
    if corners[0] >= corners[2] or corners[1] >= corners[3]:
        return "a box smaller than a thousandth of the picture's side"
    return Box(name, *corners)


def is_outside(one: tuple[Any, ...], form: Form, width: float | None, height: float | None) -> bool:
    """Whether a sound box reaches beyond the picture by more than a pixel or a thousandth, so that it was clipped."""
    x1, y1, x2, y2 = (float(value) for value in one)
    if form == "sides":
        x2, y2 = x1 + x2, y1 + y2
    right, bottom = (1.0, 1.0) if form == "fractions" else (width or 0.0, height or 0.0)
    slack = 0.001 if form == "fractions" else 1.0
    return min(x1, y1) < -slack or x2 > right + slack or y2 > bottom + slack


def describe(
    name: str,
    image: str,
    captions: Iterable[Any],
    boxes: Iterable[tuple[Any, Any, Form]],
    size: tuple[float | None, float | None] = (None, None),
    origin: str = "",
    most_boxes: int = MOST_BOXES,
) -> Symbolic:
    """Puts a picture together; what cannot be used is left out and counted in `faults`.

    Args:
        name, image, origin: as `Symbolic` has them.
        captions: as read.
        boxes: (category, four numbers, form), as `box` takes them.
        size: (width, height), pixels.
        most_boxes: of more, the largest stay, in their order.
    """
    faults: Counter[str] = Counter()
    texts, found = [], []
    for caption in captions:
        text = " ".join((fields.as_text(caption) or "").split())
        if not text:
            faults["a caption without text"] += 1
        elif len(text) > _WORDS:
            faults[f"a caption of more than {_WORDS} characters"] += 1
        elif len(texts) == MOST_CAPTIONS:
            faults[f"a caption beyond the first {MOST_CAPTIONS}"] += 1
        else:
            texts.append(text)
    for category, numbers, form in boxes:
        one = box(category, numbers, form, *size)
        if isinstance(one, str):
            faults[one] += 1
            continue
        found.append(one)
        if is_outside(tuple(numbers), form, *size):
            faults["a box that reaches beyond the picture (cut to it)"] += 1
    if len(found) > most_boxes:
        faults[f"a box beyond the {most_boxes} largest"] += len(found) - most_boxes
        largest = sorted(range(len(found)), key=lambda place: (-found[place].area, place))[:most_boxes]
        found = [found[place] for place in sorted(largest)]
    return Symbolic(name, image, tuple(texts), tuple(found), origin, dict(faults))


def pixels_or_fractions(boxes: Iterable[Any]) -> Form:
    """Whether boxes of a picture (x1, y1, x2, y2) are in pixels: where one number of them is above 2.

    A fraction that reaches a little beyond the picture is still one.
    """
    for numbers in boxes:
        for number in numbers if isinstance(numbers, list | tuple) else ():
            value = fields.as_number(number)
            if value is not None and math.isfinite(value) and abs(value) > 2:
                return "corners"
    return "fractions"
