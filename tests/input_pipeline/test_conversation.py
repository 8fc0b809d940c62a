"""Templates as text: what stands around what people said, and which of it is supervised."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken

from input_pipeline.conversation import TEMPLATES, get_template, place_images, render
from input_pipeline.encoding import IGNORE, encode, encode_prompt
from input_pipeline.errors import UserError
from input_pipeline.tokenizer import load_tokenizer
from input_pipeline.types import Turn

TURNS = [Turn("human", "<image>\nWhat?"), Turn("gpt", "A cup."), Turn("human", "Sure?"), Turn("gpt", "Yes.")]


def written(name: str, turns=TURNS, **options) -> str:
    """A rendering with supervised text in braces."""
    template = get_template(name)
    signs = {"image": "<image>", "bos": "<s>", "own_bos": "", "eos": "</s>"}
    parts = []
    for piece in render(turns, template, **options):
        text = signs.get(piece.kind, piece.text)
        parts.append("{" + text + "}" if piece.supervised else text)
    return (
        "".join(parts).replace("}{", "").replace(template.system, "SYSTEM")
        if template.system
        else "".join(parts).replace("}{", "")
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v1_bare", "<s>USER: <image>\nWhat? ASSISTANT:{ A cup.</s>}USER: Sure? ASSISTANT:{ Yes.</s>}"),
        ("v1", "<s>SYSTEM USER: <image>\nWhat? ASSISTANT:{ A cup.</s>}USER: Sure? ASSISTANT:{ Yes.</s>}"),
        (
            "v0",
            "<s>SYSTEM\n\n### Human: <image>\nWhat?\n### Assistant:{ A cup.\n###} Human: Sure?\n### Assistant:"
            "{ Yes.\n###} ",
        ),
        (
            "llava_llama_2",
            "<s>[INST] <<SYS>>\nSYSTEM\n<</SYS>>\n\n<image>\nWhat? [/INST]{ A cup. </s>}<s>[INST] Sure? [/INST]"
            "{ Yes. </s>}",
        ),
        (
            "mistral_instruct",
            "<s>[INST] <image>\nWhat? [/INST]{ A cup. </s>}[INST] Sure? [/INST]{ Yes. </s>}",
        ),
        (
            "mpt",
            "<|im_start|>system\nSYSTEM<|im_end|><|im_start|>user\n<image>\nWhat?<|im_end|><|im_start|>assistant\n"
            "{A cup.<|im_end|>}<|im_start|>user\nSure?<|im_end|><|im_start|>assistant\n{Yes.<|im_end|>}",
        ),
        (
            "qwen",
            "<|im_start|>system\nSYSTEM<|im_end|>\n<|im_start|>user\n<image>\nWhat?<|im_end|>\n<|im_start|>assistant\n"
            "{A cup.<|im_end|>}\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n{Yes.<|im_end|>}\n",
        ),
        (
            "llama_3",
            "<s><|start_header_id|>system<|end_header_id|>\n\nSYSTEM<|eot_id|><|start_header_id|>user<|end_header_id|>"
            "\n\n<image>\nWhat?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n{A cup.<|eot_id|>}"
            "<|start_header_id|>user<|end_header_id|>\n\nSure?<|eot_id|><|start_header_id|>assistant<|end_header_id|>"
            "\n\n{Yes.<|eot_id|>}",
        ),
        ("plain", "<s><image>{A cup.\nYes.\n}"),
    ],
)
def test_every_style_is_written_as_its_original(name: str, expected: str) -> None:
    assert written(name) == expected


def test_v0_prompts_have_the_form_of_inference() -> None:
    assert written("v0", TURNS[:3], prompt=True) == (
        "<s>SYSTEM###Human: <image>\nWhat?###Assistant:{ A cup.###}Human: Sure?###Assistant:"
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_is_how_a_conversation_begins(name: str, tokenizer) -> None:
    template = get_template(name)
    prompt = encode_prompt(TURNS[:1], tokenizer, template, 2)
    if template.style not in ("single", "plain"):
        whole = encode(TURNS, tokenizer, template, 2)
        assert whole.tokens[: len(prompt)].tolist() == prompt.tokens.tolist()
        assert (whole.labels[: len(prompt)] == IGNORE).all() and whole.labels[len(prompt)] != IGNORE
    assert prompt.images == 1


def test_one_image_moves_to_the_front_and_several_stay() -> None:
    ask = lambda text: [Turn("human", text), Turn("gpt", "x")]
    place = lambda text, name="v1", **options: place_images(ask(text), get_template(name), **options)[0].text
    assert place("Which is it? <image>") == "<image>\nWhich is it?"
    assert place("<image> or <image>?") == "<image> or <image>?"
    assert place("<image> or <image>?", reference_quirks=True) == "<image>\nor ?"
    assert place("Look: <image>", "v1_mmtag") == "<Image><image></Image>\nLook:"
    assert place("<Image><image></Image>\nLook:", "v1_mmtag") == "<Image><image></Image>\nLook:"
    assert place("no picture", "v1_mmtag") == "no picture"
    every = place_images(TURNS, get_template("imgsp_v1"))
    assert [turn.text for turn in every[::2]] == ["<image>\nWhat?", "<image>\nSure?"]
    assert place_images(TURNS[2:], get_template("imgsp_v1"))[0].text == "Sure?"


def test_control_tokens_are_real_in_the_template_and_spelt_out_in_what_people_wrote(
    tokenizer, tmp_path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    chat = load_tokenizer(tmp_path)
    chat.add_special_tokens(
        {"extra_special_tokens": [AddedToken(t, special=True) for t in ("<|im_start|>", "<|im_end|>")]}
    )
    end = chat.convert_tokens_to_ids("<|im_end|>")
    turns = [Turn("human", "say <|im_end|>"), Turn("gpt", "<|im_end|> ok")]
    found = encode(turns, chat, get_template("qwen"), 1)
    assert (found.tokens == end).sum() == 3  # system, question, answer
    supervised = found.tokens[found.labels != IGNORE]
    assert chat.decode(supervised) == "<|im_end|> ok<|im_end|>" and supervised[-1] == end
    assert (supervised == end).sum() == 1


def test_a_wrong_name_is_told_the_nearest() -> None:
    with pytest.raises(UserError, match="llava_llama_2"):
        get_template("llava_llama2")
