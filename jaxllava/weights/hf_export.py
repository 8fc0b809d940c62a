"""Writing Hugging Face folders, in the spelling of transformers 4.x on disk, which every version reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from transformers import PreTrainedTokenizerFast

from input_pipeline.conversation import get_template
from input_pipeline.errors import UserError
from input_pipeline.tokenizer import is_legacy, save_tokenizer
from jaxllava.models.clip import ClipConfig
from jaxllava.models.encoder import VisionTowerConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.models.siglip import SiglipVisionConfig
from jaxllava.rules import Params, flatten
from jaxllava.weights import fused, hf_config, safetensors_writer, tables
from jaxllava.weights.chat_template import chat_template
from jaxllava.weights.checkpoint import Checkpoint
from jaxllava.weights.folders import whole_folder
from jaxllava.weights.lazy import Leaf, Tensor
from jaxllava.weights.side_files import TEMPLATE_KEY

Progress = Callable[[int], None]
NO_TOKENIZER = "this LLaVA has no tokenizer; put its files (tokenizer.json, ...) into the source's folder."


def export(found: Checkpoint, out_dir: str | Path, progress: Progress = lambda done: None) -> None:
    """Writes a Hugging Face folder that loads with nothing added, in every transformers version.

    Args: found: a LLaVA, which is written with its processor and chat template; or a CLIP, SigLIP or text model. The
    weights are written in their dtypes, one tensor in memory at a time. progress: is told the bytes of each.

    The folder appears whole or not at all. Raises UserError for a LLaVA without tokenizer, and as `llava_json` and
    `whole_folder` do.
    """
    found = found.of_one_view()
    leaves, config, tokenizer, chat = found.leaves, found.config, found.tokenizer, ""
    if isinstance(config, LlavaConfig):
        if tokenizer is None:
            raise UserError(NO_TOKENIZER)
        chat = chat_template(get_template(found.template), spaced=not is_legacy(tokenizer))
        leaves, config = with_image_row(leaves, config)
    values = hf_config.any_json(config)
    flat: dict[str, Leaf] = flatten(leaves)
    values["torch_dtype"] = str(max(flat.values(), key=lambda leaf: leaf.size).dtype)
    ids = special_ids(tokenizer)
    if isinstance(config, LlavaConfig):
        values |= ids | {TEMPLATE_KEY: found.template}
        values["text_config"] |= ids
    elif isinstance(config, LlamaConfig):
        values |= ids
    tensors = tables.from_leaves(leaves, tables.table_of(config), tables.shapes(config))
    for prefix in ("vision_tower.vision_model.head.attention", "vision_model.head.attention"):
        tensors = fused.join_fused(tensors, prefix)
    with whole_folder(out_dir) as folder:
        if jax.process_index() != 0:
            return
        safetensors_writer.write(folder, tensors, progress=progress)
        write_json(folder / "config.json", values)
        if tokenizer is not None:
            save_tokenizer(tokenizer, folder)
        if isinstance(config, LlavaConfig | LlamaConfig):
            write_json(folder / "generation_config.json", generation_json(found))
        if isinstance(config, LlavaConfig):
            write_json(folder / "processor_config.json", processor_json(config))
            (folder / "chat_template.jinja").write_text(chat)
            write_json(folder / "chat_template.json", {"chat_template": chat})  # what 4.45 to 4.50 read
        if not isinstance(config, LlamaConfig):
            write_json(folder / "preprocessor_config.json", image_processor_json(config))


def generation_json(found: Checkpoint) -> dict[str, Any]:
    """The source's generation_config.json; the tokenizer's special tokens where it names none."""
    return special_ids(found.tokenizer) | (found.generation or {"_from_model_config": True})


def special_ids(tokenizer: PreTrainedTokenizerFast | None) -> dict[str, int]:
    found = {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id", None) for n in ("bos", "eos", "pad")}
    return {name: number for name, number in found.items() if number is not None}


def with_image_row(leaves: Params, config: LlavaConfig) -> tuple[Params, LlavaConfig]:
    """A model (its tree of `Leaf`) whose vocabulary holds its image token, as Hugging Face needs it.

    Where the token lies behind the vocabulary (original LLaVA), embeddings and head get rows up to the next multiple of
    64, each the mean of the old ones: none of them is ever looked up, and their logits are of the common kind.
    """
    old = config.decoder.vocab_size
    if config.image_token < old:
        return leaves, config
    new = -(-(config.image_token + 1) // 64) * 64
    decoder = dict(leaves["decoder"])
    decoder["embed"] = {"embedding": _grown(decoder["embed"]["embedding"], 0, new)}
    if "lm_head" in decoder:
        decoder["lm_head"] = {"kernel": _grown(decoder["lm_head"]["kernel"], 1, new)}
    config = config.replace(decoder=config.decoder.replace(vocab_size=new))
    return leaves | {"decoder": decoder}, config


def _grown(leaf: Leaf, axis: int, size: int) -> Leaf:
    """The matrix with rows (or columns) of their mean up to `size`."""
    old = leaf.shape[axis]

    def read() -> np.ndarray:
        array = leaf.read()
        mean = array.mean(axis, dtype=np.float32, keepdims=True).astype(array.dtype)
        return np.concatenate([array, np.repeat(mean, size - old, axis)], axis)

    shape = tuple(size if i == axis else n for i, n in enumerate(leaf.shape))
    return Leaf((Tensor(shape, leaf.dtype, read),), False)


def image_processor_json(config: LlavaConfig | ClipConfig | VisionTowerConfig) -> dict[str, Any]:
    """The image processor of transformers that makes the model's pixels.

    CLIPImageProcessor: shortest edge to the model's size, centre crop. In image mode `pad` LlavaImageProcessor, which
    first makes the picture square; in `stretch` SiglipImageProcessor, which squeezes it; in `anyres`
    LlavaNextImageProcessor.
    """
    vision = config if isinstance(config, VisionTowerConfig) else config.vision
    llava = config if isinstance(config, LlavaConfig) else None
    default = "stretch" if isinstance(config, SiglipVisionConfig) else "square"
    mode = llava.image_mode if llava else default
    size = vision.image_size
    values: dict[str, Any] = {
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(vision.mean),
        "image_std": list(vision.std),
    }
    if llava:
        values["processor_class"] = "LlavaNextProcessor" if llava.pinpoints else "LlavaProcessor"
    if mode == "anyres" and llava:
        values |= {"image_processor_type": "LlavaNextImageProcessor", "do_pad": True}
        # The original reads its pinpoints as (width, height), transformers as (height, width).
        values["image_grid_pinpoints"] = hf_config.hf_pinpoints(llava)
    elif mode == "stretch":
        values["image_processor_type"] = "SiglipImageProcessor"
        values["size"] = {"height": size, "width": size}
        del values["do_center_crop"], values["crop_size"]
    elif mode == "pad":
        values |= {"image_processor_type": "LlavaImageProcessor", "do_pad": True}
    else:
        values["image_processor_type"] = "CLIPImageProcessor"
    return values


def processor_json(config: LlavaConfig) -> dict[str, Any]:
    """LlavaProcessor. One additional token: CLIP's class token, which "default" then takes off again."""
    return {
        "processor_class": "LlavaNextProcessor" if config.pinpoints else "LlavaProcessor",
        "image_token": "<image>",
        "patch_size": config.vision.patch_size,
        "num_additional_image_tokens": int(not isinstance(config.vision, SiglipVisionConfig)),
        "vision_feature_select_strategy": "default" if config.feature_select == "patch" else "full",
    }


def write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
