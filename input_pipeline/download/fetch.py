"""Asks once for one picture and says what came of it. What came of a picture lies in a .part file until it is whole.

Whether to ask again, and when, is decided elsewhere (`download.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import ssl
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urljoin, urlsplit

import requests
import urllib3.exceptions

from input_pipeline.download import http
from input_pipeline.download.log import DiskError
from input_pipeline.download.settings import Settings
from input_pipeline.download.wanted import stored_name
from input_pipeline.images import ImageError, open_image

_HEAD = 512  # bytes that tell what a file is
_SMALL = 64 * 1024  # no placeholder is larger
_REDIRECTS = (301, 302, 303, 307, 308)
_GONE = (404, 410, 451)
_ASK_AGAIN = (408, 421, 425)  # and all from 500 on
_ETAG = re.compile(r'"[!#-~]{1,200}"')  # a strong one; a weak one does not promise the same bytes
_RANGE = re.compile(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15}|\*)")
_PAGE = re.compile(
    rb"(?i)\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body|title|script|meta)\b", re.DOTALL
)


@dataclass(frozen=True)
class Answer:
    """What came of asking once.

    `retry` asks to be tried again, after `wait` seconds where the server named a time; `slow` and `down` say
    that the whole host wants that, or could not be reached. `moved` names another URL, `stopped` is of our own
    making. `policy` marks what our settings refused, not the server.
    """

    verdict: Literal["ok", "gone", "refused", "failed", "retry", "moved", "stopped"]
    reason: str = ""
    http: int | None = None
    name: str = ""
    bytes: int | None = None
    sha256: str | None = None
    type: str | None = None
    wait: float | None = None
    slow: bool = False
    down: bool = False
    policy: bool = False
    location: str = ""


def kind_of(head: bytes) -> str:
    """Returns the type of a picture by its first bytes: a key of `wanted.TYPES`, or ''."""
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:2] == b"BM" and head[6:10] == bytes(4) and len(head) >= 26:
        return "bmp"
    if head.startswith((b"II*\0", b"MM\0*")):
        return "tiff"
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return "avif"
    return ""


def retry_after(value: str | None, now: float) -> float | None:
    """Returns the seconds that a Retry-After header asks for, None where it asks for none.

    Args:
        value: seconds, or a date.
        now: seconds since the epoch.
    """
    value = (value or "").strip()
    if re.fullmatch(r"\d{1,9}", value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


class Part:
    """The file that a picture grows in, and what is needed to go on with it after a break."""

    def __init__(self, folder: Path, name: str, url: str) -> None:
        self.path, self.note, self.url = folder / f"{name}.part", folder / f"{name}.part.json", url
        self.validator, self.size = "", 0
        try:
            note = json.loads(self.note.read_bytes())
            if note["url"] == url and isinstance(note["validator"], str):
                self.size = self.path.stat().st_size
                self.validator = note["validator"] if self.size else ""
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            self.size = 0

    def headers(self) -> dict[str, str]:
        """The headers that ask for the rest, if the file on the server is still the same."""
        if not self.validator:
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": self.validator}

    def begin(self, response: requests.Response) -> None:
        """Starts over; what the server says of the file is kept where it can send parts of it."""
        etag, changed = response.headers.get("ETag", ""), response.headers.get("Last-Modified", "")
        validator = (
            etag if _ETAG.fullmatch(etag) else changed if re.fullmatch(r"[ -~]{1,60}", changed) else ""
        )
        sound = not http.encoding_of(response) and response.headers.get("Accept-Ranges", "").lower() != "none"
        self.discard()
        if validator and sound:
            self.note.write_text(json.dumps({"url": self.url, "validator": validator}))

    def discard(self) -> None:
        """Removes what there is."""
        self.note.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
        self.validator, self.size = "", 0

    def keep(self, folder: Path, name: str) -> None:
        """Makes it the picture `name`, at once and whole."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        self.path.replace(folder / name)
        self.note.unlink(missing_ok=True)


