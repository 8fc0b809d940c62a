"""Who may ask: a key where there is one, and on loopback without one nobody but this machine's own programs."""

from __future__ import annotations

import hmac
import ipaddress
import re

from jaxllava.serving.errors import RequestError

KEY = "JAXLLAVA_API_KEY"
_HOST = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(:\d*)?", re.ASCII)


def is_loopback(host: str) -> bool:
    """Whether this names the machine itself: localhost, 127.x.x.x, ::1."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_host(header: str) -> None:
    """RequestError for a Host header that is not a name of loopback, with any port.

    A page's own name may be made to point to 127.0.0.1 once a browser has loaded it (DNS rebinding). To the browser the
    server then is that page's own, which may post JSON and read answers; the Host header still has the page's name.
    """
    found = _HOST.fullmatch(header.strip())
    if found is None or not is_loopback(found[1].strip("[]")):
        raise RequestError(
            f"Host {header[:80]!r} is not served: this server is for programs of its own machine. Ask localhost or "
            f"127.0.0.1, or start it with {KEY} set.",
            None,
            "host_not_allowed",
            403,
        )


def check_key(header: str, key: bytes) -> None:
    """RequestError for an Authorization header that does not have the key."""
    scheme, _, given = header.partition(" ")
    if scheme.lower() == "bearer" and hmac.compare_digest(
        given.strip().encode(errors="surrogateescape"), key
    ):
        return
    raise RequestError("Incorrect API key provided.", None, "invalid_api_key", 401)
