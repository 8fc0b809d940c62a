"""LLaMA-VID against a transcription of its equations in torch, float32, absolute tolerance 2e-5.

The tower and the Q-Former are transformers' InstructBLIP ones, the decoder transformers' Llama; what is between them is
written here from `llamavid/model/llamavid_arch.py:290-408`: the attention of the questions, pooling and projections.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from input_pipeline.errors import UserError
from jaxllava.models.eva import EvaVisionConfig
from jaxllava.models.llama_vid import Guide, LlamaVidConfig, LlamaVidModel, content_side, llama_vid
from jaxllava.models.llava import LlavaConfig
from jaxllava.models.qformer import QFormerConfig
from jaxllava.rules import Params
from jaxllava.weights import original, tables
from tests.jaxllava import test_models_eva as eva
from tests.jaxllava import test_models_qformer as qformer
from tests.jaxllava import tiny_models as tiny

VISION = EvaVisionConfig(32, 64, 2, 4, image_size=28, patch_size=7)
QFORMER = QFormerConfig(24, 48, 2, 4, vocab_size=60, max_positions=16, queries=3, vision_size=32)
CONFIG = LlamaVidConfig(VISION, tiny.DECODER, image_token=tiny.IMAGE, qformer=QFORMER)
FRAMES, SLOTS = 3, 5


class Reference(torch.nn.Module):
    """What one row of frames and questions becomes, in torch."""

    def __init__(self, config: LlamaVidConfig) -> None:
        super().__init__()
        torch.manual_seed(0)
        width, wide = config.vision.hidden_size, config.qformer.vision_size
        self.config = config
        self.tower = eva.reference_of(config.vision)
        self.qformer = qformer.reference_of(config.qformer)
        self.decoder = tiny.torch_llama(config.decoder)
        self.query = torch.nn.Parameter(torch.randn(1, config.qformer.queries, config.qformer.hidden_size))
        self.norm = torch.nn.LayerNorm(wide)
        self.ask = torch.nn.Linear(config.qformer.hidden_size, width)
        self.key = torch.nn.Linear(width, width)
        self.value = torch.nn.Linear(width, config.decoder.hidden_size)
        self.bridge = torch.nn.Linear(width, wide) if config.bridges else None
        self.one = torch.nn.Linear(width, config.decoder.hidden_size)
        self.two = torch.nn.Linear(config.decoder.hidden_size, config.decoder.hidden_size)
        for part in (self.norm, self.ask, self.key, self.value, self.bridge, self.one, self.two):
            if part is not None:
                tiny.randomize(part, std=0.1)

    def names(self) -> dict[str, np.ndarray]:
        """The weights as LLaMA-VID's checkpoints name them."""
        state: dict[str, np.ndarray] = {"model.vlm_att_query": tiny.numpy(self.query)}
        for name, array in eva.eva_names(self.tower).items():
            state[f"model.vision_tower.vision_tower.{name}"] = array
        for name, array in qformer.bert_names(self.qformer).items():
            state[f"model.vlm_att_encoder.{name}"] = array
        parts = {
            "vlm_att_ln": self.norm, "vlm_att_projector": self.ask, "vlm_att_key_projector": self.key,
            "vlm_att_val_projector": self.value, "vlm_att_bert_proj": self.bridge,
            "mm_projector.0": self.one, "mm_projector.2": self.two,
        }  # fmt: skip
        for name, part in parts.items():
            for kind, tensor in part.state_dict().items() if part is not None else ():
                state[f"model.{name}.{kind}"] = tensor.numpy()
        return state | {name: tensor.numpy() for name, tensor in self.decoder.state_dict().items()}

    def slots(self, pixels: torch.Tensor, guide: Guide) -> torch.Tensor:
        """pixels [M, 3, H, W] -> [N * tokens, D]"""
        c = self.config
        features = self.tower.embeddings(pixels)
        for block in self.tower.encoder.layers:
            features = block(features)
        found = []
        for frame, query in zip(guide.frame[0], guide.query[0], strict=True):
            text = tiny.to_torch(guide.text[0, query][None]).long()
            valid = tiny.to_torch(guide.valid[0, query][None]).long()
            seen = features[int(frame)][None]
            patches = seen[:, 1:] if c.feature_select == "patch" else seen
            shown = seen if c.qformer_sees_class else patches
            shown = self.norm(shown if self.bridge is None else self.bridge(shown))
            queries = self.qformer(
                input_ids=text,
                attention_mask=torch.cat([torch.ones(1, c.qformer.queries).long(), valid], dim=1),
                query_embeds=self.query,
                encoder_hidden_states=shown,
            ).last_hidden_state[:, : c.qformer.queries]
            scores = self.ask(queries) @ self.key(patches).transpose(-1, -2) / patches.shape[-1] ** 0.5
            context = self.value((scores.softmax(-1) @ patches).mean(1)[:, None])
            content = patches
            if c.compress == "mean":
                content = patches.mean(dim=1, keepdim=True)
            elif c.compress.startswith("grid:"):
                side = int(patches.shape[1] ** 0.5)
                stride = side // int(c.compress.removeprefix("grid:"))
                grid = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
                pooled = torch.nn.functional.avg_pool2d(grid, stride, stride)
                content = pooled.permute(0, 2, 3, 1).flatten(1, 2)
            content = self.two(torch.nn.functional.gelu(self.one(content)))
            found.append(torch.cat([context, content], dim=1)[0])
        return torch.cat(found)

    def logits(self, tokens: np.ndarray, features: torch.Tensor, index: np.ndarray) -> torch.Tensor:
        embeds = self.decoder.get_input_embeddings()(tiny.to_torch(np.where(index >= 0, 0, tokens)).long())
        embeds[0, tiny.to_torch(index[0] >= 0)] = features[tiny.to_torch(index[0][index[0] >= 0]).long()]
        return self.decoder(inputs_embeds=embeds).logits


