"""The model folder: config.json, params/ (Orbax), tokenizer/. What `jaxllava train` leaves and
`jaxllava.load` reads.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from transformers import PreTrainedTokenizerFast

from input_pipeline.conversation import get_template
from input_pipeline.errors import UserError
from input_pipeline.tokenizer import load_tokenizer
from jaxllava.models.clip import ClipConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.rules import Params, flatten, unflatten
from jaxllava.weights import manifest, tables
from jaxllava.weights.folders import whole_folder

FORMAT = "jaxllava"
KINDS: dict[str, type[LlavaConfig] | type[ClipConfig]] = {"llava": LlavaConfig, "clip": ClipConfig}


def save_model(
    directory: str | Path,
    params: Params,
    config: LlavaConfig | ClipConfig,
    tokenizer: PreTrainedTokenizerFast,
    template: str,
) -> None:
    """Writes a model folder, whole or not at all. On several hosts all of them call this (the arrays may be
    sharded).
    """
    get_template(template)
    kind = next(name for name, type_ in KINDS.items() if isinstance(config, type_))
    with whole_folder(directory) as folder:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder / "params", params)
        if jax.process_index() == 0:
            leaves = flatten(params)
            if all(getattr(leaf, "is_fully_addressable", True) for leaf in leaves.values()):
                manifest.write(folder, {path: manifest.entry(leaf) for path, leaf in leaves.items()})
            tokenizer.save_pretrained(folder / "tokenizer")
            header = {"format": FORMAT, "kind": kind, "template": template}
            (folder / "config.json").write_text(json.dumps(header | config.to_json(), indent=1) + "\n")


def locate(directory: str | Path) -> Path:
    """The model folder that a path means: itself, or the `model` in the workdir of a training run."""
    directory = Path(directory)
    inside = directory / "model"
    return inside if is_model_folder(inside) and not is_model_folder(directory) else directory


def is_model_folder(directory: str | Path) -> bool:
    """Whether `save_model` wrote this folder (or one of an older make with the same layout)."""
    return (Path(directory) / "params").is_dir() and (Path(directory) / "config.json").is_file()


def read_config(directory: str | Path) -> tuple[LlavaConfig | ClipConfig, str]:
    """(config, template name) of a model folder."""
    path = Path(directory) / "config.json"
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable config.json ({error}).") from error
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise UserError(f'{path}: not a jaxllava model folder (its "format" is not {FORMAT!r}).')
    kind, template = values.pop("kind", "llava"), values.pop("template", "")
    if kind not in KINDS:
        raise UserError(f"{path}: unknown kind {kind!r}.")
    get_template(template)
    return KINDS[kind].from_json(values), template


def load_params(directory: str | Path, shardings: Params | None = None) -> Params:
    """The parameters of a model folder, in the dtypes they were saved in.

    Args: shardings: a tree of Sharding like the params; None puts everything on the first local device.
    Raises UserError where the folder is missing or its tree is not the one its config describes.
    """
    directory = locate(directory).absolute()
    if not is_model_folder(directory):
        raise UserError(f"{directory}: no model folder (config.json, params/, tokenizer/) is there.")
    config, _ = read_config(directory)
    with ocp.StandardCheckpointer() as checkpointer:
        saved = flatten(_tree(checkpointer.metadata(directory / "params")))
        expected = tables.shapes(config)
        problems = [f"missing {path}" for path in sorted(expected.keys() - saved.keys())]
        problems += [f"no place for {path}" for path in sorted(saved.keys() - expected.keys())]
        problems += [
            f"{path} has shape {tuple(saved[path].shape)}, config.json needs {shape}"
            for path, shape in sorted(expected.items())
            if path in saved and tuple(saved[path].shape) != shape
        ]
        if problems:
            raise UserError(f"{directory}: params/ do not fit config.json: " + "; ".join(problems))
        # Stated, so that a checkpoint of a large mesh opens on one device.
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        places = flatten(shardings) if shardings is not None else dict.fromkeys(saved, device)
        target = {
            path: jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype, sharding=places[path])
            for path, leaf in saved.items()
        }
        return checkpointer.restore(directory / "params", unflatten(target))


def load_model(
    directory: str | Path,
) -> tuple[Params, LlavaConfig | ClipConfig, PreTrainedTokenizerFast, str]:
    """(params, config, tokenizer, template name) of a model folder."""
    params = load_params(directory)
    config, template = read_config(directory)
    return params, config, load_tokenizer(Path(directory) / "tokenizer"), template


def _tree(metadata: Any) -> Any:
    """The bare tree of array metadata, however this Orbax wraps it."""
    for name in ("item_metadata", "tree"):
        metadata = getattr(metadata, name, metadata)
    return metadata
