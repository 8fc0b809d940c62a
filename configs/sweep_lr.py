"""An example of a sweep: the learning rate of the behaviour stage, which the paper does not tell, with three seeds.

    jaxllava sweep --config configs/sweep_lr.py:arm=behavior --workdir runs/lr --config.base=LLAVA --config.data=DIR

`get_config` is the run that all share, `get_sweep` lists what each changes.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from configs import behavior_llava
from configs.arguments import product


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: as in configs/behavior_llava.py."""
    return behavior_llava.get_config(arg)


def get_sweep() -> list[dict[str, Any]]:
    """Half, once and twice the 2e-5 of LLaVA's and LLaMA-VID's second stages."""
    return product(lr=[1e-5, 2e-5, 4e-5], seed=[0, 1, 2])
