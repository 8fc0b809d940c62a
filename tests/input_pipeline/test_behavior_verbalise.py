"""Colours and tone measured from pictures whose colours we know."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from input_pipeline.behavior import verbalise
from input_pipeline.behavior.verbalise import COLORS


def _object_on(background: str, *objects: str, size: tuple[int, int] = (120, 90)) -> Image.Image:
    image = Image.new("RGB", size, COLORS[background])
    draw = ImageDraw.Draw(image)
    width, height = size
    for index, color in enumerate(objects):
        left = width * (0.3 + 0.4 * index / len(objects))
        draw.rectangle(
            (left, height * 0.3, left + width * 0.4 / len(objects) - 1, height * 0.7), fill=COLORS[color]
        )
    return image


def test_forty_names_in_the_papers_spelling() -> None:
    assert len(COLORS) == 40
    assert all(name == name.lower() and "_" not in name for name in COLORS)


@pytest.mark.parametrize("name", sorted(COLORS))
def test_every_colour_is_called_by_its_name(name: str) -> None:
    scene = verbalise.describe(Image.new("RGB", (30, 30), COLORS[name]))
    assert scene.background == scene.foreground == (name,)


@pytest.mark.parametrize(
    ("background", "objects"),
    [
        ("white", ("red",)),
        ("black", ("yellow",)),
        ("dark blue", ("orange",)),
        ("gray", ("bright green", "magenta")),
    ],
)
def test_an_object_is_told_from_its_background(background: str, objects: tuple[str, ...]) -> None:
    scene = verbalise.describe(_object_on(background, *objects))
    assert scene.background == (background,)
    assert set(scene.foreground) == set(objects)


def test_two_background_colours() -> None:
    image = _object_on("light blue", "red", size=(100, 100))
    ImageDraw.Draw(image).rectangle((0, 60, 100, 100), fill=COLORS["dark green"])
    scene = verbalise.describe(image)
    assert scene.background == ("light blue", "dark green")
    assert scene.foreground == ("red",)


@pytest.mark.parametrize(
    ("color", "tone"),
    [
        ("orange", "warm"),
        ("red", "warm"),
        ("blue", "cool"),
        ("light blue", "cool"),
        ("gray", "neutral"),
        ("black", "neutral"),
        ("white", "neutral"),
    ],
)
def test_tone(color: str, tone: str) -> None:
    assert verbalise.describe(Image.new("RGB", (20, 20), COLORS[color])).tone == tone


def test_the_sentence() -> None:
    scene = verbalise.Scene(("red", "cream"), ("dark blue", "gray"), "warm")
    assert verbalise.sentence(scene) == (
        "The foreground colors of the scene are red and cream, "
        "and the background colors are dark blue and gray. The dominant tone of the scene is warm."
    )


def test_noise_and_tiny_images_are_described() -> None:
    generator = np.random.default_rng(0)
    for shape in ((1, 1, 3), (1, 300, 3), (64, 64, 3)):
        image = Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8))
        scene = verbalise.describe(image)
        assert 1 <= len(scene.foreground) <= 2
        assert scene.tone in verbalise.TONES
