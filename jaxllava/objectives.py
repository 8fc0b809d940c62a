"""What a training run optimises: which rows it reads, which model it builds, and its loss as a pair of sums."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerFast

from input_pipeline import modality, packing, records, token_table
from input_pipeline.asker import Asker
from input_pipeline.conversation import Template, get_template
from input_pipeline.errors import UserError, nearest
from input_pipeline.loader import RandomAccess
from input_pipeline.packing import PackPlan
from input_pipeline.rows import Asked, ImageReader, ImageTextPairs, KeptFrames, PackedRows, Titles
from input_pipeline.token_chunks import Job
from input_pipeline.token_table import TokenTable
from input_pipeline.tokenizer import special_id
from input_pipeline.tokenizer_check import check_tokenizer
from jaxllava.lora import has_dropout
from jaxllava.losses import contrastive_sum, cross_entropy_sum
from jaxllava.models.clip import ClipConfig, ClipModel, init_clip, normalise
from jaxllava.models.llama_vid import Guide, LlamaVidConfig
from jaxllava.models.llava import LlavaConfig, LlavaModel, init_params
from jaxllava.rules import Params
from jaxllava.train_step import Batch, Sums

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Causal:
    """Next-token prediction on packed conversations (LLaVA's stages) or plain documents (the decoder alone)."""

    model: LlavaModel
    config: ConfigDict
    asker: Asker | None = None  # tokenizes the questions of a LLaMA-VID
    kept: KeptFrames | None = None  # what it gave of frames, in place of pictures

    def rows(
        self, tokenizer: PreTrainedTokenizerFast, progress: Progress | None
    ) -> tuple[RandomAccess, dict[str, Any]]:
        """The rows of `config.mixture`, and facts about them.

        The facts: `batch` (rows of a step), `steps` (of one pass), `samples`, `rows`, `fill` and `image_fill` (shares
        of token positions and image slots in use), `lengths` (of rows, each a program to compile), `left_out`.
        """
        config = self.config
        template = get_template(config.template)
        check_tokenizer(tokenizer, template, self.model.config.decoder.vocab_size)
        image_tokens = self.model.config.image_tokens
        if isinstance(self.model.config, LlamaVidConfig) and self.asker is None:
            raise UserError("a LLaMA-VID needs its question tokenizer; open the model by its folder")
        sources, tables = _tables(config, tokenizer, template, image_tokens, progress, asker=self.asker)
        plan, pairs, batch = _plan(config, tables)
        asked = Asked.of(plan, tables, pairs) if self.asker else None
        read = int(_of_pairs(tables, pairs[plan.samples], "images").sum())
        facts = {
            "batch": batch,
            "steps": math.ceil(len(plan) / batch),
            "samples": len(plan.samples),
            "rows": len(plan),
            "fill": round(plan.fill, 4),
            "image_fill": round(read / max(len(plan) * config.row_images, 1), 4),
            "lengths": np.unique(plan.row_lengths).tolist(),
            "left_out": {split: t.skipped for t, (split, _) in zip(tables, config.mixture, strict=True)},
        } | ({"asked": dataclasses.asdict(asked)} if asked else {})
        vision = self.model.config.vision
        rows = PackedRows(
            tables=tables,
            records=sources,
            pairs=pairs,
            plan=plan,
            row_images=config.row_images,
            image_tokens=image_tokens,
            read_images=ImageReader(
                vision.image_size,
                self.model.config.image_mode,
                vision.pad_color,
                self.model.config.film_mode,
            ),
            pad_id=_pad_id(tokenizer),
            ordered=config.batching != "packed",
            asked=asked,
            kept=self.kept,
        )
        return rows, facts

    def init(self, key: jax.Array) -> Params:
        return init_params(self.model.config, key)

    def loss(self, params: Params, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Sums]:
        """Sum of token losses, and sums: "weight"; [S] "source_loss" and "source_weight" of the mixture's entries;
        "tokens", "pairs", "images" and of a LLaMA-VID "slots" and "words" as `flops.Cost` counts them.

        In place of "images" the batch may have "pooled" [B, N, image_tokens, W], what a LLaMA-VID's `compress` gave of
        N slots: neither tower nor Q-Former runs then. "images" counts the slots in use there.
        """
        variables = {"params": params}
        kept = batch.get("pooled")
        hidden: Any = self.model.apply(
            variables,
            batch["tokens"],
            batch["positions"],
            batch["segment_ids"],
            normalise(batch["images"], self.model.config.vision) if kept is None else kept,
            batch["image_index"],
            guide_of(batch),
            rngs={"dropout": key} if key is not None and has_dropout(self.config.lora_rules) else None,
        )
        head: Any = self.model.apply(variables, method="head")
        sources = jax.nn.one_hot(batch["sources"], len(self.config.mixture))  # [B, L, S]
        total, by_source, weights = cross_entropy_sum(
            hidden, head, batch["targets"], batch["weights"], self.config.loss_chunks, sources
        )
        real = batch["segment_ids"] > 0
        sums = {
            "weight": weights.sum(),
            "source_loss": by_source,
            "source_weight": weights,
            "tokens": real.sum(dtype=jnp.float32),
            "pairs": jnp.where(real, batch["positions"] + 1, 0).sum(dtype=jnp.float32),
        }
        return total, sums | pictures_of(batch, self.model.config.image_tokens)


@dataclass(frozen=True, eq=False)
class Contrastive:
    """CLIP: which text belongs to which image, over the whole global batch."""

    model: ClipModel
    config: ConfigDict

    def rows(
        self, tokenizer: PreTrainedTokenizerFast, progress: Progress | None
    ) -> tuple[RandomAccess, dict[str, Any]]:
        """The image-text pairs of `config.mixture` and facts about them for the log."""
        config = self.config
        if config.batching != "packed":
            raise UserError(
                f"config.batching={config.batching!r}: a contrastive stage reads pairs; set it to 'packed'"
            )
        plain = get_template("plain")
        check_tokenizer(tokenizer, plain, self.model.config.text.vocab_size)
        sources, tables = _tables(config, tokenizer, plain, 0, progress, titles=True)
        pairs = packing.mixture(
            [len(table) for table in tables],
            [weight for _, weight in config.mixture],
            config.seed,
            config.mixture_epochs,
        )
        rows = ImageTextPairs(
            tables=tables,
            records=sources,
            pairs=pairs,
            text_tokens=config.row_tokens,
            read_images=ImageReader(self.model.config.vision.image_size, config.image_mode or "square"),
            pad_id=_pad_id(tokenizer),
            end_id=special_id(tokenizer, str(tokenizer.eos_token)),
        )
        batch = config.samples_per_step or config.batch
        facts = {
            "batch": batch,
            "steps": max(len(pairs) // batch, 1),  # a batch of fewer pairs would be another task
            "samples": len(pairs),
            "rows": len(pairs),
            "left_out": {split: t.skipped for t, (split, _) in zip(tables, config.mixture, strict=True)},
        }
        return rows, facts

    def init(self, key: jax.Array) -> Params:
        return init_clip(self.model.config, key)

    def loss(self, params: Params, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Sums]:
        """Sum over pairs, and sums: "weight" (pairs), "tokens" of the texts, "images"."""
        del key
        pixels = normalise(batch["images"], self.model.config.vision)
        features: Any = self.model.apply({"params": params}, pixels, batch["tokens"])
        total, pairs = contrastive_sum(*features)
        tokens = batch["text_length"].sum(dtype=jnp.float32)
        return total, {"weight": pairs, "tokens": tokens, "images": pairs}


def guide_of(batch: Batch) -> Guide | None:
    """What a LLaMA-VID's batch asks of its frames; None where it has none, or what they gave is there already."""
    if "questions" not in batch or "pooled" in batch:
        return None
    return Guide(batch["slot_frame"], batch["slot_question"], batch["questions"], batch["question_valid"])


def pictures_of(batch: Batch, image_tokens: int) -> Sums:
    """How much of the pictures' part of a batch is real, as `flops.Cost` counts it: f32 [] each.

    "images"; and where the batch has questions "slots", which are looked at, and "words", the tokens of the question of
    each of them.
    """
    index = batch["image_index"]  # [B, L]
    taken = (index >= 0).sum(dtype=jnp.float32) / image_tokens
    if (guide := guide_of(batch)) is None:
        return {"images": taken} | ({"slots": taken} if "pooled" in batch else {})
    rows, slots = guide.frame.shape
    row = jnp.arange(rows)[:, None]
    # What is written behind the end is dropped.
    used = jnp.zeros((rows, slots)).at[row, jnp.where(index >= 0, index // image_tokens, slots)].set(1.0)
    frames = batch["images"].shape[1]
    seen = jnp.zeros((rows, frames)).at[row, jnp.where(used > 0, guide.frame, frames)].set(1.0)
    words = jnp.take_along_axis(guide.valid.sum(-1, dtype=jnp.float32), guide.query, axis=1)  # [B, N]
    return {"images": seen.sum(), "slots": taken, "words": (words * used).sum()}


BATCHINGS = ("packed", "padded", "padded_random")


def _tables(
    config: ConfigDict,
    tokenizer: PreTrainedTokenizerFast,
    template: Template,
    image_tokens: int,
    progress: Progress | None,
    titles: bool = False,
    asker: Asker | None = None,
) -> tuple[list[records.RecordSource], list[TokenTable]]:
    """The splits of `config.mixture` and their tokens; with `titles` those of their pictures' titles."""
    data = Path(config.data)
    sources = [records.open_split(data, split) for split, _ in config.mixture]
    tables = [
        token_table.cached(
            data.parent / "cache",
            Job(
                Titles(source) if titles else source,
                tokenizer,
                template,
                image_tokens,
                min(config.sample_tokens or config.row_tokens, config.row_tokens),
                config.reference_quirks,
                config.clip_frames,
                asker,
            ),
            records.data_hash(data, split) + (" titles" if titles else ""),
            progress,
            config.workers,
        )
        for source, (split, _) in zip(sources, config.mixture, strict=True)
    ]
    for table, (split, _) in zip(tables, config.mixture, strict=True):
        if not len(table):
            raise UserError(f"split {split!r} of {data} has no usable sample; left out: {table.skipped}")
    return sources, tables


def _of_pairs(tables: Sequence[TokenTable], pairs: np.ndarray, name: str) -> np.ndarray:
    """int64 [N]: an array of the tables, by (table, sample) pairs [N, 2]."""
    values = np.zeros(len(pairs), np.int64)
    for number, table in enumerate(tables):
        here = pairs[:, 0] == number
        values[here] = getattr(table, name)[pairs[here, 1]]
    return values


def _plan(config: ConfigDict, tables: Sequence[TokenTable]) -> tuple[PackPlan, np.ndarray, int]:
    """The plan of the mixture's rows, its (table, sample) pairs, and how many rows a step has.

    A pure function of the tables and the config: not of the mesh or the hosts, which may change in a run.
    """
    if config.batching not in BATCHINGS:
        raise UserError(
            f"config.batching: {config.batching!r} is not known.{nearest(str(config.batching), BATCHINGS)}"
        )
    sizes, weights = [len(table) for table in tables], [weight for _, weight in config.mixture]
    padded = config.batching != "packed"
    mix = (sizes, weights, config.seed, config.mixture_epochs)
    epochs = packing.mixture_by_epoch(*mix) if padded else [packing.mixture(*mix)]
    pairs = np.concatenate(epochs)
    if not len(pairs):
        raise UserError(
            f"config.mixture_epochs={config.mixture_epochs} of {sizes[0]} samples is no sample; raise it"
        )
    if config.samples_per_step > len(pairs):
        raise UserError(
            f"config.samples_per_step={config.samples_per_step} is more than the {len(pairs)} samples of a pass"
        )
    lengths, images, words = (_of_pairs(tables, pairs, name) for name in ("lengths", "images", "words"))
    if images.max() > config.row_images:
        raise UserError(
            f"a sample has {images.max()} images; raise config.row_images (now {config.row_images})"
        )
    if padded:
        batch = config.samples_per_step or config.batch
        plan = modality.padded_plan(
            [len(epoch) for epoch in epochs],
            config.mixture_epochs - (len(epochs) - 1),
            lengths,
            images,
            words,
            batch=batch,
            row_tokens=config.row_tokens,
            pad_multiple=config.pad_multiple,
            seed=config.seed,
            grouped=config.batching == "padded",
        )
        return plan, pairs, batch
    plan = packing.plan(lengths, images, config.row_tokens, config.row_images, seed=config.seed)
    batch = config.batch
    if config.samples_per_step:
        batch = packing.rows_per_step(config.samples_per_step, len(pairs), len(plan))
    return packing.fill_up(plan, batch) if config.steps == 0 else plan, pairs, batch


def _pad_id(tokenizer: PreTrainedTokenizerFast) -> int:
    return special_id(tokenizer, str(tokenizer.pad_token)) if tokenizer.pad_token else 0


def make_objective(
    config: ConfigDict,
    model_config: LlavaConfig | ClipConfig,
    asker: Asker | None = None,
    kept: KeptFrames | None = None,
) -> Causal | Contrastive:
    """The objective that fits the model; a LLaMA-VID's needs an `asker` to read data."""
    if isinstance(model_config, ClipConfig):
        if config.accumulate > 1:
            raise UserError("config.accumulate > 1 changes a contrastive loss (fewer negatives); set it to 1")
        return Contrastive(ClipModel(model_config), config)
    if asker is not None and isinstance(model_config, LlamaVidConfig):
        asker.check(model_config.qformer.vocab_size, model_config.qformer.max_positions)
    if not isinstance(model_config, LlamaVidConfig):
        asker = None
    return Causal(model_config.module(), config, asker, kept)
