"""The objects: polygons on the square [-1, 1]^2 (x right, y down), each with a tone, in painting order."""

from __future__ import annotations

import math
from functools import cache
from typing import Literal

import numpy as np
from PIL import ImageDraw

Tone = Literal["body", "shade", "light", "hole"]
Rgb = tuple[int, int, int]
Part = tuple[Tone, np.ndarray]  # points [N, 2]


def _ellipse(x: float, y: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0) -> np.ndarray:
    angles = np.radians(np.linspace(start, end, 22))
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], 1)  # [22, 2]


def _points(*flat: float) -> np.ndarray:
    return np.asarray(flat, float).reshape(-1, 2)


def _balloon() -> list[Part]:
    string = _points(-0.04, 0.5, 0.06, 0.5, 0.16, 0.72, 0.04, 1.0, -0.06, 1.0, 0.06, 0.72)
    return [
        ("shade", string),
        ("body", _points(-0.16, 0.56, 0.16, 0.56, 0.0, 0.36)),
        ("body", _ellipse(0, -0.26, 0.66, 0.74)),
        ("light", _ellipse(-0.26, -0.52, 0.15, 0.22)),
    ]


def _star() -> list[Part]:
    angles = np.radians(np.arange(10) * 36.0 - 90.0)
    radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.43)
    return [("body", np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1))]


def _cup() -> list[Part]:
    ring = np.concatenate(
        [_ellipse(0.52, -0.02, 0.46, 0.42, -90, 90), _ellipse(0.52, -0.02, 0.22, 0.2, 90, -90)]
    )
    return [
        ("body", ring),
        ("body", _points(-0.82, -0.62, 0.62, -0.62, 0.46, 0.76, -0.66, 0.76)),
        ("shade", _ellipse(-0.1, -0.62, 0.72, 0.19)),
    ]


def _fish() -> list[Part]:
    return [
        ("body", _points(0.4, 0.0, 1.0, -0.55, 0.86, 0.0, 1.0, 0.55)),
        ("shade", _points(-0.1, -0.45, 0.3, -0.8, 0.38, -0.3)),
        ("body", _ellipse(-0.2, 0.0, 0.78, 0.52)),
        ("hole", _ellipse(-0.62, -0.12, 0.11, 0.11)),
    ]


def _house() -> list[Part]:
    return [
        ("body", _points(-0.68, -0.1, 0.68, -0.1, 0.68, 0.9, -0.68, 0.9)),
        ("shade", _points(-0.98, -0.08, 0.0, -0.95, 0.98, -0.08)),
        ("hole", _points(-0.16, 0.35, 0.2, 0.35, 0.2, 0.9, -0.16, 0.9)),
    ]


def _key() -> list[Part]:
    shaft = _points(
        -0.2, -0.14, 0.98, -0.14, 0.98, 0.5, 0.76, 0.5, 0.76, 0.14, 0.56, 0.14, 0.56, 0.42, 0.34, 0.42,
        0.34, 0.14, -0.2, 0.14,
    )  # fmt: skip
    return [
        ("body", shaft),
        ("body", _ellipse(-0.5, 0.0, 0.5, 0.5)),
        ("hole", _ellipse(-0.52, 0.0, 0.22, 0.22)),
    ]


def _crown() -> list[Part]:
    points = _points(-0.85, 0.7, -0.98, -0.5, -0.45, 0.05, 0.0, -0.8, 0.45, 0.05, 0.98, -0.5, 0.85, 0.7)
    band = _points(-0.87, 0.42, 0.87, 0.42, 0.85, 0.72, -0.85, 0.72)
    return [("body", points), ("shade", band)]


def _boat() -> list[Part]:
    return [
        ("shade", _points(-0.06, -0.95, 0.06, -0.95, 0.06, 0.4, -0.06, 0.4)),
        ("body", _points(0.1, -0.9, 0.82, 0.22, 0.1, 0.22)),
        ("light", _points(-0.1, -0.6, -0.1, 0.22, -0.64, 0.22)),
        ("body", _points(-1.0, 0.36, 1.0, 0.36, 0.62, 0.86, -0.62, 0.86)),
    ]


_BUILDERS = {
    "balloon": _balloon,
    "star": _star,
    "cup": _cup,
    "fish": _fish,
    "house": _house,
    "key": _key,
    "crown": _crown,
    "boat": _boat,
}


@cache
def parts(kind: str) -> tuple[Part, ...]:
    """The polygons of one kind of object, in painting order."""
    return tuple(_BUILDERS[kind]())


def _mix(a: Rgb, b: Rgb, share: float) -> Rgb:
    red, green, blue = (round(p + (q - p) * share) for p, q in zip(a, b, strict=True))
    return red, green, blue


def paint(
    draw: ImageDraw.ImageDraw, kind: str, centre: tuple[float, float], radius: float, tilt: float, colour: Rgb
) -> None:
    """Paints one object in pixels: a pale halo and a dark outline around it, so that it stands out on any
    backdrop.

    `tilt` in radians; a negative `radius` is not allowed. The outline is the same for every colour and mood.
    """
    turn = np.array([[math.cos(tilt), -math.sin(tilt)], [math.sin(tilt), math.cos(tilt)]])  # [2, 2]
    dark, pale = (24, 22, 28), (250, 248, 244)
    tones: dict[Tone, Rgb] = {
        "body": colour,
        "shade": _mix(colour, dark, 0.38),
        "light": _mix(colour, pale, 0.6),
        "hole": dark,
    }
    placed = []
    for tone, points in parts(kind):
        flat = (points * radius @ turn.T + centre).ravel().tolist()
        placed.append((tone, flat, flat + flat[:4]))
    for width, line in ((round(0.26 * radius) + 2, pale), (round(0.14 * radius) + 2, dark)):
        for tone, _, closed in placed:
            if tone in ("body", "shade"):
                draw.line(closed, fill=line, width=width)
    for tone, flat, closed in placed:
        draw.polygon(flat, fill=tones[tone])
        if tone == "body":
            draw.line(closed, fill=dark, width=2)
