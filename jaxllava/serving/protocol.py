"""Chat completions as OpenAI writes them: what a request may say, checked, and how an answer is told.

A field that would change the answer and is not supported is refused by name; one that changes nothing is passed over.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from input_pipeline.tokenizer import IMAGE_TOKEN
from input_pipeline.types import Turn
from jaxllava.serving.errors import RequestError
from jaxllava.serving.pictures import check_url

# Fields that are passed over: they are about the provider's books, not about the answer.
HARMLESS = {
    *("user", "store", "metadata", "service_tier", "safety_identifier", "prediction"),
    *("prompt_cache_key", "prompt_cache_retention", "parallel_tool_calls"),
}
# Fields that are not supported, and the values (beside null) with which they change nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "audio": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
}
TAKEN = {
    *("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens"),
    *("temperature", "top_p", "seed", "stop"),
}
_MOST_STOPS = 4
_DEFUSED = IMAGE_TOKEN.replace("<", "(").replace(">", ")")


@dataclass(frozen=True)
class Asked:
    """A request that was checked.

    Fields:
        turns: as `Model.read` takes them, a mark for each picture; they end with the human.
        system: the system prompt; "" where none is given.
        prefix: what the assistant has said of its answer already.
        pictures: the data: URLs, in order of the marks, and the places in the request that name them.
        new: most tokens of the answer; None is what there is room for.
    """

    turns: tuple[Turn, ...]
    system: str = ""
    prefix: str = ""
    pictures: tuple[tuple[str, str], ...] = ()
    new: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stream: bool = False
    usage: bool = False  # a last chunk of a stream with the usage


def parse(body: bytes, model: str, most_images: int) -> Asked:
    """Reads a request for `model`. Raises RequestError."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        why = f"{error}" if isinstance(error, json.JSONDecodeError) else "it cannot be decoded"
        raise RequestError(f"The body is no JSON: {why}.") from None
    if not isinstance(given, dict):
        raise RequestError("The body has to be a JSON object.")
    given = {name: value for name, value in given.items() if value is not None}
    for name in given.keys() - TAKEN - HARMLESS:
        _refuse(name, given[name])
    asked = given.get("model")
    if not isinstance(asked, str):
        raise RequestError("You must provide a model parameter.", "model")
    if asked != model:
        raise RequestError(
            f"The model {asked!r} does not exist; this server has {model!r}.", "model", "model_not_found", 404
        )
    stream = _flag(given, "stream")
    system, turns, prefix, pictures = _messages(given.get("messages"))
    if len(pictures) > most_images:
        raise RequestError(f"{len(pictures)} pictures; at most {most_images} are taken.", "messages")
    return Asked(
        turns,
        system,
        prefix,
        pictures,
        _new(given),
        _number(given, "temperature", 0.0, 2.0),
        _number(given, "top_p", 0.0, 1.0),
        _seed(given),
        _stop(given),
        stream,
        _usage(given, stream),
    )


def _refuse(name: str, value: Any) -> None:
    if name not in NEUTRAL:
        raise RequestError(f"Unrecognized request argument supplied: {name}", name, "unknown_parameter")
    # True == 1 and 1.0 == 1: a flag is no number here
    if any(value == fine and isinstance(value, bool) == isinstance(fine, bool) for fine in NEUTRAL[name]):
        return
    only = " or ".join(json.dumps(value) for value in NEUTRAL[name] if value not in ([], {}))
    if not only:
        why = f"{name!r} is not supported."
    elif isinstance(value, (list, dict)) or len(shown := json.dumps(value)) > 40:  # too much to be said again
        why = f"{name!r} can only be {only}."
    else:
        why = f"{name!r} is {shown}; only {only} is supported."
    raise RequestError(f"{why} Leave it out.", name, "unsupported_parameter")


def _flag(given: dict[str, Any], name: str) -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise RequestError(f"{name!r} has to be true or false.", name)
    return value


