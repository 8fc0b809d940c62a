"""What feeds the device: rows of conversations with pictures; and weights from one format to another."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline import loader, packing, token_table
from input_pipeline.conversation import TEMPLATES
from input_pipeline.rows import ImageReader, PackedRows
from input_pipeline.token_chunks import Job
from input_pipeline.tokenizer import train_tokenizer
from input_pipeline.types import Record, Turn
from jaxllava.bench.pictures import draw
from jaxllava.bench.rounds import row
from jaxllava.bench.sizes import Size
from jaxllava.bench.twin import Twin
from jaxllava.rules import Params
from jaxllava.weights import hf_export
from jaxllava.weights.checkpoint import Checkpoint
from jaxllava.weights.convert import convert

WORDS = ("a", "red", "ball", "lies", "on", "the", "left", "of", "two", "boxes", "and", "nobody", "looks")


def measure_input(size: Size, rounds: int) -> list[dict[str, Any]]:
    """Packed rows a second as the loader gives them, two of its threads at work: JPEGs decoded, tokens laid out."""
    config = size.config
    jpegs = [draw(640, 480, seed) for seed in range(8)]
    rng = np.random.default_rng(0)
    records: Any = [
        Record(
            str(n),
            "instruct",
            (jpegs[n % 8],),
            (
                Turn("human", "<image>\nWhat is here?"),
                Turn("gpt", " ".join(rng.choice(WORDS, rng.integers(5, 60)))),
            ),
        )
        for n in range(256)
    ]
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer([" ".join(WORDS)] * 4, 300, Path(folder, "tokenizer"))
        table = token_table.cached(
            Path(folder),
            Job(records, tokenizer, TEMPLATES["vicuna_v1"], config.image_tokens, size.row_tokens),
            "bench",
        )
        images = max(1, size.row_tokens // (config.image_tokens + 40))
        plan = packing.plan(table.lengths, table.images, size.row_tokens, images, seed=0)
        rows = PackedRows(
            tables=[table],
            records=[records],
            pairs=np.stack([np.zeros(len(table), np.int32), np.arange(len(table), dtype=np.int32)], axis=1),
            plan=plan,
            row_images=images,
            image_tokens=config.image_tokens,
            read_images=ImageReader(
                config.vision.image_size, config.image_mode, config.vision.pad_color, keep_bytes=0
            ),
            pad_id=0,
        )
        stream = loader.batches(rows, global_batch=4, seed=0)
        for _ in range(8):  # what was read ahead
            next(stream)
        found: dict[str, list[float]] = {"rows": [], "tokens": [], "images": []}
        for _ in range(rounds):
            start, tokens, pictures, batches = time.perf_counter(), 0, 0, max(2, len(plan) // 4)
            for _ in range(batches):
                batch = next(stream)
                tokens += int((batch["segment_ids"] > 0).sum())
                pictures += int((batch["image_index"] >= 0).sum()) // config.image_tokens
            seconds = time.perf_counter() - start
            for name, amount in (("rows", 4 * batches), ("tokens", tokens), ("images", pictures)):
                found[name].append(amount / seconds)
        stream.close()
    what = f"rows of {size.row_tokens}, 640 x 480 JPEGs"
    return [row("input", what, f"{name}/s", rates) for name, rates in found.items()]


def measure_conversion(size: Size, params: Params, twin: Twin | None, rounds: int) -> list[dict[str, Any]]:
    """Hugging Face to a jaxllava folder and back; transformers reads and writes its own."""
    found: dict[str, list[float]] = {"from": [], "to": [], "theirs": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = train_tokenizer([" ".join(WORDS)] * 4, 300, folder / "tokenizer")
        image: Any = tokenizer.convert_tokens_to_ids("<image>")
        config = size.config.replace(image_token=image)
        hf_export.export(Checkpoint.of(params, config, tokenizer, "vicuna_v1"), folder / "hf")
        amount = sum(file.stat().st_size for file in (folder / "hf").glob("*.safetensors")) / 1e9
        for number in range(rounds + 1):
            own, back = folder / f"own{number}", folder / f"back{number}"
            spent = {}
            start = time.perf_counter()
            convert(folder / "hf", own, "orbax")
            spent["from"] = time.perf_counter() - start
            start = time.perf_counter()
            convert(own, back, "hf")
            spent["to"] = time.perf_counter() - start
            if twin:
                start = time.perf_counter()
                twin.model.from_pretrained(folder / "hf").save_pretrained(folder / f"theirs{number}")
                spent["theirs"] = time.perf_counter() - start
            for made in (own, back, folder / f"theirs{number}"):
                shutil.rmtree(made, ignore_errors=True)  # of a 7B they would fill a disk
            if number:
                for key, seconds in spent.items():
                    found[key].append(amount / seconds)
    theirs = found["theirs"] or None
    return [
        row(
            "conversion",
            "Hugging Face to jaxllava (transformers: read and save)",
            "GB/s",
            found["from"],
            theirs,
        ),
        row(
            "conversion",
            "jaxllava to Hugging Face (transformers: read and save)",
            "GB/s",
            found["to"],
            theirs,
        ),
    ]
