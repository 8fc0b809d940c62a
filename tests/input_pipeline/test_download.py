"""The download step against a server that misbehaves."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import itertools
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from input_pipeline.download import fetch as download_fetch
from input_pipeline.download import http as download_http
from input_pipeline.download import log as download_log
from input_pipeline.download import robots as download_robots
from input_pipeline.download import run as step
from input_pipeline.download.run import Settings, Summary, Wanted, download, unwanted_reason, wanted_of
from input_pipeline.download.wanted import TYPES, safe_name, stem_of, stored_name
from input_pipeline.errors import UserError
from input_pipeline.sources import media

_CONTACT = "someone@example.org"


def _picture(kind: str = "JPEG", size: int = 40, seed: int = 0) -> bytes:
    noise = random.Random(seed).randbytes(size * size * 3)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (size, size), noise).save(buffer, kind)
    return buffer.getvalue()


_JPEG = _picture()
_BIG = _picture(size=300)
_ETAG = '"v1"'

Handler = http.server.BaseHTTPRequestHandler


class _Server:
    """`pages` maps a path to what is done for the n-th request of it; '*' is for all others."""

    def __init__(self) -> None:
        self.pages: dict[str, Callable[[Any, int], None]] = {"/robots.txt": _status(404)}
        self.asked: list[tuple[float, str, dict[str, str]]] = []
        self.clients: set[tuple[str, int]] = set()
        server = self

        class Answering(Handler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                count = sum(path == asked for _, asked, _ in server.asked)
                server.asked.append((time.monotonic(), path, dict(self.headers)))
                server.clients.add(self.client_address)
                page = server.pages.get(path) or server.pages.get("*") or _status(404)
                page(self, count)

            def log_message(self, *_: object) -> None: ...

        class Listening(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: object) -> None: ...  # a client that leaves is what is tested

        self.http = Listening(("127.0.0.1", 0), Answering)
        self.port = self.http.server_address[1]
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def paths(self, robots: bool = False) -> list[str]:
        return [path for _, path, _ in self.asked if robots or path != "/robots.txt"]

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server() -> Iterator[_Server]:
    it = _Server()
    yield it
    it.close()


def _send(handler: Any, body: bytes = b"", code: int = 200, /, **headers: str) -> None:
    handler.send_response(code)
    for name, value in {"Content_Length": str(len(body)), **headers}.items():
        if value:
            handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()


def _status(code: int, body: bytes = b"", **headers: str) -> Callable[[Any, int], None]:
    return lambda handler, _: _send(handler, body, code, **headers)


def _file(body: bytes = _JPEG, **headers: str) -> Callable[[Any, int], None]:
    return _status(200, body, **headers)


def _then(*pages: Callable[[Any, int], None]) -> Callable[[Any, int], None]:
    """The first page for the first request, and so on; the last for all that follow."""
    return lambda handler, count: pages[min(count, len(pages) - 1)](handler, count)


def _cut(body: bytes, at: int, **headers: str) -> Callable[[Any, int], None]:
    """Breaks off in the middle."""

    def page(handler: Any, _: int) -> None:
        handler.send_response(200)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body[:at])
        handler.wfile.flush()
        handler.close_connection = True

    return page


def _partial(body: bytes) -> Callable[[Any, int], None]:
    """Sends the rest of the file, if the file is meant."""

    def page(handler: Any, _: int) -> None:
        start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if handler.headers["If-Range"] != _ETAG:
            _send(handler, body, ETag=_ETAG)
            return
        span = f"bytes {start}-{len(body) - 1}/{len(body)}"
        _send(handler, body[start:], 206, ETag=_ETAG, Content_Range=span)

    return page


def _settings(**changes: Any) -> Settings:
    base: dict[str, Any] = dict(
        contact=_CONTACT, requests_per_second=500.0, backoff=0.01, allow_private=True, respect_robots=False
    )
    return Settings(**{**base, **changes})


def _get(server: _Server, folder: Path, *paths: str, **changes: Any) -> Summary:
    wanted = [Wanted(server.url(path), media.url_name(path)) for path in paths]
    return download(wanted, folder, _settings(**changes))


def _log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "download.jsonl").read_text().splitlines()]


def _pictures(folder: Path) -> list[str]:
    return sorted(
        path.name for path in folder.iterdir() if path.name != "download.jsonl" and path.name[0] != "."
    )


# Names and links


@settings(deadline=None)
@given(st.text(max_size=400) | st.text("./\\ abc\0\ud800é", max_size=30))
def test_any_name_becomes_one_safe_component(name: str) -> None:
    safe = safe_name(name)
    assert safe_name(safe) == safe
    assert len(safe.encode()) <= 180
    assert not set(safe) & set('/\\<>:"|?*\0\n') and not safe.startswith((".", " ")) and safe != ".."
    for kind in TYPES:
        stored = stored_name(safe or "x", kind)
        assert stored.lower().endswith(media.IMAGE_SUFFIXES)
        assert len(f"{stored}.part.json".encode()) <= 255


def test_names_keep_what_they_can() -> None:
    assert safe_name("a b.é.jpg") == "a b.é.jpg"
    assert safe_name("../../etc/passwd") == "passwd"
    assert safe_name("..") == safe_name("a/") == safe_name("") == ""
    assert safe_name("C:\\x\\con.jpg") == "_con.jpg"
    long = safe_name("x" * 500 + ".png")
    assert long.endswith(".png") and long != safe_name("x" * 501 + ".png")
    assert stored_name("a.jpeg", "jpeg") == "a.jpeg" and stored_name("a.JPG", "png") == "a.png"
    assert stored_name("Mr. X vs. 2.0", "gif") == "Mr. X vs. 2.0.gif"


@pytest.mark.parametrize(
    ("link", "url", "name"),
    [
        ("https://i.redd.it/abc1.png", "https://i.redd.it/abc1.png", "abc1.png"),
        (
            "https://preview.redd.it/abc1.png?width=9&amp;auto=webp&amp;s=f",
            "https://i.redd.it/abc1.png",
            "abc1.png",
        ),
        (
            "https://preview.redd.it/my-cat-v0-abc1.jpeg?auto=webp",
            "https://i.redd.it/abc1.jpeg",
            "my-cat-v0-abc1.jpeg",
        ),
        (
            "https://external-preview.redd.it/q_-.jpg?s=1&amp;x=2",
            "https://external-preview.redd.it/q_-.jpg?s=1&x=2",
            "q_-.jpg",
        ),
        ("http://imgur.com/AbCde", "https://i.imgur.com/AbCde.jpg", "AbCde.jpg"),
        ("http://m.imgur.com/AbCdefg.png", "https://i.imgur.com/AbCdefg.png", "AbCdefg.png"),
        ("http://i.imgur.com/AbCde.gifv", "https://i.imgur.com/AbCde.jpg", "AbCde.jpg"),
        ("https://i.imgur.com/AbCde", "https://i.imgur.com/AbCde.jpg", "AbCde.jpg"),
        ("HTTP://x.org/a/B%20c.JPG?q=1", "HTTP://x.org/a/B%20c.JPG?q=1", "B c.JPG"),
        ("https://i.stack.imgur.com/a.png", "https://i.stack.imgur.com/a.png", "a.png"),
    ],
)
def test_links_to_pictures(link: str, url: str, name: str) -> None:
    assert wanted_of(link) == Wanted(url, name)
    assert unwanted_reason(link) == ""
    # A reader looks for the last component of the link.
    assert stem_of(media.url_name(link.replace("&amp;", "&"))) == stem_of(name)


@pytest.mark.parametrize(
    "link",
    [
        "https://www.youtube.com/watch?v=dQw4w9WgXcQ&t=3",
        "https://youtu.be/dQw4w9WgXcQ?si=1",
        "https://m.youtube.com/shorts/dQw4w9WgXcQ",
        "https://www.youtube-nocookie.com/embed/dQw4w9WgXcQ",
        "http://www.youtube.com/attribution_link?a=1&amp;u=%2Fwatch%3Fv%3DdQw4w9WgXcQ%26feature%3Dshare",
    ],
)
def test_links_to_youtube_are_thumbnails(link: str) -> None:
    assert wanted_of(link) == Wanted("https://i.ytimg.com/vi/dQw4w9WgXcQ/hqdefault.jpg", "dQw4w9WgXcQ.jpg")


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        ("", "link is not http or https"),
        ("file:///etc/passwd.jpg", "link is not http or https"),
        ("https://[::1/a.jpg", "link is not a URL"),
        ("https://imgur.com/a/AbCde", "link to an album"),
        ("https://imgur.com/gallery/AbCde", "link to an album"),
        ("https://imgur.com/AbCde,fGhij", "link to a page of imgur that is no picture"),
        ("https://www.youtube.com/user/x", "link to a page of YouTube that is no video"),
        ("https://www.youtube.com/watch?v=../../etc", "link to a page of YouTube that is no video"),
        ("https://v.redd.it/abc", "link to a video or to a picture that is not read"),
        ("https://x.org/a.mp4", "link to a video or to a picture that is not read"),
        ("https://x.org/", "link names no file"),
        ("https://www.reddit.com/r/pics/comments/1/x", "link to a page"),
        ("https://x.org/" + "a" * 5000 + ".jpg", "link is too long"),
    ],
)
def test_other_links_are_counted_by_reason(link: str, reason: str) -> None:
    assert wanted_of(link) is None
    assert unwanted_reason(link) == reason


_LINKS = st.sampled_from(
    ["https://youtu.be/", "http://imgur.com/", "https://i.redd.it/", "https://x.org/", ""]
)


@settings(deadline=None)
@given(_LINKS, st.text(max_size=60))
def test_no_link_is_too_broken(start: str, rest: str) -> None:
    found = wanted_of(start + rest)
    assert (found is None) == bool(unwanted_reason(start + rest))
    url = found.url if found else start + rest
    target = download_http.target_of(url, _settings())
    assert isinstance(target, str) or target.url.startswith(("http://", "https://"))
    download_log.url_key(url)


# Settings


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "contact"),
        ({"contact": "me"}, "contact"),
        ({"contact": "a@b.org\r\nX: y"}, "contact"),
        ({"contact": _CONTACT, "timeout": 3}, "no such setting"),
        ({"contact": _CONTACT, "reads_timeout": 3}, "Did you mean 'read_timeout'"),
        ({"contact": _CONTACT, "retries": "4"}, "retries='4' is not a whole number"),
        ({"contact": _CONTACT, "retries": True}, "retries=True"),
        ({"contact": _CONTACT, "max_bytes": -1}, "max_bytes"),
        ({"contact": _CONTACT, "deadline": float("nan")}, "deadline"),
        ({"contact": _CONTACT, "requests_per_second": 0}, "above 0"),
        ({"contact": _CONTACT, "allowed_hosts": "redd.it"}, "allowed_hosts='redd.it' is not a list"),
    ],
)
def test_settings_that_make_no_sense_are_named(config: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        Settings.from_config(config)
    assert "\n" not in str(error.value)


def test_settings_from_a_config() -> None:
    chosen = Settings.from_config(
        {"contact": "https://x.org/me", "allowed_hosts": ["redd.it"], "max_files": 3}
    )
    assert chosen.allows("i.redd.it") and not chosen.allows("xredd.it") and chosen.max_files == 3
    assert "jaxllava" in chosen.user_agent and "https://x.org/me" in chosen.user_agent


def test_nothing_is_asked_without_a_contact(server: _Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="contact"):
        _get(server, tmp_path / "a", "/a.jpg", contact="")
    assert not server.asked and not (tmp_path / "a").exists()


# What comes of a URL


def test_pictures_are_stored_under_a_true_suffix_and_found(server: _Server, tmp_path: Path) -> None:
    server.pages = {"/a.jpg": _file(), "/b.jpg": _file(_picture("PNG")), "/c": _file(_picture("WEBP"))}
    summary = _get(server, tmp_path, "/a.jpg", "/b.jpg", "/c")
    assert summary.counts == {"ok": 3} and summary.hosts == 1 and not summary.stopped
    assert _pictures(tmp_path) == ["a.jpg", "b.png", "c.webp"]
    library = media.of_folder(tmp_path, tmp_path / "index")
    assert all(library.find(name) for name in ("a.jpg", "b.jpg", "c"))
    rows = {row["name"]: row for row in _log(tmp_path)}
    assert rows["b.png"]["type"] == "png" and rows["b.png"]["http"] == 200
    assert rows["a.jpg"]["bytes"] == len(_JPEG) == (tmp_path / "a.jpg").stat().st_size
    assert rows["a.jpg"].keys() == {
        "url", "name", "status", "http", "bytes", "sha256", "type", "reason", "time",
    }  # fmt: skip
    headers = server.asked[0][2]
    assert _CONTACT in headers["User-Agent"] and headers["Accept-Encoding"] == "identity"
    assert "Cookie" not in headers and "Authorization" not in headers
    assert len(server.clients) == 1  # one connection was used again


_PAGE = b"<!DOCTYPE html><html><body>Nothing here</body></html>"
_MP4 = b"\0\0\0\x18ftypmp42" + bytes(600)


@pytest.mark.parametrize(
    ("page", "status", "reason"),
    [
        (_status(404), "gone", "HTTP 404"),
        (_status(410), "gone", "HTTP 410"),
        (_status(451), "gone", "HTTP 451"),
        (_file(b""), "gone", "empty file"),
        (_file(_PAGE), "gone", "a page in place of the picture"),
        (_file(b"<div>gone</div>", Content_Type="text/html"), "gone", "a page in place of the picture"),
        (_file(ETag='"d835884373f4d6c8f24742ceabe74946"'), "gone", "placeholder of a removed picture"),
        (_status(302, Location="//i.imgur.com/removed.png"), "gone", "placeholder of a removed picture"),
        (_status(403), "refused", "HTTP 403"),
        (_file(_MP4), "refused", "not a picture that is read"),
        (_file(b"<svg xmlns='...'/>"), "refused", "not a picture that is read"),
        (_file(_JPEG, Content_Encoding="br"), "refused", "an encoding that was not asked for"),
        (_status(302, Location="file:///etc/passwd"), "refused", "redirect: URL is not http or https"),
        (_status(302, Location="http://[::1"), "failed", "redirect to what is no URL"),
        (_status(302), "failed", "HTTP 302"),
        (_status(500), "failed", "HTTP 500"),
        (_cut(_JPEG, 600), "failed", "file was cut on its way"),
        (lambda handler, _: handler.wfile.write(b"nonsense\r\n\r\n"), "failed", "connection broke"),
    ],
)
def test_each_outcome(server: _Server, tmp_path: Path, page: Any, status: str, reason: str) -> None:
    server.pages["/a.jpg"] = page
    summary = _get(server, tmp_path, "/a.jpg", retries=1)
    assert [(row["status"], row["reason"]) for row in _log(tmp_path)] == [(status, reason)]
    assert summary.counts == {status: 1} and summary.reasons == {(status, reason): 1}
    assert _pictures(tmp_path) == []
    asked = len(server.paths())
    assert asked == (2 if status == "failed" and not reason.startswith(("redirect", "HTTP 302")) else 1)
    # Only what failed is asked for again.
    again = _get(server, tmp_path, "/a.jpg", retries=0)
    assert len(server.paths()) == asked + (status == "failed")
    assert again.known == ({} if status == "failed" else {status: 1})


def test_a_known_placeholder_is_gone(server: _Server, tmp_path: Path) -> None:
    server.pages["/a.jpg"] = _file()
    mark = hashlib.md5(_JPEG).hexdigest()
    assert _get(server, tmp_path, "/a.jpg", placeholders=(mark,)).counts == {"gone": 1}
    assert _pictures(tmp_path) == []


def test_an_error_that_passes(server: _Server, tmp_path: Path) -> None:
    server.pages["/a.jpg"] = _then(_status(500), _cut(_JPEG, 100), _file())
    assert _get(server, tmp_path, "/a.jpg").counts == {"ok": 1}
    assert len(server.asked) == 3 and (tmp_path / "a.jpg").read_bytes() == _JPEG


def test_retry_after_is_kept(server: _Server, tmp_path: Path) -> None:
    server.pages["/a.jpg"] = _then(_status(429, Retry_After="1"), _file())
    server.pages["/b.jpg"] = _file()
    assert _get(server, tmp_path, "/a.jpg", "/b.jpg").counts == {"ok": 2}
    assert server.paths()[0] == "/a.jpg" and len(server.asked) == 3
    # The whole host is left alone meanwhile.
    assert server.asked[1][0] - server.asked[0][0] > 0.95


def test_retry_after_forms() -> None:
    assert download_fetch.retry_after("17", 0) == 17
    assert download_fetch.retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 10) == 50
    assert download_fetch.retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 100) == 0
    for broken in (None, "", "soon", "-5", "9" * 50, "Thu, 99 Foo 1970"):
        assert download_fetch.retry_after(broken, 0) is None


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_host_that_wants_a_long_wait_is_left_alone(server: _Server, tmp_path: Path, form: str) -> None:
    date = format_datetime(datetime.fromtimestamp(time.time() + 9999, UTC), usegmt=True)
    server.pages["*"] = _status(503, Retry_After="9999" if form == "seconds" else date)
    summary = _get(server, tmp_path, "/a.jpg", "/b.jpg", "/c.jpg")
    assert len(server.asked) == 1 and summary.counts == {"failed": 3}


def test_a_host_that_cannot_be_reached_is_left_alone(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    wanted = [Wanted(f"http://127.0.0.1:{port}/{n}.jpg", f"{n}.jpg") for n in range(20)]
    summary = download(wanted, tmp_path, _settings(retries=1, host_failures=6, backoff=0.001))
    assert summary.counts == {"failed": 20}
    reasons = [row["reason"] for row in _log(tmp_path)]
    assert reasons.count("no connection to the host") <= 6
    assert reasons.count("host failed too often in a row") >= 14


def test_a_host_that_is_overloaded_for_long_is_left_alone(server: _Server, tmp_path: Path) -> None:
    server.pages["*"] = _status(429)
    summary = _get(server, tmp_path, *(f"/{n}.jpg" for n in range(20)), retries=2, host_failures=7)
    assert len(server.asked) == 7 and summary.counts == {"failed": 20}


# Parts of files


def test_a_cut_file_goes_on_where_it_stopped(server: _Server, tmp_path: Path) -> None:
    server.pages["/a.jpg"] = _then(_cut(_BIG, 50_000, ETag=_ETAG), _partial(_BIG))
    assert _get(server, tmp_path, "/a.jpg").counts == {"ok": 1}
    assert server.asked[1][2]["Range"] == "bytes=50000-"
    assert (tmp_path / "a.jpg").read_bytes() == _BIG and _pictures(tmp_path) == ["a.jpg"]
    assert _log(tmp_path)[0]["sha256"] == hashlib.sha256(_BIG).hexdigest()


def test_a_later_run_goes_on_with_a_part(server: _Server, tmp_path: Path) -> None:
    server.pages["/a.jpg"] = _then(_cut(_BIG, 50_000, ETag=_ETAG), _partial(_BIG))
    assert _get(server, tmp_path, "/a.jpg", retries=0).counts == {"failed": 1}
    assert _get(server, tmp_path, "/a.jpg").counts == {"ok": 1}
    assert server.asked[1][2]["Range"] == "bytes=50000-" and (tmp_path / "a.jpg").read_bytes() == _BIG


@pytest.mark.parametrize(
    "second",
    [
        _file(_BIG, ETag='"v2"'),  # the file changed
        _status(416),
        _status(206, _BIG[7:], Content_Range=f"bytes 7-{len(_BIG) - 1}/{len(_BIG)}"),
        _status(206, _BIG[50_000:]),
    ],
)
def test_a_part_that_does_not_fit_is_begun_anew(server: _Server, tmp_path: Path, second: Any) -> None:
    server.pages["/a.jpg"] = _then(_cut(_picture(size=301), 50_000, ETag=_ETAG), second, _file(_BIG))
    assert _get(server, tmp_path, "/a.jpg").counts == {"ok": 1}
    assert (tmp_path / "a.jpg").read_bytes() == _BIG and _pictures(tmp_path) == ["a.jpg"]


def test_without_a_strong_mark_a_part_is_not_trusted(server: _Server, tmp_path: Path) -> None:
    server.pages["/a.jpg"] = _then(_cut(_BIG, 50_000, ETag='W/"v1"'), _file(_BIG))
    assert _get(server, tmp_path, "/a.jpg").counts == {"ok": 1}
    assert "Range" not in server.asked[1][2]


# Limits


def _without_length(body: bytes, **headers: str) -> Callable[[Any, int], None]:
    def page(handler: Any, _: int) -> None:
        handler.close_connection = True
        _send(handler, body, Content_Length="", Connection="close", **headers)

    return page


def test_no_content_length(server: _Server, tmp_path: Path) -> None:
    server.pages["/whole.jpg"] = _without_length(_BIG)
    server.pages["/cut.jpg"] = _without_length(_BIG[:40_000])
    summary = _get(server, tmp_path, "/whole.jpg", "/cut.jpg", retries=1)
    assert summary.counts == {"ok": 1, "failed": 1} and _pictures(tmp_path) == ["whole.jpg"]


def _endless(piece: bytes, **headers: str) -> Callable[[Any, int], None]:
    def page(handler: Any, _: int) -> None:
        handler.close_connection = True
        _send(handler, _JPEG[:100], Content_Length="", **headers)
        while True:
            handler.wfile.write(piece)

    return page


@pytest.mark.parametrize(
    "page",
    [_file(_BIG), _without_length(_BIG), _endless(bytes(10_000)), _file(_BIG, Content_Length="9" * 15)],
)
def test_what_is_too_large_is_refused(server: _Server, tmp_path: Path, page: Any) -> None:
    server.pages["/a.jpg"] = page
    assert _get(server, tmp_path, "/a.jpg", max_bytes=50_000).counts == {"refused": 1}
    assert _pictures(tmp_path) == [] and _log(tmp_path)[0]["reason"] == "larger than max_bytes"
    # It stays so under the same limit; under another one it is looked at again.
    assert _get(server, tmp_path, "/a.jpg", max_bytes=50_000).known == {"refused": 1}
    server.pages["/a.jpg"] = _file(_BIG)
    assert _get(server, tmp_path, "/a.jpg", max_bytes=500_000).counts == {"ok": 1}


def test_a_gzip_bomb_is_bounded(server: _Server, tmp_path: Path) -> None:
    bomb = gzip.compress(_JPEG + bytes(200_000_000), compresslevel=1)
    assert len(bomb) < 1_000_000
    server.pages["/bomb.jpg"] = _file(bomb, Content_Encoding="gzip")
    server.pages["/a.jpg"] = _file(gzip.compress(_BIG), Content_Encoding="gzip")
    server.pages["/cut.jpg"] = _file(gzip.compress(_BIG)[:-20_000], Content_Encoding="gzip")
    tracemalloc.start()
    summary = _get(server, tmp_path, "/bomb.jpg", "/a.jpg", "/cut.jpg", max_bytes=1_000_000, retries=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert summary.counts == {"refused": 1, "ok": 1, "failed": 1} and peak < 10_000_000
    assert (tmp_path / "a.jpg").read_bytes() == _BIG and _pictures(tmp_path) == ["a.jpg"]


def _drip(handler: Any, headers_too: bool = False, more: str = "") -> None:
    handler.close_connection = True
    text = f"HTTP/1.1 200 OK\r\nContent-Length: {len(_BIG)}\r\nETag: {_ETAG}\r\n{more}".encode()
    if not headers_too:
        handler.wfile.write(text + b"\r\n")
        text = _BIG
    for at in range(0, len(text), 20):
        handler.wfile.write(text[at : at + 20])
        handler.wfile.flush()
        time.sleep(0.02 if not headers_too else 0.2)


@pytest.mark.parametrize(
    ("headers_too", "more"),
    [(False, ""), (False, "Connection: close\r\n"), (True, "")],
)
def test_a_slow_drip_meets_the_deadline(
    server: _Server, tmp_path: Path, headers_too: bool, more: str
) -> None:
    server.pages["/a.jpg"] = _then(lambda handler, _: _drip(handler, headers_too, more), _partial(_BIG))
    server.pages["/b.jpg"] = _file()
    began = time.monotonic()
    summary = _get(server, tmp_path, "/a.jpg", "/b.jpg", deadline=0.3)
    assert time.monotonic() - began < 1.5
    assert summary.reasons == {("failed", "took longer than the deadline"): 1} and summary.counts["ok"] == 1
    if not headers_too:  # what came is not lost
        assert _get(server, tmp_path, "/a.jpg").counts == {"ok": 1}
        assert "Range" in server.asked[-1][2] and (tmp_path / "a.jpg").read_bytes() == _BIG


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
def test_a_silent_server_meets_the_deadline(server: _Server, tmp_path: Path, connection: str) -> None:
    free = threading.Event()

    def page(handler: Any, _: int) -> None:
        _cut(_BIG, 5000, Connection=connection)(handler, 0)
        free.wait(5)

    server.pages["/a.jpg"] = page
    began = time.monotonic()
    summary = _get(server, tmp_path, "/a.jpg", deadline=0.2)
    free.set()
    assert summary.reasons == {("failed", "took longer than the deadline"): 1}
    assert time.monotonic() - began < 2


def test_limits_of_a_run(server: _Server, tmp_path: Path) -> None:
    server.pages["*"] = _file()
    paths = [f"/{n}.jpg" for n in range(20)]
    summary = _get(server, tmp_path, *paths, max_files=7)
    assert summary.counts == {"ok": 7} and len(_pictures(tmp_path)) == 7 == len(server.asked)
    assert "max_files" in summary.stopped and "stopped early: max_files" in summary.text()
    summary = _get(server, tmp_path, *paths, max_total_bytes=3 * len(_JPEG))
    assert 2 <= summary.counts["ok"] <= 3 and "max_total_bytes" in summary.stopped
    summary = _get(server, tmp_path, *paths)
    assert not summary.stopped and len(_pictures(tmp_path)) == 20


# Where requests may lead


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433", "127.1", "[::ffff:127.0.0.1]"]
)
def test_this_machine_is_not_asked(server: _Server, tmp_path: Path, host: str) -> None:
    server.pages["*"] = _file()
    for robots in (False, True):
        summary = download(
            [Wanted(server.url("/a.jpg", host), "a.jpg")],
            tmp_path / str(robots),
            _settings(allow_private=False, retries=0, respect_robots=robots),
        )
        assert summary.counts["ok"] == 0 and not server.asked
        # Some ways to write an address are not even looked up.
        assert summary.reasons in (
            {("refused", "host is not on the public internet"): 1},
            {("refused", "URL is not sound"): 1},
            {("failed", "host name is not known"): 1},
        )


def test_a_redirect_into_the_local_network_is_refused(
    server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.pages["/a.jpg"] = _status(302, Location=server.url("/secret.jpg", "localhost"))
    server.pages["/secret.jpg"] = _file()
    # 127.0.0.1 passes for public here, 127.0.0.1 under the name localhost does not.
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *args, **more: resolve("127.0.0.2" if host == "localhost" else host, *args, **more),
    )
    monkeypatch.setattr(download_http, "is_public", lambda address: address == "127.0.0.1")
    summary = _get(server, tmp_path, "/a.jpg", allow_private=False)
    assert summary.reasons == {("refused", "host is not on the public internet"): 1}
    assert server.paths() == ["/a.jpg"]


_PRIVATE = """
    10.0.0.1 127.0.0.9 169.254.169.254 172.16.3.4 192.168.1.1 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255
    :: ::1 fe80::1%lo fc00::1 ::ffff:10.0.0.1 64:ff9b::7f00:1 2002:7f00:1:: ff02::1
