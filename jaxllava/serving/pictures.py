"""Pictures of requests: `data:` URLs, checked before they are decoded. Nothing is ever fetched."""

from __future__ import annotations

import base64
import binascii
import re

from PIL import Image

from input_pipeline.images import ImageError, open_image
from jaxllava.serving.errors import RequestError

_HEAD = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[^;,]*)*)$", re.IGNORECASE)


def check_url(url: object, where: str) -> str:
    """A `data:` URL of a picture, in base64. RequestError for any other, with what to do."""
    if not isinstance(url, str):
        raise RequestError("'url' has to be a string.", where)
    kind = url.split(":", 1)[0].lower() if ":" in url[:16] else ""
    if kind != "data":
        shown = f"{kind}: URLs are" if kind else "that is"
        raise RequestError(
            f"{shown} not taken: this server fetches nothing. Send the picture itself, as data:image/png;base64,...",
            where,
            "invalid_image_url",
        )
    head = _HEAD.match(url[: max(url.find(","), 0)])
    if head is None:
        raise RequestError(
            "the data: URL has no head such as data:image/png;base64,", where, "invalid_image_url"
        )
    if not (head[1] or "").lower().startswith("image/"):
        raise RequestError(
            f"{head[1] or 'text/plain'} is not a picture's type.", where, "invalid_image_format"
        )
    if not head[2].lower().endswith(";base64"):
        raise RequestError("the data: URL has to be in base64.", where, "invalid_image_url")
    return url


def decode(url: str, where: str, most_pixels: int) -> Image.Image:
    """The picture of a checked URL, RGB and upright. RequestError where it cannot be read or has too many pixels."""
    try:
        data = base64.b64decode(url[url.index(",") + 1 :], validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("the picture's base64 is broken.", where, "invalid_base64_image") from None
    try:
        return open_image(data, most_pixels)
    except ImageError as error:
        limit = f" (at most {most_pixels:,})" if error.reason == "too many pixels" else ""
        raise RequestError(
            f"the picture cannot be read: {error.reason}{limit}.", where, "invalid_image"
        ) from None
