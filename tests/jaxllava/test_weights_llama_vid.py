"""LLaMA-VID folders in the released layout against the torch model whose weights they hold, and back."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

from input_pipeline.errors import UserError
from jaxllava import cli
from jaxllava.models.clip import ClipVisionConfig
from jaxllava.models.eva import EvaVisionConfig
from jaxllava.models.llama_vid import LlamaVidConfig, llama_vid
from jaxllava.models.qformer import QFormerConfig
from jaxllava.rules import flatten
from jaxllava.weights import blip2, fused, hf_config, lazy, original, tables
from jaxllava.weights import llama_vid as folders
from jaxllava.weights.checkpoint import Checkpoint
from jaxllava.weights.convert import convert
from jaxllava.weights.source import open_checkpoint
from tests.conftest import make_asker
from tests.jaxllava import test_models_llama_vid as models
from tests.jaxllava import tiny_models as tiny

TOWER = original.EVA_TOWER


def state_of(reference: models.Reference) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in reference.names().items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory, tokenizer):
    """(root, reference, config): `whole` (with its tower, in two shards), `bare` (without), `eva_vit_g.pth`, `bert`."""
    root = tmp_path_factory.mktemp("llama_vid")
    asker = make_asker(root / "bert")
    decoder = tiny.DECODER.replace(vocab_size=len(tokenizer), max_positions=512)
    config = LlamaVidConfig(
        EvaVisionConfig(176, 64, 2, 2, image_size=28, patch_size=7),  # two heads of 88
        decoder,
        image_token=tokenizer.convert_tokens_to_ids("<image>"),
        image_mode="pad",
        qformer=QFormerConfig(
            768, 48, 2, 12, vocab_size=len(asker.tokenizer), max_positions=16, queries=3, vision_size=176
        ),
    )
    reference = models.Reference(config)
    with torch.no_grad():  # as wide as they are here, float32 itself would be 2e-5 from float64
        for parameter in [p for part in (reference.tower, reference.qformer) for p in part.parameters()]:
            parameter.mul_(0.4)
    state = state_of(reference)
    tower = {name.removeprefix(TOWER): t for name, t in state.items() if name.startswith(TOWER)}
    # What a folder and a file hold beside what is read.
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    state["model.vlm_att_encoder.bert.embeddings.position_ids"] = torch.arange(16)[None]
    state["model.vlm_att_encoder.bert.embeddings.token_type_embeddings.weight"] = torch.ones(2, 768)
    state["model.vlm_att_encoder.bert.pooler.dense.weight"] = torch.ones(2, 2)
    values = {
        "architectures": ["LlavaLlamaAttForCausalLM"],
        **hf_config.llama_json(decoder),
        "model_type": "llava",
        "mm_vision_tower": "./model_zoo/LAVIS/eva_vit_g.pth",
        "image_processor": "./llamavid/processor/clip-patch14",
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": 176,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "bert_type": "qformer_pretrain",
        "num_query": 3,
        "compress_type": "mean",
        "max_token": 2048,
        "image_aspect_ratio": "pad",
    }
    for name in ("whole", "bare"):
        tokenizer.save_pretrained(root / name)
        (root / name / "config.json").write_text(json.dumps(values))
    names = list(state)
    shards = {f"pytorch_model-0000{i}-of-00002.bin": names[i - 1 :: 2] for i in (1, 2)}
    for file, own in shards.items():
        torch.save({name: state[name] for name in own}, root / "whole" / file)
    index = {"weight_map": {name: file for file, own in shards.items() for name in own}}
    (root / "whole" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    torch.save(
        {n: t for n, t in state.items() if "vision_tower" not in n}, root / "bare" / "pytorch_model.bin"
    )
    more = {"mask_token": torch.ones(1, 1, 176), "norm.weight": torch.ones(176), "head.bias": torch.ones(9)}
    torch.save(tower | more, root / "eva_vit_g.pth")
    return root, reference, config


def given(root: Path) -> dict[str, Path]:
    return {"vision_tower": root / "eva_vit_g.pth", "question_tokenizer": root / "bert"}


def logits(found: Checkpoint, reference: models.Reference) -> tuple[np.ndarray, np.ndarray]:
    """(ours, torch's) of a row with five slots of three frames and two questions."""
    config: Any = found.config
    pixels, guide = models.inputs(config)
    count = models.SLOTS * config.image_tokens
    rng = np.random.default_rng(1)
    tokens = rng.integers(6, config.decoder.vocab_size - 1, size=(1, count + 7)).astype(np.int32)
    index = np.full(tokens.shape, -1, np.int32)
    index[0, 3 : 3 + count] = np.arange(count)
    positions = np.arange(tokens.shape[1])[None]
    with torch.no_grad():
        slots = reference.slots(tiny.to_torch(pixels[0].transpose(0, 3, 1, 2).copy()), guide)
        expected = reference.logits(tokens, slots, index)

    @jax.jit
    def run(params: Any, *arrays: Any) -> Any:
        apply = lambda *x, **more: config.module().apply({"params": params}, *x, **more)
        return apply(apply(*arrays), method="logits")

    ours = run(lazy.read(found.leaves), tokens, positions, None, pixels, index, guide)
    return np.asarray(ours), tiny.numpy(expected)


def test_logits_are_those_of_the_released_equations(made) -> None:
    root, reference, config = made
    found = open_checkpoint(root / "whole", question_tokenizer=root / "bert")
    assert (found.config, found.template, found.notes) == (config, "imgsp_v1", ())
    assert found.asker is not None and len(found.asker.tokenizer) == config.qformer.vocab_size
    ours, expected = logits(found, reference)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5)


