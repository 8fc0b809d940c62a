"""Tokenizer, template and model that do not go together are found before the first step."""

from __future__ import annotations

import copy

import pytest

from input_pipeline.conversation import TEMPLATES, get_template
from input_pipeline.errors import UserError
from input_pipeline.tokenizer_check import check_tokenizer, control_tokens


def test_the_control_tokens_of_templates():
    assert control_tokens(TEMPLATES["chatml"]) == ["<|im_start|>", "<|im_end|>"]
    assert control_tokens(TEMPLATES["llama_3"]) == ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    assert control_tokens(get_template("v0+im_start_end")) == ["<im_start>", "<im_end>"]
    assert [name for name in TEMPLATES if control_tokens(TEMPLATES[name])] == [
        "mpt", "chatml_direct", "mistral_direct", "chatml", "qwen", "llama_3",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["v1_bare", "vicuna_v1", "v0", "llama_2", "plain"])
def test_what_belongs_together_passes(tokenizer, name):
    check_tokenizer(tokenizer, TEMPLATES[name], len(tokenizer))


def test_a_template_whose_control_tokens_the_tokenizer_lacks_is_an_error(tokenizer):
    with pytest.raises(
        UserError, match=r"no control token <\|im_start\|>, <\|im_end\|>, of which template 'chatml'"
    ):
        check_tokenizer(tokenizer, TEMPLATES["chatml"], 10_000)
    grown = copy.deepcopy(tokenizer)
    grown.add_special_tokens({"extra_special_tokens": ["<image>", "<|im_start|>", "<|im_end|>"]})
    check_tokenizer(grown, TEMPLATES["chatml"], len(grown))
    with pytest.raises(
        UserError, match=r"token '<\|im_end\|>' of id \d+, and the model's vocabulary ends at"
    ):
        check_tokenizer(grown, TEMPLATES["chatml"], len(grown) - 1)
    check_tokenizer(grown, TEMPLATES["v1_bare"], len(grown) - 2)


def test_a_larger_tokenizer_than_the_model_is_an_error(tokenizer):
    with pytest.raises(UserError, match=rf"id {len(tokenizer) - 1}, .* ends at {len(tokenizer) - 2}"):
        check_tokenizer(tokenizer, TEMPLATES["v1_bare"], len(tokenizer) - 1)


def test_the_image_token_may_lie_behind_the_vocabulary(tokenizer):
    """Original LLaVA has 32,000 embeddings and an <image> that is never embedded."""
    grown = copy.deepcopy(tokenizer)
    grown.add_special_tokens({"extra_special_tokens": ["<far>"]})
    check_tokenizer(grown, TEMPLATES["v1_bare"], len(tokenizer))
    grown.pad_token = "<far>"
    with pytest.raises(UserError, match="token '<far>'"):
        check_tokenizer(grown, TEMPLATES["v1_bare"], len(tokenizer))


def test_a_tokenizer_without_an_end_is_an_error(tokenizer):
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    with pytest.raises(UserError, match="has no eos_token, which template 'v1_bare' needs"):
        check_tokenizer(endless, TEMPLATES["v1_bare"], len(tokenizer))
