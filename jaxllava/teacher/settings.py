"""How a teacher or judge is asked: which model, how fast, at what price, and where its answers are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from input_pipeline.errors import UserError

LIMIT_NAMES = (
    "max_completion_tokens",
    "max_tokens",
)  # what models call an answer's limit; newer ones the first


@dataclass(frozen=True)
class Settings:
    """Fields:

    model: a model name at the endpoint of OPENAI_BASE_URL, or a checkpoint's folder, which is run here.
    in_flight: requests that wait for an answer at once; of a checkpoint, how many are answered in a batch.
    requests_per_minute, tokens_per_minute: what the endpoint allows; 0 is no limit.
    timeout: seconds for one try of a request.
    attempts: tries of a request before it is given up.
    price_in, price_out: for a million tokens of prompts and of answers, in whatever currency.
    max_cost: what one run may spend, in the same currency; 0 is no limit.
    cache: folder in which answers are kept, on a disk of this machine; None keeps none.
    flag: what stands in front of `temperature` and `max-tokens` in the flags of the command that asks.

    Raises UserError where a value makes no sense.
    """

    model: str
    in_flight: int = 32
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    timeout: float = 120
    attempts: int = 6
    price_in: float = 0.0
    price_out: float = 0.0
    max_cost: float = 0.0
    cache: Path | None = None
    flag: str = "--"

    def __post_init__(self) -> None:
        if not self.model:
            raise UserError("the teacher's model has no name; name a model of the endpoint or a folder")
        for name in ("in_flight", "attempts"):
            if getattr(self, name) < 1:
                raise UserError(f"{_flag(name)} is {getattr(self, name)}; it must be at least 1")
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise UserError(f"--timeout is {self.timeout:g} seconds; it must be more than 0")
        names = ("requests_per_minute", "tokens_per_minute", "price_in", "price_out", "max_cost")
        for name in names:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"{_flag(name)} is {value:g}; it must be 0 or more")
        if self.max_cost and not (self.price_in or self.price_out):
            raise UserError(
                f"--max-cost {self.max_cost:g} is no limit without prices; give --price-in and --price-out, for a "
                "million tokens"
            )

    def cost(self, prompt_tokens: float, new_tokens: float) -> float:
        """What so many tokens cost."""
        return (prompt_tokens * self.price_in + new_tokens * self.price_out) / 1e6


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
