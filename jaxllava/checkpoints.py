"""A run's checkpoints: what trains, the optimizer, the step, in one Orbax CheckpointManager.

The data position needs no state of its own: the batch at step k is a function of (data, config, k). Frozen parameters
are not written: they are named by the config (`config.init`) and loaded from there again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from input_pipeline.errors import UserError


class Checkpoints:
    """Saves and restores `{"trained", "optimizer"}` at a step, with the fingerprint of the config that made them."""

    def __init__(self, directory: Path, fingerprint: dict[str, Any], keep: int = 2):
        self.directory = directory.resolve()
        # Through JSON, so that tuples compare equal to the lists that come back.
        self.fingerprint = json.loads(json.dumps(fingerprint, sort_keys=True, default=str))
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=True)
        self.manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, step: int, state: Any) -> None:
        """Writes in the background; `close` (or the next save) waits for it."""
        if self.manager.latest_step() == step:
            return
        self.manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), config=ocp.args.JsonSave(self.fingerprint)
            ),
        )

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """(step, state) of the newest checkpoint, laid out as `like`; None where there is none yet."""
        step = self.manager.latest_step()
        if step is None:
            return None
        saved: Any = self.manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))
        changed = [
            key
            for key in sorted(set(saved.config) | set(self.fingerprint))
            if saved.config.get(key) != self.fingerprint.get(key)
        ]
        if changed:
            raise UserError(
                f"checkpoint {self.directory / str(step)} was written under another config "
                f"(differs in: {', '.join(changed)}); use a new workdir, or the old config"
            )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restored: Any = self.manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        )
        return step, restored.state

    def close(self) -> None:
        self.manager.wait_until_finished()
        self.manager.close()
