"""One try of one request at an OpenAI-compatible endpoint, and what came of it. The key leaves this file only in its
header.
"""

from __future__ import annotations

import asyncio
import base64
import email.utils
import functools
import io
import json
import math
import os
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from input_pipeline.errors import UserError
from jaxllava.teacher.messages import Failure, Request
from jaxllava.teacher.replies import Again, Reply, Stop, Unsupported, read_body, read_error, short, usage
from jaxllava.teacher.settings import Settings

_OFFICIAL = "https://api.openai.com/v1"
_POOL = 25  # connections
_KEY_LIKE = re.compile(r"\b(sk|pk|key)-[\w*.-]{6,}", re.I)


class Endpoint:
    """Of OPENAI_BASE_URL and OPENAI_API_KEY. Its client belongs to one asyncio loop: `open` and `close` it there."""

    def __init__(self, settings: Settings) -> None:
        """Raises UserError where the package or the key is missing."""
        try:
            import openai
        except ImportError:
            raise UserError(
                f"asking {settings.model!r} needs the openai package: pip install -c constraints.txt -e '.[teacher]'"
            ) from None
        self._openai = openai
        self._settings = settings
        base = os.environ.get("OPENAI_BASE_URL", "").strip()
        key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not key and not base:
            raise UserError(
                f"no key for {settings.model!r}: set OPENAI_API_KEY, or OPENAI_BASE_URL for a server that needs none, "
                "or name a checkpoint's folder that exists"
            )
        if any(not "!" <= letter <= "~" for letter in key):
            raise UserError(
                "OPENAI_API_KEY holds characters that no key has (a space, a line's end?); set it again"
            )
        self._base = base or _OFFICIAL
        parts = urlsplit(self._base)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(
                "OPENAI_BASE_URL is no http or https address; set it to one such as http://host:8000/v1"
            )
        self.where = parts.netloc.rpartition("@")[2]  # without a password
        self._key = key
        self._clients: list[Any] = []
        self._free: list[Any] = []  # a client for each request that may be in flight
        self._limit_name = "max_tokens"  # or what newer models call it

    def open(self) -> None:
        import httpx2

        # A pool of connections looks at all of its own for every request: many small ones cost less.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=_POOL)
        timeout = httpx2.Timeout(self._settings.timeout, connect=min(30.0, self._settings.timeout))
        for _ in range(math.ceil(self._settings.in_flight / _POOL)):
            http = self._openai.DefaultAsyncHttpxClient(limits=limits, timeout=timeout, verify=_trusted())
            client = self._openai.AsyncOpenAI(
                api_key=self._key or "none",
                base_url=self._base,
                max_retries=0,
                timeout=timeout,
                http_client=http,
            )
            self._clients.append(client)
            self._free += [client] * _POOL

    async def close(self) -> None:
        for client in self._clients:
            await client.close()

    async def attempt(self, request: Request) -> tuple[Reply, tuple[int, int] | None]:
        """What came of one try, and the tokens of prompt and answer that the endpoint reports."""
        name = self._limit_name
        reply, used = await self._attempt(request)
        if isinstance(reply, Unsupported) and reply.parameter == name == "max_tokens":
            self._limit_name = "max_completion_tokens"
            reply, used = await self._attempt(request)
        return self._understood(reply), used

    async def _attempt(self, request: Request) -> tuple[Reply, tuple[int, int] | None]:
        import httpx2

        openai = self._openai
        try:
            body = chat_body(request, self._settings.model, self._limit_name)
        except PictureError as error:
            return Failure(request.key, "unreadable picture", str(error), is_final=True), None
        client = self._free.pop()
        try:
            async with asyncio.timeout(self._settings.timeout):
                # The raw reply: what servers send is not always what the client's types say.
                raw = await client.post("/chat/completions", body=body, cast_to=httpx2.Response)
                content = raw.content
        except (TimeoutError, openai.APITimeoutError):
            seconds = f"no answer in {self._settings.timeout:g} s"
            return Again("timed out", seconds, is_down=True, may_cost=True), None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            detail = f"{self.where}: {type(cause).__name__}: {cause}"
            never_sent = type(cause).__name__ in ("ConnectError", "ConnectTimeout", "PoolTimeout")
            return Again("connection lost", detail, is_down=True, may_cost=not never_sent), None
        except openai.APIStatusError as error:
            status, told = error.status_code, error.body
            if not isinstance(told, Mapping):
                told = error.response.text
            return read_error(request.key, status, told, retry_after(error.response.headers)), None
        except UnicodeEncodeError:
            return Failure(request.key, "unreadable text", "half of a surrogate pair is no text", True), None
        finally:
            self._free.append(client)
        try:
            parsed = json.loads(content)
        except (ValueError, RecursionError):
            parsed = None
        return read_body(request.key, parsed), usage(parsed)

    def _understood(self, reply: Reply) -> Reply:
        """The reply without secrets; of a parameter that the model does not take, what follows from that."""
        if isinstance(reply, Unsupported):
            told = f"takes no {reply.parameter} such as these requests have ({self._safe(reply.detail)})"
            return Stop(f"{told}; {_remedy(reply.parameter, self._settings.flag)}")
        if isinstance(reply, Failure | Again):
            return replace(reply, detail=self._safe(reply.detail))
        return reply

    def _safe(self, text: str) -> str:
        """Text of others without the key, or what looks like one."""
        if self._key:
            text = text.replace(self._key, "[key]")
        return short(_KEY_LIKE.sub("[key]", text))


