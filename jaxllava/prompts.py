"""What people ask, as a model reads it: prompts and pictures to token ids, positions of image features, and views."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import PreTrainedTokenizerFast

from input_pipeline.conversation import get_template
from input_pipeline.encoding import Encoded, encode_prompt
from input_pipeline.errors import UserError
from input_pipeline.images import ImageError, open_image, preprocess
from input_pipeline.tokenizer import IMAGE_TOKEN, controls
from input_pipeline.types import Turn
from jaxllava.models.llava import LlavaConfig

Picture = bytes | str | Path | Image.Image
Prompt = str | Sequence[Turn]
Pictures = Sequence[Picture | Sequence[Picture] | None] | None
Row = tuple[np.ndarray, np.ndarray, np.ndarray]  # tokens [L], image_index [L], images uint8 [m, H, W, 3]


class PromptReader:
    """Reads prompts for one model, tokenizer and template."""

    def __init__(self, config: LlavaConfig, tokenizer: PreTrainedTokenizerFast, template: str) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.template = get_template(template)
        # transformers annotates it as anything at all.
        self.eos_id: int = tokenizer.eos_token_id  # type: ignore[assignment]

    def inputs(
        self, prompts: Sequence[Prompt], images: Pictures
    ) -> list[tuple[tuple[Turn, ...], list[Picture]]]:
        """Turns with one mark per image, and the images, of every prompt."""
        if isinstance(prompts, str):
            raise UserError("prompts is a string; give a list of prompts.")
        if images is not None and len(images) != len(prompts):
            raise UserError(
                f"{len(prompts)} prompts but images for {len(images)}; give None for a prompt without."
            )
        found = []
        for i, prompt in enumerate(prompts):
            turns = (Turn("human", prompt),) if isinstance(prompt, str) else tuple(prompt)
            own = images[i] if images is not None else None
            pictures: list[Picture] = (
                [] if own is None else list(own) if isinstance(own, (list, tuple)) else [own]
            )  # type: ignore[list-item]
            marks = sum(turn.text.count(IMAGE_TOKEN) for turn in turns if turn.role == "human")
            if pictures and not marks and turns:
                front = f"{IMAGE_TOKEN}\n" * len(pictures)
                turns = (Turn(turns[0].role, front + turns[0].text), *turns[1:])
            elif marks != len(pictures):
                raise UserError(f"prompt {i}: {marks} {IMAGE_TOKEN} marks for {len(pictures)} images.")
            found.append((turns, pictures))
        return found

    def pictures(self, number: int, pictures: list[Picture]) -> tuple[np.ndarray, list[np.ndarray]]:
        """A prompt's pictures as views uint8 [views, H, W, 3], and the image_index of each."""
        found, sizes = [], []
        for i, picture in enumerate(pictures):
            try:
                image = open_image(picture)
                found.append(self.views(image))
            except ImageError as error:
                name = f" {picture}" if isinstance(picture, (str, Path)) else ""
                raise UserError(f"prompt {number}, image {i}{name}: {error.reason}") from error
            sizes.append(image.size)
        size = self.config.vision.image_size
        pixels = np.concatenate([np.zeros((0, size, size, 3), np.uint8), *found])
        return pixels, self.spliced(sizes)[0]

    def row(self, number: int, turns: tuple[Turn, ...], pictures: list[Picture], prefix: str) -> Row:
        pixels, places = self.pictures(number, pictures)
        encoded = self.encoded(number, turns, prefix, places)
        return encoded.tokens, encoded.image_index, pixels

    def views(self, image: Image.Image) -> np.ndarray:
        """uint8 [views, H, W, 3] of an RGB picture: one, or with anyres several."""
        if (anyres := self.config.anyres) is not None:
            return anyres.views(image)
        vision = self.config.vision
        return preprocess(image, vision.image_size, self.config.image_mode, vision.pad_color)[None]

    def encoded(
        self, number: int, turns: tuple[Turn, ...], answer: str, places: Sequence[np.ndarray]
    ) -> Encoded:
        try:
            return encode_prompt(turns, self.tokenizer, self.template, places, answer)
        except ValueError as error:
            raise UserError(f"prompt {number}: {error}") from error

    def finished(
        self, number: int, turns: tuple[Turn, ...], answer: str, end: bool, places: Sequence[np.ndarray]
    ) -> np.ndarray:
        """Token ids of the prompt with this answer begun, and ended too if asked."""
        closing: list[int] = []
        if end:
            parts = self.template.parts
            known = controls(self.tokenizer).ids
            if parts.answer[1] in known:
                closing = [known[parts.answer[1]]]
            else:
                answer += parts.answer[1]
            closing += [self.eos_id] if parts.eos else []
        tokens = self.encoded(number, turns, answer, places).tokens
        return np.append(tokens, closing).astype(np.int32)

    def spliced(self, sizes: Sequence[tuple[int, int]]) -> tuple[list[np.ndarray], list[int]]:
        """For the pictures of one row, given as (width, height): their image_index, and how many views each has."""
        if (anyres := self.config.anyres) is not None:
            return anyres.spliced(sizes)
        each = self.config.image_tokens
        return [np.arange(i * each, (i + 1) * each, dtype=np.int32) for i in range(len(sizes))], [1] * len(
            sizes
        )


def end_ids(tokenizer: PreTrainedTokenizerFast, template: str, stops: Sequence[int] = ()) -> tuple[int, ...]:
    """The ids that end an answer: EOS, what the template writes behind an answer if that is a token, and `stops`."""
    known = controls(tokenizer).ids
    own = known.get(get_template(template).parts.answer[1])
    eos: Any = tokenizer.eos_token_id
    return tuple(dict.fromkeys(number for number in (eos, own, *stops) if number is not None))
