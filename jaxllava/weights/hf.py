"""Hugging Face folders: LLaVA in and out, and the CLIP and Llama folders that a LLaVA is started from.

Written in the spelling of transformers 4.x on disk, which every version reads; read in all three spellings
that versions have written (see `canonical`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerFast

from input_pipeline.conversation import get_template
from input_pipeline.errors import UserError
from input_pipeline.images import CLIP_MEAN, CLIP_STD
from jaxllava.models.clip import ClipConfig
from jaxllava.models.llama import FAMILIES, LlamaConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.weights import hf_config, tables
from jaxllava.weights.chat_template import chat_template
from jaxllava.weights.folders import whole_folder
from jaxllava.weights.tables import Params

SHARD_BYTES = 5 * 10**9
TEMPLATE_KEY = (
    "jaxllava_template"  # config.json keeps the template's name; transformers carries it along unread
)

# In memory since 4.52, and on disk since 5.6, names lost or gained a prefix; the table knows the 4.x disk
# names.
_SPELLINGS = (
    (re.compile(r"^model\.language_model\."), "language_model.model."),
    (re.compile(r"^model\.(vision_tower|multi_modal_projector)\."), r"\1."),
    (re.compile(r"^vision_tower\.(?!vision_model\.)"), "vision_tower.vision_model."),
    (re.compile(r"^lm_head\."), "language_model.lm_head."),
)


def canonical(name: str) -> str:
    """A LLaVA tensor name of any transformers version in the 4.x on-disk spelling."""
    for pattern, replacement in _SPELLINGS:
        name = pattern.sub(replacement, name)
    return name


def _read_json(directory: Path, *model_types: str) -> Any:
    """The transformers config object of a folder, which fills in what a partial config.json leaves out."""
    from transformers import AutoConfig

    path = directory / "config.json"
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable config.json ({error}).") from error
    if "mm_projector_type" in values:
        raise UserError(f"{path}: an original LLaVA checkpoint; convert it to the Hugging Face format first.")
    if values.get("model_type") not in model_types:
        expected = " or ".join(map(repr, model_types))
        raise UserError(f"{path}: model_type is {values.get('model_type')!r}, expected {expected}.")
    return AutoConfig.from_pretrained(directory, local_files_only=True)


def is_hf_folder(directory: str | Path) -> bool:
    """Whether a folder holds a config.json with a model_type, as Hugging Face folders do."""
    try:
        values = json.loads((Path(directory) / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and "model_type" in values


def template_of(directory: str | Path) -> str | None:
    """The template name that `export_hf` left in a folder, None in folders of others."""
    return json.loads((Path(directory) / "config.json").read_text()).get(TEMPLATE_KEY)


# ---------------------------------------------------------------- reading


class Safetensors(Mapping[str, np.ndarray]):
    """All tensors of a folder's safetensors files by name, read from disk one at a time."""

    def __init__(self, directory: Path, rename: Callable[[str], str] = lambda name: name):
        index = directory / "model.safetensors.index.json"
        single = directory / "model.safetensors"
        if index.is_file():
            files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        elif single.is_file():
            files = [single.name]
        elif list(directory.glob("*.bin")):
            raise UserError(
                f"{directory}: has .bin weights only; save it as safetensors (nothing is unpickled here)."
            )
        else:
            raise UserError(f"{directory}: has no model.safetensors.")
        self._origin: dict[str, tuple[Any, str]] = {}  # canonical name -> (open file, name in the file)
        twice = []
        for file in files:
            try:
                opened = safe_open(directory / file, framework="numpy")
            except (OSError, SafetensorError) as error:
                raise UserError(f"{directory / file}: not a readable safetensors file ({error}).") from error
            for name in opened.keys():  # noqa: SIM118 (not a dict)
                twice += [name] if rename(name) in self._origin else []
                self._origin[rename(name)] = (opened, name)
        if twice:
            raise UserError(f"{directory}: these tensors are there twice: {', '.join(twice)}")

    def __getitem__(self, name: str) -> np.ndarray:
        opened, stored = self._origin[name]
        return opened.get_tensor(stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._origin)

    def __len__(self) -> int:
        return len(self._origin)


def import_hf(directory: str | Path) -> tuple[Params, LlavaConfig]:
    """Reads a Hugging Face LLaVA folder of any transformers version.

    Returns numpy parameters in the file's dtype, and the config; it computes in float32 where the weights are
    float32, in bfloat16 otherwise. Raises UserError for what the model cannot hold, a missing file, or
    weights that do not match.
    """
    directory = Path(directory)
    config = read_config(directory)
    tensors = _untied(
        Safetensors(directory, canonical), "language_model.lm_head.weight", config.decoder.tie_embeddings
    )
    params = tables.to_params(tensors, tables.llava_table(config), tables.shapes(config), str(directory))
    dtype = str(params["decoder"]["embed"]["embedding"].dtype)
    return params, config.with_dtypes("float32" if dtype == "float32" else "bfloat16", dtype)


