"""Paths in buckets: everything here reads and writes folders, so one is refused before it becomes a folder `gs:`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from input_pipeline.errors import UserError

# `Path("gs://bucket/x")` is gs:/bucket/x.
_REMOTE = re.compile(r"(gs|s3|az|hdfs)://?[^/]")


def refuse(command: str, args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """UserError where a path among the flags, or a value of `--config.key=value`, is one of a bucket."""
    for name, value in vars(args).items():
        for path in value if isinstance(value, list) else [value]:
            if name == "checkpoint":  # [NAME=]DIR
                path = Path(str(path).partition("=")[2] or str(path))
            if isinstance(path, Path) and _REMOTE.match(str(path)):
                raise UserError(f"jaxllava {command}: --{name.replace('_', '-')} {_url(str(path))} {_REMEDY}")
    for item in overrides:
        key, _, value = item.partition("=")
        if found := re.search(r"\b(gs|s3|az|hdfs)://[^\s'\")]*", value):
            raise UserError(f"jaxllava {command}: {key}: {found.group()} {_REMEDY}")


_REMEDY = (
    "is in a bucket, and only folders are read and written; launch/tpu.sh train takes such paths, elsewhere mount the "
    "bucket with gcsfuse and give the folder (docs/tpu.md)"
)


def _url(path: str) -> str:
    return re.sub(":/+", "://", path, count=1)
