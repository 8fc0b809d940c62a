"""The loss on held-out rows."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from configs import train as train_config
from input_pipeline import loader
from input_pipeline.errors import UserError
from input_pipeline.tokenizer import load_tokenizer
from jaxllava import optimizer, sharding
from jaxllava.models.clip import ClipConfig, ClipTextConfig, ClipVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llava import LlavaConfig, init_params
from jaxllava.objectives import make_objective
from jaxllava.validation import Validation

pytestmark = pytest.mark.usefixtures("compiled_quickly")

VISION = ClipVisionConfig(8, 16, 1, 1, image_size=32, patch_size=16)


@pytest.fixture(scope="module")
def held_out(plaza):
    tokenizer = load_tokenizer(plaza / "tokenizer")
    image = tokenizer.convert_tokens_to_ids("<image>")
    model = LlavaConfig(VISION, LlamaConfig(len(tokenizer), 8, 16, 1, 1), image)
    mesh = sharding.make_mesh((1, 1, 1), jax.devices()[:1])
    params = init_params(model, jax.random.key(0))

    def of(model=model, **changes):
        config = train_config.get_config("stage=behavior")
        config.update(data=str(plaza / "data" / "records"), template="v1_bare", row_tokens=256, batch=4)
        config.update({"validation": (("caption_train", 1.0),), "mesh": (1, 1, 1)} | changes)
        objective = make_objective(config, model)
        return objective, Validation.of(config, objective, tokenizer, mesh)

    return of, model, params, optimizer.partition(params, train_config.get_config().lr_rules)


def test_it_is_the_sum_of_token_losses_by_the_tokens_of_each_row_once(held_out):
    of, _, params, (trained, frozen) = held_out
    objective, validation = of(validation_rows=10**6)
    assert validation.batches * validation.batch == len(validation.rows)
    total = weight = 0.0
    with loader.batches(validation.rows, global_batch=len(validation.rows), seed=0) as stream:
        loss, sums = jax.jit(objective.loss)(params, next(stream))
        total, weight = float(loss), float(sums["weight"])
    assert weight > 0
    np.testing.assert_allclose(validation.measure(trained, frozen), total / weight, rtol=1e-5)


def test_its_batches_are_a_step_s_parts_and_hold_no_more_rows_than_asked_for(held_out):
    """A whole step's rows may not fit where they have to be taken in parts."""
    of, *_ = held_out
    _, whole = of(validation_rows=9)
    _, parts = of(validation_rows=9, accumulate=2)
    assert (whole.batch, whole.batches) == (4, min(2, len(whole.rows) // 4))
    assert parts.batch == 2 and parts.batches == min(4, len(parts.rows) // 2)
    assert of(validation_rows=0)[1].batches == 1
    assert of(validation=())[1] is None


def test_a_contrastive_loss_has_none(held_out):
    of, model, *_ = held_out
    text = ClipTextConfig(8, 16, 1, 1, vocab_size=model.decoder.vocab_size, max_positions=16)
    with pytest.raises(UserError, match=r"config\.validation: a contrastive loss depends on its batch"):
        of(ClipConfig(VISION, text))
