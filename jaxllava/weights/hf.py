"""Reading Hugging Face folders: LLaVA, LLaVA-NeXT, and what they are made of (CLIP, SigLIP, text models).

Names are read in all three spellings that versions of transformers have written (see `canonical`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from input_pipeline.errors import UserError
from input_pipeline.tokenizer import load_tokenizer
from jaxllava.models.llama import FAMILIES, LlamaConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.models.siglip import SiglipVisionConfig
from jaxllava.weights import hf_config, tables
from jaxllava.weights.checkpoint import Checkpoint
from jaxllava.weights.lazy import Tensor
from jaxllava.weights.tables import AnyConfig
from jaxllava.weights.tensor_files import TensorFiles

TEMPLATE_KEY = (
    "jaxllava_template"  # config.json keeps the template's name; transformers carries it along unread
)

# In memory since 4.52, and on disk since 5.6, names lost or gained a prefix; the tables know the 4.x disk
# names.
_SPELLINGS = (
    (re.compile(r"^model\.language_model\."), "language_model.model."),
    (re.compile(r"^model\.(vision_tower|multi_modal_projector)\."), r"\1."),
    (re.compile(r"^model\.image_newline$"), "image_newline"),
    (re.compile(r"^vision_tower\.(?!vision_model\.)"), "vision_tower.vision_model."),
    (re.compile(r"^lm_head\."), "language_model.lm_head."),
)


def canonical(name: str) -> str:
    """A LLaVA tensor name of any transformers version in the 4.x on-disk spelling."""
    for pattern, replacement in _SPELLINGS:
        name = pattern.sub(replacement, name)
    return name


def config_values(directory: str | Path) -> dict[str, Any]:
    """A folder's config.json as it stands; {} where there is none that can be read."""
    return _json(Path(directory) / "config.json")


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def is_hf_folder(directory: str | Path) -> bool:
    """Whether a folder holds a config.json with a model_type, as Hugging Face folders do."""
    return "model_type" in config_values(directory)


def read_json(directory: Path, *model_types: str) -> Any:
    """The transformers config object of a folder, which fills in what a partial config.json leaves out."""
    from transformers import AutoConfig

    path = directory / "config.json"
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable config.json ({error}).") from error
    found = values.get("model_type") if isinstance(values, dict) else None
    if found not in model_types:
        raise UserError(f"{path}: model_type is {found!r}; what is read here: {', '.join(model_types)}.")
    try:
        return AutoConfig.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # transformers checks values, each family in its own way
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error


def open_folder(directory: str | Path) -> Checkpoint:
    """A Hugging Face folder of any kind named in `MODEL_TYPES`, by its config.json's model_type.

    The weights keep the file's dtype; it computes in float32 where they are float32, in bfloat16 otherwise. Raises
    UserError for what the models cannot hold, a missing file, or weights that do not match.
    """
    directory = Path(directory)
    c = read_json(directory, *MODEL_TYPES)
    kind = c.model_type
    notes: tuple[str, ...] = ()
    if kind in ("llava", "llava_next"):
        config: AnyConfig = read_config(directory)
        tensors: Mapping[str, Tensor] = TensorFiles(directory, canonical)
    else:
        config = _config_of(c, str(directory / "config.json"))
        tensors = TensorFiles(directory)
    if isinstance(config, SiglipVisionConfig):
        kept = {f"vision_model.{name}": tensor for name, tensor in tower_tensors(tensors).items()}
        if rest := len(tensors) - len(kept):
            notes += (f"{directory}: {rest} tensors of the text tower are left out",)
        tensors = kept
    tensors = _untied(tables.split_fused(tensors), config)
    leaves = tables.to_leaves(tensors, tables.table_of(config), tables.shapes(config), str(directory))
    return Checkpoint(
        leaves,
        config_as_stored(config, leaves),
        _tokenizer(directory, image_token=isinstance(config, LlavaConfig)),
        template_of(directory) or (_template_for(config) if isinstance(config, LlavaConfig) else ""),
        stop_ids(directory),
        notes,
    )


