"""LLaVA on ScienceQA: twelve epochs over its 12,726 training questions, from v1's stage 1.

    configs/scienceqa.py --config.base=STAGE1 --config.data=DIR

The base is the run of `configs/llava_v1.py:stage=1` (there with Vicuna 13B v1.3). Questions and answers are those of
`convert_sqa_to_llava.py` in the form QCM-LEA, one conversation each. `padded` makes batches as LLaVA's own code does.
Source: `scripts/finetune_sqa.sh` of `haotian-liu/LLaVA` c121f04.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.arguments import parse
from configs.llava_scripts import recipe


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: padded."""
    given = parse(arg, padded=False)
    return recipe(
        "instruct",
        architecture="llava-v1-13b",
        lr=2e-5,
        batch=128,  # 16 x 8
        image_tokens=256,
        image_mode="square",
        template="vicuna_v1",  # the script leaves --version to the user; v1 is Vicuna's
        epochs=12,
        padded=given.padded,
    )
