"""What a run starts from: a LLaVA, or a new one put together from a vision tower and a text model.

The second is LLaVA's stage 1 (`initialize_vision_modules`, llava/model/llava_arch.py): both parts keep their
weights, the projector between them is fresh.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerFast

from input_pipeline.asker import Asker
from input_pipeline.conversation import get_template
from input_pipeline.errors import UserError
from input_pipeline.tokenizer import IMAGE_TOKEN
from jaxllava import settings
from jaxllava.models.clip import ClipConfig, ClipTextConfig, ClipVisionConfig
from jaxllava.models.eva import EvaVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.models.siglip import SiglipVisionConfig
from jaxllava.rules import Params
from jaxllava.weights import blip2, hf, hf_config, llama_vid, orbax, original, tables
from jaxllava.weights.side_files import config_values, pixels
from jaxllava.weights.source import open_checkpoint
from jaxllava.weights.tensor_files import TensorFiles

_CHOICE = (
    "set --config.base=DIR (a LLaVA of any kind), or --config.vision_tower=DIR (CLIP or SigLIP) and "
    "--config.decoder=DIR (a text model) for a new one"
)


_VID = (
    f"a new LLaMA-VID takes --config.vision_tower={blip2.EVA_FILE}, --config.decoder=VICUNA, "
    "--config.qformer=instruct_blip_vicuna7b_trimmed.pth and --config.question_tokenizer=BERT (a folder of "
    "bert-base-uncased)"
)


@dataclasses.dataclass(frozen=True)
class Base:
    """A model to train, opened and not read.

    `leaves` is a parameter tree of `weights.lazy.Leaf` with what is given: all parameters of a LLaVA, those under
    `vision` and `decoder` of a new one. What is not there is for the trainer to initialise. `template` is how the model
    is spoken to: never `plain` for a new one, whatever its projector is trained with. `generation` is its
    generation_config.json, `notes` say what was left out or put in.
    """

    config: LlavaConfig
    tokenizer: PreTrainedTokenizerFast
    template: str
    leaves: Params
    generation: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    asker: Asker | None = None  # a LLaMA-VID's


def open_base(config: ConfigDict) -> Base:
    """The base that `config.base`, or `config.vision_tower` and `config.decoder`, name.

    `config.dtype`, `attention`, `remat` (of tower and decoder), `image_mode`, and of a LLaMA-VID `compress` and
    `qformer_class`, change the model where they are not "". A base of original LLaVA or LLaMA-VID may lack its
    parts: `vision_tower` is then the tower that it left out, `decoder` the model under an adapter or a lone
    projector, `question_tokenizer` that of a Q-Former. With `qformer` a new one is a LLaMA-VID.

    Raises UserError where none or too much is given, a folder is of the wrong kind or incomplete, a value is not known,
    or the stage's template would be `plain` outside of the stage `align`.
    """
    for key in ("base", "vision_tower", "decoder", "qformer", "question_tokenizer"):
        if config[key] and not Path(str(config[key])).exists():
            raise UserError(f"--config.{key}: {config[key]} does not exist")
    base = _given(config) if config.base else _new(config)
    template = config.template or base.template
    if get_template(template).style == "plain" and config.stage != "align":
        named = "--config.template is" if config.template else f"{config.base} has the template"
        raise UserError(
            f"{named} {template!r}, which is for the stage align alone; set --config.template=v1_bare"
        )
    size = base.config.vision.image_size
    if config.image_size not in (0, size):
        raise UserError(
            f"--config.image_size={config.image_size}: the tower reads {size} pixels, and only an EVA tower "
            f"({blip2.EVA_FILE}) is resized, for a new model"
        )
    return dataclasses.replace(base, config=settings.with_settings(config, base.config))


def _given(config: ConfigDict) -> Base:
    path = orbax.locate(config.base)
    vid = llama_vid.is_llama_vid(path)
    incomplete = vid or original.is_original(path)
    spare = (*(() if incomplete else ("vision_tower", "decoder")), "qformer")
    spare += () if vid else ("question_tokenizer",)
    if parts := [key for key in spare if config[key]]:
        raise UserError(
            f"--config.base and --config.{parts[0]} are both set, and {config.base} is whole: {_CHOICE}"
        )
    found = open_checkpoint(
        config.base,
        config.vision_tower or None,
        config.decoder or None,
        config.question_tokenizer or None,
    )
    if not isinstance(found.config, LlavaConfig) or found.tokenizer is None:
        kind = "a LLaVA without its tokenizer" if isinstance(found.config, LlavaConfig) else found.kind
        raise UserError(
            f"--config.base: {config.base} holds {kind}, not a LLaVA with its tokenizer: {_CHOICE}"
        )
    return Base(
        found.config,
        found.tokenizer,
        found.template,
        found.leaves,
        found.generation,
        found.notes,
        found.asker,
    )


def _new(config: ConfigDict) -> Base:
    missing = [key for key in ("vision_tower", "decoder") if not config[key]]
    if missing:
        what = "--config.base is not set" if len(missing) == 2 else f"--config.{missing[0]} is not set"
        raise UserError(f"{what}: {_CHOICE}")
    text = open_checkpoint(config.decoder)
    if not isinstance(text.config, LlamaConfig):
        raise UserError(f"--config.decoder: {config.decoder} holds {text.kind}, a text model is needed")
    if text.tokenizer is None:
        why = "".join(f" ({note})" for note in text.notes if "tokenizer" in note)
        raise UserError(
            f"--config.decoder: {config.decoder} has no tokenizer that can be read{why}; copy tokenizer.json and "
            "tokenizer_config.json of the model there"
        )
    tokenizer = text.tokenizer
    if tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) in (None, tokenizer.unk_token_id):
        # Its id may lie behind the vocabulary: no embedding of it is ever looked up, nor does anything answer with it.
        tokenizer.add_special_tokens(
            {"extra_special_tokens": [IMAGE_TOKEN]}, replace_extra_special_tokens=False
        )
    notes = list(text.notes)
    tower, leaves = _tower(config, notes)
    siglip = isinstance(tower, SiglipVisionConfig)
    vid = bool(config.qformer) or isinstance(tower, EvaVisionConfig)
    try:
        model = LlavaConfig(
            vision=tower,
            decoder=text.config,
            image_token=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),  # pyright: ignore[reportArgumentType]
            projector=config.projector,
            feature_layer=-2,
            # SigLIP has no class token in front of its patches: "patch" would drop one of them.
            feature_select="cls_patch" if siglip else "patch",
            image_mode="stretch" if siglip else "square",
        )
    except UserError as error:
        raise UserError(f"--config.projector: {error}") from error
    template = config.template
    if not template or get_template(template).style == "plain":
        template = _spoken(tokenizer, text.config)
        if vid and template == "vicuna_v1":
            template = llama_vid.TEMPLATE
    leaves = {"vision": leaves, "decoder": text.leaves}
    base = Base(model, tokenizer, template, leaves, text.generation, tuple(notes))
    if vid:
        return _with_qformer(config, base)
    if config.question_tokenizer:
        raise UserError(
            f"--config.question_tokenizer is a LLaMA-VID's, and --config.qformer is not set: {_VID}"
        )
    return base


def _with_qformer(config: ConfigDict, base: Base) -> Base:
    """A new LLaMA-VID: with InstructBLIP's Q-Former, and projections around it that are still to be made."""
    for key in ("qformer", "question_tokenizer"):
        if not config[key]:
            raise UserError(f"--config.{key} is not set: {_VID}")
    vision = base.config.vision
    if isinstance(vision, SiglipVisionConfig):
        raise UserError(f"--config.vision_tower: {config.vision_tower} holds SigLIP: {_VID}")
    notes = list(base.notes)
    qformer, leaves = blip2.open_qformer(Path(config.qformer), notes)
    asker = Asker.load(config.question_tokenizer)
    asker.check(qformer.vocab_size, qformer.max_positions)
    eva = isinstance(vision, EvaVisionConfig)
    own: dict[str, Any] = {f.name: getattr(base.config, f.name) for f in dataclasses.fields(LlavaConfig)}
    own["feature_layer"] = -1 if eva else -2
    # What a CLIP tower gives has lost its class token before.
    model = LlamaVidConfig(**own, qformer=qformer, qformer_sees_class=eva)
    return dataclasses.replace(
        base, config=model, leaves=base.leaves | leaves, notes=tuple(notes), asker=asker
    )


