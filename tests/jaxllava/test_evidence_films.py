"""The experiment on films: what a model is given of a held-out film, what is asked, and the page of it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from configs.evidence import FILM_ARMS, get_config
from input_pipeline import records
from input_pipeline.behavior import samples, templates
from input_pipeline.errors import UserError
from input_pipeline.types import Clip, Comment, Post, Record, Scene, Span, Turn
from jaxllava import api, cli, evidence, evidence_unit, films_unit
from jaxllava.evaluate import (
    behavior,
    behavior_posts,
    evidence_page,
    evidence_results,
    evidence_text,
    heldout_films,
    plaza,
    replay,
    replay_asking,
)
from jaxllava.evaluate.item_log import ItemLog
from jaxllava.evaluate.replay_asking import InTurns, Listed
from jaxllava.evidence_films import evidence_films, film_model, folder_of, plan
from jaxllava.models.clip import ClipVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.models.qformer import QFormerConfig
from jaxllava.videos import Video
from tests.conftest import make_asker, png
from tests.jaxllava import tiny_models as tiny

pytestmark = pytest.mark.usefixtures("compiled_quickly")

GRAPH = (Span(0, 2, 0.3), Span(2, 3, 1.0), Span(3, 5, 0.4), Span(5, 8, 0.1))
TIMES = ((0.0, 2.0), (2.0, 5.0), (5.0, 8.0))  # their highest values: 0.3, 1.0, 0.1
ALL = ("likes", "comments", "replay")


def record(graph=GRAPH, times=TIMES, template="film_turns_v1", told=ALL, number=0) -> Record:
    """A film's record as `prepare` writes it, with likes and comments that are found again if they are told."""
    scenes = tuple(Scene("", *time, foreground=("red",), background=("blue",), tone="warm") for time in times)
    post = Post(
        f"film{number}", "youtube", "A film", "raw:1", scenes=scenes, replay=graph, like_rate=0.678, film="x.mp4",
        comments=tuple(Comment(c, f"Sandcastle {c}") for c in "abc"),
    )  # fmt: skip
    spec = samples.behavior(post, templates.get(template), told)
    assert spec is not None
    turns = tuple(Turn(role, text) for role, text in spec["conversations"])
    frames = tuple(png(10 * number + n) for n in range(len(times)))
    starts = [start for start, _ in times]
    clips = (
        tuple(Clip(n, (at,)) for n, at in enumerate(starts)) if "apart" in spec else (Clip(0, tuple(starts)),)
    )
    return Record(spec["id"], "behavior", frames, turns, spec["meta"], clips)


def test_a_film_is_asked_scene_by_scene_without_any_reaction():
    one = record()
    film = heldout_films.of_record(one)
    assert film is not None and isinstance(film.asked, InTurns)
    told = "".join(turn.text for turn in one.conversations)
    assert "67.8%" in told and "Sandcastle" in told and "Replay value: 1.00" in told  # it tells them all
    turns, media, begun = film.asked.ask([0.31, 0.32])
    assert [turn.text for turn in turns] == [
        'The video is titled "A film".\n<image>\nScene 1: describe it. What would its replay value be?',
        "red on blue, warm. Replay value: 0.31",
        "<image>\nScene 2: describe it. What would its replay value be?",
        "red on blue, warm. Replay value: 0.32",
        "<image>\nScene 3: describe it. What would its replay value be?",
    ]
    assert begun == "red on blue, warm. Replay value: "
    assert [video.source for video in media] == [(frame,) for frame in one.images]
    assert (film.true, len(film.asked), film.chance) == ((0.3, 1.0, 0.1), 3, pytest.approx(1 / 3))


def test_a_film_is_asked_behind_all_frames_without_any_reaction():
    one = record(template="film_behavior_v1")
    film = heldout_films.of_record(one)
    assert film is not None and isinstance(film.asked, Listed)
    answer = one.conversations[1].text
    assert "67.8%" in answer and "Sandcastle" in answer and "1.00" in answer  # it tells them all
    question, (video,), begun = film.asked.ask([])
    given = f"{question}{begun}"
    assert not any(told in given for told in ("67.8", "Sandcastle", "1.00", "0.3", "0.1"))
    assert begun.endswith(">>> BEHAVIOR <<<\nThe replay values for each scene would be:\nScene 1: ")
    assert begun.startswith("Scene 1: red on blue, warm.\n")
    assert answer.startswith(film.asked.begun + "Scene 1: 0.30\nScene 2: 1.00\nScene 3: 0.10\n")
    assert film.asked.ask([0.3, 1.0])[2] == begun + "0.30\nScene 2: 1.00\nScene 3: "
    assert (film.true, film.asked.scenes, video.source) == ((0.3, 1.0, 0.1), (1, 2, 3), one.images)


