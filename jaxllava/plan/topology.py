"""A TPU slice that is not there: its devices, to compile for. Needs libtpu, and no TPU.

`prepare` has to run before jax is imported: libtpu would otherwise look for the machine's own TPU and, on a machine
outside Google's cloud, wait for a metadata server.
"""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from typing import Any

from input_pipeline.errors import UserError, in_one_line, nearest
from jaxllava.chips import TPUS, Chip

EXAMPLES = {"v4": "v4:2x2x4", "v5e": "v5e:4x8", "v5p": "v5p:2x2x4", "v6e": "v6e:4x8"}


@dataclass(frozen=True)
class Slice:
    """`name` as given; `chip` one of its chips; `devices` for `sharding.make_mesh`."""

    name: str
    chip: Chip
    shape: tuple[int, ...]
    devices: tuple[Any, ...]

    @property
    def bandwidth(self) -> float:
        """Bytes a second that the chip with the fewest links, one in a corner, receives over ICI."""
        rings = [size % self.chip.wrap == 0 for size in self.shape]
        if (
            len(self.shape) == 3
        ):  # a torus is made of whole cubes of 4 x 4 x 4; a flat slice closes side by side
            rings = [all(rings)] * 3
        links = sum(2 if ring else 1 for size, ring in zip(self.shape, rings, strict=True) if size > 1)
        return links * self.chip.link_bandwidth


def prepare() -> None:
    """Keeps libtpu and jax off any real TPU, and off the network."""
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["TPU_WORKER_HOSTNAMES"] = "localhost"
    os.environ["TPU_ACCELERATOR_TYPE"] = "v5litepod-8"  # any: without, libtpu says that it knows none
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # two plans at once hold no chip from one another
    os.environ["JAX_PLATFORMS"] = "cpu"


def check(name: str) -> tuple[str, tuple[int, ...]]:
    """(generation, shape) of a name such as "v5e:4x8". Raises UserError with the remedy."""
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+)+)", name)
    if not found:
        raise UserError(
            f"--topology {name!r}: a generation and a shape are needed, e.g. {', '.join(EXAMPLES.values())}"
        )
    generation, shape = found.group(1), tuple(int(size) for size in found.group(2).split("x"))
    if generation not in TPUS:
        raise UserError(f"--topology {name}: no TPU {generation!r} is known.{nearest(generation, TPUS)}")
    axes = TPUS[generation].axes
    if len(shape) != axes or 0 in shape:
        raise UserError(
            f"--topology {name}: a slice of {generation} has {axes} sides, e.g. {EXAMPLES[generation]}"
        )
    return generation, shape


def open_slice(name: str) -> Slice:
    """The slice of that name. Raises UserError: it is unknown, no such slice is made, or libtpu is missing."""
    generation, shape = check(name)
    if importlib.util.find_spec("libtpu") is None and not os.environ.get("TPU_LIBRARY_PATH"):
        raise UserError("jaxllava plan compiles with libtpu, which is not here: pip install 'jaxllava[tpu]'")
    from jax.experimental import topologies

    options: dict[str, Any] = {"chips_per_host_bounds": (1, 1, 1)} if set(shape) == {1} else {}
    if generation == "v4":  # both cores of a chip as one device, as on a real slice
        options["chip_config_name"] = "megacore"
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except Exception as error:
        raise UserError(
            f"--topology {name}: libtpu makes no such slice ({in_one_line(error, 160)}); try {EXAMPLES[generation]}"
        ) from error
    return Slice(name, TPUS[generation], shape, tuple(found.devices))
