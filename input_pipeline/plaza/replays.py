"""What the audience watches again: a level for each scene of a film, and the heatmap in which sites show it.

Scenes that stay in the mind and please are watched again more often, compared with the others of their film. Nothing
else of a film says so: titles, tags, thumbnails and motion are drawn without looking at it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter1d

from input_pipeline.plaza.scene import Scene, appeal, memorability

STEPS = 100  # of a heatmap, for a video of any length
NOISE = 0.08  # deviation of a scene's pull in one film; pulls of scenes deviate by 0.26
_STEEPNESS = 2.2
_FINE = 20  # points of the curve in each step
_BLUR, _DIP = 0.12, 0.3  # seconds


def pull(scene: Scene) -> float:
    """What draws people back to a scene: its memorability, and its appeal by a third as much."""
    return memorability(scene) + 0.3 * appeal(scene)


def levels(scenes: Sequence[Scene], rng: np.random.Generator, noise: float = NOISE) -> list[float]:
    """How often each scene is watched again, relative to the most watched one of the film, which has 1.

    exp(2.2 * (pull + noise)), divided by the highest.
    """
    pulls = np.asarray([pull(scene) for scene in scenes]) + rng.normal(0, noise, len(scenes))
    return np.exp(_STEEPNESS * (pulls - pulls.max())).tolist()


def heatmap(
    spans: Sequence[tuple[float, float]], levels: Sequence[float], rng: np.random.Generator
) -> list[dict[str, float]]:
    """The `heatmap` of a yt-dlp info file: 100 equal steps {start_time, end_time, value}, the highest value 1.

    The curve has each scene's level, wavers a little, runs smoothly over the cuts and is lower there: who jumps to a
    scene lands in it, and who leaves it has seen it.

    Args:
        spans: (start, end) in seconds of the scenes, one behind the other, the first from 0.
        levels: in [0, 1].
        rng: of the wavering.
    """
    duration = spans[-1][1]
    at = (np.arange(STEPS * _FINE) + 0.5) * duration / (STEPS * _FINE)  # seconds
    cuts = np.asarray([start for start, _ in spans[1:]])
    curve = np.asarray(levels)[np.searchsorted(cuts, at, side="right")]
    if len(cuts):
        away = np.abs(at[:, None] - cuts).min(axis=1)
        curve = curve * (1 - 0.75 * np.exp(-((away / _DIP) ** 2)))
    points_a_second = len(at) / duration
    curve = gaussian_filter1d(curve, _BLUR * points_a_second, mode="nearest")
    waver = gaussian_filter1d(rng.normal(0, 1, len(at)), 0.4 * points_a_second, mode="nearest")
    curve = curve * (1 + 0.02 * waver / waver.std())
    values = curve.reshape(STEPS, _FINE).mean(axis=1)
    values = np.clip(values / values.max(), 0, 1)
    edges = [round(step * duration / STEPS, 3) for step in range(STEPS + 1)]
    return [
        {"start_time": edges[step], "end_time": edges[step + 1], "value": round(float(values[step]), 6)}
        for step in range(STEPS)
    ]