class Fetcher:
    """Fetches into one folder.

    Args:
        folder: where the files go.
        settings: limits.
        client: sends the requests.
        spend: told of the bytes that came; False where they were too many for the whole run.
    """

    def __init__(
        self, folder: Path, settings: Settings, client: http.Http, spend: Callable[[int], bool]
    ) -> None:
        self.folder, self.settings, self.client, self.spend = folder, settings, client, spend

    def fetch(self, url: str, name: str) -> Answer:
        """Asks for `url` once and stores what comes as `name`, its suffix made true.

        Raises DiskError where the folder cannot be written to.
        """
        part = Part(self.folder, name, url)
        with self.client.limit() as limit:
            try:
                with closing(self.client.get(url, part.headers())) as response:
                    return self._answer(response, part, name, limit)
            except http.PrivateAddress:
                return Answer("refused", "host is not on the public internet", policy=True)
            except http.FAILURES as error:
                return over(limit) or failure(error)

    def _answer(self, response: requests.Response, part: Part, name: str, limit: http.Limit) -> Answer:
        code = response.status_code
        wait = retry_after(response.headers.get("Retry-After"), time.time())
        if code in (200, 203) or (code == 206 and part.size):
            return self._take(response, part, name, limit)
        http.drain(response)
        if over(limit):
            return over(limit)  # type: ignore[return-value]
        if code in _REDIRECTS and response.headers.get("Location"):
            return self._moved(response)
        if code == 416 and part.size:
            _on_disk(part.discard)
            return Answer("retry", "rest of the file was refused", code)
        if code in (429, 503):
            return Answer("retry", f"HTTP {code}", code, wait=wait, slow=True)
        if code in _ASK_AGAIN or code >= 500:
            return Answer("retry", f"HTTP {code}", code, wait=wait)
        _on_disk(part.discard)
        if code in _GONE:
            return Answer("gone", f"HTTP {code}", code)
        if code == 204:
            return Answer("gone", "empty file", code)
        # A 4xx will not change; what else there may be is nothing that HTTP knows as an answer.
        return Answer("refused" if 400 <= code < 500 else "failed", f"HTTP {code}", code)

    def _moved(self, response: requests.Response) -> Answer:
        try:
            # http.client reads headers as Latin-1, servers write UTF-8.
            place = response.headers["Location"].encode("latin-1", "replace").decode("utf-8", "replace")
            location = urljoin(response.url or "", place)
            host, path = (urlsplit(location).hostname or ""), urlsplit(location).path
        except ValueError:
            return Answer("failed", "redirect to what is no URL", response.status_code)
        if host.removeprefix("i.") == "imgur.com" and path == "/removed.png":
            return Answer("gone", "placeholder of a removed picture", response.status_code)
        return Answer("moved", "", response.status_code, location=location)

    def _take(self, response: requests.Response, part: Part, name: str, limit: http.Limit) -> Answer:
        code = response.status_code
        length = response.headers.get("Content-Length", "")
        left = int(length) if re.fullmatch(r"\d{1,15}", length) and not http.encoding_of(response) else None
        if response.headers.get("ETag", "").strip('"') in self.settings.placeholders:
            _on_disk(part.discard)
            return Answer("gone", "placeholder of a removed picture", code)
        if http.encoding_of(response) not in http.ENCODINGS:
            return Answer("refused", "an encoding that was not asked for", code)
        if code == 206:
            match = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
            if not match or int(match[1]) != part.size or http.encoding_of(response):
                _on_disk(part.discard)
                return Answer("retry", "rest of the file does not fit", code)
            whole = int(match[2]) if match[2] != "*" else None if left is None else part.size + left
        else:
            _on_disk(lambda: part.begin(response))
            whole = left
        if whole is not None and whole > self.settings.max_bytes:
            return self._too_large(part, code)
        told = whole is not None or "chunked" in response.headers.get("Transfer-Encoding", "").lower()
        return self._stream(response, part, name, limit, whole, told or bool(http.encoding_of(response)))

    def _stream(
        self,
        response: requests.Response,
        part: Part,
        name: str,
        limit: http.Limit,
        whole: int | None,
        told: bool,
    ) -> Answer:
        """Reads the body. `whole` is the size of the file if known, `told` whether its end can be told from a cut."""
        code, digest, head, size = response.status_code, hashlib.sha256(), b"", 0
        pieces = http.body(response)
        with _on_disk(lambda: part.path.open("ab")) as file:
            if part.size:
                data = _on_disk(part.path.read_bytes)
                digest.update(data)
                head, size = data[:_HEAD], len(data)
            while True:
                try:
                    piece = next(pieces, b"")
                except http.FAILURES:
                    # The head of the file that came is needed to go on with it, so what came is kept.
                    return over(limit) or self._cut(part, code)
                if not piece:
                    break
                size += len(piece)
                if size > self.settings.max_bytes:
                    return self._too_large(part, code)
                if len(head) < _HEAD:
                    head += piece[: _HEAD - len(head)]
                    if len(head) == _HEAD and not kind_of(head):
                        break  # the rest is of no use, however long it is
                digest.update(piece)
                _on_disk(lambda data=piece: (file.write(data), file.flush()))
                if not self.spend(len(piece)) or limit.over:
                    return over(limit) or Answer("stopped")
        if over(limit):
            return over(limit)  # type: ignore[return-value]
        kind = kind_of(head)
        if not kind:
            _on_disk(part.discard)
            return _no_picture(response, head, code)
        if whole is not None and size != whole:
            return self._cut(part, code)
        if self._is_placeholder(part, size):
            _on_disk(part.discard)
            return Answer("gone", "placeholder of a removed picture", code)
        if not told:
            try:
                open_image(part.path)
            except ImageError:
                _on_disk(part.discard)
                return Answer("retry", "picture is cut or broken", code)
        stored = stored_name(name, kind)
        _on_disk(lambda: part.keep(self.folder, stored))
        return Answer("ok", "", code, stored, size, digest.hexdigest(), kind)

    def _too_large(self, part: Part, code: int) -> Answer:
        _on_disk(part.discard)
        return Answer("refused", "larger than max_bytes", code, policy=True)

    def _cut(self, part: Part, code: int) -> Answer:
        if not part.note.exists():
            _on_disk(part.discard)
        return Answer("retry", "file was cut on its way", code)

    def _is_placeholder(self, part: Part, size: int) -> bool:
        if size > _SMALL or not self.settings.placeholders:
            return False
        data = _on_disk(part.path.read_bytes)
        return hashlib.md5(data, usedforsecurity=False).hexdigest() in self.settings.placeholders


