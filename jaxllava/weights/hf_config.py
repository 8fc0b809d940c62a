"""Model configs in the words of Hugging Face's config.json, both ways. A model that cannot be held is a
UserError.
"""

from __future__ import annotations

from typing import Any

from input_pipeline.errors import UserError, nearest
from jaxllava.models.clip import ClipConfig, ClipTextConfig, ClipVisionConfig
from jaxllava.models.encoder import VisionTowerConfig
from jaxllava.models.eva import EvaVisionConfig
from jaxllava.models.llama import FAMILIES, LlamaConfig
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.models.rope import KINDS, RopeScaling
from jaxllava.models.siglip import SiglipVisionConfig


def vision_json(config: ClipVisionConfig) -> dict[str, Any]:
    """CLIPVisionConfig arguments."""
    return _tower_json(config) | {"image_size": config.image_size, "patch_size": config.patch_size}


def text_json(config: ClipTextConfig) -> dict[str, Any]:
    """CLIPTextConfig arguments."""
    return _tower_json(config) | {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_positions,
        "eos_token_id": config.eos_id,
    }


def _tower_json(config: ClipVisionConfig | ClipTextConfig | SiglipVisionConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "hidden_act": config.activation,
        "layer_norm_eps": config.layer_norm_eps,
    }


# Keys of a config.json's rope_scaling beside our names; yarn's and llama3's alike.
_ROPE_KEYS = {
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_position_embeddings": "original_max_positions",
    "attention_factor": "attention_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "mscale": "mscale",
    "mscale_all_dim": "mscale_all_dim",
    "truncate": "truncate",
}


def llama_json(config: LlamaConfig) -> dict[str, Any]:
    """The decoder's config.json. `rope_theta` and `rope_scaling` at the top level are read by 4.x and 5.x alike."""
    values: dict[str, Any] = {
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.rms_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "max_position_embeddings": config.max_positions,
        "hidden_act": "silu",
    }
    if config.rope_scaling is not None:
        scaling = config.rope_scaling
        given = {theirs: getattr(scaling, ours) for theirs, ours in _ROPE_KEYS.items()}
        default = RopeScaling(scaling.kind, scaling.factor, original_max_positions=1)
        values["rope_scaling"] = {"rope_type": scaling.kind, "factor": scaling.factor} | {
            key: value
            for key, value in given.items()
            if value != getattr(default, _ROPE_KEYS[key]) or (scaling.kind == "llama3" and "freq" in key)
        }
        if not scaling.original_max_positions:
            values["rope_scaling"].pop("original_max_position_embeddings", None)
    if config.family == "mistral":
        values["sliding_window"] = config.sliding_window or None
    return values


def siglip_json(config: SiglipVisionConfig) -> dict[str, Any]:
    """SiglipVisionConfig arguments."""
    sizes = {"image_size": config.image_size, "patch_size": config.patch_size}
    return _tower_json(config) | sizes | {"vision_use_head": config.head}


def tower_json(config: VisionTowerConfig) -> dict[str, Any]:
    """A vision tower's config.json. UserError for one that transformers has not by itself."""
    if isinstance(config, SiglipVisionConfig):
        return {"model_type": "siglip_vision_model"} | siglip_json(config)
    if isinstance(config, ClipVisionConfig):
        return {"model_type": "clip_vision_model"} | vision_json(config)
    raise UserError(
        "transformers has no such vision tower (EVA); keep this model as a jaxllava folder (--format orbax)."
    )


def any_json(
    config: LlavaConfig | ClipConfig | SiglipVisionConfig | EvaVisionConfig | LlamaConfig,
) -> dict[str, Any]:
    """The config.json of a model of any kind. UserError for one that transformers has not."""
    if isinstance(config, LlamaVidConfig):
        raise UserError(
            "transformers has no LLaMA-VID; write it as its own code does (--format llava) or keep it as a jaxllava "
            "folder (--format orbax)."
        )
    if isinstance(config, LlavaConfig):
        return llava_json(config)
    if isinstance(config, ClipConfig):
        return {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": config.projection_dim,
            "logit_scale_init_value": config.logit_scale,
            "vision_config": tower_json(config.vision) | {"projection_dim": config.projection_dim},
            "text_config": {"model_type": "clip_text_model"}
            | text_json(config.text)
            | {"projection_dim": config.projection_dim},
        }
    if isinstance(config, SiglipVisionConfig | EvaVisionConfig):
        return {"architectures": ["SiglipVisionModel"]} | tower_json(config)
    return {"architectures": [ARCHITECTURES[config.family]]} | llama_json(config)


ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def hf_pinpoints(config: LlavaConfig) -> list[list[int]]:
    """`image_grid_pinpoints` as transformers reads them: (height, width)."""
    swap = -1 if config.anyres_order == "original" else 1
    return [list(pair[::swap]) for pair in config.pinpoints]


def llava_json(config: LlavaConfig) -> dict[str, Any]:
    """The whole config.json of a LLaVA folder. UserError where Hugging Face's LLaVA cannot hold the model."""
    if config.projector != "mlp2x_gelu":
        raise UserError(
            f"projector {config.projector!r}: Hugging Face's LLaVA has only the two-layer mlp2x_gelu; "
            "keep this model as a jaxllava model folder."
        )
    next_: dict[str, Any] = {
        "architectures": ["LlavaNextForConditionalGeneration"],
        "model_type": "llava_next",
        "image_grid_pinpoints": hf_pinpoints(config),
        "use_image_newline_parameter": True,
    }
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "torch_dtype": config.decoder.param_dtype,
        "image_token_index": config.image_token,
        "image_seq_length": config.image_tokens,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "vision_feature_layer": config.feature_layer
        if isinstance(config.feature_layer, int)
        else list(config.feature_layer),
        "vision_feature_select_strategy": "default" if config.feature_select == "patch" else "full",
        "tie_word_embeddings": config.decoder.tie_embeddings,
        "vision_config": tower_json(config.vision),
        "text_config": llama_json(config.decoder),
    } | (next_ if config.pinpoints else {})