def _number(given: dict[str, Any], name: str, least: float, most: float) -> float:
    value = given.get(name, 1.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise RequestError(f"{name!r} has to be a number.", name)
    if not least <= value <= most:
        raise RequestError(f"{name!r} is {value}; it has to be from {least:g} to {most:g}.", name)
    return float(value)


def _whole(given: dict[str, Any], name: str) -> int | None:
    value = given.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise RequestError(f"{name!r} has to be a whole number.", name)
    return value


def _new(given: dict[str, Any]) -> int | None:
    found = None
    for name in ("max_tokens", "max_completion_tokens"):
        value = _whole(given, name)
        if value is not None and value < 1:
            raise RequestError(f"{name!r} is {value}; it has to be at least 1.", name)
        if value is not None and found not in (None, value):
            raise RequestError("'max_tokens' and 'max_completion_tokens' differ; give one of them.", name)
        found = found if value is None else value
    return found


def _seed(given: dict[str, Any]) -> int:
    value = _whole(given, "seed")
    if value is None:
        return secrets.randbits(32)
    if not 0 <= value < 2**32:
        raise RequestError(f"'seed' is {value}; it has to be from 0 to 4294967295.", "seed")
    return value


def _stop(given: dict[str, Any]) -> tuple[str, ...]:
    value = given.get("stop", [])
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise RequestError("'stop' has to be a string, or a list of strings that are not empty.", "stop")
    if len(stops) > _MOST_STOPS:
        raise RequestError(f"'stop' has {len(stops)} strings; at most {_MOST_STOPS} are taken.", "stop")
    return tuple(stops)


def _usage(given: dict[str, Any], stream: bool) -> bool:
    options = given.get("stream_options", {})
    if not isinstance(options, dict):
        raise RequestError("'stream_options' has to be an object.", "stream_options")
    if options and not stream:
        raise RequestError("'stream_options' is only allowed when 'stream' is true.", "stream_options")
    unknown = options.keys() - {"include_usage", "include_obfuscation"}
    if unknown:
        raise RequestError(
            f"stream_options: {min(unknown)!r} is not known.", "stream_options", "unknown_parameter"
        )
    return _flag(options, "include_usage")


# ------------------------------------------------------------ messages


@dataclass
class _Talk:
    """Messages on their way to turns."""

    system: list[str] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    pictures: list[tuple[str, str]] = field(default_factory=list)


def _messages(given: Any) -> tuple[str, tuple[Turn, ...], str, tuple[tuple[str, str], ...]]:
    """(system prompt, turns, the start of the answer, pictures with their places in the request)."""
    if not isinstance(given, list) or not given:
        raise RequestError("'messages' has to be a list of at least one message.", "messages")
    talk = _Talk()
    for number, message in enumerate(given):
        _message(message, f"messages[{number}]", talk)
    turns = talk.turns
    prefix = turns.pop().text if turns and turns[-1].role == "gpt" else ""
    if not turns:
        raise RequestError("'messages' has no message of the user.", "messages")
    return "\n\n".join(talk.system), tuple(turns), prefix, tuple(talk.pictures)


def _message(message: Any, where: str, talk: _Talk) -> None:
    if not isinstance(message, dict):
        raise RequestError("a message has to be an object.", where)
    role = message.get("role")
    for name, value in message.items():
        if name not in ("role", "content", "name", "refusal") and value not in (None, [], {}):
            raise RequestError(f"{name!r} of a message is not supported.", f"{where}.{name}")
    content = message.get("content")
    if role in ("system", "developer"):
        if talk.turns:
            raise RequestError("a system message has to stand in front of all others.", where)
        talk.system.append(_content(content, where))
    elif role == "user":
        text = _content(content, where, talk.pictures)
        if talk.turns and talk.turns[-1].role == "human":
            text = f"{talk.turns.pop().text}\n{text}"
        talk.turns.append(Turn("human", text))
    elif role == "assistant":
        if not talk.turns or talk.turns[-1].role != "human":
            raise RequestError("a message of the assistant has to follow one of the user.", where)
        talk.turns.append(Turn("gpt", _content(content, where)))
    else:
        raise RequestError(
            f"role {role!r} is not supported; it may be system, developer, user or assistant.",
            f"{where}.role",
        )


def _content(content: Any, where: str, pictures: list[tuple[str, str]] | None = None) -> str:
    """The text of a message. Pictures are taken where there is a list for them: marks stand in their places.

    What people wrote is never a mark: `<image>` becomes `(image)`. (Other control tokens are spelt out when they are
    tokenized.)
    """
    if isinstance(content, str):
        return _text(content, f"{where}.content")
    if not isinstance(content, list):
        raise RequestError("'content' has to be a string or a list of parts.", f"{where}.content")
    stretches = [""]  # of text, with a picture between each two
    for number, part in enumerate(content):
        here = f"{where}.content[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            stretches[-1] += _text(part.get("text"), here, raw=True)
        elif kind == "image_url" and pictures is not None:
            image = part.get("image_url")
            if not isinstance(image, dict):
                raise RequestError("'image_url' has to be an object with a 'url'.", here)
            pictures.append((check_url(image.get("url"), f"{here}.image_url.url"), f"{here}.image_url.url"))
            stretches.append("")
        elif kind == "image_url":
            raise RequestError("pictures may stand in messages of the user alone.", here)
        else:
            raise RequestError(f"parts of type {kind!r} are not supported; text and image_url are.", here)
    # Defused only now: a mark may not come about where two parts meet either.
    first, *rest = (stretch.replace(IMAGE_TOKEN, _DEFUSED) for stretch in stretches)
    for stretch in rest:  # a picture has a line of its own, as models are trained
        first += "\n" * (bool(first) and not first.endswith("\n")) + IMAGE_TOKEN
        first += "\n" * (bool(stretch) and not stretch.startswith("\n")) + stretch
    return first


def _text(text: Any, where: str, raw: bool = False) -> str:
    if not isinstance(text, str):
        raise RequestError("the text has to be a string.", where)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError("the text has half a character in it (a lone surrogate).", where) from None
    return text if raw else text.replace(IMAGE_TOKEN, _DEFUSED)


# ------------------------------------------------------------ answers


@dataclass(frozen=True)
class Head:
    """What all parts of one answer share."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def _whole(self, kind: str, choices: list[Any]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def completion(self, text: str, finish: str, usage: dict[str, int]) -> dict[str, Any]:
        """The body of an answer that is not streamed. finish: "stop" or "length"."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return self._whole("chat.completion", [choice]) | {"usage": usage}

    def chunk(self, delta: dict[str, str], finish: str | None = None, usage: bool = False) -> dict[str, Any]:
        """A part of a stream. usage: there will be one at its end, which the others announce with null."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._whole("chat.completion.chunk", [choice]) | ({"usage": None} if usage else {})

    def last(self, usage: dict[str, int]) -> dict[str, Any]:
        """The part of a stream that holds the usage."""
        return self._whole("chat.completion.chunk", []) | {"usage": usage}


def usage_of(prompt: int, new: int) -> dict[str, int]:
    """Positions of the prompt (those of pictures too) and tokens of the answer."""
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def event(data: dict[str, Any] | str) -> bytes:
    """A server-sent event."""
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


def models(name: str, created: int) -> dict[str, Any]:
    """GET /v1/models."""
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": created, "owned_by": "jaxllava"}],
    }
