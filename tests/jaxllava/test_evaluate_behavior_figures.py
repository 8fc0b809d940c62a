"""Figures of held-out reactions from rows that are worked by hand."""

from __future__ import annotations

import math

import pytest

from input_pipeline.behavior.answers import Span
from input_pipeline.errors import UserError
from input_pipeline.types import Turn
from jaxllava.evaluate import behavior_figures, behavior_text
from jaxllava.evaluate.behavior_posts import Post
from jaxllava.evaluate.item_log import ItemLog


def post(name: str, source: str = "reddit", comments: tuple[str, ...] = ()) -> Post:
    answer, spans = "", []
    for text in comments:
        spans.append(Span(len(answer), len(answer) + len(text), len(spans) + 1))
        answer += text
    turns = (Turn("human", "?"), Turn("gpt", answer))
    return Post(f"{source}/{name}", source, turns, {"comments": tuple(spans)}, None, 0)


def rows(passed: str, *found: tuple) -> dict:
    """Rows of a pass from (id, number, fields)."""
    return {passed: [{"id": f"reddit/{name}", "number": number, **own} for name, number, own in found]}


POSTS = [post(name) for name in "abc"]


def test_perplexity_of_the_top_comment_and_of_all():
    half, eighth = math.log(1 / 2), math.log(1 / 8)
    found = behavior_figures.columns(
        POSTS,
        rows(
            "comments",
            ("a", 0, {"log_probability": 2 * half, "tokens": 2}),
            ("a", 1, {"log_probability": 4 * eighth, "tokens": 4}),
            ("b", 0, {"log_probability": 2 * eighth, "tokens": 2}),
            ("c", 0, {"log_probability": half, "tokens": 1}),
            ("c", 1, {"problem": "is long"}),
        ),
    )
    got = behavior_figures.figures(found)
    # Tops: (2 + 6 + 1) ln 2 over 5 tokens. All: c is left out; (2 + 12 + 6) ln 2 over 8.
    assert got["top_comment_perplexity"]["mean"] == pytest.approx(2 ** (9 / 5))
    assert got["top_comment_perplexity"]["n"] == 3
    assert got["comments_perplexity"]["mean"] == pytest.approx(2 ** (20 / 8))
    assert got["comments_perplexity"]["n"] == 2
    assert found["comments_perplexity"].problems == {"is long": ["reddit/c"]}
    assert not found["top_comment_perplexity"].problems
    # Of one post alone: the value, and no interval.
    one = behavior_figures.figures(found, ["reddit/a"])["comments_perplexity"]
    assert one["mean"] == pytest.approx(2 ** (14 / 6))
    assert (one["low"], one["high"], one["n"]) == (None, None, 1)
    assert behavior_figures.figures(found, ["reddit/z"]) == {}


def test_like_rates():
    pairs = {"a": (0.2, 0.1), "b": (0.2, 0.2), "c": (0.3, 0.4)}
    found = behavior_figures.columns(
        POSTS, rows("likes", *((n, 0, {"predicted": p, "true": t}) for n, (p, t) in pairs.items()))
    )
    got = behavior_figures.figures(found)
    # Residuals -0.1, 0, 0.1: 0.02; the truths' mean is 7/30, SStot 0.14/3.
    assert got["like_rate_r2"]["mean"] == pytest.approx(1 - 0.02 / (0.14 / 3))
    # Ranks 1.5, 1.5, 3 against 1, 2, 3: 1.5 / sqrt(1.5 * 2).
    assert got["like_rate_spearman"]["mean"] == pytest.approx(math.sqrt(0.75))
    equal = behavior_figures.columns(
        POSTS, rows("likes", *((n, 0, {"predicted": 0.1, "true": 0.5}) for n in "abc"))
    )
    assert "undefined" in behavior_figures.figures(equal)["like_rate_r2"]["note"]


def test_replay_graphs_are_correlated_within_each_post():
    graphs = {
        "a": ([0.1, 0.2, 0.4], [0.0, 0.5, 1.0]),
        "b": ([0.3, 0.2, 0.1], [0.1, 0.2, 0.9]),
        "c": ([0.1, 0.2, 0.3], [0.5, 0.5, 0.5]),
    }
    found = behavior_figures.columns(
        POSTS,
        rows(
            "replay",
            # Rows come in the order in which they were scored.
            *(
                (name, number, {"predicted": predicted[number], "true": true[number]})
                for name, (predicted, true) in graphs.items()
                for number in (2, 0, 1)
            ),
        ),
    )
    got = behavior_figures.figures(found)
    a = 0.15 / math.sqrt(0.14 / 3 * 0.5)  # of -4/30, -1/30, 5/30 and -0.5, 0, 0.5
    b = -0.08 / math.sqrt(0.02 * 0.38)  # of 0.1, 0, -0.1 and -0.3, -0.2, 0.5
    assert got["replay_pearson"]["mean"] == pytest.approx((a + b) / 2)
    assert got["replay_spearman"]["mean"] == pytest.approx((1 - 1) / 2)
    assert found["replay_pearson"].problems == {"has a flat replay graph": ["reddit/c"]}