@pytest.mark.parametrize(
    "left_out",
    [
        record(graph=(Span(0, 8, 0.5),)),  # flat
        record(graph=GRAPH[:3]),  # nothing is known of the last scene
        record(times=TIMES[:2]),
        record(told=("likes",)),
        replace(record(), clips=()),  # a thumbnail
    ],
)
def test_films_that_decide_nothing_are_left_out(left_out):
    assert heldout_films.of_record(left_out) is None


def test_words_that_tell_reactions_first_are_refused():
    with pytest.raises(UserError, match="tells percent before the replay values"):
        heldout_films.of_record(record(template="video_listing_v1"))


def test_a_folder_without_such_films_is_an_error(tmp_path):
    records.write({"behavior_heldout": [record(told=())]}, tmp_path / "records")
    with pytest.raises(UserError, match="no held-out film with a replay value in each of 3 scenes"):
        heldout_films.load(tmp_path / "records")


@pytest.fixture(scope="module")
def model(tokenizer, tmp_path_factory) -> api.Model:
    asker = make_asker(tmp_path_factory.mktemp("films") / "bert")
    vision = ClipVisionConfig(16, 32, 1, 2, image_size=16, patch_size=4)
    qformer = QFormerConfig(16, 32, 2, 2, vocab_size=len(asker.tokenizer), queries=3, vision_size=16)
    decoder = LlamaConfig(len(tokenizer), 32, 64, 1, 2, max_positions=900)
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = LlamaVidConfig(vision, decoder, image, qformer=qformer)
    return api.Model(config, tiny.random_params(config), tokenizer, "v1_bare", asker=asker)


def test_both_tasks_come_from_one_pass_and_are_what_replay_says(model):
    graphs = (GRAPH, (*GRAPH[:3], Span(5, 8, 0.9)))
    found = [heldout_films.of_record(record(number=n, graph=graph)) for n, graph in enumerate(graphs)]
    films = [film for film in found if film]
    heldout = plaza.Heldout([], [], [], ["calm"], ["food"], films)
    assert heldout.tasks == ["replay", "replay_top"]
    before = plaza._replays.cache_info().misses
    columns = plaza.evaluate(model, heldout)
    assert plaza._replays.cache_info().misses == before + 1
    predicted = replay_asking.expected(model, [film.asked for film in films])
    figures = replay.figures([(p, film.true) for p, film in zip(predicted, films, strict=True)], resamples=10)
    estimates = plaza.estimates(columns)
    assert estimates["replay"].mean == pytest.approx(figures.values["spearman"].mean)
    assert estimates["replay_top"].mean == pytest.approx(figures.values["top_scene"].mean)
    assert heldout.chance()["replay_top"] == pytest.approx(figures.chance)
    assert "replay" not in plaza.Heldout([], [], [], ["calm"], ["food"]).chance()


def test_held_out_reactions_of_films_told_by_turns_are_scored(model, tmp_path):
    """Each replay value in its scene's turn, likes and comments behind them all: as by hand."""
    one = record()
    records.write({"behavior_heldout": [one, record(number=1, told=("replay",))]}, tmp_path / "records")
    heldout = behavior_posts.load(tmp_path / "records", 10)
    assert not heldout.left_out and [set(post.parts) for post in heldout.posts] == [
        {"percent", "comments", "replay"}, {"replay"},
    ]  # fmt: skip
    logs = behavior.open_logs(heldout.posts, lambda name, settings: ItemLog(None, {}))
    behavior.evaluate(model, heldout, logs)
    found = behavior.rows(heldout.posts, logs)
    assert [row["true"] for row in found["replay"]] == [0.3, 1.0, 0.1] * 2
    assert {name: len(rows) for name, rows in found.items()} == {
        "comments": 3, "likes": 1, "replay": 6, "generated": 1,
    }  # fmt: skip
    assert not any("problem" in row for rows in found.values() for row in rows)
    turns, frames = one.conversations, [Video(one.images[n : n + 1]) for n in range(3)]
    scores = model.score(
        [turns[:3]], [frames[:2]], replay_asking.CANDIDATES, "red on blue, warm. Replay value: "
    )
    assert found["replay"][1]["predicted"] == pytest.approx(
        float(behavior.expectation(scores, replay_asking.VALUES, np.gradient(replay_asking.VALUES))[0]),
        abs=1e-5,
    )
    head, _, rest = turns[-1].text.partition('Sandcastle a"\n')
    sums, counts = model.loglikelihood([turns[:-1]], [frames], ['Sandcastle a"\n'], head)
    assert found["comments"][0] == {
        "id": heldout.posts[0].id, "number": 0, "log_probability": pytest.approx(float(sums[0]), abs=1e-4),
        "tokens": int(counts[0]),
    }  # fmt: skip
    assert rest


