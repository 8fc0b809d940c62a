"""The command line as a user meets it: one line for a mistake, no traceback."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from input_pipeline.tokenizer import load_tokenizer
from jaxllava import cli


def fail(capsys, *argv: str) -> str:
    """Runs a command that must fail; returns its one line."""
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["quikstart"], "no command is named 'quikstart'. Did you mean 'quickstart'?"),
        (
            ["train", "--workdirr", "x", "--workdir", "y"],
            "'--workdirr' is not known. Did you mean '--workdir'?",
        ),
        (["--verbose"], "'--verbose' is not known"),
        (
            ["train", "--workdir", "README.md/x", "--config.data=/tmp", "--config.base=/"],
            "neither a jaxllava model folder",
        ),
        (["train"], "required: --workdir"),
        (["train", "--workdir", "x", "--config.step=3"], "no config key 'step'. Did you mean 'steps'?"),
        (["train", "--workdir", "x", "--config.steps=many"], "config.steps=many"),
        (["train", "--workdir", "x", "--config.steps", "3"], "write --config.steps=VALUE"),
        (["train", "--workdir", "x", "--config", "trian"], "no file 'trian'. Did you mean 'train'?"),
        (["train", "--workdir", "x", "--config", "train:stage=algn"], "Did you mean 'align'?"),
        (["train", "--workdir", "x"], "set --config.data=DIR"),
        (["train", "--workdir", "x", "--config.data=/nowhere"], "--config.data: /nowhere does not exist"),
        (["generate", "--model", "/nowhere", "--prompt", "x"], "/nowhere: no such model folder"),
        (
            ["generate", "--model", "/", "--prompt", "x", "--image", "/no.png"],
            "--image /no.png does not exist",
        ),
        (["generate", "--model", "/nowhere", "--prompt", "x", "--config.x=1"], "'--config.x' is not known"),
        (["quickstart", "--seeds", "0"], "--seeds 0: at least 1"),
        (["inspect", "sample"], "set --data"),
        (["inspect", "sampel"], "invalid choice"),
        (["prepare", "--out", "x", "--submissions", "RS"], "--submissions needs --media"),
        (["convert", "--from", "/nowhere", "--to", "/"], "exists already"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(capsys, argv, message):
    assert message in fail(capsys, *argv)


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in ("quickstart", "prepare", "train", "evaluate", "generate", "convert", "inspect"):
        assert re.search(rf"\n    {name}\s", text), name


def test_help_does_not_wait_for_jax():
    code = "import sys; from jaxllava import arguments; arguments._parser(); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_whole_sample_can_be_inspected(capsys, plaza):
    where = ["--data", str(plaza / "data/records"), "--tokenizer", str(plaza / "tokenizer")]
    cli.main(["inspect", "sample", *where, "--image-tokens", "4"])
    text = capsys.readouterr().out
    assert "split behavior_train, task behavior, template v1_bare" in text
    assert "<image>  (positions" in text
    lines = text.splitlines()
    answer = next(i for i, line in enumerate(lines) if "ASSISTANT" in line or line.endswith("':'"))
    assert not any("* " in line for line in lines[4:answer]), "nothing of the question is supervised"
    assert any("* '</s>'" in line for line in lines), "the end of the answer is"


def test_the_tokens_of_a_llava_json_can_be_inspected(capsys, plaza, tmp_path):
    turns = [{"from": "human", "value": "What? <image>"}, {"from": "gpt", "value": "Two cups."}]
    rows = [{"id": "a", "image": "x.png", "conversations": turns}, {"id": "b", "conversations": turns[:1]}]
    (tmp_path / "chat.json").write_text(json.dumps(rows))
    where = ["--json", str(tmp_path / "chat.json"), "--tokenizer", str(plaza / "tokenizer")]
    cli.main(["inspect", "tokens", *where, "--template", "v1_bare", "--no-expand"])
    good, bad = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert bad["id"] == "b" and bad["error"] == "conversation does not end with an answer"
    tokenizer = load_tokenizer(plaza / "tokenizer")
    image = good["input_ids"].index(-200)
    assert tokenizer.decode(good["input_ids"][:image]) == "<s>USER: "
    assert tokenizer.decode(good["input_ids"][image + 1 :]) == "\nWhat? ASSISTANT: Two cups.</s>"
    assert tokenizer.decode([label for label in good["labels"] if label != -100]) == " Two cups.</s>"
    cli.main(["inspect", "tokens", *where, "--template", "v1_bare", "--image-tokens", "5"])
    expanded = json.loads(capsys.readouterr().out.splitlines()[0])["input_ids"]
    assert expanded.count(tokenizer.convert_tokens_to_ids("<image>")) == 5
    assert "set --json FILE" in fail(capsys, "inspect", "tokens", *where[2:])


def test_a_data_set_can_be_inspected(capsys, plaza):
    cli.main(["inspect", "data", "--data", str(plaza / "data/records")])
    text = capsys.readouterr().out
    assert "behavior_train" in text
    assert "records" in text


@pytest.mark.parametrize(("name", "said"), [("train", "goes on from here"), ("bench", "interrupted")])
def test_an_interrupt_promises_no_more_than_is_so(capsys, monkeypatch, name, said):
    def stop(args, overrides):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, name, stop)
    with pytest.raises(SystemExit) as exit_:
        cli.main([name, *(["--workdir", "x"] if name == "train" else [])])
    assert exit_.value.code == cli.INTERRUPTED
    assert capsys.readouterr().err.rstrip().endswith(said)
