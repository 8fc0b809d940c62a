"""Single HTTP requests to hosts that nobody vouches for.

No redirects are followed here, no cookies kept, no passwords or proxies taken from the environment. A name that
leads to this machine or the local network is refused when it is connected to, not before, so that a name server
cannot change its mind in between. Every request has a deadline that also holds while a read or handshake blocks.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import re
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
import requests.exceptions
import urllib3
import urllib3.connection
import urllib3.connectionpool
import urllib3.exceptions
from requests.adapters import HTTPAdapter
from urllib3.util import parse_url
from urllib3.util.connection import create_connection

from input_pipeline.download.settings import Settings
from input_pipeline.download.wanted import MAX_URL

# What a request may raise because of the network or the other side.
FAILURES = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,
    zlib.error,
)

ENCODINGS = ("", "gzip", "x-gzip", "deflate")

_MAX_ADDRESSES = 3  # of a host that are tried, each for the whole connect timeout
_PIECE = 64 * 1024
_PORT = {"http": 80, "https": 443}
_EMBEDDED = (
    ipaddress.ip_network("64:ff9b::/96"),
    ipaddress.ip_network("64:ff9b:1::/48"),
)  # IPv4 behind NAT64


class PrivateAddress(Exception):
    """The host has no address on the public internet."""


class CutBody(OSError):
    """A body that ends too early."""


@dataclass(frozen=True)
class Target:
    """A URL that may be asked for. `host` is what the pace is kept for."""

    url: str
    host: str
    origin: str  # scheme://host:port


def target_of(url: str, settings: Settings) -> Target | str:
    """Returns the URL in its normal form, or why it is refused without asking anyone."""
    if len(url) > MAX_URL:
        return "URL is too long"
    try:
        scheme = urlsplit(url.strip()).scheme.lower()
        if scheme not in _PORT:
            return "URL is not http or https"
        normal = requests.Request("GET", url.strip()).prepare().url or ""
        parts = parse_url(normal)
    except (
        requests.RequestException,
        urllib3.exceptions.HTTPError,
        ValueError,
    ):  # UnicodeError is a ValueError
        return "URL is not sound"
    host, port = (parts.host or "").lower().rstrip("."), parts.port or _PORT[scheme]
    if not host or parts.scheme != scheme:
        return "URL is not sound"
    if parts.auth:
        return "URL holds a password"
    if port < 1024 and port not in (80, 443):
        return "URL has the port of another service"
    if not settings.allows(host):
        return "host is not among the allowed ones"
    named = host if port in (80, 443) else f"{host}:{port}"
    return Target(normal.partition("#")[0], named, f"{scheme}://{host}:{port}")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, also where it wraps another."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if any(ip in network for network in _EMBEDDED):
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


class Limit:
    """The time that one request has. `over` is '', 'deadline' or 'stopped'."""

    def __init__(self, end: float) -> None:
        self.end, self.over = end, ""
        self.line: socket.socket | None = None  # a second handle of the connection in use
        self.last = (
            False  # the connection gave its own handle up: the answer is still read, then this one goes
        )

    def cut(self, why: str) -> None:
        """Ends the request, also while it waits for the other side."""
        self.over = self.over or why
        line = self.line
        if line is not None:
            # A handle of one's own, so that it holds through TLS handshakes; close alone would not wake a reader.
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def hold(self, line: socket.socket | None) -> None:
        """Takes up another connection, or none."""
        old, self.line = self.line, line
        if self.last and old is not None and old is not line:
            old.close()
        self.last = False


class Http:
    """Sends requests. Threads share it; each has one request at a time."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stopped = False
        self._adapter = _Adapter(self)
        self._limits: set[Limit] = set()
        self._mutex = threading.Lock()
        self._local = threading.local()
        self._verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True

    @contextmanager
    def limit(self) -> Iterator[Limit]:
        """Bounds the time of the requests of this thread inside the block; `sweep` has to be called meanwhile."""
        limit = Limit(time.monotonic() + self.settings.deadline)
        self._local.limit = limit
        with self._mutex:
            self._limits.add(limit)
        if self.stopped:
            limit.cut("stopped")
        try:
            yield limit
        finally:
            self._local.limit = None
            with self._mutex:
                self._limits.discard(limit)
            limit.hold(None)

    def sweep(self) -> None:
        """Cuts the requests whose time is over, and all once `stop` was called."""
        now = time.monotonic()
        with self._mutex:
            limits = list(self._limits)
        for limit in limits:
            if self.stopped or limit.end < now:
                limit.cut("stopped" if self.stopped else "deadline")

    def stop(self) -> None:
        """Ends all requests, now and from now on."""
        self.stopped = True
        self.sweep()

    def get(self, url: str, headers: dict[str, str] | None = None) -> requests.Response:
        """Sends one GET and returns the answer, its body unread. It has to be closed.

        Raises:
            PrivateAddress: the host is not a public one.
            FAILURES: the other side cannot be reached or makes no sense.
        """
        own = {
            "User-Agent": self.settings.user_agent,
            "Accept": "image/*",  # with text/html among it, hosts of pictures send a page around the picture
            "Accept-Encoding": "identity",  # pictures are compressed already, and parts of a gzip are no use
        }
        if "@" in self.settings.contact:
            own["From"] = self.settings.contact
        request = requests.Request("GET", url, headers={**own, **(headers or {})}).prepare()
        timeout = (self.settings.connect_timeout, self.settings.read_timeout)
        return self._adapter.send(request, stream=True, timeout=timeout, verify=self._verify)

    def attach(self, line: socket.socket | None) -> None:
        """Tells the limit of this thread which connection it is about."""
        limit: Limit | None = getattr(self._local, "limit", None)
        if limit is not None:
            limit.hold(line)
            if limit.over:
                limit.cut(limit.over)

    def detach(self, line: socket.socket) -> None:
        """Closes the second handle of a connection that is closed, now or when its last answer has been read."""
        limit: Limit | None = getattr(self._local, "limit", None)
        if limit is not None and limit.line is line:
            limit.last = True
        else:
            line.close()

    def close(self) -> None:
        """Closes all connections."""
        self._adapter.close()


