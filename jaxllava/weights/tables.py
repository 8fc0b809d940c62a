"""Weight tables: checkpoint names beside parameter paths, one list per model, read in both directions.

A name with `{layer}` stands for one tensor per layer; its parameter stacks them on a leading layer axis. So does one
with `{layer*2+1}`, of every second layer from layer 1 on.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import jax

from input_pipeline.errors import UserError
from jaxllava.models.clip import ClipConfig, init_clip
from jaxllava.models.eva import EvaVisionConfig, init_eva
from jaxllava.models.llama import LlamaConfig, init_llama
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.llava import LlavaConfig, init_params
from jaxllava.models.projector import projector_depth
from jaxllava.models.qformer import QFormerConfig
from jaxllava.models.siglip import SiglipVisionConfig, init_siglip
from jaxllava.rules import Params, flatten, unflatten
from jaxllava.weights.lazy import SAFETENSORS_DTYPES, Leaf, Tensor

Transform = Literal["none", "linear", "conv"]
AnyConfig = LlavaConfig | ClipConfig | SiglipVisionConfig | EvaVisionConfig | LlamaConfig


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row: tensor name pattern, parameter path, and how the tensor is laid out in the checkpoint.

    "linear": torch's [out, in] against our [in, out]. "conv": [out, in, h, w] against our [h, w, in, out].
    """

    name: str
    path: str
    transform: Transform = "none"


_FROM_CHECKPOINT: dict[str, tuple[int, ...] | None] = {"none": None, "linear": (1, 0), "conv": (2, 3, 1, 0)}
_TO_CHECKPOINT: dict[str, tuple[int, ...] | None] = {"none": None, "linear": (1, 0), "conv": (3, 2, 0, 1)}

FLOATS = [SAFETENSORS_DTYPES[name] for name in ("F64", "F32", "F16", "BF16")]

# Buffers that old checkpoints carry and that hold nothing learned.
IGNORED = re.compile(r"(^|\.)(rotary_emb\.inv_freq|position_ids)$")


def _linear(name: str, path: str, bias: bool) -> list[Entry]:
    rows = [Entry(f"{name}.weight", f"{path}/kernel", "linear")]
    return [*rows, Entry(f"{name}.bias", f"{path}/bias")] if bias else rows


def _norm(name: str, path: str) -> list[Entry]:
    return [Entry(f"{name}.weight", f"{path}/scale"), Entry(f"{name}.bias", f"{path}/bias")]


def _clip_layers(name: str, path: str) -> list[Entry]:
    name = f"{name}encoder.layers.{{layer}}"
    rows = [*_norm(f"{name}.layer_norm1", f"{path}/ln1"), *_norm(f"{name}.layer_norm2", f"{path}/ln2")]
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        rows += _linear(f"{name}.self_attn.{part}", f"{path}/attn/{part}", bias=True)
    for part in ("fc1", "fc2"):
        rows += _linear(f"{name}.mlp.{part}", f"{path}/mlp/{part}", bias=True)
    return rows


def vision_table(name: str, path: str = "vision") -> list[Entry]:
    """CLIP's vision tower under the name prefix `name` (with its dot). `pre_layrnorm` is spelled so in every
    file.
    """
    return [
        Entry(f"{name}embeddings.class_embedding", f"{path}/embeddings/class_embedding"),
        Entry(
            f"{name}embeddings.patch_embedding.weight", f"{path}/embeddings/patch_embedding/kernel", "conv"
        ),
        Entry(f"{name}embeddings.position_embedding.weight", f"{path}/embeddings/position_embedding"),
        *_norm(f"{name}pre_layrnorm", f"{path}/pre_layernorm"),
        *_clip_layers(name, f"{path}/layers"),
        *_norm(f"{name}post_layernorm", f"{path}/post_layernorm"),
    ]


def text_table(name: str, path: str = "text") -> list[Entry]:
    """CLIP's text tower."""
    return [
        Entry(f"{name}embeddings.token_embedding.weight", f"{path}/embeddings/token_embedding"),
        Entry(f"{name}embeddings.position_embedding.weight", f"{path}/embeddings/position_embedding"),
        *_clip_layers(name, f"{path}/layers"),
        *_norm(f"{name}final_layer_norm", f"{path}/final_layernorm"),
    ]


