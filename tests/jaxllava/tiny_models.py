"""Tiny random torch models for parity tests, and their weights as our parameters."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from input_pipeline.tokenizer import train_tokenizer
from jaxllava.models.clip import ClipConfig, ClipTextConfig, ClipVisionConfig
from jaxllava.models.eva import EvaVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.models.qformer import QFormerConfig
from jaxllava.rules import Params, flatten, unflatten
from jaxllava.weights import fused, hf, hf_config, hf_export, lazy, orbax, tables
from jaxllava.weights.checkpoint import Checkpoint
from jaxllava.weights.source import open_checkpoint
from tests.conftest import make_asker

# Keys of a config.json that describe the file and not the model.
HEADER = ("architectures", "model_type", "torch_dtype", "transformers_version")
IMAGE = 5  # the image token of the tiny models
VISION = ClipVisionConfig(32, 64, 4, 4, image_size=28, patch_size=14)
TEXT = ClipTextConfig(48, 96, 3, 4, vocab_size=60, max_positions=16, eos_id=59)
DECODER = LlamaConfig(101, 48, 96, 3, 6, kv_heads=2, head_dim=8, rope_theta=5000.0, rms_eps=1e-6)
LLAVA = LlavaConfig(VISION, DECODER, image_token=IMAGE)


def randomize(model: torch.nn.Module, seed: int = 0, std: float = 0.2) -> None:
    """Every weight and bias gets its own noise: initial zeros and ones would hide a swap."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * std)
    model.eval()


def torch_llava(config: LlavaConfig, seed: int = 0, std: float = 0.2) -> Any:
    torch.manual_seed(seed)  # for what the constructor draws
    model = transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(**{k: v for k, v in hf_config.llava_json(config).items() if k not in HEADER})
    )
    randomize(model, seed, std)
    return model


def torch_llama(config: LlamaConfig, seed: int = 0) -> Any:
    torch.manual_seed(seed)  # for what the constructor draws
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**hf_config.llama_json(config))
    )
    randomize(model, seed)
    return model


def torch_clip(config: ClipConfig, seed: int = 0) -> Any:
    torch.manual_seed(seed)  # for what the constructor draws
    model = transformers.CLIPModel(
        transformers.CLIPConfig(
            vision_config=hf_config.vision_json(config.vision),
            text_config=hf_config.text_json(config.text),
            projection_dim=config.projection_dim,
        )
    )
    randomize(model, seed)
    return model


def params_of(model: torch.nn.Module, config: Any) -> Params:
    """The torch model's weights as the parameters of our model."""
    rename = hf.canonical if isinstance(config, LlavaConfig) else lambda name: name
    state = {rename(name): value.detach().numpy() for name, value in model.state_dict().items()}
    if getattr(getattr(config, "decoder", config), "tie_embeddings", False):
        state = {name: value for name, value in state.items() if not name.endswith("lm_head.weight")}
    return to_params(state, tables.table_of(config), tables.shapes(config), "torch model")


def to_params(tensors: Any, table: Any, expected: Any, origin: str) -> Params:
    """`tables.to_leaves` of arrays in memory, read."""
    named = {n: t if isinstance(t, lazy.Tensor) else lazy.Tensor.of(t) for n, t in tensors.items()}
    return lazy.read(tables.to_leaves(fused.split_fused(named), table, expected, origin))


def from_params(params: Params, table: Any, expected: Any) -> dict[str, np.ndarray]:
    """`tables.from_leaves` of arrays in memory, read; C-contiguous, as torch and safetensors want them."""
    tensors = tables.from_leaves(lazy.lazy(params), table, expected)
    return {name: np.require(tensor.read(), requirements="C") for name, tensor in tensors.items()}


def export_hf(params: Params, config: Any, tokenizer: Any, folder: Any, template: str = "") -> None:
    """A Hugging Face folder of a model in memory."""
    hf_export.export(Checkpoint.of(params, config, tokenizer, template), folder)


def opened(folder: Any) -> tuple[Params, Any]:
    """(parameters, config) of a folder of any kind."""
    found = open_checkpoint(folder)
    return lazy.read(found.leaves), found.config


def opened_original(folder: Any, base: Any = None) -> tuple[Params, Any]:
    """As `opened`, of a part of an original LLaVA and its base."""
    found = open_checkpoint(folder, base=base)
    return lazy.read(found.leaves), found.config


def to_torch(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()


CORPUS = [f"the {c} {o} is on the left, {n} of 10 people like it" for n in range(10)
          for c in ("red", "blue", "green") for o in ("ball", "box", "star")]  # fmt: skip


def tokenizer_in(folder: Any) -> transformers.PreTrainedTokenizerFast:
    """A small tokenizer as the pipeline trains it."""
    return train_tokenizer(CORPUS, 320, folder)


def with_tokens(
    tokenizer: transformers.PreTrainedTokenizerFast, tokens: list[str]
) -> transformers.PreTrainedTokenizerFast:
    """A copy of a tokenizer that knows these control tokens too."""
    other = copy.deepcopy(tokenizer)
    other.add_special_tokens({"extra_special_tokens": [*other.extra_special_tokens, *tokens]})
    return other


def llava_for(tokenizer: transformers.PreTrainedTokenizerFast, **changes: Any) -> LlavaConfig:
    """The tiny LLaVA in the vocabulary of that tokenizer."""
    image = tokenizer.convert_tokens_to_ids("<image>")
    decoder = DECODER.replace(vocab_size=len(tokenizer), max_positions=512)
    return LLAVA.replace(decoder=decoder, image_token=image, **changes)


def random_params(config: Any, seed: int = 0, std: float = 0.25) -> Params:
    """Parameters with weights large enough that answers differ and probabilities are far from uniform."""
    rng = np.random.default_rng(seed)
    shapes = tables.shapes(config)
    return unflatten(
        {path: (rng.normal(size=shape) * std + path.endswith("scale")).astype(np.float32)
         for path, shape in shapes.items()}
    )  # fmt: skip


def flat(params: Params) -> dict[str, Any]:
    """Leaves by path."""
    return flatten(params)


def llama_vid_in(root: Path, tokenizer: transformers.PreTrainedTokenizerFast) -> Path:
    """A folder with a tiny random LLaMA-VID of 600 positions, with its question tokenizer."""
    asker = make_asker(root / "bert")
    vision = EvaVisionConfig(16, 32, 2, 2, image_size=16, patch_size=4)
    qformer = QFormerConfig(16, 32, 2, 2, vocab_size=len(asker.tokenizer), queries=3, vision_size=16)
    decoder = LlamaConfig(len(tokenizer), 32, 64, 2, 2, max_positions=600)
    image = tokenizer.convert_tokens_to_ids("<image>")
    model = LlamaVidConfig(vision, decoder, image, compress="grid:2", qformer=qformer, image_mode="pad")
    orbax.save_model(root / "m", random_params(model), model, tokenizer, "imgsp_v1", asker=asker)
    return root / "m"