def test_overlap_beside_another_post_s():
    posts = [post("a", comments=("red cups", "blue stars")), post("b", comments=("green boats", "one two"))]
    text = ' "red cups"\n2. "green boats"\n3. "never read"'
    found = behavior_figures.columns(
        posts,
        rows(
            "generated", ("a", 0, {"text": text}), ("b", 0, {"text": ' "one red two"\nThat is all: 2. "x"'})
        ),
    )
    got = {name: figure["mean"] for name, figure in behavior_figures.figures(found).items()}
    # a: red cups is there and green boats is not, both ways round: 1/2. With b's: the same.
    # b: "one red two" against "one two": LCS 2 of 3 and of 2, F 4/5; against "green boats" 0.
    #    precision 4/5, recall (0 + 4/5) / 2, F 2 * .8 * .4 / 1.2. With a's: "red" with "red cups" is 2 * 1/3 * 1/2 over
    #    5/6 = 2/5, "blue stars" 0: precision 2/5, recall 1/5, F 4/15.
    b, other = 0.64 / 1.2, 4 / 15
    assert got["overlap_precision"] == pytest.approx((0.5 + 0.8) / 2)
    assert got["overlap_recall"] == pytest.approx((0.5 + 0.4) / 2)
    assert got["overlap_f"] == pytest.approx((0.5 + b) / 2)
    assert got["overlap_other_post"] == pytest.approx((0.5 + other) / 2)
    assert got["overlap_gain"] == pytest.approx((0 + b - other) / 2)
    assert found["overlap_f"].remarks == {"got fewer comments than were asked for": ["reddit/b"]}


def test_what_cannot_be_compared_is_counted():
    posts = [post("a", comments=("red",)), post("b", comments=("😀",)), post("c", comments=("blue",))]
    found = behavior_figures.columns(
        posts, rows("generated", ("a", 0, {"text": ""}), ("b", 0, {"text": "red"}), ("c", 0, {"text": "red"}))
    )["overlap_f"]
    assert found.values == {"reddit/c": (0.0,)}
    assert found.problems == {
        "got no comment that could be read": ["reddit/a"],
        "tells no comment in Latin letters, which ROUGE compares": ["reddit/b"],
    }


def test_differences_are_paired_on_the_posts_that_both_scored():
    def likes(**predicted):
        true = {"a": 0.1, "b": 0.2, "c": 0.4}
        return behavior_figures.columns(
            POSTS,
            rows("likes", *((n, 0, {"predicted": p, "true": true[n]}) for n, p in predicted.items())),
        )

    first, second = likes(a=0.1, b=0.2, c=0.4), likes(a=0.2, c=0.4)
    got = behavior_figures.differences(first, second)
    # On a and c alone: 1 and 1 - 0.01 / 0.045.
    assert got["like_rate_r2"]["mean"] == pytest.approx(0.01 / 0.045)
    assert got["like_rate_r2"]["n"] == 2
    assert behavior_figures.differences(first, likes(b=0.2))["like_rate_r2"]["note"].startswith("paired")
    assert behavior_figures.differences(first, likes()) == {}


def results(low: float, high: float) -> dict:
    def cell(mean, low, high):
        return {"mean": mean, "low": low, "high": high, "n": 9, "unit": "posts"}

    one = {"sources": {"reddit": {}}, "left_out": {}, "remarks": {}}
    return {
        "compared": "mine",
        "checkpoints": {
            "mine": {**one, "figures": {"comments_perplexity": cell(3, 2.5, 3.5)}},
            "theirs": {
                **one,
                "figures": {"comments_perplexity": cell(9, 8, 10)},
                "left_out": {"comments_perplexity": {"is long": ["reddit/x"] * 2 + ["reddit/y"]}},
            },
        },
        "differences": {"theirs": {"comments_perplexity": cell(-6, low, high)}},
        "chance": {"like_rate_r2": 0.0},
        "records": {
            "folder": "d",
            "posts": 9,
            "sources": {"reddit": 9},
            "left_out": {"has no picture": ["a"]},
        },
    }


def test_sentences_say_what_the_pairs_show():
    found = results(-7, -5)
    said = behavior_text.sentences(found)
    assert said[0] == "mine won on every metric (1), against theirs."
    open_ = behavior_text.sentences(results(-7, 1))
    # The two intervals of their own do not overlap; the pairs decide.
    assert open_[0].startswith("mine did not win")
    text = behavior_text.text({**found, "sentences": said})
    assert "All comments, perplexity ↓  3.00 [2.50, 3.50]  9.00 [8.00, 10.00]  9" in text
    assert "Passed over among the held-out posts: 1 has no picture (a)." in text
    assert "theirs: All comments (perplexity): not scored: 2 is long (reddit/x, reddit/y)." in text


def test_a_log_is_what_was_added(tmp_path):
    header = {"checkpoint": {"name": "here", "identity": "1"}, "settings": {"grid": (1, 2)}}
    path = tmp_path / "a" / "x.jsonl"
    log = ItemLog(path, header)
    log.add([{"id": "p", "number": 0, "value": 1.5}, {"id": "p", "number": 1, "value": 2.5}])
    with path.open("a") as file:
        file.write('{"id": "q", "num')
    moved = {**header, "checkpoint": {"name": "there", "identity": "1"}}
    again = ItemLog(path, moved)
    assert list(again.rows) == [("p", 0), ("p", 1)]
    again.add([{"id": "q", "number": 0, "value": 0}])
    assert list(ItemLog(path, header).rows) == [("p", 0), ("p", 1), ("q", 0)]
    with pytest.raises(UserError, match=r"of settings \(grid \[1, 2\]\), and .* settings \(grid \[1, 3\]\)"):
        ItemLog(path, {**header, "settings": {"grid": (1, 3)}})
    # A row that is damaged, or of other keys, is as one that is not there: what it told is found anew.
    assert ItemLog(path, header, ("task",)).rows == {}
    path.write_text(path.read_text().replace('"number": 1, "val', '"number": 1 "val'))
    assert list(ItemLog(path, header).rows) == [("p", 0), ("q", 0)]
    torn = tmp_path / "b.jsonl"
    torn.write_text('{"checkp')  # of a run that was stopped at its first line
    assert ItemLog(torn, header).rows == {}
