"""What config files are made with: the argument behind a file's name (`train.py:stage=align`), and products."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import Any

from ml_collections import ConfigDict

from input_pipeline.errors import UserError, nearest


def parse(arg: str, *, choices: dict[str, Collection[str]] | None = None, **defaults: Any) -> ConfigDict:
    """`key=value` pairs over typed defaults; a bare `key` sets a bool. Unknown keys and choices are UserErrors."""
    values = ConfigDict(defaults)
    for item in filter(None, (arg or "").split(",")):
        key, given, text = item.partition("=")
        if key not in defaults:
            raise UserError(f"config argument {key!r} is not known.{nearest(key, defaults)}")
        default = defaults[key]
        if not given:
            if not isinstance(default, bool):
                raise UserError(f"config argument {key!r} needs a value: {key}=...")
            values[key] = True
            continue
        try:
            values[key] = text in ("1", "true", "True") if isinstance(default, bool) else type(default)(text)
        except ValueError as error:
            raise UserError(f"config argument {key}={text!r} is not a {type(default).__name__}") from error
    for key, valid in (choices or {}).items():
        if values[key] not in valid:
            raise UserError(
                f"config argument {key}={values[key]!r} is not known.{nearest(str(values[key]), valid)}"
            )
    return values


def product(**values: Sequence[Any]) -> list[dict[str, Any]]:
    """Every combination of the values, as a sweep's list of overrides; the last key changes fastest.

    `product(lr=[1e-3, 1e-4], seed=[0, 1])` is `[{"lr": 1e-3, "seed": 0}, {"lr": 1e-3, "seed": 1}, ...]`. A key with
    dots is given as `**{"evaluate.posts": [...]}`.
    """
    for key, some in values.items():
        if isinstance(some, str) or not len(some):
            raise UserError(f"product({key}=...): a list of at least one value is needed, not {some!r}")
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