def siglip_config(c: Any, origin: str) -> SiglipVisionConfig:
    """Ours for a transformers SiglipVisionConfig."""
    require(origin, "vision_config.num_channels", getattr(c, "num_channels", 3), 3)
    head = bool(getattr(c, "vision_use_head", True))
    return SiglipVisionConfig(**tower(c), image_size=c.image_size, patch_size=c.patch_size, head=head)


def vision_config(c: Any, origin: str) -> ClipVisionConfig:
    require(origin, "vision_config.num_channels", getattr(c, "num_channels", 3), 3)
    return ClipVisionConfig(**tower(c), image_size=c.image_size, patch_size=c.patch_size)


def tower(c: Any) -> dict[str, Any]:
    return {
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "layers": c.num_hidden_layers,
        "heads": c.num_attention_heads,
        "activation": c.hidden_act,
        "layer_norm_eps": float(c.layer_norm_eps),
    }


def llama_config(c: Any, origin: str, tied: bool) -> LlamaConfig:
    """Ours for a transformers config of one of `FAMILIES`."""
    family = c.model_type
    if family not in FAMILIES:
        raise UserError(
            f"{origin}: a text model of type {family!r} is not supported.{nearest(str(family), FAMILIES)}"
        )
    require(origin, "hidden_act", c.hidden_act, "silu")
    for name in ("attention_bias", "mlp_bias", "use_sliding_window"):
        require(origin, name, getattr(c, name, False), False)
    window = c.sliding_window if family == "mistral" else None
    theta, scaling = _rope(c, origin)
    return LlamaConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        intermediate_size=c.intermediate_size,
        layers=c.num_hidden_layers,
        heads=c.num_attention_heads,
        kv_heads=c.num_key_value_heads,
        head_dim=getattr(c, "head_dim", None) or 0,
        rope_theta=theta,
        rms_eps=float(c.rms_norm_eps),
        tie_embeddings=tied,
        max_positions=c.max_position_embeddings,
        family=family,
        rope_scaling=scaling,
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        sliding_window=window or 0,
    )


def _rope(c: Any, origin: str) -> tuple[float, RopeScaling | None]:
    """(theta, scaling): 5.x has both in rope_parameters, 4.x apart."""
    rope = dict(getattr(c, "rope_parameters", None) or getattr(c, "rope_scaling", None) or {})
    theta = float(rope.get("rope_theta") or getattr(c, "rope_theta", None) or 10000.0)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind not in KINDS:
        raise UserError(f"{origin}: rope type {kind!r} is not supported.{nearest(str(kind), KINDS)}")
    given = {ours: rope[theirs] for theirs, ours in _ROPE_KEYS.items() if rope.get(theirs) is not None}
    numbers: dict[str, Any] = {n: v if isinstance(v, bool) else float(v) for n, v in given.items()}
    if kind in ("llama3", "yarn"):
        numbers["original_max_positions"] = int(
            given.get("original_max_positions") or c.max_position_embeddings
        )
    else:
        numbers = {}
    return theta, RopeScaling(kind=kind, factor=float(rope["factor"]), **numbers)


def require(origin: str, name: str, value: Any, needed: Any) -> None:
    if value != needed:
        raise UserError(f"{origin}: {name} is {value!r}; only {needed!r} is supported.")


def llava_config(c: Any, origin: str) -> LlavaConfig:
    """Ours for a transformers LlavaConfig or LlavaNextConfig; `origin` names the file in an error.

    The image mode and the pixels' mean and deviation stand in another file (`hf.read_config`).
    """
    kinds = {"clip_vision_model": vision_config, "siglip_vision_model": siglip_config}
    kind = c.vision_config.model_type
    if kind not in kinds:
        raise UserError(
            f"{origin}: a vision tower of type {kind!r} is not supported; supported: {', '.join(kinds)}."
        )
    pinpoints: tuple[tuple[int, ...], ...] = ()
    if c.model_type == "llava_next":
        require(origin, "use_image_newline_parameter", c.use_image_newline_parameter, True)
        pinpoints = tuple((int(a), int(b)) for a, b in c.image_grid_pinpoints)
    require(origin, "projector_hidden_act", c.projector_hidden_act, "gelu")
    require(origin, "multimodal_projector_bias", c.multimodal_projector_bias, True)
    layer = c.vision_feature_layer
    tied = bool(c.tie_word_embeddings or c.text_config.tie_word_embeddings)
    return LlavaConfig(
        vision=kinds[kind](c.vision_config, origin),
        decoder=llama_config(c.text_config, origin, tied),
        image_mode="anyres" if pinpoints else "square",
        pinpoints=pinpoints,
        image_token=c.image_token_index,
        feature_layer=layer if isinstance(layer, int) else tuple(layer),
        feature_select={"default": "patch", "full": "cls_patch"}[c.vision_feature_select_strategy],
    )


def clip_config(c: Any, origin: str) -> ClipConfig:
    """Ours for a transformers CLIPConfig."""
    text = c.text_config
    return ClipConfig(
        vision=vision_config(c.vision_config, origin),
        text=ClipTextConfig(
            **tower(text),
            vocab_size=text.vocab_size,
            max_positions=text.max_position_embeddings,
            eos_id=text.eos_token_id,
        ),
        projection_dim=c.projection_dim,
        logit_scale=float(c.logit_scale_init_value),
    )
