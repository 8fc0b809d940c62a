"""Model FLOPs of a training step, for MFU. What is counted, and what is not:

- Two for every multiplication of a weight with a real position (padding and empty image slots are not counted), in
  the layers' matrices, the projector, the patch embedding and the vocabulary's head; four for every pair of positions
  and channel in attention (scores and weighted sum), where causal attention counts only the pairs it needs.
- The backward pass: as much again for the gradients of what trains, and as much again for the gradients that pass
  through to something that trains. So 3x the forward pass for a decoder that trains, 2x for a frozen one that has
  adapters or in front of which a projector trains, 1x for a frozen tower.
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
from jaxllava.models.llava import LlavaConfig
from jaxllava.models.projector import projector_depth
from jaxllava.rules import Params, flatten

_ADAPTER = re.compile(r"/lora_[ab]$")


@dataclass(frozen=True)
class Cost:
    """Model FLOPs of a step = tokens * per_token + pairs * per_pair + images * per_image.

    tokens: real positions, image positions included. pairs: (query, key) pairs that causal attention needs, which is
    the sum of (place in its sample + 1) over the real positions.
    """

    per_token: float
    per_pair: float
    per_image: float

    def of(self, tokens: float, pairs: float, images: float) -> float:
        return tokens * self.per_token + pairs * self.per_pair + images * self.per_image


def of_trained(config: LlavaConfig | ClipConfig, trained: Params) -> Cost:
    """The cost of a step that trains these parameters, which may be adapters."""
    paths = list(flatten(trained))
    adapted = {path.split("/")[0] for path in paths if _ADAPTER.search(path)}
    whole = {path.split("/")[0] for path in paths if not _ADAPTER.search(path)}
    return of_model(config, whole.__contains__, adapted.__contains__)


def of_model(
    config: LlavaConfig | ClipConfig,
    trains: Callable[[str], bool],
    adapted: Callable[[str], bool] = lambda part: False,
) -> Cost:
    """The cost of a step. `trains(part)` says whether "vision", "projector" or "decoder" (CLIP: "text") trains,
    `adapted(part)` whether adapters in it do.
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
    seen, through = learns("vision"), float(any(map(learns, ("vision", "projector", "decoder"))))
    decoding = 1.0 + trains("decoder") + through
    tower = 1.0 + trains("vision") + seen
    projecting = 1.0 + trains("projector") + seen
    return Cost(
        per_token=2.0 * _decoder_matrices(decoder) * decoding,
        per_pair=4.0 * decoder.layers * decoder.heads * decoder.head_dim * (1.0 + 2.0 * through),
        per_image=images * tower + projector * projecting,
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
