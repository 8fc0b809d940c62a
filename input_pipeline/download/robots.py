"""What a host's robots.txt allows, and how fast. Read as RFC 9309 has it where urllib.robotparser leaves a choice."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from urllib.parse import urljoin
from urllib.robotparser import RobotFileParser

from input_pipeline.download import http
from input_pipeline.download.fetch import Answer, failure, over
from input_pipeline.download.settings import AGENT, Settings

_MAX_BYTES = 512_000  # the least that RFC 9309 wants read
_MAX_HOPS = 5


class Rules:
    """The rules of one host for us. Without a parser, all is allowed."""

    def __init__(self, parser: RobotFileParser | None = None) -> None:
        self._parser = parser
        self.delay = 0.0  # seconds between two requests
        if parser is not None:
            rate = parser.request_rate(AGENT)
            self.delay = max(
                float(parser.crawl_delay(AGENT) or 0),
                rate.seconds / rate.requests if rate and rate.requests else 0.0,
            )

    def allow(self, url: str) -> bool:
        """Whether the URL may be asked for."""
        return self._parser is None or self._parser.can_fetch(AGENT, url)


def read(client: http.Http, settings: Settings, origin: str, pace: Callable[[str], None]) -> Rules | Answer:
    """Fetches the rules of a host, or says why that failed.

    Args:
        client: sends the requests.
        settings: which redirects may be followed.
        origin: scheme://host:port.
        pace: waits until the named host may be asked again; called before every request but the first.
    """
    url = f"{origin}/robots.txt"
    for hop in range(_MAX_HOPS + 1):
        target = http.target_of(url, settings)
        if isinstance(target, str):
            return Rules()
        if hop:
            pace(target.host)
        with client.limit() as limit:
            try:
                with closing(client.get(target.url, {"Accept": "text/plain, */*;q=0.5"})) as response:
                    code = response.status_code
                    if code == 200:
                        return _parse(response)
                    http.drain(response)
            except http.PrivateAddress:
                if hop == 0:
                    return Answer("refused", "host is not on the public internet", policy=True)
                return Rules()
            except http.FAILURES as error:
                return over(limit) or failure(error)
        if 300 <= code < 400 and response.headers.get("Location"):
            try:
                url = urljoin(target.url, response.headers["Location"])
            except ValueError:
                return Rules()
        elif code == 429 or code >= 500:
            # A host that cannot say what it allows allows nothing for now.
            return Answer("retry", f"HTTP {code} for robots.txt", code, slow=True)
        else:
            return Rules()  # there are no rules; many hosts of files say 403 of what does not exist
    return Rules()


def _parse(response: object) -> Rules:
    text = b""
    for piece in http.body(response):  # type: ignore[arg-type]
        text += piece
        if len(text) > _MAX_BYTES:
            break
    parser = RobotFileParser()
    parser.parse(text[:_MAX_BYTES].decode("utf-8-sig", "replace").splitlines())
    return Rules(parser)
