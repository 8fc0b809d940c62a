from __future__ import annotations

import pytest

from input_pipeline.errors import in_one_line, nearest


def test_the_nearest_name_is_offered_else_all_of_them():
    assert nearest("optimiser", ["optimizer", "steps"]) == " Did you mean 'optimizer'?"
    assert nearest("--temp", ["--help", "--temperature", "--tempo"]) == " Did you mean '--tempo'?"
    assert nearest("--temp", ["--help", "--temperature"]) == " Did you mean '--temperature'?"
    assert nearest("xyz", ["steps", "optimizer"]) == " Valid names: optimizer, steps."


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\n  lines"), "two lines"),
        (ValueError(), "ValueError"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (ValueError("NOT_FOUND: no chunk [tensorstore_spec='{...}']"), "NOT_FOUND: no chunk"),
        (ValueError("x" * 400), "x" * 300 + "..."),
    ],
)
def test_what_a_library_says_goes_into_one_line(error, line):
    assert in_one_line(error) == line
