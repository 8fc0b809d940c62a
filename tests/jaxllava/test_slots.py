"""Answers in slots are those of `generate`, token for token, whenever they begin and whatever stands beside them."""

from __future__ import annotations

import numpy as np

from jaxllava.api import Model
from tests.jaxllava import tiny_models

PROMPTS = ["ball", "10 people like it", "how?"]
NEW = 14


def tokens(model: Model) -> list[list[int]]:
    """Of three answers that begin at steps 0, 3 and 6, in a cache that is full of an earlier one's."""
    rows = model.read(PROMPTS)
    slots = model.slots(4, 96)
    for slot in range(4):
        slots.begin(slot, rows[1], seed=99, temperature=1.0)
    slots.advance(True, steps=3)
    begun = {0: (0, 2), 3: (1, 0), 6: (2, 3)}  # at a step: which, and its slot
    found: dict[int, list[int]] = {}
    for step in range(6 + NEW):
        written = np.asarray(slots.advance(True))[0]
        for which, slot in begun.values():
            if which in found:
                found[which].append(int(written[slot]))
        if step in begun:
            which, slot = begun[step]
            found[which] = np.asarray(slots.begin(slot, rows[which], 7, 0.9, 0.8)).tolist()
    return [found[which][:NEW] for which in range(3)]


def test_slots_answer_as_generate(tmp_path, compiled_quickly):
    """With layers stacked, as on accelerators, and a sliding window; test_serving_app.py has them apart."""
    tokenizer = tiny_models.tokenizer_in(tmp_path)
    config = tiny_models.llava_for(tokenizer)
    decoder = config.decoder.replace(layers=2, sliding_window=12)
    config = config.replace(decoder=decoder, vision=config.vision.replace(layers=2))
    model = Model(config, tiny_models.random_params(config), tokenizer, "v1_bare")
    model._params = model.params
    for i, ids in enumerate(tokens(model)):
        ends = [place for place, token in enumerate(ids) if token in model.end_ids]
        text = tokenizer.decode(ids[: ends[0]] if ends else ids, skip_special_tokens=True)
        assert text.strip() == model.generate([PROMPTS[i]], None, NEW, 0.9, 0.8, seed=7)[0], i
