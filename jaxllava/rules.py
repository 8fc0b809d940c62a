"""Every per-parameter policy is an ordered list of (regex, value): first match wins, and nothing is left over."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from flax import traverse_util

from input_pipeline.errors import UserError

Value = TypeVar("Value")
Params = dict[str, Any]


def flatten(params: Params) -> dict[str, Any]:
    """Nested dict to `{"decoder/layers/attn/q_proj/kernel": leaf}`."""
    return traverse_util.flatten_dict(params, sep="/")  # type: ignore[return-value]


def unflatten(flat: dict[str, Any]) -> Params:
    return traverse_util.unflatten_dict(flat, sep="/")


def match(rules: Sequence[tuple[str, Value]], paths: Iterable[str], policy: str) -> dict[str, Value]:
    """Gives each path the value of the first rule whose regex matches it whole.

    A path that no rule matches and a rule that matches no path are both errors: the first leaves a parameter without
    a policy, the second is a policy that silently does nothing. `policy` names the list in the message.
    """
    compiled = [(re.compile(pattern), value) for pattern, value in rules]
    used = [False] * len(compiled)
    values: dict[str, Value] = {}
    unmatched: list[str] = []
    for path in paths:
        for index, (pattern, value) in enumerate(compiled):
            if pattern.fullmatch(path):
                used[index] = True
                values[path] = value
                break
        else:
            unmatched.append(path)
    if unmatched:
        raise UserError(
            f"no rule of {policy} matches {', '.join(unmatched[:5])}"
            f"{f' and {len(unmatched) - 5} more' if len(unmatched) > 5 else ''}; add one, e.g. ('.*', ...)"
        )
    unused = [pattern for (pattern, _), hit in zip(rules, used, strict=True) if not hit]
    if unused:
        raise UserError(
            f"rules of {policy} that match no parameter (or stand behind one that does): {unused}"
        )
    return values


def split(params: Params, chosen: dict[str, bool]) -> tuple[Params, Params]:
    """Splits a tree into (chosen, others) by path."""
    flat = flatten(params)
    inside = {path: leaf for path, leaf in flat.items() if chosen[path]}
    outside = {path: leaf for path, leaf in flat.items() if not chosen[path]}
    return unflatten(inside), unflatten(outside)


def merge(first: Params, second: Params) -> Params:
    """Joins two trees with disjoint leaves."""
    return unflatten({**flatten(first), **flatten(second)})
