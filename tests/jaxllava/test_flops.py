"""Model FLOPs against values worked by hand and against what XLA counts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jaxllava import flops
from jaxllava.models.clip import ClipVisionConfig
from jaxllava.models.eva import EvaVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llama_vid import Guide, LlamaVidConfig, llama_vid
from jaxllava.models.llava import LlavaConfig, LlavaModel, init_params, llava_1_5
from jaxllava.models.qformer import QFormerConfig
from jaxllava.rules import unflatten


def trains(*parts: str):
    return lambda part: part in parts


def test_a_7b_costs_two_flops_for_each_weight_of_its_matrices():
    cost = flops.of_model(llava_1_5("7b"), trains())
    # 32 x (4 x 4096^2 + 3 x 4096 x 11008) + 4096 x 32064
    assert cost.per_token == 2 * (32 * (4 * 4096**2 + 3 * 4096 * 11008) + 4096 * 32064)
    assert cost.per_pair == 4 * 32 * 4096
    # 23 of 24 layers, 577 positions, then 576 through the projector
    layers = 23 * (4 * 1024**2 + 2 * 1024 * 4096)
    tower = 2 * 577 * layers + 4 * 23 * 577**2 * 1024 + 2 * 576 * 3 * 14**2 * 1024
    assert cost.per_image == pytest.approx(tower + 2 * 576 * (1024 * 4096 + 4096**2), rel=1e-12)


@pytest.mark.parametrize(
    ("parts", "token", "pair"), [((), 1, 1), (("projector",), 2, 3), (("projector", "decoder"), 3, 3)]
)
def test_the_backward_pass_counts_what_trains_and_what_it_passes_through(parts, token, pair):
    forward, both = (flops.of_model(llava_1_5("7b"), trains(*p)) for p in ((), parts))
    assert both.per_token == token * forward.per_token
    assert both.per_pair == pair * forward.per_pair


@pytest.mark.parametrize(
    ("paths", "token", "image"),
    [
        (("decoder/layers/mlp/up_proj/lora_a", "decoder/layers/mlp/up_proj/lora_b"), 2, 1),
        (("projector/linear_1/kernel", "decoder/layers/mlp/up_proj/lora_a"), 2, 1),
        (("vision/layers/mlp/fc1/lora_b",), 2, 2),
        (("decoder/layers/mlp/up_proj/kernel", "decoder/layers/mlp/up_proj/lora_a"), 3, 1),
    ],
)
def test_frozen_matrices_with_adapters_have_no_gradient_of_their_own(paths, token, image):
    model = llava_1_5("7b")
    forward, found = flops.of_model(model, trains()), flops.of_trained(model, unflatten(dict.fromkeys(paths)))
    assert found.per_token == token * forward.per_token
    assert found.per_image == pytest.approx(image * forward.per_image, rel=0.07)  # and the projector's own


def test_the_forward_pass_is_what_xla_counts():
    """Without scans, which XLA counts once: one layer. Attention is computed in full there, in halves here."""
    vision = ClipVisionConfig(64, 256, 1, 2, image_size=32, patch_size=8)
    decoder = LlamaConfig(512, 64, 256, 1, 2)
    config = LlavaConfig(vision, decoder, image_token=511, feature_layer=-1)
    model, length = LlavaModel(config), 64
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    pixels = jax.ShapeDtypeStruct((1, 1, 32, 32, 3), jnp.float32)

    def forward(params, tokens, pixels):
        hidden = model.apply({"params": params}, tokens, tokens, tokens, pixels, tokens)
        return model.apply({"params": params}, hidden, method="logits")

    counted = jax.jit(forward).lower(params, tokens, pixels).compile().cost_analysis()["flops"]
    own = flops.of_model(config, trains()).of(tokens=length, pairs=length**2, images=1)
    assert own == pytest.approx(counted, rel=0.05)  # XLA counts norms and activations too


@pytest.mark.parametrize("sees_class", [True, False])
def test_the_forward_pass_of_a_llama_vid_is_what_xla_counts(sees_class):
    """Three frames, and five slots with questions of two words; so wide that products outweigh the rest."""
    vision = EvaVisionConfig(256, 1024, 1, 2, image_size=64, patch_size=8)
    qformer = QFormerConfig(192, 768, 1, 2, vocab_size=50, queries=16, vision_size=256, cross_every=1)
    decoder = LlamaConfig(512, 256, 1024, 1, 2)
    config = LlamaVidConfig(
        vision, decoder, image_token=511, qformer=qformer, compress="grid:2", qformer_sees_class=sees_class
    )
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    length, frames, slots, words = 32, 3, 5, 2
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    pixels = jax.ShapeDtypeStruct((1, frames, 64, 64, 3), jnp.float32)
    pooled = jax.ShapeDtypeStruct((1, slots, config.image_tokens, 256), jnp.float32)
    place = jnp.zeros((1, slots), jnp.int32)
    guide = Guide(place, place, jnp.zeros((1, 1, words), jnp.int32), jnp.ones((1, 1, words), bool))

    def forward(params, tokens, pixels):
        apply = config.module().apply
        hidden = apply({"params": params}, tokens, tokens, tokens, pixels, tokens, guide)
        return apply({"params": params}, hidden, method="logits")

    sizes = {"tokens": length, "pairs": length**2, "images": frames, "slots": slots, "words": slots * words}
    for given, kept in ((pixels, False), (pooled, True)):
        counted = jax.jit(forward).lower(params, tokens, given).compile().cost_analysis()["flops"]
        cost = flops.of_model(config, trains(), kept=kept)
        assert cost.of(**sizes) == pytest.approx(counted, rel=0.05), kept
    assert cost.per_image == cost.per_word == 0 < cost.per_slot


def test_a_llama_vid_s_backward_pass_ends_at_what_trains():
    """Stage 1 trains around the frozen Q-Former, stage 2 within, stage 3 behind."""
    model = llama_vid("7b")
    forward, first, second, third = (
        flops.of_model(model, trains(*parts))
        for parts in (
            (),
            ("projector", "context"),
            ("projector", "context", "qformer", "qformer_norm", "decoder"),
            ("projector", "decoder"),
        )
    )
    layers = 39 * (4 * 1408**2 + 2 * 1408 * 6144)
    tower = 2 * 257 * layers + 4 * 39 * 257**2 * 1408 + 2 * 256 * 3 * 14**2 * 1408
    assert {cost.per_image for cost in (forward, first, second, third)} == {tower}
    assert first.per_token == third.per_token * 2 / 3 == forward.per_token * 2
    assert first.per_word == third.per_word == forward.per_word == second.per_word / 3
    assert forward.per_slot < third.per_slot < first.per_slot < second.per_slot < 3 * forward.per_slot
