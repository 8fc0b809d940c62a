"""Near-duplicate short texts by the cosine of their TF-IDF vectors, in plain Python."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

_WORD = re.compile(r"\w+")


def near_duplicates(texts: Sequence[str], threshold: float) -> set[int]:
    """Returns the indices of texts whose cosine with an earlier kept text is at least `threshold`.

    A term weighs count * (ln((1 + n) / (1 + df)) + 1), and vectors have unit length: the formula of
    scikit-learn's TfidfVectorizer, over the words (of one letter or more) of these n texts alone. Earlier
    texts win, so sort by popularity first. An inverted index keeps it near linear: texts with no common
    word never meet.
    """
    counts = [Counter(_WORD.findall(text.lower())) for text in texts]
    frequency = Counter(term for count in counts for term in count)
    idf = {term: math.log((1 + len(texts)) / (1 + df)) + 1 for term, df in frequency.items()}
    postings: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
    repeats: set[int] = set()
    for index, count in enumerate(counts):
        weights = {term: n * idf[term] for term, n in count.items()}
        norm = math.sqrt(sum(w * w for w in weights.values())) or 1.0
        scores: defaultdict[int, float] = defaultdict(float)
        for term, weight in weights.items():
            for other, other_weight in postings[term]:
                scores[other] += weight / norm * other_weight
        if scores and max(scores.values()) >= threshold - 1e-9:
            repeats.add(index)
            continue
        for term, weight in weights.items():
            postings[term].append((index, weight / norm))
    return repeats
