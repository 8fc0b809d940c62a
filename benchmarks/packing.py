"""The pack plan on lengths like those of LLaVA-1.5's mix-665K, and the speed of a token table.

`python benchmarks/packing.py [--samples 665298] [--records 20000]`. The lengths are those of
`jaxllava.bench.lengths`. Prints JSON: for
each kind of row how full rows are, how full no plan could make them (see `most`), and the seconds of the plan; for
LLaVA's own padded batches the same; for a token table tokens per second and bytes per sample.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from input_pipeline import modality, packing, token_table
from input_pipeline.conversation import TEMPLATES
from input_pipeline.token_chunks import Job
from input_pipeline.tokenizer import train_tokenizer
from input_pipeline.types import Record, Turn
from jaxllava.bench.lengths import IMAGE, SYSTEM, draw


def most(lengths: np.ndarray, row: int) -> float:
    """A fill that no plan exceeds: of samples longer than a k-th of a row, fewer than k fit into one.

    These are the bounds u(k) of Fekete and Schepers for bin packing, k up to 5.
    """
    rows = lengths.sum() / row
    for k in range(1, 6):
        whole = lengths * (k + 1) % row == 0
        rows = max(rows, np.where(whole, lengths / row, lengths * (k + 1) // row / k).sum())
    return float(lengths.sum() / row / rows)


def measure_plans(samples: int) -> list[dict[str, Any]]:
    text, images, words = draw()
    chosen = np.random.default_rng(1).permutation(len(text))[:samples]
    text, images, words = text[chosen], images[chosen], words[chosen]
    found = []
    for row, row_images in ((2048, 3), (2048, 4), (4096, 5), (4096, 6), (4096, 7)):
        lengths = np.minimum(SYSTEM + text + IMAGE * images, 2048)
        start = time.monotonic()
        plan = packing.plan(lengths, images, row, row_images, seed=0)
        seconds = time.monotonic() - start
        found.append(
            {
                "batching": "packed",
                "row_tokens": row,
                "row_images": row_images,
                "rows": len(plan),
                "fill": round(plan.fill, 4),
                "fill_at_most": round(most(lengths, row), 4),
                "image_fill": round(float(images.sum()) / len(plan) / row_images, 4),
                "rows_for_128_samples": packing.rows_per_step(128, len(lengths), len(plan)),
                "seconds": round(seconds, 1),
            }
        )
        print(found[-1], file=sys.stderr, flush=True)
    lengths = np.minimum(SYSTEM + text + IMAGE * images, 2048)
    for grouped in (True, False):
        start = time.monotonic()
        plan = modality.padded_plan(
            [len(lengths)], 1.0, lengths, images, words,
            batch=128, row_tokens=2048, pad_multiple=256, seed=0, grouped=grouped,
        )  # fmt: skip
        found.append(
            {
                "batching": "padded" if grouped else "padded_random",
                "row_tokens": 2048,
                "batch": 128,
                "pad_multiple": 256,
                "rows": len(plan),
                "fill": round(plan.fill, 4),
                "lengths": np.unique(plan.row_lengths).tolist(),
                "seconds": round(time.monotonic() - start, 1),
            }
        )
        print(found[-1], file=sys.stderr, flush=True)
    return found


class Drawn:
    """Conversations of the drawn lengths, made when they are asked for."""

    def __init__(self, count: int) -> None:
        self.count = count
        rng = np.random.default_rng(2)
        self.words = ["".join(map(chr, rng.integers(97, 123, rng.integers(1, 9)))) for _ in range(5000)]
        text, images, words = draw()
        chosen = rng.permutation(len(text))[:count]
        self.sizes = list(zip(words[chosen].tolist(), images[chosen].tolist(), strict=True))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        words, images = self.sizes[index]
        said = " ".join(self.words[(index * 31 + n * n) % 5000] for n in range(words))
        half = len(said) // 2
        turns = (Turn("human", "<image>\n" * images + said[:half] + "?"), Turn("gpt", said[half:] + "."))
        return Record(str(index), "instruct", (b"",) * images, turns)


def measure_table(count: int, workers: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        drawn: Any = Drawn(count)
        tokenizer = train_tokenizer(
            [drawn[n].conversations[0].text for n in range(300)], 4000, Path(folder, "t")
        )
        start = time.monotonic()
        table = token_table.cached(
            Path(folder),
            Job(drawn, tokenizer, TEMPLATES["vicuna_v1"], IMAGE, 2048),
            "x",
            workers=workers,
        )
        seconds = time.monotonic() - start
        size = sum(file.stat().st_size for file in table.path.iterdir()) if table.path else 0
        start = time.monotonic()
        for index in range(0, len(table), 10):
            table[index]
        read = (time.monotonic() - start) / len(range(0, len(table), 10))
        return {
            "records": count,
            "workers": workers,
            "text_tokens": len(table.tokens),
            "text_tokens_per_second": round(len(table.tokens) / seconds),
            "records_per_second": round(count / seconds),
            "bytes_per_sample": round(size / len(table), 1),
            # The table before this one: tokens, labels and image positions as int32, each image written out.
            "bytes_per_sample_expanded": round(12 * float(table.lengths.mean()) + 20, 1),
            "microseconds_to_expand_a_sample": round(read * 1e6, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--samples", type=int, default=665_298)
    parser.add_argument("--records", type=int, default=20_000)
    args = parser.parse_args()
    text, images, _ = draw()
    with_image = np.percentile(text[images > 0], [10, 50, 90]).round().tolist()
    result = {
        "command": "python benchmarks/packing.py",
        "machine": "2-core x86-64 virtual machine, Python 3.11",
        "text_tokens_beside_an_image_10_50_90": with_image,
        "plans": measure_plans(args.samples),
        "token_tables": [measure_table(args.records, workers) for workers in (0, 2)],
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
