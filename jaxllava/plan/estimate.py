"""A program compiled for a slice: whether it fits, what it does, and how long it would take by a roofline.

**The roofline.** On a chip, each operation takes what lasts longer: its FLOPs at the chip's peak or its bytes at HBM's
bandwidth; these are added up. Asynchronous copies and collectives go on beside them, so that a step takes the longest
of: that sum, all HBM bytes at HBM's bandwidth, the asynchronous collectives' bytes over the ICI links of the chip that
has the fewest. Collectives that the compiler left synchronous are added. Nothing is said of how near to its peaks a
chip comes, nor of starting times: a projected time is a lower bound, a projected MFU an upper one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from collections.abc import Iterator
from typing import Any

import jax

from input_pipeline.errors import UserError, in_one_line
from jaxllava.models import splash
from jaxllava.plan import cost as cost_lib
from jaxllava.plan import hlo
from jaxllava.plan.program import Program
from jaxllava.plan.topology import Slice

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Of one call of a program. Memory is GiB of one chip; FLOPs of all chips; bytes of one chip.

    rows: of a call over all chips. fits: it compiles, which it does while `total` is within `capacity`. total: what the
    compiler lays out, and holds against the capacity: arguments, results that take no argument's place, temporaries.
    temp: the last. (`memory_analysis().temp_size_in_bytes` is more: 3.7 instead of 2.4 GiB for a 7B step. It counts
    buffers twice that share a place, and is above the capacity for programs that compile.) Where it does not compile,
    `total` is what the compiler asks for (or 0 if it does not say) and what follows `model_flops` is None.
    """

    rows: int
    fits: bool
    params: float
    optimizer: float
    temp: float
    total: float
    capacity: float
    compile_s: float
    model_flops: float | None
    flops: float | None = None
    collective_bytes: float | None = None
    hbm_bytes: float | None = None
    step_s: float | None = None
    mfu: float | None = None
    parts: dict[str, float] = dataclasses.field(default_factory=dict)  # seconds
    places: tuple[tuple[str, float], ...] = ()  # (operation in the source, seconds), the longest
    unknown: tuple[str, ...] = ()  # kernels whose FLOPs are not counted
    decode_step_s: float | None = None  # of generation: a token of every row
    prefill_s: float | None = None

    @property
    def over(self) -> str:
        """How a program that does not fit does not."""
        if not self.total:
            return f"the compiler finds no room for it in the {self.capacity:.2f} GiB of a chip"
        return f"{self.total:.2f} GiB of {self.capacity:.2f} GiB a chip, over by {self.total - self.capacity:.2f} GiB"

    def to_json(self) -> dict[str, Any]:
        """The fields under the names of `jaxllava plan --json`."""
        memory = ("params", "optimizer", "temp", "total", "capacity")
        named = {
            "rows": self.rows,
            "fits": self.fits,
            "hbm_gib": {name: round(getattr(self, name), 3) for name in memory},
            "flops_per_step": self.flops,
            "model_flops_per_step": self.model_flops,
            "collective_bytes": self.collective_bytes,
            "hbm_bytes": self.hbm_bytes,
            "projected_step_s": self.step_s,
            "projected_mfu": self.mfu,
            "compile_s": round(self.compile_s, 1),
            "projected_parts_s": self.parts,
            "uncounted_kernels": list(self.unknown),
        }
        if self.decode_step_s is not None:
            named |= {"projected_decode_step_s": self.decode_step_s, "projected_prefill_s": self.prefill_s}
        return named


def estimate(program: Program, on: Slice, options: dict[str, Any] | None = None) -> Estimate:
    """Compiles and reads it. options: of the compiler, as `jax.jit(compiler_options=...)`."""
    chip = on.chip
    started = time.monotonic()
    params, optimizer = program.params_bytes / GIB, program.optimizer_bytes / GIB
    known = {
        "rows": program.rows,
        "params": params,
        "optimizer": optimizer,
        "capacity": chip.hbm_gib,
        "model_flops": program.model_flops,
    }
    try:
        with _without_cache():
            compiled = program.lowered.compile(compiler_options=options or None)
    except Exception as error:
        if options and "INVALID_ARGUMENT" in str(error):
            raise UserError(f"config.tpu_options: {in_one_line(error)}") from error
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        total = _asked_for(str(error))
        temp = max(total - params - optimizer, 0.0)
        seconds = time.monotonic() - started
        return Estimate(**known, fits=False, temp=temp, total=total, compile_s=seconds)
    seconds = time.monotonic() - started
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    temp, total = (memory.peak_memory_in_bytes - held) / GIB, memory.peak_memory_in_bytes / GIB
    module = hlo.Module.parse(compiled.as_text())
    rates = (chip.peak, chip.hbm_bandwidth, splash.kernel_flops)
    cost = cost_lib.of(module, *rates)
    step, parts = _seconds(cost, on)
    mfu = program.model_flops and program.model_flops / len(on.devices) / rates[0] / step
    places = sorted(cost.by_place.items(), key=lambda item: -item[1][0])[:5]
    found = Estimate(
        **known,
        fits=total <= known["capacity"],
        temp=temp,
        total=total,
        compile_s=seconds,
        flops=cost.flops * len(on.devices),
        collective_bytes=cost.collective_bytes,
        hbm_bytes=cost.hbm_bytes,
        step_s=step,
        mfu=mfu,
        parts=parts,
        places=tuple((_short(name), values[0]) for name, values in places),
        unknown=tuple(sorted(cost.unknown)),
    )
    loops = module.open_loops()
    if not loops:
        return found
    each, _ = _seconds(cost_lib.of(module, *rates, entry=loops[-1]), on)
    return dataclasses.replace(found, decode_step_s=each, prefill_s=step - each)


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """A program for chips that are not here can be written to jax's persistent cache and not be read from it."""
    before = getattr(jax.config, "jax_enable_compilation_cache")  # noqa: B009 (jax does not declare it)
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def _seconds(cost: cost_lib.Cost, on: Slice) -> tuple[float, dict[str, float]]:
    """(seconds of a call, its parts)."""
    chip, links = on.chip, on.bandwidth
    send = cost.collective_bytes / links if links else 0.0
    wait = cost.waited_bytes / links if links else 0.0
    parts = {
        "arithmetic": cost.flops / chip.peak,
        "operations": cost.busy,
        "hbm": cost.hbm_bytes / chip.hbm_bandwidth,
        "collectives": send,
        "waiting": wait,
    }
    return max(cost.busy, parts["hbm"], send - wait) + wait, parts


def _asked_for(message: str) -> float:
    """GiB that the compiler's message names: "HLO temporaries (60.17G)" (arguments are among them), "Used 25.82G of
    15.75G hbm".
    """
    found = re.search(r"(?:temporaries \(|Used |require[sd]? )([\d.]+)([KMGT])", message)
    if not found:
        return 0.0
    return float(found.group(1)) * {"K": 2**-20, "M": 2**-10, "G": 1.0, "T": 2**10}[found.group(2)]


def _short(name: str) -> str:
    """ "jit(step)/transpose(jvp(LlavaModel))/decoder/.../mlp/up_proj/dot_general" -> "backward mlp/up_proj"."""
    plain = re.sub(r"/(closed_call|checkpoint|while|body|dot_general|shard_map)(?=/|$)", "", name)
    way = "remat " if "rematted" in name else "backward " if "transpose(" in name else ""
    return way + "/".join(plain.split("/")[-2:])
