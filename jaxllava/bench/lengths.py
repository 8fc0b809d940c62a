"""Lengths like those of LLaVA-1.5's mix-665K, drawn from a seed: the counts of its parts are the data set's (665,298 in
all), their text lengths are estimates, written in PARTS.
"""

from __future__ import annotations

from typing import Any

import numpy as np

SYSTEM = 42  # tokens of Vicuna's system prompt and the marks of the first turn
IMAGE = 576
# part: (samples, images, how text lengths are drawn). ("log", median, sigma): of the whole conversation.
# ("turns", mean turns, most turns, tokens of a turn): turns are Poisson, a turn's tokens spread by 35 %, and the
# first turn has 20 more for its response-format prompt. All of these are estimates.
PARTS: dict[str, tuple[int, int, tuple[Any, ...]]] = {
    "LLaVA conversation": (57_669, 1, ("log", 300, 0.35)),
    "LLaVA detail": (23_240, 1, ("log", 150, 0.25)),
    "LLaVA reasoning": (76_803, 1, ("log", 190, 0.30)),
    "ShareGPT": (40_688, 0, ("log", 1100, 0.90)),
    "VQAv2": (82_783, 1, ("turns", 5.4, 20, 20)),
    "GQA": (72_140, 1, ("turns", 12, 30, 21)),
    "OKVQA": (8_998, 1, ("turns", 1.6, 5, 20)),
    "OCR-VQA": (80_000, 1, ("turns", 5, 10, 26)),
    "A-OKVQA": (66_160, 1, ("turns", 1, 1, 53)),
    "TextCaps": (21_953, 1, ("log", 45, 0.25)),
    "RefCOCO": (48_447, 1, ("turns", 4, 20, 45)),
    "VG": (86_417, 1, ("turns", 9, 20, 50)),
}
TOKENS_A_WORD = 1.35


def draw(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Text tokens without the system prompt, images, and words: int [665298] each."""
    rng = np.random.default_rng(seed)
    text, images = [], []
    for count, image, (how, *numbers) in PARTS.values():
        if how == "log":
            median, sigma = numbers
            drawn = np.exp(rng.normal(np.log(median), sigma, count))
        else:
            mean, most, tokens = numbers
            turns = np.clip(rng.poisson(mean - 1, count) + 1, 1, most)
            drawn = turns * np.maximum(rng.normal(tokens, 0.35 * tokens / np.sqrt(turns)), 4) + 20
        text.append(drawn.astype(np.int64))
        images.append(np.full(count, image))
    joined = np.concatenate(text)
    return joined, np.concatenate(images), np.maximum(joined / TOKENS_A_WORD, 1).astype(np.int64)
