"""`jaxllava prepare instruct`: instruction data that a teacher writes from captions and boxes, or from posts and their
audience.

The command prints what asking will cost, asks (or writes a provider's batch files, or reads their results), checks the
answers, and writes LLaVA JSON and records. A teacher keeps its answers, so that the same command goes on where it was
stopped; what is written is a function of the answers.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from input_pipeline.errors import UserError, nearest
from input_pipeline.instruct import books, make
from input_pipeline.instruct.plan import Plan, Recipe
from input_pipeline.instruct.subjects import PICTURE_KINDS, POST_KINDS, RATIOS, Asked
from input_pipeline.instruct.work_folder import work_folder
from jaxllava import remote_paths
from jaxllava.arguments import Parser, no_strangers
from jaxllava.progress import bar
from jaxllava.teacher import arguments, batches, estimate
from jaxllava.teacher.bill import Bill
from jaxllava.teacher.messages import Answer, Message, Request, Teacher
from jaxllava.teacher.open import model_name, open_teacher
from jaxllava.teacher.settings import Settings

_SPLITS = "behavior_train,behavior_heldout"


def parser() -> Parser:
    """The command's flags."""
    made = Parser(prog="jaxllava prepare instruct", description=__doc__, allow_abbrev=False)
    add = made.add_argument
    add(
        "--out",
        type=Path,
        required=True,
        help="folder to write to; answers are kept in OUT.answers beside it",
    )
    group = made.add_argument_group("what to ask about: pictures in words, or posts")
    files = {"type": Path, "nargs": "+", "action": "extend", "default": [], "metavar": "FILE"}
    group.add_argument(
        "--coco", **files, help="COCO captions_*.json and instances_*.json, LVIS lvis_v1_*.json"
    )
    group.add_argument(
        "--jsonl", **files, help="lines of {id, image, captions, instances: [{category, bbox}]}"
    )
    group.add_argument(
        "--images", type=Path, help="folder of the pictures; without it LLaVA JSON alone is written"
    )
    group.add_argument(
        "--posts", type=Path, metavar="DATA", help="records of `jaxllava prepare` with reactions"
    )
    group.add_argument("--split", help=f"of --posts ({_SPLITS})")
    group.add_argument(
        "--scenes", type=Path, help="scenes of --posts in words, a file of `jaxllava verbalise`"
    )
    group.add_argument("--scenes-by", choices=("sha256", "name"), help="what --scenes are found by (sha256)")
    group.add_argument("--share", type=float, default=1.0, help="of the pictures or posts, drawn by id (all)")
    group.add_argument("--most-boxes", type=int, default=100, help="of a picture: the largest (%(default)s)")
    group = made.add_argument_group("what to ask")
    group.add_argument(
        "--kinds", help="conversation,detail,complex; of posts audience_conversation,audience_reasons"
    )
    group.add_argument(
        "--ratio", metavar="A:B:C", help="of the kinds in the mixture (58:23:77; of posts 1:1)"
    )
    group.add_argument(
        "--prompts", type=Path, help="folder of a folder for each kind, as LLaVA has them (ours)"
    )
    group.add_argument("--max-tokens", type=int, default=1024, help="of an answer (%(default)s)")
    group.add_argument("--temperature", type=float, default=0.0, help="of an answer (%(default)g)")
    group.add_argument(
        "--tries",
        type=int,
        default=1,
        metavar="N",
        help="answers that are asked for, one after another, until one is taken (%(default)s)",
    )
    group = made.add_argument_group("what to take")
    group.add_argument(
        "--languages", default="en", help="of answers, such as en,de; '' for any (%(default)s)"
    )
    group.add_argument("--coordinates", action="store_true", help="answers may tell places in numbers")
    group.add_argument(
        "--heldout", type=float, default=0.15, help="share of pictures, as in `prepare` (%(default)s)"
    )
    group.add_argument("--seed", type=int, default=0)
    group.add_argument(
        "--max-bad-fraction",
        type=float,
        default=0.05,
        help="of bad records above which it stops (%(default)s)",
    )
    group.add_argument(
        "--max-failed-fraction",
        type=float,
        default=0.0,
        help="of requests without an answer above which nothing is written (%(default)s)",
    )
    group = made.add_argument_group("how to go on")
    group.add_argument("--dry-run", action="store_true", help="say what asking costs, and stop")
    arguments.add_batch_flags(group.add_argument)
    arguments.add_flags(made)
    return made


