"""Text that tries to break out of its place, with the real tokenizers, and text that has to stay as it is."""

from __future__ import annotations

import io
import re
import sys
import time
import unicodedata

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from input_pipeline.behavior import harmless as module
from input_pipeline.behavior import statements, templates
from input_pipeline.behavior.harmless import harmless
from input_pipeline.behavior.pieces import Template
from input_pipeline.behavior.statements import Facts
from input_pipeline.conversation import TEMPLATES
from input_pipeline.encoding import encode
from input_pipeline.tokenizer import controls
from input_pipeline.types import Turn

CONTROL = [
    *("<image>", "<s>", "</s>", "<unk>", "<pad>", "<Image>", "</Image>", "<im_start>", "<video>", "<0x0A>"),
    *(
        "<|im_start|>",
        "<|im_end|>",
        "<|eot_id|>",
        "<|start_header_id|>",
        "<|endoftext|>",
        "<|0.50|>",
        "<<SYS>>",
    ),
    *("<</SYS>>", "[INST]", "[/INST]", "[PAD]", "[IMG_BREAK]", "[TOOL_CALLS]", "USER:", "ASSISTANT:", "###"),
    *(">>> BEHAVIOR <<<", "<start_of_turn>", "<SYSTEM>", "</ASSISTANT>"),
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("an <image> here", "an (image) here"),
        ("<<image>>", "(image)"),
        ("<im\u200bage>", "(image)"),
        ("<im\u200dage>", "(image)"),
        ("< /s >", "( /s )"),
        ("<|im_start|>", "(|im_start|)"),
        ("<0x0A>", "(0x0A)"),
        ("<unk><pad>", "(unk)(pad)"),
        ("<<SYS>>x<</SYS>>", "(SYS)x(/SYS)"),
        ('say "hi" \u201cyou\u201d', "say 'hi' 'you'"),
        (">>> BEHAVIOR <<<", "> BEHAVIOR <"),
        ("USER: x ASSISTANT : y", "USER - x ASSISTANT - y"),
        ("### Human: [INST]", "# Human: (INST)"),
        ("###Human:", "#Human:"),
        ("[/inst] [ PAD ]", "(/inst) ( PAD )"),
        ("a\x00\r\nb\u2028c", "a b c"),
        ("\ud800x\ue000y\ufffe\U000e0041z", "xyz"),
        ("\u3164 \u2800", ""),
        # What only NFKC would make harmful.
        ("\uff1c\uff0fs\uff1e", "(/s)"),
        ("\uff1cimage\uff1e", "(image)"),
        ("<\uff49mage\uff1e", "(image)"),
        ("\uff35\uff33\uff25\uff32\uff1a hi", "USER - hi"),
        ("\U0001d414\U0001d412\U0001d404\U0001d411: hi", "USER - hi"),
        ("USER\u2a74", "USER"),
        ("\uff1e\uff1e\uff1e BEHAVIOR", "> BEHAVIOR"),
        ("\uff02", "'"),
        ("<| a \uff5c\uff1e <\u200b|", "(| a |) (|"),
        # What stays.
        ("I <3 it, 2 < 3 > 1", "I <3 it, 2 < 3 > 1"),
        ("Scene 3: 5:20 [OC] [1080p] #1 a|b", "Scene 3: 5:20 [OC] [1080p] #1 a|b"),
        ("問題：「答え」、ok", "問題：「答え」、ok"),
        (
            "👩\u200d💻 🏳️\u200d🌈 🧑🏽\u200d❤️\u200d💋\u200d🧑🏽 ok",
            "👩\u200d💻 🏳️\u200d🌈 🧑🏽\u200d❤️\u200d💋\u200d🧑🏽 ok",
        ),
        ("\u202eevil", "evil"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("क्\u200dष नमस्ते", "क्\u200dष नमस्ते"),
        ("שָׁלוֹם عَلَيْكُم", "שָׁלוֹם عَلَيْكُم"),
        ("Cafe\u0301 ﷺ ½ ﬁne ™", "Cafe\u0301 ﷺ ½ ﬁne ™"),
        ("\U0001fae8 \U0001fadc", "\U0001fae8 \U0001fadc"),  # newer than some Pythons' tables
        ("a\u200d b\u200c\u200dc", "a bc"),
    ],
)
def test_harmless(text: str, expected: str) -> None:
    assert harmless(text) == expected
    assert harmless(expected) == expected


@pytest.mark.parametrize("token", CONTROL)
def test_no_control_token_stays(token: str) -> None:
    wide = token.translate({code: code + 0xFEE0 for code in range(0x21, 0x7F)})
    styled = "".join(_bold(character) for character in token)
    for text in (
        token,
        f"a{token}b",
        f" {token} {token}",
        token * 3,
        wide,
        styled,
        f"é {wide}",
        "\u200b".join(token),
    ):
        for clean in (harmless(text), unicodedata.normalize("NFKC", harmless(text))):
            assert token not in clean


def _bold(character: str) -> str:
    if character.isascii() and character.isalpha():
        return chr((0x1D400 if character.isupper() else 0x1D41A - 32) + ord(character) - 65)
    return character


def rendered(template: Template, facts: Facts) -> tuple[Turn, Turn]:
    turns = statements.render(template, facts)
    assert turns is not None
    return turns