def decoder_table(name: str, head: str, config: LlamaConfig, path: str = "decoder") -> list[Entry]:
    """A decoder: `name` is the prefix of the body, `head` the full name of the output matrix."""
    layer, to = f"{name}layers.{{layer}}", f"{path}/layers"
    rows = [Entry(f"{name}embed_tokens.weight", f"{path}/embed/embedding")]
    for part in ("q_proj", "k_proj", "v_proj"):
        rows += _linear(f"{layer}.self_attn.{part}", f"{to}/attn/{part}", config.qkv_bias)
    rows += _linear(f"{layer}.self_attn.o_proj", f"{to}/attn/o_proj", bias=False)
    for part in ("q_norm", "k_norm") if config.qk_norm else ():
        rows.append(Entry(f"{layer}.self_attn.{part}.weight", f"{to}/attn/{part}/scale"))
    for part in ("gate_proj", "up_proj", "down_proj"):
        rows += _linear(f"{layer}.mlp.{part}", f"{to}/mlp/{part}", bias=False)
    rows += [
        Entry(f"{layer}.input_layernorm.weight", f"{to}/input_norm/scale"),
        Entry(f"{layer}.post_attention_layernorm.weight", f"{to}/post_attn_norm/scale"),
        Entry(f"{name}norm.weight", f"{path}/norm/scale"),
    ]
    return rows if config.tie_embeddings else [*rows, Entry(head, f"{path}/lm_head/kernel", "linear")]


def siglip_table(name: str, config: SiglipVisionConfig, path: str = "vision") -> list[Entry]:
    """SigLIP's vision tower under the name prefix `name`. Its head's fused projection: see `fused.split_fused`."""
    at = f"{path}/" if path else ""
    rows = [
        Entry(f"{name}embeddings.patch_embedding.weight", f"{at}embeddings/patch_embedding/kernel", "conv"),
        Entry(f"{name}embeddings.patch_embedding.bias", f"{at}embeddings/patch_embedding/bias"),
        Entry(f"{name}embeddings.position_embedding.weight", f"{at}embeddings/position_embedding"),
        *_clip_layers(name, f"{at}layers"),
        *_norm(f"{name}post_layernorm", f"{at}post_layernorm"),
    ]
    if not config.head:
        return rows
    head, to = f"{name}head", f"{at}head"
    rows += [Entry(f"{head}.probe", f"{to}/probe"), *_norm(f"{head}.layernorm", f"{to}/layernorm")]
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        rows += _linear(f"{head}.attention.{part}", f"{to}/attention/{part}", bias=True)
    for part in ("fc1", "fc2"):
        rows += _linear(f"{head}.mlp.{part}", f"{to}/mlp/{part}", bias=True)
    return rows


def eva_table(name: str, path: str = "vision") -> list[Entry]:
    """EVA's tower as `eva_vit_g.pth` names it, under the prefix `name`. Its fused projection: `fused.split_fused`."""
    at = f"{path}/" if path else ""
    block, to = f"{name}blocks.{{layer}}", f"{at}layers"
    rows = [
        Entry(f"{name}cls_token", f"{at}embeddings/class_embedding"),
        Entry(f"{name}pos_embed", f"{at}embeddings/position_embedding"),
        Entry(f"{name}patch_embed.proj.weight", f"{at}embeddings/patch_embedding/kernel", "conv"),
        Entry(f"{name}patch_embed.proj.bias", f"{at}embeddings/patch_embedding/bias"),
        *_norm(f"{block}.norm1", f"{to}/ln1"),
        *_norm(f"{block}.norm2", f"{to}/ln2"),
        *_linear(f"{block}.attn.proj", f"{to}/attn/out_proj", bias=True),
    ]
    for part in ("q_proj", "k_proj", "v_proj"):
        rows += _linear(f"{block}.attn.{part}", f"{to}/attn/{part}", bias=part != "k_proj")
    for part in ("fc1", "fc2"):
        rows += _linear(f"{block}.mlp.{part}", f"{to}/mlp/{part}", bias=True)
    return rows


