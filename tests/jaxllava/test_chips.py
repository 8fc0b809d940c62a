from __future__ import annotations

from jaxllava import chips


def test_a_cpu_has_no_peak_and_a_v5e_has():
    assert chips.peak("cpu") is None
    assert chips.peak("TPU v5 lite") == 197e12
    assert chips.peak("NVIDIA H100 80GB HBM3") == 989e12


def test_a_kind_is_of_one_chip():
    kinds = [kind for chip in chips.TPUS.values() for kind in chip.kinds]
    assert len(kinds) == len(set(kinds))
