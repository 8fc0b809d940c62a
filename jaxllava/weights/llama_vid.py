"""LLaMA-VID checkpoints (`LlavaLlamaAttForCausalLM`), in and out: original LLaVA's, with `model.vlm_att_*`.

The published folders leave the EVA tower out and name its file (`mm_vision_tower`), and hold no tokenizer for the
questions. Facts are of `llamavid/model/llamavid_arch.py` and `multimodal_encoder/` of dvlab-research/LLaMA-VID b3d3ae2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from input_pipeline import asker as asker_lib
from input_pipeline.asker import Asker
from input_pipeline.errors import UserError
from jaxllava.models.clip import ClipVisionConfig
from jaxllava.models.eva import EvaVisionConfig
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.qformer import QFormerConfig
from jaxllava.weights import blip2, fused, hf, hf_config, original, tables
from jaxllava.weights.blip2 import EVA_FILE
from jaxllava.weights.checkpoint import Checkpoint, as_stored, mixed
from jaxllava.weights.folders import whole_folder
from jaxllava.weights.lazy import Tensor
from jaxllava.weights.side_files import TEMPLATE_KEY, config_values, generation, image_settings

ARCHITECTURE = "LlavaLlamaAttForCausalLM"
TEMPLATE = "imgsp_v1"  # of every published model
# What an export from here says in config.json that the original's keys cannot: sizes that are not the published ones.
OWN_KEY = "jaxllava_llama_vid"
_BERT = "model.vlm_att_encoder."
_QUERY = "model.vlm_att_query"
_TOWER_REMEDY = (
    f"give {EVA_FILE} (the file or its folder) with --vision-tower (jaxllava convert), vision_tower= "
    "(jaxllava.load) or --config.vision_tower (jaxllava train)."
)
_QUESTIONS_REMEDY = (
    "give a folder with bert-base-uncased's vocab.txt with --question-tokenizer (jaxllava convert), "
    "question_tokenizer= (jaxllava.load) or --config.question_tokenizer (jaxllava train)."
)


def is_llama_vid(directory: str | Path) -> bool:
    """Whether a folder's config.json is one of LLaMA-VID."""
    values = config_values(directory)
    return "bert_type" in values or ARCHITECTURE in (values.get("architectures") or ())


def open_folder(
    directory: str | Path,
    vision_tower: str | Path | None = None,
    base: str | Path | None = None,
    question_tokenizer: str | Path | None = None,
) -> Checkpoint:
    """A folder of LLaMA-VID: whole, or what its stage 1 leaves (`mm_projector.bin`, which has all `vlm_att_*`).

    Args:
      vision_tower: `eva_vit_g.pth` or its folder (or a CLIP folder, of models that see through CLIP), for checkpoints
        without a tower of their own.
      base: of a stage 1, the folder of the text model or of a whole LLaMA-VID.
      question_tokenizer: a folder with the tokenizer of bert-base-uncased; `question_tokenizer/` in the folder where
        it is not given.

    Raises UserError for what the model cannot hold, a part that is nowhere, and weights that do not match.
    """
    directory = Path(directory)
    origin = str(directory / "config.json")
    values = original.said(directory)
    _check(values, origin)
    own = values.get(OWN_KEY) or {}
    notes: list[str] = []
    tensors, home = original.gathered(directory, Path(base) if base else None, notes, ("vlm_att_",))
    tensors = blip2.without_bert_s(tensors, _BERT)
    with hf.odd_values(Path(origin)):
        qformer = _qformer(tensors, own, directory)
        vision, tensors = _tower(values, own, tensors, directory, vision_tower, notes)
        config = _config(values, own, origin, vision, qformer)
    tokenizer = original.with_image_token(home)
    config = config.replace(image_token=tokenizer.convert_tokens_to_ids(original.IMAGE_TOKEN))
    tensors, settled = hf.untied(tensors, config, notes)
    assert isinstance(settled, LlamaVidConfig)
    leaves = tables.to_leaves(tensors, original.table(settled), tables.shapes(settled), str(directory))
    asker = _asker(directory, home, question_tokenizer)
    asker.check(qformer.vocab_size, qformer.max_positions)
    notes += mixed(leaves)
    return Checkpoint(
        leaves,
        as_stored(settled, leaves),
        tokenizer,
        values.get(TEMPLATE_KEY) or TEMPLATE,
        generation(home),
        tuple(notes),
        asker,
    )


