"""A run's checkpoints: what trains, the optimizer, the step, in one Orbax CheckpointManager.

The data position is the step: the batch at step k is a function of (data, config, k). Frozen parameters are not
written: the base that they come from is named by its hash in the fingerprint, and loaded from there again.
"""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from input_pipeline.errors import UserError, in_one_line
from jaxllava import hosts
from jaxllava.train_step import fingerprint, hexadecimal

# In what Orbax raises where a checkpoint is whole and the machine is not up to it.
NOT_DAMAGE = ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "Permission denied", "Out of memory")
ASIDE = "unreadable-"  # in front of the name of a checkpoint that could not be read


class Checkpoints:
    """Saves and restores `{"trained", "optimizer"}` at a step.

    `identity` says what the run is (see `identity.py`): a checkpoint of another is a UserError. `keep` newest
    checkpoints stay, and the `keep_best` of the lowest "loss" among those saved with one.
    """

    def __init__(
        self,
        directory: Path,
        identity: Mapping[str, str],
        *,
        keep: int = 2,
        keep_best: int = 0,
        minutes: float = 10.0,
        say: Callable[[str], None] = lambda line: None,
    ):
        self.directory = directory.resolve()
        self.identity = dict(identity)
        self._minutes = minutes
        self._say = say
        self._digest = jax.jit(fingerprint)
        self._closed = False
        policies: list[Any] = [checkpoint_managers.LatestN(keep)]
        if keep_best:
            policies.append(
                checkpoint_managers.BestN(
                    get_metric_fn=lambda metrics: metrics["loss"],
                    reverse=True,
                    n=keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            create=True,
            enable_async_checkpointing=True,
            cleanup_tmp_directories=True,  # of writes that were killed
            async_options=ocp.AsyncOptions(timeout_secs=max(int(minutes * 60), 1)),
        )
        self.manager = ocp.CheckpointManager(self.directory, options=self._options)

    def steps(self) -> list[int]:
        """Of the checkpoints that are there, readable or not."""
        return sorted(self.manager.all_steps())

    def save(self, step: int, state: Any, facts: dict[str, Any] | None = None) -> None:
        """Writes in the background; `close` (or the next save) waits for it. `facts` may hold the "loss" to rank by.

        The bits of the state are counted on the device and the number is kept beside them, so that damage on disk is
        found when they are read again.
        """
        if self.manager.latest_step() == step:
            return
        facts = facts or {}
        header = {
            "identity": self.identity,
            "step": step,  # also the data position: batch step + 1 comes next
            "digest": hexadecimal(jax.device_get(self._digest(state))),
            "tree": _describe(state),
            **facts,
        }
        with self._writing():
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    header=ocp.args.JsonSave(header),
                ),
                metrics={"loss": facts["loss"]} if "loss" in facts else None,
            )

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """(step, state) of the newest readable checkpoint, laid out as `like`; None where there is none.

        like: arrays, or their `layout`, which takes no memory beside what is read. One that is torn or damaged is set
        aside under another name and said so, and the one before it is taken: on all hosts the same. One of another
        run, model or optimizer is a UserError, and so is one that this machine has no memory or no permission to read.
        """
        for step in reversed(self.steps()):
            state, problem = self._read(step, like)
            if hosts.all_true(f"reading checkpoint {step}", not problem, self._minutes):
                return step, state
            del state
            self._set_aside(step, problem or "another host cannot read it")
        return None

    def _read(self, step: int, like: Any) -> tuple[Any, str]:
        """(state, "") or (None, why not)."""
        try:
            saved: Any = self.manager.restore(step, args=ocp.args.Composite(header=ocp.args.JsonRestore()))
            header = saved.header
            identity, tree, digest = header["identity"], header["tree"], header["digest"]
        except Exception as error:
            return None, self._damage(step, error)
        where = self.directory / str(step)
        _refuse_another(where, identity, self.identity)
        here = _describe(like)
        paths = sorted(path for path in set(here) | set(tree) if here.get(path) != tree.get(path))
        if paths:
            path = paths[0]
            raise UserError(
                f"checkpoint {where} holds another tree of parameters or optimizer: {path} is "
                f"{tree.get(path, 'absent')} there and {here.get(path, 'absent')} here ({len(paths)} differ); use a "
                "new workdir"
            )
        try:
            abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
            restored: Any = self.manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
            )
            found = hexadecimal(jax.device_get(self._digest(restored.state)))
        except Exception as error:
            return None, self._damage(step, error)
        if found != digest:
            return None, f"its contents have changed on disk (digest {found}, written {digest})"
        return restored.state, ""

    def _damage(self, step: int, error: Exception) -> str:
        """What is wrong with a checkpoint. A UserError where it is the machine: setting good ones aside would begin the
        run anew."""
        text = str(error)
        if isinstance(error, MemoryError | PermissionError) or any(sign in text for sign in NOT_DAMAGE):
            raise UserError(
                f"{self.directory / str(step)} could not be read here, and nothing is known to be wrong with it "
                f"({in_one_line(error)}); make room or see to its permissions, then the same command goes on from it"
            ) from error
        return in_one_line(error)

    def _set_aside(self, step: int, problem: str) -> None:
        found = self.directory / str(step)
        aside = self.directory.parent / f"{ASIDE}{self.directory.name}-{step}"
        self._say(
            f"checkpoint {found} cannot be read ({problem}); it is now {aside.name}, going on from the one before"
        )
        if hosts.is_first():
            number = 0
            while aside.exists():
                number += 1
                aside = aside.with_name(f"{ASIDE}{self.directory.name}-{step}-{number}")
            found.rename(aside)
        hosts.barrier("setting a checkpoint aside", self._minutes)
        self.manager.reload()

    def restore_best(self, like: Any) -> tuple[int, Any]:
        """(step, state) of the checkpoint with the lowest "loss" that can be read. like: as of `restore`."""
        self.wait()
        losses: dict[int, float] = {}
        for step in self.steps():
            with contextlib.suppress(Exception):  # a header that cannot be read is no candidate
                saved: Any = self.manager.restore(
                    step, args=ocp.args.Composite(header=ocp.args.JsonRestore())
                )
                losses[step] = float(saved.header["loss"])
        for step in sorted(losses, key=lambda step: (losses[step], -step)):
            state, problem = self._read(step, like)
            if hosts.all_true(f"reading checkpoint {step}", not problem, self._minutes):
                return step, state
            self._say(f"checkpoint {self.directory / str(step)} cannot be read ({problem})")
        raise UserError(f"{self.directory}: no checkpoint with a validation loss can be read")

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """At an error too, what is being written becomes whole: a dying interpreter does not let Orbax do it.

        Not at a KeyboardInterrupt, which is somebody's second.
        """
        if error is None:
            self.close()
        elif isinstance(error, Exception):
            with contextlib.suppress(Exception):  # the first error is the one to tell
                self.wait()

    def wait(self) -> None:
        """Until what is being written is whole."""
        with self._writing():
            self.manager.wait_until_finished()

    def close(self) -> None:
        """Waits for what is still being written. A second time does nothing."""
        if not self._closed:
            self._closed = True
            self.wait()
            self.manager.close()

    def _writing(self) -> _Writing:
        return _Writing(self.directory)


