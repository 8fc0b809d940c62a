"""How many rows fit on a chip, and what to change where not one does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from ml_collections import ConfigDict

from input_pipeline.errors import UserError
from jaxllava.models.llava import LlavaConfig
from jaxllava.plan.estimate import Estimate, estimate
from jaxllava.plan.program import train_step
from jaxllava.plan.topology import Slice
from jaxllava.sharding import BATCH_AXES, make_mesh

MOST_ROWS = 64  # of a chip and micro-batch: more change nothing in a projection
MOST_TOKENS = 2**24
COMFORTABLE = 0.88  # of the capacity: below it the compiler leaves programs as they are
Report = Callable[[str], None]


class Planner:
    """Compiles the train step of a config for a slice, once for each number of rows."""

    def __init__(self, config: ConfigDict, model: LlavaConfig, on: Slice, report: Report) -> None:
        self.config, self.model, self.on, self.report = config, model, on, report
        self.mesh = make_mesh(config.mesh, on.devices, config.devices)
        self.shards = math.prod(self.mesh.shape[axis] for axis in BATCH_AXES)
        self.known: dict[int, Estimate] = {}

    def at(self, per_shard: int) -> Estimate:
        """With so many rows for each data shard and micro-batch."""
        if per_shard not in self.known:
            rows = per_shard * self.shards * self.config.accumulate
            self.report(f"compiling with {per_shard} {'row' if per_shard == 1 else 'rows'} a data shard")
            program = train_step(self.config, self.model, self.mesh, rows)
            self.known[per_shard] = estimate(program, self.on, dict(self.config.tpu_options))
        return self.known[per_shard]

    def of_rows(self, rows: int) -> Estimate:
        """With `rows` over all chips and micro-batches."""
        step = self.shards * self.config.accumulate
        if rows > MOST_TOKENS // self.config.row_tokens * step:
            raise UserError(
                f"--rows {rows}: more than {MOST_TOKENS} tokens a data shard and micro-batch fit no chip; take fewer"
            )
        if rows % step or rows < step:
            raise UserError(
                f"--rows {rows} does not divide over {self.shards} data shards x {self.config.accumulate} "
                f"micro-batches; take a multiple of {step}"
            )
        return self.at(rows // step)

    def largest(self) -> Estimate | None:
        """The most rows that fit, from 16 a shard on to a sixteenth; None if not even one for each data shard does.

        Memory grows in a straight line with rows: those compiled so far tell where to look, and what is told was
        compiled. Near the end the compiler makes programs fit by computing more again: fewer rows are then faster, and
        the first long jump ends among those.
        """
        one = self.at(1)
        if not one.fits:
            return None
        best, rows, too_many, aim = 1, 2, MOST_ROWS + 1, COMFORTABLE
        while best + best // 16 < rows < too_many:
            found, before = self.at(rows), self.at(best)
            if found.fits:
                slope = max((found.total - before.total) / (rows - best), 1e-3)
                more = int((aim * found.capacity - found.total) / slope)
                more = more if more > 0 else int((found.capacity - found.total) / slope)
                best, rows, aim = rows, min(rows + more, too_many - 1), 1.0
            else:
                rows, too_many = best + (rows - best) // 2, rows
        return self.at(best)


def remedies(config: ConfigDict, model: LlavaConfig, on: Slice) -> Iterator[tuple[str, ConfigDict]]:
    """What may make a config fit that does not, the cheapest first: (flags to add, the config with them)."""
    changes: list[dict[str, object]] = []
    if config.remat != "full":
        changes.append({"remat": "full"})
    if tuple(config.mesh) != (1, -1, 1):
        changes.append({"remat": "full", "mesh": (1, -1, 1)})
    if config.attention == "xla":
        changes.append({"remat": "full", "attention": "auto"})
    tensor = 2
    while tensor <= min(8, len(on.devices)) and model.decoder.heads % tensor == 0:
        changes.append({"remat": "full", "mesh": (1, -1, tensor)})
        tensor *= 2
    for change in changes:
        changed = config.copy_and_resolve_references()
        with changed.unlocked():
            for key, value in change.items():
                changed[key] = value
        flags = [
            f"--config.{key}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
            for key, value in change.items()
            if config[key] != value
        ]
        if flags:
            yield " ".join(flags), changed


def remedy(config: ConfigDict, model: LlavaConfig, on: Slice, found: Estimate, report: Report) -> str:
    """What would make the config fit with one row for each data shard: tried, the first that does; else advice."""
    state = found.params + found.optimizer
    for flags, changed in remedies(config, model, on):
        report(f"trying {flags}")
        planner = Planner(changed, model, on, report)
        if (tried := planner.at(1)).fits:
            return f"with {flags} it fits ({tried.total:.2f} GiB, {tried.rows} rows a step)"
        state = min(state, tried.params + tried.optimizer)  # a mesh may cut what another repeats
    if state > 0.7 * found.capacity:
        needed = 2 ** math.ceil(math.log2(len(on.devices) * state / (0.5 * found.capacity)))
        return (
            f"parameters and optimizer alone take {state:.1f} GiB of a chip: take a slice of {needed} chips, or "
            "adapters (lora or qlora in the recipes that have them)"
        )
    return (
        f"a row is too long: halve --config.row_tokens (now {config.row_tokens}), or take adapters (lora or qlora in "
        "the recipes that have them)"
    )
