"""LoRA adapters, lone projectors and deltas of original LLaVA against the model that they were made from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

import jaxllava
from input_pipeline.errors import UserError
from jaxllava import cli
from jaxllava.weights import hf_config, original, tables
from tests.jaxllava import tiny_models as tiny

RANK, ALPHA = 4, 10


@pytest.fixture(scope="module")
def made(tmp_path_factory, tokenizer):
    """A base text model's folder, a tower's folder, the original's tensors of a whole LLaVA, and our config."""
    root = tmp_path_factory.mktemp("adapters")
    config = tiny.llava_for(tokenizer, image_mode="pad")
    params = tiny.random_params(config, std=0.1)
    state = {
        name: torch.from_numpy(array)
        for name, array in tiny.from_params(params, original.table(config), tables.shapes(config)).items()
    }
    tower = {n.removeprefix(original.TOWER): t for n, t in state.items() if n.startswith(original.TOWER)}
    (root / "tower").mkdir()
    save_file({f"vision_model.{n}": t for n, t in tower.items()}, root / "tower" / "model.safetensors")
    values = {"model_type": "clip_vision_model", **hf_config.vision_json(config.vision)}
    (root / "tower" / "config.json").write_text(json.dumps(values))
    (root / "base").mkdir()
    tokenizer.save_pretrained(root / "base")
    text = {n: t for n, t in state.items() if "vision_tower" not in n and "mm_projector" not in n}
    save_file(text, root / "base" / "model.safetensors")
    (root / "base" / "config.json").write_text(json.dumps(hf_config.llama_json(config.decoder)))
    return root, state, config


def with_config(made, folder: Path, **changes) -> Path:
    """A folder with the config.json that LLaVA's training leaves."""
    root, _, config = made
    folder.mkdir(exist_ok=True)
    values = {
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": str(root / "tower"),
        "mm_vision_select_layer": -2,
        "image_aspect_ratio": "pad",
        **hf_config.llama_json(config.decoder),
        "model_type": "llava_llama",
    }
    (folder / "config.json").write_text(json.dumps(values | changes))
    return folder


def projector(made) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in made[1].items() if "mm_projector" in name}


def logits(model: jaxllava.api.Model) -> np.ndarray:
    rng = np.random.default_rng(0)
    tokens = rng.integers(6, model.config.decoder.vocab_size - 1, (1, 12))
    tokens[0, 2 : 2 + model.config.image_tokens] = model.config.image_token
    return model.logits(tokens, rng.normal(size=(1, 28, 28, 3)).astype(np.float32))


