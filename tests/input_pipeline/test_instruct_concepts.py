"""Choosing captions by their phrases: the paper's rule, worked by hand, in parts, and stable."""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np
import pytest

from input_pipeline.instruct import concepts, phrases


def pairs_of(folder, corpus, seed=0):
    pairs = concepts.Pairs(folder / f"pairs{seed}", seed)
    for name, found in corpus:
        pairs.add(name, found)
    pairs.finish()
    return pairs


def corpus(count: int, seed: int = 0) -> list[tuple[str, list[str]]]:
    """Captions whose phrases follow a steep law: some stand everywhere, many in one."""
    draw = random.Random(seed)
    return [
        (f"c{n}", sorted({f"p{int(draw.paretovariate(0.6))}" for _ in range(draw.randint(0, 4))}))
        for n in range(count)
    ]


def test_the_rule(tmp_path) -> None:
    told = corpus(2000)
    chosen, counted = concepts.choose(pairs_of(tmp_path, told), least=3, most=20)
    holders = defaultdict(list)
    for place, (_, found) in enumerate(told):
        for phrase in found:
            holders[phrase].append(place)
    # All captions of a phrase that is neither rare nor common are there; of a common one 20 at least.
    middle = {place for places in holders.values() if 3 <= len(places) <= 20 for place in places}
    assert middle <= set(np.flatnonzero(chosen))
    for places in holders.values():
        if len(places) > 20:
            assert chosen[places].sum() >= 20
    rare_only = [n for n, (_, found) in enumerate(told) if all(len(holders[one]) < 3 for one in found)]
    assert rare_only
    assert not chosen[rare_only].any()
    common = [places for places in holders.values() if len(places) > 20]
    assert chosen.sum() <= len(middle) + 20 * len(common)
    assert not chosen.all()
    assert (counted.captions, counted.chosen) == (2000, chosen.sum())
    assert (counted.phrases, counted.too_common) == (len(holders), len(common))
    assert counted.too_rare == sum(len(places) < 3 for places in holders.values())


def test_parts_and_blocks_change_nothing_and_seeds_do(tmp_path, monkeypatch) -> None:
    told = corpus(1500)
    whole, counted = concepts.choose(pairs_of(tmp_path, told), most=20)
    monkeypatch.setattr(concepts, "_BLOCK", 64)
    parts, told_again = concepts.choose(pairs_of(tmp_path, told), most=20, part=100)
    assert np.array_equal(whole, parts)
    assert counted == told_again
    assert not np.array_equal(whole, concepts.choose(pairs_of(tmp_path, told, 1), most=20)[0])


def test_more_captions_move_little(tmp_path) -> None:
    told = [(f"c{n}", ["cup"]) for n in range(1000)]
    before, _ = concepts.choose(pairs_of(tmp_path, told))
    after, _ = concepts.choose(pairs_of(tmp_path, told + [(f"d{n}", ["cup"]) for n in range(100)]))
    assert before.sum() == after.sum() == 100
    assert (before & after[:1000]).sum() > 80


def test_nothing_at_all(tmp_path) -> None:
    chosen, counted = concepts.choose(pairs_of(tmp_path, [("a", [])]))
    assert (chosen.tolist(), counted.phrases) == ([False], 0)


def test_phrases() -> None:
    pytest.importorskip("textblob")
    assert phrases.of("A small brown dog runs on the beach with 3 red balls.") == {
        "small brown dog", "beach", "3 red balls"
    }  # fmt: skip
    assert phrases.of("A man holding two shirts") == {"man", "two shirts"}
    assert phrases.of("") == phrases.of("!?") == frozenset()
