"""What a training run optimises: which rows it reads, which model it builds, and its loss as a pair of sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerFast

from input_pipeline import packing, records, token_table
from input_pipeline.conversation import get_template
from input_pipeline.errors import UserError
from input_pipeline.loader import ImageReader, ImageTextPairs, PackedRows, RandomAccess
from input_pipeline.tokenizer import special_id
from input_pipeline.types import Record, Turn
from jaxllava.losses import contrastive_sum, cross_entropy_sum
from jaxllava.models.clip import ClipConfig, ClipModel, init_clip, normalise
from jaxllava.models.llava import LlavaConfig, LlavaModel, init_params
from jaxllava.rules import Params
from jaxllava.train_step import Batch, Sums

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Causal:
    """Next-token prediction on packed conversations (LLaVA's stages) or plain documents (the decoder alone)."""

    model: LlavaModel
    config: ConfigDict

    def rows(
        self, tokenizer: PreTrainedTokenizerFast, progress: Progress | None
    ) -> tuple[RandomAccess, dict[str, Any]]:
        """The packed rows of `config.mixture` and facts about them for the log."""
        config = self.config
        template = get_template(config.template)
        image_tokens = self.model.config.image_tokens
        data = Path(config.data)
        sources = [records.open_split(data, split) for split, _ in config.mixture]
        tables = [
            token_table.cached(
                data.parent / "cache",
                source,
                records.data_hash(data, split),
                tokenizer,
                template,
                image_tokens,
                config.row_tokens,
                progress,
                config.reference_quirks,
            )
            for source, (split, _) in zip(sources, config.mixture, strict=True)
        ]
        for table, (split, _) in zip(tables, config.mixture, strict=True):
            if not len(table):
                raise UserError(f"split {split!r} of {data} has no usable sample; left out: {table.skipped}")
        weights = [weight for _, weight in config.mixture]
        pairs = packing.mixture([len(table) for table in tables], weights, config.seed, config.mixture_epochs)
        all_lengths = [table.lengths for table in tables]
        lengths = np.asarray([all_lengths[table][sample] for table, sample in pairs])
        images = np.asarray([tables[table].images[sample] for table, sample in pairs])
        row_images = config.row_images
        if images.max() > row_images:
            raise UserError(f"a sample has {images.max()} images; raise config.row_images (now {row_images})")
        packed = packing.plan(lengths, images, config.row_tokens, row_images, seed=config.seed)
        facts = {
            "samples": len(pairs),
            "rows": len(packed),
            "fill": round(packed.fill, 4),
            "left_out": {split: t.skipped for t, (split, _) in zip(tables, config.mixture, strict=True)},
        }
        vision = self.model.config.vision
        reader = ImageReader(vision.image_size, self.model.config.image_mode, vision.pad_color)
        rows = PackedRows(
            tables=tables,
            records=sources,
            pairs=pairs,
            plan=packed,
            row_tokens=config.row_tokens,
            row_images=row_images,
            image_tokens=image_tokens,
            read_images=reader,
            pad_id=_pad_id(tokenizer),
        )
        return rows, facts

    def init(self, key: jax.Array) -> Params:
        return init_params(self.model.config, key)

    def loss(self, params: Params, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Sums]:
        """Sum of token losses, and sums: "weight"; [S] "source_loss" and "source_weight" of the mixture's entries;
        "tokens", "pairs" and "images" as `flops.Cost` counts them.
        """
        variables = {"params": params}
        hidden: Any = self.model.apply(
            variables,
            batch["tokens"],
            batch["positions"],
            batch["segment_ids"],
            normalise(batch["images"], self.model.config.vision),
            batch["image_index"],
            rngs={"dropout": key} if key is not None and self.drops else None,
        )
        head: Any = lambda x: self.model.apply(variables, x, method="logits")
        sources = jax.nn.one_hot(batch["sources"], len(self.config.mixture))  # [B, L, S]
        by_source, weights = cross_entropy_sum(
            hidden, head, batch["targets"], batch["weights"], self.config.loss_chunks, sources
        )
        real = batch["segment_ids"] > 0
        sums = {
            "weight": weights.sum(),
            "source_loss": by_source,
            "source_weight": weights,
            "tokens": real.sum(dtype=jnp.float32),
            "pairs": jnp.where(real, batch["positions"] + 1, 0).sum(dtype=jnp.float32),
            "images": (batch["image_index"] >= 0).sum(dtype=jnp.float32) / self.model.config.image_tokens,
        }
        return by_source.sum(), sums

    @property
    def drops(self) -> bool:
        """Whether some adapter has dropout."""
        return any(value and value[2] > 0 for _, value in self.config.lora_rules)


@dataclass(frozen=True)
class _Mixed(Sequence[Record]):
    """Records of several splits in the order of a mixture."""

    sources: Sequence[Sequence[Record]]
    pairs: Sequence[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: Any) -> Record:
        source, number = self.pairs[index]
        return self.sources[source][number]


@dataclass(frozen=True)
class _Titles(Sequence[Record]):
    """What stands beside each record's one image, as a plain document: a post's title, else the first answer."""

    records: Sequence[Record]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Record:
        record = self.records[index]
        if len(record.images) != 1:
            raise UserError(
                f"record {record.id} ({record.task}) has {len(record.images)} images and a contrastive stage needs "
                "one each; take splits of posts or captions for config.mixture"
            )
        answers = (turn.text for turn in record.conversations if turn.role == "gpt")
        return Record(record.id, "text", (), (Turn("gpt", record.meta.get("title") or next(answers)),))


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
        sources = [records.open_split(Path(config.data), split) for split, _ in config.mixture]
        weights = [weight for _, weight in config.mixture]
        pairs = packing.mixture(
            [len(source) for source in sources], weights, config.seed, config.mixture_epochs
        )
        mixed = _Mixed(sources, pairs)
        table = token_table.build(
            _Titles(mixed), tokenizer, get_template("plain"), 0, config.row_tokens, progress
        )
        rows = ImageTextPairs(
            table=table,
            records=mixed,
            text_tokens=config.row_tokens,
            read_images=ImageReader(self.model.config.vision.image_size, config.image_mode or "square"),
            pad_id=_pad_id(tokenizer),
            end_id=special_id(tokenizer, str(tokenizer.eos_token)),
        )
        return rows, {"samples": len(table), "left_out": {"pairs": table.skipped}}

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


def _pad_id(tokenizer: PreTrainedTokenizerFast) -> int:
    return special_id(tokenizer, str(tokenizer.pad_token)) if tokenizer.pad_token else 0


def make_objective(config: ConfigDict, model_config: LlavaConfig | ClipConfig) -> Causal | Contrastive:
    if isinstance(model_config, ClipConfig):
        if config.accumulate > 1:
            raise UserError("config.accumulate > 1 changes a contrastive loss (fewer negatives); set it to 1")
        return Contrastive(ClipModel(model_config), config)
    return Causal(LlavaModel(model_config), config)
