"""TPU generations and the GPUs that runs are measured on: the one table of peaks that MFU and projections use.

Sources, read 2026-11-21: docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e ("key specifications"); links and their
speed of v4 from Jouppi et al. 2023, "TPU v4" (6 links of 50 GB/s); of the others from "bidirectional ICI bandwidth per
chip" by two directions and the number of ports. `hbm_gib` is what libtpu lets a program use, by its own messages about
programs that do not fit. GPUs: NVIDIA's data sheets, dense bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One jax device of a TPU slice.

    peak: dense bfloat16 FLOPs a second. hbm_bandwidth, link_bandwidth: bytes a second, of a link in one direction.
    axes: dimensions of a slice. wrap: a side closes to a ring where its length is a multiple of it (in three dimensions
    where all are).
    """

    kinds: tuple[str, ...]  # jax's device_kind
    peak: float
    hbm_gib: float
    hbm_bandwidth: float
    link_bandwidth: float
    axes: int
    wrap: int


TPUS = {
    "v4": Chip(("TPU v4",), 275e12, 30.75, 1200e9, 50e9, 3, 4),
    "v5e": Chip(("TPU v5 lite", "TPU v5e"), 197e12, 15.75, 819e9, 50e9, 2, 16),
    "v5p": Chip(("TPU v5", "TPU v5p"), 459e12, 95.74, 2765e9, 100e9, 3, 4),
    "v6e": Chip(("TPU v6 lite", "TPU v6e"), 918e12, 31.25, 1638e9, 100e9, 2, 16),
}

GPU_PEAKS = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}

_PEAKS = {kind: chip.peak for chip in TPUS.values() for kind in chip.kinds} | GPU_PEAKS


def peak(device_kind: str) -> float | None:
    """Peak FLOPs a second of one jax device; None for one that is not in the tables (a CPU)."""
    return _PEAKS.get(device_kind)