def tower_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A vision tower's tensors without prefix, from a folder of both towers or of this one (5.6 dropped its prefix)."""
    prefix = "vision_model."
    if any(name.startswith(prefix) for name in tensors):
        return {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}
    return dict(tensors)


def read_config(directory: str | Path) -> LlavaConfig:
    """The config of a Hugging Face LLaVA or LLaVA-NeXT folder; dtypes are left at float32."""
    directory = Path(directory)
    c = read_json(directory, "llava", "llava_next")
    config = hf_config.llava_config(c, str(directory / "config.json"))
    pixels = _json(directory / "preprocessor_config.json")
    vision = config.vision.replace(**_pixel_values(pixels))
    # Not every folder has the file; the tower's own processor is what is left.
    stretched = isinstance(vision, SiglipVisionConfig) if not pixels else "height" in pixels.get("size", {})
    mode = "anyres" if config.pinpoints else "stretch" if stretched else "square"
    return config.replace(
        vision=vision, image_mode="pad" if pixels.get("do_pad") and mode != "anyres" else mode
    )


def _pixel_values(pixels: dict[str, Any]) -> dict[str, Any]:
    named = {"mean": pixels.get("image_mean"), "std": pixels.get("image_std")}
    return {key: tuple(map(float, value)) for key, value in named.items() if value}


def _config_of(c: Any, origin: str) -> AnyConfig:
    if c.model_type == "clip":
        return hf_config.clip_config(c, origin)
    if c.model_type in ("siglip", "siglip_vision_model"):
        return hf_config.siglip_config(getattr(c, "vision_config", c), origin)
    return hf_config.llama_config(c, origin, bool(c.tie_word_embeddings))


MODEL_TYPES = ("llava", "llava_next", "clip", "siglip", "siglip_vision_model", *FAMILIES)


def config_as_stored(config: AnyConfig, leaves: dict[str, Any]) -> AnyConfig:
    """The config with the dtypes of the stored weights."""
    from jaxllava.rules import flatten

    flat = flatten(leaves)
    wanted = ("embed/embedding", "position_embedding")
    name = str(next(leaf for suffix in wanted for path, leaf in flat.items() if path.endswith(suffix)).dtype)
    return config.with_dtypes("float32" if name == "float32" else "bfloat16", name)


def _untied(tensors: dict[str, Tensor], config: AnyConfig) -> dict[str, Tensor]:
    """Some writers store a tied output matrix a second time; it is the embedding table and is left out."""
    decoder = config.decoder if isinstance(config, LlavaConfig) else config
    if isinstance(decoder, LlamaConfig) and decoder.tie_embeddings:
        return {
            n: t for n, t in tensors.items() if n not in ("lm_head.weight", "language_model.lm_head.weight")
        }
    return tensors


def _tokenizer(directory: Path, image_token: bool) -> PreTrainedTokenizerFast | None:
    """None where the folder has none."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tokenizer_config.json")
    if not any((directory / name).is_file() for name in names):
        return None
    try:
        return load_tokenizer(directory, image_token)
    except UserError:
        if image_token:
            raise
        return None  # a tower's or a text model's weights are wanted; their tokenizer may be of a kind not read here


def template_of(directory: str | Path) -> str | None:
    """The template name that an export from here left in a folder, None in folders of others."""
    return config_values(directory).get(TEMPLATE_KEY)


def _template_for(config: LlavaConfig) -> str:
    """The template that llava-hf's folders use for a text model (their chat templates)."""
    return {"mistral": "mistral_instruct", "qwen2": "chatml", "qwen3": "chatml"}.get(
        config.decoder.family, "v1_bare" if not config.pinpoints else "vicuna_v1"
    )


def stop_ids(directory: str | Path) -> tuple[int, ...]:
    """The ids at which `generate` of transformers stops, from generation_config.json; () where it names none."""
    found = _json(Path(directory) / "generation_config.json").get("eos_token_id")
    return tuple(found) if isinstance(found, list) else (found,) if isinstance(found, int) else ()
