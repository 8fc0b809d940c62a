"""What a frozen tower and Q-Former give of the frames that a run trains on: computed once, before the first step.

LLaMA-VID's third stage does so with what its tower sees, [257, 1408] a frame. Kept here is what comes after the
Q-Former, `LlamaVidModel.compress`, a few vectors of that width for each frame and question: 1/128 of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from input_pipeline.errors import UserError
from input_pipeline.frame_cache import FrameCache
from input_pipeline.rows import KeptFrames, PackedRows
from jaxllava import hosts, rules, sharding
from jaxllava.frames import FrameEncoder
from jaxllava.models.clip import ClipConfig
from jaxllava.models.config import dtype_of
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.rules import Params

WAIT_MINUTES = 24 * 60.0  # for the slowest host's films, which may be hours long
# What decides features; the context's value and the projector stand behind them.
SEEING = (
    "vision/",
    "qformer/",
    "qformer_norm/",
    "context/query_proj",
    "context/key_proj",
    "context/vision_proj",
)


def open_kept(
    config: ConfigDict, model: LlavaConfig | ClipConfig, who: Mapping[str, str], shapes: Params
) -> KeptFrames | None:
    """Where a run's features lie; None where `config.features` is empty.

    Args: who: the run's identity, of which base and init decide the features; shapes: of its parameters.
    Raises UserError where the model has no such features, or what makes them trains.
    """
    if not config.features:
        return None
    if not isinstance(model, LlamaVidConfig):
        raise UserError("config.features: only a LLaMA-VID's frames can be kept; leave it empty")
    multiples = rules.match(config.lr_rules, rules.flatten(shapes), "config.lr_rules")
    moving = [path for path, value in multiples.items() if value is not None and path.startswith(SEEING)]
    if moving:
        raise UserError(
            f"config.features: features are kept, and config.lr_rules trains what makes them ({moving[0]}, ...); "
            "freeze it or leave config.features empty"
        )
    if not config.base and not any(path for _, path in config.init):
        raise UserError(
            "config.features: what sees has to come from a folder: set config.base or config.init"
        )
    settings = ("frozen_dtype", "quantize_rules", "seed")  # the seed decides what no folder has
    own = {key: who.get(key, "") for key in ("base", "vision_tower", "qformer", "init")}
    own |= {key: str(config[key]) for key in settings}
    sizes = model.replace(at_once=1).to_json() | {"decoder": None}
    identity = hashlib.sha256(json.dumps([own, sizes], sort_keys=True).encode()).hexdigest()[:32]
    cache = FrameCache(Path(config.features).absolute(), identity)
    return KeptFrames(cache, model.vision.hidden_size, dtype_of(model.vision.dtype))


def fill(
    found: PackedRows,
    model: LlamaVidConfig,
    params: Params,
    mesh: Mesh,
    minutes: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Computes the features of the plan's samples that are not there yet, and returns how many that were.

    Each host takes its share, on its own first device, so that hosts need `config.features` on a disk that they share.
    A run that was killed goes on with what is missing.
    """
    kept = found.kept
    assert kept is not None
    numbers = np.unique(found.plan.samples)
    pairs = [tuple(pair) for pair in np.unique(found.pairs[numbers], axis=0).tolist()]
    own = pairs[jax.process_index() :: jax.process_count()]
    missing = [(table, sample) for table, sample in own if kept.is_missing(found.tables[table], sample)]
    # All hosts or none: the parameters are gathered from all of them.
    if not hosts.all_true("whether all features are there", not missing, minutes):
        encoder = _encoder(model, params, mesh)
        for done, (table, sample) in enumerate(missing):
            progress(done, len(missing))
            _keep(found, kept, encoder, table, sample)
    hosts.barrier("features of the frames", max(minutes, WAIT_MINUTES))
    lost = [pair for pair in pairs if kept.is_missing(found.tables[pair[0]], pair[1])]
    if lost:
        raise UserError(
            f"config.features={kept.cache.folder}: {len(lost)} of {len(pairs)} samples' features, which other hosts "
            "made, are not here; name a folder on a disk that all hosts share"
        )
    return len(missing)


def _encoder(model: LlamaVidConfig, params: Params, mesh: Mesh) -> FrameEncoder:
    """On this host's first device: frames are many and small, and every host has its own."""
    whole = sharding.whole(mesh)
    seeing = {name: part for name, part in params.items() if name not in ("decoder", "projector")}
    gathered = jax.jit(lambda tree: tree, out_shardings=jax.tree.map(lambda _: whole, seeing))(seeing)
    device = jax.local_devices()[0]
    own = jax.tree.map(lambda leaf: jax.device_put(leaf.addressable_data(0), device), gathered)
    return FrameEncoder(model, own, contextlib.nullcontext, lambda array: jax.device_put(array, device))


def _keep(found: PackedRows, kept: KeptFrames, encoder: FrameEncoder, table: int, sample: int) -> None:
    tokens = found.tables[table]
    one = tokens[sample]
    number = int(tokens.record[sample])
    records = found.records[table]
    frames = lambda: found.read_images.each(number, records, one.frames)
    asked = sorted(set(one.slot_question.tolist()))
    looked = encoder(frames, [one.questions[turn] for turn in asked])  # [questions, F, image_tokens, W]
    place = {turn: i for i, turn in enumerate(asked)}
    which = [place[turn] for turn in one.slot_question.tolist()]
    kept.cache.put(kept.key(tokens, sample), looked[which, one.slot_frame].astype(kept.dtype))