"""


@pytest.mark.parametrize("address", _PRIVATE.split())
def test_private_addresses(address: str) -> None:
    assert not download_http.is_public(address)


def test_public_addresses() -> None:
    for address in ("8.8.8.8", "151.101.1.140", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"):
        assert download_http.is_public(address)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/passwd", "URL is not http or https"),
        ("ftp://x.org/a.jpg", "URL is not http or https"),
        ("//x.org/a.jpg", "URL is not http or https"),
        ("http://", "URL is not sound"),
        ("http://x.org:99999/a.jpg", "URL is not sound"),
        ("http://\ud800/a.jpg", "URL is not sound"),
        ("http://me:secret@x.org/a.jpg", "URL holds a password"),
        ("http://x.org:22/a.jpg", "URL has the port of another service"),
        ("http://x.org/" + "a" * 5000, "URL is too long"),
        ("http://other.org/a.jpg", "host is not among the allowed ones"),
        ("http://other.org\\@x.org/a.jpg", "host is not among the allowed ones"),
    ],
)
def test_urls_that_are_refused_unasked(tmp_path: Path, url: str, reason: str) -> None:
    only = _settings(allowed_hosts=("x.org",))
    assert download([Wanted(url, "a.jpg")] * 2, tmp_path, only).reasons == {("refused", reason): 1}
    assert download([Wanted(url, "a.jpg")], tmp_path, only).known == {"refused": 1}
    assert len(_log(tmp_path)) == 1 and len((tmp_path / "download.jsonl").read_bytes()) < 1000


def test_redirects(server: _Server, tmp_path: Path) -> None:
    server.pages["/a.jpg"] = _status(301, Location="/é/b.jpg".encode().decode("latin-1"))
    server.pages["/%C3%A9/b.jpg"] = _file()
    server.pages["/loop.jpg"] = _status(302, Location="/loop.jpg")
    summary = _get(server, tmp_path, "/a.jpg", "/loop.jpg")
    assert summary.reasons == {("refused", "too many redirects"): 1} and summary.counts["ok"] == 1
    assert server.paths().count("/loop.jpg") == 6 and _pictures(tmp_path) == ["a.jpg"]


def test_a_redirect_to_a_host_that_is_not_allowed(server: _Server, tmp_path: Path) -> None:
    server.pages["/a.jpg"] = _status(302, Location=server.url("/b.jpg", "localhost"))
    summary = _get(server, tmp_path, "/a.jpg", allowed_hosts=("127.0.0.1",))
    assert summary.reasons == {("refused", "redirect: host is not among the allowed ones"): 1}
    assert server.paths() == ["/a.jpg"]


# Politeness


def test_the_pace_of_a_host(server: _Server, tmp_path: Path) -> None:
    server.pages["*"] = _file()
    server.pages["/3.jpg"] = _then(_status(500), _file())
    server.pages["/4.jpg"] = _status(302, Location="/x.jpg")
    hosts = ("127.0.0.1", "localhost")
    wanted = [Wanted(server.url(f"/{n}.jpg", host), f"{host}{n}.jpg") for n in range(10) for host in hosts]
    began = time.monotonic()
    summary = download(wanted, tmp_path, _settings(requests_per_second=25.0))
    spent = time.monotonic() - began
    assert summary.counts == {"ok": 20} and summary.hosts == 2
    for host in hosts:
        times = [at for at, _, headers in server.asked if headers["Host"].startswith(host)]
        gaps = [after - before for before, after in itertools.pairwise(times)]
        # 40 ms apart as they are sent; a busy machine may see one late, and so the next one early.
        assert sum(gaps) > 0.04 * len(gaps) - 0.02 and min(gaps) > 0.015
    assert spent < 1.2  # the hosts do not wait for each other


def test_connections_per_host(server: _Server, tmp_path: Path) -> None:
    under_way, most = [0], [0]
    mutex = threading.Lock()

    def page(handler: Any, _: int) -> None:
        with mutex:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        time.sleep(0.03)
        with mutex:
            under_way[0] -= 1
        _send(handler, _JPEG)

    server.pages["*"] = page
    _get(server, tmp_path / "1", *(f"/{n}.jpg" for n in range(8)))
    assert most == [1]
    _get(server, tmp_path / "3", *(f"/{n}.jpg" for n in range(8)), connections_per_host=3)
    assert most == [3]


_ROBOTS = b"User-agent: *\nDisallow: /\n\nUser-agent: jaxllava\nDisallow: /private/\nRequest-rate: 4/1\n"


def test_robots_are_respected(server: _Server, tmp_path: Path) -> None:
    server.pages = {"/robots.txt": _file(_ROBOTS), "*": _file()}
    paths = ("/a.jpg", *(f"/private/{n}.jpg" for n in range(20)), "/c.jpg")
    summary = _get(server, tmp_path, *paths, respect_robots=True)
    assert summary.reasons == {("refused", "robots.txt does not allow it"): 20} and summary.seconds < 2
    assert server.paths(robots=True) == ["/robots.txt", "/a.jpg", "/c.jpg"]
    times = [at for at, _, _ in server.asked]
    assert min(after - before for before, after in itertools.pairwise(times)) > 0.2
    assert _get(server, tmp_path, *paths, respect_robots=True).known == {"ok": 2, "refused": 20}
    # Who does not want to follow robots.txt gets what was refused for it.
    assert _get(server, tmp_path, *paths).counts == {"ok": 20}


def test_the_pace_that_robots_ask_for(server: _Server, tmp_path: Path) -> None:
    server.pages = {"/robots.txt": _file(b"User-agent: *\nCrawl-delay: 7\n"), "*": _file()}
    client = download_http.Http(_settings())
    rules = download_robots.read(client, _settings(), server.url(""), lambda host: None)
    client.close()
    assert isinstance(rules, download_robots.Rules) and rules.delay == 7 and rules.allow(server.url("/a.jpg"))
    summary = _get(server, tmp_path, "/a.jpg", respect_robots=True, max_wait=5.0)
    assert summary.reasons == {("failed", "robots.txt asks for a longer wait than max_wait"): 1}


def test_robots_that_cannot_be_had(server: _Server, tmp_path: Path) -> None:
    server.pages = {"/robots.txt": _then(_status(500), _status(403)), "*": _file()}
    assert _get(server, tmp_path / "a", "/a.jpg", "/b.jpg", respect_robots=True).counts == {"ok": 2}
    assert server.paths(robots=True) == ["/robots.txt", "/robots.txt", "/a.jpg", "/b.jpg"]
    server.pages["/robots.txt"] = _status(500)
    summary = _get(server, tmp_path / "b", "/a.jpg", "/b.jpg", "/c.jpg", respect_robots=True, retries=1)
    assert summary.counts == {"failed": 3} and len(server.paths()) == 2


def test_robots_elsewhere(server: _Server, tmp_path: Path) -> None:
    server.pages = {"/robots.txt": _status(301, Location="/r.txt"), "/r.txt": _file(_ROBOTS), "*": _file()}
    summary = _get(server, tmp_path, "/private/a.jpg", respect_robots=True)
    assert summary.counts == {"refused": 1} and server.paths() == ["/r.txt"]


def test_a_server_that_closes_after_each_answer(server: _Server, tmp_path: Path) -> None:
    def page(handler: Any, count: int) -> None:
        handler.close_connection = True
        _send(handler, _JPEG, **({"Connection": "close"} if count % 2 else {}))

    server.pages["*"] = page
    assert _get(server, tmp_path, *(f"/{n}.jpg" for n in range(6)), retries=2).counts == {"ok": 6}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl for a certificate")
def test_tls(server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=x"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    server.pages["*"] = _file()
    server.pages["/slow.jpg"] = lambda handler, _: _drip(handler)
    wanted = [
        Wanted(server.url(path).replace("http:", "https:"), path[1:])
        for path in ("/a.jpg", "/b.jpg", "/slow.jpg")
    ]
    summary = download(wanted[:1], tmp_path / "a", _settings())
    assert summary.reasons == {("failed", "certificate of the host is not valid"): 1} and not server.asked
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(cert))
    began = time.monotonic()
    summary = download(wanted, tmp_path / "a", _settings(deadline=0.4))
    assert summary.counts == {"ok": 2, "failed": 1} and len(server.clients) == 1
    assert summary.reasons == {("failed", "took longer than the deadline"): 1}
    assert time.monotonic() - began < 2
    summary = download(wanted[:1], tmp_path / "b", _settings(allow_private=False))
    assert summary.reasons == {("refused", "host is not on the public internet"): 1}


# Many and few


def test_one_slow_host_neither_fills_the_memory_nor_stalls_others(server: _Server, tmp_path: Path) -> None:
    free = threading.Event()

    def slow(handler: Any, _: int) -> None:
        free.wait(10)
        _send(handler, _JPEG)

    server.pages = {"*": slow, "/quick.jpg": _file()}
    taken = [0]
    seen: list[int] = []
    sent: list[int] = []

    def wanted() -> Iterator[Wanted]:
        for n in range(5):
            yield Wanted(server.url(f"/quick.jpg?{n}", "localhost"), f"quick{n}.jpg")
        for n in range(100_000):
            taken[0] += 1
            yield Wanted(server.url(f"/{n}.jpg"), f"{n}.jpg")

    def progress(done: int, total: int, note: str) -> None:
        seen.append(done)
        # All of the other host; or it will never be.
        if not sent and ((done == 5 and len(seen) > 3) or time.monotonic() > end):
            sent.append(done)
            os.kill(os.getpid(), signal.SIGINT)

    end = time.monotonic() + 5
    tracemalloc.start()
    summary = download(wanted(), tmp_path, _settings(queue=50), progress)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    free.set()
    assert summary.counts == {"ok": 5} and summary.stopped == "interrupted"
    assert taken[0] <= 52 and peak < 4_000_000


def test_all_hosts_together_are_bounded(tmp_path: Path) -> None:
    taken = [0]

    def wanted() -> Iterator[Wanted]:
        for n in range(100_000):  # nobody listens there, so all hosts are waited for
            taken[0] += 1
            yield Wanted(f"http://127.9.{n // 250}.{n % 250}:9999/{n}.jpg", f"{n}.jpg")

    def progress(done: int, total: int, note: str) -> None:
        if total >= 50 and time.monotonic() > end and not sent:
            sent.append(total)
            os.kill(os.getpid(), signal.SIGINT)

    sent: list[int] = []
    end = time.monotonic() + 0.3
    summary = download(wanted(), tmp_path, _settings(queue=5, backoff=100.0), progress)
    assert summary.stopped == "interrupted" and summary.counts == {} and taken[0] <= 52


def test_a_part_is_of_one_url(tmp_path: Path) -> None:
    (tmp_path / "a.jpg.part").write_bytes(b"abc")
    (tmp_path / "a.jpg.part.json").write_text(json.dumps({"url": "http://x.org/1", "validator": _ETAG}))
    assert download_fetch.Part(tmp_path, "a.jpg", "http://x.org/1").headers() == {
        "Range": "bytes=3-",
        "If-Range": _ETAG,
    }
    for note in (None, "[]", '{"url": "http://x.org/1"}', "{", '{"url":"http://x.org/1","validator":3}'):
        assert download_fetch.Part(tmp_path, "a.jpg", "http://x.org/2").headers() == {}
        if note is not None:
            (tmp_path / "a.jpg.part.json").write_text(note)
            assert download_fetch.Part(tmp_path, "a.jpg", "http://x.org/1").headers() == {}


def test_a_long_input_takes_flat_memory(tmp_path: Path) -> None:
    wanted = (Wanted(f"ftp://x.org/{n}.jpg", f"{n}.jpg") for n in range(5000))
    download([], tmp_path / "warm", _settings())
    tracemalloc.start()
    summary = download(wanted, tmp_path / "a", _settings())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert summary.counts == {"refused": 5000} and peak < 1_000_000
    assert len(_log(tmp_path / "a")) == 5000


def test_a_url_is_asked_once_and_gets_all_its_names(server: _Server, tmp_path: Path) -> None:
    server.pages["*"] = _file()
    url = server.url("/a.jpg")
    server.pages["/z.jpg"] = _status(404)
    _get(server, tmp_path, "/z.jpg")
    server.asked.clear()
    wanted = [Wanted(url, "a.jpg"), Wanted(url, "a.jpg"), Wanted(url + "#x", "b"), Wanted(url, "c.png")]
    summary = download(wanted, tmp_path, _settings())
    assert server.paths() == ["/a.jpg"] and _pictures(tmp_path) == ["a.jpg", "b.jpg", "c.jpg"]
    assert summary.counts == {"ok": 3} and summary.known == {"repeated": 1}
    (tmp_path / "c.jpg").unlink()
    summary = download([*wanted, Wanted(url, "d.jpg")], tmp_path, _settings())
    assert server.paths() == ["/a.jpg"] and _pictures(tmp_path) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    # A name that is another's is not given to it, and it is none the worse for that.
    assert download([Wanted(url, "z.jpg")], tmp_path, _settings()).counts == {"refused": 1}
    assert download(wanted[:1], tmp_path, _settings()).known == {"ok": 1}
    # What is taken away altogether is asked for again.
    for path in tmp_path.glob("?.jpg"):
        path.unlink()
    assert download(wanted, tmp_path, _settings()).counts == {"ok": 3} and len(server.paths()) == 2


def test_a_name_belongs_to_one_url(server: _Server, tmp_path: Path) -> None:
    server.pages = {"/1/a.jpg": _status(404), "/2/a.png": _file(), "/3/a": _file()}
    summary = _get(server, tmp_path, "/1/a.jpg", "/2/a.png", "/3/a")
    # Else a post whose picture is gone would be given another's.
    assert summary.counts == {"gone": 1, "refused": 2} and server.paths() == ["/1/a.jpg"]
    assert _get(server, tmp_path, "/2/a.png", "/1/a.jpg").known == {"gone": 1, "refused": 1}
    assert _get(server, tmp_path, "/4/a.jpg").counts == {"refused": 1} and len(server.paths()) == 1


def test_what_lies_in_the_folder_is_not_asked_for(server: _Server, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"mine")
    assert _get(server, tmp_path, "/a.jpg").known == {"there": 1}
    assert not server.asked and (tmp_path / "a.png").read_bytes() == b"mine"


def test_nothing_that_is_wanted_has_no_name(tmp_path: Path) -> None:
    summary = download([Wanted("http://x.org/", "..")], tmp_path, _settings())
    assert summary.reasons == {("refused", "no name to store it under"): 1}


# The log, and runs that end early


def test_a_torn_line_is_repaired(server: _Server, tmp_path: Path) -> None:
    server.pages["/a.jpg"] = server.pages["/b.jpg"] = _file()
    _get(server, tmp_path, "/a.jpg")
    path = tmp_path / "download.jsonl"
    whole = path.read_bytes()
    for torn in (b'{"url": "http', b"x" * 10_000):
        path.write_bytes(whole + b'garbage\n[1]\n{"url":3}\n' + torn)
        (tmp_path / "b.jpg").unlink(missing_ok=True)
        assert _get(server, tmp_path, "/a.jpg", "/b.jpg").known == {"ok": 1}
        lines = path.read_bytes().splitlines()
        assert len(lines) == 5 and json.loads(lines[-1])["name"] == "b.jpg"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=60) | st.builds(lambda v: json.dumps(v).encode(), st.dictionaries(
    st.sampled_from(["url", "name", "status", "policy", "reason"]),
    st.sampled_from(["ok", "gone", "http://x.org/\ud800", "../../a", "\ud800", ""]) | st.integers() | st.none(),
)), max_size=5))  # fmt: skip
def test_no_log_is_too_broken(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("log")
    (folder / "download.jsonl").write_bytes(b"\n".join(lines))
    summary = download([Wanted("ftp://x.org/a", "a")], folder, _settings())
    assert summary.counts["refused"] + summary.known["refused"] == 1


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with (
        download_log.Ledger(tmp_path),
        pytest.raises(UserError, match="another download works in this folder"),
    ):
        download([], tmp_path, _settings())
    assert download([], tmp_path, _settings()).counts == {}


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        download([], tmp_path / "file", _settings())


def test_a_full_disk_ends_the_run_in_one_line(
    server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "a.jpg.part")

    server.pages["*"] = _file()
    monkeypatch.setattr(download_fetch.Part, "keep", full)
    with pytest.raises(UserError, match="No space left"):
        _get(server, tmp_path, *(f"/{n}.jpg" for n in range(100)))
    assert len(server.asked) < 20 and _log(tmp_path) == []


def test_an_error_of_the_input_ends_the_run_and_is_passed_on(server: _Server, tmp_path: Path) -> None:
    server.pages["*"] = _file()

    def wanted() -> Iterator[Wanted]:
        yield Wanted(server.url("/a.jpg"), "a.jpg")
        time.sleep(0.2)
        raise UserError("x.csv: no such column")

    with pytest.raises(UserError, match="no such column"):
        download(wanted(), tmp_path, _settings())
    assert [row["name"] for row in _log(tmp_path)] == ["a.jpg"]


_PROGRAM = """
    import sys
    from input_pipeline.download.run import Settings, Wanted, download

    port, folder, rate = sys.argv[1:]
    wanted = (Wanted(f"http://127.0.0.1:{port}/{n}.jpg", f"{n}.jpg") for n in range(60))
    settings = Settings(contact="a@b.org", allow_private=True, respect_robots=False, requests_per_second=float(rate))
    print("begun", flush=True)
    print(download(wanted, folder, settings).stopped, flush=True)