def _tower(
    config: ConfigDict, notes: list[str]
) -> tuple[ClipVisionConfig | SiglipVisionConfig | EvaVisionConfig, Params]:
    """A vision tower's config and leaves, of a folder of it alone or of both towers; EVA's of its file."""
    folder = config.vision_tower
    if (file := blip2.eva_file(folder)) is not None:
        return blip2.open_tower(file, config.image_size, notes)
    path = orbax.locate(folder)
    if config_values(path).get("model_type") == "clip_vision_model":
        origin = path / "config.json"
        c = hf.read_json(path, "clip_vision_model")
        with hf.odd_values(origin):
            tower: Any = pixels(path, hf_config.vision_config(c, str(origin)))[0]
        whole = tables.shapes(ClipConfig(tower, ClipTextConfig(8, 8, 1, 1)))
        shapes = {name: shape for name, shape in whole.items() if name.startswith("vision/")}
        leaves = tables.to_leaves(
            hf.tower_tensors(TensorFiles(path)), tables.vision_table(""), shapes, str(path)
        )
        return tower, leaves["vision"]
    found = open_checkpoint(path)
    if isinstance(found.config, ClipConfig):
        return found.config.vision, found.leaves["vision"]
    if isinstance(found.config, SiglipVisionConfig | EvaVisionConfig):
        return found.config, found.leaves
    raise UserError(f"--config.vision_tower: {folder} holds {found.kind}, a CLIP or SigLIP tower is needed")


def _spoken(tokenizer: PreTrainedTokenizerFast, decoder: LlamaConfig) -> str:
    """The template of a text model's chats, by the control tokens it knows; Vicuna's where it knows none."""
    known = tokenizer.get_vocab()
    ends = {"<|im_end|>": "chatml", "<|eot_id|>": "llama_3"}
    found = next((name for mark, name in ends.items() if mark in known), None)
    return found or ("mistral_instruct" if decoder.family == "mistral" else "vicuna_v1")
