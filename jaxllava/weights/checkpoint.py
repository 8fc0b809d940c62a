"""A model on disk, opened and not read: what every reader returns and every writer takes."""

from __future__ import annotations

import dataclasses
from typing import Any

from transformers import PreTrainedTokenizerFast

from jaxllava.models.clip import ClipConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.siglip import SiglipVisionConfig
from jaxllava.rules import Params, flatten
from jaxllava.weights import lazy
from jaxllava.weights.lazy import Leaf
from jaxllava.weights.tables import AnyConfig


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """`leaves` is a parameter tree of `lazy.Leaf`; only a LLaVA needs a tokenizer and has a template.

    `stops` are the ids that end an answer according to the folder's generation_config.json, beside the tokenizer's EOS.
    `notes` say what was left out or put in, a line each.
    """

    leaves: Params
    config: AnyConfig
    tokenizer: PreTrainedTokenizerFast | None = None
    template: str = ""
    stops: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """What it is, for a message."""
        names = {
            ClipConfig: "a CLIP model",
            SiglipVisionConfig: "a SigLIP vision tower",
            LlamaConfig: "a text model",
        }
        return names.get(type(self.config), "a LLaVA")

    def as_llava(self) -> dict[str, Leaf]:
        """The leaves by their path in a LLaVA: a text model is its decoder, a SigLIP tower its vision."""
        part = {LlamaConfig: "decoder/", SiglipVisionConfig: "vision/"}.get(type(self.config), "")
        return {f"{part}{path}": leaf for path, leaf in flatten(self.leaves).items()}

    def astype(self, dtype: str) -> Checkpoint:
        """All weights in another float dtype."""
        return self.replace(
            leaves=lazy.astype(self.leaves, lazy.dtype_named(dtype)),
            config=self.config.with_dtypes(dtype, dtype),
        )

    def replace(self, **changes: Any) -> Checkpoint:
        return dataclasses.replace(self, **changes)
