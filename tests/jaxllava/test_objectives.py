"""The rows of an objective: what a contrastive stage pairs with what."""

from __future__ import annotations

import numpy as np
import pytest

from configs import train as train_config
from input_pipeline import records
from input_pipeline.errors import UserError
from input_pipeline.tokenizer import load_tokenizer
from jaxllava.models.clip import ClipConfig, ClipTextConfig, ClipVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.objectives import make_objective


@pytest.fixture(scope="module")
def contrastive(plaza):
    tokenizer = load_tokenizer(plaza / "tokenizer")

    def rows(*mixture):
        config = train_config.get_config("stage=align")
        config.update(data=str(plaza / "data" / "records"), mixture=mixture, row_tokens=64)
        vision = ClipVisionConfig(16, 32, 2, 2, image_size=32, patch_size=16)
        text = ClipTextConfig(16, 32, 2, 2, vocab_size=len(tokenizer), max_positions=64)
        return make_objective(config, ClipConfig(vision, text)).rows(tokenizer, None)

    return tokenizer, rows


def test_clip_pairs_a_post_s_picture_with_its_title_and_a_caption_s_with_the_caption(plaza, contrastive):
    tokenizer, rows = contrastive
    posts = records.open_split(plaza / "data" / "records", "ad_train")
    captions = records.open_split(plaza / "data" / "records", "caption_train")
    found, facts = rows(("ad_train", 1.0), ("caption_train", 0.5))
    assert facts["samples"] == len(found) == len(posts) + round(len(posts) * 0.5)
    texts = [tokenizer.decode(row["tokens"][: row["text_length"]], skip_special_tokens=True) for row in found]
    assert texts[: len(posts)] == [post.meta["title"] for post in posts]
    assert set(texts[len(posts) :]) <= {caption.conversations[1].text for caption in captions}
    alone, _ = rows(("caption_train", 1.0))
    pictures = {alone[i]["images"].tobytes() for i in range(len(alone))}
    assert all(found[i]["images"].tobytes() in pictures for i in range(len(posts), len(found)))
    assert not any(found[i]["images"].tobytes() in pictures for i in range(len(posts)))


def test_a_record_without_a_picture_is_named(contrastive):
    _, rows = contrastive
    with pytest.raises(
        UserError, match=r"record \S+ \(chat\) has 0 images and a contrastive stage needs one"
    ):
        rows(("chat_train", 1.0))


@pytest.fixture(scope="module")
def causal(plaza):
    tokenizer = load_tokenizer(plaza / "tokenizer")
    vision = ClipVisionConfig(16, 32, 2, 2, image_size=32, patch_size=16)
    decoder = LlamaConfig(len(tokenizer), 16, 32, 2, 2)
    model = LlavaConfig(vision, decoder, tokenizer.convert_tokens_to_ids("<image>"))

    def rows(**changes):
        config = train_config.get_config("stage=behavior")
        config.update(data=str(plaza / "data" / "records"), template="v1_bare", row_tokens=512, batch=8)
        config.update(changes)
        return make_objective(config, model).rows(tokenizer, None)

    return rows


def seen(rows) -> np.ndarray:
    return np.sort(rows.plan.samples)


def test_one_pass_is_whole_batches_that_hold_each_sample_once(causal):
    rows, facts = causal(steps=0)
    assert len(rows) == facts["rows"] == facts["steps"] * facts["batch"]
    assert facts["batch"] == 8
    np.testing.assert_array_equal(seen(rows), np.arange(facts["samples"]))
    some, other = causal(steps=5)
    assert len(some) == other["rows"] <= len(rows)
    assert other["steps"] == facts["steps"] == -(-len(some) // 8)
    tokens = sum((rows[index]["segment_ids"] > 0).sum() for index in range(len(rows)))
    assert facts["fill"] == pytest.approx(tokens / len(rows) / 512, abs=1e-4)
    images = sum(rows[index]["image_index"].max() + 1 for index in range(len(rows))) // 4
    assert facts["image_fill"] == pytest.approx(images / len(rows) / 4, abs=1e-4)
    assert facts["lengths"] == [512]


def test_sources_are_the_entries_of_the_mixture(causal):
    rows, _ = causal(mixture=(("instruct_train", 1.0), ("chat_train", 0.5)))
    with_image = [
        set(row["sources"][row["image_index"] >= 0].tolist())
        for row in map(rows.__getitem__, range(len(rows)))
    ]
    assert set().union(*with_image) == {0}, "chats have no images"
    assert {1} < set(np.concatenate([rows[index]["sources"] for index in range(len(rows))]).tolist())


def test_a_step_may_be_asked_for_in_samples(causal):
    _, facts = causal(samples_per_step=40)
    assert facts["batch"] == max(8 * round(40 * len(causal()[0]) / facts["samples"] / 8), 8)
    _, facts = causal(samples_per_step=16, batching="padded")
    assert facts["batch"] == 16


@pytest.mark.parametrize("batching", ["padded", "padded_random"])
def test_padded_epochs_are_one_sample_a_row(causal, batching):
    rows, facts = causal(batching=batching, mixture_epochs=2.0, pad_multiple=64)
    assert rows.ordered
    assert len(rows) == facts["rows"] == facts["steps"] * 8
    np.testing.assert_array_equal(seen(rows), np.arange(facts["samples"]))
    assert set(np.diff(rows.plan.starts).tolist()) <= {0, 1}
    assert all(length % 64 == 0 for length in facts["lengths"])
    half = facts["rows"] // 2
    per_epoch = [np.sort(rows.pairs[rows.plan.samples[: facts["samples"] // 2]], axis=0)]
    assert rows.plan.starts[half] == len(per_epoch[0]), "an epoch ends with a batch"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batching": "paded"}, r"config\.batching: 'paded' is not known\. Did you mean 'padded'"),
        ({"template": "chatml"}, r"no control token <\|im_start\|>"),
        ({"row_images": 0}, r"raise config\.row_images"),
        ({"mixture_epochs": 0.0001}, r"config\.mixture_epochs=0\.0001 of \d+ samples is no sample"),
    ],
)
def test_what_cannot_be_read_is_one_clear_error(causal, changes, message):
    with pytest.raises(UserError, match=message):
        causal(**changes)
