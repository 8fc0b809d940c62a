"""About how many tokens a prompt has, without network and without anyone's tokenizer.

Text: a token for every 4 characters of ASCII, and one for every other character; 4 more for each message and 3 for the
answer's head, as chat formats have them. A picture: as GPT-4o counts it at full detail (OpenAI's guide to images and
vision): shrunk into 2048 x 2048, then to a short side of 768, 85 tokens and 170 for each tile of 512 x 512. Other
models count otherwise; what an endpoint counted is in its answers.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable

from PIL import Image

from jaxllava.teacher.messages import Message

PER_MESSAGE, PER_ANSWER = 4, 3
PICTURE, PER_TILE = 85, 170
MOST_TILES = 8  # 768 x 2048


def prompt_tokens(messages: Iterable[Message]) -> int:
    """About how many tokens a prompt has."""
    return PER_ANSWER + sum(
        PER_MESSAGE + text_tokens(one.text) + sum(map(picture_tokens, one.images)) for one in messages
    )


def most_tokens(messages: Iterable[Message]) -> int:
    """At most how many: byte-level tokenizers make no more than one of a byte. Pictures as in `prompt_tokens`."""
    return PER_ANSWER + sum(
        PER_MESSAGE + len(one.text.encode("utf-8", "replace")) + sum(map(picture_tokens, one.images))
        for one in messages
    )


def text_tokens(text: str) -> int:
    """About how many tokens a text has."""
    plain = len(text.encode("ascii", "ignore"))
    return math.ceil(plain / 4) + len(text) - plain


def picture_tokens(picture: bytes) -> int:
    """As GPT-4o counts an encoded picture; of one that cannot be read the most that any takes."""
    try:
        with Image.open(io.BytesIO(picture)) as opened:  # reads the head alone
            width, height = opened.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return PICTURE + PER_TILE * MOST_TILES
    shrink = min(1.0, 2048 / max(width, height))
    width, height = width * shrink, height * shrink
    shrink = min(1.0, 768 / min(width, height))
    # Rounded first: 1536 / 2 * 0.9999 is a tile more than it should be.
    tiles = [math.ceil(round(side * shrink, 6) / 512) for side in (width, height)]
    return PICTURE + PER_TILE * min(MOST_TILES, tiles[0] * tiles[1])
