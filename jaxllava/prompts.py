"""What people ask, as a model reads it: prompts and pictures to token ids, positions of image features, and views."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import PreTrainedTokenizerFast

from input_pipeline.asker import Asker
from input_pipeline.conversation import get_template, place_images
from input_pipeline.encoding import Encoded, encode_prompt
from input_pipeline.errors import UserError
from input_pipeline.frame_cache import file_key
from input_pipeline.images import ImageError, open_image, preprocess
from input_pipeline.tokenizer import IMAGE_TOKEN, controls
from input_pipeline.types import Turn
from input_pipeline.video import SUFFIXES, VideoError
from jaxllava import candidates
from jaxllava.frames import FrameEncoder
from jaxllava.models.llava import LlavaConfig
from jaxllava.videos import Video

Picture = bytes | str | Path | Image.Image | Video
Prompt = str | Sequence[Turn]
Size = tuple[int, int]  # (width, height)
Pictures = Sequence[Picture | Sequence[Picture] | None] | None
# tokens [L], image_index [L], and what is shown: views uint8 [m, H, W, 3], or of a LLaMA-VID what it kept of frames
# for each question, [slots, image_tokens, W]
Row = tuple[np.ndarray, np.ndarray, np.ndarray]


class PromptReader:
    """Reads prompts for one model, tokenizer and template; a LLaMA-VID's also looks at its frames, for questions that
    its `asker` tokenizes.
    """

    def __init__(
        self,
        config: LlavaConfig,
        tokenizer: PreTrainedTokenizerFast,
        template: str,
        asker: Asker | None = None,
        encoder: FrameEncoder | None = None,
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.template = get_template(template)
        self._asker, self._encoder = asker, encoder
        self._front = ""  # of the first question
        # transformers annotates it as anything at all.
        self.eos_id: int = tokenizer.eos_token_id  # type: ignore[assignment]

    def told(self, system: str) -> PromptReader:
        """One that puts this system prompt in the place of the template's, or where that has none in front of the first
        question. Control tokens in it are spelt out.
        """
        other = copy.copy(self)
        if self.template.system:
            other.template = replace(self.template, system=system)
        else:
            other._front = system + "\n\n"
        return other

    def inputs(
        self, prompts: Sequence[Prompt], images: Pictures
    ) -> list[tuple[tuple[Turn, ...], list[Picture]]]:
        """Turns with one mark per picture or video, and these, of every prompt."""
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
            given: Any = [] if own is None else list(own) if isinstance(own, (list, tuple)) else [own]
            pictures: list[Picture] = [_medium(picture) for picture in given]
            marks = sum(turn.text.count(IMAGE_TOKEN) for turn in turns if turn.role == "human")
            if pictures and not marks and turns:
                front = f"{IMAGE_TOKEN}\n" * len(pictures)
                turns = (Turn(turns[0].role, front + turns[0].text), *turns[1:])
            elif marks != len(pictures):
                raise UserError(f"prompt {i}: {marks} {IMAGE_TOKEN} marks for {len(pictures)} images.")
            if self._front and turns:
                turns = (Turn(turns[0].role, self._front + turns[0].text), *turns[1:])
            found.append((turns, pictures))
        return found

    def shown(
        self, number: int, turns: tuple[Turn, ...], pictures: list[Picture]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """A prompt's pictures and videos as `Row` has them, and the image_index of each mark."""
        marks = self._marks(turns, len(pictures))
        if self._encoder is not None:
            return self._asked(number, turns, pictures, marks)
        found, sizes, spans = [], [], []
        for i, picture in enumerate(pictures):
            spans.append(len(sizes))
            with _named(number, i, picture):
                for image in _frames(picture):
                    found.append(self.views(image, isinstance(picture, Video)))
                    sizes.append(image.size)
        size = self.config.vision.image_size
        pixels = np.concatenate([np.zeros((0, size, size, 3), np.uint8), *found])
        places = self.spliced(sizes)[0]
        own = [np.concatenate(places[a:b]) for a, b in pairwise([*spans, len(sizes)])]
        return pixels, [own[medium] for medium, _ in marks]

    def _marks(self, turns: Sequence[Turn], media: int) -> list[tuple[int, str]]:
        """Of each mark in the rendered prompt: which medium it stands for, and the human's turn that it stands in."""
        repeated = self.template.image_every_turn and media == 1
        asked = [turn.text for turn in self._placed(turns) if turn.role == "human"]
        marks = [text for text in asked for _ in range(text.count(IMAGE_TOKEN))]
        return [(0 if repeated else i, text) for i, text in enumerate(marks)]

    def _placed(self, turns: Sequence[Turn]) -> Sequence[Turn]:
        """The turns with the marks that the prompt will have (`encode_prompt`)."""
        placed = self.template.image_tags or self.template.image_every_turn
        return place_images(turns, self.template) if placed else turns

    def _asked(
        self, number: int, turns: tuple[Turn, ...], pictures: list[Picture], marks: list[tuple[int, str]]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """`shown` of a LLaMA-VID: each frame for each question about it."""
        c, encoder, asker = self.config, self._encoder, self._asker
        assert encoder is not None and asker is not None
        found: dict[int, np.ndarray] = {}  # the place of a mark -> [F, image_tokens, W]
        for i, picture in enumerate(pictures):
            own = [place for place, (medium, _) in enumerate(marks) if medium == i]
            pixels = lambda picture=picture: (
                self.views(image, isinstance(picture, Video))[0] for image in _frames(picture)
            )
            with _named(number, i, picture):
                looked = encoder(pixels, [asker(marks[place][1]) for place in own], self._key(picture))
            found |= dict(zip(own, looked, strict=True))
        kept = [found[place] for place in range(len(marks))]
        ends = np.cumsum([0, *(len(part) * c.image_tokens for part in kept)])
        empty = np.zeros((0, c.image_tokens, c.vision.hidden_size), np.float32)
        places = [np.arange(a, b, dtype=np.int32) for a, b in pairwise(ends.tolist())]
        return (np.concatenate(kept) if kept else empty), places

    def _key(self, picture: Picture) -> str | None:
        """Names a video's frames in a cache of features."""
        if self._encoder is None or self._encoder.cache is None or not isinstance(picture, Video):
            return None
        how = picture.how
        vision = self.config.vision
        pixels = [
            self.config.image_mode,
            vision.image_size,
            vision.mean,
            vision.std,
            self.config.feature_layer,
        ]
        return None if how is None else file_key(picture.sha256(), how=how, pixels=pixels)

    def row(self, number: int, turns: tuple[Turn, ...], pictures: list[Picture], prefix: str) -> Row:
        shown, places = self.shown(number, turns, pictures)
        encoded = self.encoded(number, turns, prefix, places)
        return encoded.tokens, encoded.image_index, shown

    def continued(
        self,
        number: int,
        turns: tuple[Turn, ...],
        pictures: list[Picture],
        prefix: str,
        texts: Sequence[str],
        end: bool,
        known: dict[Any, np.ndarray],
    ) -> tuple[Row, list[np.ndarray]]:
        """A prompt with the start of an answer, and the ids of each text that may follow it, with its end if asked.

        A token may span the border between the two: what all spellings share is the prompt. `known` holds what was
        tokenized before: many pictures have the same question and candidates.
        """
        if not all(texts):
            raise UserError(f"prompt {number}: a candidate is empty.")
        shown, places = self.shown(number, turns, pictures)
        prompt = self.encoded(number, turns, prefix, places)
        whole = []
        for text in texts:
            key = (turns, prefix + text, end, *map(len, places))
            if key not in known:
                known[key] = self.finished(number, turns, prefix + text, end, places)
            whole.append(known[key])
        shared = min(candidates.common(prompt.tokens, other) for other in whole)
        row = (prompt.tokens[:shared], prompt.image_index[:shared], shown)
        return row, [other[shared:] for other in whole]

    def views(self, image: Image.Image, is_frame: bool = False) -> np.ndarray:
        """uint8 [views, H, W, 3] of an RGB picture, or frame of a video: one, or with anyres several."""
        if (anyres := self.config.anyres) is not None:
            return anyres.views(image)
        vision = self.config.vision
        mode = self.config.film_mode if is_frame else self.config.image_mode
        return preprocess(image, vision.image_size, mode, vision.pad_color)[None]

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

    def length(self, prompt: Prompt, sizes: Sequence[Size | Sequence[Size]], answer: str) -> int:
        """`Model.length`."""
        ((turns, pictures),) = self.inputs([prompt], [[b""] * len(sizes)])
        frames = [[size] if isinstance(size[0], int) else list(size) for size in sizes]
        own = [np.concatenate(self.spliced(some)[0]) for some in frames]  # type: ignore[arg-type]
        places = [own[medium] for medium, _ in self._marks(turns, len(pictures))]
        return len(self.encoded(0, turns, answer, places).tokens)

    def spliced(self, sizes: Sequence[tuple[int, int]]) -> tuple[list[np.ndarray], list[int]]:
        """For the pictures of one row, given as (width, height): their image_index, and how many views each has."""
        if (anyres := self.config.anyres) is not None:
            return anyres.spliced(sizes)
        each = self.config.image_tokens
        return [np.arange(i * each, (i + 1) * each, dtype=np.int32) for i in range(len(sizes))], [1] * len(
            sizes
        )

    def shared_out(
        self, tokens: np.ndarray, pictures: Sequence[np.ndarray], image_sizes: Any
    ) -> tuple[list[list[np.ndarray]], np.ndarray]:
        """Each row's views of pictures, and image_index [B, L], where pictures stand in the order of the image tokens.

        Args: as of `Model.logits`. Raises UserError where image tokens and pictures do not match.
        """
        c = self.config
        if c.anyres is None:
            sizes = [(0, 0)] * len(pictures)
        elif image_sizes is None or len(image_sizes) != len(pictures):
            raise UserError("this model reads pictures of any resolution: give image_sizes, one for each.")
        else:
            sizes = [(int(width), int(height)) for height, width in np.asarray(image_sizes)]
        is_image = tokens == c.image_token  # [B, L]
        image_index = np.full(tokens.shape, -1, np.int32)
        views: list[list[np.ndarray]] = [[] for _ in tokens]
        following = 0
        for row, marked in enumerate(is_image):
            # As many of the pictures that are left as fill the row's image tokens.
            taken, index = following, np.zeros(0, np.int32)
            while len(index) < marked.sum() and taken < len(pictures):
                taken += 1
                places, counts = self.spliced(sizes[following:taken])
                index = np.concatenate(places)
            if len(index) != marked.sum():
                break
            if taken > following:
                image_index[row, marked] = index
                for picture, count in zip(pictures[following:taken], counts, strict=True):
                    views[row] += list(picture[:count]) if c.anyres else [picture]
            following = taken
        else:
            if following == len(pictures):
                return views, image_index
        needs = "each needs what its size gives" if c.anyres else f"each takes {c.image_tokens}"
        raise UserError(
            f"input_ids hold {is_image.sum(axis=1).tolist()} image tokens a row for {len(pictures)} images; {needs} "
            "positions in one row."
        )


def _medium(given: Any) -> Picture:
    """A path of a video is a video."""
    if isinstance(given, str | Path) and Path(given).suffix.lower() in (*SUFFIXES, ".npy"):
        return Video(given)
    return given


def _frames(picture: Picture) -> Iterator[Image.Image]:
    if isinstance(picture, Video):
        yield from picture.frames()
    else:
        yield open_image(picture)


@contextlib.contextmanager
def _named(number: int, index: int, picture: Picture) -> Iterator[None]:
    try:
        yield
    except (ImageError, VideoError) as error:
        name = f" {picture}" if isinstance(picture, str | Path | Video) else ""
        what = "video" if isinstance(picture, Video) else "image"
        raise UserError(f"prompt {number}, {what} {index}{name}: {error.reason}") from error


def end_ids(tokenizer: PreTrainedTokenizerFast, template: str, stops: Sequence[int] = ()) -> tuple[int, ...]:
    """The ids that end an answer: EOS, what the template writes behind an answer if that is a token, and `stops`."""
    known = controls(tokenizer).ids
    own = known.get(get_template(template).parts.answer[1])
    eos: Any = tokenizer.eos_token_id
    return tuple(dict.fromkeys(number for number in (eos, own, *stops) if number is not None))