def qformer_table(name: str, config: QFormerConfig, path: str = "qformer") -> list[Entry]:
    """BERT's blocks of a Q-Former (`bert.embeddings`, `bert.encoder`); the queries are named elsewhere."""
    emb = f"{name}embeddings"
    rows = [
        Entry(f"{emb}.word_embeddings.weight", f"{path}/word_embedding"),
        Entry(f"{emb}.position_embeddings.weight", f"{path}/position_embedding"),
        *_norm(f"{emb}.LayerNorm", f"{path}/embeddings_norm"),
    ]
    every = config.cross_every
    for i in range(every):
        layer, to = f"{name}encoder.layer.{{layer*{every}+{i}}}", f"{path}/layers/block_{i}"
        for kind, ours in (("attention", "attn"), ("crossattention", "cross"))[: 2 if i == 0 else 1]:
            for part, where in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
                rows += _linear(f"{layer}.{kind}.self.{part}", f"{to}/{ours}/{where}", bias=True)
            rows += _linear(f"{layer}.{kind}.output.dense", f"{to}/{ours}/out_proj", bias=True)
            rows += _norm(f"{layer}.{kind}.output.LayerNorm", f"{to}/{ours}/norm")
        for suffix, ours in (("", "mlp_text"), ("_query", "mlp_query")):
            rows += _linear(f"{layer}.intermediate{suffix}.dense", f"{to}/{ours}/fc1", bias=True)
            rows += _linear(f"{layer}.output{suffix}.dense", f"{to}/{ours}/fc2", bias=True)
            rows += _norm(f"{layer}.output{suffix}.LayerNorm", f"{to}/{ours}/norm")
    return rows


def context_table(name: str, config: LlamaVidConfig) -> list[Entry]:
    """What LLaMA-VID has beside a LLaVA, as its checkpoints name it (`model.vlm_att_*`); `name` is "model."."""
    rows = [
        *qformer_table(f"{name}vlm_att_encoder.bert.", config.qformer),
        Entry(f"{name}vlm_att_query", "qformer/query"),
        *_norm(f"{name}vlm_att_ln", "qformer_norm"),
        *_linear(f"{name}vlm_att_projector", "context/query_proj", bias=True),
        *_linear(f"{name}vlm_att_key_projector", "context/key_proj", bias=True),
        *_linear(f"{name}vlm_att_val_projector", "context/value_proj", bias=True),
    ]
    if config.bridges:
        rows += _linear(f"{name}vlm_att_bert_proj", "context/vision_proj", bias=True)
    return rows


def tower_table(name: str, config: LlavaConfig) -> list[Entry]:
    """The vision tower of a LLaVA, of any kind."""
    if isinstance(config.vision, SiglipVisionConfig):
        return siglip_table(name, config.vision)
    if isinstance(config.vision, EvaVisionConfig):
        return eva_table(name)
    return vision_table(name)


def llava_table(config: LlavaConfig) -> list[Entry]:
    """LLaVA and LLaVA-NeXT as Hugging Face 4.x writes them to disk, the spelling that every version reads."""
    rows = tower_table("vision_tower.vision_model.", config)
    for i in range(1, projector_depth(config.projector) + 1):
        rows += _linear(f"multi_modal_projector.linear_{i}", f"projector/linear_{i}", bias=True)
    if config.pinpoints:
        rows.append(Entry("image_newline", "image_newline"))
    return [*rows, *decoder_table("language_model.model.", "language_model.lm_head.weight", config.decoder)]


def clip_table(config: ClipConfig) -> list[Entry]:
    """CLIPModel."""
    del config  # the names do not depend on the sizes
    return [
        *vision_table("vision_model."),
        *text_table("text_model."),
        *_linear("visual_projection", "visual_projection", bias=False),
        *_linear("text_projection", "text_projection", bias=False),
        Entry("logit_scale", "logit_scale"),
    ]


def llama_table(config: LlamaConfig) -> list[Entry]:
    """LlamaForCausalLM; paths are those of the decoder alone (`embed/embedding`, ...)."""
    rows = decoder_table("model.", "lm_head.weight", config)
    return [dataclasses.replace(row, path=row.path.removeprefix("decoder/")) for row in rows]


def shapes(config: AnyConfig) -> dict[str, tuple[int, ...]]:
    """Parameter path -> shape of the model that `config` describes; nothing is allocated."""
    init: Any = {
        LlavaConfig: init_params,
        LlamaVidConfig: init_params,
        EvaVisionConfig: init_eva,
        ClipConfig: init_clip,
        SiglipVisionConfig: init_siglip,
        LlamaConfig: init_llama,
    }[type(config)]
    tree = jax.eval_shape(lambda key: init(config, key), jax.random.key(0))
    return {path: leaf.shape for path, leaf in flatten(tree).items()}


def table_of(config: AnyConfig) -> list[Entry]:
    """The Hugging Face table of a model of any kind."""
    if isinstance(config, LlavaConfig):
        return llava_table(config)
    if isinstance(config, ClipConfig):
        return clip_table(config)
    if isinstance(config, SiglipVisionConfig):
        return siglip_table("vision_model.", config, path="")
    if isinstance(config, EvaVisionConfig):
        return eva_table("", path="")
    return llama_table(config)


