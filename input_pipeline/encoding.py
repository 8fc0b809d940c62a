"""Pieces of a rendered conversation become arrays: token ids, labels and image positions.

Each run of text between control tokens is tokenised as one string and its labels are read off the character offsets, so
a label mask cannot drift against its tokens. (The reference counts the tokens of re-tokenised parts and masks the whole
sample where the counts disagree; see `reference_masks.py`.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedTokenizerFast

from input_pipeline import conversation, reference_masks
from input_pipeline.conversation import Piece, Template
from input_pipeline.tokenizer import IMAGE_TOKEN, controls, is_legacy, plain_encoding, special_id
from input_pipeline.types import Turn

IGNORE = -100  # label of an unsupervised position, as in torch and the reference


@dataclass(frozen=True)
class Encoded:
    """One conversation as arrays: tokens int32 [L], labels int32 [L] (unshifted), image_index int32 [L] (-1 = text)."""

    tokens: np.ndarray
    labels: np.ndarray
    image_index: np.ndarray
    images: int
    note: str = ""  # why nothing is supervised, where that was decided

    def __len__(self) -> int:
        return len(self.tokens)


def tokenize(
    pieces: Sequence[Piece],
    tokenizer: PreTrainedTokenizerFast,
    image_tokens: int | Sequence[np.ndarray],
    image_id: int | None = None,
) -> Encoded:
    """Pieces to arrays; each image becomes `image_tokens` positions that hold `image_id`, the id of `<image>`.

    Where images differ in size `image_tokens` is the image_index of each, in order (`Anyres.spliced`).

    A SentencePiece tokenizer puts its `▁` in front of the text at the start and behind each image, and with
    `legacy` behind each control token too: what the slow tokenizer did with the reference's chunks
    (`tokenizer_image_token`).
    """
    known = controls(tokenizer)
    legacy = is_legacy(tokenizer)
    tokens: list[int] = []
    labels: list[int] = []
    image_index: list[int] = []
    images = 0
    run: list[Piece] = []
    starts = True  # the next text begins a chunk

    def put(token: int, supervised: bool) -> None:
        tokens.append(token)
        labels.append(token if supervised else IGNORE)
        image_index.append(-1)

    def flush() -> None:
        """Tokenises the text gathered since the last control token as one string."""
        nonlocal starts
        if not run:
            return
        ids, offsets = plain_encoding(tokenizer, "".join(piece.text for piece in run), starts or legacy)
        # One flag per character; a token is supervised when its last character is.
        supervised = np.repeat([piece.supervised for piece in run], [len(piece.text) for piece in run])
        for token, (start, end) in zip(ids, offsets, strict=True):
            put(token, supervised[max(end - 1, start)])
        run.clear()
        starts = False

    for piece in _split_marks(pieces, known.ids):
        if piece.kind == "text":
            if piece.text:
                run.append(piece)
            continue
        flush()
        if piece.kind == "image":
            if image_id is None:
                image_id = special_id(tokenizer, IMAGE_TOKEN)
            if isinstance(image_tokens, int):
                places: Sequence[int] = range(images * image_tokens, (images + 1) * image_tokens)
            elif images < len(image_tokens):
                places = image_tokens[images].tolist()
            else:
                raise ValueError(f"more {IMAGE_TOKEN} marks than its {len(image_tokens)} images")
            tokens.extend([image_id] * len(places))
            labels.extend([IGNORE] * len(places))
            image_index.extend(places)
            images += 1
            starts = True
        elif piece.kind == "own_bos":
            if known.adds_bos:
                put(special_id(tokenizer, str(tokenizer.bos_token)), False)
        elif piece.kind == "mark":
            put(known.ids[piece.text], piece.supervised)
            starts = False
        else:
            put(special_id(tokenizer, getattr(tokenizer, f"{piece.kind}_token")), piece.supervised)
            starts = starts and len(tokens) == 1  # the first <s>
    flush()
    as_int32 = lambda values: np.asarray(values, np.int32)
    return Encoded(as_int32(tokens), as_int32(labels), as_int32(image_index), images)


def _split_marks(pieces: Sequence[Piece], known: dict[str, int]) -> Iterator[Piece]:
    """Cuts the template's own text at the control tokens that the tokenizer knows; the rest of it is plain text."""
    for piece in pieces:
        if piece.kind != "mark":
            yield piece
            continue
        rest = piece.text
        while rest:
            found = [(rest.index(token), -len(token), token) for token in known if token in rest]
            if not found:
                yield Piece("text", rest, piece.supervised)
                break
            at, _, token = min(found)
            yield Piece("text", rest[:at], piece.supervised)
            yield Piece("mark", token, piece.supervised)
            rest = rest[at + len(token) :]


def encode(
    turns: Sequence[Turn],
    tokenizer: PreTrainedTokenizerFast,
    template: Template,
    image_tokens: int,
    image_id: int | None = None,
    reference_quirks: bool = False,
) -> Encoded:
    """A finished conversation for training: answers and what ends them are supervised, nothing else.

    With `reference_quirks` the labels are those of LLaVA's `preprocess`, mistakes included; `note` says why where it
    masks the whole sample.
    """
    conversation.check_turns(turns)
    placed = conversation.place_images(turns, template, reference_quirks)
    pieces = conversation.render(placed, template)
    encoded = tokenize(pieces, tokenizer, image_tokens, image_id)
    if not reference_quirks:
        return encoded
    short = tokenize(pieces, tokenizer, 1, 0)
    keep, note = reference_masks.supervised(
        placed,
        template,
        lambda part: len(tokenize(part, tokenizer, 1, 0)),
        is_legacy(tokenizer),
        len(short),
    )
    keep = np.repeat(keep, np.where(short.image_index >= 0, image_tokens, 1)) & (encoded.image_index < 0)
    labels = np.where(keep, encoded.tokens, np.int32(IGNORE))
    return replace(encoded, labels=labels, note=note)


def encode_prompt(
    turns: Sequence[Turn],
    tokenizer: PreTrainedTokenizerFast,
    template: Template,
    image_tokens: int | Sequence[np.ndarray],
    answer_prefix: str = "",
) -> Encoded:
    """A conversation up to where the assistant is to speak, plus the start of its answer."""
    conversation.check_turns(turns)
    if not turns or turns[-1].role != "human":
        raise ValueError("a prompt ends with a human turn")
    if template.image_tags or template.image_every_turn:
        turns = conversation.place_images(turns, template)
    pieces = conversation.render(turns, template, prompt=True)
    if answer_prefix:
        pieces.append(Piece("text", template.lead + answer_prefix))
    return tokenize(pieces, tokenizer, image_tokens)


def encode_text(text: str, tokenizer: PreTrainedTokenizerFast) -> Encoded:
    """A plain document for language modelling: `<s>`, then every token and the final `</s>` supervised."""
    pieces = [Piece("bos"), Piece("text", text, supervised=True), Piece("eos", supervised=True)]
    return tokenize(pieces, tokenizer, 0)
