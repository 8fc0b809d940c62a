"""Original LLaVA checkpoints (`LlavaLlamaForCausalLM` and its Mistral and Qwen2 cousins), in and out.

Their config.json has `mm_projector_type`. The published v1.5 folders leave the vision tower out and name it
(`mm_vision_tower`); self-trained ones and v1.6 carry it. Both are read.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from transformers import AutoConfig, PreTrainedTokenizerFast

from input_pipeline.errors import UserError
from input_pipeline.tokenizer import IMAGE_TOKEN, load_tokenizer
from jaxllava.models.clip import ClipVisionConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.weights import hf, hf_config, tables
from jaxllava.weights.folders import whole_folder
from jaxllava.weights.tables import Entry, Params
from jaxllava.weights.tensor_files import TensorFiles

TOWER = "model.vision_tower.vision_tower.vision_model."
# The sizes of towers that a checkpoint names and does not hold.
TOWERS = {
    "openai/clip-vit-large-patch14": ClipVisionConfig(1024, 4096, 24, 16, image_size=224, patch_size=14),
    "openai/clip-vit-large-patch14-336": ClipVisionConfig(1024, 4096, 24, 16, image_size=336, patch_size=14),
}
_FAMILIES = {
    "LlavaLlamaForCausalLM": "llama",
    "LlavaMistralForCausalLM": "mistral",
    "LlavaQwenForCausalLM": "qwen2",
}


def is_original(directory: str | Path) -> bool:
    """Whether a folder's config.json is one of original LLaVA."""
    return "mm_vision_tower" in hf.config_values(directory)


def table(config: LlavaConfig) -> list[Entry]:
    """The original's names: an nn.Sequential's even numbers in the projector, two `vision_tower` for the tower."""
    rows = tables.vision_table(TOWER)
    depth = tables.projector_depth(config.projector)
    for i in range(1, depth + 1):
        number = "" if config.projector == "linear" else f".{2 * (i - 1)}"
        rows += [
            Entry(f"model.mm_projector{number}.weight", f"projector/linear_{i}/kernel", "linear"),
            Entry(f"model.mm_projector{number}.bias", f"projector/linear_{i}/bias"),
        ]
    return [*rows, *tables.decoder_table("model.", "lm_head.weight", config.decoder)]


def load(
    directory: str | Path, vision_tower: str | Path | None = None
) -> tuple[Params, LlavaConfig, PreTrainedTokenizerFast, str]:
    """Reads a folder of original LLaVA: (params, config, tokenizer with `<image>` added, template name).

    Args: vision_tower: a Hugging Face CLIP folder, for checkpoints without a tower of their own.

    Raises UserError for what the model cannot hold, a tower that is nowhere, and weights that do not match.
    """
    directory = Path(directory)
    values = hf.config_values(directory)
    tensors = TensorFiles(directory)
    tokenizer = load_tokenizer(directory, image_token=False)
    if tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) in (None, tokenizer.unk_token_id):
        tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE_TOKEN]})
    carried = any(name.startswith(TOWER) for name in tensors)
    tower, weights = _tower(values, carried, directory, vision_tower)
    config = _config(values, directory, tower, int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)))  # type: ignore[arg-type]
    origin = str(directory)
    both: Any = ChainMap(weights, tensors)  # type: ignore[arg-type]  # lazy: nothing is read yet
    params = tables.to_params(both, table(config), tables.shapes(config), origin)
    dtype = str(params["decoder"]["embed"]["embedding"].dtype)
    return (
        params,
        config.with_dtypes("float32" if dtype == "float32" else "bfloat16", dtype),
        tokenizer,
        "vicuna_v1",
    )