def _check(values: Mapping[str, Any], origin: str) -> None:
    """UserError for a kind of LLaMA-VID that is not read."""
    name = next(iter(values.get("architectures") or [ARCHITECTURE]))
    if name != ARCHITECTURE:
        raise UserError(
            f"{origin}: architecture {name!r} with bert_type is not supported; {ARCHITECTURE} is."
        )
    kind = str(values.get("bert_type", "qformer"))
    if "qformer_pretrain" not in kind:
        raise UserError(
            f"{origin}: bert_type {kind!r} is not supported; supported are the Q-Formers of InstructBLIP: "
            "qformer_pretrain, qformer_pretrain_freeze, qformer_pretrain_freeze_all."
        )
    for key in ("mm_use_im_start_end", "mm_use_im_patch_token"):
        hf_config.require(origin, key, bool(values.get(key)), False)


def _qformer(tensors: Mapping[str, Tensor], own: Mapping[str, Any], directory: Path) -> QFormerConfig:
    if _QUERY not in tensors:
        raise UserError(
            f"{directory}: holds no Q-Former ({_QUERY} and all vlm_att_* are missing, as in the first release of "
            "llama-vid-7b-full-336); fetch shards that have it."
        )
    if own:
        return QFormerConfig.from_json(own["qformer"])
    bert = {name.removeprefix(_BERT): tensors[name] for name in tensors if name.startswith(_BERT)}
    return blip2.qformer_config(bert, tensors[_QUERY], str(directory))


def _tower(
    values: dict[str, Any],
    own: Mapping[str, Any],
    tensors: dict[str, Tensor],
    directory: Path,
    given: str | Path | None,
    notes: list[str],
) -> tuple[EvaVisionConfig | ClipVisionConfig, dict[str, Tensor]]:
    """The tower's config, and all tensors with the tower's among them."""
    named = str(values.get("mm_vision_tower") or "")
    clip = any(name.startswith(original.TOWER) for name in tensors)
    prefix = original.EVA_TOWER
    carried = {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}
    # As build_vision_tower tells them apart.
    if clip or (not carried and re.search("openai|laion", named.lower())):
        vision, more = original.clip_tower(values, clip, directory, given)
        return vision, tensors | more
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    source = directory
    if carried and given:
        notes.append(f"{directory}: holds its tower; {given} is not read")
    if not carried:
        if given is not None and (source := blip2.eva_file(given)) is None:
            raise UserError(f"--vision-tower {given}: no {EVA_FILE} is there.")
        if given is None:
            beside = (directory / named, Path(named), directory)
            source = next((file for place in beside if named and (file := _file(place))), None)
        if source is None:
            raise UserError(f"{directory}: holds no vision tower (it names {named!r}); {_TOWER_REMEDY}")
        carried = dict(blip2.open_file(source))
    said = EvaVisionConfig.from_json(own["vision"]) if own else None
    vision, tower = blip2.eva_tower(carried, str(source), _image_size(values, directory), said, notes)
    return vision, kept | {prefix + name: tensor for name, tensor in tower.items()}


def _file(place: Path) -> Path | None:
    """The tower's file that config.json means by a path: the file itself, or one of its name in a folder."""
    return place if place.is_file() else next(iter(f for f in [place / EVA_FILE] if f.is_file()), None)


def _image_size(values: Mapping[str, Any], directory: Path) -> int:
    """Pixels along a side as the image processor has them, or as its name ends (clip-patch14-336); 0: not said."""
    named = str(values.get("image_processor") or "")
    for folder in (directory / named, Path(named)):
        size = image_settings(folder)[0].get("size") if named else None
        side = size.get("shortest_edge") if isinstance(size, dict) else size
        if isinstance(side, int):
            return side
    match = re.search(r"-(\d{3,})/?$", named)
    return int(match[1]) if match else 0


