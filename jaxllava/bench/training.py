"""The train step on rows of real lengths: packed, padded, and in PyTorch padded; the same samples in each."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import train as train_config
from input_pipeline import packing
from input_pipeline.errors import UserError
from jaxllava import chips, flops, initial
from jaxllava import optimizer as optimizer_lib
from jaxllava import sharding as sharding_lib
from jaxllava.bench import lengths as drawn
from jaxllava.bench.rounds import row
from jaxllava.bench.sizes import WAYS, Size
from jaxllava.bench.twin import Twin
from jaxllava.models.clip import normalise
from jaxllava.models.llava import LlavaConfig
from jaxllava.objectives import Causal, make_objective
from jaxllava.rules import Params
from jaxllava.train_step import make_step

TOLERANCE = 1e-4  # of losses, relative
IGNORED = -100
LR = 1e-4


class Samples:
    """Samples of random tokens with mix-665K's lengths, scaled as the model's pictures are to LLaVA-1.5's."""

    def __init__(self, size: Size, seed: int = 0) -> None:
        self.size, config = size, size.config
        scale = config.image_tokens / drawn.IMAGE
        text, images, _ = drawn.draw()
        chosen = np.random.default_rng(seed).permutation(len(text))[:400]
        text = np.maximum(((text[chosen] + drawn.SYSTEM) * scale).astype(int), 4)
        images = images[chosen]
        most = max(int(2048 * scale), config.image_tokens + 8)
        lengths = np.minimum(text + images * config.image_tokens, min(most, size.row_tokens))
        self.row_images = max(1, -(-size.row_tokens * 7 // (4096 * scale).__ceil__()))
        plan = packing.plan(lengths, images, size.row_tokens, self.row_images, seed=seed)
        # Any rows: neighbours in the plan hold samples of like length. Of a few draws the one that padding fills as it
        # fills batches drawn at random, on average over many: a single batch may be far from that.
        rng = np.random.default_rng(seed)
        draws = [rng.choice(len(plan), size.rows, replace=len(plan) < size.rows) for _ in range(32)]
        several = [np.concatenate([plan[n] for n in rows.tolist()]) for rows in draws]
        fill = lambda chosen: lengths[chosen].mean() / lengths[chosen].max()
        count = round(float(np.mean([len(chosen) for chosen in several])))
        usual = np.mean([fill(rng.choice(len(lengths), count)) for _ in range(1000)])
        best = int(np.argmin([abs(fill(chosen) - usual) for chosen in several]))
        self.plan = [plan[n] for n in draws[best].tolist()]
        self.numbers = rng.permutation(several[best])
        self.lengths, self.images = lengths, images

    def sample(self, number: int) -> dict[str, np.ndarray]:
        """Tokens, positions of pictures, and which of them are supervised (the last half of the text): [L] each."""
        rng = np.random.default_rng((1, number))
        config = self.size.config
        length, marks = int(self.lengths[number]), int(self.images[number]) * config.image_tokens
        top = min(config.decoder.vocab_size, config.image_token if config.image_token > 100 else 10**9)
        tokens = rng.integers(6, top, length).astype(np.int32)
        tokens[1 : 1 + marks] = config.image_token
        index = np.full(length, -1, np.int32)
        index[1 : 1 + marks] = np.arange(marks)
        said = np.arange(length) >= (length + marks) // 2 + 1
        side = config.vision.image_size
        pixels = rng.integers(0, 255, (int(self.images[number]), side, side, 3), dtype=np.uint8)
        return {"tokens": tokens, "image_index": index, "said": said, "images": pixels}

    def rows(self, rows: list[np.ndarray], width: int, slots: int) -> dict[str, np.ndarray]:
        """A batch as `input_pipeline.rows` makes it, of these samples row by row."""
        config = self.size.config
        side = config.vision.image_size
        batch: dict[str, np.ndarray] = {
            name: np.zeros((len(rows), width), np.int32)
            for name in ("tokens", "targets", "positions", "segment_ids", "sources")
        }
        batch["weights"] = np.zeros((len(rows), width), np.float32)
        batch["image_index"] = np.full((len(rows), width), -1, np.int32)
        batch["images"] = np.zeros((len(rows), slots, side, side, 3), np.uint8)
        for r, numbers in enumerate(rows):
            start = slot = 0
            for segment, number in enumerate(numbers.tolist(), start=1):
                one = self.sample(number)
                length = len(one["tokens"])
                span = slice(start, start + length)
                index = one["image_index"]
                batch["tokens"][r, span] = one["tokens"]
                batch["targets"][r, start : start + length - 1] = one["tokens"][1:]
                batch["weights"][r, start : start + length - 1] = one["said"][1:]
                batch["positions"][r, span] = np.arange(length)
                batch["segment_ids"][r, span] = segment
                batch["image_index"][r, span] = np.where(index >= 0, index + slot * config.image_tokens, -1)
                batch["images"][r, slot : slot + len(one["images"])] = one["images"]
                start, slot = start + length, slot + len(one["images"])
        return batch

    def packed(self) -> dict[str, np.ndarray]:
        return self.rows(self.plan, self.size.row_tokens, self.row_images)

    def padded(self) -> dict[str, np.ndarray]:
        """One sample a row, as long as the longest."""
        return self.rows([self.numbers[i : i + 1] for i in range(len(self.numbers))], self.width, 1)

    @property
    def width(self) -> int:
        return int(self.lengths[self.numbers].max())

    def torch(self) -> dict[str, np.ndarray]:
        """The padded batch as transformers takes it."""
        batch = self.padded()
        real = batch["segment_ids"] > 0
        labels = np.full(real.shape, IGNORED)
        labels[:, 1:] = np.where(batch["weights"][:, :-1] > 0, batch["targets"][:, :-1], IGNORED)
        held = self.images[self.numbers] > 0
        pixels = np.asarray(normalise(jnp.asarray(batch["images"][held]), self.size.config.vision))
        return {
            "input_ids": batch["tokens"],
            "attention_mask": real.astype(np.int32),
            "labels": labels,
            "pixel_values": pixels.reshape(-1, *pixels.shape[2:]).transpose(0, 3, 1, 2),
        }


def _config(way: str) -> ConfigDict:
    config = train_config.get_config("stage=instruct")
    config.lr_rules, config.lora_rules = WAYS[way]
    config.frozen_dtype = "bfloat16" if jax.default_backend() != "cpu" else "float32"
    config.lr, config.warmup, config.steps = LR, 0.0, 10**6
    config.mesh = (1, 1, 1)
    config.devices = 1
    return config


class Run:
    """A step of one way to train on one batch, its state between steps."""

    def __init__(self, size: Size, way: str, batch: dict[str, np.ndarray], params: Params | None) -> None:
        self.config = _config(way)
        model = size.config
        for part in ("vision", "decoder"):
            changed = getattr(model, part).replace(remat=size.remat, attention="auto")
            model = model.replace(**{part: changed})
        objective = make_objective(self.config, model)
        assert isinstance(objective, Causal)
        self.mesh = sharding_lib.make_mesh(self.config.mesh, limit=1)
        shapes = initial.final_shapes(objective.init, self.config)
        optimizer, _ = optimizer_lib.make_optimizer(self.config, shapes)
        # The step takes what trains for itself.
        given = (
            initial.initial_params(objective.init, self.config, self.mesh)
            if params is None
            else jax.tree.map(jnp.copy, params)
        )
        self.trained, self.frozen = optimizer_lib.partition(given, self.config.lr_rules)
        with jax.set_mesh(self.mesh):
            self.state = optimizer_lib.initial_state(optimizer, self.trained, self.mesh)
        self.step = make_step(objective.loss, optimizer)
        self.batch = jax.tree.map(jnp.asarray, batch)
        self.losses: list[float] = []
        self.sums: dict[str, Any] = {}
        self.cost = flops.of_trained(model, self.trained)

    def __call__(self) -> None:
        with jax.set_mesh(self.mesh):
            number = jnp.int32(len(self.losses) + 1)
            self.trained, self.state, found = self.step(
                self.trained, self.state, self.frozen, self.batch, number, jnp.zeros(1, jnp.int32)
            )
        self.losses.append(float(found["loss"]))
        self.sums = {name: float(found[name]) for name in ("tokens", "pairs", "images")}


def measure(size: Size, params: Params | None, twin: Twin | None, rounds: int) -> list[dict[str, Any]]:
    """Lines of the result: real tokens a second (padding is not counted). Raises a UserError where losses differ."""
    samples = Samples(size)
    found = []
    for way in size.ways:
        runs: dict[str, Any] = {"packed": Run(size, way, samples.packed(), params)}
        if twin and way == "full":
            runs["padded"] = Run(size, way, samples.padded(), params)
            config = runs["packed"].config
            twin.start_training(config.lr, (config.b1, config.b2), config.eps)
            batch, theirs = twin.batch(samples.torch()), []
            runs["theirs"] = lambda batch=batch, theirs=theirs, clip=config.clip_norm: theirs.append(
                twin.step(batch, clip)
            )
        seconds = _in_turn(runs, rounds)
        if "theirs" in runs:
            _compare(runs["packed"].losses, theirs, runs["padded"].losses)
        real = runs["packed"].sums["tokens"]
        rates = {name: [real / s for s in each] for name, each in seconds.items()}
        fill = real / runs["packed"].batch["tokens"].size
        positions = len(samples.numbers) * samples.width
        facts: dict[str, Any] = {
            "fill": round(fill, 3),
            "fill_padded": round(real / positions, 3),
            "real_tokens": int(real),
        }
        if peak := chips.peak(jax.devices()[0].device_kind):
            best = runs["packed"].cost.of(**runs["packed"].sums)
            facts["mfu"] = round(best / float(np.median(seconds["packed"])) / peak, 4)
        found.append(
            row("train", f"{way}, packed", "real tokens/s", rates["packed"], rates.get("theirs")) | facts
        )
        if "padded" in rates:
            found.append(row("train", f"{way}, padded", "real tokens/s", rates["padded"], rates["theirs"]))
    return found


def _in_turn(runs: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:  # the first compiles
                found[name].append(time.perf_counter() - start)
    return found


def _compare(packed: list[float], theirs: list[float], padded: list[float]) -> None:
    """The first two losses: of the same weights, and after one step of the same optimizer."""
    for number, (own, other, third) in enumerate(list(zip(packed, theirs, padded, strict=True))[:2], start=1):
        off = max(abs(own - other), abs(third - other)) / abs(other)
        if not off < TOLERANCE:
            raise UserError(
                f"bench: the losses of step {number} differ by {off:.2g} ({own:.6f} packed, {third:.6f} padded, "
                f"{other:.6f} in PyTorch); at most {TOLERANCE} is allowed"
            )


def fresh(config: LlavaConfig) -> Params:
    """Random parameters as inference holds them, made on the device: bfloat16 on accelerators."""
    settings = _config("full")
    settings.lr_rules = ((r".*", None),)
    mesh = sharding_lib.make_mesh(settings.mesh, limit=1)
    objective = make_objective(settings, config)
    return initial.initial_params(objective.init, settings, mesh)
