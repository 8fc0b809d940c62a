"""The experiment as a whole, at a size that learns nothing: every unit runs, goes on, and fails alone."""

from __future__ import annotations

import json

import pytest

from configs.evidence import get_config
from input_pipeline import records
from input_pipeline.errors import UserError
from jaxllava import cli, evidence_unit, side_by_side, sweep
from jaxllava.evaluate import plaza
from jaxllava.evidence import evidence, plan

pytestmark = pytest.mark.usefixtures("compiled_quickly")
ARMS = ("behavior", "unfiltered")


def config():
    made = get_config("tiny")
    made.update(arms=ARMS, finetuned=("behavior",), seeds=1, jobs=1, label_shares=(0.2, 1.0))
    made.prepare.arms = ("ad", "behavior")  # ad: what CLIP is trained on
    return made


# A whole run, of the tiny config, takes minutes: tests of it are slow ones.
@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("evidence")
    with pytest.MonkeyPatch.context() as patch:  # a process compiles as quickly as this one
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        first = evidence(config(), workdir, only="3/3")
    assert (first.failed, first.missing, first.results) == ({}, ["base-seed0", "behavior-seed0"], None)
    for arm in ("base", "behavior"):  # here, where everything is imported
        evidence_unit.run(workdir, arm, 0)
    return workdir, evidence(config(), workdir)


@pytest.mark.slow
def test_every_figure_has_its_interval(run):
    workdir, found = run
    assert (found.failed, found.missing) == ({}, [])
    results = json.loads((workdir / "evidence.json").read_text())
    assert list(results["arms"]) == ["base", *ARMS]
    for cells in results["arms"].values():
        assert set(cells["zero_shot"]) == set(plaza.PICTURE_TASKS)
        for group in (cells["zero_shot"], *cells["finetuned"].values()):
            assert all(cell["low"] <= cell["mean"] <= cell["high"] for cell in group.values())
    assert set(results["arms"]["behavior"]["finetuned"]) == {"0.2", "1"}
    assert results["arms"]["unfiltered"]["finetuned"] == {}
    assert len(results["tests"]["zero_shot"]) == 2 * len(plaza.PICTURE_TASKS)
    assert (workdir / "evidence.md").read_text().startswith("Measured 20")
    assert (workdir / "evidence.html").is_file()


@pytest.mark.slow
def test_what_the_arms_were_given_is_counted(run):
    workdir, found = run
    given = {arm: found.results["arms"][arm]["given"] for arm in ARMS}
    posts = records.open_split(workdir / "data", "behavior_train")
    told = [posts[i].conversations[1].text for i in range(len(posts))]
    assert given["behavior"]["posts"] == len(posts) < given["unfiltered"]["posts"]
    assert given["behavior"]["likes"] == sum("liked by" in text for text in told) > 0
    assert given["behavior"]["comments"] == sum(
        line.startswith(f'{number}. "')
        for text in told
        for number in range(1, 6)
        for line in text.splitlines()
    )


@pytest.mark.slow
def test_no_heldout_post_or_picture_is_in_unfiltered_training(run):
    workdir, _ = run
    read = lambda data, split: [
        records.open_split(data, split)[i] for i in range(len(records.open_split(data, split)))
    ]
    heldout = read(workdir / "data", "behavior_heldout")
    trained = read(workdir / "unfiltered", "behavior_train")
    assert not {r.meta["post_id"] for r in heldout} & {r.meta["post_id"] for r in trained}
    assert not {r.images for r in heldout} & {r.images for r in trained}
    texts = [r.conversations[1].text for r in trained]
    assert any("[deleted]" in text or "I am a bot" in text for text in texts)  # nothing was cleaned
    assert not any("[deleted]" in r.conversations[1].text for r in read(workdir / "data", "behavior_train"))


@pytest.mark.slow
def test_labels_are_of_training_posts_alone(run):
    workdir, _ = run
    posts = records.open_split(workdir / "data", "behavior_train")
    known = {posts[i].meta["post_id"] for i in range(len(posts))}
    for share, expected in ((0.2, round(0.2 * len(known))), (1.0, len(known))):
        labels = records.open_split(evidence_unit.labels_of(workdir, share, 0), "labels_train")
        named = [labels[i].meta["post_id"] for i in range(len(labels))]
        assert set(named) <= known
        assert len(named) == 3 * len(set(named)) == 3 * expected