@pytest.mark.parametrize("scheme", ["alpha/r", "alpha/sqrt(r)"])
def test_a_lora_adapter_is_merged(made, tmp_path: Path, tokenizer, scheme: str) -> None:
    """Against torch computing the low-rank branch beside the frozen weights, as peft does."""
    root, state, config = made
    folder = with_config(made, tmp_path / "llava-lora")
    generator = torch.Generator().manual_seed(3)
    width, out = config.decoder.hidden_size, {}
    modules = {"self_attn.q_proj": (width, 48), "self_attn.v_proj": (width, 16), "mlp.up_proj": (width, 96)}
    for layer in range(config.decoder.layers):
        for module, (rows, columns) in modules.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            out[f"{name}.lora_A.weight"] = torch.randn(RANK, rows, generator=generator) * 0.1
            out[f"{name}.lora_B.weight"] = torch.randn(columns, RANK, generator=generator) * 0.1
    save_file(out, folder / "adapter_model.safetensors")
    root_scheme = scheme != "alpha/r"
    settings = {"r": RANK, "lora_alpha": ALPHA, "use_rslora": root_scheme, "fan_in_fan_out": False}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    wrapped = {f"base_model.model.{name}": tensor for name, tensor in projector(made).items()}
    torch.save(wrapped, folder / "non_lora_trainables.bin")

    reference = tiny.torch_llava(config)
    names = {original_name(name): name for name in reference.state_dict()}
    reference.load_state_dict({names[name]: tensor for name, tensor in state.items()})
    scale = ALPHA / (RANK**0.5 if root_scheme else RANK)
    for layer, block in enumerate(reference.model.language_model.layers):
        for module in modules:
            name = f"base_model.model.model.layers.{layer}.{module}"
            a, b = out[f"{name}.lora_A.weight"], out[f"{name}.lora_B.weight"]

            def branch(_, inputs, output, a=a, b=b):
                return output + scale * (inputs[0] @ a.T @ b.T)

            block.get_submodule(module).register_forward_hook(branch)
    model = jaxllava.load(folder, base=root / "base")
    rng = np.random.default_rng(0)
    tokens = rng.integers(6, config.decoder.vocab_size - 1, (1, 12))
    tokens[0, 2 : 2 + config.image_tokens] = config.image_token
    pixels = rng.normal(size=(1, 28, 28, 3)).astype(np.float32)
    with torch.no_grad():
        expected = reference(
            input_ids=torch.from_numpy(tokens),
            pixel_values=torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()),
        ).logits
    np.testing.assert_allclose(logits(model), expected.numpy(), rtol=0, atol=2e-5)

    # The command line does the same, and says so.
    command = ["convert", "--from", str(folder), "--base", str(root / "base"), "--to", str(tmp_path / "hf")]
    cli.main(command)
    merged = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "hf").eval()
    with torch.no_grad():
        found = merged(
            input_ids=torch.from_numpy(tokens),
            pixel_values=torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()),
        ).logits
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=2e-5)


def original_name(name: str) -> str:
    """An in-memory name of transformers 5 in the original's spelling."""
    name = name.replace("model.language_model.", "model.").replace(
        "model.vision_tower.", "model.vision_tower.vision_tower.vision_model."
    )
    for i in (1, 2):
        name = name.replace(f"model.multi_modal_projector.linear_{i}.", f"model.mm_projector.{2 * (i - 1)}.")
    return name


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_a_projector_goes_into_its_base(made, tmp_path: Path, prefix: str) -> None:
    """Stage 1 leaves mm_projector.bin and a config; older ones have another prefix."""
    root, state, _ = made
    folder = with_config(made, tmp_path / "llava-pretrain")
    saved = {name.replace("model.", prefix, 1): tensor for name, tensor in projector(made).items()}
    torch.save(saved, folder / "mm_projector.bin")
    params, _ = tiny.opened_original(folder, base=root / "base")
    whole = tiny.from_params(params, original.table(made[2]), tables.shapes(made[2]))
    for name, tensor in state.items():
        np.testing.assert_array_equal(whole[name], tensor.numpy(), err_msg=name)


def test_a_delta_is_added_to_its_base(made, tmp_path: Path, tokenizer) -> None:
    """LLaVA v0: half precision, a vocabulary that grew, a projector that the base has not."""
    _, state, config = made
    half = {n: t.half() for n, t in state.items() if "vision_tower" not in n}
    old = config.decoder.vocab_size - 3
    base = tmp_path / "llama"
    base.mkdir()
    generator = torch.Generator().manual_seed(5)
    start = {
        n: torch.randn(t.shape, generator=generator).half()
        for n, t in half.items()
        if "mm_projector" not in n
    }
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        start[name] = start[name][:old].clone()
    save_file(start, base / "model.safetensors")
    folder = with_config(made, tmp_path / "LLaVA-7b-delta-v0")
    tokenizer.save_pretrained(folder)
    delta = {}
    for name, tensor in half.items():
        delta[name] = tensor.clone()
        if name in start:
            rows = start[name].shape[0]
            delta[name][:rows] -= start[name]
    torch.save(delta, folder / "pytorch_model.bin")
    params, _ = tiny.opened_original(folder, base=base)
    whole = tiny.from_params(params, original.table(config), tables.shapes(config))
    for name, tensor in delta.items():
        expected = tensor.clone()
        if name in start:
            expected[: start[name].shape[0]] += start[name]
        np.testing.assert_array_equal(whole[name], expected.numpy(), err_msg=name)


