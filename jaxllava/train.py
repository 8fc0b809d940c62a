"""Trains one stage: a linear script, read top to bottom. The batch at step k is a function of (data, config, k)."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerFast

from input_pipeline import loader, records
from input_pipeline.conversation import get_template
from input_pipeline.errors import UserError, nearest
from input_pipeline.images import MODES
from jaxllava import interrupts
from jaxllava import optimizer as optimizer_lib
from jaxllava import rules as rules_lib
from jaxllava import sharding as sharding_lib
from jaxllava.checkpoints import Checkpoints
from jaxllava.models.clip import ClipConfig
from jaxllava.models.config import DTYPES
from jaxllava.models.llava import LlavaConfig
from jaxllava.objectives import Loss, make_objective
from jaxllava.rules import Params
from jaxllava.weights import orbax as folder
from jaxllava.weights.source import open_checkpoint

Progress = Callable[[int, int, str], None]
SHARDINGS = {"llava": sharding_lib.LLAVA_RULES, "replicated": sharding_lib.REPLICATED}


@dataclass(frozen=True)
class Trained:
    """A finished run: its model folder, loss curve [(step, loss)], and what it cost."""

    model: Path
    curve: list[tuple[int, float]]
    seconds: float
    tokens_per_second: float  # real (not padding) tokens through the decoder or text tower
    facts: dict[str, Any]


@partial(
    jax.jit, static_argnames=("loss", "optimizer", "accumulate"), donate_argnames=("trained", "opt_state")
)
def train_step(
    trained: Params,
    opt_state: optax.OptState,
    frozen: Params,
    batch: dict[str, jax.Array],
    *,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    accumulate: int = 1,
) -> tuple[Params, optax.OptState, dict[str, jax.Array]]:
    """One optimizer step. Losses and gradients are summed over micro-batches and divided once by the total weight."""

    def loss_sum(trained: Params, micro: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return loss(rules_lib.merge(trained, frozen), micro)

    gradient = jax.value_and_grad(loss_sum, has_aux=True)
    if accumulate == 1:
        (total, weight), grads = gradient(trained, batch)
    else:

        def one(carry: Any, micro: dict[str, jax.Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, carry, gradient(trained, micro)), None

        cut = lambda x: x.reshape(accumulate, x.shape[0] // accumulate, *x.shape[1:])
        micros = jax.tree.map(cut, batch)
        zero = ((jnp.float32(0), jnp.float32(0)), jax.tree.map(jnp.zeros_like, trained))
        ((total, weight), grads), _ = jax.lax.scan(one, zero, micros)
    scale = 1.0 / jnp.maximum(weight, 1.0)
    grads = jax.tree.map(lambda g: g * scale, grads)
    updates, opt_state = optimizer.update(grads, opt_state, trained)
    metrics = {"loss": total * scale, "gradient_norm": optax.global_norm(grads), "weight": weight}
    return optax.apply_updates(trained, updates), opt_state, metrics  # type: ignore[return-value]


def initial_params(
    init: Callable[[jax.Array], Params],
    config: ConfigDict,
    mesh: jax.sharding.Mesh,
    given: Params | None,
) -> Params:
    """Parameters by `config.init`, an ordered (regex -> model folder | None) list; None means random.

    `given` is an earlier model's whole tree of `Leaf` (config.base) and comes in place of the random one. What
    comes from folders is read one parameter at a time and goes straight to its devices.
    """
    key = jax.random.key(config.seed)
    shapes = jax.eval_shape(init, key)
    shardings = sharding_lib.param_shardings(shapes, mesh, SHARDINGS[config.sharding_rules])
    if given is not None:
        places = rules_lib.flatten(shardings)
        params = rules_lib.unflatten(
            {
                path: jax.device_put(leaf.read(), places[path])
                for path, leaf in rules_lib.flatten(given).items()
            }
        )
    else:
        params = jax.jit(init, out_shardings=shardings)(key)
    flat, flat_shardings = rules_lib.flatten(params), rules_lib.flatten(shardings)
    sources = rules_lib.match(config.init, flat, "config.init")
    for path in sorted({Path(value) for value in sources.values() if value is not None}):
        loaded = open_checkpoint(path).as_llava()
        for name in [name for name, value in sources.items() if value is not None and Path(value) == path]:
            if name not in loaded or loaded[name].shape != flat[name].shape:
                found = loaded[name].shape if name in loaded else "nothing"
                raise UserError(f"config.init: {path} holds {found} for {name}, needed {flat[name].shape}")
            leaf = loaded[name].astype(flat[name].dtype)
            flat[name] = jax.device_put(leaf.read(), flat_shardings[name])
    return rules_lib.unflatten(flat)


def check(config: ConfigDict) -> None:
    """Raises a UserError for a value that no run can work with, before anything is read or written."""
    for key in ("steps", "batch", "accumulate", "loss_chunks", "log_every", "checkpoint_every", "row_tokens"):
        if getattr(config, key) < 1:
            raise UserError(f"config.{key}={getattr(config, key)}: at least 1 is needed")
    methods = {method for _, method in config.method_rules}
    choices = {
        "sharding_rules": ({config.sharding_rules}, SHARDINGS),
        "image_mode": ({config.image_mode}, ("", *MODES)),
        "frozen_dtype": ({config.frozen_dtype}, DTYPES),
        "method_rules": (methods, optimizer_lib.METHODS),
    }
    for key, (given, valid) in choices.items():
        for value in given - set(valid):
            raise UserError(f"config.{key}: {value!r} is not known.{nearest(str(value), valid)}")
    get_template(config.template)


def train(
    config: ConfigDict,
    model_config: LlavaConfig | ClipConfig,
    tokenizer: PreTrainedTokenizerFast,
    workdir: Path,
    *,
    progress: Progress | None = None,
) -> Trained:
    """Runs (or resumes, or returns) the stage that `config` describes and leaves `workdir/model`.

    An interrupt saves the current step; the same call goes on from there. Raises UserError for a config, data set or
    checkpoint that cannot work, before the first step wherever that can be known then.
    """
    report = progress or (lambda done, total, note: None)
    check(config)
    if config.image_mode and isinstance(model_config, LlavaConfig):
        model_config = model_config.replace(image_mode=config.image_mode)
    if isinstance(model_config, LlavaConfig) and model_config.image_mode == "anyres":
        raise UserError(
            f"{config.base}: LLaVA-NeXT's anyres is not trained here yet; set --config.image_mode=pad to train it on "
            "whole pictures of one view."
        )
    workdir.mkdir(parents=True, exist_ok=True)
    summary_path = workdir / "train.json"

    # -- what this run is: the same fingerprint means the same result ------------------------------------------------
    fingerprint = {
        "config": config.to_dict(),
        "model": model_config.to_json(),
        "data": {split: records.data_hash(Path(config.data), split) for split, _ in config.mixture},
    }
    fingerprint = json.loads(json.dumps(fingerprint, sort_keys=True, default=str))
    if summary_path.exists():
        saved = json.loads(summary_path.read_text())
        if saved.pop("fingerprint") != fingerprint:
            raise UserError(f"{workdir} holds a finished run with another config or data; use a new workdir")
        return Trained(
            workdir / "model", **{k: saved[k] for k in ("curve", "seconds", "tokens_per_second", "facts")}
        )

    # -- data --------------------------------------------------------------------------------------------------------
    mesh = sharding_lib.make_mesh(config.mesh, jax.devices()[: config.devices or None])
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if config.batch % (config.accumulate * shards):
        raise UserError(
            f"config.batch={config.batch} does not divide over {shards} data shards x {config.accumulate} micro-batches"
        )
    objective = make_objective(config, model_config)
    rows, facts = objective.rows(
        tokenizer, lambda done, total: report(0, config.steps, f"tokens {done}/{total}")
    )
    if not len(rows):
        raise UserError(f"no training rows in {config.data} for {config.mixture}")

    # -- model: resume > init rules > random -------------------------------------------------------------------------
    given = open_checkpoint(config.base).leaves if config.base else None
    params = initial_params(objective.init, config, mesh, given)
    trained, frozen = optimizer_lib.partition(params, config.lr_rules)
    # Half precision cannot hold an update of 2e-5 of a weight: what trains is float32, whatever the base was.
    trained = jax.tree.map(lambda x: x.astype(jnp.float32), trained)
    frozen = jax.tree.map(lambda x: x.astype(config.frozen_dtype), frozen)
    optimizer, schedule = optimizer_lib.make_optimizer(config, params)
    del params
    # Not under jit: moments are then laid out as their parameters are. Counters go to every device.
    opt_state = jax.tree.map(partial(sharding_lib.spread, mesh=mesh), optimizer.init(trained))
    checkpoints = Checkpoints(workdir / "checkpoints", fingerprint)
    restored = checkpoints.restore({"trained": trained, "optimizer": opt_state})
    start = 0
    if restored:
        start, state = restored
        trained, opt_state = state["trained"], state["optimizer"]
    _cut_log(workdir / "metrics.jsonl", start)  # also of a run that ended before its first checkpoint

    # -- steps -------------------------------------------------------------------------------------------------------
    stream = loader.batches(
        rows,
        global_batch=config.batch,
        seed=config.seed,
        start=start,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )
    step_fn = partial(train_step, loss=objective.loss, optimizer=optimizer, accumulate=config.accumulate)
    batch_sharding = sharding_lib.batch_sharding(mesh)
    clock, tokens = time.monotonic(), 0
    with (workdir / "metrics.jsonl").open("a") as log, interrupts.deferred() as interrupt:
        for step in range(start + 1, config.steps + 1):
            batch = next(stream)
            tokens += int(
                (batch["segment_ids"] > 0).sum() if "segment_ids" in batch else batch["text_length"].sum()
            )
            arrays = loader.to_device(batch, batch_sharding)
            trained, opt_state, metrics = step_fn(trained, opt_state, frozen, arrays)
            if step % config.log_every == 0 or step in (start + 1, config.steps):
                loss = float(metrics["loss"])
                if not math.isfinite(loss):
                    raise UserError(f"loss is {loss} at step {step}; lower config.lr or look at the data")
                if step == start + 1:  # the first step is compilation: the rate counts from its end
                    clock, tokens = time.monotonic(), 0
                line = {
                    "step": step,
                    "loss": loss,
                    "lr": float(np.asarray(schedule(step - 1))),
                    "gradient_norm": float(metrics["gradient_norm"]),
                    "tokens_per_second": round(tokens / max(time.monotonic() - clock, 1e-9), 1),
                }
                log.write(json.dumps(line) + "\n")
                log.flush()
                report(step, config.steps, f"loss {loss:.3f}")
            if interrupt.requested or (step % config.checkpoint_every == 0 and step < config.steps):
                checkpoints.save(step, {"trained": trained, "optimizer": opt_state})
            if interrupt.requested:
                checkpoints.close()
                raise KeyboardInterrupt
    jax.block_until_ready(trained)
    seconds = time.monotonic() - clock

    # -- result: the model folder first, then the file that says that it is whole ------------------------------------
    full = rules_lib.merge(trained, frozen)
    template, generation = config.template, {}
    if config.base:
        generation = open_checkpoint(config.base).generation
    if config.base and get_template(template).style == "plain":
        # `plain` is how a projector is trained, not how the model is spoken to.
        template = open_checkpoint(config.base).template
    folder.save_model(
        workdir / "model", jax.device_get(full), model_config, tokenizer, template, generation=generation
    )
    checkpoints.close()
    curve = [(line["step"], line["loss"]) for line in map(json.loads, (workdir / "metrics.jsonl").open())]
    summary = {
        "curve": curve,
        "seconds": round(seconds, 2),
        "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
        "facts": {**facts, "steps": config.steps, "trained_parameters": optimizer_lib.count(trained)},
    }
    unfinished = summary_path.with_suffix(".tmp")
    unfinished.write_text(json.dumps({**summary, "fingerprint": fingerprint}, indent=1))
    unfinished.rename(summary_path)
    return Trained(workdir / "model", **summary)


def _cut_log(path: Path, last_step: int) -> None:
    """Drops the lines of steps that will be run again."""
    if path.exists():
        lines = [
            line for line in path.read_text().splitlines() if line and json.loads(line)["step"] <= last_step
        ]
        path.write_text("".join(line + "\n" for line in lines))