def encoding_of(response: requests.Response) -> str:
    """Returns the Content-Encoding in small letters, '' where the body is as it is. `body` knows ENCODINGS."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


def body(response: requests.Response) -> Iterator[bytes]:
    """Yields the body in pieces of at most 64 KB, decoded, as it comes. Raises FAILURES.

    A few bytes of gzip may stand for gigabytes; they are decoded piece by piece, so the reader may stop.
    """
    decoder = zlib.decompressobj(32 + zlib.MAX_WBITS) if encoding_of(response) else None
    while piece := response.raw.read1(_PIECE, decode_content=False):
        if decoder is None:
            yield piece
            continue
        while piece and not decoder.eof:
            if data := decoder.decompress(piece, _PIECE):  # the head of a gzip gives nothing yet
                yield data
            piece = decoder.unconsumed_tail
    if decoder is not None and not decoder.eof:
        if data := decoder.flush():  # what the last piece had to leave out: less than a piece
            yield data
        if not decoder.eof:
            raise CutBody("the compressed body is cut")


def drain(response: requests.Response) -> None:
    """Reads a short rest of an answer, so that its connection can be used again."""
    length = response.headers.get("Content-Length", "")
    if re.fullmatch(r"\d{1,5}", length) and int(length) <= _PIECE:
        with suppress(*FAILURES):
            while response.raw.read1(_PIECE, decode_content=False):
                pass


class _Adapter(HTTPAdapter):
    """Makes connections that check where they lead and that another thread can cut."""

    def __init__(self, owner: Http) -> None:
        self._owner = owner
        super().__init__(pool_connections=64, pool_maxsize=4, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        owner = self._owner

        class Plain(_Checked, urllib3.connection.HTTPConnection):
            http = owner

        class Secure(_Checked, urllib3.connection.HTTPSConnection):
            http = owner

        class PlainPool(urllib3.connectionpool.HTTPConnectionPool):
            ConnectionCls = Plain  # type: ignore[assignment]

        class SecurePool(urllib3.connectionpool.HTTPSConnectionPool):
            ConnectionCls = Secure  # type: ignore[assignment]

        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}


class _Checked:
    """The part of a connection that resolves and connects."""

    http: Http
    _line: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        me: Any = self
        try:
            found = socket.getaddrinfo(me._dns_host.strip("[]"), me.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            raise urllib3.exceptions.NameResolutionError(me.host, me, error) from error  # type: ignore[arg-type]
        addresses = list(dict.fromkeys(str(row[4][0]) for row in found))
        if not self.http.settings.allow_private:
            addresses = [address for address in addresses if is_public(address)]
        if not addresses:
            raise PrivateAddress(me.host)
        problem: OSError | None = None
        for address in addresses[:_MAX_ADDRESSES]:
            try:
                sock = create_connection((address, me.port), me.timeout, socket_options=me.socket_options)
            except TimeoutError as error:
                problem = error
            except OSError as error:
                problem = problem or error
            else:
                self._line = sock.dup()
                self.http.attach(self._line)
                return sock
        if isinstance(problem, TimeoutError):
            raise urllib3.exceptions.ConnectTimeoutError(me, "the connection timed out") from problem
        raise urllib3.exceptions.NewConnectionError(me, f"no connection: {problem}") from problem

    def request(self, *args: Any, **kwargs: Any) -> Any:
        self.http.attach(self._line)  # the connection may be an old one, used again
        return super().request(*args, **kwargs)  # type: ignore[misc]

    def close(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            self.http.detach(line)
        super().close()  # type: ignore[misc]
