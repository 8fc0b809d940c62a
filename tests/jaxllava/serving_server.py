"""A server in this process, for tests: a tiny random LLaVA, its engine, and its application on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import openai

from jaxllava.api import Model
from jaxllava.serving.app import App, Limits, listening
from jaxllava.serving.engine import Engine
from tests.jaxllava import tiny_models

NAME = "tiny"
SLOTS, LENGTH = 3, 512


def model_in(folder: Any) -> Model:
    """A tiny LLaVA whose answers differ and do not end by themselves."""
    tokenizer = tiny_models.tokenizer_in(folder)
    config = tiny_models.llava_for(tokenizer)
    config = config.replace(vision=config.vision.replace(layers=2), decoder=config.decoder.replace(layers=2))
    model = Model(config, tiny_models.random_params(config), tokenizer, "v1_bare")
    model._end_ids = ()
    return model


def started(model: Model, queue: int = 16) -> Engine:
    """An engine that is ready, with nothing compiled."""
    engine, ready = Engine(SLOTS, queue), threading.Event()
    engine.start(lambda: model, LENGTH, False, ready.set)
    assert ready.wait(60) and engine.state == "ready"
    return engine


class Served:
    """An application that listens."""

    def __init__(self, engine: Engine, port: int, app: App) -> None:
        self.engine, self.port, self.app = engine, port, app
        self.url = f"http://127.0.0.1:{port}"
        key = app._key.decode() or "none"
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)

    def ask(self, text: Any, **more: Any) -> Any:
        """A chat completion: text, parts or messages."""
        messages = (
            text if isinstance(text, list) and "role" in text[0] else [{"role": "user", "content": text}]
        )
        return self.client.chat.completions.create(model=NAME, messages=messages, **more)

    def post(self, body: Any, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any], Any]:
        """(status, body, headers) of a request that no client would send."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | (headers or {})
        return self._open(urllib.request.Request(f"{self.url}/v1/chat/completions", data, headers))

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any], Any]:
        return self._open(urllib.request.Request(self.url + path, headers=headers or {}))

    def _open(self, request: urllib.request.Request) -> tuple[int, dict[str, Any], Any]:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.load(response), response.headers
        except urllib.error.HTTPError as error:
            return error.code, json.load(error), error.headers


@contextlib.contextmanager
def served(
    engine: Engine, limits: Limits | None = None, key: str = "", host: str = "127.0.0.1"
) -> Iterator[Served]:
    app = App(engine, NAME, limits or Limits(), key)
    ports: list[int] = []
    listens, loop = threading.Event(), asyncio.new_event_loop()
    over = asyncio.Event()

    async def run() -> None:
        async with listening(app, host, 0) as port:
            ports.append(port)
            listens.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    assert listens.wait(30)
    try:
        yield Served(engine, ports[0], app)
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(30)
        loop.close()


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)
