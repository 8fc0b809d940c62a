"""Intervals and tests over seeds and posts: by hand, and on synthetic data whose truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from configs.evidence import ARMS
from input_pipeline.types import Record, Turn
from jaxllava.evaluate import (
    evidence_labels,
    evidence_page,
    evidence_paper,
    evidence_results,
    evidence_text,
    plaza,
)
from jaxllava.evaluate import evidence_statistics as es


def accuracy(values, **options):
    """The figure of an arm from [S, N] values, which accuracy's mean takes as they are."""
    return es.figure("accuracy", [[list(row)] for row in values], **options)


def draw(rng, seeds, posts, of_seeds, of_posts, of_both, shared=None):
    """Values [S, N] about 0.5 with the three parts of their variance; `shared`: the posts' own part."""
    own = rng.normal(size=(1, posts)) if shared is None else shared
    noise = rng.normal(size=(seeds, posts))
    return 0.5 + of_seeds * rng.normal(size=(seeds, 1)) + of_posts * own + of_both * noise


# --- by hand -----------------------------------------------------------------------------------------------


def test_without_a_spread_of_posts_it_is_students_t():
    # Every post of a seed has the same value, so that the draws change nothing: the t interval over (0.2, 0.4, 0.6).
    found = es.estimate(accuracy([[0.2] * 10, [0.4] * 10, [0.6] * 10]))
    half = stats.t.ppf(0.975, 2) * 0.2 / np.sqrt(3)
    assert found.mean == pytest.approx(0.4)
    assert (found.low, found.high) == (
        pytest.approx(0.4 - half, rel=1e-6),
        pytest.approx(0.4 + half, rel=1e-6),
    )
    assert (found.n, found.unit) == (10, "posts, 3 seeds")


def test_one_seed_has_the_bootstrap_over_posts():
    values = [[1.0] * 30 + [0.0] * 70]
    found = es.estimate(accuracy(values))
    assert (found.low, found.high) == (pytest.approx(0.21, abs=0.02), pytest.approx(0.39, abs=0.02))
    assert found.unit == "posts"


def test_perplexity_is_averaged_and_compared_in_logarithms():
    # Two seeds with perplexities e^1 and e^3: the geometric mean is e^2, the difference to e^1 is 1 nat.
    first = es.figure("perplexity", [[[-1.0, -1.0], [1, 1]], [[-3.0, -3.0], [1, 1]]])
    second = es.figure("perplexity", [[[-1.0, -1.0], [1, 1]]])
    assert es.estimate(first).mean == pytest.approx(np.exp(2))
    found = es.test(first, second)
    assert (found.mean, found.log) == (pytest.approx(1.0), True)


def test_a_test_without_a_spread_of_posts_is_welchs():
    first, second = [0.5, 0.6, 0.7], [0.1, 0.2, 0.6]
    found = es.test(accuracy([[v] * 8 for v in first]), accuracy([[v] * 8 for v in second]))
    assert found.p == pytest.approx(stats.ttest_ind(first, second, equal_var=False).pvalue)
    assert found.paired_t == pytest.approx(stats.ttest_rel(first, second).pvalue)
    assert (found.agreeing, found.seeds) == (3, 3)


def test_one_seed_of_each_arm_is_compared_over_posts():
    rng = np.random.default_rng(5)
    first, second = (rng.random((1, 200)) < p for p in (0.6, 0.3))
    found = es.test(accuracy(first.astype(float)), accuracy(second.astype(float)))
    pairs = first[0].astype(float) - second[0]
    by_hand = 2 * stats.norm.sf(pairs.mean() / (pairs.std() / np.sqrt(200)))
    assert np.log10(found.p) == pytest.approx(np.log10(by_hand), rel=0.1)
    assert found.paired_t is None
    assert es.test(accuracy([[1.0, 0.0]]), accuracy([[1.0, 0.0]])).p == 1.0


def test_posts_that_are_hard_for_both_do_not_count():
    rng = np.random.default_rng(0)
    posts = rng.random(100) < 0.5  # half of the posts are hard for everyone
    first, second = np.tile(posts, (2, 1)).astype(float), np.tile(posts, (2, 1)).astype(float)
    first[:, :10] = 1.0
    second[:, :10] = 0.0
    found = es.test(accuracy(first), accuracy(second))
    assert found.mean == pytest.approx(0.1)
    # Of ten posts in a hundred: sqrt(0.1 * 0.9 / 100) = 0.03 about it, and not the 0.05 of each arm alone.
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.03, rel=0.1)


