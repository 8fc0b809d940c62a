"""`jaxllava.load` and Model: what a user calls."""

from __future__ import annotations

import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxllava
from input_pipeline.conversation import get_template
from input_pipeline.encoding import encode, encode_prompt
from input_pipeline.errors import UserError
from input_pipeline.images import preprocess
from input_pipeline.types import Turn
from jaxllava import sharding
from jaxllava.api import Model
from jaxllava.models.clip import ClipConfig, normalise
from jaxllava.sharding import local_mesh, make_mesh
from jaxllava.weights import orbax
from tests.jaxllava import tiny_models as tiny

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    tokenizer = tiny.tokenizer_in(tmp_path_factory.mktemp("tokenizer"))
    config = tiny.llava_for(tokenizer)
    return Model(config, jax.tree.map(jnp.asarray, tiny.random_params(config)), tokenizer, "v1_bare")


def _image(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _log_prob(
    model: Model, prompt: str, images: list[Image.Image], answer: str, end: bool
) -> tuple[float, int]:
    """log P(answer | prompt) from the whole forward pass, by the label mask of training."""
    turns = [Turn("human", prompt), Turn("gpt", answer)]
    whole = encode(turns, model.tokenizer, get_template(model.template), model.config.image_tokens)
    begin = len(
        encode_prompt(turns[:1], model.tokenizer, get_template(model.template), model.config.image_tokens)
    )
    pixels = np.stack([normalise(jnp.asarray(preprocess(i, 28))) for i in images]) if images else None
    size = -(-len(whole) // 96) * 96  # few lengths, few programs
    mask, tokens = np.arange(size) < len(whole), np.pad(whole.tokens, (0, size - len(whole)))
    logs = jax.nn.log_softmax(model.logits(tokens[None], pixels, mask[None])[0])
    stop = len(whole) - (not end)
    return float(sum(logs[i - 1, whole.tokens[i]] for i in range(begin, stop))), stop - begin


def test_load_recognises_both_folders(model: Model, tmp_path: Path) -> None:
    orbax.save_model(tmp_path / "own", model.params, model.config, model.tokenizer, model.template)
    tiny.export_hf(model.params, model.config, model.tokenizer, tmp_path / "hf", model.template)
    expected = model.generate(["what is it"], [_image(0)], max_new_tokens=8)
    for name in ("own", "hf"):
        loaded = jaxllava.load(tmp_path / name)
        assert (loaded.config, loaded.template) == (model.config, "v1_bare")
        assert loaded.generate(["what is it"], [_image(0)], max_new_tokens=8) == expected
    assert jaxllava.load(tmp_path / "hf", template="vicuna_v1").template == "vicuna_v1"


def test_load_errors(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such model folder"):
        jaxllava.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="neither"):
        jaxllava.load(tmp_path)
    clip = ClipConfig(tiny.VISION, tiny.TEXT)
    orbax.save_model(tmp_path / "clip", tiny.random_params(clip), clip, model.tokenizer, "plain")
    with pytest.raises(UserError, match="CLIP"):
        jaxllava.load(tmp_path / "clip")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="'bert'"):
        jaxllava.load(tmp_path / "other")


def test_images_in_every_form(model: Model, tmp_path: Path) -> None:
    image = _image(1)
    path = tmp_path / "a.png"
    path.write_bytes(_png(image))
    forms = [image, _png(image), path, str(path), [image], (path,)]
    answers = model.generate(["which colour"] * len(forms), forms, max_new_tokens=8)
    assert len(set(answers)) == 1 and answers[0]
    others = model.generate(
        ["<image>\nwhich colour", [Turn("human", "which colour")], "which colour"],
        [image, image, None],
        max_new_tokens=8,
    )
    assert others[0] == others[1] == answers[0] != others[2]


def test_order_and_batches_do_not_matter(model: Model) -> None:
    prompts = ["the red ball", "is it on the left or is it on the right", "like", "how many of 10 people"] * 2
    images = [_image(i) if i % 3 else None for i in range(7)] + [[_image(8), _image(9)]]
    whole = model.generate(prompts, images, max_new_tokens=10)
    assert model.generate(prompts, images, max_new_tokens=10, batch_size=3) == whole
    for i in (0, 1, 7):
        assert model.generate([prompts[i]], [images[i]], max_new_tokens=10) == [whole[i]]
    assert model.generate([], max_new_tokens=3) == []


def test_several_turns_and_answer_prefix(model: Model) -> None:
    turns = [Turn("human", "<image>\nred or blue"), Turn("gpt", "red"), Turn("human", "sure")]
    first = model.generate([turns], [_image(2)], max_new_tokens=8)
    assert first == model.generate([turns], [[_image(2)]], max_new_tokens=8)
    assert first != model.generate([turns[2:]], None, max_new_tokens=8)
    assert model.generate([turns], [_image(2)], max_new_tokens=8, answer_prefix="the box") != first


def test_sampling_is_seeded(model: Model) -> None:
    run = lambda seed: model.generate(["red"] * 3, max_new_tokens=12, temperature=1.0, seed=seed)
    assert run(0) == run(0) != run(1)
    assert len(set(run(0))) == 3  # equal prompts in a batch draw for themselves
    ask = lambda prompts, **more: model.generate(prompts, max_new_tokens=12, temperature=1.0, **more)
    prompts = ["red", "is it on the left or is it on the right", "how many of 10 people", "like"]
    whole = ask(prompts, seed=3)
    assert ask(prompts, seed=3, batch_size=2) == whole  # and whatever is beside them
    own = ask(prompts, seed=[5, 6, 7, 8])
    assert ask(prompts[::-1], seed=[8, 7, 6, 5], batch_size=3) == own[::-1] != whole[::-1]


def test_score_is_the_probability_of_the_answer(model: Model) -> None:
    prompts, images = ["<image>\nwhich colour", "how many"], [_image(3), None]
    candidates = ["red", "the blue box is on the left", "3 of 10", "3"]
    got = model.score(prompts, images, candidates)
    assert got.shape == (2, 4)
    for i, pictures in enumerate(([images[0]], [])):
        # "3" begins "3 of 10": the end of the answer counts.
        expected = [_log_prob(model, prompts[i], pictures, c, end=True)[0] for c in candidates]
        np.testing.assert_allclose(got[i], expected, rtol=1e-5, atol=1e-4)
    open_end = model.score(prompts, images, candidates[:3])
    expected = [_log_prob(model, prompts[0], [images[0]], c, end=False) for c in candidates[:3]]
    np.testing.assert_allclose(open_end[0], [s for s, _ in expected], rtol=1e-5, atol=1e-4)
    mean = model.score(prompts, images, candidates[:3], reduction="mean")
    np.testing.assert_allclose(mean[0], [s / n for s, n in expected], rtol=1e-5, atol=1e-4)


def test_score_with_prefixes(model: Model) -> None:
    """log P(prefix + candidate) = log P(prefix) + log P(candidate | prefix), where the tokens split there."""
    prompts, images = ["colour", "which"], [_image(4), _image(5)]
    prefixes = ["the red ball is on", "the"]
    got = model.score(prompts, images, [" the left", " the right"], answer_prefix=prefixes)
    for i in range(2):
        for j, word in enumerate((" the left", " the right")):
            prompt = "<image>\n" + prompts[i]
            whole, _ = _log_prob(model, prompt, [images[i]], prefixes[i] + word, end=False)
            part, _ = _log_prob(model, prompt, [images[i]], prefixes[i], end=False)
            np.testing.assert_allclose(got[i, j], whole - part, rtol=1e-5, atol=1e-4)


def test_score_over_a_token_border(model: Model) -> None:
    """A candidate that merges with its prefix into one token is still the same string: scores must not depend
    on it.
    """
    text = "people"
    assert len(model.tokenizer.tokenize(" " + text)) == 1
    split = model.score(["who"], None, ["ople", "rson"], answer_prefix="pe")
    whole = model.score(["who"], None, ["people", "person"])
    np.testing.assert_allclose(split, whole, rtol=1e-5, atol=1e-4)


def test_loglikelihood(model: Model) -> None:
    prompts, answers = (
        ["which colour", "how many", "what"],
        ["the red box", "3", "green star is on the left, 10"],
    )
    images = [_image(6), None, _image(7)]
    sums, counts = model.loglikelihood(prompts, images, answers, batch_size=2)
    for i in range(3):
        prompt = ("<image>\n" if images[i] else "") + prompts[i]
        expected = _log_prob(model, prompt, [images[i]] if images[i] else [], answers[i], end=False)
        np.testing.assert_allclose(sums[i], expected[0], rtol=1e-5, atol=1e-4)
        assert counts[i] == expected[1]
    ended, more = model.loglikelihood(prompts, images, answers, end=True)
    assert np.all(ended < sums) and np.all(more == counts + 1)


def test_logits_ignore_padding(model: Model) -> None:
    turns = [Turn("human", "<image>\nred")]
    tokens = encode_prompt(turns, model.tokenizer, get_template("v1_bare"), model.config.image_tokens).tokens
    pixels = normalise(jnp.asarray(preprocess(_image(0), 28)))[None]
    alone = model.logits(tokens[None], pixels)
    padded = np.stack([np.pad(tokens, (3, 0)), np.pad(tokens, (0, 3))])
    mask = np.stack([np.pad(np.ones_like(tokens), (3, 0)), np.pad(np.ones_like(tokens), (0, 3))])
    both = model.logits(padded, np.concatenate([pixels, pixels]), mask)
    np.testing.assert_allclose(both[0, 3:], alone[0], rtol=0, atol=2e-5)
    np.testing.assert_allclose(both[1, :-3], alone[0], rtol=0, atol=2e-5)
    assert alone.dtype == np.float32 and alone.shape == (1, len(tokens), model.config.decoder.vocab_size)
    with pytest.raises(UserError, match="image tokens"):
        model.logits(tokens[None])


def test_mistakes_are_user_errors(model: Model, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    cases = [
        (lambda: model.generate("one string"), "list of prompts"),
        (lambda: model.generate(["a", "b"], [_image(0)]), "2 prompts but images for 1"),
        (
            lambda: model.generate(["<image> and <image>"], [_image(0)]),
            "prompt 0: 2 <image> marks for 1 images",
        ),
        (lambda: model.generate(["<image>"]), "1 <image> marks for 0 images"),
        (lambda: model.generate(["a", "b"], [None, tmp_path / "bad.jpg"]), "prompt 1, image 0 .*bad.jpg"),
        (lambda: model.generate(["a"], [tmp_path / "none.jpg"]), "no such file"),
        (lambda: model.generate(["red " * 600]), "has 512 places"),
        (lambda: model.generate([[Turn("gpt", "a")]]), "prompt 0: turn 1"),
        (lambda: model.generate([[]]), "prompt 0"),
        (lambda: model.generate(["a"], max_new_tokens=0), "at least 1"),
        (lambda: model.score(["a"], None, []), "no candidates"),
        (lambda: model.score(["a"], None, ["x", ""]), "empty"),
        (lambda: model.score(["a"], None, ["x"], answer_prefix=["p", "q"]), "2 given for 1"),
        (lambda: model.loglikelihood(["a"], None, ["x", "y"]), "1 prompts, 2 answers"),
        (lambda: Model(model.config, model.params, model.tokenizer, "v2"), "template"),
    ]
    for call, message in cases:
        with pytest.raises(UserError, match=message):
            call()


def _answers(model: Model, template: str, stops: tuple[int, ...] = ()) -> list[str]:
    other = Model(model.config, model.params, model.tokenizer, template, stops)
    return other.generate(["red", "the blue box"], max_new_tokens=24)


def test_generation_stops_at_every_end_of_an_answer(model: Model) -> None:
    """At the folder's other ends (generation_config.json of Llama 3 names two), and at a template's end in words."""
    free = _answers(model, "v1_bare")
    ids = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in free]
    stop = int(ids[0][3])
    stopped = _answers(model, "v1_bare", stops=(stop,))
    expected = model.tokenizer.decode(ids[0][: ids[0].index(stop)], skip_special_tokens=True).strip()
    assert stopped[0] == expected and len(stopped[0]) < len(free[0])


def test_an_end_in_words_is_cut_off(model: Model, monkeypatch) -> None:
    """`###` of v0 is not a token: what the model says behind it is not the answer."""
    from jaxllava import api

    said = "a red ball\n### Human: and now?"
    ids = np.asarray([model.tokenizer(said, add_special_tokens=False)["input_ids"]], np.int32)
    monkeypatch.setattr(
        api.generation, "generate", lambda *_, **__: (ids, np.asarray([ids.shape[1]], np.int32))
    )
    assert Model(model.config, model.params, model.tokenizer, "v0").generate(["x"]) == ["a red ball"]
    assert Model(model.config, model.params, model.tokenizer, "v1_bare").generate(["x"]) == [said]


def test_chat_templates_end_with_their_own_token(model: Model) -> None:
    from jaxllava.prompts import end_ids

    tokenizer = tiny.with_tokens(model.tokenizer, ["<|im_end|>", "<|eot_id|>"])
    known = tokenizer.get_vocab()
    eos = tokenizer.eos_token_id
    assert end_ids(tokenizer, "chatml") == (eos, known["<|im_end|>"])
    assert end_ids(tokenizer, "llama_3", (7, eos)) == (eos, known["<|eot_id|>"], 7)
    assert end_ids(tokenizer, "vicuna_v1") == (eos,)
    assert end_ids(model.tokenizer, "chatml") == (eos,)


def test_the_end_of_a_scored_answer_is_the_templates(model: Model) -> None:
    """With `end`, what closes an answer counts as it does in training."""
    tokenizer = tiny.with_tokens(model.tokenizer, ["<|im_end|>"])
    config = tiny.llava_for(tokenizer)
    own = Model(config, jax.tree.map(jnp.asarray, tiny.random_params(config)), tokenizer, "chatml")
    sums, counts = own.loglikelihood(["the red"], None, ["ball"], end=True)
    expected, count = _log_prob(own, "the red", [], "ball", end=True)
    turns = [Turn("human", "the red"), Turn("gpt", "ball")]
    whole = encode(turns, tokenizer, get_template("chatml"), 4)
    assert whole.tokens[whole.labels != -100][-1] == tokenizer.get_vocab()["<|im_end|>"]
    # Training has the line's end behind the mark too, unsupervised: it is no part of the answer.
    extra = len(whole) - 1 - int(np.flatnonzero(whole.labels != -100)[-1])
    logs = jax.nn.log_softmax(own.logits(whole.tokens[None])[0])
    tail = sum(float(logs[i - 1, whole.tokens[i]]) for i in range(len(whole) - extra, len(whole)))
    np.testing.assert_allclose(sums[0], expected - tail, atol=1e-4)
    assert counts[0] == count - extra


def test_a_model_cut_over_devices_answers_the_same(model: Model, tmp_path: Path) -> None:
    orbax.save_model(tmp_path / "own", model.params, model.config, model.tokenizer, model.template)
    prompts = ["the red ball", "is it on the left or is it on the right", "like"]
    images = [_image(0), None, [_image(8), _image(9)]]
    candidates = ["red", "the blue box is on the left", "3 of 10"]
    expected = model.generate(prompts, images, max_new_tokens=8)
    scores = model.score(prompts, images, candidates)
    ids = np.array([[7, 8, 9]])
    # Two of tensor: six heads and two of keys divide by it. Three prompts are four rows over the data axis.
    cut = jaxllava.load(tmp_path / "own", mesh=make_mesh((2, 1, 2), jax.devices()[:4]))
    kernel = cut.params["decoder"]["layers"]["mlp"]["up_proj"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 2 == kernel.size
    assert cut.generate(prompts, images, max_new_tokens=8) == expected
    np.testing.assert_allclose(cut.score(prompts, images, candidates), scores, rtol=0, atol=2e-5)
    np.testing.assert_allclose(cut.logits(ids), model.logits(ids), rtol=0, atol=2e-5)


def test_a_mesh_to_answer_with_leaves_room_for_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_mesh(10**9).shape == {
        "data": 8,
        "fsdp": 1,
        "tensor": 1,
    }  # memory of a CPU is not the devices'

    class Chip:
        platform = "tpu"

        def memory_stats(self) -> dict[str, int]:
            return {"bytes_limit": 16 * 10**9}

    chips = [Chip() for _ in range(4)]
    monkeypatch.setattr(jax, "local_devices", lambda: chips)
    monkeypatch.setattr(sharding, "make_mesh", lambda shape, devices: shape)
    assert [local_mesh(n * 10**9) for n in (7, 14, 30, 90)] == [(4, 1, 1), (2, 1, 2), (1, 1, 4), (1, 1, 4)]
    monkeypatch.setattr(jax, "local_devices", lambda: chips[:1])
    assert local_mesh(14 * 10**9) is None


def test_candidates_of_each_prompt(model: Model) -> None:
    prompts, images = ["<image>\nwhich colour", "how many"], [_image(3), None]
    own = [["red", "the blue box"], ["3", "4", "5 of 10"]]
    got = model.score(prompts, images, own, end=False)
    assert got.shape == (2, 3) and got[0, 2] == -np.inf
    for row, prompt, image, texts in zip(got, prompts, images, own, strict=True):
        alone = model.score([prompt], [image], texts, end=False)[0]
        np.testing.assert_allclose(row[: len(texts)], alone, rtol=0, atol=2e-5)
    with pytest.raises(UserError, match="1 lists of candidates for 2"):
        model.score(prompts, images, own[:1])
    with pytest.raises(UserError, match="no candidates for a prompt"):
        model.score(prompts, images, [["a"], []])
