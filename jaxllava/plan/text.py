"""A plan as text."""

from __future__ import annotations

from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxllava.models.llava import LlavaConfig
from jaxllava.plan.estimate import GIB, Estimate
from jaxllava.plan.search import MOST_ROWS, Planner
from jaxllava.plan.topology import Slice

ROOFLINE = (
    "Projected by a roofline (jaxllava/plan/estimate.py): peaks of the chip, nothing for starting times. A real step "
    "takes longer."
)


def name_of(config: ConfigDict) -> str:
    return str(config.base or config.decoder or config.architecture)


def of_training(
    config: ConfigDict, model: LlavaConfig, planner: Planner, fastest: Estimate, largest: Estimate | None
) -> str:
    """Every number of rows that was compiled, and the fastest that fits in detail."""
    remat, micro = config.remat or model.decoder.remat, config.accumulate
    lines = [
        _head(config, planner.on, planner.mesh),
        f"{config.stage}: rows of {config.row_tokens} tokens and {config.row_images} pictures, remat {remat}, "
        f"{micro} micro-batch{'es' if micro > 1 else ''}",
        "",
        f"{'rows/step':>10} {'params':>7} {'optim.':>7} {'temp':>7} {'total':>7}  fits {'step':>9} {'MFU':>7}",
    ]
    for per_shard in sorted(planner.known):
        each = planner.known[per_shard]
        memory = " ".join(f"{gib:>7.2f}" for gib in (each.params, each.optimizer, each.temp, each.total))
        mfu = f"{100 * each.mfu:.1f} %" if each.mfu else "-"
        fits = "yes" if each.fits else "no"
        lines.append(f"{each.rows:>10} {memory}  {fits:4} {_time(each.step_s):>9} {mfu:>7}")
    lines.append("")
    if largest is not None:
        least = "at least " if largest is planner.known.get(MOST_ROWS) else ""
        lines.append(f"Largest batch that fits: {least}{largest.rows} rows a step.")
    tokens, seconds, part = fastest.rows * config.row_tokens, fastest.step_s or 1.0, fastest.parts
    moved, sent = (fastest.hbm_bytes or 0) / GIB, (fastest.collective_bytes or 0) / GIB
    lines += [
        f"Best: {fastest.rows} rows, {tokens} tokens a step in {_time(seconds)}, {tokens / seconds:.0f} tokens/s, "
        f"MFU {100 * (fastest.mfu or 0):.1f} % (projected).",
        _memory(fastest),
        f"A token: {(fastest.model_flops or 0) / tokens:.3g} model FLOPs, {(fastest.flops or 0) / tokens:.3g} with "
        "what is computed again.",
        f"Of its {_time(seconds)}: arithmetic {_time(part['arithmetic'])}, operations {_time(part['operations'])}; HBM "
        f"{moved:.0f} GiB {_time(part['hbm'])}; collectives {sent:.1f} GiB {_time(part['collectives'])}, of which "
        f"{_time(part['waiting'])} are waited for.",
        "Longest: " + ", ".join(f"{name} {_time(spent)}" for name, spent in fastest.places) + ".",
        *_notes(fastest),
    ]
    return "\n".join(lines)


def of_generation(
    config: ConfigDict, on: Slice, mesh: Mesh, found: Estimate, prompt: int, new: int, shown: str
) -> str:
    """Memory, prefill and decode."""
    rate = found.rows / (found.decode_step_s or 1.0)
    lines = [
        _head(config, on, mesh),
        f"generate: {found.rows} prompts of {prompt} positions with {shown}, {new} new tokens each, "
        f"{config.dtype or 'bfloat16'}",
        "",
        _memory(found),
        f"Prefill {_time(found.prefill_s)}, a token of every row {_time(found.decode_step_s)}, {rate:.0f} tokens/s; "
        f"the answers {_time((found.prefill_s or 0.0) + new * (found.decode_step_s or 0.0))} (projected).",
        *_notes(found),
    ]
    return "\n".join(lines)


def _head(config: ConfigDict, on: Slice, mesh: Mesh) -> str:
    chip, (data, fsdp, tensor) = on.chip, mesh.devices.shape
    return (
        f"{on.name}: {len(on.devices)} chips of {chip.hbm_gib:.2f} GiB and {chip.peak / 1e12:.0f} TFLOP/s; "
        f"{name_of(config)}; mesh data {data} x fsdp {fsdp} x tensor {tensor}"
    )


def _memory(found: Estimate) -> str:
    return (
        f"HBM of a chip: parameters {found.params:.2f}, optimizer {found.optimizer:.2f}, temporary {found.temp:.2f}, "
        f"total {found.total:.2f} of {found.capacity:.2f} GiB. Compiled in {found.compile_s:.0f} s."
    )


def _notes(found: Estimate) -> list[str]:
    notes = [ROOFLINE]
    if found.unknown:
        notes.append(f"Not counted: FLOPs of the kernels {', '.join(found.unknown)}.")
    return notes


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"