def test_what_is_missing_or_does_not_fit_is_named(made, tmp_path: Path) -> None:
    root, _, _ = made
    folder = with_config(made, tmp_path / "lora")
    (folder / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA}))
    stray = "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"
    save_file({stray: torch.zeros(RANK, 48)}, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"is a LoRA adapter; give .* --base DIR"):
        jaxllava.load(folder)
    with pytest.raises(UserError, match=r"--base .*nowhere does not exist"):
        jaxllava.load(folder, base=tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"model\.layers\.9\.self_attn\.q_proj\.weight is not in the base"):
        jaxllava.load(folder, base=root / "base")
    (folder / "adapter_config.json").write_text(
        json.dumps({"r": RANK, "lora_alpha": ALPHA, "use_dora": True})
    )
    with pytest.raises(UserError, match="use_dora is not supported"):
        jaxllava.load(folder, base=root / "base")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="not a readable LoRA config"):
        jaxllava.load(folder, base=root / "base")
    lone = with_config(made, tmp_path / "lone")
    torch.save({"model.embed_tokens.weight": torch.zeros(2, 2)}, lone / "mm_projector.bin")
    with pytest.raises(UserError, match="is a projector alone"):
        jaxllava.load(lone)
    with pytest.raises(UserError, match=r"holds model\.embed_tokens\.weight too"):
        jaxllava.load(lone, base=root / "base")
    with pytest.raises(UserError, match=r"--base .* needs none"):
        jaxllava.load(root / "base", base=root / "base")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no config\.json with mm_vision_tower"):
        jaxllava.load(bare)


def test_a_published_folder_of_shards_with_its_projector_beside_it(made, tmp_path: Path, tokenizer) -> None:
    """liuhaotian/llava-v1.5-7b: sharded `.bin`, no tower, and an mm_projector.bin that it does not need."""
    _, state, _ = made
    folder = with_config(made, tmp_path / "llava-v1.5-7b")
    tokenizer.save_pretrained(folder)
    names = [name for name in state if "vision_tower" not in name]
    shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, own in shards.items():
        torch.save({name: state[name] for name in own}, folder / file)
    weight_map = {name: file for file, own in shards.items() for name in own}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    torch.save(projector(made), folder / "mm_projector.bin")
    params, _ = tiny.opened(folder)
    whole = tiny.from_params(params, original.table(made[2]), tables.shapes(made[2]))
    for name, tensor in state.items():
        np.testing.assert_array_equal(whole[name], tensor.numpy(), err_msg=name)


@pytest.mark.parametrize("r", [2, 0])
def test_a_rank_that_the_tensors_have_not_is_named(made, tmp_path: Path, r: int) -> None:
    folder = with_config(made, tmp_path / "lora")
    (folder / "adapter_config.json").write_text(json.dumps({"r": r, "lora_alpha": ALPHA}))
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    halves = {f"{name}.lora_A.weight": torch.zeros(RANK, 48), f"{name}.lora_B.weight": torch.zeros(48, RANK)}
    save_file(halves, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"with r=2|r is 0"):
        jaxllava.load(folder, base=made[0] / "base")


def test_old_buffers_of_a_base_are_no_part_of_its_delta(made, tmp_path: Path) -> None:
    from jaxllava.weights.adapters import with_delta
    from jaxllava.weights.lazy import Tensor

    one = Tensor.of(np.ones((2, 2), np.float32))
    base = {"model.norm.weight": one, "model.layers.0.self_attn.rotary_emb.inv_freq": one}
    found = with_delta({"model.norm.weight": one}, base, "delta")
    np.testing.assert_array_equal(found["model.norm.weight"].read(), 2 * np.ones((2, 2)))
    flat = Tensor.of(np.ones(4, np.float32))
    with pytest.raises(UserError, match=r"has shape \(2, 2\) in the base, \(4,\) in the delta"):
        with_delta({"model.norm.weight": flat}, {"model.norm.weight": one}, "delta")
