"""Topics in pictures: a motif behind the objects, in the inks of the mood, with random geometry.

Coordinates are shares of the picture's side; `_Pen` scales them. A motif uses the whole width, because
objects may cover any part of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import ImageDraw

from input_pipeline.plaza.backdrop import WIDE, Ground, Rgb


class _Pen:
    """Draws in shares of the side with the two inks of a ground."""

    def __init__(self, ground: Ground) -> None:
        self.draw = ImageDraw.Draw(ground.image)
        self.line_ink, self.surface_ink = ground.line, ground.surface

    def line(self, points: Sequence[float], width: float = 0.02, ink: Rgb | None = None) -> None:
        self.draw.line(
            [p * WIDE for p in points], fill=ink or self.line_ink, width=max(1, round(width * WIDE))
        )

    def polygon(self, points: Sequence[float], ink: Rgb | None = None) -> None:
        self.draw.polygon([p * WIDE for p in points], fill=ink or self.surface_ink)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, fill: Rgb | None = None, width: float = 0.015
    ) -> None:
        box = ((x - rx) * WIDE, (y - ry) * WIDE, (x + rx) * WIDE, (y + ry) * WIDE)
        self.draw.ellipse(box, fill=fill, outline=self.line_ink, width=max(1, round(width * WIDE)))


def paint(topic: str, ground: Ground, rng: np.random.Generator) -> None:
    """Paints the motif of a topic onto a ground, in place."""
    _MOTIFS[topic](_Pen(ground), rng)


def _travel(pen: _Pen, rng: np.random.Generator) -> None:
    horizon = rng.uniform(0.36, 0.5)
    x = -0.2
    while x < 1.1:  # hills
        width, height = rng.uniform(0.3, 0.6), rng.uniform(0.12, 0.3)
        if rng.random() < 0.5:
            pen.polygon((x, horizon, x + width / 2, horizon - height, x + width, horizon))
        else:
            pen.draw.pieslice(
                (x * WIDE, (horizon - height) * WIDE, (x + width) * WIDE, (horizon + height) * WIDE),
                180,
                360,
                fill=pen.surface_ink,
            )
        x += width * rng.uniform(0.5, 0.9)
    pen.line((0, horizon, 1, horizon), 0.015)
    far, near, bend = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7), rng.uniform(-0.2, 0.2)
    steps = np.linspace(0, 1, 9)
    middle = far + (near - far) * steps + bend * np.sin(math.pi * steps)  # [9] centre line, far to near
    half = 0.025 + 0.36 * steps**1.3
    depth = horizon + (1.02 - horizon) * steps**1.2
    left, right = np.stack([middle - half, depth], 1), np.stack([middle + half, depth], 1)
    pen.polygon([*left.ravel(), *right[::-1].ravel()], pen.line_ink)
    pale = (255, 250, 230)
    for i in range(1, 8, 2):  # dashes
        pen.line((middle[i], depth[i], middle[i + 1], depth[i + 1]), 0.012 + 0.035 * steps[i], pale)


def _food(pen: _Pen, rng: np.random.Generator) -> None:
    edge = rng.uniform(0.38, 0.52)
    pen.polygon((0, edge, 1, edge, 1, 1, 0, 1))
    squares = int(rng.integers(5, 8))
    for column in range(squares + 1):  # table cloth in perspective: checks
        for row in range(3):
            if (column + row) % 2:
                y0, y1 = edge + (1 - edge) * row / 3, edge + (1 - edge) * (row + 1) / 3
                s0, s1 = 1 + 0.35 * row, 1 + 0.35 * (row + 1)
                a, b = column / squares - 0.5, (column + 1) / squares - 0.5
                pen.polygon(
                    (0.5 + a * s0, y0, 0.5 + b * s0, y0, 0.5 + b * s1, y1, 0.5 + a * s1, y1), _pale(pen, 0.45)
                )
    pen.line((0, edge, 1, edge), 0.025)
    for x in np.linspace(0.2, 0.8, int(rng.integers(2, 4))) + rng.uniform(-0.06, 0.06):
        y, r = rng.uniform(0.62, 0.86), rng.uniform(0.13, 0.17)
        pen.ellipse(x, y, r, 0.55 * r, (252, 248, 240), 0.02)
        pen.ellipse(x, y, 0.6 * r, 0.33 * r, None, 0.012)
        for side in (-1, 1):  # fork and knife
            pen.line((x + side * (r + 0.03), y - 0.1, x + side * (r + 0.03), y + 0.1), 0.02)
        pen.line(
            (
                x - r - 0.055,
                y - 0.11,
                x - r - 0.055,
                y - 0.05,
                x - r - 0.005,
                y - 0.05,
                x - r - 0.005,
                y - 0.11,
            ),
            0.012,
        )
    for x in rng.uniform(0.1, 0.9, 2):  # steaming bowl on the far side
        pen.draw.pieslice(
            ((x - 0.11) * WIDE, (edge - 0.11) * WIDE, (x + 0.11) * WIDE, (edge + 0.11) * WIDE), 0, 180,
            fill=(252, 248, 240), outline=pen.line_ink, width=3,
        )  # fmt: skip
        for shift in (-0.04, 0.04):
            pen.line(
                (x + shift, edge - 0.04, x + shift + 0.03, edge - 0.1, x + shift - 0.01, edge - 0.16), 0.014
            )


def _music(pen: _Pen, rng: np.random.Generator) -> None:
    for base in (
        (rng.uniform(0.1, 0.2), rng.uniform(0.56, 0.68)) if rng.random() < 0.7 else (rng.uniform(0.25, 0.4),)
    ):
        slope, gap, wave = rng.uniform(-0.12, 0.12), rng.uniform(0.055, 0.07), rng.uniform(0, 0.04)
        xs = np.linspace(0, 1, 13)
        curve = base + slope * xs + wave * np.sin(2 * math.pi * xs)
        for staff in range(5):
            pen.line(np.stack([xs, curve + staff * gap], 1).ravel().tolist(), 0.014)
        x = rng.uniform(0.06, 0.14)
        while x < 0.95:
            y = float(np.interp(x, xs, curve)) + rng.integers(0, 9) * gap / 2
            pen.ellipse(x, y, 0.06, 0.046, pen.line_ink)
            up = rng.random() < 0.7
            stem, tip = (x + 0.05, y - 0.2) if up else (x - 0.05, y + 0.2)
            pen.line((stem, y, stem, tip), 0.024)
            kind = rng.integers(3)
            if kind == 0:  # a flag
                pen.line((stem, tip, stem + 0.07, tip + (0.08 if up else -0.08)), 0.028)
            elif kind == 1 and x < 0.8:  # beamed with a second note
                other = x + 0.13
                pen.ellipse(other, y + 0.02, 0.06, 0.046, pen.line_ink)
                end = stem + 0.13
                pen.line((end, y, end, tip), 0.02)
                pen.line((stem, tip, end, tip), 0.045)
                x = other
            x += rng.uniform(0.17, 0.26)


def _sport(pen: _Pen, rng: np.random.Generator) -> None:
    top = rng.uniform(0.34, 0.46)
    stripes = int(rng.integers(4, 7))
    for i in range(stripes):  # mown stripes fanning out
        a, b = (i / stripes - 0.5), ((i + 1) / stripes - 0.5)
        ink = pen.surface_ink if i % 2 else _pale(pen, 0.25)
        pen.polygon((0.5 + a * 1.1, top, 0.5 + b * 1.1, top, 0.5 + b * 2.4, 1, 0.5 + a * 2.4, 1), ink)
    white = (255, 255, 250)
    x, half = rng.uniform(0.38, 0.62), rng.uniform(0.24, 0.32)
    height = rng.uniform(0.22, 0.3)
    for step in np.linspace(0, 1, 9):  # the net
        pen.line(
            (x - half + 2 * half * step, top - height, x - half + 2 * half * step, top), 0.008, pen.line_ink
        )
    for step in np.linspace(0, 1, 5):
        pen.line((x - half, top - height * step, x + half, top - height * step), 0.008, pen.line_ink)
    pen.line((x - half, top, x - half, top - height, x + half, top - height, x + half, top), 0.035, white)
    pen.line((0, top, 1, top), 0.022, white)
    box = rng.uniform(0.38, 0.46)
    pen.line((x - box, top, x - box * 1.35, 0.72, x + box * 1.35, 0.72, x + box, top), 0.026, white)
    y, r = rng.uniform(0.95, 1.02), rng.uniform(0.2, 0.28)
    pen.draw.ellipse(
        ((x - r) * WIDE, (y - 0.6 * r) * WIDE, (x + r) * WIDE, (y + 0.6 * r) * WIDE), outline=white, width=5
    )


def _nature(pen: _Pen, rng: np.random.Generator) -> None:
    pen.polygon((0, 0.88, 0.3, 0.84, 0.7, 0.9, 1, 0.85, 1, 1, 0, 1), pen.line_ink)
    for x in (rng.uniform(0.02, 0.16), rng.uniform(0.84, 0.98), rng.uniform(0.34, 0.66)):
        width, lean = rng.uniform(0.035, 0.06), rng.uniform(-0.05, 0.05)
        pen.polygon(
            (x - width, 0.9, x + width, 0.9, x + lean + 0.6 * width, 0.2, x + lean - 0.6 * width, 0.2),
            pen.line_ink,
        )
        for branch in range(3):
            y, side = rng.uniform(0.3, 0.65), 1 if branch % 2 else -1
            tip_x, tip_y = x + side * rng.uniform(0.12, 0.2), y - rng.uniform(0.08, 0.16)
            pen.line((x, y, tip_x, tip_y), 0.022)
            _leaf(pen, tip_x, tip_y, rng)
        if rng.random() < 0.5:  # a round crown of leaves, or a pointed one
            for _ in range(5):
                pen.ellipse(
                    x + lean + rng.uniform(-0.13, 0.13),
                    rng.uniform(0.04, 0.22),
                    0.11,
                    0.09,
                    pen.surface_ink,
                    0.012,
                )
        else:
            for tier in range(3):
                y, reach = 0.06 + 0.11 * tier, 0.09 + 0.05 * tier
                pen.polygon((x + lean - reach, y + 0.13, x + lean, y - 0.08, x + lean + reach, y + 0.13))
                pen.line((x + lean - reach, y + 0.13, x + lean, y - 0.08, x + lean + reach, y + 0.13), 0.012)
    for _ in range(int(rng.integers(7, 12))):
        _leaf(pen, rng.uniform(0, 1), rng.uniform(0.2, 0.95), rng)


def _leaf(pen: _Pen, x: float, y: float, rng: np.random.Generator) -> None:
    size, turn = rng.uniform(0.05, 0.08), rng.uniform(0, 2 * math.pi)
    c, s = math.cos(turn) * size, math.sin(turn) * size
    shape = (x - c, y - s, x - 0.5 * s, y + 0.5 * c, x + c, y + s, x + 0.5 * s, y - 0.5 * c)
    pen.polygon(shape)
    pen.line((*shape, x - c, y - s), 0.01)
    pen.line((x - 1.4 * c, y - 1.4 * s, x + 0.7 * c, y + 0.7 * s), 0.01)


def _science(pen: _Pen, rng: np.random.Generator) -> None:
    cells = int(rng.integers(6, 9))
    shift = rng.uniform(0, 1 / cells)
    for i in range(cells + 1):
        at = i / cells + shift
        pen.line((at, 0, at, 1), 0.01, pen.surface_ink)
        pen.line((0, at, 1, at), 0.01, pen.surface_ink)
    x, y = rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.65)
    turn, rings = rng.uniform(0, math.pi), int(rng.integers(2, 4))
    angles = np.linspace(0, 2 * math.pi, 33)
    for ring in range(rings):
        tilt = turn + math.pi * ring / rings
        a, b = rng.uniform(0.46, 0.58), rng.uniform(0.16, 0.24)
        u, v = a * np.cos(angles), b * np.sin(angles)
        px, py = x + u * math.cos(tilt) - v * math.sin(tilt), y + u * math.sin(tilt) + v * math.cos(tilt)
        pen.line(np.stack([px, py], 1).ravel().tolist(), 0.026)
        for at in rng.integers(0, 32, 2):
            pen.ellipse(float(px[at]), float(py[at]), 0.042, 0.042, pen.surface_ink, 0.018)
    pen.ellipse(x, y, 0.09, 0.09, pen.surface_ink, 0.025)
    if rng.random() < 0.6:  # a plotted curve along the axis
        base, height = rng.uniform(0.84, 0.92), rng.uniform(0.1, 0.2)
        xs = np.linspace(0.06, 0.94, 20)
        ys = base - height * np.exp(-(((xs - rng.uniform(0.3, 0.7)) / 0.14) ** 2))
        pen.line((0.06, 0.6, 0.06, base + 0.02, 0.96, base + 0.02), 0.016)
        pen.line(np.stack([xs, ys], 1).ravel().tolist(), 0.02)


def _pale(pen: _Pen, share: float) -> Rgb:
    red, green, blue = (round(c + (255 - c) * share) for c in pen.surface_ink)
    return red, green, blue


_MOTIFS = {
    "travel": _travel,
    "food": _food,
    "music": _music,
    "sport": _sport,
    "nature": _nature,
    "science": _science,
}
