"""One scene -> one picture of 96x96 pixels: ground of the mood, motif of the topic, objects, light."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from PIL import Image

from input_pipeline.plaza import motifs, silhouettes, world
from input_pipeline.plaza.backdrop import SIDE, WIDE, finish, ground
from input_pipeline.plaza.scene import Scene

# Radius of an object as a share of the side, by the number of objects: five still take 20 of 64 pixels each.
_RADIUS = {1: 0.27, 2: 0.225, 3: 0.195, 4: 0.175, 5: 0.16, 6: 0.148}


def render(scene: Scene) -> Image.Image:
    """Draws a scene, RGB [96, 96]. The same scene always gives the same pixels."""
    rng = np.random.default_rng([scene.look, 1])
    base = ground(scene.mood, rng)
    motifs.paint(scene.topic, base, rng)
    pens = [(g.kind, world.COLOURS[g.colour]) for g in scene.groups for _ in range(g.count)]
    size = _RADIUS[len(pens)] * rng.uniform(0.92, 1.08)
    drawing = silhouettes.ImageDraw.Draw(base.image)
    for (kind, colour), (x, y) in zip(pens, _places(len(pens), size, rng), strict=True):
        centre = (x * WIDE, y * WIDE)
        silhouettes.paint(drawing, kind, centre, size * WIDE, rng.uniform(-0.14, 0.14), colour)
    return finish(scene.mood, base.image, rng)


def _places(count: int, size: float, rng: np.random.Generator) -> np.ndarray:
    """Centres [count, 2] in shares of the side, apart from one another; the best of 60 tries."""
    low, high = size * 1.05, 1 - size * 1.05
    best, best_gap = np.zeros((count, 2)), -1.0
    for _ in range(60):
        spots = rng.uniform(low, high, (count, 2))
        gaps = np.linalg.norm(spots[:, None] - spots[None], axis=-1) + 9.0 * np.eye(count)
        gap = float(gaps.min())
        if gap > best_gap:
            best, best_gap = spots, gap
        if gap > 1.95 * size:
            break
    return best


def encode(image: Image.Image, form: Literal["png", "jpg"], quality: int = 92) -> bytes:
    """Encodes a picture. Pillow writes no time stamp, so equal pixels give equal bytes."""
    out = io.BytesIO()
    if form == "png":
        image.save(out, "PNG", compress_level=3)
    else:
        image.save(out, "JPEG", quality=quality, subsampling=0)
    return out.getvalue()


def copy(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A near-duplicate as reposters make them: slightly resized and saved as JPEG again."""
    side = int(rng.integers(80, 92))
    return encode(image.resize((side, side), Image.Resampling.BICUBIC), "jpg", int(rng.integers(70, 90)))


__all__ = ["SIDE", "copy", "encode", "render"]