def test_a_folder_without_its_tower_takes_it_from_eva_s_file(made) -> None:
    root, _, config = made
    whole = open_checkpoint(root / "whole", question_tokenizer=root / "bert")
    for place in (root / "eva_vit_g.pth", root):
        found = open_checkpoint(root / "bare", place, None, root / "bert")
        assert found.config == config
        jax.tree.map(np.testing.assert_array_equal, lazy.read(found.leaves), lazy.read(whole.leaves))
        assert len(found.notes) == 1 and found.notes[0].endswith("first 2 blocks: mask_token, norm, head")


def test_the_sizes_of_the_published_files() -> None:
    """By tensors of their names and shapes, without numbers; of 40 blocks the first 39 are taken."""
    config = llama_vid("7b", dtype="float32")
    shapes = tables.shapes(config)

    def empty(path: str, shape: tuple[int, ...]) -> lazy.Leaf:
        rest = shape[1:] if lazy.is_stacked(path) else shape
        one = lazy.Tensor(rest, np.dtype(np.float32), lambda: pytest.fail("was read"))
        return lazy.Leaf((one,) * (shape[0] if rest is not shape else 1), rest is not shape)

    leaves = tables.unflatten({path: empty(path, shape) for path, shape in shapes.items()})
    tensors = fused.join_eva(tables.from_leaves(leaves, original.table(config), shapes))
    tower = {name.removeprefix(TOWER): t for name, t in tensors.items() if name.startswith(TOWER)}
    last = {name.replace("blocks.38.", "blocks.39."): t for name, t in tower.items() if "blocks.38." in name}
    notes: list[str] = []
    vision, kept = blip2.eva_tower(tower | last, "file", notes=notes)
    assert vision == config.vision and not any("blocks.39" in name for name in kept)
    assert notes == ["file: left out, for BLIP-2's tower is the first 39 blocks: blocks.39"]
    bert = {name.removeprefix(folders._BERT): t for name, t in tensors.items()}
    assert blip2.qformer_config(bert, tensors[folders._QUERY], "folder") == config.qformer
    larger, kept = blip2.eva_tower(tower, "file", 336, notes=notes)
    assert larger == vision.replace(image_size=336) and kept["pos_embed"].shape == (1, 577, 1408)
    assert notes[-1] == "file: positions of 16 x 16 patches interpolated to 24 x 24"


