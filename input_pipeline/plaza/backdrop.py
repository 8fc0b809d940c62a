"""Moods in pictures: nothing but palette, light, texture and composition.

A mood acts twice. `ground` paints what lies behind the motif and the objects; `finish` changes the light on
the whole picture and adds what falls or floats in front (rain, confetti, glow). Colours of objects stay
recognisable. Every mood has several palettes and random geometry, so that it has to be learnt rather than
read off one pixel.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIDE = 96  # pixels of the finished picture
WIDE = 2 * SIDE  # pixels while drawing: supersampled twice
Rgb = tuple[int, int, int]

# Two or three palettes a mood: ground from top to bottom, then the two inks of the motif (line, surface).
_PALETTES: dict[str, tuple[tuple[Rgb, Rgb, Rgb, Rgb], ...]] = {
    "calm": (
        ((226, 240, 240), (190, 220, 218), (96, 138, 142), (156, 192, 188)),
        ((244, 236, 218), (204, 220, 222), (126, 128, 116), (190, 190, 174)),
        ((222, 232, 244), (204, 224, 206), (98, 128, 130), (162, 190, 178)),
    ),
    "joyful": (
        ((255, 214, 60), (255, 150, 70), (190, 60, 90), (255, 110, 120)),
        ((255, 236, 110), (120, 220, 130), (200, 80, 40), (255, 150, 60)),
        ((120, 214, 255), (255, 226, 90), (220, 60, 110), (255, 130, 150)),
    ),
    "gloomy": (
        ((66, 74, 86), (120, 130, 140), (24, 28, 36), (90, 98, 110)),
        ((58, 66, 68), (112, 120, 116), (186, 194, 192), (76, 84, 82)),
        ((70, 72, 92), (108, 114, 132), (178, 184, 200), (84, 86, 106)),
    ),
    "tense": (
        ((26, 8, 12), (150, 16, 24), (250, 190, 60), (120, 20, 20)),
        ((14, 12, 16), (196, 30, 20), (240, 230, 220), (80, 10, 20)),
        ((30, 6, 20), (176, 60, 10), (250, 220, 90), (110, 24, 12)),
    ),
    "dreamy": (
        ((150, 120, 226), (246, 190, 230), (112, 70, 170), (190, 150, 236)),
        ((110, 140, 230), (228, 180, 246), (250, 240, 255), (150, 146, 226)),
        ((186, 130, 220), (170, 226, 240), (134, 84, 160), (196, 170, 232)),
    ),
    "cozy": (
        ((120, 66, 34), (168, 104, 54), (52, 24, 12), (204, 144, 84)),
        ((108, 58, 48), (160, 96, 66), (54, 26, 24), (190, 128, 90)),
        ((112, 78, 38), (166, 120, 58), (58, 38, 16), (200, 156, 90)),
    ),
}


@dataclass(frozen=True)
class Ground:
    """The painted ground [WIDE, WIDE] RGB and the two inks in which the motif is drawn on it."""

    image: Image.Image
    line: Rgb
    surface: Rgb


def _jitter(colour: Rgb, rng: np.random.Generator, spread: float = 12.0) -> Rgb:
    red, green, blue = np.clip(np.add(colour, rng.normal(0, spread, 3)), 0, 255).astype(int).tolist()
    return red, green, blue


def _mix(a: Rgb, b: Rgb, share: float) -> Rgb:
    red, green, blue = (round(p + (q - p) * share) for p, q in zip(a, b, strict=True))
    return red, green, blue


def _gradient(top: Rgb, bottom: Rgb) -> Image.Image:
    strip = np.linspace(top, bottom, 32).round().astype(np.uint8)[:, None]  # [32, 1, 3]
    return Image.fromarray(strip, "RGB").resize((WIDE, WIDE), Image.Resampling.BILINEAR)


def ground(mood: str, rng: np.random.Generator) -> Ground:
    """Paints the ground of a mood, [WIDE, WIDE] RGB."""
    palettes = _PALETTES[mood]
    top, bottom, line, surface = (_jitter(c, rng) for c in palettes[rng.integers(len(palettes))])
    image = _gradient(top, bottom)
    draw = ImageDraw.Draw(image)
    if mood == "calm":
        _bands(draw, top, bottom, rng)
    elif mood == "joyful":
        _rays(draw, top, bottom, rng)
    elif mood == "gloomy":
        _clouds(draw, top, rng)
    elif mood == "tense":
        _slashes(draw, top, bottom, rng)
    elif mood == "dreamy":
        _swirls(draw, top, bottom, rng)
    else:
        _weave(draw, top, bottom, rng)
    return Ground(image, line, surface)


def _bands(draw: ImageDraw.ImageDraw, top: Rgb, bottom: Rgb, rng: np.random.Generator) -> None:
    edges = np.sort(rng.uniform(0, WIDE, int(rng.integers(4, 8))))
    for start, stop in itertools.pairwise(edges.tolist()):
        tone = _mix(_mix(top, bottom, float(rng.random())), (255, 255, 255), float(rng.uniform(0.1, 0.5)))
        draw.rectangle((0, start, WIDE, stop), fill=tone)


def _rays(draw: ImageDraw.ImageDraw, top: Rgb, bottom: Rgb, rng: np.random.Generator) -> None:
    x, y = rng.uniform(0.2, 0.8) * WIDE, rng.uniform(0.05, 0.5) * WIDE
    rays = int(rng.integers(7, 12))
    turn = rng.uniform(0, 2 * math.pi)
    pale = _mix(top, (255, 255, 255), 0.45)
    for ray in range(rays):
        a, b = turn + 2 * math.pi * ray / rays, turn + 2 * math.pi * (ray + 0.5) / rays
        reach = 2 * WIDE
        corners = (x, y, x + reach * math.cos(a), y + reach * math.sin(a), x + reach * math.cos(b))
        draw.polygon((*corners, y + reach * math.sin(b)), fill=pale if ray % 2 else _mix(pale, bottom, 0.4))


def _clouds(draw: ImageDraw.ImageDraw, top: Rgb, rng: np.random.Generator) -> None:
    dark = _mix(top, (10, 12, 16), 0.45)
    for _ in range(int(rng.integers(5, 9))):
        x, y, r = rng.uniform(0, WIDE), rng.uniform(-0.1, 0.18) * WIDE, rng.uniform(0.12, 0.26) * WIDE
        draw.ellipse(
            (x - 1.6 * r, y - r, x + 1.6 * r, y + r), fill=_mix(dark, top, float(rng.uniform(0, 0.4)))
        )


def _slashes(draw: ImageDraw.ImageDraw, top: Rgb, bottom: Rgb, rng: np.random.Generator) -> None:
    lean = rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 1.1)
    x = -1.2 * WIDE
    while x < 2.2 * WIDE:
        width = rng.uniform(0.08, 0.24) * WIDE
        shift = lean * WIDE
        tone = (bottom, top, _mix(bottom, (255, 60, 30), 0.5))[rng.integers(3)]
        draw.polygon(
            (x, 0, x + width, 0, x + width * rng.uniform(0.2, 1.2) + shift, WIDE, x + shift, WIDE), fill=tone
        )
        x += width * rng.uniform(0.8, 1.5)


def _swirls(draw: ImageDraw.ImageDraw, top: Rgb, bottom: Rgb, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(3, 6))):
        x, y, r = rng.uniform(0, WIDE), rng.uniform(0, WIDE), rng.uniform(0.12, 0.34) * WIDE
        tone = _mix(_mix(top, bottom, float(rng.random())), (255, 255, 255), float(rng.uniform(0.15, 0.4)))
        for ring in range(3):
            s = r * (1 - 0.25 * ring)
            draw.ellipse((x - s, y - s, x + s, y + s), fill=_mix(tone, (255, 255, 255), 0.12 * ring))


def _weave(draw: ImageDraw.ImageDraw, top: Rgb, bottom: Rgb, rng: np.random.Generator) -> None:
    pitch = int(rng.integers(18, 30))
    offset = int(rng.integers(pitch))
    for step in range(-pitch + offset, WIDE, pitch):
        draw.line((step, 0, step, WIDE), fill=_mix(bottom, (240, 190, 120), 0.25), width=pitch // 3)
        draw.line((0, step, WIDE, step), fill=_mix(top, (40, 14, 8), 0.3), width=pitch // 4)


_ROWS, _COLUMNS = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)


def _disc(x: float, y: float, radius: float) -> np.ndarray:
    """A soft spot of light, [SIDE, SIDE] in (0, 1]: 1 at (x, y), falling off like a Gaussian."""
    return np.exp(-((_COLUMNS - x) ** 2 + (_ROWS - y) ** 2) / (2 * radius**2))


def finish(mood: str, image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Adds what is in front of everything, halves the size, sets the light. Returns [SIDE, SIDE] RGB."""
    draw = ImageDraw.Draw(image)
    if mood == "joyful":
        for _ in range(int(rng.integers(22, 40))):
            x, y, s = rng.uniform(0, WIDE), rng.uniform(0, WIDE), rng.uniform(2, 4.5)
            tone = ((255, 70, 120), (60, 200, 255), (255, 250, 240), (90, 220, 90), (255, 120, 30))[
                rng.integers(5)
            ]
            draw.polygon(
                (x - s, y - s * 0.4, x + s * 0.6, y - s, x + s, y + s * 0.5, x - s * 0.5, y + s), fill=tone
            )
    elif mood == "gloomy":
        lean = rng.uniform(-10, 10)
        for _ in range(int(rng.integers(40, 70))):
            x, y, drop = rng.uniform(-8, WIDE + 8), rng.uniform(-10, WIDE), rng.uniform(10, 24)
            draw.line((x, y, x + lean * drop / 20, y + drop), fill=(150, 160, 172), width=1)
    elif mood == "tense":
        for _ in range(int(rng.integers(3, 6))):
            x, y = (float(v) for v in rng.choice([0, WIDE], 2))
            zigzag = [x, y]
            for _ in range(5):
                x += (1 if zigzag[0] == 0 else -1) * rng.uniform(4, 22)
                y += (1 if zigzag[1] == 0 else -1) * rng.uniform(4, 22)
                zigzag += [x, y]
            draw.line(zigzag, fill=(250, 240, 200), width=2)
    pixels = np.asarray(image.reduce(2), np.float32)  # [SIDE, SIDE, 3]
    if mood == "gloomy":
        grey = pixels.mean(2, keepdims=True)
        pixels = (0.72 * pixels + 0.28 * grey) * (0.78 + 0.2 * _ROWS[..., None] / SIDE)
    elif mood == "cozy":
        light = _disc(rng.uniform(30, 66), rng.uniform(26, 60), rng.uniform(26, 34))[..., None]
        pixels = pixels * (0.42 + 0.72 * light) + light * np.asarray((46, 26, 4), np.float32)
    elif mood == "dreamy":
        glow = sum(_disc(rng.uniform(0, SIDE), rng.uniform(0, SIDE), rng.uniform(4, 11)) for _ in range(7))
        haze = np.clip(0.1 + 0.36 * np.asarray(glow), 0, 0.62)[..., None]
        pixels = pixels * (1 - haze) + haze * np.asarray((255, 244, 255), np.float32)
    elif mood == "tense":
        edge = 1 - _disc(SIDE / 2, SIDE / 2, 44)[..., None]
        pixels = np.clip((pixels - 128) * 1.12 + 124, 0, 255) * (1 - 0.5 * edge)
    elif mood == "calm":
        pixels = 0.9 * pixels + 0.1 * np.asarray((246, 248, 244), np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).round().astype(np.uint8), "RGB")