def read_config(directory: str | Path) -> LlavaConfig:
    """The config of a Hugging Face LLaVA folder; dtypes are left at float32."""
    return hf_config.llava_config(_read_json(Path(directory), "llava"), str(Path(directory) / "config.json"))


def import_clip(directory: str | Path) -> tuple[Params, ClipConfig]:
    """Reads a Hugging Face CLIPModel folder (`openai/clip-vit-large-patch14-336`); its "vision" starts a
    LLaVA.
    """
    directory = Path(directory)
    config = hf_config.clip_config(_read_json(directory, "clip"), str(directory / "config.json"))
    table = tables.clip_table(config)
    return tables.to_params(Safetensors(directory), table, tables.shapes(config), str(directory)), config


def import_llama(directory: str | Path) -> tuple[Params, LlamaConfig]:
    """Reads a text model's Hugging Face folder (Llama, Vicuna, Mistral, Qwen); its tree is a LLaVA's "decoder"."""
    directory = Path(directory)
    c = _read_json(directory, *FAMILIES)
    config = hf_config.llama_config(c, f"{directory / 'config.json'}", bool(c.tie_word_embeddings))
    tensors = _untied(Safetensors(directory), "lm_head.weight", config.tie_embeddings)
    return tables.to_params(
        tensors, tables.llama_table(config), tables.shapes(config), str(directory)
    ), config


def _untied(tensors: Mapping[str, np.ndarray], head: str, tied: bool) -> Mapping[str, np.ndarray]:
    """Some writers store a tied output matrix a second time; it is the embedding table and is left out."""
    if tied and head in tensors:
        return _Without(tensors, head)
    return tensors


class _Without(Mapping[str, np.ndarray]):
    def __init__(self, tensors: Mapping[str, np.ndarray], name: str):
        self._tensors, self._name = tensors, name

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._tensors if name != self._name)

    def __len__(self) -> int:
        return len(self._tensors) - 1


# ---------------------------------------------------------------- writing


def export_hf(
    params: Params,
    config: LlavaConfig,
    tokenizer: PreTrainedTokenizerFast,
    out_dir: str | Path,
    template: str,
) -> None:
    """Writes a Hugging Face LLaVA folder that loads with nothing added, in every transformers version.

    Args: params in any float dtype (written as they are); template: a name of `conversation.TEMPLATES`,
    written as the chat template. The folder appears whole or not at all. Raises UserError as `llava_json` and
    `whole_folder` do.
    """
    chat = chat_template(get_template(template))
    values = hf_config.llava_json(config)
    embedding = params["decoder"]["embed"]["embedding"]
    values["torch_dtype"] = str(embedding.dtype)
    ids = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id")
        for name in ("bos", "eos", "pad")
        if getattr(tokenizer, f"{name}_token_id") is not None
    }
    values |= ids | {TEMPLATE_KEY: template}
    values["text_config"] |= ids
    tensors = tables.from_params(params, tables.llava_table(config), tables.shapes(config))
    with whole_folder(out_dir) as folder:
        if jax.process_index() != 0:
            return
        write_safetensors(folder, tensors)
        tokenizer.save_pretrained(folder)
        _write(folder / "config.json", values)
        _write(folder / "generation_config.json", {"_from_model_config": True} | ids)
        _write(folder / "preprocessor_config.json", image_processor_json(config))
        _write(folder / "processor_config.json", processor_json(config))
        (folder / "chat_template.jinja").write_text(chat)
        _write(folder / "chat_template.json", {"chat_template": chat})  # what 4.45 to 4.50 read


def write_safetensors(
    folder: Path, tensors: Iterator[tuple[str, np.ndarray]], shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes model.safetensors, or numbered shards and their index once the tensors exceed `shard_bytes`."""
    shards: list[list[str]] = []
    pending: dict[str, np.ndarray] = {}
    total = size = 0

    def flush() -> None:
        nonlocal size
        save_file(pending, folder / f"shard-{len(shards)}.tmp", metadata={"format": "pt"})
        shards.append(list(pending))
        pending.clear()
        size = 0

    for name, tensor in tensors:
        if pending and size + tensor.nbytes > shard_bytes:
            flush()
        pending[name] = tensor
        size += tensor.nbytes
        total += tensor.nbytes
    flush()
    if len(shards) == 1:
        (folder / "shard-0.tmp").rename(folder / "model.safetensors")
        return
    weight_map = {}
    for i, names in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"shard-{i}.tmp").rename(folder / file)
        weight_map |= dict.fromkeys(names, file)
    _write(
        folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
    )


def image_processor_json(config: LlavaConfig) -> dict[str, Any]:
    """CLIPImageProcessor: shortest edge to the model's size, centre crop, CLIP's mean and std."""
    size = config.vision.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
    }


def processor_json(config: LlavaConfig) -> dict[str, Any]:
    """LlavaProcessor. One additional token: the class token, which "default" then takes off again."""
    return {
        "processor_class": "LlavaProcessor",
        "image_token": "<image>",
        "patch_size": config.vision.patch_size,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default" if config.feature_select == "patch" else "full",
    }


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
