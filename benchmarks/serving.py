"""The server beside `Model.generate`: tokens a second and the time to the first one, in turn on the same model.

    python -m benchmarks.serving --model runs/quickstart/models/behavior
    python -m benchmarks.serving --model runs/quickstart/models/behavior --width 768 --layers 12

Each of N clients streams one answer after another from a server of 8 slots in this process, with the openai client over
loopback and from a process of their own; `generate` answers the same prompts in batches of N. No answer ends before its
last token, so that both write as many. Ratios are of rounds that follow each other; their medians are printed.
`--width` and `--layers` put a decoder of random weights in the place of the model's, whose steps take longer.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import openai

import jaxllava
from jaxllava.api import Model
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llava import init_params
from jaxllava.serving.app import App, Limits, listening
from jaxllava.serving.engine import Engine

SLOTS = 8


def prompts(count: int) -> list[str]:
    """Of a few lengths."""
    return [
        f"What is shown here, and how many of them? {'Look again. ' * (i % 3)}({i})" for i in range(count)
    ]


def listen(engine: Engine) -> int:
    """Serves in a thread of its own, until the process ends. Returns the port."""
    found: list[int] = []
    ready = threading.Event()

    async def run() -> None:
        async with listening(App(engine, "model", Limits()), "127.0.0.1", 0) as port:
            found.append(port)
            ready.set()
            await asyncio.Event().wait()

    threading.Thread(target=lambda: asyncio.run(run()), daemon=True).start()
    ready.wait()
    return found[0]


def widened(model: Any, width: int, layers: int) -> Any:
    """The model with a random decoder of this width and depth."""
    old = model.config.decoder
    decoder = LlamaConfig(
        old.vocab_size, width, 11 * width // 4, layers, width // 64, max_positions=old.max_positions
    )
    config = model.config.replace(decoder=decoder)
    params = init_params(config, jax.random.key(0))
    return Model(config, params, model.tokenizer, model.template)


def serve(port: int, asked: list[str], clients: int, new: int) -> tuple[float, float]:
    """(tokens a second, median seconds to an answer's first text) of so many clients."""
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)

    def one(prompt: str) -> float:
        begin, first = time.perf_counter(), 0.0
        parts = client.chat.completions.create(
            model="model",
            messages=[{"role": "user", "content": prompt}],
            max_tokens=new,
            temperature=0,
            stream=True,
        )
        for part in parts:
            if not first and part.choices[0].delta.content:
                first = time.perf_counter() - begin
        return first

    begin = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        firsts = list(pool.map(one, asked))
    return len(asked) * new / (time.perf_counter() - begin), statistics.median(firsts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--clients", default="1,4,8")
    parser.add_argument("--new", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--max-length", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=0)
    parser.add_argument("--layers", type=int, default=8)
    args = parser.parse_args()
    model = jaxllava.load(args.model)
    if args.width:
        model = widened(model, args.width, args.layers)
    model._end_ids = ()
    engine, ready = Engine(SLOTS, 64), threading.Event()
    engine.start(lambda: model, args.max_length, True, ready.set)
    ready.wait()
    if engine.error is not None:
        raise engine.error
    port, load = listen(engine), os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f}; {SLOTS} slots of {engine.length}, {args.new} new tokens")
    with multiprocessing.get_context("spawn").Pool(1) as others:
        for clients in map(int, args.clients.split(",")):
            print(compare(model, port, others, clients, args.new, args.rounds), flush=True)


def compare(model: Any, port: int, others: Any, clients: int, new: int, rounds: int) -> str:
    """One line."""
    asked = prompts(3 * clients)
    rows = model.read(asked)
    ours, theirs, firsts, ratios = [], [], [], []
    for number in range(rounds + 1):
        begin = time.perf_counter()
        model.answer(rows, new, batch_size=clients)
        generated = len(asked) * new / (time.perf_counter() - begin)
        served, first = others.apply(serve, (port, asked, clients, new))
        if number:  # the first round compiles
            ours.append(served)
            theirs.append(generated)
            firsts.append(first)
            ratios.append(served / generated)
    return (
        f"{clients} clients: served {statistics.median(ours):.0f} tokens/s, generate in batches of {clients} "
        f"{statistics.median(theirs):.0f}; ratio {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}); first text after {1000 * statistics.median(firsts):.0f} ms"
    )


if __name__ == "__main__":
    main()
