"""The other side: the same model in PyTorch, made of the same weights. Needs torch, which jaxllava itself does not."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import jax
import numpy as np

from input_pipeline.errors import UserError
from jaxllava.bench.rounds import threads
from jaxllava.models.llava import LlavaConfig
from jaxllava.rules import Params
from jaxllava.weights import hf, hf_config, lazy, tables

HEADER = ("architectures", "model_type", "torch_dtype", "transformers_version")


def check(config: LlavaConfig) -> None:
    """Raises a UserError where there is no torch, or the two sides would not compute the same."""
    if config.decoder.dtype != "float32" or jax.default_backend() != "cpu":
        raise UserError(
            "--against transformers compares in float32 and on processors: take --size tiny or cpu, and on a machine "
            "with an accelerator JAX_PLATFORMS=cpu"
        )
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            "--against transformers needs PyTorch, which is not installed: "
            "pip install torch --index-url https://download.pytorch.org/whl/cpu"
        )


class Twin:
    """`LlavaForConditionalGeneration` with our parameters, on as many threads, and what is asked of it."""

    def __init__(self, config: LlavaConfig, params: Params) -> None:
        self.torch: Any = importlib.import_module("torch")
        transformers: Any = importlib.import_module("transformers")
        transformers.utils.logging.disable_progress_bar()
        self.torch.set_num_threads(threads())
        values = {k: v for k, v in hf_config.llava_json(config).items() if k not in HEADER}
        self.config = transformers.LlavaConfig(**values)
        self.model = transformers.LlavaForConditionalGeneration(self.config).eval()
        leaves = lazy.lazy(jax.tree.map(np.asarray, params))
        tensors = tables.from_leaves(leaves, tables.table_of(config), tables.shapes(config))
        with self.torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(self.array(tensors[hf.canonical(name)].read()))

    def array(self, values: np.ndarray) -> Any:
        return self.torch.from_numpy(np.array(values))

    def prefill(self, tokens: np.ndarray) -> Any:
        """The logits behind each prompt [B, P], and a cache of it."""
        ids = self.array(tokens).long()
        with self.torch.inference_mode():
            return (
                self.model(
                    input_ids=ids,
                    attention_mask=self.torch.ones_like(ids),
                    use_cache=True,
                    logits_to_keep=1,
                )
                .logits[:, -1]
                .numpy()
            )

    def generate(self, tokens: np.ndarray, count: int) -> np.ndarray:
        """`count` greedy tokens behind each prompt [B, P], by `generate` as it comes."""
        ids = self.array(tokens).long()
        with self.torch.inference_mode():
            found = self.model.generate(
                input_ids=ids,
                attention_mask=self.torch.ones_like(ids),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        return found[:, tokens.shape[1] :].numpy()

    def start_training(self, lr: float, betas: tuple[float, float], eps: float) -> None:
        """AdamW over all but the tower, without decay."""
        self.model.train()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_("vision_tower" not in name)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = self.torch.optim.AdamW(
            trained, lr=lr, betas=betas, eps=eps, weight_decay=0.0, fused=True
        )  # fused: the default of transformers' trainer
        self.trained = trained

    def batch(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Padded rows as the model takes them."""
        given = {name: self.array(batch[name]).long() for name in ("input_ids", "attention_mask", "labels")}
        if len(batch["pixel_values"]):
            given["pixel_values"] = self.array(batch["pixel_values"])
        return given

    def step(self, batch: dict[str, Any], clip: float) -> float:
        """One optimizer step; the loss before it."""
        loss = self.model(**batch).loss
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.trained, clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())
