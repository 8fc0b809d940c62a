"""Prompt templates and label masks: a conversation becomes token ids, labels and image positions.

A template turns a conversation into *pieces*: text that is supervised or not, control tokens, and images. Each run of
text between control tokens is tokenised as one string and its labels are read off the character offsets, so a label
mask cannot drift against its tokens (the reference counts tokens of re-tokenised parts and masks the whole sample when
the counts disagree; LLaVA `train.py` `preprocess_v1`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerFast

from input_pipeline.errors import UserError, nearest
from input_pipeline.tokenizer import IMAGE_TOKEN, plain_encoding, special_id
from input_pipeline.types import Turn

IGNORE = -100  # label of an unsupervised position, as in torch and the reference

_CURIOUS_USER = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_CURIOUS_HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)


@dataclass(frozen=True)
class Template:
    """How turns are written. `two`: `USER: q ASSISTANT: a</s>` (Vicuna v1); `plain`: `<image>caption\\n`."""

    name: str
    style: Literal["two", "plain"]
    system: str = ""
    human: str = "USER"
    gpt: str = "ASSISTANT"


TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        Template("vicuna_v1", "two", _CURIOUS_USER),
        Template("llava_v1", "two", _CURIOUS_HUMAN),
        # No system prompt: the format of Hugging Face's LLaVA-1.5 chat template, and short enough for tiny models.
        Template("v1_bare", "two"),
        Template("plain", "plain"),
    )
}


def get_template(name: str) -> Template:
    """Looks a template up by name; a wrong name is a UserError with the nearest valid one."""
    if name not in TEMPLATES:
        raise UserError(f"no prompt template is named {name!r}.{nearest(name, TEMPLATES)}")
    return TEMPLATES[name]


@dataclass(frozen=True)
class Piece:
    """A stretch of a rendered conversation: text, or a control token named by `kind`."""

    kind: Literal["text", "image", "bos", "eos"]
    text: str = ""
    supervised: bool = False


@dataclass(frozen=True)
class Encoded:
    """One conversation as arrays: tokens int32 [L], labels int32 [L] (unshifted), image_index int32 [L] (-1 = text)."""

    tokens: np.ndarray
    labels: np.ndarray
    image_index: np.ndarray
    images: int

    def __len__(self) -> int:
        return len(self.tokens)


def _human_pieces(text: str) -> Iterator[Piece]:
    chunks = text.split(IMAGE_TOKEN)
    for index, chunk in enumerate(chunks):
        if index:
            yield Piece("image")
        if chunk:
            yield Piece("text", chunk)


def render(turns: Sequence[Turn], template: Template) -> list[Piece]:
    """Renders finished turns. In `plain` the question is dropped, as the reference does in stage 1."""
    if template.style == "plain":
        return list(_render_plain(turns))
    pieces = [Piece("bos")]
    if template.system:
        pieces.append(Piece("text", template.system + " "))
    for turn in turns:
        if turn.role == "human":
            pieces.append(Piece("text", f"{template.human}: "))
            pieces.extend(_human_pieces(turn.text))
            pieces.append(Piece("text", f" {template.gpt}:"))
        else:
            # The space in front of the answer is the answer's: generation starts right after the colon.
            pieces.append(Piece("text", " " + turn.text, supervised=True))
            pieces.append(Piece("eos", supervised=True))
    return pieces


def _render_plain(turns: Sequence[Turn]) -> Iterator[Piece]:
    yield Piece("bos")
    for turn in turns:
        if turn.role == "human":
            yield from (Piece("image") for _ in range(turn.text.count(IMAGE_TOKEN)))
        else:
            yield Piece("text", turn.text + "\n", supervised=True)


def check_turns(turns: Sequence[Turn]) -> None:
    """Raises ValueError unless the turns alternate, starting with the human."""
    for index, turn in enumerate(turns):
        expected = "human" if index % 2 == 0 else "gpt"
        if turn.role != expected:
            raise ValueError(f"turn {index + 1} is by {turn.role!r}, expected {expected!r}")


def tokenize(pieces: Sequence[Piece], tokenizer: PreTrainedTokenizerFast, image_tokens: int) -> Encoded:
    """Pieces to arrays; each image becomes `image_tokens` positions that hold the id of `<image>`."""
    image_id = special_id(tokenizer, IMAGE_TOKEN)
    ends = {kind: special_id(tokenizer, getattr(tokenizer, f"{kind}_token")) for kind in ("bos", "eos")}
    tokens: list[int] = []
    labels: list[int] = []
    image_index: list[int] = []
    images = 0
    run: list[Piece] = []

    def flush() -> None:
        """Tokenises the text gathered since the last control token as one string."""
        if not run:
            return
        ids, offsets = plain_encoding(tokenizer, "".join(piece.text for piece in run))
        # One flag per character; a token is supervised when its last character is.
        supervised = np.repeat([piece.supervised for piece in run], [len(piece.text) for piece in run])
        for token, (start, end) in zip(ids, offsets, strict=True):
            tokens.append(token)
            labels.append(token if supervised[max(end - 1, start)] else IGNORE)
            image_index.append(-1)
        run.clear()

    for piece in pieces:
        if piece.kind == "text":
            if piece.text:
                run.append(piece)
            continue
        flush()
        if piece.kind == "image":
            tokens.extend([image_id] * image_tokens)
            labels.extend([IGNORE] * image_tokens)
            image_index.extend(range(images * image_tokens, (images + 1) * image_tokens))
            images += 1
        else:
            token = ends[piece.kind]
            tokens.append(token)
            labels.append(token if piece.supervised else IGNORE)
            image_index.append(-1)
    flush()
    as_int32 = lambda values: np.asarray(values, np.int32)
    return Encoded(as_int32(tokens), as_int32(labels), as_int32(image_index), images)


def encode(
    turns: Sequence[Turn], tokenizer: PreTrainedTokenizerFast, template: Template, image_tokens: int
) -> Encoded:
    """A finished conversation for training: answers and their `</s>` are supervised, nothing else."""
    check_turns(turns)
    return tokenize(render(turns, template), tokenizer, image_tokens)


def encode_prompt(
    turns: Sequence[Turn],
    tokenizer: PreTrainedTokenizerFast,
    template: Template,
    image_tokens: int,
    answer_prefix: str = "",
) -> Encoded:
    """A conversation up to where the assistant is to speak, plus the start of its answer."""
    check_turns(turns)
    if not turns or turns[-1].role != "human":
        raise ValueError("a prompt ends with a human turn")
    pieces = render(turns, template)
    if answer_prefix:
        pieces.append(Piece("text", answer_prefix if template.style == "plain" else " " + answer_prefix))
    return tokenize(pieces, tokenizer, image_tokens)


def encode_text(text: str, tokenizer: PreTrainedTokenizerFast) -> Encoded:
    """A plain document for language modelling: `<s>`, then every token and the final `</s>` supervised."""
    pieces = [Piece("bos"), Piece("text", text, supervised=True), Piece("eos", supervised=True)]
    return tokenize(pieces, tokenizer, 0)