def test_arms_on_other_posts_have_no_difference():
    with pytest.raises(ValueError, match="not of the same items"):
        es.test(accuracy([[1.0, 0.0]]), accuracy([[1.0, 0.0, 1.0]]))
    with pytest.raises(ValueError, match="as many of each"):
        es.test(accuracy([[1.0, 0.0]] * 2), accuracy([[1.0, 0.0]] * 3))
    with pytest.raises(ValueError, match="not defined"):
        es.figure("r2", [[[0.5, 0.5], [1.0, 1.0]]])


def test_holm_by_hand():
    made = {(name,): es.Test(1, 0, 2, p, None, 1, 1) for name, p in (("a", 0.01), ("b", 0.04), ("c", 0.03))}
    # Sorted 0.01, 0.03, 0.04: times 3, 2, 1; the last may not be below the one before it.
    assert {key[0]: t.holm for key, t in es.holm(made).items()} == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06}
    )
    assert list(es.holm(made)) == list(made)


# --- on known truths ---------------------------------------------------------------------------------------

REPEATS = 300
# standard deviations of seeds, posts and of both together; the first two have one source alone
SPREADS = [(0.1, 0.0, 0.02), (0.0, 0.4, 0.1), (0.03, 0.3, 0.3)]


@pytest.mark.parametrize("spread", SPREADS)
def test_the_interval_covers_the_truth_in_95_of_100(spread):
    rng = np.random.default_rng(7)
    covered = 0
    for repeat in range(REPEATS):
        found = es.estimate(accuracy(draw(rng, 5, 100, *spread), resamples=200, seed=repeat))
        covered += found.low <= 0.5 <= found.high
    # 300 repetitions of 95 % have a standard deviation of 1.3 points; wider than 95 % is allowed, narrower is not.
    assert 0.915 <= covered / REPEATS <= 0.99


@pytest.mark.parametrize("spread", SPREADS)
def test_p_is_uniform_where_the_arms_are_equal(spread):
    rng = np.random.default_rng(11)
    values = []
    for repeat in range(REPEATS):
        shared = rng.normal(size=(1, 100))
        first, second = (
            accuracy(draw(rng, 5, 100, *spread, shared=shared), resamples=200, seed=repeat) for _ in range(2)
        )
        values.append(es.test(first, second).p)
    assert stats.kstest(values, "uniform").pvalue > 0.01
    assert np.mean(np.asarray(values) < 0.05) <= 0.08


def test_a_true_difference_is_found():
    rng = np.random.default_rng(3)
    shared = rng.normal(size=(1, 300))
    first, second = (draw(rng, 5, 300, 0.02, 0.3, 0.3, shared=shared) for _ in range(2))
    found = es.test(accuracy(first + 0.15), accuracy(second))
    assert found.p < 0.001
    assert found.low > 0


# --- labels ------------------------------------------------------------------------------------------------


def test_labels_are_asked_as_the_evaluation_asks():
    post = Record("x", "behavior", (b"picture",), (Turn("human", "?"), Turn("gpt", "!")), {"post_id": "p1"})
    made = evidence_labels.records([post], {"p1": {"mood": "calm", "topic": "food", "memorability": 0.57}})
    questions = [record.conversations[0].text for record in made]
    assert questions == [
        "<image>\nWhat mood is this?",
        "<image>\nWhat is the topic here?",
        "<image>\nHow memorable is this, from 0 to 9?",
    ]
    assert [record.conversations[1].text for record in made] == ["calm", "food", "5"]
    assert {record.images for record in made} == {(b"picture",)}


def test_a_smaller_share_is_part_of_a_larger_one():
    ids = [f"p{i}" for i in range(50)]
    few, more = evidence_labels.choose(ids, 0.1, 3), evidence_labels.choose(reversed(ids), 0.5, 3)
    assert len(few) == 5 and set(few) < set(more)
    assert evidence_labels.choose(ids, 1.0, 3) == sorted(ids)
    assert evidence_labels.choose(ids, 0.1, 4) != few


