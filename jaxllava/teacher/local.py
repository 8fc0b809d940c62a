"""A checkpoint of ours as the teacher: the same requests, answered here in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby, islice

from input_pipeline.errors import UserError, in_one_line
from input_pipeline.tokenizer import IMAGE_TOKEN
from input_pipeline.types import Turn
from jaxllava import api
from jaxllava.prompts import Row
from jaxllava.teacher.cache import Cache
from jaxllava.teacher.messages import Answer, Failure, Message, Request
from jaxllava.teacher.settings import Settings

_AHEAD = 4  # batches that are taken at a time, so that prompts of like length meet


class Local:
    """A `Teacher`. Of its settings only `in_flight` (the batch) and `cache` matter; nothing costs anything.

    An answer depends on its request alone, also one that is drawn: the seed is of the request's identity.
    """

    def __init__(self, settings: Settings, name: str, cache: Cache | None = None) -> None:
        """Args: name: the model's, in caches and reports. Raises UserError, see `jaxllava.load`."""
        self._settings, self._name, self._cache = settings, name, cache
        self._model = api.load(settings.model, mesh="local")

    @property
    def model(self) -> str:
        return self._name

    @property
    def spent(self) -> float:
        return 0.0

    def ask(self, requests: Iterable[Request]) -> Iterator[Answer | Failure]:
        """See `Teacher.ask`."""
        source = iter(requests)
        while taken := list(islice(source, _AHEAD * self._settings.in_flight)):
            yield from self._window(taken)

    def _window(self, taken: list[Request]) -> Iterator[Answer | Failure]:
        keys: dict[str, list[str]] = {}  # by identity; equal requests are asked once
        asked: list[tuple[str, Request, Row]] = []
        for request in taken:
            identity = request.identity(self._name)
            kept = None if self._cache is None else self._cache.get(identity, request.key)
            if kept is not None:
                yield kept
            elif identity in keys:
                keys[identity].append(request.key)
            else:
                row = self._read(request)
                if isinstance(row, Failure):
                    yield row
                else:
                    keys[identity] = [request.key]
                    asked.append((identity, request, row))
        how = lambda one: (one[1].temperature, one[1].top_p)
        for (temperature, top_p), alike in groupby(sorted(asked, key=how), key=how):
            # Of like length together, in batches that are yielded as soon as they are there.
            group = sorted(alike, key=lambda one: (len(one[2][2]), len(one[2][0])))
            for start in range(0, len(group), self._settings.in_flight):
                batch = group[start : start + self._settings.in_flight]
                for identity, result in self._answers(batch, temperature, top_p):
                    first, *others = keys[identity]
                    yield replace(result, key=first)
                    for key in others:
                        again = replace(result, key=key)
                        yield replace(again, kept=True) if isinstance(again, Answer) else again

    def _answers(
        self, batch: list[tuple[str, Request, Row]], temperature: float, top_p: float
    ) -> Iterator[tuple[str, Answer | Failure]]:
        # Filled up to a power of two, so that the programs to compile are few.
        full = min(self._settings.in_flight, 1 << (len(batch) - 1).bit_length())
        padded = batch + batch[-1:] * (full - len(batch))
        written = self._model.write(
            [row for _, _, row in padded],
            [request.max_tokens for _, request, _ in padded],
            temperature,
            top_p,
            [int(identity[:8], 16) for identity, _, _ in padded],
            batch_size=full,
        )
        for (identity, request, row), (text, new, is_cut) in zip(batch, written, strict=False):
            if not text:
                result = Failure(request.key, "returned nothing", is_final=True, is_paid=True)
            else:
                result = Answer(request.key, text, "length" if is_cut else "stop", len(row[0]), new)
            yield identity, result if self._cache is None else self._cache.put(identity, result)

    def _read(self, request: Request) -> Row | Failure:
        try:
            system, turns = turns_of(request.messages)
            pictures = [image for one in request.messages for image in one.images]
            (row,) = self._model.read([turns], [pictures], system=system)
        except UserError as error:
            return Failure(request.key, "not accepted", in_one_line(error), is_final=True)
        length, most = len(row[0]) + request.max_tokens, self._model.config.decoder.max_positions
        if length > most:
            detail = f"{length} tokens with its longest answer; the model has {most} places"
            return Failure(request.key, "too long for the model", detail, is_final=True)
        return row


def turns_of(messages: Iterable[Message]) -> tuple[str, list[Turn]]:
    """Messages as (system message, LLaVA's turns): each picture a mark on a line in front of its text.

    A mark that a text itself holds stands for no picture, and is told with a space. Raises UserError for roles and
    orders that a conversation does not have.
    """
    system: list[str] = []
    turns: list[Turn] = []
    for one in messages:
        text = one.text.replace(IMAGE_TOKEN, "< image>")
        if one.role == "system" and not turns and not one.images:
            system.append(text)
        elif one.role == "user":
            turns.append(Turn("human", f"{IMAGE_TOKEN}\n" * len(one.images) + text))
        elif one.role == "assistant" and not one.images:
            turns.append(Turn("gpt", text))
        else:
            raise UserError(f"a message of role {one.role!r} cannot stand there, or shows a picture")
    roles = [turn.role for turn in turns]
    if not turns or roles != [("human", "gpt")[i % 2] for i in range(len(turns))] or roles[-1] != "human":
        raise UserError("messages of user and assistant do not take turns, from user to user")
    return "\n\n".join(system), turns
