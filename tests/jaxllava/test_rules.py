"""Ordered (regex, value) rules."""

from __future__ import annotations

import numpy as np
import pytest

from input_pipeline.errors import UserError
from jaxllava import rules

PATHS = ["vision/a", "decoder/b", "decoder/c"]


def test_first_match_wins():
    assert rules.match([("decoder/b", 1), ("decoder/.*", 2), (".*", 3)], PATHS, "x") == {
        "vision/a": 3,
        "decoder/b": 1,
        "decoder/c": 2,
    }


def test_an_unmatched_parameter_is_an_error_that_names_it():
    with pytest.raises(UserError, match=r"no rule of lr matches vision/a"):
        rules.match([("decoder/.*", 1)], PATHS, "lr")


def test_an_unused_rule_is_an_error_that_names_it():
    with pytest.raises(UserError, match="projector"):
        rules.match([(".*", 1), ("projector/.*", 2)], PATHS, "lr")


def test_a_regex_matches_whole_paths_only():
    with pytest.raises(UserError, match="no rule"):
        rules.match([("decoder", 1), ("vision/.*", 1)], PATHS, "lr")


def test_split_and_merge_are_inverse():
    tree = {"a": {"x": np.ones(2), "y": np.zeros(1)}, "b": np.ones(3)}
    inside, outside = rules.split(tree, {"a/x": True, "a/y": False, "b": True})
    assert set(rules.flatten(inside)) == {"a/x", "b"}
    assert set(rules.flatten(outside)) == {"a/y"}
    merged = rules.merge(inside, outside)
    assert rules.flatten(merged).keys() == rules.flatten(tree).keys()
