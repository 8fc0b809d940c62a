"""`jaxllava evaluate --tasks` and `prepare --task` as users call them."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import pytest

from configs.finetune import get_config
from input_pipeline.errors import UserError
from jaxllava import api
from jaxllava.cli import main
from jaxllava.evaluate import benchmark_table, command
from jaxllava.evaluate.tasks import TASKS
from jaxllava.evaluate.tasks.task import read
from tests.jaxllava.benchmark_fixtures import image_emotion, memorability

pytestmark = pytest.mark.usefixtures("compiled_quickly")
FILE = Path(__file__)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    image_emotion.WRITERS["emotion6"](root)
    memorability.WRITERS["lamem"](root)
    return root


def call(*argv: object) -> int:
    """The exit status."""
    try:
        main([str(word) for word in argv])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_tasks_run_resume_and_print_beside_the_papers(tiny_base, data, tmp_path, capsys):
    given = ("evaluate", "--checkpoint", tiny_base, "--tasks", "emotion6,lamem", "--data-root", data)
    given = (*given, "--out", tmp_path / "out", "--batch-size", 8)
    assert call(*given) == 0
    text = capsys.readouterr().out
    for part in (
        "emotion6",
        "LLaMA-VID",
        "Behavior-LLaVA",
        "49.7",
        "lamem",
        "95 % interval",
        str(tmp_path / "out"),
    ):
        assert part in text
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [r["task"] for r in found["results"]] == ["emotion6", "lamem"]  # the table's order
    before = (tmp_path / "out" / "emotion6" / "answers-0000.jsonl").read_bytes()
    # One task alone: the table is still of both.
    assert call(*given, "--tasks", "lamem") == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["results"][0] == found["results"][0]
    assert "49.7" in capsys.readouterr().out
    assert (
        call(*given, "--tasks", "emotion6", "--setting", "fine-tuned") == 0
    )  # the answers are there: only what stands beside them changes
    said = capsys.readouterr().out
    assert "61.7" in said and "lamem" not in said, "the other one's figure stands beside zero-shot ones"
    assert (tmp_path / "out" / "emotion6" / "answers-0000.jsonl").read_bytes() == before
    # Answers of another type of weights stand in no table with these.
    path = tmp_path / "out" / "lamem" / "result.json"
    path.write_text(path.read_text().replace('"type of weights": "float32"', '"type of weights": "bfloat16"'))
    assert call(*given, "--tasks", "emotion6") == 0
    assert "lamem" not in capsys.readouterr().out.partition("answers, submissions")[0]
    path.write_text("{")
    assert call(*given, "--tasks", "emotion6") == 2
    assert "lamem/result.json cannot be read" in capsys.readouterr().err


def test_tasks_without_data_are_named_and_the_others_run(tiny_base, data, tmp_path, capsys):
    given = (
        "evaluate",
        "--checkpoint",
        tiny_base,
        "--tasks",
        "emotion6,memcat",
        "--data-root",
        data,
        "--limit",
        2,
    )
    assert call(*given, "--out", tmp_path / "out", "--batch-size", 4) == 1
    said = capsys.readouterr()
    assert "error: task memcat: " in said.err and "memcat" in said.err and "emotion6" in said.out
    assert "questions were drawn (--limit)" in said.out
    assert call("evaluate", "--checkpoint", tiny_base, "--tasks", "memcat", "--data-root", data) == 2
    assert "none of the tasks is ready" in capsys.readouterr().err


def test_a_missing_picture_is_named_and_ends_with_1(tiny_base, data, tmp_path, capsys):
    (lost,) = read(TASKS["emotion6"], data).items[0].media
    assert isinstance(lost, Path)
    held = lost.read_bytes()
    lost.unlink()
    try:
        given = ("evaluate", "--checkpoint", tiny_base, "--tasks", "emotion6", "--data-root", data)
        assert call(*given, "--out", tmp_path / "out", "--batch-size", 8) == 1
        assert "1 not answered, not scored: media" in capsys.readouterr().out
    finally:
        lost.write_bytes(held)
    assert call(*given, "--out", tmp_path / "out", "--batch-size", 8) == 0


def test_too_large_a_batch_is_one_line(tiny_base, data, tmp_path, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore")

    monkeypatch.setattr(api.Model, "score", full)
    given = ("evaluate", "--checkpoint", tiny_base, "--tasks", "emotion6", "--data-root", data)
    assert call(*given, "--out", tmp_path / "out", "--batch-size", 8) == 2
    error = capsys.readouterr().err
    assert "too small for --batch-size 8" in error and "Traceback" not in error


def test_numbers_have_one_minus():
    assert benchmark_table.number(TASKS["lamem"], -0.5) == "−0.500"
    assert benchmark_table.number(TASKS["lamem"], -2565.84) == "−2565.8"


def test_n_is_what_the_figure_is_over():
    figure = {"mean": 0.0, "low": 0.0, "high": 0.0, "n": 1, "unit": "items"}
    result = {
        "task": "hvu_object", "setting": "zero-shot", "figures": {"object": figure}, "no figures": "", "failures": [],
        "questions": 8, "asked": 8, "scored": 8, "not answered": {}, "rejected": {}, "problems": {},
    }  # fmt: skip
    row = benchmark_table.table([result], TASKS).splitlines()[2]
    assert row.split("[0.0, 0.0]")[1].split()[0] == "1"


def test_the_list(data, capsys):
    assert call("evaluate", "--list") == 0
    assert "tasks. With --data-root" in capsys.readouterr().out
    assert call("evaluate", "--list", "--tasks", "image_emotion,lamem", "--data-root", data) == 0
    text = capsys.readouterr().out
    assert "2 of 5 tasks are ready" in text and "imageemotion.org" in text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "set --tasks NAMES"),
        (("--tasks", "emotion7", "--data-root", "."), "Did you mean 'emotion6'"),
        (("--tasks", "emotion6"), "set --data-root DIR"),
        (("--tasks", "emotion6", "--data-root", "nowhere"), "--data-root nowhere: no such folder"),
        (("--tasks", "emotion6", "--data-root", "."), "set --checkpoint DIR, one; 0 were given"),
        (("--tasks", "emotion6", "--data-root", ".", "--setting", "tuned"), "--setting 'tuned': one of"),
        (("--tasks", "emotion6", "--data-root", ".", "--batch-size", "0"), "--batch-size 0"),
        (("--tasks", "emotion6", "--data-root", ".", "--frames", "-1"), "--frames -1"),
        (("--tasks", "emotion6", "--data-root", ".", "--limit", "-2"), "--limit -2"),
        (("--tasks", "emotion6", "--data", "."), "are two commands"),
        (("--tasks", "emotion6", "--data-root", ".", "--checkpoint", ".", "--out", FILE), "is a file"),
        (("--data", "."), "set --checkpoint"),
        (("--data", ".", "--checkpoint", ".", "--restart"), "--restart is for --tasks"),
        (("--data", ".", "--checkpoint", ".", "--dtype", "float32"), "--dtype is for --tasks"),
        (("--data", ".", "--checkpoint", ".", "--batch-size", "4"), "--batch-size is for --tasks"),
    ],
)
def test_mistakes_are_one_line(flags, said, capsys):
    assert call("evaluate", *flags) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1


def test_reactions_run_in_one_process(monkeypatch, capsys):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    assert call("evaluate", "--data", ".", "--checkpoint", ".") == 2
    assert "runs in one process" in capsys.readouterr().err


def test_a_checkpoint_may_be_named_or_have_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1e-3").mkdir()
    assert command._checkpoint("lr=1e-3") == Path("lr=1e-3")
    assert command._checkpoint("mine=lr=1e-3") == Path("lr=1e-3")
    assert command._checkpoint("somewhere") == Path("somewhere")
    # The default --out: runs' models are all called the same.
    assert command._name(Path("/runs/a/model")) == "a" and command._name(Path("/models/llava")) == "llava"


def test_answers_do_not_go_into_the_model(tiny_base, data, capsys):
    given = ("evaluate", "--checkpoint", tiny_base, "--tasks", "emotion6", "--data-root", data)
    assert call(*given, "--out", tiny_base / "evaluation") == 2
    assert "lies in the model's folder" in capsys.readouterr().err and not (tiny_base / "evaluation").exists()


def test_tasks_without_stories_are_named_and_the_others_run(tiny_base, data, tmp_path, capsys):
    given = ("evaluate", "--checkpoint", tiny_base, "--tasks", "emotion6,lamem", "--data-root", data)
    given = (*given, "--out", tmp_path / "out", "--batch-size", 8, "--setting", "zero-shot with story")
    assert call(*given) == 2
    assert "none of the tasks is ready" in capsys.readouterr().err
    told = [{"id": item.id, "story": "A dog."} for item in read(TASKS["emotion6"], data).items]
    path = data / "emotion6" / "stories.jsonl"
    path.write_text("\n".join(map(json.dumps, told)))
    try:
        assert call(*given) == 1
        said = capsys.readouterr()
        assert "error: task lamem: --setting" in said.err and "emotion6" in said.out
        (result,) = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
        assert result["answered"] == result["asked"] == len(told)
    finally:
        path.unlink()


def test_a_training_split_becomes_records(data, tmp_path, capsys):
    assert call("prepare", "--task", "lamem", "--data-root", data, "--out", tmp_path / "lamem") == 0
    text = capsys.readouterr().out
    assert "instruct_train" in text and "configs/finetune.py:task=lamem" in text
    assert call("prepare", "--task", "lamen", "--data-root", data, "--out", tmp_path / "x") == 2
    assert "Did you mean 'lamem'" in capsys.readouterr().err
    assert call("prepare", "--task", "iapsa", "--data-root", data, "--out", tmp_path / "x") == 2
    assert "no training split" in capsys.readouterr().err
    assert "left out: 0 that cannot be used" in text and str(tmp_path / "lamem" / "quarantine.jsonl") in text
    assert call("prepare", "--task", "lamem", "--data-root", data, "--out", FILE) == 2
    assert "is a file" in capsys.readouterr().err
    for flags, message in (
        (("--task", "lamem", "--data-root", data, "--chat", FILE), "--chat is for posts"),
        (("--task", "lamem", "--data-root", data, "--config.seed=1"), "--config.seed=1 is for posts"),
        (("--chat", FILE, "--data-root", data), "--data-root is for a benchmark's training split"),
    ):
        assert call("prepare", "--out", tmp_path / "x", *flags) == 2
        assert message in capsys.readouterr().err


def test_every_trained_task_has_a_config():
    config = get_config("task=lamem,frames=8")
    assert (
        config.stage == "instruct" and config.steps == 0 and config.row_images == 8 and config.template == ""
    )
    with pytest.raises(UserError, match="no task with a training split"):
        get_config("task=iapsa")
    with pytest.raises(UserError, match="image_tokens=7"):
        get_config("task=lamem,image_tokens=7")
