"""Candidate answers: one list for all prompts or one each, and what texts and token ids share at their beginnings."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from input_pipeline.errors import UserError


def one_each(value: str | Sequence[str], count: int) -> list[str]:
    """An answer's beginning for each prompt: one for all, or one each."""
    values = [value] * count if isinstance(value, str) else list(value)
    if len(values) != count:
        raise UserError(f"answer_prefix: {len(values)} given for {count} prompts.")
    return values


def for_prompts(candidates: Sequence[str] | Sequence[Sequence[str]], count: int) -> list[list[str]]:
    """A list of candidates for each prompt: one list for all, or one each. UserError where one has none."""
    if not len(candidates):
        raise UserError("score: no candidates were given.")
    shared = [text for text in candidates if isinstance(text, str)]
    if shared and len(shared) == len(candidates):
        return [shared] * count
    lists = [list(row) for row in candidates]
    if shared or not all(lists):
        raise UserError("score: no candidates for a prompt; give a list of texts, or such a list for each.")
    if len(lists) != count:
        raise UserError(f"score: {len(lists)} lists of candidates for {count} prompts.")
    return lists


def common(first: np.ndarray, second: np.ndarray) -> int:
    """Length of the common beginning of two id arrays."""
    shorter = min(len(first), len(second))
    differs = np.flatnonzero(first[:shorter] != second[:shorter])
    return int(differs[0]) if len(differs) else shorter


def one_begins_another(texts: Iterable[str]) -> bool:
    """Whether a text is the beginning of another one."""
    ordered = sorted(set(texts))  # a beginning sorts directly in front of some text that it begins
    return any(later.startswith(first) for first, later in itertools.pairwise(ordered))
