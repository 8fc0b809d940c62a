"""`jaxllava convert`: any folder that can be read into any that can be written, one tensor in memory at a time."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

from input_pipeline.conversation import get_template
from input_pipeline.errors import UserError
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.weights import hf_export, llama_vid, orbax, original
from jaxllava.weights.checkpoint import Checkpoint
from jaxllava.weights.lazy import total_bytes
from jaxllava.weights.source import open_checkpoint

FORMATS = ("hf", "orbax", "llava")


def convert(
    source: str | Path,
    target: str | Path,
    format: str = "hf",
    dtype: str | None = None,
    template: str | None = None,
    vision_tower: str | Path | None = None,
    base: str | Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    question_tokenizer: str | Path | None = None,
) -> Checkpoint:
    """Writes the model in `source` to the new folder `target`, and returns what was written, unread.

    The target appears when it is whole. A run that was cut leaves a hidden `.NAME.unfinished` beside it, which the same
    call replaces.

    Args: dtype: of all weights ("float32", "bfloat16", "float16"); None keeps each. template: in place of the source's
    own. vision_tower, base, question_tokenizer: see `source.open_checkpoint`. progress: is told (bytes written, bytes
    in all).

    Raises UserError as the readers and writers do, and for a target that exists or does not fit on its disk.
    """
    target = Path(target)
    if target.exists():
        raise UserError(f"--to {target} exists already; name a new folder.")
    found = open_checkpoint(source, vision_tower, base, question_tokenizer)
    if dtype:
        found = found.astype(dtype)
    if template:
        get_template(template)
        found = found.replace(template=template)
    if format != "orbax":
        found = found.of_one_view()  # the writers do it too; here for what it notes
    total = total_bytes(found.leaves)
    _check_room(target, total)
    done = 0

    def count(written: int) -> None:
        nonlocal done
        done += written
        progress(min(done, total), total)

    try:
        write(found, target, format, count)
    except (OSError, ValueError, RuntimeError) as error:
        if _is_full(error):
            raise UserError(
                f"--to {target}: the disk is full; {_amount(total)} are needed. Nothing is left of it."
            ) from error
        raise
    return found


def _is_full(error: Exception) -> bool:
    """Whether a disk, a quota or a limit on files was what stopped a write; TensorStore says so in words."""
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, OSError) and error.errno in numbers:
        return True
    return any(f"os_error_code='{number}'" in str(error) for number in numbers)


def write(found: Checkpoint, target: Path, format: str, progress: Callable[[int], None]) -> None:
    """Writes a checkpoint in one of `FORMATS`."""
    if format == "orbax":
        orbax.save_model(
            target,
            found.leaves,
            found.config,
            found.tokenizer,
            found.template,
            progress,
            found.generation,
            found.asker,
        )
    elif format == "hf":
        hf_export.export(found, target, progress)
    elif isinstance(found.config, LlamaVidConfig):
        llama_vid.export(found, target, progress)
    else:
        original.export(found, target, progress)


def _check_room(target: Path, needed: int) -> None:
    parent = target.absolute().parent
    while not parent.exists():
        parent = parent.parent
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UserError(
            f"--to {target}: {_amount(needed)} are needed and {parent} has {_amount(free)} left; make room or "
            "name a folder on another disk."
        )


def _amount(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.1f} MB"
