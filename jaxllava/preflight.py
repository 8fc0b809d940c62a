"""What can be known to be wrong before the first step: settings, the mesh, the batch, the disk."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from input_pipeline.conversation import get_template
from input_pipeline.errors import UserError, nearest
from input_pipeline.images import MODES
from jaxllava import optimizer, rules, sharding
from jaxllava.models.attention import IMPLEMENTATIONS
from jaxllava.models.clip import ClipConfig
from jaxllava.models.config import DTYPES, REMAT_POLICIES
from jaxllava.models.linear import ADAPTER
from jaxllava.models.llava import LlavaConfig
from jaxllava.rules import Params

AT_LEAST_ONE = (
    *("accumulate", "loss_chunks", "log_every", "checkpoint_every", "row_tokens", "pad_multiple", "keep"),
    "profile_steps",
)
AT_LEAST_NONE = (
    *("steps", "samples_per_step", "workers", "keep_best", "validation_rows", "profile_at", "devices"),
    *("row_images", "sample_tokens"),
)
# A gradient clipped to a norm of 0 trains nothing, and says nothing of it.
ABOVE_NONE = ("mixture_epochs", "clip_norm", "barrier_minutes")
AnyModel = TypeVar("AnyModel", bound=LlavaConfig | ClipConfig)
SPARE = 64 * 2**20  # bytes of a workdir beside its checkpoints and model


def check(config: ConfigDict) -> None:
    """Raises a UserError for a value that no run can work with, before anything is read or written."""
    for keys, least in ((AT_LEAST_ONE, 1), (AT_LEAST_NONE, 0)):
        for key in keys:
            if getattr(config, key) < least:
                raise UserError(f"config.{key}={getattr(config, key)}: at least {least} is needed")
    if config.batch < 1 and not config.samples_per_step:
        raise UserError(f"config.batch={config.batch}: at least 1 is needed")
    for key in ("lr", "warmup", *ABOVE_NONE):
        value = getattr(config, key)
        if not math.isfinite(value) or value < 0 or (key in ABOVE_NONE and not value):
            raise UserError(f"config.{key}={value}: a positive number is needed")
    for key in ("mixture", "validation"):
        for split, weight in getattr(config, key):
            if not (math.isfinite(weight) and weight > 0):
                raise UserError(
                    f"config.{key} gives {split} the weight {weight}: a positive number is needed; leave out what is "
                    "not to be read"
                )
    if config.keep_best and not config.validation:
        raise UserError(
            f"config.keep_best={config.keep_best}: the best by validation loss, and config.validation names no data; "
            "set one or the other"
        )
    methods = {method for _, method in config.method_rules}
    choices = {
        "sharding_rules": ({config.sharding_rules}, sharding.RULES),
        "image_mode": ({config.image_mode}, ("", *MODES)),
        "dtype": ({config.dtype}, ("", *DTYPES)),
        "frozen_dtype": ({config.frozen_dtype}, DTYPES),
        "save_dtype": ({config.save_dtype}, ("", *DTYPES)),
        "attention": ({config.attention}, ("", *IMPLEMENTATIONS)),
        "remat": ({config.remat}, ("", *REMAT_POLICIES)),
        "method_rules": (methods, optimizer.METHODS),
    }
    for key, (given, valid) in choices.items():
        for value in given - set(valid):
            raise UserError(f"config.{key}: {value!r} is not known.{nearest(str(value), valid)}")
    get_template(config.template)


def with_settings(config: ConfigDict, model: AnyModel) -> AnyModel:
    """The model as this run computes it: its image mode, and its dtype, attention and remat policy of every part."""
    for key in ("image_mode", "dtype", "attention", "remat"):
        if not config[key]:
            continue
        try:
            model = _with_setting(model, key, config[key])
        except UserError as error:
            raise UserError(f"--config.{key}: {error}") from error
    if isinstance(model, LlavaConfig) and model.image_mode == "anyres":
        raise UserError(
            f"{config.base}: LLaVA-NeXT's anyres is not trained here yet; set --config.image_mode=pad to train it on "
            "whole pictures of one view."
        )
    return model


def _with_setting(model: AnyModel, key: str, value: str) -> AnyModel:
    if key == "dtype":
        return model.with_dtypes(value)
    if key == "image_mode":
        return model.replace(image_mode=value) if isinstance(model, LlavaConfig) else model
    for part in ("vision", "decoder") if isinstance(model, LlavaConfig) else ("vision", "text"):
        # The kernel for TPUs takes lengths of 128s, which a tower's 577 positions are not.
        own = "auto" if value == "splash" and part == "vision" else value
        model = model.replace(**{part: getattr(model, part).replace(**{key: own})})
    return model


def as_saved(config: ConfigDict, model: AnyModel) -> AnyModel:
    """The model's config for its folder: without what this run's machine asked for, which another may not have."""
    if config.attention:
        model = _with_setting(model, "attention", "auto")
    if config.remat:
        model = _with_setting(model, "remat", "none")
    if config.save_dtype:
        dtype = (model.decoder if isinstance(model, LlavaConfig) else model.text).dtype
        model = model.with_dtypes(dtype, config.save_dtype)
    return model


def check_batch(batch: int, accumulate: int, mesh: Mesh) -> None:
    """The rows of a step have to divide over micro-batches and the mesh's data and fsdp axes."""
    shards = math.prod(mesh.shape[axis] for axis in sharding.BATCH_AXES)
    if batch % (accumulate * shards):
        step = accumulate * shards
        near = sorted({max(batch // step, 1) * step, (batch // step + 1) * step})
        raise UserError(
            f"config.batch={batch} does not divide over {shards} data shards (mesh data x fsdp) x {accumulate} "
            f"micro-batches; take {' or '.join(map(str, near))}, or another mesh"
        )


def check_disk(workdir: Path, state: Any, model_bytes: int, checkpoints: int) -> None:
    """The workdir's disk has to hold the checkpoints that are kept, one more while it is written, and the model."""
    one = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    needed = one * (checkpoints + 1) + model_bytes + SPARE
    held = _bytes_under(workdir)
    free = shutil.disk_usage(workdir).free
    if free + held < needed:
        raise UserError(
            f"{workdir}: {_gib(needed)} are needed ({checkpoints + 1} checkpoints of {_gib(one)} and a model of "
            f"{_gib(model_bytes)}), {_gib(free)} are free; make room, take another workdir or a smaller config.keep"
        )


def model_bytes(params: Params, config: ConfigDict) -> int:
    """Bytes of the model that a run leaves: adapters go into their kernels, and kernels in four bits come out whole."""
    total = 0
    for path, leaf in rules.flatten(params).items():
        name = path.rpartition("/")[2]
        if name in ADAPTER or name == "kernel_scales":
            continue
        own = "bfloat16" if name == "kernel_codes" else leaf.dtype
        count = leaf.size * (2 if name == "kernel_codes" else 1)
        total += count * jnp.dtype(config.save_dtype or own).itemsize
    return total


def _bytes_under(folder: Path) -> int:
    """Of its files. Another host may be removing some of them, what a killed run left, at the same time."""
    total = 0
    for where, _, names in os.walk(folder):  # which passes over a folder that is gone
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(where, name).stat().st_size
    return total


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
