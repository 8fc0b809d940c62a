"""What requests will cost."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from jaxllava.teacher.cache import Cache
from jaxllava.teacher.estimate import estimate
from jaxllava.teacher.messages import Answer, Message, Request
from jaxllava.teacher.settings import Settings
from jaxllava.teacher.tokens import most_tokens, picture_tokens, prompt_tokens, text_tokens


def picture(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("width", "height", "tiles"),
    [
        (1024, 1024, 4),  # OpenAI's own examples: 765 tokens,
        (2048, 4096, 6),  # and 1105
        (512, 512, 1),
        (513, 512, 2),
        (100, 4000, 4),
        (4096, 1536, 8),
        (1, 1, 1),
    ],
)
def test_pictures_as_gpt_4o_counts_them(width: int, height: int, tiles: int) -> None:
    assert picture_tokens(picture(width, height)) == 85 + 170 * tiles


def test_a_picture_that_is_none_counts_as_the_largest() -> None:
    assert picture_tokens(b"none") == 85 + 170 * 8


def test_texts() -> None:
    assert text_tokens("") == 0
    assert text_tokens("four") == 1 and text_tokens("fours") == 2
    assert text_tokens("das ist schön") == 4 and text_tokens("日本語") == 3
    said = [Message("system", "four"), Message("user", "日本語", (picture(512, 512),))]
    assert prompt_tokens(said) == 3 + (4 + 1) + (4 + 3 + 255)
    assert most_tokens(said) == 3 + (4 + 4) + (4 + 9 + 255)


def test_what_is_kept_costs_nothing(tmp_path) -> None:
    requests = [Request(str(i), (Message("user", "x" * 4 * i),), max_tokens=100) for i in range(4)]
    settings = Settings("m", price_in=1e6, price_out=2e6, cache=tmp_path / "cache")
    found = estimate(iter(requests), settings)
    assert (found.requests, found.kept, found.prompt_tokens, found.new_tokens) == (4, 0, 4 * 7 + 6, 400)
    assert found.cost == pytest.approx(34 + 800)
    assert not (tmp_path / "cache").exists()  # who only asks what it costs leaves nothing behind
    Cache(tmp_path / "cache").put(requests[3].identity("m"), Answer("", "kept"))
    found = estimate(iter(requests), settings)
    assert (found.requests, found.kept, found.prompt_tokens, found.new_tokens) == (4, 1, 3 * 7 + 3, 300)
    assert found.line() == (
        "4 requests, 1 of them kept; to ask: about 24 tokens of prompts and at most 300 of answers; at most about "
        "624.00 at these prices"
    )
