"""Frames of pictures and videos through a LLaMA-VID's tower and Q-Former, a few at a time: in flat memory.

What is kept of a frame is what stands in its positions: a few vectors of the tower's width for each question. A video
of an hour, 3,600 frames, is 20 MB of them, where its features would be 2.6 GB and its pixels half a gigabyte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline.frame_cache import FrameCache
from jaxllava.models.clip import normalise
from jaxllava.models.llama_vid import Guide, LlamaVidConfig
from jaxllava.models.llava import Params

AT_ONCE = 16  # frames; programs are compiled for so many
_TOKENS = (16, 32, 64, 128, 256, 512)  # lengths of questions that programs are compiled for


class FrameEncoder:
    """`encoder(frames, questions)` gives what stands for frames, for each question."""

    def __init__(
        self,
        config: LlamaVidConfig,
        params: Params,
        context: Callable[[], Any],
        put: Callable[[Any], Any] = jnp.asarray,
        cache: FrameCache | None = None,
    ) -> None:
        """context: the mesh in which it computes; put: brings a batch of frames to the devices."""
        self.config = config
        self.cache = cache
        self._params = {name: part for name, part in params.items() if name not in ("decoder", "projector")}
        self._context, self._put = context, put
        model = config.replace(at_once=AT_ONCE).module()

        @jax.jit
        def see(params: Params, frames: jax.Array) -> jax.Array:
            """uint8 [n, H, W, 3] -> [n, T, W]; each frame is a row of the batch."""
            pixels = normalise(frames, config.vision)[:, None]
            return model.apply({"params": params}, pixels, method="see")[:, 0]  # type: ignore[index]

        @jax.jit
        def compress(params: Params, features: jax.Array, text: jax.Array, valid: jax.Array) -> jax.Array:
            """[n, T, W] and a question [L] -> [n, image_tokens, W]"""
            count = len(features)
            zero = jnp.zeros((count, 1), jnp.int32)
            every = lambda x: jnp.broadcast_to(x, (count, 1, *x.shape))
            guide = Guide(zero, zero, every(text), every(valid))
            found = model.apply({"params": params}, features[:, None], guide, method="compress")
            return found[:, 0]  # type: ignore[index]

        self._see, self._compress = see, compress

    def __call__(
        self,
        frames: Callable[[], Iterable[np.ndarray]],
        questions: Sequence[np.ndarray],
        key: str | None = None,
    ) -> np.ndarray:
        """[questions, F, image_tokens, W] in the tower's dtype.

        Args:
          frames: gives uint8 [H, W, 3] each; not called where their features are kept.
          questions: token ids int [L] each.
          key: of the cache, see `FrameCache.path`; None is not kept.
        """
        parts: Iterable[np.ndarray]
        kept = self.cache.read(key) if self.cache and key else None
        if kept is not None:
            parts = (np.asarray(kept[start : start + AT_ONCE]) for start in range(0, len(kept), AT_ONCE))
        else:
            parts = self._features(frames())
            if self.cache and key:
                parts = self.cache.write(key, parts)
        found = [self._ask(part, questions) for part in parts]
        c = self.config
        if not found or not questions:
            return np.zeros((len(questions), 0, c.image_tokens, c.vision.hidden_size), np.float32)
        return np.stack([np.concatenate([part[i] for part in found]) for i in range(len(questions))])

    def _features(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for batch in _batches(frames):
            with self._context():
                features = self._see(self._params, self._put(_filled(np.stack(batch))))
            yield np.asarray(features)[: len(batch)]

    def _ask(self, features: np.ndarray, questions: Sequence[np.ndarray]) -> list[np.ndarray]:
        """[n, T, W] -> for each question [n, image_tokens, W]"""
        answers = []
        with self._context():
            seen = self._put(_filled(features))
            for ids in questions:
                length = next(size for size in _TOKENS if size >= len(ids))
                text, valid = np.zeros(length, np.int32), np.arange(length) < len(ids)
                text[: len(ids)] = ids
                answers.append(np.asarray(self._compress(self._params, seen, text, valid))[: len(features)])
        return answers


def _batches(frames: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    batch: list[np.ndarray] = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _filled(part: np.ndarray) -> np.ndarray:
    """AT_ONCE rows, the last one repeated: so that one program serves all."""
    return np.concatenate([part, np.repeat(part[-1:], AT_ONCE - len(part), axis=0)])
