"""Hugging Face folders: LLaVA in and out, and the CLIP and Llama folders that a LLaVA is started from.

Written in the spelling of transformers 4.x on disk, which every version reads; read in all three spellings
that versions have written (see `canonical`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerFast

from input_pipeline.conversation import get_template
from input_pipeline.errors import UserError
from input_pipeline.images import CLIP_MEAN, CLIP_STD
from jaxllava.models.clip import ClipConfig
from jaxllava.models.llama import FAMILIES, LlamaConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.weights import hf_config, manifest, tables
from jaxllava.weights.chat_template import chat_template
from jaxllava.weights.folders import whole_folder
from jaxllava.weights.tables import Params
from jaxllava.weights.tensor_files import TensorFiles

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


def read_json(directory: Path, *model_types: str) -> Any:
    """The transformers config object of a folder, which fills in what a partial config.json leaves out."""
    from transformers import AutoConfig

    path = directory / "config.json"
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable config.json ({error}).") from error
    if "mm_projector_type" in values:
        raise UserError(
            f"{path}: an original LLaVA checkpoint; jaxllava.load and `jaxllava convert --from` read it."
        )
    if values.get("model_type") not in model_types:
        expected = " or ".join(map(repr, model_types))
        raise UserError(f"{path}: model_type is {values.get('model_type')!r}, expected {expected}.")
    return AutoConfig.from_pretrained(directory, local_files_only=True)


def config_values(directory: str | Path) -> dict[str, Any]:
    """A folder's config.json as it stands; {} where there is none that can be read."""
    try:
        values = json.loads((Path(directory) / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def is_hf_folder(directory: str | Path) -> bool:
    """Whether a folder holds a config.json with a model_type, as Hugging Face folders do."""
    return "model_type" in config_values(directory)


def template_of(directory: str | Path) -> str | None:
    """The template name that `export_hf` left in a folder, None in folders of others."""
    return config_values(directory).get(TEMPLATE_KEY)


# ---------------------------------------------------------------- reading


def import_hf(directory: str | Path) -> tuple[Params, LlavaConfig]:
    """Reads a Hugging Face LLaVA folder of any transformers version.

    Returns numpy parameters in the file's dtype, and the config; it computes in float32 where the weights are
    float32, in bfloat16 otherwise. Raises UserError for what the model cannot hold, a missing file, or
    weights that do not match.
    """
    directory = Path(directory)
    config = read_config(directory)
    tensors = _untied(
        TensorFiles(directory, canonical), "language_model.lm_head.weight", config.decoder.tie_embeddings
    )
    params = tables.to_params(tensors, tables.llava_table(config), tables.shapes(config), str(directory))
    dtype = str(params["decoder"]["embed"]["embedding"].dtype)
    return params, config.with_dtypes("float32" if dtype == "float32" else "bfloat16", dtype)


def read_config(directory: str | Path) -> LlavaConfig:
    """The config of a Hugging Face LLaVA folder; dtypes are left at float32."""
    directory = Path(directory)
    config = hf_config.llava_config(read_json(directory, "llava"), str(directory / "config.json"))
    try:
        pixels = json.loads((directory / "preprocessor_config.json").read_text())
    except (OSError, ValueError):  # not every folder has one; the tower's own processor is what is left
        return config
    return config.replace(image_mode="pad" if pixels.get("do_pad") else "square")


def import_clip(directory: str | Path) -> tuple[Params, ClipConfig]:
    """Reads a Hugging Face CLIPModel folder (`openai/clip-vit-large-patch14-336`); its "vision" starts a
    LLaVA.
    """
    directory = Path(directory)
    config = hf_config.clip_config(read_json(directory, "clip"), str(directory / "config.json"))
    table = tables.clip_table(config)
    return tables.to_params(TensorFiles(directory), table, tables.shapes(config), str(directory)), config


def import_llama(directory: str | Path) -> tuple[Params, LlamaConfig]:
    """Reads a text model's Hugging Face folder (Llama, Vicuna, Mistral, Qwen); its tree is a LLaVA's "decoder"."""
    directory = Path(directory)
    c = read_json(directory, *FAMILIES)
    config = hf_config.llama_config(c, f"{directory / 'config.json'}", bool(c.tie_word_embeddings))
    tensors = _untied(TensorFiles(directory), "lm_head.weight", config.tie_embeddings)
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
    params, config = with_image_row(params, config)
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
        write_json(folder / "config.json", values)
        write_json(folder / "generation_config.json", {"_from_model_config": True} | ids)
        write_json(folder / "preprocessor_config.json", image_processor_json(config))
        write_json(folder / "processor_config.json", processor_json(config))
        (folder / "chat_template.jinja").write_text(chat)
        write_json(folder / "chat_template.json", {"chat_template": chat})  # what 4.45 to 4.50 read


def with_image_row(params: Params, config: LlavaConfig) -> tuple[Params, LlavaConfig]:
    """A model whose vocabulary holds its image token, as Hugging Face needs it.

    Where the token lies behind the vocabulary (original LLaVA), embeddings and head get rows up to the next multiple of
    64, each the mean of the old ones: none of them is ever looked up, and their logits are of the common kind.
    """
    old = config.decoder.vocab_size
    if config.image_token < old:
        return params, config
    new = -(-(config.image_token + 1) // 64) * 64

    def grown(leaf: Any, axis: int) -> np.ndarray:
        leaf = np.asarray(leaf)
        mean = leaf.astype(np.float32).mean(axis, keepdims=True).astype(leaf.dtype)
        return np.concatenate([leaf, np.repeat(mean, new - old, axis)], axis)

    decoder = dict(params["decoder"])
    decoder["embed"] = {"embedding": grown(decoder["embed"]["embedding"], 0)}
    if "lm_head" in decoder:
        decoder["lm_head"] = {"kernel": grown(decoder["lm_head"]["kernel"], 1)}
    config = config.replace(decoder=config.decoder.replace(vocab_size=new))
    return params | {"decoder": decoder}, config


def write_safetensors(
    folder: Path, tensors: Iterator[tuple[str, np.ndarray]], shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes model.safetensors, or numbered shards and their index once the tensors exceed `shard_bytes`.

    A manifest of all tensors stands beside them.
    """
    entries: dict[str, manifest.Entry] = {}
    shards: list[list[str]] = []
    pending: dict[str, np.ndarray] = {}
    total = size = 0

    def flush() -> None:
        nonlocal size
        save_file(pending, folder / f"shard-{len(shards)}.tmp", metadata={"format": "pt"})
        shards.append(list(pending))
        pending.clear()
        size = 0

    for name, tensor in manifest.recorded(tensors, entries):
        if pending and size + tensor.nbytes > shard_bytes:
            flush()
        pending[name] = tensor
        size += tensor.nbytes
        total += tensor.nbytes
    flush()
    manifest.write(folder, entries)
    if len(shards) == 1:
        (folder / "shard-0.tmp").rename(folder / "model.safetensors")
        return
    weight_map = {}
    for i, names in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"shard-{i}.tmp").rename(folder / file)
        weight_map |= dict.fromkeys(names, file)
    write_json(
        folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
    )


def image_processor_json(config: LlavaConfig) -> dict[str, Any]:
    """CLIPImageProcessor: shortest edge to the model's size, centre crop, CLIP's mean and std.

    In image mode `pad` LlavaImageProcessor, which first makes the picture square.
    """
    size = config.vision.image_size
    pad = config.image_mode == "pad"
    return ({"do_pad": True} if pad else {}) | {
        "image_processor_type": "LlavaImageProcessor" if pad else "CLIPImageProcessor",
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


def write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
