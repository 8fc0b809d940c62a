"""The settings of a run: what cannot work is refused before anything is read, and what they make of a model."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

from ml_collections import ConfigDict

from input_pipeline.conversation import get_template
from input_pipeline.errors import UserError, nearest
from input_pipeline.images import MODES
from jaxllava import optimizer, sharding
from jaxllava.models.attention import IMPLEMENTATIONS
from jaxllava.models.clip import ClipConfig
from jaxllava.models.config import DTYPES, REMAT_POLICIES
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.llava import LlavaConfig

AT_LEAST_ONE = (
    *("accumulate", "loss_chunks", "log_every", "checkpoint_every", "row_tokens", "pad_multiple", "keep"),
    "profile_steps",
)
AT_LEAST_NONE = (
    *(
        "steps",
        "samples_per_step",
        "workers",
        "keep_best",
        "validation_rows",
        "profile_at",
        "devices",
        "seed",
    ),
    *("row_images", "sample_tokens", "image_size", "clip_frames"),
)
# A gradient clipped to a norm of 0 trains nothing, and says nothing of it.
ABOVE_NONE = ("mixture_epochs", "clip_norm", "barrier_minutes", "lr", "eps", "muon_scale")
BELOW_ONE = ("b1", "b2", "warmup")  # from 0 on
AnyModel = TypeVar("AnyModel", bound=LlavaConfig | ClipConfig)


def check(config: ConfigDict) -> None:
    """Raises a UserError for a value that no run can work with, before anything is read or written."""
    check_lists(config)
    for keys, least in ((AT_LEAST_ONE, 1), (AT_LEAST_NONE, 0)):
        for key in keys:
            if getattr(config, key) < least:
                raise UserError(f"config.{key}={getattr(config, key)}: at least {least} is needed")
    if config.batch < 1 and not config.samples_per_step:
        raise UserError(f"config.batch={config.batch}: at least 1 is needed")
    for key in ABOVE_NONE:
        if not (math.isfinite(config[key]) and config[key] > 0):
            raise UserError(f"config.{key}={config[key]}: a positive number is needed")
    for key in BELOW_ONE:
        if not 0 <= config[key] < 1:
            raise UserError(f"config.{key}={config[key]}: a number from 0 to below 1 is needed")
    if not (math.isfinite(config.weight_decay) and config.weight_decay >= 0):
        raise UserError(f"config.weight_decay={config.weight_decay}: 0 or more is needed")
    if config.validation and not config.validation_rows:
        raise UserError("config.validation_rows=0 measures nothing; raise it, or empty config.validation")
    if (config.keep_best or config.export_best) and not config.validation:
        raise UserError(
            "config.keep_best and config.export_best rank by validation loss; set config.validation, a mixture of "
            "held-out splits"
        )
    if config.export_best and not config.keep_best:
        raise UserError("config.export_best needs config.keep_best of at least 1")
    methods = {method for _, method in config.method_rules}
    choices = {
        "sharding_rules": ({config.sharding_rules}, sharding.RULES),
        "image_mode": ({config.image_mode}, ("", *MODES)),
        "dtype": ({config.dtype}, ("", *DTYPES)),
        "frozen_dtype": ({config.frozen_dtype}, DTYPES),
        "save_dtype": ({config.save_dtype}, ("", *DTYPES)),
        "attention": ({config.attention}, ("", *IMPLEMENTATIONS)),
        "remat": ({config.remat}, ("", *REMAT_POLICIES)),
        "qformer_class": ({config.qformer_class}, ("", "seen", "hidden")),
        "method_rules": (methods, optimizer.METHODS),
    }
    for key, (given, valid) in choices.items():
        for value in given - set(valid):
            raise UserError(f"config.{key}: {value!r} is not known.{nearest(str(value), valid)}")
    get_template(config.template)


def check_lists(config: ConfigDict) -> None:
    """The settings that are lists of pairs: their form, patterns and values."""
    for key in ("mixture", "validation"):
        pairs = _pairs(config, key, "(('SPLIT', 1.0),)")
        for split, weight in pairs:
            if not (isinstance(weight, int | float) and math.isfinite(weight) and weight > 0):
                raise UserError(
                    f"config.{key} gives {split} the weight {weight!r}: a positive number is needed; leave out what is "
                    "not to be read"
                )
        if key == "mixture" and not pairs:
            raise UserError("config.mixture is empty; name splits and their weights, e.g. (('SPLIT', 1.0),)")
    number = lambda value: (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    )
    values: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "lr_rules": ("a number or None", lambda value: value is None or (number(value) and value >= 0)),
        "decay_rules": ("a number", lambda value: number(value) and value >= 0),
        "method_rules": ("a method's name", lambda value: isinstance(value, str)),
        "lora_rules": ("(rank, alpha, dropout) or None", lambda value: value is None or len(value) == 3),
        "quantize_rules": ('"nf4" or None', lambda value: value is None or isinstance(value, str)),
        "tpu_options": ("a text", lambda value: isinstance(value, str)),
        "init": ("a folder or None", lambda value: value is None or isinstance(value, str)),
    }
    for key, (needed, fits) in values.items():
        for pattern, value in _pairs(config, key, f"(('REGEX', {needed}),)"):
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f"config.{key}: {pattern!r} is no regular expression ({error})") from error
            try:
                fine = fits(value)
            except TypeError:
                fine = False
            if not fine:
                raise UserError(f"config.{key} gives {pattern!r} the value {value!r}: {needed} is needed")
    if all(value is None for _, value in config.lr_rules):
        raise UserError(
            "config.lr_rules freezes everything; give what is to train a multiple, e.g. ('.*', 1.0)"
        )


def _pairs(config: ConfigDict, key: str, example: str) -> list[tuple[str, Any]]:
    value = config[key]
    if isinstance(value, str) or not all(
        isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str) for pair in value
    ):
        raise UserError(f'config.{key}={value!r}: pairs are needed, e.g. --config.{key}="{example}"')
    return [tuple(pair) for pair in value]


def with_settings(config: ConfigDict, model: AnyModel) -> AnyModel:
    """The model as this run computes it: what `config` says of it where that is not empty."""
    for key in ("image_mode", "dtype", "attention", "remat", "rope_factor", "compress", "qformer_class"):
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


def _with_setting(model: AnyModel, key: str, value: Any) -> AnyModel:
    if key == "rope_factor":
        if not isinstance(model, LlavaConfig):
            return model
        return model.replace(decoder=model.decoder.stretched(float(value)))
    if key == "dtype":
        return model.with_dtypes(value)
    if key == "image_mode":
        return model.replace(image_mode=value) if isinstance(model, LlavaConfig) else model
    if key in ("compress", "qformer_class"):
        if not isinstance(model, LlamaVidConfig):
            raise UserError(f"{value!r} is of a LLaMA-VID, and this model is none")
        return model.replace(
            **({key: value} if key == "compress" else {"qformer_sees_class": value == "seen"})
        )
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
