"""An answer's text as its tokens come: what may be sent already, and where it stops."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class Writing:
    """Tokens in, text out. All that `add` and `finish` give, joined, is `whole`: without outer spaces, cut in front of
    the first of `stops`.

    Held back are the bytes of half a character, spaces that may be the last, and what may be the start of a stop.
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str]) -> None:
        self.ids: list[int] = []
        self.stopped = False
        self._decode, self._stops = decode, [stop for stop in stops if stop]
        # Text of ids[_from:_to] is in _window: a tokenizer decodes a token by those in front of it.
        self._from = self._to = 0
        self._window = ""
        self._held = ""  # decoded and not sent
        self._begun = False

    def add(self, token: int) -> str:
        """What the token adds to what may be sent."""
        self.ids.append(token)
        text = self._decode(self.ids[self._from :])
        if text.endswith("\ufffd"):
            return ""
        self._take(text[len(self._window) :])
        self._from, self._to = self._to, len(self.ids)
        self._window = self._decode(self.ids[self._from : self._to])
        return self._send(final=False)

    def finish(self) -> str:
        """What is left to be sent."""
        if not self.stopped:
            self._take(self._decode(self.ids[self._from :])[len(self._window) :])
        return self._send(final=True)

    def whole(self) -> str:
        """The whole answer, from all of its tokens at once."""
        return cut(self._decode(self.ids).lstrip(), self._stops)[0].rstrip()

    def _take(self, text: str) -> None:
        self._held += text
        if not self._begun:
            self._held = self._held.lstrip()
            self._begun = bool(self._held)
        self._held, self.stopped = cut(self._held, self._stops)

    def _send(self, final: bool) -> str:
        final = final or self.stopped
        ready = self._held if final else self._held[: len(self._held) - self._unsure()]
        ready = ready.rstrip()
        self._held = "" if final else self._held[len(ready) :]
        return ready

    def _unsure(self) -> int:
        """Characters at the end that a stop may begin with."""
        most = max((len(stop) - 1 for stop in self._stops), default=0)
        for size in range(min(most, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text in front of the first stop, and whether there was one."""
    found = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(found)], True) if found else (text, False)
