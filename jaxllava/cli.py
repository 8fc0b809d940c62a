"""`jaxllava <command>`. Mistakes print one line and exit with 2; an interrupt exits with 130.

Long commands go on when they are given again (`RESUMED`). So does a `train` that SIGTERM ended: it has saved its step
and exits with 0.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from input_pipeline.errors import UserError, nearest
from jaxllava.arguments import check_file, parse
from jaxllava.interrupts import Preempted

INTERRUPTED = 130
RESUMED = (
    "quickstart",
    "evidence",
    "prepare",
    "download",
    "train",
    "sweep",
    "verbalise",
)  # given again, they go on where they stopped


def _quickstart(args: argparse.Namespace, overrides: list[str]) -> None:
    from jaxllava import config_files
    from jaxllava.evaluate import report
    from jaxllava.quickstart import quickstart

    config = config_files.load(args.config, overrides)
    if args.seeds is not None:
        if args.seeds < 1:
            raise UserError(f"--seeds {args.seeds}: at least 1 is needed")
        config.seeds = args.seeds
    results = quickstart(config, args.workdir)
    print("\n" + report.terminal_table(results) + "\n")
    for sentence in report.verdict(results):
        print(f"- {sentence}")
    print(f"\nreport: {args.workdir / 'report.html'}\nresults: {args.workdir / 'results.json'}")


def _evidence(args: argparse.Namespace, overrides: list[str]) -> None:
    from jaxllava import config_files
    from jaxllava.evaluate import evidence_text
    from jaxllava.evidence import evidence
    from jaxllava.evidence_films import evidence_films

    config = config_files.load(args.config, overrides)
    for name in ("seeds", "jobs"):
        if (given := getattr(args, name)) is not None:
            if given < 1:
                raise UserError(f"--{name} {given}: at least 1 is needed")
            config[name] = given
    run, stem = (evidence_films, "films") if args.films else (evidence, "evidence")
    found = run(config, args.workdir, args.only or "")
    if found.results:
        print("\n" + evidence_text.markdown(found.results))
        print(f"page: {args.workdir / f'{stem}.html'}\nfigures: {args.workdir / f'{stem}.json'}")
    if found.missing:
        print(f"{len(found.missing)} units are still to be run: {', '.join(found.missing)}")
    for name, reason in found.failed.items():
        print(f"error: {name}: {reason}", file=sys.stderr)
    if found.failed:
        raise SystemExit(1)


# Flags of `prepare` that only a benchmark's training split heeds, and what they are where they are not given.
_OF_TASKS = {"data_root": None, "frames": 4, "fraction": 1.0}


def _prepare(args: argparse.Namespace, overrides: list[str]) -> None:
    of_both = {"command", "config", "out", "task"}
    of_posts = [name for name in vars(args).keys() - _OF_TASKS.keys() - of_both if getattr(args, name)]
    of_tasks = [name for name, default in _OF_TASKS.items() if getattr(args, name) != default]
    given = lambda names: ", ".join(f"--{name.replace('_', '-')}" for name in sorted(names)) or overrides[0]
    if args.task and (of_posts or overrides):
        raise UserError(f"prepare --task: {given(of_posts)} is for posts; a benchmark is prepared by itself")
    if of_tasks and not args.task:
        raise UserError(f"prepare: {given(of_tasks)} is for a benchmark's training split; set --task NAME")
    if args.task:
        from jaxllava.evaluate import command

        command.prepare_task(args)
        return
    from input_pipeline.prepare import prepare
    from input_pipeline.recipe import with_sources
    from jaxllava import config_files
    from jaxllava.progress import bar

    config = with_sources(config_files.load(args.config, overrides), args)
    with bar("preparing") as report:
        result = prepare(config, args.out, progress=report)
    print(result["summary"])


def _download(args: argparse.Namespace, overrides: list[str]) -> None:
    from input_pipeline.download.posts import Settings, download_media
    from input_pipeline.recipe import with_sources
    from jaxllava import config_files
    from jaxllava.progress import bar

    settings = Settings.from_config(
        {"contact": args.contact, "requests_per_second": args.rate, "max_files": args.max_files}
    )
    args.media.mkdir(parents=True, exist_ok=True)
    config = with_sources(config_files.load(args.config, overrides), args)
    with bar("downloading") as report:
        summary, passed = download_media(config, args.media, settings, report)
    for reason, count in passed.most_common():
        print(f"{count} posts not asked for: {reason}")
    print(summary.text())
    if summary.stopped == "interrupted":
        raise KeyboardInterrupt


def _train(args: argparse.Namespace, overrides: list[str]) -> None:
    from jaxllava import config_files

    config = config_files.load(args.config, overrides)  # a slip is told before jax is imported
    from jaxllava import bases, hosts
    from jaxllava.progress import bar
    from jaxllava.train import train

    if args.distributed or hosts.ENVIRONMENT[0] in os.environ:
        hosts.start(config.barrier_minutes)
    if not config.data:
        raise UserError("jaxllava train: set --config.data=DIR (the records folder of jaxllava prepare)")
    if not Path(str(config.data)).is_dir():
        why = "is no folder" if Path(str(config.data)).exists() else "does not exist"
        raise UserError(f"--config.data: {config.data} {why}; give the records folder of jaxllava prepare")
    base = bases.open_base(config)
    config.template = config.template or base.template
    with bar(f"training {config.stage}") as report:
        shown = report if hosts.is_first() else None
        result = train(config, base.config, base.tokenizer, args.workdir, base=base, progress=shown)
    if not hosts.is_first():
        return
    (step, loss) = result.curve[-1]
    left_out = {reason: n for found in result.facts["left_out"].values() for reason, n in found.items() if n}
    if left_out:
        print(f"left out or cut: {left_out}")
    print(f"step {step}, loss {loss:.4f}, {result.tokens_per_second:.0f} tokens/s; model: {result.model}")


def _sweep(args: argparse.Namespace, overrides: list[str]) -> None:
    from jaxllava import sweep

    runs = sweep.plan(args.config, overrides, args.workdir)
    chosen = sweep.share(runs, args.only) if args.only else runs
    if args.print:
        for run in chosen:
            print(sweep.command_line(run))
        return
    failed = sweep.run_all(runs, chosen, args.workdir)
    print(sweep.table(args.workdir))
    if failed:
        print(f"error: {len(failed)} of {len(chosen)} runs failed: {', '.join(failed)}", file=sys.stderr)
        raise SystemExit(1)


def _plan(args: argparse.Namespace, overrides: list[str]) -> None:
    from jaxllava import config_files
    from jaxllava.plan import topology

    topology.check(args.topology)
    config = config_files.load(args.config, overrides)
    topology.prepare()  # before jax is imported
    from jaxllava.plan.command import DoesNotFit, plan, write_json

    for name in ("rows", "prompt", "new"):
        if getattr(args, name) < (name != "rows"):
            raise UserError(f"--{name} {getattr(args, name)}: a positive number is needed")
    if args.json not in (None, "-"):
        check_file("--json", Path(args.json))
    to = None if args.json == "-" else Path(args.json or "-")
    try:
        text, found = plan(
            config,
            args.topology,
            what=args.program,
            rows=args.rows,
            prompt=args.prompt,
            new=args.new,
            report=lambda line: print(line, file=sys.stderr),
        )
    except DoesNotFit as error:
        if args.json:
            write_json(error.found, to)
        raise
    if args.json != "-":
        print(text)
    if args.json:
        write_json(found, to)


def _evaluate(args: argparse.Namespace, overrides: list[str]) -> None:
    from jaxllava.evaluate import command

    command.evaluate(args)


def _verbalise(args: argparse.Namespace, overrides: list[str]) -> None:
    from jaxllava.verbalise import command

    command.verbalise(args)


def _generate(args: argparse.Namespace, overrides: list[str]) -> None:
    from jaxllava import api

    for flag in ("image", "video"):
        for path in getattr(args, flag):
            if not (path.exists() if flag == "video" else path.is_file()):
                raise UserError(f"--{flag} {path} does not exist")
    if not 0 < args.fps <= 120:
        raise UserError(f"--fps {args.fps}: a positive number is needed")
    if args.frames is not None and args.frames < 1:
        raise UserError(f"--frames {args.frames}: a positive number is needed")
    from jaxllava.videos import Video

    model = api.load(args.model, args.template, features=args.features)
    shown = [*args.image, *(Video(path, args.fps, args.frames) for path in args.video)]
    images = [shown] if shown else None
    (text,) = model.generate(
        [args.prompt],
        images,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        seed=args.seed,
    )
    print(text)


def _serve(args: argparse.Namespace, overrides: list[str]) -> None:
    from jaxllava.serving import arguments

    arguments.check(args)  # before jax and aiohttp are imported
    from jaxllava.serving import command

    command.serve(args)


def _convert(args: argparse.Namespace, overrides: list[str]) -> None:
    from jaxllava.progress import bar
    from jaxllava.weights.convert import convert

    with bar("converting") as report:
        found = convert(
            args.source,
            args.target,
            args.format,
            args.dtype,
            args.template,
            args.vision_tower,
            args.base,
            progress=report,
            question_tokenizer=args.question_tokenizer,
        )
    for note in found.notes:
        print(note)
    print(f"{args.format}: {args.target}")


def _bench(args: argparse.Namespace, overrides: list[str]) -> None:
    from jaxllava.bench import command
    from jaxllava.progress import bar

    check_file("--json", args.json)
    with bar("measuring") as report:
        found = command.run(args.size, args.only, args.against, args.rounds, args.threads, progress=report)
    print(command.table(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


def _inspect(args: argparse.Namespace, overrides: list[str]) -> None:
    from jaxllava import inspection

    print(inspection.COMMANDS[args.what](args))


COMMANDS = {
    "quickstart": _quickstart,
    "evidence": _evidence,
    "prepare": _prepare,
    "download": _download,
    "train": _train,
    "sweep": _sweep,
    "plan": _plan,
    "evaluate": _evaluate,
    "verbalise": _verbalise,
    "generate": _generate,
    "serve": _serve,
    "convert": _convert,
    "bench": _bench,
    "inspect": _inspect,
}


def _prepare_part(word: str, argv: Sequence[str]) -> None:
    """`prepare instruct` and `prepare captions`, which have flags of their own."""
    parts = ("instruct", "captions")
    if word not in parts:
        raise UserError(f"jaxllava prepare: {word!r} is not known.{nearest(word, parts)}")
    if word == "instruct":
        from jaxllava.instruct_command import instruct

        instruct(argv)
    else:
        from jaxllava.captions_command import captions

        captions(argv)


def _goes_on(argv: Sequence[str]) -> bool:
    """Whether a command that is given again goes on where it stopped."""
    keeps = any(item.split("=")[0] in ("--out", "--tasks") for item in argv)
    return bool(argv) and (argv[0] in RESUMED or (argv[0] == "evaluate" and keeps))


def _leave_out_absent_tpu() -> None:
    """jax looks for a TPU wherever libtpu is installed (for `plan`): seconds, and lines of complaint, without one."""
    devices = ("/dev/accel0", "/dev/vfio", "/dev/nvidia0", "/dev/kfd")
    if find_spec("libtpu") and not any(Path(device).exists() for device in devices):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point. `JAXLLAVA_TRACEBACK=1` shows where a user error was raised."""
    argv = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    _leave_out_absent_tpu()
    logging.basicConfig(level=logging.ERROR)  # libraries' notes on what they could not import
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs a traceback of what it raises as well
    try:
        if argv[:1] == ["prepare"] and argv[1:] and not argv[1].startswith("-"):
            _prepare_part(argv[1], argv[2:])
            return
        args, overrides = parse(argv)
        COMMANDS[args.command](args, overrides)
    except UserError as error:
        if os.environ.get("JAXLLAVA_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # `jaxllava inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if os.environ.get("JAXLLAVA_TRACEBACK"):
            raise
        print(f"error: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Preempted as error:
        print(f"\nstopped by SIGTERM, {error}; the same command goes on from here", file=sys.stderr)
    except KeyboardInterrupt:
        rest = "; the same command goes on from here" if _goes_on(argv) else ""
        print(f"\ninterrupted{rest}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


if __name__ == "__main__":
    main()
