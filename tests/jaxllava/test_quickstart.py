"""The quickstart as a whole, at a size that learns nothing: every stage runs, and a second run only reads results."""

from __future__ import annotations

import json

import pytest

from configs.quickstart import ARMS, get_config
from input_pipeline.errors import UserError
from jaxllava import api, cli
from jaxllava.evaluate import plaza
from jaxllava.quickstart import quickstart

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("quickstart")
    return workdir, quickstart(get_config("tiny"), workdir)


def test_every_arm_has_every_figure_with_its_interval(run):
    workdir, results = run
    assert set(results["arms"]) == {"base", *ARMS}
    for arm, figures in results["arms"].items():
        assert set(figures) == set(plaza.PICTURE_TASKS), arm
        for figure in figures.values():
            assert figure["low"] <= figure["mean"] <= figure["high"]
            assert figure["n"] > 0
    assert json.loads((workdir / "results.json").read_text())["arms"] == results["arms"]
    assert set(results["seconds"]) >= {"draw", "prepare", "clip", "language", "align", "base", "export"}


def test_the_arms_get_equal_steps_and_posts(run):
    _, results = run
    steps = {results["facts"][arm]["steps"] for arm in ARMS}
    samples = {results["facts"][arm]["samples"] for arm in ("ad", "behavior")}
    assert len(steps) == len(samples) == 1


def test_the_report_stands_alone(run):
    workdir, _ = run
    page = (workdir / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert page.count("data:image/png;base64,") + page.count("data:image/jpeg;base64,") >= 2


def test_the_export_gives_the_same_logits_in_transformers(run):
    pytest.importorskip("torch")  # the quickstart compares where it is installed
    _, results = run
    assert results["export"]["max_logit_difference"] < 2e-5
    assert api.load(results["export"]["path"]).template == "v1_bare"


def test_evaluate_gives_the_quickstart_s_own_figures(run, capsys):
    workdir, results = run
    data = ("--model", str(workdir / "models/base"), "--data", str(workdir / "data"))
    out = workdir / "base.json"
    cli.main(
        ["evaluate", *data, "--gold", str(workdir / "plaza/gold.json"), "--limit", "6", "--json", str(out)]
    )
    figures = json.loads(out.read_text())["checkpoints"]["base"]["figures"]
    expected = results["by_seed"]["base"][0]
    for task in ("mood", "topic", "memorability", "stage2"):
        assert figures[task] == expected[task]
    comment = figures["top_comment_perplexity"]
    assert comment["n"] == expected["comment_perplexity"]["n"]
    assert comment["mean"] == pytest.approx(expected["comment_perplexity"]["mean"], rel=1e-4)
    assert "Top comment, perplexity" in capsys.readouterr().out


@pytest.mark.parametrize("text", [None, "{", "[]", '{"posts": {}}'])
def test_a_gold_file_that_is_none_is_named(run, tmp_path, text):
    workdir, _ = run
    path = tmp_path / "gold.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=r"gold\.json"):
        plaza.load_heldout(workdir / "data", path, 6, 6)


def test_planted_dirt_is_counted(run):
    workdir, results = run
    assert results["quarantine"]["count"] == len((workdir / "data/quarantine.jsonl").read_text().splitlines())
    # So small a corpus has no broken file, but bots and one-word comments.
    assert sum(step["dropped_comments"] for step in results["funnel"]["steps"]) > 0


def test_a_second_run_changes_nothing(run):
    workdir, results = run
    models = {path: path.stat().st_mtime_ns for path in workdir.glob("models/*/train.json")}
    again = quickstart(get_config("tiny"), workdir)
    assert again["arms"] == results["arms"]
    assert models == {path: path.stat().st_mtime_ns for path in models}


def test_a_workdir_belongs_to_its_config(run):
    workdir, _ = run
    config = get_config("tiny")
    config.plaza.posts = 61
    with pytest.raises(UserError, match=r"another config\.plaza\.posts"):
        quickstart(config, workdir)


def test_an_unfinished_drawing_is_drawn_again(tmp_path, monkeypatch):
    from input_pipeline.plaza import write

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    config = get_config("tiny")
    monkeypatch.setattr(write, "_write_texts", interrupt)
    with pytest.raises(KeyboardInterrupt):
        quickstart(config, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr("jaxllava.quickstart.prepare", interrupt)  # what comes after the drawing
    with pytest.raises(KeyboardInterrupt):
        quickstart(config, tmp_path)
    assert (tmp_path / "plaza" / "gold.json").is_file()


def test_moods_and_topics_are_never_named_where_the_base_could_learn_them(run):
    """The evaluation is zero-shot only if no picture ever came with a mood or topic outside the comments."""
    from input_pipeline import records
    from input_pipeline.plaza import world

    workdir, _ = run
    data = workdir / "data" / "records"
    for split in ("caption_train", "instruct_train", "ad_train"):
        source = records.open_split(data, split)
        for number in range(len(source)):
            record = source[number]
            if record.images:
                text = " ".join(turn.text for turn in record.conversations)
                assert not world.FORBIDDEN & set(world.words(text)), (split, record.id, text)
