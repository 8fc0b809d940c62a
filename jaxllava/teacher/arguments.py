"""The flags of every command that asks a teacher or judge."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from input_pipeline.errors import UserError
from jaxllava.teacher.open import is_folder, refuse_path
from jaxllava.teacher.settings import LIMIT_NAMES, Settings


def add_flags(parser: argparse.ArgumentParser, what: str = "teacher") -> None:
    """Adds --WHAT MODEL and how it is asked. None of them is required: `settings_of` says what is missing."""
    group = parser.add_argument_group(f"the {what}")
    group.add_argument(
        f"--{what}",
        metavar="MODEL",
        help="a model name at the endpoint of OPENAI_BASE_URL (key: OPENAI_API_KEY), or a checkpoint's folder",
    )
    default = Settings("any")
    add = group.add_argument
    add(
        "--in-flight", type=int, default=default.in_flight, metavar="N", help="requests at once (%(default)s)"
    )
    add("--requests-per-minute", type=int, default=0, metavar="N", help="what the endpoint allows (no limit)")
    add("--tokens-per-minute", type=int, default=0, metavar="N", help="what the endpoint allows (no limit)")
    add("--timeout", type=float, default=default.timeout, metavar="SECONDS", help="for one try (%(default)g)")
    add("--price-in", type=float, default=0.0, metavar="X", help="price of a million tokens of prompts")
    add("--price-out", type=float, default=0.0, metavar="X", help="price of a million tokens of answers")
    add(
        "--max-cost", type=float, default=0.0, metavar="X", help="stop before this run spends more (no limit)"
    )
    add("--cache", type=Path, metavar="DIR", help="keep answers there; what is kept is not asked again")


def flag_defaults() -> dict[str, Any]:
    """What the flags of `add_flags` are where they are not given, by their names in the parsed arguments."""
    parser = argparse.ArgumentParser()
    add_flags(parser, "model")
    return {name: value for name, value in vars(parser.parse_args([])).items() if name != "model"}


def settings_of(args: argparse.Namespace, what: str = "teacher") -> Settings:
    """What the flags of `add_flags` say. Raises UserError where --WHAT is missing or a value makes no sense."""
    model = getattr(args, what.replace("-", "_"))
    if not model:
        raise UserError(f"--{what} is missing; name a model of the endpoint or a checkpoint's folder")
    settings = Settings(
        model=model,
        in_flight=args.in_flight,
        requests_per_minute=args.requests_per_minute,
        tokens_per_minute=args.tokens_per_minute,
        timeout=args.timeout,
        price_in=args.price_in,
        price_out=args.price_out,
        max_cost=args.max_cost,
        cache=args.cache,
        flag="--" if what == "teacher" else f"--{what}-",
    )
    if not is_folder(settings):
        refuse_path(settings)
    return settings


def add_batch_flags(add: Callable[..., object], prefix: str = "") -> None:
    """Adds --batch-out, --batch-in and --batch-limit by argparse's `add_argument`; `prefix` stands in front of them."""
    add(
        f"--{prefix}batch-out",
        type=Path,
        metavar="DIR",
        help="write what is lacking as batch files, and stop",
    )
    add(
        f"--{prefix}batch-in",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help=f"results of the batch files in --{prefix}batch-out; nothing is asked",
    )
    add(
        f"--{prefix}batch-limit",
        choices=LIMIT_NAMES,
        default=LIMIT_NAMES[0],
        help="what the model of batch files calls the limit of an answer (%(default)s)",
    )


def check_batch_flags(args: argparse.Namespace, settings: Settings, prefix: str = "") -> None:
    """Raises UserError for flags that do not go together, and for a checkpoint, which no provider has."""
    out, read = (getattr(args, f"{prefix}batch_{name}".replace("-", "_")) for name in ("out", "in"))
    if read and not out:
        raise UserError(
            f"--{prefix}batch-in needs --{prefix}batch-out DIR, the folder that the batch files were written to"
        )
    if out and is_folder(settings):
        raise UserError(
            f"batch files are for a provider's model, and {settings.model} is a folder; give the command without them"
        )
