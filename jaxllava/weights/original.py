"""Original LLaVA checkpoints (`LlavaLlamaForCausalLM` and its Mistral and Qwen2 cousins), in and out.

Their config.json has `mm_projector_type`. The published v1.5 folders leave the vision tower out and name it
(`mm_vision_tower`); self-trained ones and v1.6 carry it. Both are read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from transformers import AutoConfig, PreTrainedTokenizerFast

from input_pipeline.conversation import IMAGE_MARKS
from input_pipeline.errors import UserError
from input_pipeline.tokenizer import IMAGE_TOKEN, load_tokenizer, save_tokenizer
from jaxllava.models.clip import ClipVisionConfig
from jaxllava.models.eva import EvaVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.weights import adapters, hf, hf_config, safetensors_writer, tables
from jaxllava.weights.checkpoint import Checkpoint, as_stored, mixed
from jaxllava.weights.folders import whole_folder
from jaxllava.weights.hf_export import NO_TOKENIZER, generation_json, write_json
from jaxllava.weights.lazy import Tensor
from jaxllava.weights.side_files import TEMPLATE_KEY, config_values, generation, pixels
from jaxllava.weights.tables import Entry
from jaxllava.weights.tensor_files import TensorFiles

TOWER = "model.vision_tower.vision_tower.vision_model."
EVA_TOWER = "model.vision_tower.vision_tower."
# The sizes of towers that a checkpoint names and does not hold.
TOWERS = {
    "openai/clip-vit-large-patch14": ClipVisionConfig(1024, 4096, 24, 16, image_size=224, patch_size=14),
    "openai/clip-vit-large-patch14-336": ClipVisionConfig(1024, 4096, 24, 16, image_size=336, patch_size=14),
}
UNNAMED = "vision_tower"
_FAMILIES = {
    "LlavaLlamaForCausalLM": "llama",
    "LlavaMistralForCausalLM": "mistral",
    "LlavaQwenForCausalLM": "qwen2",
}
_REMEDY = "give its folder with --vision-tower DIR (jaxllava convert) or vision_tower= (jaxllava.load)."


def is_original(directory: str | Path) -> bool:
    """Whether a folder's config.json is one of original LLaVA."""
    return "mm_vision_tower" in config_values(directory)


def table(config: LlavaConfig) -> list[Entry]:
    """The original's names: an nn.Sequential's even numbers in the projector, two `vision_tower` for the tower.

    LLaMA-VID's are the same and `model.vlm_att_*`.
    """
    rows = tables.tower_table(tower_prefix(config), config)
    if isinstance(config, LlamaVidConfig):
        rows += tables.context_table("model.", config)
    depth = tables.projector_depth(config.projector)
    for i in range(1, depth + 1):
        number = "" if config.projector == "linear" else f".{2 * (i - 1)}"
        rows += [
            Entry(f"model.mm_projector{number}.weight", f"projector/linear_{i}/kernel", "linear"),
            Entry(f"model.mm_projector{number}.bias", f"projector/linear_{i}/bias"),
        ]
    if config.pinpoints:
        rows.append(Entry("model.image_newline", "image_newline"))
    return [*rows, *tables.decoder_table("model.", "lm_head.weight", config.decoder)]


def tower_prefix(config: LlavaConfig) -> str:
    """What the names of a tower's tensors begin with."""
    return EVA_TOWER if isinstance(config.vision, EvaVisionConfig) else TOWER


def open_folder(
    directory: str | Path, vision_tower: str | Path | None = None, base: str | Path | None = None
) -> Checkpoint:
    """A folder of original LLaVA: whole, a LoRA adapter, a projector alone, or the delta of LLaVA v0.

    Args:
      vision_tower: a Hugging Face CLIP folder, for checkpoints without a tower of their own.
      base: the folder of the model (text or original LLaVA) that an adapter, a projector or a delta was made on.

    The tokenizer gets `<image>`. Raises UserError for what the model cannot hold, a tower or a base that is nowhere,
    and weights that do not match.
    """
    directory = Path(directory)
    origin = directory / "config.json"
    values = said(directory)
    notes: list[str] = []
    tensors, home = gathered(directory, Path(base) if base else None, notes)
    carried = any(name.startswith(TOWER) for name in tensors)
    tower, weights = clip_tower(values, carried, directory, vision_tower)
    with hf.odd_values(origin):
        config = _config(values, str(origin), tower)
    tokenizer = with_image_token(home)
    config = config.replace(image_token=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
    tensors, config = hf.untied(tensors, config, notes)
    leaves = tables.to_leaves({**tensors, **weights}, table(config), tables.shapes(config), str(directory))  # type: ignore[arg-type]
    notes += mixed(leaves)
    return Checkpoint(
        leaves,
        as_stored(config, leaves),
        tokenizer,
        values.get(TEMPLATE_KEY) or _template_for(config, tokenizer, bool(values.get("mm_use_im_start_end"))),  # type: ignore[arg-type]
        generation(home),
        tuple(notes),
    )


def said(directory: Path) -> dict[str, Any]:
    """A folder's config.json; null says as little as a key that is not there."""
    return {key: value for key, value in config_values(directory).items() if value is not None}


def with_image_token(home: Path) -> PreTrainedTokenizerFast:
    """A folder's tokenizer, with an `<image>` behind its vocabulary where it has none."""
    tokenizer = load_tokenizer(home, image_token=False)
    if tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) in (None, tokenizer.unk_token_id):
        tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE_TOKEN]})
    return tokenizer