@pytest.mark.parametrize(("before", "after"), [(16, 24), (4, 3), (5, 12), (24, 16), (1, 2)])
def test_positions_are_interpolated_as_torch_does(before: int, after: int) -> None:
    table = np.random.default_rng(0).normal(size=(1, 1 + before**2, 6)).astype(np.float32)
    grid = torch.from_numpy(table[:, 1:]).reshape(1, before, before, 6).permute(0, 3, 1, 2)
    resize = lambda x: torch.nn.functional.interpolate(
        x, size=(after, after), mode="bicubic", align_corners=False
    )
    rows = lambda x: x.permute(0, 2, 3, 1).flatten(1, 2).numpy()
    found = blip2._interpolated(lazy.Tensor.of(table), before, after)
    assert found.shape == (1, 1 + after**2, 6)
    array = found.read()
    np.testing.assert_array_equal(array[:, 0], table[:, 0])
    np.testing.assert_allclose(array[:, 1:], rows(resize(grid.double())), rtol=1e-6, atol=1e-8)
    # torch's float32 differs from its own float64 by as much.
    np.testing.assert_allclose(array[:, 1:], rows(resize(grid)), rtol=0, atol=5e-6)


def copied(made, folder: Path, name: str = "bare", **changes: Any) -> Path:
    shutil.copytree(made[0] / name, folder)
    values = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def test_a_model_of_larger_pictures_has_its_positions_interpolated(made, tmp_path: Path) -> None:
    """By the image processor's name, as published, or its settings where the folder is there."""
    root, _, config = made
    named = copied(made, tmp_path / "named", image_processor="./llamavid/processor/clip-patch14-105/")
    found = open_checkpoint(named, **given(root))
    assert found.config == config.replace(vision=config.vision.replace(image_size=105))
    assert any("4 x 4 patches interpolated to 15 x 15" in note for note in found.notes)
    there = copied(made, tmp_path / "there", image_processor="processor-112")
    (there / "processor-112").mkdir()
    (there / "processor-112" / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 35}}')
    smaller: Any = open_checkpoint(there, **given(root)).config
    assert smaller.vision.image_size == 35


def test_half_precision_is_kept(made, tmp_path: Path) -> None:
    root, reference, _ = made
    folder = copied(made, tmp_path / "half")
    halves = {name: t.bfloat16() for name, t in state_of(reference).items()}
    torch.save(halves, folder / "pytorch_model.bin")
    found = open_checkpoint(folder, question_tokenizer=root / "bert")
    config: Any = found.config
    assert (config.decoder.dtype, config.qformer.dtype, config.vision.param_dtype) == ("bfloat16",) * 3
    for path, leaf in flatten(found.leaves).items():
        assert str(leaf.dtype) == "bfloat16", path
    table = flatten(found.leaves)["qformer/word_embedding"].read().astype(np.float32)
    np.testing.assert_array_equal(
        table, halves["model.vlm_att_encoder.bert.embeddings.word_embeddings.weight"].float().numpy()
    )


def test_there_and_back_is_bitwise(made, tmp_path: Path) -> None:
    """Published -> ours -> LLaMA-VID's -> ours, by the command; the second time nothing has to be given."""
    root, reference, config = made
    source = copied(made, tmp_path / "source", compress_type="grid:2")
    more = ["--vision-tower", str(root), "--question-tokenizer", str(root / "bert")]
    steps = [(source, "one", "orbax", more), ("one", "two", "llava", []), ("two", "three", "orbax", [])]
    for start, end, kind, flags in steps:
        places = ["--from", str(tmp_path / start), "--to", str(tmp_path / end)]
        cli.main(["convert", *places, "--format", kind, *flags])
    first, last = open_checkpoint(tmp_path / "one"), open_checkpoint(tmp_path / "three")
    assert first.config == last.config == config.replace(compress="grid:2")
    assert first.template == last.template == "imgsp_v1"
    assert first.asker is not None and last.asker is not None and first.asker.hash == last.asker.hash
    jax.tree.map(np.testing.assert_array_equal, lazy.read(first.leaves), lazy.read(last.leaves))
    mine = load_file(tmp_path / "two" / "model.safetensors")
    expected = state_of(reference)
    assert mine.keys() == expected.keys()
    for name, tensor in mine.items():
        np.testing.assert_array_equal(tensor, expected[name].numpy(), err_msg=name)
    said = json.loads((tmp_path / "two" / "config.json").read_text())
    before = json.loads((source / "config.json").read_text())
    different = {"max_token", "image_processor", "bert_type"}
    assert {key: said.get(key) for key in before} | dict.fromkeys(different) == before | dict.fromkeys(
        different
    )
    assert said["bert_type"] == "qformer_pretrain_layer:2"


