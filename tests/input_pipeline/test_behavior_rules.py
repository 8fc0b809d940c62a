"""The thresholds: the paper's values, what a config may set, and whose thresholds a post meets."""

from __future__ import annotations

import time as clock
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from configs.prepare import get_config
from input_pipeline.behavior.rules import SOURCES, Rules, SourceRules, seconds
from input_pipeline.errors import UserError
from input_pipeline.types import Post


def test_the_papers_values_are_the_defaults() -> None:
    reddit, youtube = Rules().reddit, Rules().youtube
    assert (reddit.created_from, reddit.max_duration, reddit.min_words) == ("2018-01-01", 500.0, 3)
    assert (reddit.similarity, reddit.min_comments, reddit.min_views, reddit.languages) == (0.6, 2, 0, ())
    assert (youtube.min_views, youtube.min_words, youtube.max_words, youtube.similarity) == (
        10_001,
        4,
        100,
        0.7,
    )
    assert (youtube.created_from, youtube.max_duration, youtube.min_comments) == ("", None, 0)
    assert youtube.languages == ("en",)
    assert {"Music", "Gaming", "Sports", "News & Politics"} <= set(youtube.exclude_categories)
    rules = Rules()
    switches = (
        rules.drop_nsfw,
        rules.drop_bots,
        rules.drop_deleted,
        rules.drop_duplicate_media,
        rules.merge_comments,
    )
    assert all((*switches, rules.use_word_list))


def test_the_recipe_shows_every_threshold_with_its_default() -> None:
    shown: Any = get_config().clean
    assert Rules.from_config(shown) == Rules()
    assert set(shown) == {field.name for field in fields(Rules)}
    for source in SOURCES:
        assert set(shown[source]) == {field.name for field in fields(SourceRules)}


def test_what_is_given_replaces_the_default_alone() -> None:
    rules = Rules.from_config({"reddit": {"min_words": 9}, "merge_comments": False})
    assert (rules.reddit.min_words, rules.reddit.min_comments, rules.merge_comments) == (9, 2, False)
    assert rules.reddit == replace(Rules().reddit, min_words=9)
    assert rules.youtube == Rules().youtube
    assert Rules.from_config({}) == Rules()


def test_lists_and_config_dicts_are_taken() -> None:
    given: Any = ConfigDict({"youtube": ConfigDict({"languages": ["en", "de"], "max_duration": None})})
    rules = Rules.from_config(given)
    assert rules.youtube.languages == ("en", "de")
    assert hash(rules) == hash(Rules.from_config({"youtube": {"languages": ("en", "de")}}))
    assert Rules.from_config({"reddit": {"max_duration": None}}).reddit.max_duration is None
    assert Rules.from_config({"reddit": {"max_duration": 60}}).reddit.max_duration == 60


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reddit": {"min_word": 1}}, "clean.reddit.min_word: no such setting. Did you mean 'min_words'?"),
        ({"drop_nsf": True}, "clean.drop_nsf: no such setting. Did you mean 'drop_nsfw'?"),
        ({"redit": {}}, "clean.redit: no such setting. Did you mean 'reddit'?"),
        ({"reddit": {"min_words": "3"}}, "clean.reddit.min_words: must be a number, not '3'"),
        ({"reddit": {"min_words": True}}, "clean.reddit.min_words: must be a number, not True"),
        ({"reddit": {"min_words": None}}, "clean.reddit.min_words: must be a number, not None"),
        ({"hash_distance": "6"}, "clean.hash_distance: must be a number, not '6'"),
        ({"drop_bots": 1}, "clean.drop_bots: must be a bool, not 1"),
        ({"nsfw_words": None}, "clean.nsfw_words: must be a str, not None"),
        ({"youtube": {"languages": "en"}}, "clean.youtube.languages: must be a list of words, not 'en'"),
        ({"youtube": {"languages": 3}}, "clean.youtube.languages: must be a list of words, not 3"),
        ({"other": {"communities": [1]}}, "clean.other.communities: must be a list of words, not [1]"),
        ({"reddit": 3}, "clean.reddit: must hold the source's settings, not 3"),
        ({"reddit": {"created_from": "soon"}}, "'soon' is not a day"),
        ({"other": {"created_until": "2018-13-01"}}, "'2018-13-01' is not a day"),
        ({"evaluation_ids": ["/no/such/file"]}, "/no/such/file: no such file or folder"),
        ({"evaluation_images": ["/no/such/folder"]}, "/no/such/folder: no such file or folder"),
    ],
)
def test_mistakes_are_named_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        Rules.from_config(given)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_evaluation_sets_that_are_there_are_taken(tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.touch()
    rules = Rules.from_config({"evaluation_ids": [str(ids)], "evaluation_images": [str(tmp_path)]})
    assert (rules.evaluation_ids, rules.evaluation_images) == ((str(ids),), (str(tmp_path),))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("reddit", "reddit"),
        ("youtube", "youtube"),
        ("other", "other"),
        ("tiktok", "other"),
        ("drop_nsfw", "other"),
        ("of", "other"),
        ("", "other"),
    ],
)
def test_a_post_meets_the_thresholds_of_its_source(source: str, name: str) -> None:
    rules = Rules()
    assert rules.of(Post("p", source, "t", "f:1")) is getattr(rules, name)


@pytest.mark.parametrize(
    ("day", "time"), [("", None), ("1970-01-01", 0.0), ("1970-01-02", 86400.0), ("2018-01-01", 1514764800.0)]
)
def test_days_begin_in_utc(day: str, time: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC+5")
        clock.tzset()
        seconds.cache_clear()
        found = seconds(day)
    clock.tzset()
    assert found == time