def instruct(argv: Sequence[str], opened: Callable[[Settings], Teacher] = open_teacher) -> None:
    """Runs the command. `argv` is what follows `prepare instruct`; `opened` makes the teacher."""
    args = no_strangers(parser(), argv)
    remote_paths.refuse("prepare instruct", args, [])
    if not args.out.name:
        raise UserError(f"--out {args.out}: give a folder of its own")
    recipe = recipe_of(args)
    recipe.check()
    settings = arguments.settings_of(args)
    if settings.cache is None:
        settings = replace(settings, cache=args.out.with_name(f"{args.out.name}.answers"))
    arguments.check_batch_flags(args, settings)
    summary, told = run(recipe, args, settings, opened)
    print(told)
    if summary and not any(summary["taken"].values()):
        raise SystemExit(1)


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe that the flags name."""
    known = POST_KINDS if args.posts else PICTURE_KINDS
    kinds = tuple(args.kinds.split(",")) if args.kinds else known
    for kind in kinds:
        if kind not in known:
            raise UserError(f"--kinds: there is no {kind!r}.{nearest(kind, known)}")
    if len(set(kinds)) < len(kinds):
        raise UserError(f"--kinds {args.kinds}: a kind is named twice")
    parts: list[float] = [RATIOS[kind] for kind in kinds]
    if args.ratio:
        try:
            parts = [float(part) for part in args.ratio.split(":")]
        except ValueError:
            parts = []
        if len(parts) != len(kinds):
            raise UserError(
                f"--ratio {args.ratio}: give a number for each of {', '.join(kinds)}, joined by colons"
            )
    if args.max_tokens < 1:
        raise UserError(f"--max-tokens {args.max_tokens}: at least 1 is needed")
    if not 0 <= args.temperature <= 2:
        raise UserError(f"--temperature {args.temperature:g}: a number from 0 to 2 is needed")
    if args.tries < 1:
        raise UserError(f"--tries {args.tries}: at least 1 is needed")
    if args.tries > 1 and not args.temperature:
        raise UserError(
            f"--tries {args.tries} needs a --temperature: without one every answer would be the same"
        )
    for name in ("scenes", "split", "scenes_by"):
        if not args.posts and getattr(args, name):
            raise UserError(f"--{name.replace('_', '-')} goes with --posts, which is not there")
    if not 0 <= args.max_failed_fraction <= 1:
        raise UserError(f"--max-failed-fraction {args.max_failed_fraction:g}: a share from 0 to 1 is needed")
    return Recipe(
        coco=tuple(map(str, args.coco)),
        jsonl=tuple(map(str, args.jsonl)),
        posts=str(args.posts or ""),
        splits=tuple((args.split or _SPLITS).split(",")) if args.posts else (),
        scenes=str(args.scenes or ""),
        scenes_by=args.scenes_by or "sha256",
        images=str(args.images or ""),
        prompts=str(args.prompts or ""),
        ratio=dict(zip(kinds, parts, strict=True)),
        seed=args.seed,
        share=args.share,
        heldout=args.heldout,
        most_boxes=args.most_boxes,
        languages=tuple(code for code in args.languages.split(",") if code),
        coordinates=args.coordinates,
        max_bad_fraction=args.max_bad_fraction,
    )


def run(
    recipe: Recipe, args: argparse.Namespace, settings: Settings, opened: Callable[[Settings], Teacher]
) -> tuple[dict[str, Any], str]:
    """Does the work and returns the summary, empty where nothing was asked, and what to print.

    Raises UserError where too much of the input is bad or too many requests have no answer: then nothing is written,
    and what was answered is kept.
    """
    asking = {"model": model_name(settings), "max_tokens": args.max_tokens, "temperature": args.temperature}
    asking["tries"] = args.tries
    fingerprint = hashlib.sha256(json.dumps([recipe.fingerprint(), asking]).encode()).hexdigest()
    if not args.dry_run and (done := _finished(args.out, fingerprint)) is not None:
        return done, make.text(done, args.out) + "\nup to date"
    with work_folder(args.out) as work:
        build = work / "out"
        build.mkdir()
        plan = Plan(recipe, work)
        with bar("reading") as report:
            report(0, 1)
            survey = plan.survey(build / make.QUARANTINE)
        if args.batch_in:
            print(batches.read(args.batch_in, args.batch_out, settings), flush=True)
        more = f"; up to {args.tries} times as much where answers are not taken" if args.tries > 1 else ""
        print(estimate.estimate(_requests(plan.asked(), args), settings).line() + more, flush=True)
        if args.dry_run:
            return {}, "nothing was asked (--dry-run)"
        kept = books.Books(work / "books.sqlite")
        total = survey.asked.total()
        if args.batch_out and not args.batch_in:
            ask = lambda teacher: [_ask(plan, kept, teacher, args, draw) for draw in range(args.tries)]
            told = batches.write(ask, args.batch_out, settings, args.batch_limit)
            return {}, f"{told}\ngive the same command with --batch-in FILES when the results are there"
        teacher = batches.Kept(settings) if args.batch_in else Bill(opened(settings))
        with teacher.told() if isinstance(teacher, Bill) else contextlib.nullcontext():
            for draw in range(args.tries):
                asked = _ask(plan, kept, teacher, args, draw, total if draw == 0 else 0)
                if isinstance(teacher, batches.Kept):
                    batches.check_kept(teacher)
                _enough(asked - kept.settled(draw), asked, args, kept)
        with bar("checking and writing") as report:
            report(0, 1)
            reasons = make.take(plan, kept, build / make.REJECTED, args.tries)
            failed = sum(count for reason, count in reasons.items() if reason.startswith(make.NO_ANSWER))
            _enough(failed, total, args, kept)  # by their keys
            summary = make.write(plan, survey, kept, reasons, build, teacher.model)
        summary = {**summary, "asking": asking, "failed": failed, "fingerprint": fingerprint}
        told = json.dumps(summary, indent=1, ensure_ascii=False)
        (build / make.SUMMARY).write_text(told + "\n", encoding="utf-8")
        kept.close()
        if args.out.exists():
            shutil.rmtree(args.out)
        build.rename(args.out)
    return summary, make.text(summary, args.out)


def _ask(
    plan: Plan, kept: books.Books, teacher: Teacher, args: argparse.Namespace, draw: int, total: int = 0
) -> int:
    """Asks for the answers of one draw; of the second and later ones where those before are not taken.

    Returns how many requests that was. Args: total: how many there will be, where that is known.
    """
    source = make.again(plan, kept, draw - 1) if draw else plan.asked()
    taken = 0

    def counted() -> Iterator[Request]:
        nonlocal taken
        for request in _requests(source, args, draw):
            taken += 1
            yield request

    with bar(f"asking {teacher.model}{f' again ({draw + 1})' if draw else ''}") as report:
        for got, said in enumerate(teacher.ask(counted()), 1):
            if isinstance(said, Answer):
                kept.answer(said.key, draw, said.text, said.finish)
            else:
                kept.failure(said.key, draw, said.reason, said.detail, said.is_final)
            report(got, max(total, taken))
    return taken


def _enough(failed: int, total: int, args: argparse.Namespace, kept: books.Books) -> None:
    """Raises UserError where too many requests have no answer."""
    if failed > args.max_failed_fraction * total:
        why = [
            f"{reason}: {count}{f', such as {detail}' if detail else ''}"
            for reason, (count, detail) in kept.failures().items()
        ]
        remedy = "give the same command again"
        if args.batch_in:
            remedy = "give it without --batch-in and --batch-out to ask, or with another --batch-out for a next batch"
        raise UserError(
            f"{failed} of {total} requests have no answer ({'; '.join(why) or 'nothing was said'}); nothing was "
            f"written and the answers are kept: {remedy}, or raise --max-failed-fraction"
        )


def _requests(asked: Iterable[Asked], args: argparse.Namespace, draw: int = 0) -> Iterator[Request]:
    for one in asked:
        messages = tuple(Message(role, text) for role, text in one.messages)
        yield Request(one.key, messages, args.max_tokens, args.temperature, draw=draw)


def _finished(out: Path, fingerprint: str) -> dict[str, Any] | None:
    """The summary of a finished run that has nothing left to ask; UserError where `out` holds other things."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        done = json.loads((out / make.SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        done = {}
    if "asking" not in done:
        raise UserError(f"{out}: exists and was not written by prepare instruct; give another folder")
    if done["fingerprint"] != fingerprint:
        raise UserError(f"{out}: holds what other input or flags made; delete it or give another folder")
    # What was missing may be there now.
    return None if done["failed"] or make.GONE in done["not_used"] else done
