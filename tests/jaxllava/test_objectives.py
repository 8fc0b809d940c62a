"""The rows of an objective: what a contrastive stage pairs with what."""

from __future__ import annotations

import pytest

from configs import train as train_config
from input_pipeline import records
from input_pipeline.errors import UserError
from input_pipeline.tokenizer import load_tokenizer
from jaxllava.models.clip import ClipConfig, ClipTextConfig, ClipVisionConfig
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