@pytest.mark.slow
def test_a_second_run_changes_nothing(run):
    workdir, found = run
    before = {path: path.stat().st_mtime_ns for path in (workdir / "units").glob("*.json")}
    again = evidence(config(), workdir)
    assert len(before) == 3
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert again.results["arms"] == found.results["arms"]


@pytest.mark.slow
def test_a_unit_that_fails_is_named_and_another_go_mends_it(run, monkeypatch, capsys):
    workdir, _ = run
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    lost = evidence_unit.result_of(workdir, "unfiltered", 0)
    kept = json.loads(lost.read_text())
    lost.unlink()
    damaged = workdir / "units" / "unfiltered-seed0" / "arm" / "train.json"
    whole = damaged.read_text()
    damaged.write_text("{")
    file = workdir / "few.py"
    file.write_text(
        "from tests.jaxllava.test_evidence import config\n\n\ndef get_config():\n    return config()\n"
    )
    command = ["evidence", "--config", str(file), "--workdir", str(workdir), "--jobs", "1"]
    with pytest.raises(SystemExit) as stopped:
        cli.main(command)
    assert stopped.value.code == 1
    said = capsys.readouterr()
    assert "error: unfiltered-seed0: " in said.err and "train.json is damaged" in said.err
    assert "1 units are still to be run: unfiltered-seed0" in said.out
    damaged.write_text(whole)
    evidence_unit.run(workdir, "unfiltered", 0)
    cli.main(command)
    assert "page: " in capsys.readouterr().out
    assert json.loads(lost.read_text())["zero_shot"] == kept["zero_shot"]


@pytest.mark.slow
def test_units_of_another_base_are_refused(run):
    workdir, _ = run
    path = evidence_unit.result_of(workdir, "unfiltered", 0)
    saved = path.read_text()
    path.write_text(json.dumps(json.loads(saved) | {"base": "0123"}))
    with pytest.raises(UserError, match="trained from another base"):
        evidence(config(), workdir)
    path.write_text(saved)


@pytest.mark.slow
def test_a_workdir_belongs_to_its_config(run):
    workdir, _ = run
    made = config()
    made.finetune.steps = 3
    with pytest.raises(UserError, match=r"another config\.finetune\.steps; use a new --workdir"):
        evidence(made, workdir)


def test_units_come_seed_by_seed_and_are_shared_over_machines(tmp_path):
    made = config()
    made.update(seeds=2, finetuned=("base", "behavior"))
    units = plan(made, tmp_path)
    names = [unit.name for unit in units]
    assert names == [f"{arm}-seed{seed}" for seed in (0, 1) for arm in ("base", *ARMS)]
    assert [unit.name for unit in sweep.share(units, "2/3")] == ["behavior-seed0", "behavior-seed1"]
    made.finetuned = ("behavior",)  # the base is asked once
    assert [unit.name for unit in plan(made, tmp_path)].count("base-seed1") == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "0"], "--seeds 0: at least 1 is needed"),
        (["--jobs", "0"], "--jobs 0: at least 1 is needed"),
        (["--jobs", "99"], f"--jobs 99: a number from 1 to {len(side_by_side.cores())}"),
        (["--only", "3/2"], "--only 3/2: write I/N"),
        (["--config.arms=('behavior','adds')"], "config.arms: no arm 'adds'. Did you mean 'ad'?"),
        (["--config.arms=('ad',)"], "'behavior', which the others are compared with"),
        (["--config.label_shares=(2.0,)"], "config.label_shares: 2.0 is not a share"),
        (["--seed", "1"], "'--seed' is not known"),
    ],
)
def test_a_slip_is_one_line_before_anything_is_drawn(tmp_path, capsys, flags, message):
    workdir = tmp_path / "new"
    with pytest.raises(SystemExit) as stopped:
        cli.main(["evidence", "--config", "evidence:tiny", "--workdir", str(workdir), *flags])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not workdir.exists()


@pytest.mark.slow
def test_the_scratch_of_a_finished_unit_is_its_model(run):
    workdir, _ = run
    scratch = workdir / "units" / "behavior-seed0"
    assert (scratch / "arm" / "model").is_dir()
    assert not (scratch / "arm" / "checkpoints").exists() and not list(scratch.glob("labels-*"))