def check_identity(directory: Path, identity: Mapping[str, str]) -> None:
    """Before anything is read or computed: a UserError where the newest checkpoint with a readable header is another
    run's. (`Checkpoints.restore` looks at all that it reads.)
    """
    found = [path for path in directory.glob("*/header/metadata") if path.parent.parent.name.isdigit()]
    for path in sorted(found, key=lambda path: -int(path.parent.parent.name)):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            _refuse_another(path.parent.parent, json.loads(path.read_text())["identity"], identity)
            return


def _refuse_another(where: Path, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    changed = [key for key in sorted(set(found) | set(wanted)) if found.get(key) != wanted.get(key)]
    if changed:
        raise UserError(
            f"checkpoint {where} was written by another run (differs in: {', '.join(changed)}); use a new workdir, or "
            "what it was started with"
        )


class _Writing:
    """Turns what Orbax raises on a full or unwritable disk into one line."""

    def __init__(self, directory: Path):
        self.directory = directory

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or not isinstance(error, Exception):
            return
        text = str(error)
        full = getattr(error, "errno", None) == errno.ENOSPC or any(
            sign in text for sign in ("No space left", "RESOURCE_EXHAUSTED", "ENOSPC", "Disk quota")
        )
        remedy = "the disk is full: make room" if full else "see that the disk is there and writable"
        raise UserError(
            f"{self.directory}: a checkpoint could not be written ({in_one_line(error)}); {remedy}, then the same "
            "command goes on from the one before"
        ) from error


def layout(state: Any) -> Any:
    """Shapes, dtypes and places of a tree of arrays, without them."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def _describe(state: Any) -> dict[str, str]:
    """Path -> "float32[2, 3]" of every leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}