# --- results and page --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results():
    """Results of made-up columns: in `behavior` moods are right more often, all else is alike."""
    rng = np.random.default_rng(0)
    truth = rng.random(40).tolist()
    units = {}
    for arm in ("base", *ARMS):
        for seed in range(3):
            right = lambda p: [(rng.random(40) < p).astype(float).tolist()]
            columns = {
                "mood": right(0.9 if arm == "behavior" else 0.1),
                "topic": right(0.3),
                "memorability": [rng.random(40).tolist(), truth],
                "likes_r2": [rng.random(40).tolist(), truth],
                "comment_perplexity": [(-5 - rng.random(40)).tolist(), [2.0] * 40],
                "stage2": right(0.4),
            }
            labels = {task: columns[task] for task in evidence_labels.TASKS}
            tuned = {"0.1": labels, "1": labels} if arm in ("base", "behavior") else {}
            asked = None if arm == "base" and seed else columns
            units[arm, seed] = {"seed": seed, "zero_shot": asked, "finetuned": tuned}
    found = evidence_results.compute(units, ("base", *ARMS), range(3), resamples=200)
    for cells in found["arms"].values():
        cells["given"] = dict(posts=9, likes=9, titles=0, comments=9, instruct=9, passes=1.5)
    found["arms"]["base"]["given"] = None
    return {
        "date": "2026-01-02",
        "machine": "a <machine>",
        "seeds": [0, 1, 2],
        "missing": [],
        "jobs": 2,
        "minutes": 3.0,
        "seconds": {"units": 100.0},
        "unit_seconds": {"ad-seed0": {"train": 50.0}},
        "chance": {"mood": 1 / 6, "topic": 1 / 6, "memorability": 0.0, "likes_r2": 0.0},
        **found,
    }


def test_every_arm_is_compared_with_behavior_in_every_task(results):
    tests = results["tests"]["zero_shot"]
    assert len(tests) == (len(ARMS) - 1 + 1) * len(plaza.PICTURE_TASKS)
    assert {test["other"] for test in tests} == {"base", *ARMS} - {"behavior"}
    for cells in results["arms"].values():
        for cell in cells["zero_shot"].values():
            assert cell["low"] <= cell["mean"] <= cell["high"]
    assert results["arms"]["base"]["zero_shot"]["mood"]["unit"] == "posts"
    assert results["arms"]["ad"]["zero_shot"]["mood"]["unit"] == "posts, 3 seeds"
    assert len(results["tests"]["finetuned"]) == 2 * 3  # base, in three tasks with two shares
    json.dumps(results)


def test_only_corrected_p_values_decide():
    row = {"mean": 0.2, "p": 0.01, "holm": 0.06}
    assert evidence_results.outcome(row, True) == "open"
    assert evidence_results.outcome(row | {"holm": 0.04}, True) == "win"
    assert evidence_results.outcome(row | {"holm": 0.04}, False) == "loss"
    assert evidence_results.outcome(row | {"holm": 0.04, "mean": -0.2}, True) == "loss"


def test_the_verdict_says_what_is_shown_and_no_more(results):
    said = evidence_text.verdict(results)
    assert said[0].startswith(
        "On 1 of 6 tasks (mood) training on the audience's own reactions is shown to be better"
    )
    topic = next(sentence for sentence in said if sentence.startswith("Topic"))
    assert "better than" not in topic and "worse than" not in topic
    assert any("other base or another corpus" in sentence for sentence in said)


def test_a_task_that_no_labels_help_with_is_said_to_show_nothing(results):
    told = lambda found: [s for s in evidence_text.verdict(found) if "from what these models see" in s]
    # The fixture's answers on memorability are drawn at random, those on topic are not.
    assert [sentence.split(" no model")[0] for sentence in told(results)] == ["On memorability"]
    changed = json.loads(json.dumps(results))
    for arm in changed["arms"].values():
        for cells in (arm["zero_shot"], *arm["finetuned"].values()):
            cells["topic"] |= {"mean": 0.17, "low": 0.15, "high": 0.19}
    (said,) = told(changed)
    assert said.startswith(
        "On topic and memorability no model is above chance after 100% of the labels either"
    )


def test_the_table_is_dated_and_has_an_interval_in_every_cell(results):
    text = evidence_text.markdown(results)
    assert text.startswith("Measured 2026-01-02 on a <machine>: 3 seeds")
    rows = [
        line for line in text.splitlines() if line.startswith("| ad ") or line.startswith("| **behavior**")
    ]
    assert rows
    assert all("[" in cell for row in rows for cell in row.strip("| ").split("|")[1:])


def test_the_page_stands_alone(results, tmp_path):
    evidence_page.write_html(results, tmp_path / "evidence.html")
    page = (tmp_path / "evidence.html").read_text()
    assert "https://" not in page and "http://" not in page.replace("http://www.w3.org", "")
    assert "a &lt;machine&gt;" in page
    for _, figures, _ in evidence_paper.BEHAVIOR_TYPE.rows:
        assert all(figure in page for figure in figures)
    assert page.count("<svg") == 6 + 6 + 3
