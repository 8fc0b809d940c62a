"""The content statement: what a picture's colours say, measured from its pixels, without any model.

The paper splits foreground from background with U2-Net and names colours from a vocabulary of 40 (counted in
its released test texts) and a tone. Here the split is simple statistics. On a 48x48 copy of the picture in
CIE Lab, the background is the frame of pixels along the edge. The foreground is every pixel weighted by how
far it lies from the nearest colours of that frame (saliency) and by how near to the centre.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image

COLORS: dict[str, tuple[int, int, int]] = {
    "beige": (225, 205, 170),
    "black": (15, 15, 15),
    "blue": (40, 90, 220),
    "bright green": (80, 240, 60),
    "brown": (125, 75, 40),
    "cream": (255, 245, 205),
    "cyan": (50, 220, 230),
    "dark blue": (20, 30, 90),
    "dark brown": (65, 40, 25),
    "dark gray": (75, 75, 75),
    "dark green": (20, 75, 35),
    "dark pink": (215, 60, 125),
    "dark red": (130, 15, 20),
    "emerald": (20, 160, 95),
    "gold": (220, 175, 30),
    "gray": (130, 130, 130),
    "green": (60, 165, 60),
    "khaki": (185, 175, 115),
    "lavender": (210, 205, 245),
    "light blue": (150, 200, 240),
    "light green": (160, 225, 150),
    "lilac": (190, 155, 210),
    "magenta": (225, 40, 215),
    "maroon": (95, 15, 40),
    "mud green": (95, 105, 45),
    "mustard": (205, 160, 60),
    "off white": (240, 238, 230),
    "olive": (125, 125, 20),
    "orange": (245, 135, 35),
    "pink": (250, 175, 195),
    "plum": (135, 50, 110),
    "purple": (115, 45, 165),
    "red": (220, 35, 35),
    "royal blue": (40, 60, 165),
    "silver": (190, 192, 196),
    "tan": (205, 160, 115),
    "turquoise": (55, 195, 180),
    "violet": (145, 75, 225),
    "white": (255, 255, 255),
    "yellow": (250, 230, 50),
}
TONES = ("neutral", "cool", "warm")

_SIDE = 48
_FRAME = 5  # pixels
_SECOND_COLOR = 0.2  # share from which a second colour is named
_WARMTH = 7.0  # Lab units along the orange-blue axis from which a scene is warm or cool


@dataclass(frozen=True)
class Scene:
    """At most two colours each, the commoner first, and the tone."""

    foreground: tuple[str, ...]
    background: tuple[str, ...]
    tone: str


def describe(image: Image.Image) -> Scene:
    """Measures an RGB image of any size. The same picture gives the same scene on every machine."""
    small = image.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small)  # [48, 48, 3]
    names = _names(pixels)  # [48, 48], index into COLORS
    lab = _lab(pixels)  # [48, 48, 3]
    frame = np.ones((_SIDE, _SIDE), bool)
    frame[_FRAME:-_FRAME, _FRAME:-_FRAME] = False

    background = _top(names[frame], np.ones(frame.sum()))
    vocabulary = _lab(np.asarray([COLORS[name] for name in background], np.uint8)[None])[0]  # [1..2, 3]
    distance = np.linalg.norm(lab[:, :, None] - vocabulary, axis=-1).min(-1)  # [48, 48]
    axis = (np.arange(_SIDE) - (_SIDE - 1) / 2) / (_SIDE / 2)
    centre = np.exp(-(axis[:, None] ** 2 + axis**2) / 0.5)
    # Squared, so that texture of the background does not add up to more than a small object does.
    weight = np.where(frame, 0.0, np.maximum(distance - 12, 0) ** 2 * centre)
    if weight.sum() < 1:  # nothing stands out: the middle is as good as any
        weight = centre
    warmth = float((lab[..., 1] * 0.5 + lab[..., 2] * 0.87).mean())
    tone = "warm" if warmth > _WARMTH else "cool" if warmth < -_WARMTH else "neutral"
    return Scene(_top(names.ravel(), weight.ravel()), background, tone)


def sentence(scene: Scene) -> str:
    """Writes the scene in the words of the paper's Listing 1."""
    return (
        f"The foreground colors of the scene are {' and '.join(scene.foreground)}, "
        f"and the background colors are {' and '.join(scene.background)}. "
        f"The dominant tone of the scene is {scene.tone}."
    )


def content_statement(image: Image.Image) -> str:
    """Describes an RGB image's colours and tone in two short sentences."""
    return sentence(describe(image))


def _top(names: np.ndarray, weights: np.ndarray) -> tuple[str, ...]:
    """Returns the one or two names of most weight."""
    totals = np.bincount(names, weights=weights, minlength=len(COLORS))
    first, second = np.argsort(-totals, kind="stable")[:2]
    vocabulary = tuple(COLORS)
    if totals[second] >= _SECOND_COLOR * totals.sum():
        return vocabulary[first], vocabulary[second]
    return (vocabulary[first],)


def _names(pixels: np.ndarray) -> np.ndarray:
    """Nearest colour names of uint8 RGB pixels [..., 3] through a table of 32 levels a channel."""
    coarse = pixels >> 3
    return _name_table()[coarse[..., 0], coarse[..., 1], coarse[..., 2]]


@functools.cache
def _name_table() -> np.ndarray:
    levels = np.arange(32, dtype=np.uint8) * 8 + 4
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    colors = _lab(np.asarray(list(COLORS.values()), np.uint8)[None])[0]  # [40, 3]
    distance = np.linalg.norm(_lab(grid[None])[0][:, None] - colors, axis=-1)  # [32768, 40]
    return distance.argmin(-1).reshape(32, 32, 32)


@functools.cache
def _linear() -> np.ndarray:
    """The light of each of the 256 levels of sRGB, float64: powers are slow to take for every pixel."""
    value = np.arange(256) / 255.0
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _lab(pixels: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of uint8 sRGB pixels [H, W, 3], float64 [H, W, 3]."""
    linear = _linear()[pixels]
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ matrix.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)
