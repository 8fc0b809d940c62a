"""What lmms-eval asks, in jaxllava's terms: one request, its pictures, and how its answer is to be written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger  # pyright: ignore[reportMissingImports]
from PIL import Image

from input_pipeline.errors import UserError
from input_pipeline.tokenizer import IMAGE_TOKEN
from input_pipeline.types import Turn
from input_pipeline.video import VideoError, read_frames
from jaxllava.prompts import Picture, Prompt

_PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".ppm"}
_SOUNDS = {".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".opus"}


@dataclass(frozen=True)
class Ask:
    """One request. `visuals` makes its pictures when they are needed: a task's data may not fit in memory.

    `messages`, of a chat task, makes both texts and pictures in place of `context` and `visuals`.
    """

    task: str
    doc_id: Any
    context: str
    visuals: Callable[[], Any] | None = None
    messages: Callable[[], Sequence[dict[str, Any]]] | None = None

    @property
    def name(self) -> str:
        return f"task {self.task}, doc {self.doc_id}"


@dataclass(frozen=True)
class Writing:
    """How answers are written. A temperature of 0 is greedy."""

    max_new_tokens: int = 1024  # what lmms-eval's own LLaVA takes where a task says nothing
    temperature: float = 0.0
    top_p: float = 1.0


def read_writing(given: dict[str, Any]) -> tuple[Writing, tuple[str, ...], list[str]]:
    """A request's generation arguments as (how to write, texts that end an answer, names that mean nothing here).

    `given` stays as it is: lmms-eval makes the key of its cache from it afterwards. do_sample false is greedy at any
    temperature; without do_sample a temperature above 0 samples, as in lmms-eval's own models.
    """
    known = {"max_new_tokens", "max_gen_toks", "temperature", "top_p", "do_sample", "until"}
    # What these say where they stand is what is done anyway.
    same = {"num_beams": 1, "n": 1, "best_of": 1, "num_return_sequences": 1, "use_cache": None}
    most = given.get("max_new_tokens", given.get("max_gen_toks", Writing.max_new_tokens))
    if int(most) < 1:
        raise UserError(f"max_new_tokens is {most}; it must be at least 1.")
    sampled = given.get("do_sample")
    temperature = given.get("temperature")
    heat = float(temperature if temperature is not None else 1.0 if sampled else 0.0)
    top_p = given.get("top_p")
    until = given.get("until") or []
    writing = Writing(
        int(most), 0.0 if sampled is False else max(heat, 0.0), 1.0 if top_p is None else float(top_p)
    )
    unknown = [
        name
        for name, value in given.items()
        if name not in known and value is not None and not (name in same and same[name] in (None, value))
    ]
    return writing, tuple([until] if isinstance(until, str) else until), unknown


def cut(answer: str, until: Sequence[str]) -> str:
    """The answer up to the first of these texts."""
    for text in until:
        if text:
            answer = answer.partition(text)[0]
    return answer.strip()


def prompt_of(ask: Ask, frames: int, max_images: int | None) -> tuple[Prompt, list[Picture], str]:
    """(what the model is asked, its pictures, a note where something was changed) of a request.

    Pictures without marks in the text come first, as `Model.generate` puts them. Where marks and pictures differ in
    number (MMMU names one picture twice), the marks go and the pictures come first. Of more pictures than
    `max_images` as many are taken, evenly spread. Raises UserError for what is no picture, or cannot be read.
    """
    if ask.messages is not None:
        turns, pictures = _conversation(_made(ask.messages), frames)
        if max_images is not None and len(pictures) > max_images:
            raise UserError(f"{len(pictures)} pictures in place, with max_images={max_images}")
        return turns, pictures, ""
    text = ask.context
    pictures = _pictures(_made(ask.visuals) if ask.visuals else None, frames)
    if not text.strip() and not pictures:
        raise UserError("the context is empty, and there is no picture")
    note = ""
    marks = text.count(IMAGE_TOKEN)
    if max_images is not None and len(pictures) > max_images:
        chosen = np.linspace(0, len(pictures) - 1, max_images).astype(int)
        pictures = [pictures[i] for i in chosen]
        note = f"had more than max_images={max_images} pictures: evenly spread ones were taken"
    if marks and marks != len(pictures):
        text = text.replace(IMAGE_TOKEN, "").strip()
        note = (
            note or f"had other numbers of {IMAGE_TOKEN} marks than of pictures: the pictures were put first"
        )
    return text, pictures, note


def _made(make: Callable[[], Any]) -> Any:
    """Runs a task's own code, which opens files and indexes documents."""
    try:
        return make()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the task could not make its pictures: {type(error).__name__}: {error}") from error


def _pictures(visual: Any, frames: int) -> list[Picture]:
    """Pictures of whatever doc_to_visual returns: nested lists of pictures, paths and dicts; a video's frames."""
    if visual is None:
        return []
    if isinstance(visual, (list, tuple)):
        return [picture for part in visual for picture in _pictures(part, frames)]
    if isinstance(visual, (Image.Image, bytes)):
        return [visual]
    if isinstance(visual, np.ndarray) and visual.dtype == np.uint8 and visual.ndim in (2, 3):
        return [Image.fromarray(visual)]
    if isinstance(visual, (str, Path)):
        ending = Path(visual).suffix.lower()
        if str(visual).startswith(("http://", "https://")):
            raise UserError(f"{visual} is not on this machine")
        if ending in _SOUNDS:
            raise UserError(f"{visual} is sound; this model takes pictures and videos")
        return [visual] if ending in _PICTURES else _frames(Path(visual), frames)
    if isinstance(visual, dict):
        if "video_start" in visual or "video_end" in visual:
            raise UserError("a part of a video (video_start, video_end) is asked for; whole videos are read")
        for key in ("bytes", "url", "path"):
            if visual.get(key) is not None:
                return _pictures(visual[key], frames)
    raise UserError(f"a {type(visual).__name__} is neither a picture nor the path of a picture or video")


def _frames(path: Path, count: int) -> list[Picture]:
    try:
        return list(read_frames(path, count, tell=lambda what: logger.warning(f"{path}: {what}")))
    except VideoError as error:
        raise UserError(f"video {path}: {error.reason}") from error


def _conversation(messages: Sequence[dict[str, Any]], frames: int) -> tuple[list[Turn], list[Picture]]:
    """Messages as turns, each picture's mark where the picture stands; a system message leads the first question."""
    turns: list[Turn] = []
    pictures: list[Picture] = []
    system = ""
    for message in messages:
        content = message["content"]
        text = ""
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                text += part["text"].replace(IMAGE_TOKEN, "")
            elif part["type"] in ("image", "video"):
                found = _pictures(part.get("url", part.get(part["type"])), frames)
                pictures += found
                text += f"{IMAGE_TOKEN}\n" * len(found)
            else:
                raise UserError(f"a message holds {part['type']}; this model takes pictures and videos")
        if message["role"] == "system":
            system += text + "\n"
            continue
        role = "human" if message["role"] == "user" else "gpt"
        if turns and turns[-1].role == role:
            turns[-1] = Turn(role, f"{turns[-1].text}\n{system}{text}")
        else:
            turns.append(Turn(role, system + text))
        system = ""
    if not turns or turns[-1].role != "human":
        raise UserError("the messages do not end with the user's")
    return turns, pictures
