"""A path in a bucket is one clear line, and no folder of that name."""

from __future__ import annotations

import pytest

from jaxllava import cli

TRAIN = ["train", "--workdir", "run"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["train", "--workdir", "gs://shed/run"], "--workdir gs://shed/run is"),
        ([*TRAIN, "--config.data=gs://shed/data/records"], "--config.data: gs://shed/data/records is"),
        ([*TRAIN, "--config.init=(('.*', 's3://shed/x'),)"], "--config.init: s3://shed/x is"),
        (
            ["generate", "--model", "m", "--prompt", "x", "--image", "gs://shed/a.png"],
            "--image gs://shed/a.png is",
        ),
        (["evaluate", "--checkpoint", "a=gs://shed/m", "--data", "d"], "--checkpoint gs://shed/m is"),
    ],
)
def test_a_path_in_a_bucket_is_refused(words, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert named in told and "launch/tpu.sh" in told and told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_other_words_with_a_colon_are_none(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.main(["train", "--workdir", "a:/gs://x", "--config.template=see gs: //", "--config.data=no"])
    assert "bucket" not in capsys.readouterr().err
