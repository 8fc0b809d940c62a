"""Trains one stage: a linear script, read top to bottom. The batch at step k is a function of (data, config, k)."""

from __future__ import annotations

import collections
import contextlib
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerFast

from input_pipeline import loader
from input_pipeline.conversation import get_template
from input_pipeline.errors import UserError
from jaxllava import checkpoints as checkpoints_lib
from jaxllava import (
    flops,
    hosts,
    identity,
    initial,
    interrupts,
    lora,
    metrics,
    preflight,
    profiling,
    summary,
)
from jaxllava import optimizer as optimizer_lib
from jaxllava import rules as rules_lib
from jaxllava import sharding as sharding_lib
from jaxllava.bases import Base, open_base
from jaxllava.checkpoints import Checkpoints
from jaxllava.models.clip import ClipConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.objectives import make_objective
from jaxllava.summary import Trained
from jaxllava.train_step import hexadecimal, make_step
from jaxllava.validation import Validation
from jaxllava.weights import orbax as folder

Progress = Callable[[int, int, str], None]
# Steps whose results are not waited for: the devices always have the next one at hand.
LAG = 2


class _Pending(NamedTuple):
    """A step that the devices may still be working on."""

    step: int
    metrics: dict[str, Any]
    waited: float  # seconds of the host for its batch
    batch: dict[str, np.ndarray]  # this host's part


