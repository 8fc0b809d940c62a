"""Reads one field out of a decoded JSON object, whatever type the years have given it.

The `as_...` functions take the value itself; those named after the type take an object and a key.
"""

from __future__ import annotations

import html
import math
from datetime import UTC, datetime
from typing import Any

REMOVED_TITLES = ("[removed]", "[deleted]", "[deleted by user]", "[ removed by reddit ]")  # Reddit's marks
_LARGEST = 2**53  # beyond it a float is no longer exact, and no count of people is as large
_LAST_SECOND = 253_402_300_799  # of the year 9999, where calendars end


def as_text(value: Any) -> str | None:
    """Returns the string, with lone surrogates replaced (they cannot be written as UTF-8), else None."""
    if isinstance(value, str):
        return writable(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def writable(value: str) -> str:
    """Returns the text with a question mark for every lone surrogate, as file names in other encodings hold them."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def as_number(value: Any) -> float | None:
    """Returns a finite number given as a number or as a string, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def as_integer(value: Any) -> int | None:
    """Returns a whole number up to 2**53 given as int, float or string, else None."""
    if type(value) is int:
        return value if -_LARGEST <= value <= _LARGEST else None
    number = as_number(value)
    return int(number) if number is not None and abs(number) <= _LARGEST else None


def as_flag(value: Any) -> bool:
    """Returns whether the value says so: as a truth value, 1 or a word. Nothing else (not NaN) is true."""
    return value.strip().lower() in ("true", "1", "yes") if isinstance(value, str) else value in (True,)


def as_time(value: Any) -> float | None:
    """Returns seconds since the epoch, given as a number or as a string; None outside the years 1970 to 9999."""
    number = as_number(value)
    return number if number is not None and 0 <= number <= _LAST_SECOND else None


def as_date(value: Any) -> float | None:
    """Returns seconds since the epoch of ISO 8601 text, or 20210131; UTC where it has no zone, else None."""
    try:
        date = datetime.fromisoformat((as_text(value) or "").strip())
        return as_time((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return None


def text(row: dict[str, Any], key: str) -> str | None:
    """`as_text` of a field, None where it is missing."""
    return as_text(row.get(key))


def number(row: dict[str, Any], key: str) -> float | None:
    """`as_number` of a field, None where it is missing."""
    return as_number(row.get(key))


def integer(row: dict[str, Any], key: str) -> int | None:
    """`as_integer` of a field, None where it is missing."""
    return as_integer(row.get(key))


def flag(row: dict[str, Any], key: str) -> bool:
    """`as_flag` of a field, False where it is missing."""
    return as_flag(row.get(key))


def unescape(value: str) -> str:
    """Returns the text without its HTML escapes; one with an escape beyond all reason comes back as it is."""
    if "&" not in value:
        return value
    try:
        return html.unescape(value)
    except ValueError:  # a character number of thousands of digits
        return value
