"""The loss on held-out rows, measured with each checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerFast

from input_pipeline import loader
from input_pipeline.errors import UserError
from jaxllava import rules as rules_lib
from jaxllava import sharding
from jaxllava.objectives import Causal, Contrastive, make_objective
from jaxllava.rules import Params


@dataclass(frozen=True, eq=False)
class Validation:
    """Up to `config.validation_rows` rows of the mixture `config.validation`, in batches of a micro-batch's size: more
    rows at once may not fit where a step's have to be taken in parts."""

    rows: Any
    batch: int
    batches: int
    step: Any
    sharding: NamedSharding

    @classmethod
    def of(
        cls,
        config: ConfigDict,
        objective: Causal | Contrastive,
        tokenizer: PreTrainedTokenizerFast,
        mesh: Mesh,
    ) -> Validation | None:
        """None where no mixture is given. Its rows are the same in every run with the same data and seed."""
        if not config.validation:
            return None
        own = config.copy_and_resolve_references()
        size = config.batch // config.accumulate
        # One pass, filled up with empty rows: every sample counts once, whatever the batch.
        own.update(
            mixture=config.validation,
            mixture_epochs=1.0,
            steps=0,
            batch=size,
            samples_per_step=0,
            batching="packed",
        )
        if isinstance(objective, Contrastive):
            raise UserError("config.validation: a contrastive loss depends on its batch; leave it empty")
        held_out = make_objective(own, objective.model.config, objective.asker, objective.kept)
        rows, facts = held_out.rows(tokenizer, None)
        if not len(rows):
            raise UserError(f"no validation rows in {config.data} for {config.validation}")
        most = max(config.validation_rows // size, 1)

        def sums(trained: Params, frozen: Params, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
            total, found = held_out.loss(rules_lib.merge(trained, frozen), batch)
            return total, found["weight"]

        whole = NamedSharding(mesh, PartitionSpec())
        step = jax.jit(sums, out_shardings=whole)
        return cls(rows, size, min(facts["steps"], most), step, sharding.batch_sharding(mesh))

    def measure(self, trained: Params, frozen: Params) -> float:
        """Sum of token losses / sum of token weights."""
        positions = sharding.rows_of_host(self.sharding, self.batch)
        total = weight = 0.0
        with loader.batches(self.rows, global_batch=self.batch, positions=positions, seed=0) as stream:
            for _ in range(self.batches):
                arrays = loader.to_device(next(stream), self.sharding, self.batch, positions)
                found = jax.device_get(self.step(trained, frozen, arrays))
                total, weight = total + float(found[0]), weight + float(found[1])
        return total / max(weight, 1.0)
