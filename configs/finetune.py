"""Fine-tuning on a benchmark's training split, for the "fine-tuned" settings of Behavior-LLaVA's tables.

    jaxllava prepare --task emotion6 --data-root DATA --out data/emotion6
    jaxllava train --config configs/finetune.py:task=emotion6 --config.base=MODEL \\
        --config.data=data/emotion6/records --workdir RUN
    jaxllava evaluate --checkpoint RUN/model --tasks emotion6 --data-root DATA --setting fine-tuned

Epochs, rate and batch are the task's own `finetune` recipe (`jaxllava/evaluate/tasks/`). The paper gives none for
any of its benchmarks; decoder and projector train, as in its own runs.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.arguments import parse
from configs.llava_scripts import ROWS, recipe
from input_pipeline.errors import UserError, nearest


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: task=NAME, image_tokens=576 (positions of a picture in the base), frames=4 (of a video), padded."""
    from jaxllava.evaluate.tasks import TASKS

    given = parse(arg, task="emotion6", image_tokens=576, frames=4, padded=False)
    trained = {name: task.finetune for name, task in TASKS.items() if task.finetune}
    if given.task not in trained:
        raise UserError(f"task={given.task}: no task with a training split.{nearest(given.task, trained)}")
    if given.image_tokens not in ROWS:
        raise UserError(f"image_tokens={given.image_tokens}: one of {', '.join(map(str, ROWS))}")
    own = trained[given.task]
    assert own is not None
    config = recipe(
        "instruct",
        architecture="",
        lr=own.lr,
        batch=own.batch,
        image_tokens=given.image_tokens,
        image_mode="",  # the base's, as its template
        template="",
        epochs=own.epochs,
        padded=given.padded,
    )
    config.row_images = max(config.row_images, given.frames)
    config.sample_tokens = 0  # several frames may need a whole row
    config.validation = (("instruct_heldout", 1.0),)
    return config
