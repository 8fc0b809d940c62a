"""`jaxllava verbalise`: from flags to scenes in words."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from input_pipeline.errors import UserError
from jaxllava.progress import bar
from jaxllava.verbalise import media as media_files


def verbalise(args: argparse.Namespace) -> None:
    """Exits with 1 where too many media are bad, and no result was written."""
    if not (args.videos or args.images):
        raise UserError("verbalise: set --videos DIR (or files), --images DIR or both")
    for name in ("batch", "most_scenes"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: a positive number is needed")
    if not 0 <= args.max_bad_fraction <= 1:
        raise UserError(f"--max-bad-fraction {args.max_bad_fraction:g}: a share from 0 to 1 is needed")
    for name in ("caption_prompt", "tags_prompt"):
        given = getattr(args, name)
        if given is not None and not given.strip():
            raise UserError(f"--{name.replace('_', '-')}: is empty")
    _check_out(args.out)
    media = media_files.find(args.videos or (), args.images or ())
    from jaxllava import hosts  # not before: it takes seconds to import jax, and a slip is told at once

    if args.distributed or hosts.ENVIRONMENT[0] in os.environ:
        hosts.start()
    report = _run(args, media)
    if hosts.is_first():
        print(text(report, args.out))
        if report["problem"]:
            print(f"error: {report['problem']}", file=sys.stderr)
            raise SystemExit(1)


def _check_out(out: Path) -> None:
    if out.suffix == ".jsonl" and out.is_dir():
        raise UserError(f"--out {out} is a folder; call it otherwise, or give a file")
    if out.suffix != ".jsonl" and out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: give a folder, or a file that ends in .jsonl")


def _run(args: argparse.Namespace, media: list[media_files.Medium]) -> dict[str, Any]:
    import jax

    from jaxllava import api, hosts, identity
    from jaxllava.verbalise import words
    from jaxllava.verbalise.ask import Asking
    from jaxllava.verbalise.run import verbalise
    from jaxllava.weights import orbax

    model_folder = orbax.locate(args.model).resolve()
    if args.out.resolve().is_relative_to(model_folder):
        raise UserError(f"--out {args.out}: lies in the model's folder {model_folder}, which it would change")
    model = api.load(args.model, args.template, dtype=args.dtype, mesh="local")
    how = Asking(
        args.caption_prompt or words.CAPTION_PROMPT,
        args.tags_prompt or words.TAGS_PROMPT,
        args.most_scenes,
        args.batch,
    )
    with bar("verbalising") as shown:
        return verbalise(
            model,
            media,
            args.out,
            checkpoint=identity.of_folder(args.model),
            how=how,
            max_bad_fraction=args.max_bad_fraction,
            host=jax.process_index(),
            hosts=jax.process_count(),
            progress=shown if hosts.is_first() else None,
        )


def text(report: dict[str, Any], out: Path) -> str:
    """A report in a few lines."""
    from jaxllava.verbalise.run import QUARANTINE, Place

    place = Place.of(out)
    lines = [
        f"{report['written']} of {report['media']} media in {report['scenes']} scenes; the model was asked about "
        f"{report['asked']}, the others were known"
    ]
    for what, found in report["reasons"].items():
        lines.append(f"bad, {what}: {found['count']} ({', '.join(found['first'])})")
    for what, found in report["faults"].items():
        lines.append(f"used, with faults, {what}: {found['count']} ({', '.join(found['first'])})")
    for what in ("without a caption", "without tags"):
        if report[what]:
            lines.append(f"scenes {what}: {report[what]}")
    if report["bad"]:
        lines.append(f"each bad one: {place.folder / QUARANTINE}")
    if not report["problem"]:
        lines.append(f"scenes: {place.file}")
    return "\n".join(lines)
