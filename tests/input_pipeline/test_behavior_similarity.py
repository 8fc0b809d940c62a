"""Near-duplicate comments: the same as scikit-learn's vectorizer fitted to each group and a greedy choice."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from input_pipeline.behavior import similarity
from input_pipeline.behavior.similarity import near_duplicates, words_of


def _greedy(texts: list[str], threshold: float) -> set[int]:
    """The definition: each text against every earlier one that was kept."""
    if not any(map(words_of, texts)):
        return set()
    vectors = TfidfVectorizer(analyzer=words_of).fit_transform(texts).toarray()  # pyright: ignore
    kept: list[int] = []
    repeats: set[int] = set()
    for index, vector in enumerate(vectors):
        if any(vector @ vectors[other] >= threshold - 1e-9 for other in kept):
            repeats.add(index)
        else:
            kept.append(index)
    return repeats


# Few words, so that many texts are alike; signs, so that some have no word.
_TEXT = st.lists(
    st.sampled_from(["red", "Red", "boat", "sea", "a", "I", "5", "é", "!!", "…", "blue-green", "don't", "_"]),
    max_size=6,
).map(" ".join)
_GROUPS = st.lists(
    st.tuples(st.lists(_TEXT, max_size=7), st.sampled_from([0.01, 0.3, 0.5, 0.6, 0.7, 0.95, 1.0, 1.1])),
    max_size=5,
)


@settings(max_examples=150, deadline=None)
@given(_GROUPS)
def test_it_is_what_fitting_each_group_alone_gives(groups: list[tuple[list[str], float]]) -> None:
    texts, thresholds = [group for group, _ in groups], [threshold for _, threshold in groups]
    assert near_duplicates(texts, thresholds) == [_greedy(*group) for group in groups]


@settings(max_examples=100, deadline=None)
@given(_GROUPS, st.integers(1, 60))
def test_any_room_gives_the_same(groups: list[tuple[list[str], float]], pairs: int) -> None:
    texts, thresholds = [group for group, _ in groups], [threshold for _, threshold in groups]
    whole = near_duplicates(texts, thresholds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "_PAIRS", pairs)
        assert near_duplicates(texts, thresholds) == whole


def test_similarities_beyond_the_room_are_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "_PAIRS", 100)
    batches: list[list[int]] = []
    plain = similarity._batch

    def watched(groups: list, thresholds: list[float]) -> list[set[int]]:
        batches.append([len(group) for group in groups])
        return plain(groups, thresholds)

    monkeypatch.setattr(similarity, "_batch", watched)
    near_duplicates([["a b"] * 6] * 5 + [["a b"] * 30] + [["a b"] * 2] * 3, [0.6] * 9)
    assert batches == [[6, 6], [6, 6], [6], [30], [2, 2, 2]]


def test_similarity_is_the_cosine_of_tfidf() -> None:
    # n = 2. boat is in both: idf 1. red and blue are in one: idf ln(3/2) + 1. cos = 1 / (1 + idf^2).
    expected = 1 / (1 + (0.4054651081 + 1) ** 2)
    texts = ["red boat", "blue boat"]
    assert near_duplicates([texts] * 2, [expected - 1e-6, expected + 1e-6]) == [{1}, set()]


def test_a_text_like_a_repeat_alone_stays() -> None:
    chain = ["a b c d", "a b c d e f", "c d e f g h", "e f g h"]
    (all_near,) = near_duplicates([chain], [0.3])
    (some,) = near_duplicates([chain], [0.55])
    assert all_near == _greedy(chain, 0.3) != some
    assert some == _greedy(chain, 0.55)
    assert 1 in some and 2 not in some  # 2 is like 1, which is gone


@pytest.mark.parametrize("groups", [[], [[]], [[], []], [["", "!", "?"]], [[""], [], ["…", "—"]]])
def test_without_words_nothing_is_alike(groups: list[list[str]]) -> None:
    assert near_duplicates(groups, [0.6] * len(groups)) == [set() for _ in groups]


def test_equal_texts_are_alike_at_the_highest_threshold() -> None:
    texts = [f"{n} lovely boats on the sea of {n} colours" for n in range(20)]
    assert near_duplicates([texts * 2], [1.0]) == [set(range(20, 40))]


def test_words_of_one_letter_count() -> None:
    assert words_of("I saw 5 of it's") == ("i", "saw", "5", "of", "it", "s")
    assert near_duplicates([["I", "5", "I"]], [0.6]) == [{2}]
