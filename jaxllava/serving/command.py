"""`jaxllava serve`: loads the model, listens, and ends in order."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from jaxllava.serving.access import KEY, is_loopback
from jaxllava.serving.app import App, Limits, listening
from jaxllava.serving.arguments import default_name
from jaxllava.serving.engine import Engine

FAREWELL = 5.0  # seconds, after a failure, for requests whose bodies are still on their way


def serve(args: argparse.Namespace) -> None:
    """Runs until SIGINT or SIGTERM, or until the engine fails, and ends the process with status 0 or 1. args: of
    `arguments.add_flags`, checked. Raises UserError for what cannot be loaded, or listened at.
    """
    key = os.environ.get(KEY, "").strip()
    if not key and not is_loopback(args.host):
        print(
            f"warning: --host {args.host} can be reached from elsewhere, and anyone there may ask: set {KEY}.",
            file=sys.stderr,
        )
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)  # a client's broken HTTP is told to the client

    def load() -> Any:
        from jaxllava import api

        return api.load(args.model, args.template, dtype=args.dtype)

    engine = Engine(args.slots, args.queue)
    asyncio.run(_serve(args, engine, key, load))


async def _serve(args: argparse.Namespace, engine: Engine, key: str, load: Callable[[], Any]) -> NoReturn:
    limits = Limits(args.max_body * 2**20, args.max_images, args.max_pixels, args.timeout)
    name = args.name or default_name(args.model)
    changed, stop = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def told() -> None:  # in the engine's thread
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(changed.set)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with listening(App(engine, name, limits, key), args.host, args.port) as port:
        address = f"http://{f'[{args.host}]' if ':' in args.host else args.host}:{port}"
        print(f"loading {args.model}; {address}/health says when it answers", flush=True)
        engine.start(load, args.max_length, args.warm_up, told)
        await _first(changed, stop)
        if engine.state == "failed" and engine.error is not None:
            raise engine.error
        ready = engine.state == "ready"
        if ready:
            print(
                f"{name}: {address}/v1, {engine.slots} slots of {engine.length} places"
                f"{', with a key' if key else ''}",
                flush=True,
            )
        changed.clear()
        await _first(changed, stop)
        if engine.state != "failed":
            await _wind_up(engine, args.grace, changed, stop)
        failed = ready and engine.state == "failed"  # it may have while it wound up
        if failed:
            await _tell_failure(engine, stop)
    if not failed:
        print(f"stopped; {engine.served} requests were answered", flush=True)
    # The process ends here, while signals still have their handlers. The interpreter's own end would wait for what
    # compiles, or for a device that is gone, and another Ctrl-C leaves a traceback there.
    engine.finished.wait(5.0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if failed else 0)


async def _first(*events: asyncio.Event) -> None:
    """Waits for any of these."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


async def _tell_failure(engine: Engine, stop: asyncio.Event) -> None:
    """Says on stderr that the process will end, and lets those that were admitted have their 503."""
    why = f"{type(engine.error).__name__}: {engine.error}".splitlines()[0][:200]
    print(
        f"error: the engine has failed ({why}); what was asked gets 503, and the process ends with status 1",
        file=sys.stderr,
        flush=True,
    )
    end = asyncio.get_running_loop().time() + FAREWELL
    while sum(engine.counts.values()) and not stop.is_set() and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.1)  # what is told of the end is written


async def _wind_up(engine: Engine, grace: float, changed: asyncio.Event, stop: asyncio.Event) -> None:
    """Lets what runs come to its end, for `grace` seconds or until another signal."""
    stop.clear()
    changed.clear()
    if engine.state == "ready":
        left = sum(engine.counts.values())
        engine.drain()
        if left:
            print(f"stopping: {left} requests are still answered, for {grace:g} s at most", flush=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_first(changed, stop), grace)
    engine.drain()
    engine.abandon()
    await asyncio.sleep(0.1)  # what is told of the end is written
