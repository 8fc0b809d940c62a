"""What the transformers of another environment makes of an exported folder; `test_old_transformers` runs it there.

    python old_transformers_check.py FOLDER PICTURE TEXT NEW_TOKENS OUT.npz

Nothing of jaxllava is imported: the folder has to work as it stands.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers.pipelines import PIPELINE_REGISTRY


def main(folder: str, picture: str, text: str, new_tokens: int, out: str) -> None:
    hf: Any = transformers
    (name,) = json.loads((Path(folder) / "config.json").read_text())["architectures"]
    model, info = getattr(hf, name).from_pretrained(folder, output_loading_info=True)
    processor = hf.AutoProcessor.from_pretrained(folder)
    image = Image.open(picture)
    ask = {"type": "text", "text": text}
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, ask]}], add_generation_prompt=True
    )
    inputs = processor(images=image, text=prompt, return_tensors="pt")
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
    whole = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
    if "image-text-to-text" in PIPELINE_REGISTRY.get_supported_tasks():  # since 4.47
        pipe = hf.pipeline("image-text-to-text", model=folder)
        messages = [{"role": "user", "content": [{"type": "image", "image": image}, ask]}]
        said = pipe(text=messages, max_new_tokens=new_tokens, return_full_text=False)
    else:
        pipe = hf.pipeline("image-to-text", model=folder)
        said = pipe(image, prompt=prompt, generate_kwargs={"max_new_tokens": new_tokens})
    np.savez(
        out,
        version=transformers.__version__,
        problems=[f"{kind}: {names}" for kind, names in info.items() if names],
        ids=inputs["input_ids"].numpy(),
        pixels=inputs["pixel_values"].numpy(),
        logits=logits.numpy(),
        answer=whole[0, inputs["input_ids"].shape[1] :].numpy(),
        said=said[0]["generated_text"],
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