def test_what_films_tell_is_counted_in_whichever_turn_it_stands():
    told = [record(template=name) for name in ("film_turns_v1", "film_behavior_v1")]
    for one in (*([each] for each in told), told):
        found = evidence.count_told(one, {"likes": "likes", "replay": "replay"})
        assert found == {"posts": len(one), "likes": len(one), "replay": len(one), "comments": 3 * len(one)}


def test_values_within_a_film_by_hand():
    true = np.array([0.2, 1.0, 0.6])
    assert replay.within(np.array([0.1, 0.5, 0.3]), true) == (pytest.approx(1.0), 1.0)
    assert replay.within(np.array([0.3, 0.1, 0.2]), true) == (pytest.approx(-1.0), 0.0)
    assert replay.within(np.array([0.5, 0.5, 0.1]), true)[1] == 0.5  # one of two, at random
    assert replay.within(np.array([0.5, 0.5, 0.5]), true)[0] == 0.0


# --- the experiment --------------------------------------------------------------------------------------------


def config():
    made = get_config("tiny")
    made.update(seeds=1, jobs=1)
    made.prepare.arms = ("ad", "behavior")  # what CLIP and the tokenizer are trained on
    made.films.arms = ("shuffled", "behavior")
    return made


def test_units_are_the_base_once_and_every_arm_and_seed(tmp_path):
    made = config()
    made.seeds = 2
    units = plan(made, tmp_path)
    assert [unit.name for unit in units] == [
        "base-seed0", "shuffled-seed0", "behavior-seed0", "shuffled-seed1", "behavior-seed1",
    ]  # fmt: skip
    assert units[0].command[1:] == ("-m", "jaxllava.films_unit", str(tmp_path), "base", "0")
    assert units[1].result == tmp_path / "films" / "units" / "shuffled-seed0.json"


def test_the_model_takes_the_quickstarts_tower_and_decoder(tokenizer):
    vision = ClipVisionConfig(32, 64, 2, 2, image_size=64, patch_size=16)
    made = LlavaConfig(vision, LlamaConfig(len(tokenizer), 32, 64, 2, 2), 5)
    found = film_model(get_config().films.model, made)
    assert (found.vision, found.decoder, found.feature_layer) == (
        made.vision,
        made.decoder,
        made.feature_layer,
    )
    assert (found.qformer.vocab_size, found.qformer.vision_size, found.image_tokens) == (
        len(tokenizer),
        32,
        5,
    )


def test_the_other_experiment_claims_and_keeps_what_it_did(tmp_path):
    evidence._claim(tmp_path, config())
    assert "films" not in json.loads((tmp_path / "config.json").read_text())
    claimed = json.loads((tmp_path / "evidence_claim.json").read_text())
    assert {key.partition(".")[0] for key in claimed} == {
        "arms", "arm", "finetune", "finetuned", "label_shares", "unfiltered",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "0"], "--seeds 0: at least 1 is needed"),
        (["--only", "3/2"], "--only 3/2: write I/N"),
        (
            ["--config.films.arms=('behavior','reaction')"],
            "config.films.arms: no arm 'reaction'. Did you mean 'reactions'?",
        ),
        (["--config.films.arms=('ad',)"], "'behavior', which the others are compared with"),
        (["--config.films.count=0"], "config.films.count: 0 films; at least 1 is needed"),
    ],
)
def test_a_slip_is_one_line_before_anything_is_drawn(tmp_path, capsys, flags, message):
    workdir = tmp_path / "new"
    with pytest.raises(SystemExit) as stopped:
        cli.main(["evidence", "--films", "--config", "evidence:tiny", "--workdir", str(workdir), *flags])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not workdir.exists()


@pytest.fixture(scope="module")
def results():
    """Results of made-up columns: `behavior` has the order of scenes, all else is alike."""
    rng = np.random.default_rng(0)
    truth = rng.random(40).tolist()
    arms = ("base", *FILM_ARMS)
    units = {}
    for arm in arms:
        for seed in range(3 if arm != "base" else 1):
            right = lambda p, n: [(rng.random(n) < p).astype(float).tolist()]
            columns = {
                "mood": right(0.3, 40),
                "memorability": [rng.random(40).tolist(), truth],
                "replay": [(rng.normal(0.8 if arm == "behavior" else 0.0, 0.1, 25)).tolist()],
                "replay_top": right(0.3, 25),
            }
            units[arm, seed] = {
                "seed": seed,
                "zero_shot": columns,
                "finetuned": {},
                "seconds": {"train": 5.0},
                "facts": {"arm": {"steps": 6, "batch": 2, "rows": 8}},
            }
    found = evidence.Gathered(units, [0, 1, 2], [], "2026-01-02")
    told = {
        arm: dict(posts=9, likes=8, comments=31, replay=0 if arm == "ad" else 7, instruct=9)
        for arm in FILM_ARMS
    }
    chance = {"mood": 1 / 6, "memorability": 0.0, "replay": 0.0, "replay_top": 0.25}
    return {"experiment": "films", **evidence.assemble(found, arms, told, chance, {"units": 60.0}, 2)}


