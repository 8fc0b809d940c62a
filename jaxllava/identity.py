"""What a run is: hashes of its config, data, model, base and tokenizer. The same identity means the same result.

Where the files lie, how many devices and hosts share the work and how often something is written do not belong to it:
a run may go on elsewhere, on another mesh.
"""

from __future__ import annotations

import functools
import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerFast

from input_pipeline import records
from input_pipeline.asker import Asker
from input_pipeline.token_table import tokenizer_hash
from jaxllava.models.config import ModelConfig

# Keys that change where and how fast a run goes, and not what comes out of it (to the last bits of float32).
ELSEWHERE = frozenset(
    (
        *(
            "data",
            "features",
            "architecture",
            "base",
            "vision_tower",
            "decoder",
            "qformer",
            "question_tokenizer",
            "init",
        ),
        *("validation", "validation_rows", "workers", "log_every"),
        *("devices", "mesh", "sharding_rules", "attention", "remat", "loss_chunks", "tpu_options"),
        *("checkpoint_every", "keep", "keep_best", "tensorboard", "profile_at", "profile_steps"),
        "barrier_minutes",
    )
)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "grain", "numpy", "orbax-checkpoint", "transformers")
EDGE = 1 << 20  # bytes of each end of a weight file that its identity reads
STRIDE, SAMPLE = 1 << 23, 1 << 12  # and so many bytes at each multiple between


def of_run(
    config: ConfigDict,
    model_config: ModelConfig,
    tokenizer: PreTrainedTokenizerFast,
    asker: Asker | None = None,
) -> dict[str, str]:
    """The parts of a run's identity, by name, for messages that say in which two runs differ."""
    parts = {
        f"config.{key}": json.dumps(value, sort_keys=True, default=str)
        for key, value in json.loads(json.dumps(config.to_dict(), default=str)).items()
        if key not in ELSEWHERE
    }
    model = model_config.to_json()
    parts["model"] = _hash(json.dumps(_without(model, ("attention", "remat")), sort_keys=True))
    parts["tokenizer"] = tokenizer_hash(tokenizer)[:16]
    if asker is not None:
        parts["question tokenizer"] = asker.hash[:16]
    for split, _ in config.mixture:
        parts[f"data {split}"] = str(records.data_hash(Path(config.data), split))[:16]
    for key in ("base", "vision_tower", "decoder", "qformer"):
        if config[key]:
            parts[key] = of_folder(Path(str(config[key])))
    parts["init"] = json.dumps(
        [[pattern, of_folder(Path(path)) if path else None] for pattern, path in config.init]
    )
    return parts


def of_folder(folder: Path) -> str:
    """A hash of a model folder, or of a lone file of weights: of its manifest of hashes where there is one, else of its
    files' names, sizes, ends and samples of what lies between (a projector, alone in a shard of the language model,
    does not get lost there).

    Reading all of a 7B at every start would take half a minute.
    """
    from jaxllava.weights import manifest, orbax

    folder = orbax.locate(folder)
    said = manifest.read(folder) if folder.is_dir() else None
    digest = hashlib.sha256()
    if said is not None:
        digest.update((folder / "config.json").read_bytes())
        digest.update(json.dumps(said, sort_keys=True).encode())
        return digest.hexdigest()[:16]
    for path in [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)}:{size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(EDGE))
            for place in range(STRIDE, size - EDGE, STRIDE):
                file.seek(place)
                digest.update(file.read(SAMPLE))
            file.seek(max(size - EDGE, 0))
            digest.update(file.read(EDGE))
    return digest.hexdigest()[:16]


@functools.cache
def of_code() -> str:
    """A hash of the installed source and of the versions that it computes with."""
    import configs
    import input_pipeline
    import jaxllava

    digest = hashlib.sha256()
    for package in (jaxllava, input_pipeline, configs):
        (root,) = package.__path__
        for path in sorted(Path(root).rglob("*.py")):
            digest.update(f"{package.__name__}/{path.relative_to(root)}\n".encode() + path.read_bytes())
    for name in PACKAGES:
        try:
            digest.update(f"{name} {version(name)}\n".encode())
        except PackageNotFoundError:
            digest.update(f"{name} absent\n".encode())
    return digest.hexdigest()[:16]


def _without(value: Any, keys: tuple[str, ...]) -> Any:
    """A nested dict without some keys."""
    if not isinstance(value, dict):
        return value
    return {key: _without(part, keys) for key, part in value.items() if key not in keys}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
