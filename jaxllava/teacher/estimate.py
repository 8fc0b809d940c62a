"""What requests will cost, told before the first one goes out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from jaxllava.teacher.messages import Request
from jaxllava.teacher.open import model_name, open_cache
from jaxllava.teacher.settings import Settings
from jaxllava.teacher.tokens import prompt_tokens


@dataclass(frozen=True)
class Estimate:
    """Of `requests`, `kept` are in the cache. The tokens, and the cost at the settings' prices, are those of the rest,
    with the longest answers that they allow.
    """

    requests: int
    kept: int
    prompt_tokens: int
    new_tokens: int
    cost: float

    def line(self) -> str:
        """In one line."""
        text = (
            f"{self.requests:,} requests, {self.kept:,} of them kept; to ask: about {self.prompt_tokens:,} tokens of "
            f"prompts and at most {self.new_tokens:,} of answers"
        )
        return f"{text}; at most about {self.cost:,.2f} at these prices" if self.cost else text


def estimate(requests: Iterable[Request], settings: Settings) -> Estimate:
    """Takes all requests, one at a time; equal ones are counted each. Raises UserError for a cache that is none."""
    model = model_name(settings)
    cache = open_cache(settings, must_exist=True)
    number = kept = prompt = new = 0
    try:
        for request in requests:
            number += 1
            if cache is not None and request.identity(model) in cache:
                kept += 1
                continue
            prompt += prompt_tokens(request.messages)
            new += request.max_tokens
    finally:
        if cache is not None:
            cache.close()
    return Estimate(number, kept, prompt, new, settings.cost(prompt, new))
