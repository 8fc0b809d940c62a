"""Weight tables: checkpoint names beside parameter paths, one list per model, read in both directions.

A name with `{layer}` stands for one tensor per layer; its parameter stacks them on a leading layer axis.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import jax
import numpy as np

from input_pipeline.errors import UserError
from jaxllava.models.clip import ClipConfig, init_clip
from jaxllava.models.llama import LlamaConfig, init_llama
from jaxllava.models.llava import LlavaConfig, init_params
from jaxllava.models.projector import projector_depth
from jaxllava.rules import flatten, unflatten

Params = dict[str, Any]
Transform = Literal["none", "linear", "conv"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row: tensor name pattern, parameter path, and how the tensor is laid out in the checkpoint.

    "linear": torch's [out, in] against our [in, out]. "conv": [out, in, h, w] against our [h, w, in, out].
    """

    name: str
    path: str
    transform: Transform = "none"


_FROM_CHECKPOINT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda x: x,
    "linear": lambda x: x.T,
    "conv": lambda x: x.transpose(2, 3, 1, 0),
}
_TO_CHECKPOINT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda x: x,
    "linear": lambda x: x.T,
    "conv": lambda x: x.transpose(3, 2, 0, 1),
}

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


def llava_table(config: LlavaConfig) -> list[Entry]:
    """LLaVA as Hugging Face 4.x writes it to disk: the one spelling that every transformers version reads."""
    rows = vision_table("vision_tower.vision_model.")
    for i in range(1, projector_depth(config.projector) + 1):
        rows += _linear(f"multi_modal_projector.linear_{i}", f"projector/linear_{i}", bias=True)
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


def shapes(config: LlavaConfig | ClipConfig | LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Parameter path -> shape of the model that `config` describes; nothing is allocated."""
    init: Any = {LlavaConfig: init_params, ClipConfig: init_clip, LlamaConfig: init_llama}[type(config)]
    tree = jax.eval_shape(lambda key: init(config, key), jax.random.key(0))
    return {path: leaf.shape for path, leaf in flatten(tree).items()}


def to_params(
    tensors: Mapping[str, np.ndarray],
    table: Iterable[Entry],
    expected: Mapping[str, tuple[int, ...]],
    origin: str,
) -> Params:
    """Checkpoint tensors -> parameters.

    Args:
      tensors: name -> array; read one at a time, so it may be lazy. Names matching `IGNORED` are skipped.
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
    leaves: dict[str, np.ndarray] = {}
    for row in rows if not problems else ():
        shape = expected[row.path]
        names = _names(row, shape)
        stacked = "{layer}" in row.name
        target: np.ndarray | None = None
        for i, name in enumerate(names):
            raw = np.asarray(tensors[name])
            # A bare number, such as logit_scale, may be stored as [] or [1].
            value = raw.reshape(()) if shape == () and raw.size == 1 else raw
            fits = value.ndim == {"linear": 2, "conv": 4}.get(row.transform, value.ndim)
            value = _FROM_CHECKPOINT[row.transform](value) if fits else value
            if value.shape != (shape[1:] if stacked else shape):
                problems.append(f"{name} has shape {raw.shape}, {row.path} needs {shape}")
                continue
            if target is None:
                target = np.empty(shape, value.dtype)
            if stacked:
                target[i] = value
            else:
                target[...] = value
        if target is not None:
            leaves[row.path] = target
    if problems:
        raise UserError(_report(origin, problems))
    return unflatten(leaves)


def from_params(
    params: Params, table: Iterable[Entry], expected: Mapping[str, tuple[int, ...]], origin: str = "params"
) -> Iterator[tuple[str, np.ndarray]]:
    """Parameters -> (checkpoint name, C-contiguous array), in table order. Errors as in `to_params`."""
    rows = _check(list(table), expected, origin)
    leaves = flatten(params)
    problems = [f"no place for {path}" for path in sorted(leaves.keys() - expected.keys())]
    problems += [f"missing {path}" for path in sorted(expected.keys() - leaves.keys())]
    problems += [
        f"{path} has shape {leaf.shape}, the config needs {expected[path]}"
        for path, leaf in leaves.items()
        if path in expected and leaf.shape != expected[path]
    ]
    if problems:
        raise UserError(_report(origin, problems))

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        for row in rows:
            leaf = np.asarray(leaves[row.path])
            for i, name in enumerate(_names(row, leaf.shape)):
                value = leaf[i] if "{layer}" in row.name else leaf
                # ascontiguousarray would turn a bare number into a vector.
                yield name, np.require(_TO_CHECKPOINT[row.transform](value), requirements="C")

    return tensors()


def _names(row: Entry, shape: tuple[int, ...]) -> list[str]:
    if "{layer}" not in row.name:
        return [row.name]
    return [row.name.replace("{layer}", str(i)) for i in range(shape[0])]


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
