"""Trains one stage: a linear script, read top to bottom. The batch at step k is a function of (data, config, k)."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerFast

from input_pipeline import loader
from input_pipeline.asker import Asker
from input_pipeline.conversation import get_template
from input_pipeline.errors import UserError
from input_pipeline.rows import PackedRows
from jaxllava import checkpoints as checkpoints_lib
from jaxllava import (
    flops,
    hosts,
    identity,
    initial,
    interrupts,
    kept,
    lora,
    metrics,
    preflight,
    profiling,
    settings,
    summary,
)
from jaxllava import optimizer as optimizer_lib
from jaxllava import rules as rules_lib
from jaxllava import sharding as sharding_lib
from jaxllava.bases import Base, open_base
from jaxllava.checkpoints import Checkpoints, check_identity
from jaxllava.meter import Meter
from jaxllava.models.clip import ClipConfig
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.objectives import make_objective
from jaxllava.summary import Trained
from jaxllava.train_step import make_step
from jaxllava.validation import Validation
from jaxllava.weights import orbax as folder

Progress = Callable[[int, int, str], None]


def train(
    config: ConfigDict,
    model_config: LlavaConfig | ClipConfig,
    tokenizer: PreTrainedTokenizerFast,
    workdir: Path,
    *,
    base: Base | None = None,
    asker: Asker | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Trained:
    """Runs (or resumes, or returns) the stage that `config` describes and leaves `workdir/model`.

    `base` is what it starts from (default: what `config.base` names, or nothing and all parameters are new). `asker` is
    the question tokenizer of a LLaMA-VID, by default the base's.
    On several hosts all of them call this with the same arguments and a workdir that they share. An interrupt saves
    the current step and raises KeyboardInterrupt (`interrupts.Preempted` for SIGTERM); the same call goes on from
    there. Raises UserError for a config, data set or checkpoint that cannot work, before the first step wherever that
    can be known then. `say` gets a line for what the user should know of (default: stderr of the first host).
    """
    report = progress or (lambda done, total, note: None)
    say = say or (lambda line: print(line, file=sys.stderr) if hosts.is_first() else None)
    settings.check(config)
    model_config = settings.with_settings(config, model_config)
    with preflight.claimed(workdir):
        return _train(config, model_config, tokenizer, workdir, base, asker, report, say)


def _train(
    config: ConfigDict,
    model_config: LlavaConfig | ClipConfig,
    tokenizer: PreTrainedTokenizerFast,
    workdir: Path,
    base: Base | None,
    asker: Asker | None,
    report: Progress,
    say: Callable[[str], None],
) -> Trained:
    # -- what this run is: the same identity means the same result ---------------------------------------------------
    base = base or (open_base(config) if config.base else None)
    asker = asker or (base.asker if base else None)
    who = identity.of_run(config, model_config, tokenizer, asker)
    hosts.agree(who | {"code": identity.of_code()}, config.barrier_minutes)
    if (before := summary.finished(workdir, who)) is not None:
        return before
    check_identity(workdir / "checkpoints", who)

    # -- data --------------------------------------------------------------------------------------------------------
    mesh = sharding_lib.make_mesh(config.mesh, limit=config.devices)
    objective = make_objective(config, model_config, asker)
    shapes = initial.final_shapes(objective.init, config)
    features = kept.open_kept(config, model_config, who, shapes)
    if features is not None:
        objective = make_objective(config, model_config, asker, features)
    rows, facts = objective.rows(tokenizer, lambda done, total: report(0, 1, f"tokens {done}/{total}"))
    if not len(rows):
        raise UserError(f"no training rows in {config.data} for {config.mixture}")
    for note in base.notes if base else ():
        say(f"note: {note}")
    if base and get_template(config.template).style != "plain" and base.template not in ("", config.template):
        say(f"note: config.template is {config.template!r}; the base was trained with {base.template!r}")
    batch_rows, steps = facts["batch"], config.steps or facts["steps"]
    preflight.check_batch(batch_rows, config.accumulate, mesh)
    config = config.copy_and_resolve_references()
    config.batch, config.steps = batch_rows, steps  # what `samples_per_step` and epochs came to
    held_out = Validation.of(config, objective, tokenizer, mesh)

    # -- model: resume > base, init rules > random -------------------------------------------------------------------
    optimizer, schedule = optimizer_lib.make_optimizer(config, shapes)

    def begin() -> tuple[rules_lib.Params, rules_lib.Params, Any]:
        """(trained, frozen, the optimizer's state) before the first step."""
        params = initial.initial_params(objective.init, config, mesh, base.leaves if base else None)
        trained, frozen = optimizer_lib.partition(params, config.lr_rules)
        with jax.set_mesh(mesh):
            return trained, frozen, optimizer_lib.initial_state(optimizer, trained, mesh)

    trained, frozen, opt_state = begin()
    if features is not None:
        seen = lambda done, total: report(0, 1, f"frames of {done}/{total} samples")
        for read in (rows, held_out.rows if held_out else None):
            if isinstance(read, PackedRows) and isinstance(model_config, LlamaVidConfig):
                kept.fill(read, model_config, frozen, mesh, config.barrier_minutes, seen)
    cost = flops.of_trained(model_config, trained, bool(config.features))
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
        compiler_options=dict(config.tpu_options) if sharding_lib.is_tpu(mesh) else {},
    )
    batch_sharding = sharding_lib.batch_sharding(mesh)
    log = metrics.Log(workdir, start, enabled=hosts.is_first(), tensorboard=config.tensorboard)
    if start and hosts.is_first() and (lines := metrics.read(log.path)[-1:]) and lines[0]["step"] < start:
        say(f"note: {log.path} ends at step {lines[0]['step']} of {start}: its later lines were lost")
    meter = Meter(
        log,
        workdir=workdir,
        rows=batch_rows,
        first=start + 1,
        log_every=config.log_every,
        # All at once: computed at a step's end, each would wait for the steps that the devices were given before it.
        rates=np.asarray(schedule(jnp.arange(steps)), np.float32),
        sources=[split for split, _ in config.mixture],
        cost=cost,
        devices=mesh.size,
        report=lambda step, note: report(step, steps, note),
    )

    def save(step: int, trained: rules_lib.Params, opt_state: Any) -> None:
        """Everything up to `step` is in the log and found to be finite before it becomes a checkpoint."""
        meter.drain()
        found: dict[str, Any] = {}
        # Not at an interrupt: a machine that is taken away gives half a minute, and an undisturbed run has none there.
        if held_out and (step % config.checkpoint_every == 0 or step == steps):
            found = {"loss": held_out.measure(trained, frozen)}
            log.write({"step": step, "validation_loss": found["loss"]})
            log.commit()
        checkpoints.save(step, {"trained": trained, "optimizer": opt_state}, found)
        meter.restart_clock()

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
        stack.enter_context(checkpoints)
        stack.callback(log.close)
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
            meter.add(step, found, waited, batch)
            if step % config.checkpoint_every == 0 or step == steps or meter.stop:
                save(step, trained, opt_state)
            if meter.stop and step < steps:
                checkpoints.close()
                raise interrupts.error(meter.stop, step)
        if config.export_best:
            state = checkpoints_lib.layout({"trained": trained, "optimizer": opt_state})
            del trained, opt_state  # not beside what is read
            step, state = checkpoints.restore_best(state)
            trained, opt_state = state["trained"], state["optimizer"]
            say(f"note: the model is that of step {step}, which had the lowest validation loss")
            del state

    # -- result: the model folder first, then the file that says that it is whole ------------------------------------
    del opt_state  # room for the copies that follow
    full = rules_lib.merge(trained, frozen)
    if config.lora_rules or config.quantize_rules:
        full = lora.merge(full, dtype=config.save_dtype or None, donate=True)
    if config.save_dtype:
        full = jax.tree.map(lambda x: x.astype(config.save_dtype), full)
    template, generation = config.template, base.generation if base else {}
    if base and get_template(template).style == "plain":
        # `plain` is how a projector is trained, not how the model is spoken to.
        template = base.template
    described = settings.as_saved(config, model_config)
    folder.save_model(
        workdir / "model", full, described, tokenizer, template, generation=generation, asker=asker
    )
    facts |= {"steps": steps, "trained_parameters": optimizer_lib.count(trained)}
    return summary.finish(
        workdir,
        who,
        log_every=config.log_every,
        seconds=round(meter.seconds, 2),
        tokens_per_second=round(meter.tokens / max(meter.seconds, 1e-9), 1),
        facts=facts,
        write=hosts.is_first(),
    )