def test_hugging_face_has_none(made, tmp_path: Path) -> None:
    root, *_ = made
    with pytest.raises(UserError, match=r"transformers has no LLaMA-VID; .*--format llava"):
        convert(root / "whole", tmp_path / "hf", question_tokenizer=root / "bert")
    assert not (tmp_path / "hf").exists()


def test_what_stage_one_leaves_is_put_into_its_base(made, tmp_path: Path, tokenizer) -> None:
    """`mm_projector.bin` with all vlm_att_*: into the text model, or into a whole LLaMA-VID."""
    root, reference, config = made
    lone = tmp_path / "lone"
    lone.mkdir()
    shutil.copy(root / "bare" / "config.json", lone)
    state = state_of(reference)
    parts = {name: tensor for name, tensor in state.items() if re.search("mm_projector|vlm_att", name)}
    torch.save(parts, lone / "mm_projector.bin")
    text = tmp_path / "vicuna"
    tokenizer.save_pretrained(text)
    (text / "config.json").write_text(json.dumps(hf_config.llama_json(config.decoder)))
    kept = {name: t for name, t in state.items() if name not in parts and "vision_tower" not in name}
    save_file(kept, text / "model.safetensors")
    found = open_checkpoint(lone, base=text, **given(root))
    assert found.config == config
    whole = open_checkpoint(root / "whole", question_tokenizer=root / "bert")
    jax.tree.map(np.testing.assert_array_equal, lazy.read(found.leaves), lazy.read(whole.leaves))

    moved = {name: tensor + 1 for name, tensor in parts.items()}
    torch.save(moved, lone / "mm_projector.bin")
    found = open_checkpoint(lone, base=root / "whole", question_tokenizer=root / "bert")
    same = {
        path
        for path, leaf in flatten(found.leaves).items()
        if np.array_equal(leaf.read(), flatten(whole.leaves)[path].read())
    }
    assert {path.split("/")[0] for path in same} == {"vision", "decoder"}
    assert len(same) == sum(path.startswith(("vision/", "decoder/")) for path in flatten(whole.leaves))


def test_a_clip_tower_looks_without_its_class_token(made, tmp_path: Path) -> None:
    """Its features lose it before the Q-Former sees them, and are of the layer that config.json names."""
    root, _, config = made
    clip = ClipVisionConfig(32, 64, 3, 2, image_size=28, patch_size=7)
    vid = config.replace(
        vision=clip,
        feature_layer=-2,
        qformer_sees_class=False,
        qformer=config.qformer.replace(vision_size=176),
    )
    params = tiny.random_params(vid)
    asker = make_asker(tmp_path / "bert")
    tokenizer = open_checkpoint(root / "whole", question_tokenizer=root / "bert").tokenizer
    found = Checkpoint.of(params, vid, tokenizer, "imgsp_v1", asker)
    folders.export(found, tmp_path / "clip")
    again = open_checkpoint(tmp_path / "clip")
    assert again.config == vid and vid.bridges
    assert "context/vision_proj/kernel" in flatten(again.leaves)
    jax.tree.map(np.testing.assert_array_equal, lazy.read(again.leaves), params)


def test_a_folder_of_stage_3_reaches_as_far_as_it_was_trained(made, tmp_path: Path) -> None:
    """train.py writes the scaling and leaves max_position_embeddings; the tower's class token was not stored."""
    root, _, config = made
    folder = tmp_path / "long"
    shutil.copytree(root / "whole", folder)
    values = json.loads((folder / "config.json").read_text())
    values["rope_scaling"] = {"type": "linear", "factor": 16.0}
    (folder / "config.json").write_text(json.dumps(values))
    found = open_checkpoint(folder, question_tokenizer=root / "bert").config
    assert isinstance(found, LlamaVidConfig) and not found.qformer_sees_class and config.qformer_sees_class
    assert found.decoder == config.decoder.stretched(16.0)
    # Ours says it, whatever the scaling: a folder of our stage 3 is read as it is, too.
    long = config.replace(decoder=config.decoder.stretched(16.0), frame_mode="pad")
    whole = open_checkpoint(root / "whole", question_tokenizer=root / "bert")
    asker = make_asker(tmp_path / "bert")
    folders.export(
        Checkpoint.of(lazy.read(whole.leaves), long, whole.tokenizer, "imgsp_v1", asker), tmp_path / "ours"
    )
    assert open_checkpoint(tmp_path / "ours").config == long


WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"vision_tower": None}, r"holds no vision tower \(it names './model_zoo/LAVIS/eva_vit_g.pth'\); give eva"),
    ({}, {"vision_tower": "nowhere"}, r"--vision-tower .*nowhere: no eva_vit_g\.pth is there"),
    ({}, {"vision_tower": "other.pth"}, r"no EVA vision tower \(cls_token, .* missing\)"),
    ({}, {"question_tokenizer": None}, r"holds no tokenizer for the Q-Former's questions; give a folder with"),
    ({}, {"question_tokenizer": "nowhere"}, r"nowhere: no such folder"),
    ({"bert_type": "raw_bert_layer:2"}, {}, r"bert_type 'raw_bert_layer:2' is not supported"),
    ({"bert_type": "qformer"}, {}, r"bert_type 'qformer' is not supported; supported are"),
    ({"architectures": ["LlavaMptAtt"]}, {}, r"architecture 'LlavaMptAtt' with bert_type"),
    ({"compress_type": "max:3"}, {}, r"compress 'max' is not known"),
    ({"compress_type": "grid:9"}, {}, r"grid:N with N from 2 to 4"),
    ({"mm_use_im_start_end": True}, {}, r"mm_use_im_start_end is True; only False"),
    ({"mm_vision_select_feature": "cls_patch", "compress_type": "grid:2"}, {}, r"has no place among the patches"),
    ({"mm_projector_type": "linear"}, {}, r"no place for model\.mm_projector\.0\.bias"),
    ({"hidden_size": 96, "head_dim": 16}, {}, r"model\.vlm_att_val_projector\.weight has shape \(48, 176\)"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "parts", "message"), WRONG)
def test_what_cannot_be_read_is_one_clear_line(
    made, tmp_path: Path, changes: dict[str, Any], parts: dict[str, Any], message: str
) -> None:
    root, *_ = made
    torch.save({"a": torch.ones(2)}, tmp_path / "other.pth")
    folder = copied(made, tmp_path / "folder", **changes)
    more: Any = given(root) | {
        key: value and (tmp_path if value == "other.pth" else root) / value for key, value in parts.items()
    }
    with pytest.raises(UserError, match=message) as error:
        open_checkpoint(folder, **more)
    assert "\n" not in str(error.value)


def test_weights_that_are_not_those_of_a_llama_vid(made, tmp_path: Path) -> None:
    root, reference, _ = made
    state = state_of(reference)
    folder = copied(made, tmp_path / "folder")
    cases = {
        r"holds no Q-Former \(model\.vlm_att_query": {n: t for n, t in state.items() if "vlm_att" not in n},
        r"no place for model\.vlm_att_other": state | {"model.vlm_att_other": torch.ones(2)},
        r"missing model\.vlm_att_ln\.bias": {n: t for n, t in state.items() if n != "model.vlm_att_ln.bias"},
        r"vlm_att_query has shape \(1, 3, 700\)": state | {"model.vlm_att_query": torch.ones(1, 3, 700)},
        r"a Q-Former of width 24; only bert-base's 768": state
        | {"model.vlm_att_encoder.bert.embeddings.word_embeddings.weight": torch.ones(60, 24)},
        r"EVA tower of width 32, which does not divide into heads of 88": state
        | {f"{TOWER}cls_token": torch.ones(1, 1, 32)},
        r"pos_embed has shape \(1, 16, 176\)": state | {f"{TOWER}pos_embed": torch.ones(1, 16, 176)},
    }
    for message, tensors in cases.items():
        torch.save(tensors, folder / "pytorch_model.bin")
        with pytest.raises(UserError, match=message) as error:
            open_checkpoint(folder, question_tokenizer=root / "bert")
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"--question-tokenizer .*: .* is no folder of LLaMA-VID"):
        open_checkpoint(root / "bert", question_tokenizer=root / "bert")