def _template_for(config: LlavaConfig, tokenizer: PreTrainedTokenizerFast, marked: bool) -> str:
    """The prompt template that the published models of this kind were trained with."""
    if marked:
        return f"llava_v0{IMAGE_MARKS}"
    known = tokenizer.get_vocab()
    ends = {"<|im_end|>": "chatml_direct", "<|eot_id|>": "llama_3"}  # v1.6 on Yi 34B and Qwen; on Llama 3
    found = next((name for mark, name in ends.items() if mark in known), None)
    return found or ("mistral_instruct" if config.decoder.family == "mistral" else "vicuna_v1")


def gathered(
    directory: Path, base: Path | None, notes: list[str], also: tuple[str, ...] = ()
) -> tuple[dict[str, Tensor], Path]:
    """All tensors by the original's names, and the folder with the tokenizer; notes what was done. `also`: see
    `adapters.with_projector`.
    """
    lora = (directory / adapters.LORA_CONFIG).is_file()
    if not lora and not adapters.is_projector(directory):
        tensors = TensorFiles(directory)
        if base is None:
            return dict(tensors), directory
        notes.append(f"{directory} was added to {base}, as a delta")
        return adapters.with_delta(tensors, TensorFiles(base), str(directory)), directory
    what = "a LoRA adapter" if lora else "a projector alone"
    if base is None:
        raise UserError(
            f"{directory}: is {what}; give the folder of the model it was made on with --base DIR."
        )
    if not base.is_dir():
        raise UserError(f"--base {base} does not exist.")
    if not lora:
        notes.append(f"projector put into {base}")
        return adapters.with_projector(directory, TensorFiles(base), also), base
    notes.append(f"LoRA merged into {base}")
    if not (directory / adapters.OTHERS).is_file():
        notes.append(f"{directory}: has no {adapters.OTHERS}, the projector is the base's")
    return adapters.with_lora(directory, TensorFiles(base)), base


def clip_tower(
    values: dict[str, Any], carried: bool, directory: Path, given: str | Path | None
) -> tuple[ClipVisionConfig, dict[str, Tensor]]:
    """The tower's config, and its tensors under the original's names where the checkpoint does not carry them."""
    named = str(values.get("mm_vision_tower") or "")
    beside = next(
        (p for p in (directory / named, Path(named)) if named and (p / "config.json").is_file()), None
    )
    folder = Path(given) if given else beside
    if folder is not None:
        c = hf.read_json(folder, "clip", "clip_vision_model")
        with hf.odd_values(folder / "config.json"):
            config: Any = hf_config.vision_config(getattr(c, "vision_config", c), str(folder / "config.json"))
        config = config.replace(mean=pixels(folder, config)[0].mean, std=pixels(folder, config)[0].std)
        if carried:
            return config, {}
        found = hf.tower_tensors(TensorFiles(folder))
        return config, {TOWER + name: tensor for name, tensor in found.items()}
    if named not in TOWERS:
        raise UserError(f"{directory}: its vision tower {named!r} is not known here; {_REMEDY}")
    if not carried:
        raise UserError(f"{directory}: holds no vision tower; fetch {named} and {_REMEDY}")
    return TOWERS[named], {}


def _config(values: dict[str, Any], origin: str, tower: ClipVisionConfig) -> LlavaConfig:
    """The model that config.json describes; its image token is still to come from the tokenizer."""
    names = values.get("architectures") or ["LlavaLlamaForCausalLM"]
    name = names if isinstance(names, str) else names[0]
    if name not in _FAMILIES:
        raise UserError(
            f"{origin}: architecture {name!r} is not supported; supported: {', '.join(_FAMILIES)}."
        )
    aspect = values.get("image_aspect_ratio") or "square"
    merge = values.get("mm_patch_merge_type") or "flat"
    if merge not in ("flat", "spatial_unpad") or (aspect == "anyres") != (merge == "spatial_unpad"):
        raise UserError(
            f"{origin}: mm_patch_merge_type {merge!r} with image_aspect_ratio {aspect!r} is not supported; supported: "
            "flat with square or pad, and spatial_unpad with anyres."
        )
    pinpoints = values.get("image_grid_pinpoints") if aspect == "anyres" else None
    return LlavaConfig(
        vision=tower,
        decoder=decoder_config(values, _FAMILIES[name], origin),
        image_token=0,
        projector=values.get("mm_projector_type", "linear"),
        feature_layer=values.get("mm_vision_select_layer", -2),
        feature_select=values.get("mm_vision_select_feature", "patch"),
        image_mode=aspect,
        pinpoints=tuple((int(wide), int(high)) for wide, high in pinpoints or ()),
        anyres_order="original",
    )


