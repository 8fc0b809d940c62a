"""Flags, settings, and what they open."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from input_pipeline.errors import UserError
from jaxllava.teacher.arguments import add_flags, settings_of
from jaxllava.teacher.open import check, open_teacher
from jaxllava.teacher.settings import Settings


def parsed(words: str, what: str = "teacher") -> Settings:
    parser = argparse.ArgumentParser()
    add_flags(parser, what)
    return settings_of(parser.parse_args(words.split()), what)


def test_flags() -> None:
    assert parsed("--teacher m") == Settings("m")
    words = (
        "--judge m --in-flight 3 --requests-per-minute 4 --tokens-per-minute 5 --timeout 6.5 --price-in 1.5"
    )
    found = parsed(words + " --price-out 2.5 --max-cost 7 --cache kept", "judge")
    assert found == Settings(
        "m", 3, 4, 5, 6.5, price_in=1.5, price_out=2.5, max_cost=7, cache=Path("kept"), flag="--judge-"
    )
    with pytest.raises(UserError, match="--judge is missing"):
        parsed("", "judge")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"model": ""}, "no name"),
        ({"in_flight": 0}, "--in-flight is 0"),
        ({"attempts": 0}, "--attempts is 0"),
        ({"timeout": 0.0}, "--timeout is 0"),
        ({"timeout": float("nan")}, "--timeout is nan"),
        ({"price_in": -1.0}, "--price-in is -1"),
        ({"max_cost": 1.0}, "is no limit without prices"),
    ],
)
def test_values_that_make_no_sense(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Settings(**dict[str, Any](model="m") | wrong)


def test_what_is_opened(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(UserError, match="no key for 'm'"):
        check(Settings("m"))
    for told in (check, open_teacher):
        with pytest.raises(UserError, match="no such folder"):
            told(Settings(f"{tmp_path}/model"))
    with pytest.raises(UserError, match="not a checkpoint"):
        open_teacher(Settings(str(tmp_path)))
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert open_teacher(Settings("org/name")).model == "org/name"