def train(
    config: ConfigDict,
    model_config: LlavaConfig | ClipConfig,
    tokenizer: PreTrainedTokenizerFast,
    workdir: Path,
    *,
    base: Base | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Trained:
    """Runs (or resumes, or returns) the stage that `config` describes and leaves `workdir/model`.

    `base` is what it starts from (default: what `config.base` names, or nothing and all parameters are new).
    On several hosts all of them call this with the same arguments and a workdir that they share. An interrupt saves
    the current step and raises KeyboardInterrupt (`interrupts.Preempted` for SIGTERM); the same call goes on from
    there. Raises UserError for a config, data set or checkpoint that cannot work, before the first step wherever that
    can be known then. `say` gets a line for what the user should know of (default: stderr of the first host).
    """
    report = progress or (lambda done, total, note: None)
    say = say or (lambda line: print(line, file=sys.stderr) if hosts.is_first() else None)
    preflight.check(config)
    model_config = preflight.with_settings(config, model_config)
    workdir.mkdir(parents=True, exist_ok=True)

    # -- what this run is: the same identity means the same result ---------------------------------------------------
    who = identity.of_run(config, model_config, tokenizer)
    hosts.agree(who | {"code": identity.of_code()}, config.barrier_minutes)
    if (before := summary.finished(workdir, who)) is not None:
        return before

    # -- data --------------------------------------------------------------------------------------------------------
    base = base or (open_base(config) if config.base else None)
    mesh = sharding_lib.make_mesh(config.mesh, jax.devices()[: config.devices or None])
    objective = make_objective(config, model_config)
    rows, facts = objective.rows(tokenizer, lambda done, total: report(0, 1, f"tokens {done}/{total}"))
    if not len(rows):
        raise UserError(f"no training rows in {config.data} for {config.mixture}")
    for note in (*facts.pop("notes", ()), *(base.notes if base else ())):
        say(f"note: {note}")
    batch_rows, steps = facts["batch"], config.steps or facts["steps"]
    preflight.check_batch(batch_rows, config.accumulate, mesh)
    config = config.copy_and_resolve_references()
    config.batch, config.steps = batch_rows, steps  # what `samples_per_step` and epochs came to
    held_out = Validation.of(config, objective, tokenizer, mesh)

    # -- model: resume > base, init rules > random -------------------------------------------------------------------
    shapes = initial.final_shapes(objective.init, config)
    optimizer, schedule = optimizer_lib.make_optimizer(config, shapes)

    def begin() -> tuple[rules_lib.Params, rules_lib.Params, Any]:
        """(trained, frozen, the optimizer's state) before the first step."""
        params = initial.initial_params(objective.init, config, mesh, base.leaves if base else None)
        trained, frozen = optimizer_lib.partition(params, config.lr_rules)
        with jax.set_mesh(mesh):
            return trained, frozen, optimizer_lib.initial_state(optimizer, trained, mesh)

    trained, frozen, opt_state = begin()
    cost = flops.of_model(model_config, _parts_that_train(trained))
    state = checkpoints_lib.layout({"trained": trained, "optimizer": opt_state})
    model_bytes = preflight.model_bytes(shapes, config)
    preflight.check_disk(workdir, state, model_bytes, config.keep + config.keep_best)
    checkpoints = Checkpoints(
        workdir / "checkpoints",
        who,
        keep=config.keep,
        keep_best=config.keep_best,
        minutes=config.barrier_minutes,
        say=say,
    )
    start = 0
    if checkpoints.steps():
        del trained, opt_state  # beside what is read, a resumed run would need twice a fresh one's memory
        if restored := checkpoints.restore(state):
            start, state = restored
            trained, opt_state = state["trained"], state["optimizer"]
        else:
            del frozen
            trained, frozen, opt_state = begin()
    del state

    # -- the step ----------------------------------------------------------------------------------------------------
    whole = NamedSharding(mesh, PartitionSpec())
    layout = lambda tree: jax.tree.map(lambda leaf: leaf.sharding, tree)
    step_fn = make_step(
        objective.loss,
        optimizer,
        accumulate=config.accumulate,
        seed=config.seed,
        shardings=(layout(trained), layout(opt_state), whole),
    )
    batch_sharding = sharding_lib.batch_sharding(mesh)
    sources = [split for split, _ in config.mixture]
    # All at once: computed at a step's end, each would wait for the steps that were sent to the devices before it.
    rates = np.asarray(schedule(jnp.arange(steps)), np.float32)
    log = metrics.Log(workdir, start, enabled=hosts.is_first(), tensorboard=config.tensorboard)
    pending: collections.deque[_Pending] = collections.deque()
    ended, total_tokens, total_seconds, stop = time.monotonic(), 0, 0.0, 0

    def settle() -> None:
        """Waits for the oldest step, checks and writes what it measured."""
        nonlocal ended, total_tokens, total_seconds, stop
        oldest = pending.popleft()
        fetched = jax.device_get(oldest.metrics)
        now = time.monotonic()
        loss, norm = float(fetched["loss"]), float(fetched["gradient_norm"])
        if not (math.isfinite(loss) and math.isfinite(norm)):
            log.flush()
            raise UserError(_not_a_number(workdir, oldest, loss, norm))
        line = {"step": oldest.step, "lr": float(rates[oldest.step - 1])} | metrics.describe(
            fetched,
            seconds=now - ended,
            waited=oldest.waited,
            positions=batch_rows * oldest.batch["tokens"].shape[1],
            slots=batch_rows * (oldest.batch["images"].shape[1] if oldest.batch["images"].ndim == 5 else 1),
            sources=sources,
            cost=cost,
            devices=mesh.size,
        )
        line["batch"] = hexadecimal(fetched["fingerprint"])
        if oldest.step > start + 1:  # the first step is compilation: the rate counts from its end
            total_tokens += line["tokens"]
            total_seconds += now - ended
        ended = now
        stop = max(stop, int(fetched["stop"]))
        log.write(line)
        if oldest.step % config.log_every == 0 or oldest.step in (start + 1, steps):
            log.flush()
            report(oldest.step, steps, f"loss {loss:.3f}")

    def save(step: int) -> None:
        """Everything up to `step` is in the log and found to be finite before it becomes a checkpoint."""
        while pending:
            settle()
        log.flush()
        # Not at an interrupt: a machine that is taken away gives half a minute, and an undisturbed run has none there.
        due = step % config.checkpoint_every == 0
        found = held_out.measure(trained, frozen) if held_out and due else None
        if found is not None:
            log.write({"step": step, "validation_loss": found})
            log.flush()
        state = {"trained": trained, "optimizer": opt_state}
        checkpoints.save(step, state, {} if found is None else {"loss": found})

    # -- steps -------------------------------------------------------------------------------------------------------
    positions = sharding_lib.rows_of_host(batch_sharding, batch_rows)
    stream = loader.batches(
        rows,
        global_batch=batch_rows,
        positions=positions,
        seed=config.seed,
        start=start,
        workers=config.workers,
    )
    profile = profiling.Window(workdir / "profile", config.profile_at, config.profile_steps)
    with contextlib.ExitStack() as stack:
        stack.callback(log.close)
        stack.enter_context(checkpoints)
        stack.enter_context(jax.set_mesh(mesh))
        stack.callback(stream.close)
        interrupt = stack.enter_context(interrupts.deferred())
        stack.callback(profile.stop)
        for step in range(start + 1, steps + 1):
            profile.at(step)
            asked = time.monotonic()
            batch = next(stream)
            arrays = loader.to_device(batch, batch_sharding, batch_rows, positions)
            waited = time.monotonic() - asked
            flag = sharding_lib.of_hosts(mesh, interrupt.level)
            trained, opt_state, found = step_fn(trained, opt_state, frozen, arrays, jnp.int32(step), flag)
            pending.append(_Pending(step, found, waited, batch))
            if len(pending) > LAG:
                settle()
            if stop or (step % config.checkpoint_every == 0 and step < steps):
                save(step)
            if stop:
                checkpoints.close()
                raise interrupts.error(stop, step)
        while pending:
            settle()
        if held_out:
            log.write({"step": steps, "validation_loss": held_out.measure(trained, frozen)})

    # -- result: the model folder first, then the file that says that it is whole ------------------------------------
    full = rules_lib.merge(trained, frozen)
    if config.lora_rules or config.quantize_rules:
        full = lora.merge(full, dtype=config.save_dtype or None, donate=True)
    if config.save_dtype:
        full = jax.tree.map(lambda x: x.astype(config.save_dtype), full)
    template, generation = config.template, base.generation if base else {}
    if base and get_template(template).style == "plain":
        # `plain` is how a projector is trained, not how the model is spoken to.
        template = base.template
    described = preflight.as_saved(config, model_config)
    folder.save_model(workdir / "model", full, described, tokenizer, template, generation=generation)
    checkpoints.close()
    facts |= {"steps": steps, "trained_parameters": optimizer_lib.count(trained)}
    return summary.finish(
        workdir,
        who,
        log_every=config.log_every,
        seconds=round(total_seconds, 2),
        tokens_per_second=round(total_tokens / max(total_seconds, 1e-9), 1),
        facts=facts,
        write=hosts.is_first(),
    )


def _parts_that_train(trained: rules_lib.Params) -> Callable[[str], bool]:
    parts = {path.split("/")[0] for path in rules_lib.flatten(trained)}
    return lambda part: part in parts


def _not_a_number(workdir: Path, step: _Pending, loss: float, norm: float) -> str:
    """Keeps the batch of a step that went wrong, this host's part of it, and says where."""
    path = workdir / f"not-a-number-step{step.step}-host{jax.process_index()}.npz"
    np.savez(path, **step.batch)  # pyright: ignore[reportArgumentType]
    what = f"loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
    return (
        f"{what} at step {step.step}; its batch is kept in {path}. Lower config.lr or look at the data; the same "
        "command goes on from the last checkpoint"
    )