def decoder_config(values: dict[str, Any], family: str, origin: str) -> LlamaConfig:
    """The decoder that config.json describes beside what is LLaVA's own."""
    dropped = {"model_type", "architectures", "transformers_version"}
    text = {key: value for key, value in values.items() if key not in dropped and not key.startswith("mm_")}
    c = AutoConfig.for_model(family, **text)
    return hf_config.llama_config(c, origin, bool(c.tie_word_embeddings))


def export(
    found: Checkpoint, out_dir: str | Path, progress: Callable[[int], None] = lambda done: None
) -> None:
    """Writes a folder as original LLaVA saves one, with its tower; whole or not at all. Args as in `hf_export`."""
    found = found.of_one_view()
    config, leaves = found.config, found.leaves
    if not isinstance(config, LlavaConfig):
        raise UserError(f"--format llava: {found.kind} cannot be written so; use hf or orbax.")
    family = next((name for name, kind in _FAMILIES.items() if kind == config.decoder.family), None)
    if family is None or not isinstance(config.feature_layer, int) or config.image_mode == "stretch":
        raise UserError("original LLaVA has no such model; keep it as a jaxllava or Hugging Face folder.")
    if not isinstance(config.vision, ClipVisionConfig):
        raise UserError(
            "original LLaVA has CLIP towers only; keep this model as a jaxllava or Hugging Face folder."
        )
    named = tower_name(config.vision)
    values = described(found, config, family, named)
    if config.pinpoints:
        swap = 1 if config.anyres_order == "original" else -1  # (width, height) there
        values["image_grid_pinpoints"] = [list(pair[::swap]) for pair in config.pinpoints]
        values["mm_patch_merge_type"] = "spatial_unpad"
        values["image_aspect_ratio"] = "anyres"
    tensors = tables.from_leaves(leaves, table(config), tables.shapes(config))
    with whole_folder(out_dir) as folder:
        if jax.process_index() == 0:
            write(folder, found, tensors, values, progress)


def tower_name(vision: ClipVisionConfig) -> str:
    """The published name of a tower; `UNNAMED`, a folder in the checkpoint's, for sizes that have none."""
    sizes = hf_config.vision_json(vision)
    return next((n for n, tower in TOWERS.items() if hf_config.vision_json(tower) == sizes), UNNAMED)


def described(found: Checkpoint, config: LlavaConfig, architecture: str, named: str) -> dict[str, Any]:
    """config.json as the original writes it, of a model that reads one view of a picture."""
    tokenizer = found.tokenizer
    if tokenizer is None:
        raise UserError(NO_TOKENIZER)
    return {
        "architectures": [architecture],
        "torch_dtype": str(found.leaves["decoder"]["embed"]["embedding"].dtype),
        **hf_config.llama_json(config.decoder),
        "model_type": f"llava_{config.decoder.family}",
        "mm_vision_tower": named,
        "mm_hidden_size": config.vision.hidden_size,
        "mm_projector_type": config.projector,
        "mm_vision_select_layer": config.feature_layer,
        "mm_vision_select_feature": config.feature_select,
        "mm_use_im_start_end": found.template.endswith(IMAGE_MARKS),
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": config.image_mode,
        "use_mm_proj": True,
        "tokenizer_padding_side": "right",
        "tokenizer_model_max_length": config.decoder.max_positions,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        TEMPLATE_KEY: found.template,
    }


def write(
    folder: Path,
    found: Checkpoint,
    tensors: dict[str, Tensor],
    values: dict[str, Any],
    progress: Callable[[int], None],
) -> None:
    """The files of a folder: weights, tokenizer, config, and the sizes of a tower that has no published name."""
    safetensors_writer.write(folder, tensors, progress=progress)
    save_tokenizer(found.tokenizer, folder)  # pyright: ignore[reportArgumentType]
    write_json(folder / "config.json", values)
    write_json(folder / "generation_config.json", generation_json(found))
    if values["mm_vision_tower"] == UNNAMED:
        vision: Any = found.config.vision  # pyright: ignore[reportAttributeAccessIssue]
        (folder / UNNAMED).mkdir()
        tower = {"model_type": "clip_vision_model", **hf_config.vision_json(vision)}
        write_json(folder / UNNAMED / "config.json", tower)
