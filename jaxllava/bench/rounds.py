"""Measuring in rounds, and what the machine is. Where others work too, only what is done in turn compares."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

Seconds = dict[str, list[float]]


def in_turn(ways: Mapping[str, Callable[[], Any]], rounds: int) -> Seconds:
    """Seconds of each way in each round, wall clock. Every way has run once before the first round."""
    for way in ways.values():
        jax.block_until_ready(way())
    found: Seconds = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            jax.block_until_ready(way())
            found[name].append(time.perf_counter() - start)
    return found


def spread(values: list[float]) -> dict[str, float]:
    """{"median", "least", "most"} of a few rounds."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def row(
    part: str, what: str, unit: str, ours: list[float], theirs: list[float] | None = None
) -> dict[str, Any]:
    """A line of the result: rates of each round, of both sides; their ratio is the median over the rounds' ratios."""
    found: dict[str, Any] = {"part": part, "what": what, "unit": unit, "ours": spread(ours)}
    if theirs is not None:
        found["transformers"] = spread(theirs)
        found["ratio"] = spread([own / other for own, other in zip(ours, theirs, strict=True)])
    return found


def threads() -> int:
    """Processors that this process may use, which is what XLA takes."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_ways(size: int = 256 << 20) -> Callable[[], Any]:
    """A function that reads `size` bytes of float32 once, with all of XLA's threads, and sums them.

    In rows of 16 KB: of the shapes tried, from a row per thread to rows of 4 KB, the one that read the most a second.
    """
    numbers = jnp.ones((size // 4 // 4096, 4096), jnp.float32)
    total = jax.jit(lambda x: x.sum(axis=1))
    return lambda: total(numbers)


def machine() -> dict[str, Any]:
    """What the figures depend on, for the file that they are kept in."""
    device = jax.devices()[0]
    found: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "threads": threads(),
        "device": f"{device.platform}: {device.device_kind}",
        "load": [round(value, 1) for value in os.getloadavg()],
        "python": platform.python_version(),
    }
    for name in ("jaxllava", "jax", "jaxlib", "flax", "torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