def _tower(
    values: dict[str, Any], carried: bool, directory: Path, given: str | Path | None
) -> tuple[ClipVisionConfig, Mapping[str, np.ndarray]]:
    """The tower's config, and its tensors under the original's names where the checkpoint does not carry them."""
    named = str(values.get("mm_vision_tower") or "")
    beside = next(
        (p for p in (directory / named, Path(named)) if named and (p / "config.json").is_file()), None
    )
    folder = Path(given) if given else beside
    if folder is not None:
        c = hf.read_json(folder, "clip", "clip_vision_model")
        config = hf_config.vision_config(getattr(c, "vision_config", c), str(folder / "config.json"))
        if carried:
            return config, {}
        files = TensorFiles(folder)
        found = {
            name: files[name] for name in files if "vision_model." in name and "position_ids" not in name
        }
        return config, {TOWER + name.split("vision_model.", 1)[1]: array for name, array in found.items()}
    if named not in TOWERS:
        raise UserError(
            f"{directory}: its vision tower {named!r} is not known here; give its folder with --vision-tower DIR."
        )
    if not carried:
        raise UserError(
            f"{directory}: holds no vision tower; fetch {named} and give its folder with --vision-tower DIR."
        )
    return TOWERS[named], {}


def _config(
    values: dict[str, Any], directory: Path, tower: ClipVisionConfig, image_token: int
) -> LlavaConfig:
    origin = str(directory / "config.json")
    name = (values.get("architectures") or ["LlavaLlamaForCausalLM"])[0]
    if name not in _FAMILIES:
        raise UserError(
            f"{origin}: architecture {name!r} is not supported; supported: {', '.join(_FAMILIES)}."
        )
    if values.get("mm_use_im_start_end") or values.get("mm_patch_merge_type", "flat") != "flat":
        raise UserError(f"{origin}: mm_use_im_start_end and mm_patch_merge_type are not supported yet.")
    dropped = {"model_type", "architectures", "transformers_version"}
    text = {key: value for key, value in values.items() if key not in dropped and not key.startswith("mm_")}
    c = AutoConfig.for_model(_FAMILIES[name], **text)
    aspect = values.get("image_aspect_ratio") or "square"
    return LlavaConfig(
        vision=tower,
        decoder=hf_config.llama_config(c, origin, bool(c.tie_word_embeddings)),
        image_token=image_token,
        projector=values.get("mm_projector_type", "linear"),
        feature_layer=values.get("mm_vision_select_layer", -2),
        feature_select=values.get("mm_vision_select_feature", "patch"),
        image_mode=aspect,
    )


def export(
    params: Params,
    config: LlavaConfig,
    tokenizer: PreTrainedTokenizerFast,
    out_dir: str | Path,
    vision_name: str = "",
) -> None:
    """Writes a folder as original LLaVA saves one, with its tower; whole or not at all.

    Args: vision_name: for `mm_vision_tower`; '' looks it up among the published towers by its sizes.
    """
    family = next((name for name, kind in _FAMILIES.items() if kind == config.decoder.family), None)
    if family is None or not isinstance(config.feature_layer, int):
        raise UserError("original LLaVA has no such model; keep it as a jaxllava or Hugging Face folder.")
    sizes = hf_config.vision_json(config.vision)
    known = (name for name, tower in TOWERS.items() if hf_config.vision_json(tower) == sizes)
    named = vision_name or next(known, "vision_tower")
    values = {
        "architectures": [family],
        "torch_dtype": str(params["decoder"]["embed"]["embedding"].dtype),
        **hf_config.llama_json(config.decoder),
        "model_type": f"llava_{config.decoder.family}",
        "mm_vision_tower": named,
        "mm_hidden_size": config.vision.hidden_size,
        "mm_projector_type": config.projector,
        "mm_vision_select_layer": config.feature_layer,
        "mm_vision_select_feature": config.feature_select,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": config.image_mode,
        "use_mm_proj": True,
        "tokenizer_padding_side": "right",
        "tokenizer_model_max_length": config.decoder.max_positions,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    tensors = tables.from_params(params, table(config), tables.shapes(config))
    with whole_folder(out_dir) as folder:
        if jax.process_index() != 0:
            return
        hf.write_safetensors(folder, tensors)
        tokenizer.save_pretrained(folder)
        hf.write_json(folder / "config.json", values)
        if named == "vision_tower":  # sizes that no published name stands for
            (folder / named).mkdir()
            tower = {"model_type": "clip_vision_model", **sizes}
            hf.write_json(folder / named / "config.json", tower)
