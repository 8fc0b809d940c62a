"""An OpenAI-compatible endpoint on loopback that behaves like the real ones, in their failures too.

with FakeTeacher(rule) as fake: ... os.environ["OPENAI_BASE_URL"] = fake.url ...

`rule(asked, number)` says what a request gets: `asked` is the request's body, `number` counts the tries of this body
from 0. It returns a text, or a `Reply`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

KEY = "loopback_9f2c71d0_do_not_tell"


@dataclass(frozen=True)
class Reply:
    """Fields:

    kind: "text", "status" (an error with `code` and `message`), "cut" (the connection ends in the middle of the body),
    "malformed" (a body that is no JSON), "refusal", "filtered", "no choices", "no usage", "error body" (an error in a
    reply of status 200).
    finish: the reason that a text ended. seconds: before it answers, also beyond anyone's patience.
    """

    kind: str = "text"
    text: str = ""
    status: int = 200
    code: str = ""
    message: str = ""
    param: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    finish: str = "stop"
    seconds: float = 0.0


def error(status: int, code: str = "", message: str = "", param: str = "", **headers: str) -> Reply:
    """An error as OpenAI words it; underscores in the names of headers are dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(
        "status", status=status, code=code, message=message or f"error {status}", param=param, headers=named
    )


Rule = Callable[[dict[str, Any], int], Reply | str]


def said(body: dict[str, Any]) -> str:
    """The text of the last message."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def count(body: dict[str, Any]) -> int:
    """Tokens of a prompt, as this endpoint has them: its words."""
    return sum(len(said({"messages": [one]}).split()) for one in body["messages"])


class FakeTeacher:
    """tries: of each body, by `name_of`; answered: texts that went out whole, by the same; most: connections at once;
    bodies, keys: what came; at: when each try came (seconds of the loop's clock).
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.tries: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.keys: set[str] = set()
        self.bodies: list[dict[str, Any]] = []
        self.at: list[float] = []
        self.now = self.most = 0
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> FakeTeacher:
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)

    @staticmethod
    def name_of(body: dict[str, Any]) -> str:
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(client_max_size=1 << 28)
        app.router.add_post("/v1/chat/completions", self._answer)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)

        async def start() -> None:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
            await site.start()
            port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
            self.url = f"http://127.0.0.1:{port}/v1"

        self._loop.run_until_complete(start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        name = self.name_of(body)
        number = self.tries[name]
        self.tries[name] += 1
        self.keys.add(request.headers.get("Authorization", ""))
        self.bodies.append(body)
        self.at.append(self._loop.time())
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            made = self._rule(body, number)
            reply = Reply(text=made) if isinstance(made, str) else made
            await asyncio.sleep(reply.seconds)
            return await self._send(request, body, reply, name)
        finally:
            self.now -= 1

    async def _send(
        self, request: web.Request, body: dict[str, Any], reply: Reply, name: str
    ) -> web.StreamResponse:
        if reply.kind == "status":
            told = {
                "message": reply.message,
                "type": reply.code,
                "param": reply.param or None,
                "code": reply.code,
            }
            return web.json_response({"error": told}, status=reply.status, headers=reply.headers)
        if reply.kind == "error body":
            return web.json_response({"error": {"message": reply.message, "code": reply.status}})
        whole = json.dumps(self._completion(body, reply)).encode()
        if reply.kind == "malformed":
            return web.Response(body=whole[:-20], content_type="application/json")
        if reply.kind == "cut":
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            response.content_length = len(whole)
            await response.prepare(request)
            await response.write(whole[: len(whole) // 2])
            assert request.transport is not None
            request.transport.abort()
            return response
        self.answered[name] += reply.kind != "no choices"
        return web.Response(body=whole, content_type="application/json")

    def _completion(self, body: dict[str, Any], reply: Reply) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
        finish = reply.finish
        if reply.kind == "refusal":
            message |= {"content": None, "refusal": reply.text}
        if reply.kind == "filtered":
            finish = "content_filter"
        choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
        prompt, new = count(body), len(reply.text.split())
        whole = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [] if reply.kind == "no choices" else [choice],
            "usage": {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new},
        }
        if reply.kind == "no usage":
            del whole["usage"]
        return whole
