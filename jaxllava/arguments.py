"""What the command line takes: the flags of every command, and errors that name the nearest valid one."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from input_pipeline.errors import UserError, nearest
from jaxllava import remote_paths
from jaxllava.evaluate import arguments as evaluate
from jaxllava.serving import arguments as serving


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors that name the nearest valid flag or command."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}. See {self.prog} --help.")

    def flags(self) -> list[str]:
        return [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse has it; a misspelt flag is named in front of those that are missing."""
        if self._subparsers is None:
            names = [word.split("=")[0] for word in args or () if word.startswith("--")]
            for name in names:
                if name not in ("--", *self.flags()) and not name.startswith("--config."):
                    raise UserError(f"{self.prog}: {name!r} is not known.{nearest(name, self.flags())}")
        return super().parse_known_args(args, namespace)


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
        "evidence",
        "Train the arms of the paper's ablations several times on the drawn feed, and say what that shows.",
        config="evidence",
    )
    add.add_argument("--workdir", type=Path, default=Path("runs/evidence"))
    add.add_argument("--seeds", type=int, help="train each arm this often (default 5)")
    add.add_argument("--jobs", type=int, help="processes side by side (default: one for each core)")
    add.add_argument("--only", metavar="I/N", help="of N machines this is the I-th (1 to N): every N-th arm")
    add.add_argument(
        "--films", action="store_true", help="the arms on films with replay graphs, from the same base"
    )

    add = command(
        "prepare",
        "Raw reactions and media to cleaned instruction records (ArrayRecord). `prepare instruct --help`: data that a "
        "teacher writes; `prepare captions --help`: pairs for stage 1.",
        config="prepare",
    )
    add.add_argument(
        "--out", type=Path, required=True, help="folder to write records, funnel and quarantine to"
    )
    _post_sources(add)
    add.add_argument("--media", type=Path, help="folder of the posts' media, by file name; also tar shards")
    add.add_argument("--scenes", type=Path, help="the posts' scenes in words, a file of `jaxllava verbalise`")
    add.add_argument("--instruct", type=Path, help="LLaVA conversation JSON")
    add.add_argument("--captions", type=Path, help="LLaVA JSON of image-caption pairs")
    add.add_argument("--images", type=Path, help="folder of the images that --instruct and --captions name")
    add.add_argument("--chat", type=Path, help="LLaVA JSON of text-only conversations")
    add.add_argument("--text", type=Path, help="JSON lines with a 'text' field")
    add.add_argument("--workers", type=int, help="processes (default 1); the records do not depend on it")
    add.add_argument("--runner", help="a Beam runner other than the local one, such as FlinkRunner")
    add.add_argument("--task", help="in place of raw posts: the training split of this benchmark")
    add.add_argument("--data-root", type=Path, help="folder of the benchmarks' folders (--task)")
    add.add_argument("--frames", type=int, default=4, help="of a video (--task; default 4)")
    add.add_argument(
        "--fraction", type=float, default=1.0, help="of the training questions (--task; default 1)"
    )

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

    evaluate.add_flags(
        command(
            "evaluate",
            "Score checkpoints on benchmarks (--tasks), or on held-out reactions (--data) against one another.",
        )
    )
    _verbalise(command)

    add = command("generate", "Answer a prompt about images or videos.")
    add.add_argument("--model", type=Path, required=True)
    add.add_argument("--prompt", required=True)
    add.add_argument("--image", type=Path, action="append", default=[], help="may be given several times")
    add.add_argument("--video", type=Path, action="append", default=[], help="the same; behind the images")
    add.add_argument("--fps", type=float, default=1.0, help="frames of a second of a video (default 1)")
    add.add_argument("--frames", type=int, help="at most, evenly spread (default: all that --fps gives)")
    add.add_argument(
        "--features", type=Path, help="folder to keep a LLaMA-VID's features of videos in, for other prompts"
    )
    add.add_argument("--max-new-tokens", type=int, default=128)
    add.add_argument("--temperature", type=float, default=0.0)
    add.add_argument("--seed", type=int, default=0)
    add.add_argument("--template", help="prompt template, in place of the model's own")

    serving.add_flags(
        command("serve", "Answer over HTTP as OpenAI's chat completions do, several requests at a time.")
    )

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
        "--vision-tower",
        type=Path,
        help="Hugging Face CLIP folder, for an original LLaVA without a tower; eva_vit_g.pth for a LLaMA-VID",
    )
    add.add_argument(
        "--question-tokenizer", type=Path, help="folder of bert-base-uncased, for a LLaMA-VID's questions"
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


def _verbalise(command: Callable[[str, str], Parser]) -> None:
    add = command(
        "verbalise",
        "Put the scenes of videos and pictures into words: a model's caption and tags, measured colours and tone.",
    )
    add.add_argument("--model", type=Path, required=True, help="any model folder that `generate` takes")
    add.add_argument(
        "--videos",
        type=Path,
        nargs="+",
        action="extend",
        metavar="DIR|FILE",
        help="with all below folders; captions beside a video (ID.en.vtt) are taken along",
    )
    add.add_argument(
        "--images", type=Path, nargs="+", action="extend", metavar="DIR|FILE", help="one scene each"
    )
    add.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="NAME.jsonl|DIR",
        help="a line of JSON for each medium; what was asked is kept in NAME.work (or DIR): the command goes on",
    )
    add.add_argument("--caption-prompt", metavar="TEXT", help="in place of ours")
    add.add_argument("--tags-prompt", metavar="TEXT", help="in place of ours")
    add.add_argument("--batch", type=int, default=16, help="questions at once (default 16)")
    add.add_argument("--most-scenes", type=int, default=16, help="of a video (default 16)")
    add.add_argument(
        "--max-bad-fraction",
        type=float,
        default=0.05,
        help="share of bad media above which nothing is written (default 0.05)",
    )
    add.add_argument("--template", help="prompt template, in place of the model's own")
    add.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of the weights")
    add.add_argument(
        "--distributed", action="store_true", help="every host of a pod or job asks about its share"
    )


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


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """(flags, --config.key=value overrides). Raises UserError with the nearest name for what is not known."""
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


def no_strangers(parser: Parser, argv: Sequence[str]) -> argparse.Namespace:
    """The flags of a parser that is no part of the whole one; UserError for what it does not know."""
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        flag = unknown[0].split("=")[0]
        hint = nearest(flag, parser.flags()) if flag.startswith("-") else ""
        raise UserError(f"{parser.prog}: {flag!r} is not known.{hint}")
    return args


def check_file(flag: str, path: Path | None) -> None:
    """A file that is written at the end has to be one that can be."""
    if path and path.is_dir():
        raise UserError(f"{flag} {path} is a folder; give a file")
    if path and not path.absolute().parent.is_dir():
        raise UserError(f"{flag} {path}: {path.parent} is no folder")
