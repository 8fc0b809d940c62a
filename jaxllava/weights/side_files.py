"""What stands beside the weights of a Hugging Face or original LLaVA folder: config, generation and pixel settings.

A file that is absent says nothing; one that cannot be read, or asks for what the model does not do, is a UserError.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from input_pipeline.errors import UserError
from jaxllava.models.encoder import VisionTowerConfig
from jaxllava.models.siglip import SiglipVisionConfig

TEMPLATE_KEY = (
    "jaxllava_template"  # config.json keeps the template's name; transformers carries it along unread
)

Tower = TypeVar("Tower", bound=VisionTowerConfig)

# What the image processors of transformers do when they are not told otherwise, and what ours do.
_DONE = {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 3}


def read_json(path: Path) -> dict[str, Any]:
    """A file's JSON object; {} where there is no such file."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable JSON ({error}); fetch it again.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(values).__name__}.")
    return values


def config_values(directory: str | Path) -> dict[str, Any]:
    """A folder's config.json as it stands; {} where there is none."""
    return read_json(Path(directory) / "config.json")


def generation(directory: str | Path) -> dict[str, Any]:
    """A folder's generation_config.json; where it names no end, the one of config.json, as transformers has it."""
    directory = Path(directory)
    values = read_json(directory / "generation_config.json")
    values.pop("transformers_version", None)
    if values.get("eos_token_id") is None:
        config = config_values(directory)
        for part in (config.get("text_config"), config):  # the later one counts more
            if isinstance(part, dict) and part.get("eos_token_id") is not None:
                values["eos_token_id"] = part["eos_token_id"]
    stop_ids(values, f"{directory} (generation_config.json or config.json)")
    return values


def stop_ids(generation: dict[str, Any], origin: str = "") -> tuple[int, ...]:
    """The ids at which transformers' `generate` stops; () where none is named."""
    found = generation.get("eos_token_id")
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in ids):
        raise UserError(f"{origin}: eos_token_id is {found!r}; a number or a list of numbers is needed.")
    return tuple(ids)


def image_settings(directory: str | Path) -> tuple[dict[str, Any], str]:
    """(an image processor's settings, their file): preprocessor_config.json, or the newer processor_config.json."""
    directory = Path(directory)
    path = directory / "preprocessor_config.json"
    if path.is_file():
        return read_json(path), str(path)
    path = directory / "processor_config.json"
    inner = read_json(path).get("image_processor")
    return (inner if isinstance(inner, dict) else {}), str(path)


def pixels(directory: str | Path, vision: Tower, anyres: bool = False) -> tuple[Tower, str]:
    """(the tower with the folder's mean and deviation, image mode); the tower's own where the folder says nothing."""
    values, origin = image_settings(directory)
    if not values:
        own = "stretch" if isinstance(vision, SiglipVisionConfig) else "square"
        return vision, "anyres" if anyres else own
    for key, done in _DONE.items():
        if values.get(key, done) not in (done, None):
            raise UserError(f"{origin}: {key} is {values[key]!r}; only {done!r} is supported.")
    factor = values.get("rescale_factor")
    if factor is not None and abs(factor - 1 / 255) > 1e-9:
        raise UserError(f"{origin}: rescale_factor is {factor}; only 1/255 is supported.")
    named = {"mean": values.get("image_mean"), "std": values.get("image_std")}
    for key, numbers in named.items():
        if numbers is not None and not (
            isinstance(numbers, list)
            and len(numbers) == 3
            and all(isinstance(n, int | float) for n in numbers)
        ):
            raise UserError(f"{origin}: image_{key} is {numbers!r}; three numbers are needed.")
    vision = vision.replace(**{key: tuple(map(float, n)) for key, n in named.items() if n})
    return vision, "anyres" if anyres else _mode(values, vision.image_size, origin)


def _mode(values: dict[str, Any], side: int, origin: str) -> str:
    size, crop = values.get("size"), values.get("crop_size")
    if isinstance(size, dict) and "height" in size:
        if (size.get("height"), size.get("width")) == (side, side):
            return "stretch"
    else:
        edge = size.get("shortest_edge") if isinstance(size, dict) else size
        inner = (crop.get("height"), crop.get("width")) if isinstance(crop, dict) else (crop, crop)
        cropped = values.get("do_center_crop", True) and inner in ((side, side), (None, None))
        if edge in (side, None) and values.get("do_pad"):
            return "pad"
        if edge in (side, None) and cropped:
            return "square"
    raise UserError(
        f"{origin}: size {size!r}, crop_size {crop!r}, do_center_crop {values.get('do_center_crop', True)} do not "
        f"make the {side} x {side} pixels of the vision tower; supported: the shortest edge to {side} and the centre "
        "cut out or the picture padded, or both edges."
    )


def template_of(directory: str | Path) -> str | None:
    """The template that an export from here left in a folder, or that the folder's own chat template looks like."""
    directory = Path(directory)
    if (name := config_values(directory).get(TEMPLATE_KEY)) is not None:
        return str(name)
    marks = {
        "Answer the questions.": "chatml_direct",
        "<|start_header_id|>": "llama_3",
        "<|im_start|>": "chatml",
        "[INST]": "mistral_instruct",
    }
    files = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
    for text in ((directory / file).read_text() for file in files if (directory / file).is_file()):
        if "messages" in text:
            return next((name for mark, name in marks.items() if mark in text), None)
    return None
