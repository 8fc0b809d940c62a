"""The label masks of LLaVA's own `preprocess` functions, counting mistakes included, for exact loss parity.

The reference finds the supervised tokens by tokenising parts of the conversation again and adding up their numbers
(`llava/train/train.py`). Where the sum is wrong the mask drifts (v0: the questions' first words leak into the loss) or
the whole sample is masked. `encoding.encode` does neither unless it is asked for `reference_quirks`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from input_pipeline.conversation import Piece, Template, render
from input_pipeline.tokenizer import IMAGE_TOKEN
from input_pipeline.types import Turn

Count = Callable[[Sequence[Piece]], int]  # the number of tokens of pieces, an image being one


def supervised(
    turns: Sequence[Turn], template: Template, count: Count, legacy: bool, total: int
) -> tuple[np.ndarray, str]:
    """Which of the `total` tokens of a conversation (an image is one) the reference supervises.

    Returns: bool [total], and why the reference masks the whole sample ('' where it does not).
    """
    lengths = lambda text: count([Piece("bos"), *_parse(text)])
    if template.style == "plain":
        keep = np.ones(total, bool)
        keep[: lengths(IMAGE_TOKEN)] = False
        return keep, ""
    if template.style == "single":
        return _single(turns, template, lengths, total), ""
    text = "".join(_written(piece) for piece in render(turns, template)[1:])
    if template.style == "two":
        spans = _spans(text.split("</s>"), f" {template.gpt}: ", lengths, 2, 0 if legacy else -1)
    elif template.style == "llama_2":
        spans = _spans(text.split("</s>"), "[/INST] ", lengths, 2, 0)
    else:
        parts = text.split(template.end)
        rounds = [template.end.join(parts[:3])]
        rounds += [template.end.join(parts[i : i + 2]) for i in range(3, len(parts), 2)]
        spans = _spans(rounds, template.end + template.gpt, lengths, 1, 1 if legacy else 0)
    keep = np.zeros(total, bool)
    position = 1
    for instruction, length in spans:
        keep[position + instruction : position + length] = True
        position += length
    if position != total:
        reason = (
            f"the reference's count of its tokens is off by {position - total}, so it masks the whole sample"
        )
        return np.zeros(total, bool), reason
    return keep, ""


def _spans(
    rounds: Sequence[str], mark: str, lengths: Callable[[str], int], back: int, later: int
) -> list[tuple[int, int]]:
    """(tokens of the instruction, tokens of the round) of each round, until one does not split in two at `mark`."""
    spans = []
    for number, text in enumerate(rounds):
        parts = text.split(mark)
        if not text or len(parts) != 2:
            break
        change = later if number else 0
        spans.append((lengths(parts[0] + mark) - back + change, lengths(text) + change))
    return spans


def _single(
    turns: Sequence[Turn], template: Template, lengths: Callable[[str], int], total: int
) -> np.ndarray:
    """v0: each turn's length has a `<s>` too many, so the mask runs ahead of the tokens by one a turn."""
    keep = np.ones(total, bool)
    position = lengths(template.system + "\n\n")
    keep[:position] = False
    for turn in turns:
        speaker = template.human if turn.role == "human" else template.gpt
        length = lengths(f"### {speaker}: {turn.text}\n")
        if turn.role == "human":
            keep[position + 2 : position + length] = False
        position += length
    return keep


def _written(piece: Piece) -> str:
    return {"image": IMAGE_TOKEN, "bos": "<s>", "eos": "</s>"}.get(piece.kind, piece.text)


def _parse(text: str) -> list[Piece]:
    """Reads a part of a conversation as the reference's tokenizer does: control tokens in it are real ones."""
    pieces = [Piece("mark", text)]
    for written, kind in ((IMAGE_TOKEN, "image"), ("</s>", "eos"), ("<s>", "bos")):
        split: list[Piece] = []
        for piece in pieces:
            chunks = piece.text.split(written) if piece.kind == "mark" else [""]
            for index, chunk in enumerate(chunks):
                if piece.kind != "mark":
                    split.append(piece)
                    continue
                if index:
                    split.append(Piece(kind))  # type: ignore[arg-type]
                if chunk:
                    split.append(Piece("mark", chunk))
        pieces = split
    return pieces
