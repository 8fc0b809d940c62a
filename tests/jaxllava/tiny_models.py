"""Tiny random torch models for parity tests, and their weights as our parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers

from input_pipeline.tokenizer import train_tokenizer
from jaxllava.models.clip import ClipConfig, ClipTextConfig, ClipVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.rules import unflatten
from jaxllava.weights import hf, hf_config, tables

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
        transformers.LlavaConfig(
            **{k: v for k, v in hf_config.llava_json(config).items() if k not in hf_config.HEADER}
        )
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


def params_of(model: torch.nn.Module, config: Any) -> tables.Params:
    """The torch model's weights as the parameters of our model."""
    table = {LlavaConfig: tables.llava_table, LlamaConfig: tables.llama_table, ClipConfig: tables.clip_table}
    rename = hf.canonical if isinstance(config, LlavaConfig) else lambda name: name
    state = {rename(name): value.detach().numpy() for name, value in model.state_dict().items()}
    if getattr(getattr(config, "decoder", config), "tie_embeddings", False):
        state = {name: value for name, value in state.items() if not name.endswith("lm_head.weight")}
    return tables.to_params(state, table[type(config)](config), tables.shapes(config), "torch model")


def to_torch(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()


CORPUS = [f"the {c} {o} is on the left, {n} of 10 people like it" for n in range(10)
          for c in ("red", "blue", "green") for o in ("ball", "box", "star")]  # fmt: skip


def tokenizer_in(folder: Any) -> transformers.PreTrainedTokenizerFast:
    """A small tokenizer as the pipeline trains it."""
    return train_tokenizer(CORPUS, 320, folder)


def llava_for(tokenizer: transformers.PreTrainedTokenizerFast, **changes: Any) -> LlavaConfig:
    """The tiny LLaVA in the vocabulary of that tokenizer."""
    image = tokenizer.convert_tokens_to_ids("<image>")
    decoder = DECODER.replace(vocab_size=len(tokenizer), max_positions=512)
    return LLAVA.replace(decoder=decoder, image_token=image, **changes)


def random_params(config: Any, seed: int = 0) -> tables.Params:
    """Parameters with weights large enough that answers differ and probabilities are far from uniform."""
    rng = np.random.default_rng(seed)
    shapes = tables.shapes(config)
    return unflatten(
        {path: (rng.normal(size=shape) * 0.25 + path.endswith("scale")).astype(np.float32)
         for path, shape in shapes.items()}
    )  # fmt: skip
