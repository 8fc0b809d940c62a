"""`jaxllava <command>`. Mistakes print one line and exit with 2; an interrupt exits with 130 and can be resumed.

So can a `train` that SIGTERM ended: it has saved its step and exits with 0.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from input_pipeline.errors import UserError, nearest
from jaxllava import remote_paths
from jaxllava.interrupts import Preempted

INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors that name the nearest valid flag or command."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}. See {self.prog} --help.")

    def flags(self) -> list[str]:
        return [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]


def _parser() -> tuple[Parser, dict[str, Parser]]:
    parser = Parser(prog="jaxllava", description=__import__("jaxllava").__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"jaxllava {version('jaxllava')}")
    commands = parser.add_subparsers(dest="command", metavar="command", parser_class=Parser)
    made: dict[str, Parser] = {}

    def command(name: str, text: str, *, config: str = "") -> Parser:
        made[name] = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        if config:
            made[name].add_argument(
                "--config",
                default=config,
                metavar="FILE[:ARG]",
                help=f"config file (default {config}); any key is set by --config.key=value",
            )
        return made[name]

    add = command(
        "quickstart", "Draw a small social feed, train every stage on it, report.", config="quickstart"
    )
    add.add_argument("--workdir", type=Path, default=Path("runs/quickstart"))
    add.add_argument("--seeds", type=int, help="train the arms this often, for intervals over seeds")

    add = command(
        "prepare", "Raw reactions and media to cleaned instruction records (ArrayRecord).", config="prepare"
    )
    add.add_argument(
        "--out", type=Path, required=True, help="folder to write records, funnel and quarantine to"
    )
    _post_sources(add)
    add.add_argument("--media", type=Path, help="folder of the posts' media, by file name; also tar shards")
    add.add_argument("--instruct", type=Path, help="LLaVA conversation JSON")
    add.add_argument("--captions", type=Path, help="LLaVA JSON of image-caption pairs")
    add.add_argument("--images", type=Path, help="folder of the images that --instruct and --captions name")
    add.add_argument("--chat", type=Path, help="LLaVA JSON of text-only conversations")
    add.add_argument("--text", type=Path, help="JSON lines with a 'text' field")
    add.add_argument("--workers", type=int, help="processes (default 1); the records do not depend on it")
    add.add_argument("--runner", help="a Beam runner other than the local one, such as FlinkRunner")

    add = command(
        "download",
        "Fetch the pictures that posts link to into a folder, slowly and resumably, for `prepare` to find them.",
        config="prepare",
    )
    _post_sources(add)
    add.add_argument(
        "--media", type=Path, required=True, help="folder to fetch into; it keeps download.jsonl"
    )
    add.add_argument(
        "--contact", required=True, help="your e-mail address or web page, sent with every request"
    )
    add.add_argument("--rate", type=float, default=1.0, help="requests per second to one host (default 1)")
    add.add_argument("--max-files", type=int, help="stop after so many")

    add = command("train", "Run (or resume) one training stage.", config="train")
    add.add_argument("--workdir", type=Path, required=True)
    add.add_argument(
        "--distributed",
        action="store_true",
        help="one process on each host of a pod, Slurm or Open MPI job (implied by JAX_COORDINATOR_ADDRESS)",
    )

    add = command(
        "sweep",
        "Run every run of a config file's get_sweep() one after another; given again it goes on.",
        config="sweep_lr",
    )
    add.add_argument(
        "--workdir", type=Path, required=True, help="folder of a folder for each run, and of the table"
    )
    add.add_argument("--print", action="store_true", help="print the runs' commands and run none")
    add.add_argument("--only", metavar="I/N", help="of N machines this is the I-th (1 to N): every N-th run")

    add = command(
        "plan",
        "Compile a training step (or generation) for a TPU slice that is not here: memory, projected speed.",
        config="llava_v1_5",
    )
    add.add_argument("--topology", required=True, help="a slice, e.g. v5e:4x8, v5p:2x2x4, v6e:4x8, v4:2x2x4")
    add.add_argument("--program", choices=("train", "generate"), default="train")
    add.add_argument(
        "--rows", type=int, default=0, help="of a step over all chips (default: the most that fit)"
    )
    add.add_argument("--prompt", type=int, default=1024, help="positions of a prompt (generate)")
    add.add_argument("--new", type=int, default=128, help="tokens to generate")
    add.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="JSON, to a file or in place of text"
    )

    add = command("evaluate", "Score a model on held-out behaviour: comments, likes, and plaza's truths.")
    add.add_argument("--model", type=Path, required=True)
    add.add_argument("--data", type=Path, required=True, help="records folder of a prepared data set")
    add.add_argument("--gold", type=Path, help="plaza's gold.json, for mood, topic and memorability as well")
    add.add_argument("--limit", type=int, default=400, help="held-out posts to use")
    add.add_argument("--json", type=Path, help="also write the figures here")

    add = command("generate", "Answer a prompt about an image.")
    add.add_argument("--model", type=Path, required=True)
    add.add_argument("--prompt", required=True)
    add.add_argument("--image", type=Path, action="append", default=[], help="may be given several times")
    add.add_argument("--max-new-tokens", type=int, default=128)
    add.add_argument("--temperature", type=float, default=0.0)
    add.add_argument("--seed", type=int, default=0)
    add.add_argument("--template", help="prompt template, in place of the model's own")

    add = command(
        "convert",
        "Convert weights between jaxllava (Orbax), Hugging Face and original LLaVA; the source's kind is recognised.",
    )
    add.add_argument("--from", dest="source", type=Path, required=True)
    add.add_argument("--to", dest="target", type=Path, required=True)
    add.add_argument("--format", choices=("hf", "orbax", "llava"), default="hf")
    add.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="of all weights (default: as they are)"
    )
    add.add_argument("--template", help="prompt template to write, in place of the source's own")
    add.add_argument(
        "--vision-tower", type=Path, help="Hugging Face CLIP folder, for an original LLaVA without a tower"
    )
    add.add_argument(
        "--base",
        type=Path,
        help="the model that an original LLaVA's LoRA adapter, lone projector or v0 delta was made on",
    )

    add = command(
        "bench",
        "Measure this machine: train step, prefill, decoding, pictures, input pipeline, conversion.",
    )
    add.add_argument("--size", default="cpu", metavar="tiny|cpu|1b|7b", help="of the model (default cpu)")
    add.add_argument("--only", default="", help="parts: train,prefill,decode,images,input,conversion")
    add.add_argument(
        "--against",
        default="",
        metavar="transformers",
        help="also run PyTorch on the same weights, data and threads, in turn, and print ratios",
    )
    add.add_argument("--rounds", type=int, default=5)
    add.add_argument("--threads", type=int, default=0, help="processors to use (default: all)")
    add.add_argument("--json", type=Path, help="also write the figures here")

    add = command(
        "inspect",
        "Look inside: `sample` prints a record token by token, `tokens` a LLaVA JSON as ids and labels, `data` and "
        "`model` sum up, `checkpoint` lists tensors and their hashes.",
    )
    add.add_argument("what", choices=("sample", "tokens", "data", "model", "checkpoint"))
    add.add_argument("path", nargs="?", type=Path, help="folder of weights (checkpoint)")
    add.add_argument("--data", type=Path, help="records folder (sample, data)")
    add.add_argument("--split", default="behavior_train", help="split (sample)")
    add.add_argument("--index", type=int, default=0, help="record number (sample)")
    add.add_argument(
        "--model", type=Path, help="model folder: its tokenizer and template (sample), or what to sum up"
    )
    add.add_argument(
        "--tokenizer",
        type=Path,
        help="tokenizer folder, instead of --model (sample); also a SentencePiece model (tokens)",
    )
    add.add_argument("--template", help="prompt template (sample, tokens)")
    add.add_argument("--json", type=Path, help="a LLaVA JSON list (tokens)")
    add.add_argument("--legacy", action="store_true", help="SentencePiece's legacy spaces (tokens)")
    add.add_argument(
        "--reference-quirks", action="store_true", help="labels with the original's mistakes (tokens)"
    )
    add.add_argument("--no-expand", action="store_true", help="an image is one -200 (tokens)")
    add.add_argument(
        "--image-tokens", type=int, help="positions of an image, where there is no --model (sample, tokens)"
    )
    return parser, made


def _post_sources(add: argparse.ArgumentParser) -> None:
    """The flags that name files of posts and comments."""
    add.add_argument(
        "--submissions", type=Path, help="Reddit submissions, NDJSON or .zst; a pattern names several"
    )
    add.add_argument("--comments", type=Path, help="Reddit comments, NDJSON or .zst")
    add.add_argument("--youtube", type=Path, help="folder of yt-dlp *.info.json with thumbnails")
    add.add_argument("--youtube-api", type=Path, help="saved answers of the YouTube Data API v3")
    add.add_argument("--blift", type=Path, help="BLIFT's parquet files")
    add.add_argument("--corpus", type=Path, help="content-behavior-corpus, parquet or JSON")
    add.add_argument("--table", type=Path, help="your own posts: CSV, TSV, JSON lines or parquet")
    add.add_argument(
        "--table-comments", type=Path, help="the comments of --table, where they are a file of their own"
    )
    add.add_argument("--columns", help="JSON (or a file of it) of {our field: your column} for --table")


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser, commands = _parser()
    if not argv:
        parser.print_help()
        raise SystemExit(0)
    name = argv[0]
    if not name.startswith("-") and name not in commands:
        raise UserError(f"jaxllava: no command is named {name!r}.{nearest(name, commands)}")
    args, rest = parser.parse_known_args(argv)
    if args.command is None:
        raise UserError(f"jaxllava: {argv[0]!r} is not known.{nearest(argv[0], parser.flags())}")
    overrides = [item for item in rest if item.startswith("--config.")]
    unknown = [item for item in rest if item not in overrides]
    if overrides and not hasattr(args, "config"):
        unknown += overrides
    for item in overrides:
        if "=" not in item:
            raise UserError(f"jaxllava {name}: write {item}=VALUE, in one word")
    if unknown:
        flag = unknown[0].split("=")[0]
        hint = nearest(flag, commands[name].flags()) if flag.startswith("-") else ""
        raise UserError(f"jaxllava {name}: {flag!r} is not known.{hint}")
    remote_paths.refuse(name, args, overrides)
    return args, overrides


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


def _prepare(args: argparse.Namespace, overrides: list[str]) -> None:
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
    from jaxllava.plan.command import plan, write_json

    for name in ("rows", "prompt", "new"):
        if getattr(args, name) < (name != "rows"):
            raise UserError(f"--{name} {getattr(args, name)}: a positive number is needed")
    if args.json not in (None, "-") and not Path(args.json).absolute().parent.is_dir():
        raise UserError(f"--json {args.json}: {Path(args.json).parent} is no folder")
    text, found = plan(
        config,
        args.topology,
        what=args.program,
        rows=args.rows,
        prompt=args.prompt,
        new=args.new,
        report=lambda line: print(line, file=sys.stderr),
    )
    if args.json != "-":
        print(text)
    if args.json:
        write_json(found, None if args.json == "-" else Path(args.json))


def _evaluate(args: argparse.Namespace, overrides: list[str]) -> None:
    from jaxllava import api
    from jaxllava.evaluate import plaza
    from jaxllava.progress import bar

    if args.json and not args.json.parent.is_dir():
        raise UserError(f"--json {args.json}: {args.json.parent} is no folder")
    heldout = plaza.load_heldout(args.data, args.gold, args.limit, args.limit)
    model = api.load(args.model)
    with bar("evaluating") as report:
        found = plaza.estimates(plaza.evaluate(model, heldout, report))
    for task, estimate in found.items():
        print(f"{task:<20} {estimate.mean:8.3f}  [{estimate.low:.3f}, {estimate.high:.3f}]  n={estimate.n}")
    if args.json:
        args.json.write_text(json.dumps({k: e.to_dict() for k, e in found.items()}, indent=1))


def _generate(args: argparse.Namespace, overrides: list[str]) -> None:
    from jaxllava import api

    for image in args.image:
        if not image.is_file():
            raise UserError(f"--image {image} does not exist")
    model = api.load(args.model, args.template)
    images = [list(args.image)] if args.image else None
    (text,) = model.generate(
        [args.prompt],
        images,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        seed=args.seed,
    )
    print(text)


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
        )
    for note in found.notes:
        print(note)
    print(f"{args.format}: {args.target}")


def _bench(args: argparse.Namespace, overrides: list[str]) -> None:
    from jaxllava.bench import command
    from jaxllava.progress import bar

    with bar("measuring") as report:
        found = command.run(
            args.size, args.only, args.against, args.rounds, args.threads, args.json, progress=report
        )
    print(command.table(found))


def _inspect(args: argparse.Namespace, overrides: list[str]) -> None:
    from jaxllava import inspection

    print(inspection.COMMANDS[args.what](args))


COMMANDS = {
    "quickstart": _quickstart,
    "prepare": _prepare,
    "download": _download,
    "train": _train,
    "sweep": _sweep,
    "plan": _plan,
    "evaluate": _evaluate,
    "generate": _generate,
    "convert": _convert,
    "bench": _bench,
    "inspect": _inspect,
}


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
        args, overrides = _parse(argv)
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
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


if __name__ == "__main__":
    main()