def test_films_are_called_films(results):
    cells = results["arms"]["behavior"]["zero_shot"]
    assert (cells["replay"]["unit"], cells["replay"]["n"]) == ("films, 3 seeds", 25)
    assert (cells["mood"]["unit"], cells["mood"]["n"]) == ("posts, 3 seeds", 40)
    said = evidence_text.markdown(results)
    assert "3 seeds of each arm, 25 held-out films and 40 held-out posts" in said
    assert (
        "| zero-shot | Replay, Spearman's ρ within a film ↑ | Most replayed scene, accuracy ↑ | Mood" in said
    )
    assert [line.split(" |")[0] for line in said.splitlines() if line.startswith("| ")] == [
        "| zero-shot", "| base", "| ad", "| shuffled", "| reactions", "| **behavior**", "| chance",
    ]  # fmt: skip
    assert evidence_text.verdict(results)[0].startswith("On 1 of 4 tasks (replay) training on")
    assert len(results["tests"]["zero_shot"]) == 4 * 4 and results["tests"]["finetuned"] == []
    assert evidence_results.outcome({"mean": 0.2, "holm": 0.04}, True) == "win"


def test_the_page_leaves_out_what_there_is_not(results, tmp_path):
    evidence.publish(results, tmp_path / "films")
    page = (tmp_path / "films.html").read_text()
    assert page.count("<svg") == 4
    assert 'id="paper"' not in page and 'id="ratios"' not in page and 'id="labels"' not in page
    assert "replay graphs</th>" in page and "titles</th>" not in page
    assert "<dt>Replay</dt>" in page and "<dt>unfiltered</dt>" not in page
    assert evidence_text.FILM_ARMS["reactions"][1] in page
    changed = json.loads(json.dumps(results))
    del changed["experiment"], changed["arms"]["reactions"]
    for arm in FILM_ARMS:
        if arm != "reactions":
            changed["arms"][arm]["given"]["titles"] = 0
    evidence_page.write_html(changed, tmp_path / "posts.html")
    assert "Training posts, what" in (tmp_path / "posts.html").read_text()


# A whole run, of the tiny config, takes minutes: tests of it are slow ones.
@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("films")
    with pytest.MonkeyPatch.context() as patch:  # a process compiles as quickly as this one
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        first = evidence_films(config(), workdir, only="3/3")
    assert (first.failed, first.missing, first.results) == ({}, ["base-seed0", "shuffled-seed0"], None)
    for arm in ("base", "shuffled"):  # here, where everything is imported
        films_unit.run(workdir, arm, 0)
    return workdir, evidence_films(config(), workdir)


@pytest.mark.slow
def test_every_arm_is_asked_about_films_and_pictures(run):
    workdir, found = run
    assert (found.failed, found.missing) == ({}, [])
    results = json.loads((workdir / "films.json").read_text())
    assert list(results["arms"]) == ["base", "shuffled", "behavior"]
    for cells in results["arms"].values():
        assert set(cells["zero_shot"]) == set(plaza.TASKS)
        assert all(cell["low"] <= cell["mean"] <= cell["high"] for cell in cells["zero_shot"].values())
    given = results["arms"]["behavior"]["given"]
    assert 0 < given["replay"] <= given["posts"] and given["comments"] > 0
    assert (workdir / "films.md").is_file() and (workdir / "films.html").is_file()
    assert not (workdir / "evidence_claim.json").exists()


@pytest.mark.slow
def test_a_second_run_changes_nothing_and_another_config_is_refused(run):
    workdir, found = run
    files = [*folder_of(workdir).rglob("*.mp4"), *(folder_of(workdir) / "units").glob("*.json")]
    before = {path: path.stat().st_mtime_ns for path in files}
    again = evidence_films(config(), workdir)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert again.results and found.results
    assert again.results["arms"] == found.results["arms"]
    made = config()
    made.films.arm.lr = 1.0
    with pytest.raises(UserError, match=r"another config\.films\.arm\.lr; use a new --workdir"):
        evidence_films(made, workdir)


@pytest.mark.slow
def test_units_of_another_base_are_refused(run):
    workdir, _ = run
    path = evidence_unit.result_of(folder_of(workdir), "shuffled", 0)
    saved = path.read_text()
    path.write_text(json.dumps(json.loads(saved) | {"base": "0123"}))
    with pytest.raises(UserError, match="trained from another base"):
        evidence_films(config(), workdir)
    path.write_text(saved)
