"""Model FLOPs of a training step, for MFU. What is counted, and what is not:

- Two for every multiplication of a weight with a real position (padding and empty image slots are not counted), in
  the layers' matrices, the projector, the patch embedding and the vocabulary's head; four for every pair of positions
  and channel in attention (scores and weighted sum), where causal attention counts only the pairs it needs.
- The backward pass: as much again for the gradients of what trains, and as much again for the gradients that pass
  through to something that trains. So 3x the forward pass for a decoder that trains, 2x for a frozen one that has
  adapters or in front of which a projector trains, 1x for a frozen tower.
- Of a LLaMA-VID: the tower for each frame; Q-Former, context and projector for each slot (a frame and a question), the
  Q-Former's text side for each word of the slots' questions (its attention among words is left out: a hundredth of the
  Q-Former's work). Where features were kept, only what stands behind them: the context's value and the projector.
- Not counted: what remat computes again, lookups, norms, softmax, the optimizer, adapters' own small matrices.

MFU is this number divided by (seconds x devices x a device's peak for dense bfloat16, `chips.peak`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from jaxllava.models.clip import ClipConfig
from jaxllava.models.encoder import TowerConfig, VisionTowerConfig, feature_depths
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.models.projector import projector_depth
from jaxllava.rules import Params, flatten

_ADAPTER = re.compile(r"/lora_[ab]$")
COUNTED = ("pairs", "images", "slots", "words")  # beside tokens, under these names in a step's sums


@dataclass(frozen=True)
class Cost:
    """Model FLOPs of a step = tokens * per_token + pairs * per_pair + images * per_image, and as much of the rest.

    tokens: real positions, image positions included. pairs: (query, key) pairs that causal attention needs, which is
    the sum of (place in its sample + 1) over the real positions. images: frames, of a LLaMA-VID; slots: its pairs of a
    frame and a question; words: tokens of the questions, those of each slot.
    """

    per_token: float
    per_pair: float
    per_image: float
    per_slot: float = 0.0
    per_word: float = 0.0

    def of(self, tokens: float, pairs: float, images: float, slots: float = 0.0, words: float = 0.0) -> float:
        seen = images * self.per_image + slots * self.per_slot + words * self.per_word
        return tokens * self.per_token + pairs * self.per_pair + seen


def of_trained(config: LlavaConfig | ClipConfig, trained: Params, kept: bool = False) -> Cost:
    """The cost of a step that trains these parameters, which may be adapters. kept: on features and not on pixels."""
    paths = list(flatten(trained))
    adapted = {path.split("/")[0] for path in paths if _ADAPTER.search(path)}
    whole = {path.split("/")[0] for path in paths if not _ADAPTER.search(path)}
    return of_model(config, whole.__contains__, adapted.__contains__, kept)


def of_model(
    config: LlavaConfig | ClipConfig,
    trains: Callable[[str], bool],
    adapted: Callable[[str], bool] = lambda part: False,
    kept: bool = False,
) -> Cost:
    """The cost of a step. `trains(part)` says whether "vision", "projector" or "decoder" (CLIP: "text"; LLaMA-VID's
    "qformer", "qformer_norm" and "context") trains, `adapted(part)` whether adapters in it do.
    """
    if isinstance(config, ClipConfig):
        forward = _tower_matrices(config.text) * 2.0
        vision = _image(config.vision, config.vision.layers)
        # The text tower attends over short rows in full; its pairs are left out.
        return Cost(3.0 * forward, 0.0, 3.0 * vision)
    decoder, vision = config.decoder, config.vision
    depths = feature_depths(vision.layers, config.feature_layer)
    images = _image(vision, max(depths))
    projector = 2.0 * config.image_tokens * _projector(config, len(depths))
    learns = lambda part: trains(part) or adapted(part)
    # A gradient passes through what learns itself or stands behind what does.
    seen = learns("vision")
    through = float(
        any(map(learns, ("vision", "qformer", "qformer_norm", "context", "projector", "decoder")))
    )
    decoding = 1.0 + trains("decoder") + through
    tower = 1.0 + trains("vision") + seen
    projecting = 1.0 + trains("projector") + seen
    per_token = 2.0 * _decoder_matrices(decoder) * decoding
    per_pair = 4.0 * decoder.layers * decoder.heads * decoder.head_dim * (1.0 + 2.0 * through)
    if not isinstance(config, LlamaVidConfig):
        return Cost(per_token, per_pair, images * tower + projector * projecting)
    content = projector * (config.image_tokens - 1) / config.image_tokens * projecting
    slot, word = _asked(config, trains, learns, kept)
    return Cost(per_token, per_pair, 0.0 if kept else images * tower, slot + content, word)


def _asked(
    config: LlamaVidConfig, trains: Callable[[str], bool], learns: Callable[[str], bool], kept: bool
) -> tuple[float, float]:
    """FLOPs of a slot's context token, and of each word of its question."""
    q, width = config.qformer, config.vision.hidden_size
    drop = config.vision.class_tokens if config.feature_select == "patch" else 0
    positions = config.vision.patches + config.vision.class_tokens
    patches = positions - drop
    looked_at = positions if config.qformer_sees_class else patches
    seen, trained = learns("vision"), trains("context")
    # A gradient that enters the Q-Former; one that enters the context token's attention.
    within = seen or learns("qformer") or learns("qformer_norm") or (config.bridges and learns("context"))
    beyond = within or learns("context")
    value = 2.0 * width * config.decoder.hidden_size * (1 + trained + beyond)
    if kept:
        return 2.0 * width * config.decoder.hidden_size * (1 + trained), 0.0
    block = 2.0 * (4 * q.hidden_size**2 + 2 * q.hidden_size * q.intermediate_size)  # of a position
    pair = 4.0 * q.hidden_size
    cross = 4.0 * q.hidden_size * (q.hidden_size * q.queries + q.vision_size * looked_at)
    cross += pair * q.queries * looked_at
    weights = trains("qformer") + within
    asking = q.layers * q.queries * (block + pair * q.queries) + q.layers // q.cross_every * cross
    matching = 2.0 * q.hidden_size * width * q.queries * (1 + trained + within)
    matching += 2.0 * width**2 * patches * (1 + trained + seen)
    matching += 4.0 * width * q.queries * patches * (1 + 2 * beyond)
    bridge = 2.0 * width * q.vision_size * looked_at * (1 + trained + seen) if config.bridges else 0.0
    return (
        asking * (1 + weights) + matching + bridge + value,
        q.layers * (block + 2 * pair * q.queries) * (1 + weights),
    )


def _decoder_matrices(c: LlamaConfig) -> float:
    heads = c.heads * c.head_dim
    attention = c.hidden_size * (2 * heads + 2 * c.kv_heads * c.head_dim)
    return c.layers * (attention + 3 * c.hidden_size * c.intermediate_size) + c.hidden_size * c.vocab_size


def _tower_matrices(c: TowerConfig, layers: int | None = None) -> float:
    per_layer = 4 * c.hidden_size**2 + 2 * c.hidden_size * c.intermediate_size
    return float((c.layers if layers is None else layers) * per_layer)


def _image(c: VisionTowerConfig, layers: int) -> float:
    """Forward FLOPs of one picture through the tower's first layers."""
    positions = c.patches + c.class_tokens
    patches = 2.0 * c.patches * 3 * c.patch_size**2 * c.hidden_size
    return (
        patches + 2.0 * positions * _tower_matrices(c, layers) + 4.0 * layers * positions**2 * c.hidden_size
    )


def _projector(config: LlavaConfig, depths: int) -> float:
    width, layers = config.decoder.hidden_size, projector_depth(config.projector)
    if not layers:
        return 0.0
    return float(config.vision.hidden_size * depths * width + (layers - 1) * width**2)
