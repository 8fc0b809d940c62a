"""The parts that LLaMA-VID takes from BLIP-2 and InstructBLIP, in the files that LAVIS publishes them in.

`eva_vit_g.pth` is the vision tower, with one block and some heads more than BLIP-2 uses;
`instruct_blip_vicuna7b_trimmed.pth` the Q-Former with its queries and the norm in front of it. Sizes are those of the
tensors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from input_pipeline.errors import UserError
from jaxllava.models.eva import EvaVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.qformer import QFormerConfig
from jaxllava.rules import Params
from jaxllava.weights import fused, tables
from jaxllava.weights.lazy import Tensor
from jaxllava.weights.tables import Entry
from jaxllava.weights.tensor_files import TensorFiles

EVA_FILE = "eva_vit_g.pth"
BLOCKS = 39  # of EVA-CLIP-G's 40, as BLIP-2 builds it
HEAD_SIZE = 88  # of EVA-CLIP-G: 16 heads of 1408 (`embed_dim // 88` in eva_vit.py)
BERT_SIZE, BERT_HEADS = 768, 12  # of bert-base, whose config.json every Q-Former is made with
_NOT_READ = re.compile(r"(norm|fc_norm|head)\.(weight|bias)|mask_token|rel_pos_bias\..*")
_BLOCK = re.compile(r"blocks\.(\d+)\.")
# Of a BERT, and not of a Q-Former: its text has no segments, and nothing reads what is behind its blocks.
_NOT_QFORMER = re.compile(r"bert\.(pooler\.|embeddings\.token_type)|cls\.")


def eva_file(path: str | Path) -> Path | None:
    """The file that a path means: itself, or `eva_vit_g.pth` (or the only `.pth`) of a folder without config.json."""
    path = Path(path)
    if path.is_file():
        return path
    if (path / EVA_FILE).is_file():
        return path / EVA_FILE
    found = list(path.glob("*.pth")) if path.is_dir() and not (path / "config.json").is_file() else []
    return found[0] if len(found) == 1 else None


def open_file(path: Path) -> TensorFiles:
    """A lone file's tensors. UserError where it cannot be read."""
    return TensorFiles(path.parent, files=[path])


# ---------------------------------------------------------------- the tower


def open_tower(
    path: Path, image_size: int = 0, notes: list[str] | None = None
) -> tuple[EvaVisionConfig, Params]:
    """The tower of `eva_vit_g.pth`, for pictures of `image_size` pixels (0: what its positions are for)."""
    config, tensors = eva_tower(open_file(path), str(path), image_size, notes=notes)
    return config, tables.to_leaves(tensors, tables.eva_table("", path=""), tables.shapes(config), str(path))


def eva_tower(
    tensors: Mapping[str, Tensor],
    origin: str,
    image_size: int = 0,
    config: EvaVisionConfig | None = None,
    notes: list[str] | None = None,
) -> tuple[EvaVisionConfig, dict[str, Tensor]]:
    """(config, tensors in the names of `tables.eva_table`) of an EVA tower's tensors, without prefix.

    Args:
      image_size: pixels along a side; 0 for what the table of positions is for. Another one's table is interpolated.
      config: the sizes, where something says them; read from the tensors otherwise.
      notes: gets a line on what was left out, and on interpolation.

    Raises UserError where it is no EVA tower, or one whose number of heads nothing says.
    """
    needed = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight")
    if lost := [name for name in needed if name not in tensors]:
        raise UserError(f"{origin}: no EVA vision tower ({', '.join(lost)} missing); {EVA_FILE} is needed.")
    notes = [] if notes is None else notes
    blocks = {int(match[1]) for name in tensors if (match := _BLOCK.match(name))}
    layers = config.layers if config else min(len(blocks), BLOCKS)
    left = [name for name in tensors if _NOT_READ.fullmatch(name) or _number(name) >= layers]
    if left:
        kinds = dict.fromkeys(".".join(name.split(".")[: 2 if _BLOCK.match(name) else 1]) for name in left)
        notes.append(
            f"{origin}: left out, for BLIP-2's tower is the first {layers} blocks: {', '.join(kinds)}"
        )
    kept = {name: tensor for name, tensor in tensors.items() if name not in set(left)}
    table = tensors["pos_embed"]
    before = math.isqrt(table.shape[1] - 1) if len(table.shape) == 3 else 0
    if not before or before**2 != table.shape[1] - 1:
        raise UserError(
            f"{origin}: pos_embed has shape {table.shape}; no square of patches and a class token."
        )
    if config is None:
        config = _eva_config(tensors, origin, layers, before, image_size)
    side = config.image_size // config.patch_size
    if side != before:
        notes.append(f"{origin}: positions of {before} x {before} patches interpolated to {side} x {side}")
        kept["pos_embed"] = _interpolated(table, before, side)
    return config, fused.split_fused(kept)


def _number(name: str) -> int:
    match = _BLOCK.match(name)
    return int(match[1]) if match else -1


def _eva_config(
    tensors: Mapping[str, Tensor], origin: str, layers: int, side: int, image_size: int
) -> EvaVisionConfig:
    width, patch = tensors["cls_token"].shape[-1], tensors["patch_embed.proj.weight"].shape[-1]
    if width % HEAD_SIZE:
        raise UserError(
            f"{origin}: an EVA tower of width {width}, which does not divide into heads of {HEAD_SIZE} (EVA-CLIP-G's "
            "1408 does), and nothing says how many it has."
        )
    mlp = tensors["blocks.0.mlp.fc1.weight"].shape[0]
    return EvaVisionConfig(
        width, mlp, layers, width // HEAD_SIZE, image_size=image_size or side * patch, patch_size=patch
    )