def over(limit: http.Limit) -> Answer | None:
    """Returns the answer of a request that was cut by us."""
    if limit.over == "deadline":
        return Answer("failed", "took longer than the deadline", down=True)
    return Answer("stopped") if limit.over else None


def failure(error: Exception) -> Answer:
    """Returns the answer of a request that got none."""
    inner = error.args[0] if error.args else None
    inner = getattr(inner, "reason", inner)
    if isinstance(error, requests.exceptions.SSLError) and isinstance(
        getattr(inner, "args", [None])[0], ssl.SSLCertVerificationError
    ):
        return Answer("failed", "certificate of the host is not valid", down=True)
    if isinstance(inner, urllib3.exceptions.NameResolutionError):
        reason = "host name is not known"
    elif isinstance(error, requests.exceptions.ConnectTimeout):
        reason = "connection timed out"
    elif isinstance(error, requests.exceptions.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
        reason = "host did not answer in time"
    elif isinstance(inner, urllib3.exceptions.NewConnectionError):
        reason = "no connection to the host"
    else:
        reason = "connection broke"
    return Answer("retry", reason, slow=True, down=True)


def _no_picture(response: requests.Response, head: bytes, code: int) -> Answer:
    if not head:
        return Answer("gone", "empty file", code)
    kind = response.headers.get("Content-Type", "").lower()
    if _PAGE.match(head.removeprefix(b"\xef\xbb\xbf")) or ("html" in kind and head.lstrip().startswith(b"<")):
        return Answer("gone", "a page in place of the picture", code)
    return Answer("refused", "not a picture that is read", code)


def _on_disk(act: Callable[[], Any]) -> Any:
    """Does something with a file of ours; where that fails, it is not the network's fault."""
    try:
        return act()
    except OSError as error:
        raise DiskError(f"{error.filename or 'folder'}: {error.strerror or error}") from error
