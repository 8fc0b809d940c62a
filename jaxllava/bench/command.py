"""The command: which parts, at what size, against whom; the table and the file."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from input_pipeline.errors import UserError, nearest

AGAINST = ("transformers",)


def run(
    size_name: str,
    only: str,
    against: str,
    rounds: int,
    threads: int,
    progress: Callable[..., None] = lambda done, total, note="": None,
) -> dict[str, Any]:
    """Measures and returns {"machine", "size", "rows"}.

    Raises UserError for names that are not known, too little memory, and PyTorch that is asked for and missing.
    """
    if rounds < 1:
        raise UserError(f"--rounds {rounds}: at least 1 is needed")
    if against and against not in AGAINST:
        raise UserError(f"--against {against!r} is not known.{nearest(against, AGAINST)}")
    if threads:
        _limit(threads)
    import jax  # counts the processors when it starts

    from jaxllava.bench import inference, pictures, pipeline, sizes, training
    from jaxllava.bench import rounds as rounds_lib
    from jaxllava.bench import twin as twin_lib

    if size_name not in sizes.SIZES:
        raise UserError(f"--size {size_name!r} is not known.{nearest(size_name, sizes.SIZES)}")
    parts = tuple(part.strip() for part in only.split(",") if part.strip()) or sizes.PARTS
    for part in parts:
        if part not in sizes.PARTS:
            raise UserError(f"--only: no part is named {part!r}.{nearest(part, sizes.PARTS)}")
    size = sizes.SIZES[size_name]()
    if against:
        twin_lib.check(size.config)
    sizes.check_memory(size_name, size, parts, bool(against))
    before = rounds_lib.machine()
    needs_model = {"prefill", "decode", "conversion"} & set(parts) or (against and "train" in parts)
    params = twin = None
    if needs_model:
        params = training.fresh(size.config)
        if against:
            twin = twin_lib.Twin(size.config, params)
    rows: list[dict[str, Any]] = []
    steps = {
        "prefill": lambda: inference.measure(size, params or {}, parts, twin, rounds),
        "images": lambda: pictures.measure(336, bool(against), rounds),
        "input": lambda: pipeline.measure_input(size, rounds),
        "conversion": lambda: pipeline.measure_conversion(size, params or {}, twin, max(1, rounds // 2)),
        "train": lambda: training.measure(size, params, twin, rounds),  # last: the twin's weights move
    }
    wanted = [s for s in steps if s in parts or (s == "prefill" and "decode" in parts)]
    for number, step in enumerate(wanted):
        progress(number, len(wanted), step)
        try:
            rows += steps[step]()
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
                raise UserError(
                    f"--size {size_name}: {step} ran out of memory; take a smaller one"
                ) from error
            raise
    progress(len(wanted), len(wanted), "done")
    facts = before | {"load_after": [round(value, 1) for value in os.getloadavg()]}
    rows.sort(key=lambda line: sizes.PARTS.index(line["part"]))
    return {"size": size_name, "rounds": rounds, "machine": facts, "rows": rows}


def table(found: dict[str, Any]) -> str:
    """The result for a terminal."""
    facts = found["machine"]
    lines = [
        f"{facts['processor']}, {facts['threads']} threads, {facts['device']}; load {facts['load'][0]} before, "
        f"{facts['load_after'][0]} after; medians of {found['rounds']} rounds",
        "",
        f"{'':<11}{'':<50}{'jaxllava':>12}  {'unit':<14}{'ratio to transformers':>22}",
    ]
    for line in found["rows"]:
        ratio = line.get("ratio")
        versus = f"{ratio['median']:.2f} [{ratio['least']:.2f}, {ratio['most']:.2f}]" if ratio else ""
        rate = line["ours"]["median"]
        shown = f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"
        lines.append(f"{line['part']:<11}{line['what']:<50}{shown:>12}  {line['unit']:<14}{versus:>22}")
        lines += [f"{'':<11}  {note}" for note in _notes(line)]
    return "\n".join(lines)


def _notes(line: dict[str, Any]) -> list[str]:
    """What a line says beside its rate."""
    found = []
    if "share_of_bandwidth" in line:
        found.append(
            f"{line['share_of_bandwidth']:.0%} of the {line['bandwidth_gb_s']} GB/s that memory gives for "
            f"{line['weights_mb']} MB a token"
        )
    if "fill" in line:
        found.append(
            f"real positions: {line['fill']:.1%} of packed rows, {line['fill_padded']:.1%} of padded ones"
        )
    if "mfu" in line:
        found.append(f"MFU {line['mfu']:.1%}")
    return found


def _limit(threads: int) -> None:
    if not hasattr(os, "sched_setaffinity"):
        raise UserError("--threads: this system cannot hold a process to some processors; leave it out")
    held = sorted(os.sched_getaffinity(0))
    if not 0 < threads <= len(held):
        raise UserError(f"--threads {threads}: this process may use 1 to {len(held)}")
    os.sched_setaffinity(0, held[:threads])
