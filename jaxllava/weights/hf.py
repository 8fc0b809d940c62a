"""Reading Hugging Face folders: LLaVA, LLaVA-NeXT, and what they are made of (CLIP, SigLIP, text models).

Names are read in all three spellings that versions of transformers have written (see `canonical`).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from input_pipeline.errors import UserError
from input_pipeline.tokenizer import IMAGE_TOKEN, load_tokenizer
from jaxllava.models.llama import FAMILIES, LlamaConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.models.siglip import SiglipVisionConfig
from jaxllava.weights import fused, hf_config, tables
from jaxllava.weights.checkpoint import Checkpoint, as_stored, mixed
from jaxllava.weights.lazy import Tensor
from jaxllava.weights.side_files import config_values, generation, pixels, template_of
from jaxllava.weights.tables import AnyConfig
from jaxllava.weights.tensor_files import TensorFiles

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


def is_hf_folder(directory: str | Path) -> bool:
    """Whether a folder holds a config.json with a model_type, as Hugging Face folders do."""
    return "model_type" in config_values(directory)


def read_json(directory: Path, *model_types: str) -> Any:
    """The transformers config object of a folder, which fills in what a partial config.json leaves out."""
    from transformers import AutoConfig

    path = directory / "config.json"
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    values = config_values(directory)
    if (found := values.get("model_type")) not in model_types:
        raise UserError(f"{path}: model_type is {found!r}; what is read here: {', '.join(model_types)}.")
    if values.get("quantization_config"):
        raise UserError(
            f"{path}: the weights are quantised (quantization_config); fetch the model in a float dtype."
        )
    with odd_values(path):
        return AutoConfig.from_pretrained(directory, local_files_only=True)


@contextlib.contextmanager
def odd_values(path: Path) -> Iterator[None]:
    """Whatever a value of a config.json, wrong in its own way, makes transformers or our configs raise, in one line."""
    try:
        yield
    except UserError as error:
        named = str(path.parent) in str(error)
        raise error if named else UserError(f"{path}: {error}") from error
    except Exception as error:
        raise UserError(
            f"{path}: a value in it is not what it should be ({' '.join(str(error).split())})."
        ) from error


def open_folder(directory: str | Path) -> Checkpoint:
    """A Hugging Face folder of any kind named in `MODEL_TYPES`, by its config.json's model_type.

    The weights keep the file's dtype; it computes in float32 where they are float32, in bfloat16 otherwise. Raises
    UserError for what the models cannot hold, a missing file, or weights that do not match.
    """
    directory = Path(directory)
    c = read_json(directory, *MODEL_TYPES)
    origin = directory / "config.json"
    notes: list[str] = []
    with odd_values(origin):
        config = read_config(directory) if c.model_type in LLAVA_TYPES else _config_of(c, directory)
    tensors: Mapping[str, Tensor] = TensorFiles(
        directory, canonical if isinstance(config, LlavaConfig) else str
    )
    if isinstance(config, SiglipVisionConfig):
        kept = {f"vision_model.{name}": tensor for name, tensor in tower_tensors(tensors).items()}
        if rest := len(tensors) - len(kept):
            notes.append(f"{directory}: {rest} tensors of the text tower are left out")
        tensors = kept
    tensors, config = untied(fused.split_fused(tensors), config, notes)
    leaves = tables.to_leaves(tensors, tables.table_of(config), tables.shapes(config), str(directory))
    tokenizer, template = _tokenizer(directory, config, notes), ""
    if isinstance(config, LlavaConfig):
        template = template_of(directory) or _template_for(config)
    notes += mixed(leaves)
    return Checkpoint(
        leaves, as_stored(config, leaves), tokenizer, template, generation(directory), tuple(notes)
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
    vision, mode = pixels(directory, config.vision, anyres=bool(config.pinpoints))
    return config.replace(vision=vision, image_mode=mode)


def _config_of(c: Any, directory: Path) -> AnyConfig:
    origin = str(directory / "config.json")
    if c.model_type == "clip":
        clip = hf_config.clip_config(c, origin)
        return clip.replace(vision=pixels(directory, clip.vision)[0])
    if c.model_type in ("siglip", "siglip_vision_model"):
        siglip: Any = hf_config.siglip_config(getattr(c, "vision_config", c), origin)
        found: Any = pixels(directory, siglip)[0]
        return found
    return hf_config.llama_config(c, origin, bool(c.tie_word_embeddings))


LLAVA_TYPES = ("llava", "llava_next")
MODEL_TYPES = (*LLAVA_TYPES, "clip", "siglip", "siglip_vision_model", *FAMILIES)


def untied(
    tensors: dict[str, Tensor], config: AnyConfig, notes: list[str]
) -> tuple[dict[str, Tensor], AnyConfig]:
    """Settles an output matrix that is stored although the config ties it to the embeddings, as transformers does.

    Equal to them, it is left out; another one is kept, and the config untied. Both are compared, and so read.
    """
    decoder = config.decoder if isinstance(config, LlavaConfig) else config
    if not isinstance(decoder, LlamaConfig) or not decoder.tie_embeddings:
        return tensors, config
    heads = [name for name in tensors if re.fullmatch(r"(language_model\.)?lm_head\.weight", name)]
    for head in heads:
        (table,) = [name for name in tensors if name.endswith("embed_tokens.weight")] or [head]
        same = tensors[head].shape == tensors[table].shape
        if same and np.array_equal(tensors[head].read(), tensors[table].read()):
            return {name: tensor for name, tensor in tensors.items() if name != head}, config
        notes.append(f"{head} differs from the embeddings that config.json ties it to: they are untied")
        decoder = decoder.replace(tie_embeddings=False)
        return tensors, config.replace(decoder=decoder) if isinstance(config, LlavaConfig) else decoder
    return tensors, config


def _tokenizer(directory: Path, config: AnyConfig, notes: list[str]) -> PreTrainedTokenizerFast | None:
    """None where the folder has none, or has one that only a LLaVA would need."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tokenizer_config.json")
    if not any((directory / name).is_file() for name in names):
        return None
    if not isinstance(config, LlavaConfig):
        try:
            return load_tokenizer(directory, image_token=False)
        except UserError as error:
            notes.append(f"its tokenizer is left out: {error}")
            return None
    tokenizer = load_tokenizer(directory)
    if (found := tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)) != config.image_token:
        raise UserError(
            f"{directory}: config.json says that {IMAGE_TOKEN} is token {config.image_token} (image_token_index), its "
            f"tokenizer that it is {found}."
        )
    return tokenizer


def _template_for(config: LlavaConfig) -> str:
    """The template that llava-hf's folders use for a text model (their chat templates)."""
    return {"mistral": "mistral_instruct", "qwen2": "chatml", "qwen3": "chatml"}.get(
        config.decoder.family, "v1_bare" if not config.pinpoints else "vicuna_v1"
    )
