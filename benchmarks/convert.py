"""Conversion at full size: peak memory and speed of `jaxllava convert` in each direction, on random bfloat16 weights.

    python -m benchmarks.convert --size 7b --dir DIR

Anonymous memory is what a process holds of its own (RssAnon); pages of mapped files are not counted, as the kernel
takes them back when it needs them. Linux only.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from input_pipeline.tokenizer import train_tokenizer
from jaxllava.models.llava import llava_1_5
from jaxllava.rules import unflatten
from jaxllava.weights import hf_export, tables
from jaxllava.weights.checkpoint import Checkpoint
from jaxllava.weights.lazy import Leaf, Tensor, is_stacked, total_bytes

# (from, to, format) in order; the last two folders must hold the same tensors.
STEPS = (
    ("hf", "orbax", "orbax"),
    ("orbax", "again", "hf"),
    ("hf", "llava", "llava"),
    ("llava", "from_llava", "hf"),
)


def random_leaf(path: str, shape: tuple[int, ...]) -> Leaf:
    """A parameter of random bfloat16 numbers below 2, drawn when it is read: the same ones each time."""
    dtype = np.dtype(ml_dtypes.bfloat16)

    def draw(seed: int, shape: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng([seed, *path.encode()])
        count = int(np.prod(shape))
        words = rng.integers(0, 2**64, -(-count // 4), np.uint64, endpoint=False).view(np.uint16)[:count]
        return (words & 0xBFFF).view(dtype).reshape(shape)

    if not is_stacked(path):
        return Leaf((Tensor(shape, dtype, lambda: draw(0, shape)),), False)
    pieces = [Tensor(shape[1:], dtype, lambda i=i: draw(i, shape[1:])) for i in range(shape[0])]
    return Leaf(tuple(pieces), True)


def peak_while(process: subprocess.Popen[bytes]) -> int:
    """The most anonymous memory that a process had, in bytes, sampled until it ends."""
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        found = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")]
        peak = max([peak, *(1024 * int(kibibytes) for kibibytes in found)])
        time.sleep(0.02)
    return peak


def hashes(folder: Path) -> dict[str, str]:
    return {
        name: entry["sha256"] for name, entry in json.loads((folder / "manifest.json").read_text()).items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("7b", "13b"), default="7b")
    parser.add_argument(
        "--dir", type=Path, required=True, help="a folder to work in; needs three times the weights"
    )
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    corpus = ["a small tokenizer is enough: only the weights are large"] * 4
    tokenizer = train_tokenizer(corpus, 270, args.dir / "tokenizer")
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = llava_1_5(args.size, "bfloat16", "bfloat16").replace(image_token=image)
    shapes = tables.shapes(config)
    leaves = unflatten({path: random_leaf(path, shape) for path, shape in shapes.items()})
    size = total_bytes(leaves)
    print(f"LLaVA-1.5 {args.size}, {size / 1e9:.2f} GB of bfloat16", flush=True)
    if not (args.dir / "hf").exists():
        hf_export.export(Checkpoint(leaves, config, tokenizer, "vicuna_v1"), args.dir / "hf")
    for source, target, format in STEPS:
        shutil.rmtree(args.dir / target, ignore_errors=True)
        command = [sys.executable, "-m", "jaxllava", "convert", "--format", format]
        command += ["--from", str(args.dir / source), "--to", str(args.dir / target)]
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        peak = peak_while(process)
        seconds = time.monotonic() - started
        if process.wait():
            raise SystemExit(f"{' '.join(command)} failed")
        print(
            f"{source:>10} -> {target:<10} ({format:<5}) {seconds:7.1f} s  {size / 1e9 / seconds:5.2f} GB/s  "
            f"peak anonymous {peak / 2**30:5.2f} GiB",
            flush=True,
        )
        if target in ("again", "from_llava"):
            same = hashes(args.dir / target) == hashes(args.dir / "hf")
            print(f"{'':>10}    {target} is bitwise equal to hf: {same}", flush=True)
            shutil.rmtree(args.dir / target)
            shutil.rmtree(args.dir / source)
    shutil.rmtree(args.dir)


if __name__ == "__main__":
    main()
