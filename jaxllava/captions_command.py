"""`jaxllava prepare captions`: image-caption pairs for stage 1, each with a brief instruction, all of them or chosen so
that every concept is there and none too often, as LLaVA's CC-595K was.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from input_pipeline.errors import UserError
from jaxllava import remote_paths
from jaxllava.arguments import Parser, no_strangers


def parser() -> Parser:
    """The command's flags."""
    made = Parser(prog="jaxllava prepare captions", description=__doc__, allow_abbrev=False)
    add = made.add_argument
    add("--out", type=Path, required=True, help="folder to write to")
    add(
        "--json", type=Path, nargs="+", action="extend", required=True, metavar="FILE",
        help="lists or lines of {id, image, caption}; LLaVA JSON too",
    )  # fmt: skip
    add("--images", type=Path, help="folder of the pictures; without it LLaVA JSON alone is written")
    add("--instructions", type=Path, metavar="FILE", help="to draw from, one on a line (11 of ours)")
    add(
        "--balance",
        action="store_true",
        help="choose captions by their noun phrases (needs the extra 'phrases')",
    )
    add("--least", type=int, default=3, help="captions that a phrase must have to count (%(default)s)")
    add("--most", type=int, default=100, help="captions that a phrase brings in at most (%(default)s)")
    add("--heldout", type=float, default=0.15, help="share of pictures, as in `prepare` (%(default)s)")
    add("--seed", type=int, default=0)
    add("--max-bad-fraction", type=float, default=0.05, help="of bad captions (%(default)s)")
    return made


def captions(argv: Sequence[str]) -> None:
    """Runs the command. `argv` is what follows `prepare captions`."""
    from jaxllava.progress import bar

    args = no_strangers(parser(), argv)
    remote_paths.refuse("prepare captions", args, [])
    if not args.out.name:
        raise UserError(f"--out {args.out}: give a folder of its own")
    if not args.balance and (args.least, args.most) != (3, 100):
        raise UserError("--least and --most go with --balance")
    from input_pipeline.instruct import captions as making
    from input_pipeline.instruct import phrases, prompts
    from input_pipeline.instruct.work_folder import work_folder

    recipe = making.Recipe(
        tuple(map(str, args.json)),
        str(args.images or ""),
        args.balance,
        args.least,
        args.most,
        args.seed,
        args.heldout,
        args.max_bad_fraction,
        prompts.lines_of(args.instructions) if args.instructions else (),
    )
    recipe.check()
    if recipe.balance:
        phrases.of("a caption")  # its error belongs here
    stamps = [[path, Path(path).stat().st_size, Path(path).stat().st_mtime_ns] for path in recipe.files]
    fingerprint = hashlib.sha256(json.dumps([asdict(recipe), stamps]).encode()).hexdigest()
    if args.out.exists() and not (args.out.is_dir() and not any(args.out.iterdir())):
        done = _summary(args.out / making.SUMMARY)
        if "captions" not in done:
            raise UserError(
                f"{args.out}: exists and was not written by prepare captions; give another folder"
            )
        if done["fingerprint"] != fingerprint:
            raise UserError(
                f"{args.out}: holds what other input or flags made; delete it or give another folder"
            )
        if "media is gone" not in done["not_used"]:
            print(making.text(done, args.out) + "\nup to date")
            return
    with bar("preparing captions") as report, work_folder(args.out) as work:
        build = work / "out"
        build.mkdir()
        summary = making.make(recipe, work, build, lambda note: report(0, 1, note))
        summary["fingerprint"] = fingerprint
        text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
        (build / making.SUMMARY).write_text(text, encoding="utf-8")
        if args.out.exists():
            shutil.rmtree(args.out)
        build.rename(args.out)
        report(1, 1, "")
    print(making.text(summary, args.out))


def _summary(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
