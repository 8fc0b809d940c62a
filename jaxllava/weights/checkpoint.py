"""A model on disk, opened and not read: what every reader returns and every writer takes."""

from __future__ import annotations

import dataclasses
from typing import Any

from transformers import PreTrainedTokenizerFast

from input_pipeline.asker import Asker
from jaxllava.models.clip import ClipConfig
from jaxllava.models.eva import EvaVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.models.siglip import SiglipVisionConfig
from jaxllava.rules import Params, flatten
from jaxllava.weights import lazy
from jaxllava.weights.lazy import Leaf
from jaxllava.weights.side_files import stop_ids
from jaxllava.weights.tables import AnyConfig


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """`leaves` is a parameter tree of `lazy.Leaf`; only a LLaVA needs a tokenizer and has a template.

    `generation` is the folder's generation_config.json, whose ends of an answer count beside the tokenizer's EOS.
    `notes` say what was left out or put in, a line each.
    """

    leaves: Params
    config: AnyConfig
    tokenizer: PreTrainedTokenizerFast | None = None
    template: str = ""
    generation: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    asker: Asker | None = None  # a LLaMA-VID's tokenizer of questions

    @classmethod
    def of(
        cls,
        params: Params,
        config: AnyConfig,
        tokenizer: PreTrainedTokenizerFast | None = None,
        template: str = "",
        asker: Asker | None = None,
    ) -> Checkpoint:
        """Of a model in memory; `params` are numpy or jax arrays, or `Leaf`s."""
        return cls(lazy.lazy(params), config, tokenizer, template, asker=asker)

    @property
    def kind(self) -> str:
        """What it is, for a message."""
        names = {
            ClipConfig: "a CLIP model",
            EvaVisionConfig: "an EVA vision tower",
            LlamaVidConfig: "a LLaMA-VID",
            SiglipVisionConfig: "a SigLIP vision tower",
            LlamaConfig: "a text model",
        }
        return names.get(type(self.config), "a LLaVA")

    def as_llava(self) -> dict[str, Leaf]:
        """The leaves by their path in a LLaVA: a text model is its decoder, a SigLIP tower its vision."""
        towers = {SiglipVisionConfig: "vision/", EvaVisionConfig: "vision/"}
        part = {LlamaConfig: "decoder/", **towers}.get(type(self.config), "")
        return {f"{part}{path}": leaf for path, leaf in flatten(self.leaves).items()}

    @property
    def stops(self) -> tuple[int, ...]:
        """The ids that end an answer, beside the tokenizer's EOS."""
        return stop_ids(self.generation)

    def astype(self, dtype: str) -> Checkpoint:
        """All weights in another float dtype."""
        leaves = lazy.astype(self.leaves, lazy.dtype_named(dtype))
        return self.replace(leaves=leaves, config=as_stored(self.config, leaves))

    def of_one_view(self) -> Checkpoint:
        """A LLaVA-NeXT that reads one view of a picture (it was trained so) as the plain LLaVA that it then is.

        Its newline is never looked at, and neither transformers nor the original have such a Next.
        """
        config = self.config
        if not isinstance(config, LlavaConfig) or not config.pinpoints or config.image_mode == "anyres":
            return self
        leaves = {name: leaf for name, leaf in self.leaves.items() if name != "image_newline"}
        note = f"its image mode is {config.image_mode}: written as a plain LLaVA, without image_newline"
        return self.replace(leaves=leaves, config=config.replace(pinpoints=()), notes=(*self.notes, note))

    def replace(self, **changes: Any) -> Checkpoint:
        return dataclasses.replace(self, **changes)


def as_stored(config: AnyConfig, leaves: Params) -> AnyConfig:
    """The config with the dtypes of the stored weights: float32 computes in float32, all else in bfloat16."""
    wanted = ("embed/embedding", "position_embedding")
    flat: dict[str, Leaf] = flatten(leaves)
    name = str(next(leaf for suffix in wanted for path, leaf in flat.items() if path.endswith(suffix)).dtype)
    return config.with_dtypes("float32" if name == "float32" else "bfloat16", name)


def mixed(leaves: Params) -> tuple[str, ...]:
    """A note where layers of one parameter have several dtypes: they are brought to the widest."""
    flat: dict[str, Leaf] = flatten(leaves)
    found = [path for path, leaf in flat.items() if len({piece.dtype for piece in leaf.pieces}) > 1]
    return (f"layers of several dtypes become the widest of them: {', '.join(found)}",) if found else ()
