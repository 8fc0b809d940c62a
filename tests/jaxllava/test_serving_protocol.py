"""What requests are told that ask for more than there is. (`test_serving_app` asks a server.)"""

from __future__ import annotations

import json

import pytest

from jaxllava.serving.errors import RequestError
from jaxllava.serving.protocol import parse


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n": 3}, "'n' is 3; only 1 is supported."),
        ({"logprobs": True}, "'logprobs' is true; only false is supported."),
        ({"tool_choice": "required"}, """'tool_choice' is "required"; only "none" or "auto" is supported."""),
        ({"response_format": {"type": "json_object"}}, '\'response_format\' can only be {"type": "text"}.'),
        ({"reasoning_effort": "x" * 1000}, '\'reasoning_effort\' can only be "none".'),
        ({"tools": [{"type": "function"}]}, "'tools' is not supported."),
        ({"verbosity": "low"}, "'verbosity' is not supported."),
    ],
)  # fmt: skip
def test_what_is_refused_is_told_with_what_is_taken(given, said):
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}]} | given
    with pytest.raises(RequestError) as error:
        parse(json.dumps(body).encode(), "m", 1)
    assert error.value.message == f"{said} Leave it out." and error.value.param in given
