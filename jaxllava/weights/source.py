"""Recognises what a folder holds, and opens it."""

from __future__ import annotations

from pathlib import Path

from input_pipeline.errors import UserError
from jaxllava.weights import adapters, hf, llama_vid, orbax, original
from jaxllava.weights.checkpoint import Checkpoint


def open_checkpoint(
    path: str | Path,
    vision_tower: str | Path | None = None,
    base: str | Path | None = None,
    question_tokenizer: str | Path | None = None,
) -> Checkpoint:
    """A jaxllava model folder, the workdir of a run that left one, a Hugging Face folder, or one of original LLaVA or
    LLaMA-VID.

    Args: vision_tower, base: see `original.open_folder` and `llama_vid.open_folder`; question_tokenizer: the latter. An
    error for a folder of another kind.
    Raises UserError where the folder is missing, is none of these, or does not fit together.
    """
    path = orbax.locate(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such model folder.")
    if llama_vid.is_llama_vid(path):
        return llama_vid.open_folder(path, vision_tower, base, question_tokenizer)
    if question_tokenizer is not None:
        raise UserError(
            f"--question-tokenizer {question_tokenizer}: {path} is no folder of LLaMA-VID's own code and needs none (a "
            "jaxllava folder holds its own)."
        )
    if original.is_original(path):
        return original.open_folder(path, vision_tower, base)
    if (path / adapters.LORA_CONFIG).is_file() or adapters.is_projector(path):
        raise UserError(
            f"{path}: has no config.json with mm_vision_tower, which LLaVA saves beside it; copy it there."
        )
    for flag, given in (("--vision-tower", vision_tower), ("--base", base)):
        if given is not None:
            raise UserError(f"{flag} {given}: {path} is no folder of original LLaVA and needs none.")
    if orbax.is_model_folder(path):
        return orbax.open_model(path)
    if hf.is_hf_folder(path):
        return hf.open_folder(path)
    raise UserError(
        f"{path}: not a checkpoint: neither a jaxllava model folder (config.json, params/, tokenizer/), nor a Hugging "
        "Face folder (config.json with a model_type, model.safetensors), nor one of original LLaVA or LLaMA-VID."
    )