def _config(
    values: dict[str, Any],
    own: Mapping[str, Any],
    origin: str,
    vision: EvaVisionConfig | ClipVisionConfig,
    qformer: QFormerConfig,
) -> LlamaVidConfig:
    """The model that config.json describes; its image token is still to come from the tokenizer."""
    select = values.get("mm_vision_select_feature", "patch")
    compress = values.get("compress_type") or "none"
    if select != "patch" and compress != "mean":
        raise UserError(
            f"{origin}: mm_vision_select_feature {select!r} with compress_type {compress!r} is not supported: the "
            "class token has no place among the patches."
        )
    eva = isinstance(vision, EvaVisionConfig)
    decoder = original.decoder_config(values, "llama", origin)
    long = not own and decoder.rope_scaling is not None and decoder.rope_scaling.kind == "linear"
    if long:
        # The original's stage 3 writes the scaling and leaves max_position_embeddings at what Vicuna knew (train.py).
        assert decoder.rope_scaling is not None
        decoder = decoder.replace(max_positions=int(decoder.max_positions * decoder.rope_scaling.factor))
    return LlamaVidConfig(
        vision=vision,
        decoder=decoder,
        image_token=0,
        projector=values.get("mm_projector_type", "linear"),
        # The EVA tower does not read the key, which the scripts set to -2; a CLIP tower does.
        feature_layer=-1 if eva else values.get("mm_vision_select_layer", -2),
        feature_select=select,
        image_mode=values.get("image_aspect_ratio") or "square",
        qformer=qformer,
        compress=compress,
        # What a CLIP tower gives has lost its class token before the Q-Former looks, and so has what the original's
        # stage 3 stores of films (extract_video_features_subtitles.py).
        qformer_sees_class=own.get("qformer_sees_class", (eva or select == "cls_patch") and not long),
        at_once=own.get("at_once", LlamaVidConfig.at_once),
        frame_mode=own.get("frame_mode", LlamaVidConfig.frame_mode),
    )


def _asker(directory: Path, home: Path, given: str | Path | None) -> Asker:
    if given is not None:
        return Asker.load(given)
    for folder in (directory, home):
        if (folder / asker_lib.FOLDER).is_dir():
            return Asker.load(folder / asker_lib.FOLDER)
    raise UserError(f"{directory}: holds no tokenizer for the Q-Former's questions; {_QUESTIONS_REMEDY}")


def export(
    found: Checkpoint, out_dir: str | Path, progress: Callable[[int], None] = lambda done: None
) -> None:
    """Writes a folder as LLaMA-VID saves one, with its tower and its question tokenizer; whole or not at all."""
    config, asker = found.config, found.asker
    assert isinstance(config, LlamaVidConfig)
    if asker is None:
        raise UserError(f"this LLaMA-VID has no question tokenizer; {_QUESTIONS_REMEDY}")
    eva = isinstance(config.vision, EvaVisionConfig)
    layer = config.feature_layer
    fits = (layer == -1 or layer == config.vision.layers) if eva else isinstance(layer, int)
    if config.decoder.family != "llama" or not fits or config.image_mode == "stretch":
        raise UserError(
            "LLaMA-VID's own code has no such model; keep it as a jaxllava folder (--format orbax)."
        )
    assert isinstance(config.vision, EvaVisionConfig | ClipVisionConfig)
    values = _described(found, config)
    tensors = tables.from_leaves(found.leaves, original.table(config), tables.shapes(config))
    with whole_folder(out_dir) as folder:
        if jax.process_index() == 0:
            original.write(folder, found, fused.join_eva(tensors) if eva else tensors, values, progress)
            asker.save(folder / asker_lib.FOLDER)


def _described(found: Checkpoint, config: LlamaVidConfig) -> dict[str, Any]:
    """config.json as LLaMA-VID's training leaves it, and our key."""
    vision, layers = config.vision, config.qformer.layers
    size = vision.image_size
    if isinstance(vision, EvaVisionConfig):
        named = f"./model_zoo/LAVIS/{EVA_FILE}"
        eva = {"mm_vision_select_layer": -2}  # as the scripts; not read
    else:
        assert isinstance(vision, ClipVisionConfig)
        named, eva = original.tower_name(vision), {}
    own = {
        "vision": vision.to_json(),
        "qformer": config.qformer.to_json(),
        "qformer_sees_class": config.qformer_sees_class,
        "at_once": config.at_once,
        "frame_mode": config.frame_mode,
    }
    return {
        **original.described(found, config, ARCHITECTURE, named),
        **eva,
        "model_type": "llava",
        "image_processor": f"./llamavid/processor/clip-patch14-{size}",
        "bert_type": "qformer_pretrain" + (f"_layer:{layers}" if layers != QFormerConfig.layers else ""),
        "num_query": config.qformer.queries,
        "compress_type": None if config.compress == "none" else config.compress,
        "max_token": config.decoder.max_positions,
        OWN_KEY: own,
    }
