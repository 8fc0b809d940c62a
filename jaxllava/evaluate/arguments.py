"""The flags of `jaxllava evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from jaxllava.teacher import arguments as teacher


def add_flags(add: argparse.ArgumentParser) -> None:
    """All of them."""
    add.add_argument(
        "--checkpoint",
        "--model",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="model folder; with --data it may be given several times, the first is compared with each of the others",
    )
    add.add_argument("--out", type=Path, help="folder for every answer; given again, the command goes on")
    add.add_argument("--limit", type=int, help="questions of a task (default all), posts (default 400)")
    add.add_argument(
        "--list", action="store_true", help="show the benchmarks, and with --data-root which are ready"
    )
    add.add_argument("--tasks", help="benchmarks or families of them, joined by commas; all")
    add.add_argument("--data-root", type=Path, help="folder of the benchmarks' folders")
    add.add_argument(
        "--setting",
        default="zero-shot",
        help="whose reported figures to show: zero-shot, fine-tuned, ... with story",
    )
    add.add_argument("--frames", type=int, help="of a video, as pictures (default 4)")
    add.add_argument(
        "--fps",
        type=float,
        help="frames of a second of a video, all as one image (LLaMA-VID; its default is 1)",
    )
    add.add_argument(
        "--features",
        type=Path,
        help="folder to keep a LLaMA-VID's features of videos in, for other questions",
    )
    add.add_argument("--batch-size", type=int, default=16)
    add.add_argument("--template", help="prompt template, in place of the model's own")
    add.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of the weights")
    add.add_argument("--restart", action="store_true", help="throw away the answers that --out holds")
    add.add_argument(
        "--distributed",
        action="store_true",
        help="every host of a pod or job answers its share of the questions",
    )
    judge(add)
    add.add_argument("--data", type=Path, help="records folder of a prepared data set")
    add.add_argument("--gold", type=Path, help="plaza's gold.json, for mood, topic, memorability, visual QA")
    add.add_argument("--json", type=Path, help="also write the figures of --data here")


def judge(add: argparse.ArgumentParser) -> None:
    """Those of judged figures."""
    teacher.add_flags(add, "judge")
    add.add_argument(
        "--judge-repeats", type=int, default=1, metavar="N", help="reviews of each answer (default 1)"
    )
    add.add_argument(
        "--judge-swap",
        action="store_true",
        help="LLaVA-Bench: review each pair also with the assistants exchanged",
    )
    add.add_argument(
        "--judge-drop-unparsable",
        action="store_true",
        help="leave out reviews that the reference cannot read and counts as -1 or 0",
    )
    add.add_argument("--judge-seed", type=int, default=0, help="of judged figures' intervals and guesses")
    add.add_argument(
        "--judge-temperature",
        type=float,
        metavar="X",
        help="of every request, in place of the protocol's; 1 for models that take no other",
    )
    add.add_argument(
        "--judge-max-tokens",
        type=int,
        metavar="N",
        help="of every answer, in place of the protocol's; more for models that think first",
    )
    add.add_argument("--judge-dry-run", action="store_true", help="say what judging costs, and stop")
    teacher.add_batch_flags(add.add_argument, "judge-")
    add.add_argument(
        "--judge-reviews",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="figures of reviews that are there: of LLaVA's scripts, or of Video-ChatGPT's; each file a repeat",
    )
