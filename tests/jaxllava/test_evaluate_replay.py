"""Replay values: reading them from answers, asking a model scene by scene, and what predictions are worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import r2_score

from input_pipeline.behavior import answers, statements, templates
from input_pipeline.behavior.statements import Facts
from input_pipeline.types import Scene, Turn
from jaxllava import api
from jaxllava.evaluate import replay, replay_asking
from jaxllava.evaluate.replay_asking import Listed
from tests.conftest import png

HEADING = "The replay values for each scene would be:"
TELLING = [
    name
    for name, template in templates.TEMPLATES.items()
    if "replay" in template.behaviors and not template.scene
]

# --- reading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "values"),
    [
        (f"{HEADING}\nScene 1: 0.06\nScene 2: 0.23", [0.06, 0.23]),
        ("  Scene 1 :0.06\r\n\n Scene  2:\t1", [0.06, 1.0]),  # the heading was in the prompt
        (f"Scene 1: The scene shows a cup.\n\n{HEADING}  Scene 1: 0 Scene 2: 0.5", [0.0, 0.5]),
        (f"{HEADING}\nScene 1: 0.06\nScene 2: 0.23\nScene 3: 7", [0.06, 0.23]),  # it runs on
        (f"{HEADING} Scene 1: 0.1 {HEADING}\nScene 1: 0.2\nScene 2: 0.3", [0.2, 0.3]),
        (f"{HEADING}\nScene 1: 0.06", None),  # too few
        (f"{HEADING}\nScene 2: 0.06\nScene 1: 0.23", None),
        (f"{HEADING}\nScene 1: 0.06\nScene 3: 0.23", None),
        (f"{HEADING}\nScene 1: 0.06\nScene 1: 0.23", None),
        (f"{HEADING}\nScene 1: 0.06\nScene 2: 1.01", None),
        (f"{HEADING}\nScene 1: 0.06\nScene 2: -0.1", None),
        (f"{HEADING}\nScene 1: 0.06\nScene 2: .5", None),
        (f"{HEADING}\nScene 1: 0.06\nScene 2: 0.5%", None),
        (f"{HEADING}\nScene 1: 0.06\nScene 2: 0,5", None),
        (f"{HEADING}\nScene 1: 0.06\nScene 2: 0.5.1", None),
        (f"{HEADING}\nScene 1: 0.06\nScene 2: nan", None),
        (f"{HEADING}\nScene 1: 0.06\nScene 2: 0.٥", None),
        ("Scene 1: The scene shows a cup.", None),
        ("", None),
    ],
)
def test_parse_replay(answer: str, values: list[float] | None) -> None:
    assert replay.parse_replay(answer, 2) == values


@pytest.mark.parametrize("name", TELLING)
@given(values=st.lists(st.integers(0, 100), min_size=1, max_size=6), caption=st.sampled_from(["", "a cup"]))
@settings(max_examples=20, deadline=None)
def test_what_templates_write_is_read_again(name: str, values: list[int], caption: str) -> None:
    template = templates.get(name)
    known = Facts(
        scenes=tuple(Scene(caption, i, i + 1) for i in range(len(values))),
        like_rate=0.5,
        comments=("Scene 1: 0.99",),
        replay=tuple(value / 100 for value in values),
    )
    statement = statements.write(template, known)
    assert statement is not None
    found = replay.parse_replay(statement.answer, len(values))
    assert found == pytest.approx([value / 100 for value in values])
    assert replay.parse_replay(statement.answer, len(values) + 1) is None
    head, numbers = replay_asking.begun(
        statement.answer, answers.split(template, statement.answer, statement.behaviors)
    )
    assert head.endswith(f"{HEADING}\n") and numbers == tuple(range(1, len(values) + 1))
    assert [replay_asking.CANDIDATES[value] for value in values] == [f"{value / 100:.2f}" for value in values]
    told = head + "\n".join(
        f"Scene {number}: {replay_asking.CANDIDATES[value]}"
        for number, value in zip(numbers, values, strict=True)
    )
    # Behind it the words for films tell the other reactions; in the others these are in `head`.
    assert statement.answer.startswith(told)
    assert "0.99" in (statement.answer.removeprefix(told) if name == "film_behavior_v1" else head) or (
        template.behaviors == {"replay"}
    )


def test_templates_that_tell_replay_are_known() -> None:
    assert {"video_listing_v1", "replay_v1"} <= set(TELLING)


# --- asking ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("compiled_quickly")
def test_a_scene_is_asked_behind_the_model_s_own_values(tiny_base) -> None:
    model = api.load(tiny_base)
    question, pictures, head = "<image>\nWhat is shown?", [png(1), png(2)], f"{HEADING}\n"
    listed = [
        Listed(question, picture, head, scenes)
        for picture, scenes in zip(pictures, ((1, 2), (2,)), strict=True)
    ]
    found = replay_asking.expected(model, listed)
    assert [len(values or ()) for values in found] == [2, 1]

    def by_hand(picture: bytes, prefix: str) -> float:
        scores = model.score([question] * 2, [picture] * 2, replay_asking.CANDIDATES, answer_prefix=prefix)[0]
        chances = np.exp(scores) / np.exp(scores).sum()
        return float(chances @ np.arange(101) / 100)

    first, other = found
    assert first is not None and other is not None
    assert first[0] == pytest.approx(by_hand(pictures[0], f"{head}Scene 1: "), abs=1e-4)
    own = f"{head}Scene 1: {first[0]:.2f}\nScene 2: "
    assert first[1] == pytest.approx(by_hand(pictures[0], own), abs=1e-4)
    assert other[0] == pytest.approx(by_hand(pictures[1], f"{head}Scene 2: "), abs=1e-4)


@pytest.mark.usefixtures("compiled_quickly")
def test_turns_are_asked_one_behind_the_other(tiny_base) -> None:
    model = api.load(tiny_base)
    questions, begun = (
        ("<image>\nWhat is shown?", "<image>\nAnd here?"),
        ("red. Replay value: ", "Replay value: "),
    )
    pictures = (png(1), png(2))
    asked = replay_asking.InTurns(questions, begun, pictures)
    ((first, second),) = [values or [] for values in replay_asking.expected(model, [asked])]
    scores = lambda prompt, media, prefix: model.score([prompt], [media], replay_asking.CANDIDATES, prefix)[0]
    by_hand = lambda found: float(np.exp(found) @ np.arange(101) / 100 / np.exp(found).sum())
    assert first == pytest.approx(by_hand(scores(questions[0], pictures[:1], begun[0])), abs=1e-4)
    turns = [
        Turn("human", questions[0]),
        Turn("gpt", f"red. Replay value: {first:.2f}"),
        Turn("human", questions[1]),
    ]
    assert second == pytest.approx(by_hand(scores(turns, pictures, begun[1])), abs=1e-4)


# --- figures -----------------------------------------------------------------------------------------------


def _films(count: int, noise: float, seed: int = 0) -> list[tuple[list[float], list[float]]]:
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        true = rng.uniform(0.1, 0.9, int(rng.integers(3, 7)))
        true /= true.max()
        out.append(((0.2 + 0.5 * true + rng.normal(0, noise, len(true))).tolist(), true.tolist()))
    return out


def test_figures_are_those_of_scipy_and_sklearn() -> None:
    films = _films(40, 0.2)
    found = replay.figures(films, resamples=200)
    rho = [float(np.asarray(stats.spearmanr(p, t))[0]) for p, t in films]
    predicted, true = (np.concatenate([film[side] for film in films]) for side in (0, 1))
    wanted = {
        "spearman": np.mean(rho),
        "top_scene": np.mean([np.argmax(p) == np.argmax(t) for p, t in films]),
        "pearson": np.corrcoef(predicted, true)[0, 1],
        "r2": r2_score(true, predicted),
    }
    assert {name: value.mean for name, value in found.values.items()} == pytest.approx(wanted)
    assert found.chance == pytest.approx(np.mean([1 / len(t) for _, t in films]))
    assert not found.problems
    for estimate in found.values.values():
        assert estimate.low < estimate.mean < estimate.high and (estimate.n, estimate.unit) == (40, "films")


def test_intervals_are_over_films_and_not_over_scenes() -> None:
    # Every film three times as long: no more is known of them, so no interval may shrink.
    films = _films(30, 0.2, seed=1)
    longer = [(p * 3, t * 3) for p, t in films]
    one, other = replay.figures(films), replay.figures(longer)
    for name in ("pearson", "r2", "spearman"):
        a, b = one.values[name], other.values[name]
        assert (b.mean, b.low, b.high) == pytest.approx((a.mean, a.low, a.high), abs=1e-9), name


def test_perfect_constant_and_contrary_predictions() -> None:
    truths = [t for _, t in _films(20, 0)]
    perfect = replay.figures([(t, t) for t in truths], resamples=50)
    assert {name: value.mean for name, value in perfect.values.items()} == pytest.approx(
        {"spearman": 1, "top_scene": 1, "pearson": 1, "r2": 1}
    )
    contrary = replay.figures([([1 - v for v in t], t) for t in truths], resamples=50)
    assert contrary.values["spearman"].mean == pytest.approx(-1)
    assert contrary.values["pearson"].mean == pytest.approx(-1)
    assert contrary.values["top_scene"].mean == 0 and contrary.values["r2"].mean < 0
    # The mean of the truths: worth 0, and the top scene is as good as drawn.
    mean = float(np.mean(np.concatenate(truths)))
    constant = replay.figures([([mean] * len(t), t) for t in truths], resamples=50)
    assert {name: value.mean for name, value in constant.values.items()} == pytest.approx(
        {"spearman": 0, "top_scene": constant.chance, "pearson": 0, "r2": 0}, abs=1e-9
    )
    assert len(constant.problems[replay.CONSTANT]) == 20


def test_what_cannot_be_measured_is_counted_and_named() -> None:
    good = [0.1, 0.5, 1.0]
    films: list[replay.Film] = [
        ([0.2, 0.3, 0.4], good),
        (None, good),
        ([0.2, float("nan"), 0.4], good),
        ([0.2, 0.3, 0.4], [1.0, 1.0, 1.0]),
        ([0.2, 0.3], [0.5, 1.0]),
        ([0.3, 0.3, 0.1], good),
        ([0.3, 0.2, 0.3], [1.0, 0.5, 1.0]),
    ]
    found = replay.figures(films, ids="abcdefg", resamples=50)
    assert found.problems == {
        replay.UNREAD: ["b"],
        replay.NOT_FINITE: ["c"],
        replay.FLAT: ["d"],
        replay.SHORT: ["e"],
    }
    assert {name: value.n for name, value in found.values.items()} == {
        "spearman": 3, "top_scene": 4, "pearson": 5, "r2": 5,
    }  # fmt: skip
    assert found.values["top_scene"].mean == pytest.approx((1 + 1 + 0 + 1) / 4)
    assert found.chance == pytest.approx((1 / 3 + 1 / 2 + 1 / 3 + 2 / 3) / 4)
    nothing = replay.figures([(None, good), ([0.5], [1.0])])
    assert nothing.values == {} and np.isnan(nothing.chance)
    assert set(nothing.problems) == {replay.UNREAD, replay.FLAT}
    assert replay.figures([]).values == {}


@pytest.mark.parametrize(
    ("film", "said"),
    [
        (([0.1], [0.1, 1.0]), "film 0 has 1 predicted and 2 true"),
        (([0.1, 0.2], [0.1, 1.5]), "to lie in"),
        (([0.1, 0.2], [float("nan"), 1.0]), "to lie in"),
        (([], []), "to lie in"),
    ],
)
def test_films_that_are_none(film: replay.Film, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replay.figures([film])


def test_differences_are_paired_by_film() -> None:
    better = _films(40, 0.05, seed=2)
    rng = np.random.default_rng(9)
    worse: list[replay.Film] = [((p + rng.normal(0, 0.4, len(t))).tolist(), t) for p, t in better]
    worse[3] = (None, worse[3][1])
    found = replay.differences(better, worse, resamples=200)
    kept = [place for place in range(40) if place != 3]
    one = replay.figures([better[place] for place in kept], resamples=50)
    other = replay.figures([worse[place] for place in kept], resamples=50)
    assert set(found) == {"spearman", "top_scene", "pearson", "r2"}
    for name, gap in found.items():
        assert gap.mean == pytest.approx(one.values[name].mean - other.values[name].mean), name
        assert gap.n == 39 and 0 < gap.low < gap.mean < gap.high
    # One's own twin differs in nothing, in no resample.
    assert all(
        (gap.low, gap.mean, gap.high) == (0, 0, 0) for gap in replay.differences(better, better).values()
    )
    with pytest.raises(ValueError, match="true values differ"):
        replay.differences(better, better[::-1])
