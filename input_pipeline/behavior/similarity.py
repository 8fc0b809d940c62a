"""Near-duplicate short texts by the cosine of their TF-IDF vectors, for many small groups of texts at once."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

_PAIRS = 4_000_000  # similarities that may be held at once: 48 MB
_WORD = re.compile(r"\w+")


@functools.lru_cache(1 << 15)  # several steps ask for the words of the same comment, one soon after another
def words_of(text: str) -> tuple[str, ...]:
    """The words of a text in lower case, those of one letter too: "I" or "5" may be all a comment has."""
    return tuple(_WORD.findall(text.lower()))


@functools.cache
def _hasher() -> Any:
    # scikit-learn takes two seconds to import, which most processes of `prepare` need not spend.
    from sklearn.feature_extraction.text import HashingVectorizer

    # A column is a word's hash: no vocabulary to build, and two words of one group meet in one once in a billion pairs.
    return HashingVectorizer(
        analyzer=words_of,  # pyright: ignore -- its type hints know neither functions nor None
        n_features=2**30,
        norm=None,  # pyright: ignore
        alternate_sign=False,
        dtype=np.float64,
    )


def near_duplicates(groups: Sequence[Sequence[str]], thresholds: Sequence[float]) -> list[set[int]]:
    """For each group: the indices of texts whose cosine with an earlier kept text is at least its threshold.

    The vectors are those of scikit-learn's TfidfVectorizer, fitted to each group alone. Earlier texts win, so
    sort by popularity first. All groups go through one sparse product, in which words of different groups are
    different columns: fitting group by group would take ten times as long.
    """
    found: list[set[int]] = []
    batch: list[int] = []
    pairs = 0
    for index, group in enumerate(groups):
        if batch and pairs + len(group) ** 2 > _PAIRS:
            found += _batch([groups[i] for i in batch], [thresholds[i] for i in batch])
            batch, pairs = [], 0
        batch.append(index)
        pairs += len(group) ** 2
    return found + _batch([groups[i] for i in batch], [thresholds[i] for i in batch])


def _batch(groups: list[Sequence[str]], thresholds: list[float]) -> list[set[int]]:
    repeats: list[set[int]] = [set() for _ in groups]
    sizes = np.array([len(group) for group in groups], np.int64)
    vectors = _tfidf(groups, sizes)
    if vectors is None:
        return repeats
    starts = np.concatenate([[0], np.cumsum(sizes)])
    group_of = np.repeat(np.arange(len(groups)), sizes)
    # One group may have more pairs than may be held: then it is compared a few rows at a time.
    step = max(1, _PAIRS // max(int(sizes.max(initial=1)), 1))
    for first in range(0, vectors.shape[0], step):
        near = (vectors[first : first + step] @ vectors.T).tocoo()
        rows, columns = near.row + first, near.col
        group = group_of[rows]
        alike = (columns < rows) & (near.data >= np.asarray(thresholds)[group] - 1e-9)
        order = np.argsort(rows[alike], kind="stable")
        for row, column, g in zip(
            rows[alike][order].tolist(),
            columns[alike][order].tolist(),
            group[alike][order].tolist(),
            strict=True,
        ):
            if column - starts[g] not in repeats[g]:
                repeats[g].add(int(row - starts[g]))
    return repeats


def _tfidf(groups: list[Sequence[str]], sizes: np.ndarray) -> Any:
    """Unit TF-IDF vectors, sparse [texts, words of groups]; None where there is no word at all."""
    if not sizes.sum():
        return None
    counts = _hasher().transform([text for group in groups for text in group])
    if not counts.nnz:
        return None
    texts, words = counts.shape
    group = np.repeat(np.repeat(np.arange(len(groups)), sizes), np.diff(counts.indptr))  # of each entry
    columns, entry, frequency = np.unique(
        group * words + counts.indices, return_inverse=True, return_counts=True
    )
    # TfidfTransformer's smoothed weight, with the size of each word's own group in place of one for all.
    weight = np.log((1 + sizes[columns // words]) / (1 + frequency)) + 1
    matrix = sp.csr_matrix((counts.data * weight[entry], entry, counts.indptr), shape=(texts, len(columns)))
    from sklearn.preprocessing import normalize

    return normalize(matrix, copy=False)
