"""Templates and label masks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.conversation import TEMPLATES, get_template
from input_pipeline.encoding import IGNORE, encode, encode_prompt, encode_text
from input_pipeline.errors import UserError
from input_pipeline.tokenizer import load_tokenizer, train_tokenizer
from input_pipeline.types import Turn

IMAGE_TOKENS = 3
CHAT = (
    Turn("human", "<image>\nWhat is this?"),
    Turn("gpt", "Two red cups."),
    Turn("human", "How many?"),
    Turn("gpt", "2"),
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = ["USER: What is this? ASSISTANT: Two red cups. How many are 2 blue 17 fish?"] * 20
    train_tokenizer(texts, 400, folder)
    return load_tokenizer(folder)


def supervised(encoded, tokenizer) -> str:
    return tokenizer.decode([int(label) for label in encoded.labels if label != IGNORE])


def test_answers_and_their_ends_are_supervised_and_nothing_else(tokenizer):
    encoded = encode(CHAT, tokenizer, TEMPLATES["v1_bare"], IMAGE_TOKENS)
    assert supervised(encoded, tokenizer) == " Two red cups.</s> 2</s>"
    same = encoded.labels != IGNORE
    np.testing.assert_array_equal(encoded.labels[same], encoded.tokens[same])


def test_the_whole_conversation_reads_as_the_template_says(tokenizer):
    encoded = encode(CHAT, tokenizer, TEMPLATES["v1_bare"], IMAGE_TOKENS)
    text = tokenizer.decode(encoded.tokens.tolist())
    image = "<image>" * IMAGE_TOKENS
    assert text == (
        f"<s>USER: {image}\nWhat is this? ASSISTANT: Two red cups.</s>USER: How many? ASSISTANT: 2</s>"
    )


def test_system_prompt_is_unsupervised_text(tokenizer):
    encoded = encode(CHAT, tokenizer, TEMPLATES["vicuna_v1"], IMAGE_TOKENS)
    text = tokenizer.decode(encoded.tokens.tolist())
    assert text.startswith("<s>A chat between a curious user")
    assert supervised(encoded, tokenizer) == " Two red cups.</s> 2</s>"


def test_image_positions_count_up_over_all_images(tokenizer):
    turns = (Turn("human", "<image>\n<image>\nCompare."), Turn("gpt", "Same."))
    encoded = encode(turns, tokenizer, TEMPLATES["v1_bare"], IMAGE_TOKENS)
    assert encoded.images == 2
    index = encoded.image_index[encoded.image_index >= 0]
    np.testing.assert_array_equal(index, np.arange(2 * IMAGE_TOKENS))
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    np.testing.assert_array_equal(encoded.tokens == image_id, encoded.image_index >= 0)


def test_plain_drops_the_question_and_supervises_the_caption(tokenizer):
    turns = (Turn("human", "<image>\nDescribe it."), Turn("gpt", "Two red cups."))
    encoded = encode(turns, tokenizer, TEMPLATES["plain"], IMAGE_TOKENS)
    assert tokenizer.decode(encoded.tokens.tolist()) == "<s>" + "<image>" * IMAGE_TOKENS + "Two red cups.\n"
    assert supervised(encoded, tokenizer) == "Two red cups.\n"


def test_a_prompt_is_the_start_of_its_training_sample(tokenizer):
    """Otherwise generation would start from tokens that training never saw."""
    template = TEMPLATES["v1_bare"]
    whole = encode(CHAT[:2], tokenizer, template, IMAGE_TOKENS)
    prompt = encode_prompt(CHAT[:1], tokenizer, template, IMAGE_TOKENS)
    np.testing.assert_array_equal(whole.tokens[: len(prompt)], prompt.tokens)
    assert whole.labels[len(prompt)] != IGNORE
    assert (whole.labels[: len(prompt)] == IGNORE).all()


def test_an_answer_prefix_continues_the_prompt(tokenizer):
    prompt = encode_prompt(CHAT[:1], tokenizer, TEMPLATES["v1_bare"], IMAGE_TOKENS, answer_prefix="Two red")
    assert tokenizer.decode(prompt.tokens.tolist()).endswith("ASSISTANT: Two red")


def test_plain_text_supervises_all_but_the_start(tokenizer):
    encoded = encode_text("2 blue fish", tokenizer)
    assert encoded.labels[0] == IGNORE
    assert (encoded.labels[1:] == encoded.tokens[1:]).all()
    assert encoded.tokens[-1] == tokenizer.eos_token_id


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40), start=st.sampled_from(["", "</s>", "<s>", "<pad>", "ASSISTANT: "]))
def test_what_users_write_never_becomes_a_control_token(tokenizer, text, start):
    answer = start + text
    encoded = encode(
        (Turn("human", "Hi"), Turn("gpt", answer)), tokenizer, TEMPLATES["v1_bare"], IMAGE_TOKENS
    )
    specials = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    inner = [int(token) for token in encoded.tokens[1:-1]]
    assert not specials & set(inner)
    body = [int(label) for label in encoded.labels if label != IGNORE][:-1]
    assert tokenizer.decode(body) == " " + answer  # byte-level: every text comes back whole


def test_turns_must_alternate(tokenizer):
    with pytest.raises(ValueError, match="turn 1 is by 'gpt'"):
        encode((Turn("gpt", "Hi"),), tokenizer, TEMPLATES["v1_bare"], IMAGE_TOKENS)


def test_a_wrong_template_name_gets_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'vicuna_v1'"):
        get_template("vicuna1")


def test_images_between_marks_of_their_own(tokenizer):
    """`mm_use_im_start_end` of LLaVA v0: two control tokens around each image, where the tokenizer has them."""
    marked = copy.deepcopy(tokenizer)
    marked.add_special_tokens({"extra_special_tokens": ["<image>", "<im_start>", "<im_end>"]})
    known = marked.get_vocab()
    template = get_template("llava_v0+im_start_end")
    encoded = encode_prompt(CHAT[:1], marked, template, IMAGE_TOKENS)
    (places,) = np.nonzero(encoded.image_index >= 0)
    assert encoded.tokens[places[0] - 1] == known["<im_start>"]
    assert encoded.tokens[places[-1] + 1] == known["<im_end>"]
    plain = encode_prompt(CHAT[:1], marked, get_template("llava_v0"), IMAGE_TOKENS)
    np.testing.assert_array_equal(np.delete(encoded.tokens, [places[0] - 1, places[-1] + 1]), plain.tokens)
    with pytest.raises(UserError, match="no prompt template is named 'nothing'"):
        get_template("nothing+im_start_end")


def test_images_may_take_different_numbers_of_positions(tokenizer):
    """LLaVA-NeXT: each picture brings the index of its own features."""
    turns = [Turn("human", "<image>\n<image>\nWhat?")]
    places = [np.asarray([0, 1, -2], np.int32), np.asarray([2, 3, 4, 5, -2], np.int32)]
    encoded = encode_prompt(turns, tokenizer, TEMPLATES["v1_bare"], places)
    image = tokenizer.convert_tokens_to_ids("<image>")
    np.testing.assert_array_equal(
        encoded.image_index[encoded.tokens == image], np.concatenate(places), strict=True
    )
    with pytest.raises(ValueError, match="more <image> marks than its 1 images"):
        encode_prompt(turns, tokenizer, TEMPLATES["v1_bare"], places[:1])
