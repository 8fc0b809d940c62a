"""Reads one field out of a decoded JSON object, whatever type the years have given it."""

from __future__ import annotations

import math
from typing import Any


def text(row: dict[str, Any], key: str) -> str | None:
    """Returns the string, with lone surrogates replaced (they cannot be written as UTF-8), else None."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value).encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else str(value)


def number(row: dict[str, Any], key: str) -> float | None:
    """Returns a finite number given as a number or as a string, else None."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def integer(row: dict[str, Any], key: str) -> int | None:
    """Returns a whole number given as int, float or string, else None."""
    value = number(row, key)
    return None if value is None else int(value)


def flag(row: dict[str, Any], key: str) -> bool:
    """Returns whether the field is true, also where it is written as 1 or 'true'."""
    value = row.get(key)
    return value.strip().lower() in ("true", "1") if isinstance(value, str) else bool(value)
