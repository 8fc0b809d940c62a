"""The flags of `jaxllava serve`."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from input_pipeline.errors import UserError


def check(args: argparse.Namespace) -> None:
    """UserError for flags that cannot be."""
    if not args.model.is_dir():
        raise UserError(f"--model {args.model} is no folder; give a model folder")
    for name, least in (("slots", 1), ("queue", 0), ("max_images", 0), ("max_pixels", 1), ("max_body", 1)):
        if (value := getattr(args, name)) < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: at least {least} is needed")
    for name in ("timeout", "grace"):
        if not getattr(args, name) >= (0 if name == "grace" else 0.001):
            raise UserError(f"--{name} {getattr(args, name)}: a positive number is needed")
    if args.max_length is not None and args.max_length < 2:
        raise UserError(f"--max-length {args.max_length}: at least 2 is needed")
    if not 0 <= args.port < 65536:
        raise UserError(f"--port {args.port}: a number from 0 to 65535 is needed")
    if find_spec("aiohttp") is None:
        raise UserError("jaxllava serve needs aiohttp: pip install -c constraints.txt -e '.[serve]'")


def default_name(model: Path) -> str:
    """The folder's name; of RUN/model, which every training run leaves, RUN-model."""
    folder = model.resolve()
    run = folder.parent.name
    return f"{run}-model" if folder.name == "model" and run else folder.name


def add_flags(add: argparse.ArgumentParser) -> None:
    """The flags of `jaxllava serve`."""
    add.add_argument("--model", type=Path, required=True, help="any model folder that `generate` takes")
    add.add_argument("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1)")
    add.add_argument("--port", type=int, default=8000, help="0 is any that is free (default 8000)")
    add.add_argument(
        "--name", help="the model's name in requests (default: the folder's; of RUN/model, RUN-model)"
    )
    add.add_argument("--slots", type=int, default=8, help="answers written at a time (default 8)")
    add.add_argument(
        "--max-length",
        type=int,
        help="positions of a prompt with its answer (default: all that the model has)",
    )
    add.add_argument("--queue", type=int, default=256, help="requests that may wait (default 256)")
    add.add_argument("--max-body", type=int, default=32, metavar="MB", help="of a request (default 32)")
    add.add_argument("--max-images", type=int, default=16, help="of a request (default 16)")
    add.add_argument("--max-pixels", type=int, default=50_000_000, help="of a picture (default 50000000)")
    add.add_argument("--timeout", type=float, default=600.0, help="seconds a request (default 600)")
    add.add_argument(
        "--grace", type=float, default=30.0, help="seconds that what runs has at the end (default 30)"
    )
    add.add_argument(
        "--no-warmup",
        dest="warm_up",
        action="store_false",
        help="compile programs when they are first needed",
    )
    add.add_argument("--template", help="prompt template, in place of the model's own")
    add.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of the weights")