def _interpolated(table: Tensor, before: int, after: int) -> Tensor:
    """A table of positions [1, 1 + before^2, W] for another grid, as `interpolate_pos_embed` (eva_vit.py) does.

    torch's bicubic interpolation without aligned corners, of the patches alone; computed in float64.
    """
    width = table.shape[2]

    def read() -> np.ndarray:
        whole = table.read().astype(np.float64)
        grid = whole[0, 1:].reshape(before, before, width)
        weights = bicubic(before, after)  # [after, before]
        found = np.einsum("ai,bj,ijw->abw", weights, weights, grid, optimize=True)
        return np.concatenate([whole[:, :1], found.reshape(1, -1, width)], axis=1).astype(table.dtype)

    return Tensor((1, 1 + after**2, width), table.dtype, read)


def bicubic(before: int, after: int) -> np.ndarray:
    """[after, before] float64: what each place takes of the old ones in torch's bicubic interpolation.

    Cubic convolution with a = -0.75; places count from the middle of a pixel; beyond the edge stands the edge.
    """
    a = -0.75
    places = (np.arange(after) + 0.5) * (before / after) - 0.5
    first = np.floor(places).astype(int)
    found = np.zeros((after, before))
    for tap in range(-1, 3):
        x = np.abs(places - (first + tap))
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * (x**3 - 5 * x**2 + 8 * x - 4)
        weight = np.where(x <= 1, near, far)
        np.add.at(found, (np.arange(after), np.clip(first + tap, 0, before - 1)), weight)
    return found


# ---------------------------------------------------------------- the Q-Former


def qformer_config(tensors: Mapping[str, Tensor], query: Tensor | None, origin: str) -> QFormerConfig:
    """The sizes of a Q-Former by its tensors (`bert.*`) and its queries [1, Q, D].

    UserError where there is none, or one whose number of heads its width does not say.
    """
    layer = "bert.encoder.layer."
    names = {
        "words": "bert.embeddings.word_embeddings.weight",
        "places": "bert.embeddings.position_embeddings.weight",
        "mlp": f"{layer}0.intermediate.dense.weight",
        "looks": f"{layer}0.crossattention.self.key.weight",
    }
    if query is None or (lost := [name for name in names.values() if name not in tensors]):
        raise UserError(
            f"{origin}: holds no Q-Former ({'its queries' if query is None else lost[0]} missing)."
        )
    words, places, mlp, looks = (tensors[name].shape for name in names.values())
    if words[1] != BERT_SIZE:
        raise UserError(
            f"{origin}: a Q-Former of width {words[1]}; only bert-base's {BERT_SIZE} says how many heads it has."
        )
    crossing = sorted(
        int(name.split(".")[3]) for name in tensors if name.endswith("crossattention.self.key.weight")
    )
    layers = 1 + max(int(name.split(".")[3]) for name in tensors if name.startswith(layer))
    return QFormerConfig(
        hidden_size=words[1],
        intermediate_size=mlp[0],
        layers=layers,
        heads=BERT_HEADS,
        vocab_size=words[0],
        max_positions=places[0],
        queries=query.shape[1],
        vision_size=looks[1],
        cross_every=crossing[1] - crossing[0] if len(crossing) > 1 else layers,
    )


def without_bert_s(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Without what a whole BERT has and a Q-Former does not read, among the names that begin with `prefix`."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not (name.startswith(prefix) and _NOT_QFORMER.match(name.removeprefix(prefix)))
    }


def open_qformer(path: Path, notes: list[str] | None = None) -> tuple[QFormerConfig, Params]:
    """(sizes, leaves under `qformer` and `qformer_norm`) of a file of InstructBLIP, whole or trimmed."""
    origin, body = str(path), "Qformer."
    stored = open_file(path)
    named = {name.removeprefix("model."): stored[name] for name in stored}
    kept = {
        name: tensor
        for name, tensor in without_bert_s(named, body).items()
        if name.startswith((body, "ln_vision.")) or name == "query_tokens"
    }
    if notes is not None and (left := sorted({name.split(".")[0] for name in named.keys() - kept.keys()})):
        notes.append(f"{origin}: left out: {', '.join(left)}")
    bert = {name.removeprefix(body): tensor for name, tensor in kept.items() if name.startswith(body)}
    config = qformer_config(bert, kept.get("query_tokens"), origin)
    table = [
        *tables.qformer_table(f"{body}bert.", config),
        Entry("query_tokens", "qformer/query"),
        Entry("ln_vision.weight", "qformer_norm/scale"),
        Entry("ln_vision.bias", "qformer_norm/bias"),
    ]
    smallest = EvaVisionConfig(8, 8, 1, 1, image_size=8, patch_size=8)
    whole = tables.shapes(LlamaVidConfig(smallest, LlamaConfig(8, 8, 8, 1, 1), 0, qformer=config))
    shapes = {name: shape for name, shape in whole.items() if name.startswith("qformer")}
    return config, tables.to_leaves(kept, table, shapes, origin)