def to_leaves(
    tensors: Mapping[str, Tensor],
    table: Iterable[Entry],
    expected: Mapping[str, tuple[int, ...]],
    origin: str,
) -> Params:
    """A checkpoint's tensors -> a parameter tree of `Leaf`; nothing is read.

    Args:
      tensors: by name. Names matching `IGNORED` are skipped.
      table: every name and every path must be met exactly once.
      expected: path -> shape, from `shapes`.
      origin: what to call the checkpoint in an error.

    Raises UserError that lists every name without a row, every row without a tensor and every wrong shape.
    """
    rows = _check(list(table), expected, origin)
    wanted = {name for row in rows for name in _names(row, expected[row.path])}
    present = {name for name in tensors if not IGNORED.search(name)}
    problems = [f"no place for {name}" for name in sorted(present - wanted)]
    problems += [f"missing {name}" for name in sorted(wanted - present)]
    leaves: dict[str, Leaf] = {}
    for row in rows:
        shape = expected[row.path]
        stacked = "{layer" in row.name
        pieces = []
        for name in _names(row, shape):
            if name not in tensors:
                continue
            raw = tensors[name]
            if raw.dtype not in FLOATS:
                problems.append(f"{name} has dtype {raw.dtype}, which is no float's (a quantised model?)")
                continue
            # A bare number, such as logit_scale, may be stored as [] or [1].
            value = raw.reshaped(()) if shape == () and raw.shape == (1,) else raw
            axes = _FROM_CHECKPOINT[row.transform]
            value = value.transposed(axes) if axes and len(value.shape) == len(axes) else value
            if value.shape == (shape[1:] if stacked else shape):
                pieces.append(value)
            else:
                problems.append(f"{name} has shape {raw.shape}, {row.path} needs {shape}")
        if pieces:
            leaves[row.path] = Leaf(tuple(pieces), stacked)
    if problems:
        raise UserError(_report(origin, problems))
    return unflatten(leaves)


def from_leaves(
    leaves: Params, table: Iterable[Entry], expected: Mapping[str, tuple[int, ...]], origin: str = "params"
) -> dict[str, Tensor]:
    """A parameter tree of `Leaf` -> checkpoint tensors by name, in table order. Errors as in `to_leaves`."""
    rows = _check(list(table), expected, origin)
    flat: dict[str, Leaf] = flatten(leaves)
    problems = [f"no place for {path}" for path in sorted(flat.keys() - expected.keys())]
    problems += [f"missing {path}" for path in sorted(expected.keys() - flat.keys())]
    problems += [
        f"{path} has shape {leaf.shape}, the config needs {expected[path]}"
        for path, leaf in flat.items()
        if path in expected and leaf.shape != expected[path]
    ]
    if problems:
        raise UserError(_report(origin, problems))
    found: dict[str, Tensor] = {}
    for row in rows:
        leaf = flat[row.path]
        dtype = leaf.dtype
        for name, piece in zip(_names(row, leaf.shape), leaf.pieces, strict=True):
            found[name] = piece.astype(dtype).transposed(_TO_CHECKPOINT[row.transform])
    return found


_LAYER = re.compile(r"\{layer(?:\*(\d+)\+(\d+))?\}")


def _names(row: Entry, shape: tuple[int, ...]) -> list[str]:
    match = _LAYER.search(row.name)
    if match is None:
        return [row.name]
    every, first = int(match[1] or 1), int(match[2] or 0)
    return [_LAYER.sub(str(i * every + first), row.name) for i in range(shape[0])]


def _check(rows: list[Entry], expected: Mapping[str, tuple[int, ...]], origin: str) -> list[Entry]:
    """A table must name every parameter once, and every tensor once."""
    problems = []
    for what, values in (("path", [r.path for r in rows]), ("name", [r.name for r in rows])):
        problems += [f"{what} {value} stands in {values.count(value)} rows" for value in sorted(set(values))
                     if values.count(value) > 1]  # fmt: skip
    paths = {row.path for row in rows}
    problems += [f"no row for {path}" for path in sorted(expected.keys() - paths)]
    problems += [f"row {path} names no parameter" for path in sorted(paths - expected.keys())]
    if problems:
        raise UserError(_report(f"{origin} (weight table)", problems))
    return rows


def _report(origin: str, problems: list[str]) -> str:
    return f"{origin}: {len(problems)} weights do not match: " + "; ".join(problems)
