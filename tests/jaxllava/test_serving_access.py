"""Names of loopback, and Host headers that are none."""

from __future__ import annotations

import pytest

from jaxllava.serving.access import check_host, is_loopback
from jaxllava.serving.errors import RequestError


def test_loopback():
    assert all(map(is_loopback, ("127.0.0.1", "::1", "localhost", "127.8.0.1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "example.org", "10.0.0.1")))


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LocalHost:1", "127.0.0.1", "127.9.8.7:80", "[::1]", "[::1]:8000"]
)
def test_own_hosts(host):
    check_host(host)


@pytest.mark.parametrize(
    "host",
    [
        *(
            "",
            ":8000",
            "evil.example",
            "evil.example:8000",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
        ),
        *(
            "evil.example:127.0.0.1",
            "127.0.0.1@evil.example",
            "localhost:1:2",
            "[::1].evil.example",
            "[::2]:80",
        ),
        *("10.0.0.1:8000", "0.0.0.0:8000", "::1", "[::1]x", "localhost:80a", "localhost, evil.example"),
    ],
)
def test_other_hosts(host):
    with pytest.raises(RequestError, match="is not served") as error:
        check_host(host)
    assert error.value.status == 403