def _remedy(parameter: str, flag: str) -> str:
    """What to give in place of a parameter that the model does not take."""
    if parameter == "temperature":
        return f"{flag}temperature 1 leaves it to the model"
    if parameter == "top_p":
        return "1 leaves it to the model"
    if "tokens" in parameter:
        return f"give another {flag}max-tokens"
    return "name another model"


@functools.cache
def _trusted() -> ssl.SSLContext:
    """Whom to trust; reading that takes a quarter of a second."""
    import httpx2

    return httpx2.create_ssl_context()


class PictureError(Exception):
    """A picture that no endpoint can be shown."""


def chat_body(request: Request, model: str, limit_name: str = "max_tokens") -> dict[str, Any]:
    """The JSON body of a chat completion. What is an endpoint's default is left out: some models take no other."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": one.role, "content": _content(one.text, one.images)} for one in request.messages
        ],
        limit_name: request.max_tokens,
    }
    if request.temperature != 1.0:
        body["temperature"] = request.temperature
    if request.top_p != 1.0:
        body["top_p"] = request.top_p
    return body


def _content(text: str, images: tuple[bytes, ...]) -> str | list[dict[str, Any]]:
    if not images:
        return text
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": data_url(image)}} for image in images
    ]
    return [*parts, {"type": "text", "text": text}]


def data_url(picture: bytes) -> str:
    """A picture as endpoints take it: PNG, JPEG, WebP and GIF as they are, others as PNG. Raises PictureError."""
    if picture.startswith(b"\x89PNG\r\n\x1a\n"):
        kind = "png"
    elif picture.startswith(b"\xff\xd8\xff"):
        kind = "jpeg"
    elif picture[:6] in (b"GIF87a", b"GIF89a"):
        kind = "gif"
    elif picture[:4] == b"RIFF" and picture[8:12] == b"WEBP":
        kind = "webp"
    else:
        kind, buffer = "png", io.BytesIO()
        try:
            with Image.open(io.BytesIO(picture)) as opened:
                opened.convert("RGB").save(buffer, "PNG")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise PictureError(str(error)) from None
        picture = buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, of the headers retry-after-ms and Retry-After (seconds or a date, RFC 9110 10.2.3)."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        told = headers.get(name)
        if told is None:
            continue
        try:
            seconds = float(told) * scale
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(told).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError):
                continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None