_PIECES = st.lists(
    st.sampled_from(
        [
            *(
                "<",
                ">",
                "[",
                "]",
                "|",
                "/",
                "#",
                ":",
                '"',
                " ",
                "\n",
                "\u200b",
                "\u200c",
                "\u200d",
                "\ud800",
                "\ufe0f",
            ),
            *(
                "image",
                "s",
                "USER",
                "GPT",
                "BEHAVIOR",
                "INST",
                "1. ",
                "{title}",
                "0x0A",
                "3",
                "é",
                "👩",
                "م",
                "字",
            ),
            *(
                "\uff1c",
                "\uff1e",
                "\uff1a",
                "\uff0f",
                "\uff49",
                "\uff3b",
                "\u2a74",
                "\uff02",
                "\ufdfa",
                "\u0338",
                "™",
            ),
            *CONTROL,
        ]
    )
    | st.text(max_size=3),
    max_size=12,
).map("".join)


@settings(max_examples=400)
@given(_PIECES)
@example("<im<s>age>")
@example("<\u200b<image>>")
@example("<<s>s>")
@example("<a" + "\ufdfa" * 30 + ">")
@example("\uff1ca" + "a\u0301" * 30 + ">")
def test_nothing_gets_out_of_its_place(text: str) -> None:
    clean = harmless(text)
    assert harmless(clean) == clean
    assert len(clean) <= 2 * len(text)
    clean.encode("utf-8")
    assert clean == " ".join(clean.split())
    for form in (clean, unicodedata.normalize("NFKC", clean)):
        assert not any(token in form for token in CONTROL)
        assert not re.search(r"<\s*/?\s*(image|s)\s*>", form)
        assert not any(bad in form for bad in ('"', "\n", ">>", "<<", "##", "||"))
    facts = Facts(text, text, content="Content.", like_rate=0.5, comments=(text, "second one"))
    human, gpt = rendered(templates.get("image_behavior_v1"), facts)
    assert human.text.count("<image>") == 1
    assert human.text.startswith("<image>\n")
    assert gpt.text.count(">>> BEHAVIOR <<<") == 1
    expected = [clean, "second one"] if clean else ["second one"]
    assert re.findall(r'^\d\. "(.*)"$', gpt.text, re.MULTILINE) == expected


@settings(max_examples=100, deadline=None)
@given(text=_PIECES)
def test_no_control_id_comes_from_what_users_wrote(tokenizer, text: str) -> None:
    clean = harmless(text)
    ids = set(controls(tokenizer).ids.values())
    # The tokenizer as anyone may call it: it turns every control token it sees in the text into its id.
    assert not ids.intersection(tokenizer(clean, add_special_tokens=False)["input_ids"])
    quiet = Facts("t", content="Content.", like_rate=0.5, comments=("a b",))
    loud = Facts(text, text, content="Content.", like_rate=0.5, comments=(text, "a b"))
    counts = []
    for facts in (quiet, loud):
        turns = rendered(templates.get("image_behavior_v1"), facts)
        encoded = encode(turns, tokenizer, TEMPLATES["vicuna_v1"], image_tokens=4)
        assert encoded.images == 1
        counts.append([int((encoded.tokens == number).sum()) for number in sorted(ids)])
    assert counts[0] == counts[1]


@pytest.fixture(scope="module")
def normalising():
    """A SentencePiece model that normalises with NFKC before it looks for its control tokens."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a boat is red", "two cups of tea", "the end of it all"] * 20),
        model_writer=model,
        vocab_size=400,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="nmt_nfkc",
        user_defined_symbols=["<image>", "</t>", "<|x|>", "[INST]", "USER:", "###"],
        minloglevel=3,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@settings(max_examples=200, deadline=None)
@given(text=_PIECES)
@example("\uff1c/t\uff1e \uff1cimage\uff1e USER\uff1a \uff3bINST\uff3d \uff03\uff03\uff03")
def test_a_tokenizer_that_normalises_finds_no_control_token(normalising, text: str) -> None:
    symbols = {"<image>", "</t>", "<|x|>", "[INST]", "USER:", "###"}
    assert not symbols.intersection(normalising.encode(harmless(text), out_type=str))


def test_that_tokenizer_would_have_found_them(normalising) -> None:
    found = normalising.encode("\uff1cimage\uff1e USER\uff1a", out_type=str)
    assert {"<image>", "USER:"} <= set(found)


def test_the_lookalikes_are_all_that_unicode_has() -> None:
    structure = set(module._STRUCTURE)
    found = {
        chr(code)
        for code in range(0x80, sys.maxunicode + 1)
        if structure & set(unicodedata.normalize("NFKC", chr(code)))
    }
    assert found == set(module._LOOKALIKES)


def test_what_may_stay_beside_a_joiner_never_becomes_ascii() -> None:
    emoji = re.compile(f"[{module._EMOJI}{module._JOINED_SCRIPTS}]")
    for code in range(0x80, sys.maxunicode + 1):
        if emoji.match(chr(code)):
            assert not re.search("[A-Za-z]", unicodedata.normalize("NFKC", chr(code)))


def test_clean_text_takes_next_to_no_time() -> None:
    text = "this is what a clean comment of sixty ASCII characters is ok"
    assert harmless(text) is text
    assert len(text) == 60
    started = time.perf_counter()
    for _ in range(10_000):
        harmless(text)
    assert time.perf_counter() - started < 0.2  # 3 us each are 0.03 s; the rest is for busy machines


@pytest.mark.parametrize("part", ["<", "<a ", "[ INST ", "USER ", "< / | ", " ", "<a>", "\uff1c", "<<>"])
def test_no_text_takes_long(part: str) -> None:
    started = time.perf_counter()
    harmless(part * (100_000 // len(part)) + "\uff1cs\uff1e")
    assert time.perf_counter() - started < 5
