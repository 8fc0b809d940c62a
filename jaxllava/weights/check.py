"""Opens an export with transformers and torch, where they are installed, and measures how far the logits are apart."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.conversation import get_template
from input_pipeline.encoding import encode_prompt
from input_pipeline.images import CLIP_MEAN, CLIP_STD, open_image, preprocess
from input_pipeline.types import Record
from jaxllava.api import Model


def against_transformers(
    model: Model, folder: Path, records: Sequence[Record], count: int = 4
) -> dict[str, Any]:
    """`{"max_logit_difference": float | None, "reason": str, "prompts": int}` over the first `count` records' prompts.

    None where torch is not installed: it is no dependency of the library.
    """
    if importlib.util.find_spec("torch") is None:
        return {"max_logit_difference": None, "reason": "torch is not installed", "prompts": 0}
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    reference = transformers.LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    largest = 0.0
    chosen = records[:count]
    for record in chosen:
        prompt = encode_prompt(
            record.conversations[:1], model.tokenizer, get_template(model.template), model.config.image_tokens
        )
        pixels = [preprocess(open_image(data), model.config.vision.image_size) for data in record.images]
        values = ((np.stack(pixels) / 255.0 - CLIP_MEAN) / CLIP_STD).astype(np.float32)  # [M, H, W, 3]
        ours = model.logits(prompt.tokens[None], values)
        with torch.no_grad():
            theirs = reference(
                input_ids=torch.tensor(prompt.tokens[None].astype(np.int64)),
                pixel_values=torch.tensor(values.transpose(0, 3, 1, 2).copy()),
            ).logits.numpy()
        largest = max(largest, float(np.abs(ours - theirs).max()))
    reason = f"transformers {transformers.__version__}, torch {torch.__version__}"
    return {"max_logit_difference": largest, "reason": reason, "prompts": len(chosen)}