def params_of(reference: Reference) -> Params:
    config = reference.config
    return tiny.to_params(reference.names(), original.table(config), tables.shapes(config), "torch")


def inputs(config: LlamaVidConfig, seed: int = 0) -> tuple[np.ndarray, Guide]:
    """Three frames and two questions of different lengths, looked at in an order of no rule."""
    rng = np.random.default_rng(seed)
    size = config.vision.image_size
    pixels = rng.normal(size=(1, FRAMES, size, size, 3)).astype(np.float32)
    text = rng.integers(1, config.qformer.vocab_size, size=(1, 2, 6)).astype(np.int32)
    valid = np.arange(6)[None, None] < np.array([6, 3])[None, :, None]
    frame = np.array([[2, 0, 1, 0, 2]], np.int32)
    query = np.array([[0, 0, 1, 1, 1]], np.int32)
    return pixels, Guide(frame, query, text, valid)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"compress": "grid:2"},
        {
            "compress": "grid:3",
            "qformer_sees_class": False,
        },  # 4 patches a side: windows of one patch, 4 of them
        {"compress": "none"},
        {"qformer": QFORMER.replace(vision_size=20), "at_once": 2},  # a bridge; five slots in three parts
    ],
    ids=["mean", "grid", "uneven", "none", "bridged"],
)
def test_parity(changes: dict[str, Any]) -> None:
    config = CONFIG.replace(**changes)
    reference = Reference(config)
    params = params_of(reference)
    pixels, guide = inputs(config)
    per = config.image_tokens
    rng = np.random.default_rng(1)
    tokens = rng.integers(6, config.decoder.vocab_size, size=(1, SLOTS * per + 7)).astype(np.int32)
    index = np.full(tokens.shape, -1, np.int32)
    index[0, 3 : 3 + 2 * per] = np.arange(2 * per)  # the first two slots, text, then the others
    index[0, 5 + 2 * per : 5 + SLOTS * per] = np.arange(2 * per, SLOTS * per)
    with torch.no_grad():
        slots = reference.slots(tiny.to_torch(pixels[0].transpose(0, 3, 1, 2).copy()), guide)
        expected = reference.logits(tokens, slots, index)
    positions = np.arange(tokens.shape[1])[None]

    @jax.jit
    def run(params: Params, *arrays: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        model = config.module()
        apply = lambda *x, method: model.apply({"params": params}, *x, method=method)
        tokens, positions, pixels, index, guide = arrays
        seen = apply(pixels, method="see")
        pooled = apply(seen, guide, method="compress")
        kept = apply(pooled, method="encode_images")
        hidden = model.apply({"params": params}, tokens, positions, None, pixels, index, guide)
        return apply(pixels, guide, method="encode_images"), kept, apply(hidden, method="logits")

    whole, kept, logits = run(params, tokens, positions, pixels, index, guide)
    np.testing.assert_allclose(whole[0], tiny.numpy(slots), rtol=0, atol=2e-5)
    np.testing.assert_allclose(kept, whole, rtol=0, atol=1e-6)  # what was kept gives the same
    np.testing.assert_allclose(logits, tiny.numpy(expected), rtol=0, atol=2e-5)


def test_parts_in_turn_have_the_gradients_of_the_whole(compiled_quickly) -> None:
    pixels, guide = inputs(CONFIG)
    params = tiny.random_params(CONFIG, std=0.1)

    def gradients(config: LlamaVidConfig) -> Params:
        def loss(params: Params) -> jax.Array:
            out: Any = config.module().apply({"params": params}, pixels, guide, method="encode_images")
            return (out * jnp.arange(out.size).reshape(out.shape) / out.size).sum()

        return jax.jit(jax.grad(loss))(params)

    whole, parts = gradients(CONFIG), gradients(CONFIG.replace(at_once=2))
    for path, expected in tiny.flat(whole).items():
        np.testing.assert_allclose(tiny.flat(parts)[path], expected, rtol=2e-4, atol=2e-6, err_msg=path)
    touched = {path.split("/")[0] for path, leaf in tiny.flat(whole).items() if np.abs(leaf).max() > 0}
    assert touched == {"vision", "qformer", "qformer_norm", "context", "projector"}


def test_published_sizes() -> None:
    config = llama_vid("7b")
    assert config.image_tokens == 2 and isinstance(config.module(), LlamaVidModel)
    shapes = tables.shapes(config)
    assert shapes["qformer/layers/block_0/cross/k_proj/kernel"] == (6, 1408, 768)
    assert shapes["context/value_proj/kernel"] == (1408, 4096)
    tables._check(original.table(config), shapes, "llama-vid")
    names = {name for row in original.table(config) for name in tables._names(row, shapes[row.path])}
    assert "model.vlm_att_encoder.bert.encoder.layer.10.crossattention.self.key.weight" in names
    assert "model.vlm_att_encoder.bert.encoder.layer.11.output_query.dense.bias" in names
    assert not any("layer.11.crossattention" in name for name in names)
    assert LlamaVidConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("compress", "side", "expected"),
    [("mean", 16, 1), ("none", 16, 16), ("grid:2", 16, 2), ("grid:3", 16, 3), ("grid:7", 16, 8)],
)
def test_content_side(compress: str, side: int, expected: int) -> None:
    assert content_side(compress, side) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compress": "grid:1"}, "grid:N with N from 2 to 4"),
        ({"compress": "grid:5"}, "grid:N with N from 2 to 4"),
        ({"compress": "max"}, "mean, grid, none"),
        ({"feature_layer": (-1, -2)}, "one layer"),
        ({"pinpoints": ((28, 56),)}, "LLaVA-NeXT"),
        ({"at_once": 0}, "at_once 0"),
    ],
)
def test_mistakes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CONFIG.replace(**changes)


def test_a_llava_is_none() -> None:
    plain = tiny.LLAVA.to_json()
    with pytest.raises(UserError):
        LlavaConfig.from_json(CONFIG.to_json())
    assert type(LlavaConfig.from_json(plain)) is LlavaConfig