"""


def _start(server: _Server, folder: Path, rate: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(_PROGRAM), str(server.port), str(folder), str(rate)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_kill_and_resume(server: _Server, tmp_path: Path) -> None:
    def page(handler: Any, _: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(_BIG)))
        handler.send_header("ETag", _ETAG)
        handler.end_headers()
        for at in range(0, len(_BIG), 10_000):  # so that the kill falls within a file
            handler.wfile.write(_BIG[at : at + 10_000])
            handler.wfile.flush()
            time.sleep(0.002)

    server.pages["*"] = page
    process = _start(server, tmp_path, 1000)
    _until(lambda: len(server.asked) >= 20)
    process.kill()
    process.communicate()
    files = list(tmp_path.glob("*.jpg"))
    assert 0 < len(files) < 60 and all(path.read_bytes() == _BIG for path in files)
    before = {path.name: path.stat().st_mtime_ns for path in files}
    seen = len(server.asked)
    # The log's last line may be torn as well.
    with (tmp_path / "download.jsonl").open("ab") as log:
        log.write(b'{"url": "http://127')
    server.pages["*"] = lambda handler, count: (
        _partial(_BIG)(handler, count) if handler.headers["Range"] else _send(handler, _BIG, ETag=_ETAG)
    )
    summary = _get(server, tmp_path, *(f"/{n}.jpg" for n in range(60)))
    assert summary.counts["ok"] == 60 - len(files)
    assert summary.known["ok"] + summary.known["there"] == len(files)
    assert not {f"/{name}" for name in before} & set(server.paths()[seen:])
    assert _pictures(tmp_path) == sorted(f"{n}.jpg" for n in range(60))  # and no part is left
    assert all(path.read_bytes() == _BIG for path in tmp_path.glob("*.jpg"))
    assert all((tmp_path / name).stat().st_mtime_ns == time for name, time in before.items())
    names = [row["name"] for row in _log(tmp_path)]
    assert len(names) == len(set(names)) == 60


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_soon(server: _Server, tmp_path: Path, number: int) -> None:
    free = threading.Event()

    def page(handler: Any, _: int) -> None:
        if len(server.asked) > 3:
            _cut(_BIG, 50_000, ETag=_ETAG)(handler, 0)
            free.wait(20)  # silent in the middle of a file
        else:
            _send(handler, _JPEG)

    server.pages["*"] = page
    process = _start(server, tmp_path, 100)
    _until(lambda: (tmp_path / "3.jpg.part").exists())
    began = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    free.set()
    assert time.monotonic() - began < 3 and process.returncode == 0
    assert out.split() == ["begun", "interrupted"] and err == ""
    assert [row["name"] for row in _log(tmp_path)] == ["0.jpg", "1.jpg", "2.jpg"]
    assert sorted(path.name for path in tmp_path.glob("*.jpg")) == ["0.jpg", "1.jpg", "2.jpg"]
    server.pages["*"] = _file()
    assert _get(server, tmp_path, *(f"/{n}.jpg" for n in range(5))).counts == {"ok": 2}


def test_a_signal_is_seen_while_the_input_is_silent(tmp_path: Path) -> None:
    def wanted() -> Iterator[Wanted]:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        time.sleep(20)  # as a reader that finds no picture for a long time
        yield Wanted("http://x.org/a.jpg", "a.jpg")

    before = signal.getsignal(signal.SIGTERM)
    began = time.monotonic()
    assert download(wanted(), tmp_path, _settings()).stopped == "interrupted"
    assert time.monotonic() - began < 3 and signal.getsignal(signal.SIGTERM) is before


def test_the_summary_in_words(server: _Server, tmp_path: Path) -> None:
    server.pages = {"/a.jpg": _file(), "/b.jpg": _status(404), "/c.jpg": _status(500)}
    calls: list[tuple[int, int, str]] = []
    wanted = [Wanted(server.url(path), path[1:]) for path in ("/a.jpg", "/b.jpg", "/c.jpg")]
    summary = download(wanted, tmp_path, _settings(retries=0), lambda *args: calls.append(args))
    lines = summary.text().splitlines()
    assert lines[0].startswith("1 ok, 1 gone, 0 refused, 1 failed; 0.0 MB from 1 hosts")
    assert "1 HTTP 404 (gone)" in lines[2] and "next run" in lines[3] and len(lines) == 4
    assert calls[-1] == (3, 3, "1 failed, 1 gone, 1 ok")
    assert "not asked for: 1 gone, 1 ok" in _get(server, tmp_path, "/a.jpg", "/b.jpg").text()


def test_the_module_says_what_it_offers() -> None:
    assert {"download", "wanted_of", "unwanted_reason", "Wanted", "Settings", "Summary"} == set(step.__all__)
