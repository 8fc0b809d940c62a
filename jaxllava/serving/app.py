"""The HTTP side: aiohttp's handlers for /v1/chat/completions, /v1/models and /health."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from input_pipeline.errors import UserError
from jaxllava.serving import access, protocol
from jaxllava.serving.engine import Ended, Engine, Event, Job
from jaxllava.serving.errors import RequestError, context_length
from jaxllava.serving.pictures import decode

log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds.

    body: of a request. images, pixels: pictures of a request, and pixels of each. timeout: of a request from its head
    to the end of its answer. arrival: of a request's head, and of its body.
    """

    body: int = 32 * 2**20
    images: int = 16
    pixels: int = 50_000_000
    timeout: float = 600.0
    arrival: float = 30.0


class App:
    """`application()` serves one engine's model under `name`. key: what clients have to show, "" is nothing."""

    def __init__(self, engine: Engine, name: str, limits: Limits, key: str = "") -> None:
        self.engine, self.name, self.limits = engine, name, limits
        self._key = key.encode()
        self._created = int(time.time())
        # Prompts are read by one thread: a tokenizer is one thread's while it spells out control tokens.
        self._reader = ThreadPoolExecutor(1, "reader")

    def application(self, local: bool) -> web.Application:
        """local: it listens on loopback. Without a key it is then for this machine's own programs."""
        self._local = local and not self._key
        app = web.Application(middlewares=[self._told], client_max_size=self.limits.body)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/v1/models/{model:.+}", self.model)
        app.router.add_get("/health", self.health)
        return app

    def close(self) -> None:
        self._reader.shutdown(wait=False, cancel_futures=True)

    @web.middleware
    async def _told(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What goes wrong, in OpenAI's form; and who may ask."""
        try:
            if self._local:
                access.check_host(request.headers.get("Host", ""))
            if self._key and request.path != "/health":
                access.check_key(request.headers.get("Authorization", ""), self._key)
            return await handler(request)
        except RequestError as error:
            headers = {
                429: {"Retry-After": "1"},
                503: {"Retry-After": "5"},
                401: {"WWW-Authenticate": "Bearer"},
            }
            return web.json_response(error.body, status=error.status, headers=headers.get(error.status))
        except web.HTTPRequestEntityTooLarge:
            message = f"The body has more than {self.limits.body} bytes."
            return web.json_response(RequestError(message, code="body_too_large").body, status=413)
        except web.HTTPException as error:
            message = f"{request.method} {request.path}: {error.reason}"
            headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            return web.json_response(RequestError(message).body, status=error.status, headers=headers)
        except ConnectionError:  # the client is gone
            raise
        except Exception:
            _log(request)
            error = RequestError("The server had an error; see its log.", status=500, kind="server_error")
            return web.json_response(error.body, status=500)

    # ------------------------------------------------------------ GET

    async def health(self, request: web.Request) -> web.Response:
        """200 where requests are taken, else 503 with the reason."""
        state = self.engine.state
        body = {"status": state, "model": self.name, **self.engine.counts}
        return web.json_response(body, status=200 if state == "ready" else 503)

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response(protocol.models(self.name, self._created))

    async def model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        if name != self.name:
            raise RequestError(f"The model {name!r} does not exist.", "model", "model_not_found", 404)
        return web.json_response(protocol.models(self.name, self._created)["data"][0])

    # ------------------------------------------------------------ POST /v1/chat/completions

    async def chat(self, request: web.Request) -> web.StreamResponse:
        # A page in a browser may post text to loopback without asking; JSON it may not.
        if request.content_type != "application/json":
            raise RequestError("The content type has to be application/json.", status=415)
        stream: web.StreamResponse | None = None
        self.engine.admit()
        try:
            async with asyncio.timeout(self.limits.timeout):
                body = await self._body(request)
                asked, row, new = await self._read(body)
                del body
                events: asyncio.Queue[Event] = asyncio.Queue()
                loop = asyncio.get_running_loop()
                tell = lambda event: _soon(loop, events, event)
                job = Job(
                    row, new, asked.temperature, asked.top_p, asked.seed, asked.stop, tell, asked.stream
                )
                self.engine.submit(job)
                try:
                    if not asked.stream:
                        return web.json_response(self._completion(await _end(events)))
                    first = await events.get()
                    if isinstance(first, RequestError):
                        raise first
                    stream = web.StreamResponse(headers=_STREAM)
                    await stream.prepare(request)
                    await self._stream(stream, first, events, asked.usage)
                    return stream
                finally:
                    self.engine.cancel(job)
        except TimeoutError:
            message = f"The request took longer than {self.limits.timeout:g} seconds."
            error = RequestError(message, None, "timeout", 504, "server_error")
            if stream is None:
                raise error from None
            _cut(request)  # the client may have stopped reading, so nothing waits for it
            return stream
        except Exception as error:
            if stream is None or isinstance(error, ConnectionError):
                raise
            _log(request)
            _cut(request)  # another head would be a part of the stream
            return stream
        finally:
            self.engine.leave()

    async def _body(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(self.limits.arrival):
                return await request.read()
        except TimeoutError:
            raise RequestError("The body took too long to arrive.", None, "timeout", 408) from None

    async def _read(self, body: bytes) -> tuple[protocol.Asked, Any, int]:
        """The request, its prompt as the model takes it, and the most tokens of its answer."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, self._row, body)

    def _row(self, body: bytes) -> tuple[protocol.Asked, Any, int]:
        asked = protocol.parse(body, self.name, self.limits.images)
        most, model = self.engine.length, self.engine.model
        # Tokenizing takes seconds for megabytes, and others wait: what cannot fit is not tokenized.
        characters = sum(len(turn.text) for turn in asked.turns) + len(asked.system) + len(asked.prefix)
        if characters > _LONGEST_TOKEN * most:
            raise RequestError(
                f"The messages have {characters} characters, and this model's maximum context length is {most} tokens.",
                "messages",
                "context_length_exceeded",
            )
        pictures = [decode(url, where, self.limits.pixels) for url, where in asked.pictures]
        try:
            if model.asker is None:
                (row,) = model.read([asked.turns], [pictures], asked.prefix, asked.system)
            else:  # a LLaMA-VID looks at pictures while it reads
                with self.engine.device:
                    (row,) = model.read([asked.turns], [pictures], asked.prefix, asked.system)
        except UserError as error:
            raise RequestError(
                str(error).removeprefix("prompt 0, ").removeprefix("prompt 0: "), "messages"
            ) from None
        prompt = len(row[0])
        if prompt + (asked.new or 1) > most:
            raise context_length(most, prompt, asked.new)
        return asked, row, asked.new or most - prompt

    def _completion(self, end: Ended) -> dict[str, Any]:
        usage = protocol.usage_of(end.prompt, end.new)
        return protocol.Head(self.name).completion(end.text, end.finish, usage)

    async def _stream(
        self, response: web.StreamResponse, first: Event, events: asyncio.Queue[Event], usage: bool
    ) -> None:
        head = protocol.Head(self.name)
        put = lambda data: response.write(protocol.event(data))
        await put(head.chunk({"role": "assistant", "content": ""}, usage=usage))
        event = first
        while isinstance(event, str):
            await put(head.chunk({"content": event}, usage=usage))
            event = await events.get()
        if isinstance(event, RequestError):
            await put(event.body)
        else:
            await put(head.chunk({}, event.finish, usage))
            if usage:
                await put(head.last(protocol.usage_of(event.prompt, event.new)))
        await put("[DONE]")
        await response.write_eof()


_LONGEST_TOKEN = 128  # characters: some vocabularies have runs of so many spaces
_STREAM = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def _log(request: web.Request) -> None:
    """The error that is being handled, and whose request met it."""
    log.exception("%s %s from %s", request.method, request.path, request.remote)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _soon(loop: asyncio.AbstractEventLoop, events: asyncio.Queue[Event], event: Event) -> None:
    """Hands an event to the loop's thread."""
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
        loop.call_soon_threadsafe(events.put_nowait, event)


async def _end(events: asyncio.Queue[Event]) -> Ended:
    event = await events.get()
    if isinstance(event, RequestError):
        raise event
    assert isinstance(event, Ended)
    return event


@contextlib.asynccontextmanager
async def listening(app: App, host: str, port: int) -> AsyncIterator[int]:
    """Listens at an address; gives the port. Raises UserError where it cannot."""
    runner = web.AppRunner(
        app.application(access.is_loopback(host)),
        access_log=None,
        handler_cancellation=True,  # a client that disconnects ends its request
        keepalive_timeout=app.limits.arrival,
        shutdown_timeout=2.0,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise UserError(
                f"--host {host} --port {port}: cannot listen there ({error.strerror or error})"
            ) from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
        app.close()
