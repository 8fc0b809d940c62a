"""The argument string behind a config file's name: `configs/train.py:stage=align,res=224`."""

from __future__ import annotations

from collections.abc import Collection
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
