"""Decoding of image files people really have, and CLIP's preprocessing in Pillow and numpy.

`preprocess` ends where the device begins: it returns the uint8 picture that `CLIPImageProcessorPil` of
transformers 5.23 holds before it rescales and normalises; the model normalises on the device with `CLIP_MEAN`
and `CLIP_STD`.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

CLIP_MEAN: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)  # of RGB in [0, 1]
CLIP_STD: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
PAD_COLOR: tuple[int, int, int] = (122, 116, 104)  # int(255 * CLIP_MEAN): the colour of LLaVA's expand2square

# Formats that Pillow decodes by itself. Left open, Image.open would start Ghostscript on an EPS named .jpg.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")
_MAX_PIXELS = 100_000_000  # a decompression bomb is a few kilobytes in the file and gigabytes here
_MAX_ASPECT = 64  # at 336 pixels the long edge would be 21504


class ImageError(ValueError):
    """A picture that cannot be read. `reason` is short and names no path, so that reports can count it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def open_image(data: bytes | str | Path | Image.Image) -> Image.Image:
    """Returns the first frame of a picture as a fully loaded RGB image, upright and on white.

    The EXIF orientation is applied; transparency is composited on white as transformers does; 16-bit grey
    keeps its upper 8 bits (Pillow's own conversion clips them to white).

    Args:
        data: an encoded file's bytes, its path, or an image of any mode.

    Raises:
        ImageError: the file is missing, empty, of an unknown format, truncated, broken, or too large.
    """
    try:
        if isinstance(data, Image.Image):
            image = data
        elif isinstance(data, bytes):
            if not data:
                raise ImageError("empty file")
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        else:
            image = Image.open(io.BytesIO(Path(data).read_bytes()), formats=_FORMATS)
        if image.width * image.height > _MAX_PIXELS:
            raise ImageError("too many pixels")
        image.load()
        return _to_rgb(_upright(image))
    except ImageError:
        raise
    except (FileNotFoundError, IsADirectoryError):
        raise ImageError("no such file") from None
    except Image.UnidentifiedImageError:
        raise ImageError("not an image") from None
    except Image.DecompressionBombError:
        raise ImageError("too many pixels") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, EOFError ...
        text = str(error).split("(")[0].strip() or type(error).__name__
        raise ImageError(f"broken image: {text}") from error


MODES = ("square", "pad")


def preprocess(image: Image.Image, size: int, mode: str = "square") -> np.ndarray:
    """Returns the picture as CLIP sees it, uint8 [size, size, 3], before rescaling and normalisation.

    `square` is CLIPImageProcessorPil: bicubic resize of the shortest edge to `size`, then the centre crop.
    `pad` first makes the picture square on the CLIP mean colour (LLaVA-1.5's `image_aspect_ratio: pad`), so
    that nothing is cropped. A picture longer than 64 times its width is first cut to that, or the resized one
    would not fit in memory.
    """
    if image.mode != "RGB":
        image = open_image(image)
    if mode == "pad":
        image = pad_to_square(image)
    elif mode != "square":
        raise ValueError(f"image mode {mode!r}: use 'square' or 'pad'")
    image = _limit_aspect(image)
    width, height = image.size
    # Truncation, not rounding, as torchvision and transformers do it.
    if width <= height:
        width, height = size, int(size * height / width)
    else:
        width, height = int(size * width / height), size
    resized = np.asarray(image.resize((width, height), resample=Image.Resampling.BICUBIC))  # [H, W, 3]
    top, left = (height - size) // 2, (width - size) // 2
    return np.ascontiguousarray(resized[top : top + size, left : left + size])  # [size, size, 3]


def pad_to_square(image: Image.Image) -> Image.Image:
    """Centres an RGB image on a square of `PAD_COLOR`, offsets rounded down (LLaVA's expand2square)."""
    side = max(image.size)
    if image.size == (side, side):
        return image
    square = Image.new("RGB", (side, side), PAD_COLOR)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Broken EXIF says nothing about the picture: keep it as stored.
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit grey, with the transparent value of tRNS if any
        values = np.asarray(image).astype(np.int64)  # [H, W]
        grey = values >> 8 if values.max() > 255 or image.mode != "I" else values
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey = np.where(values == transparent, 255, grey)
        return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or image.info.get("transparency") is not None:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _limit_aspect(image: Image.Image) -> Image.Image:
    width, height = image.size
    limit = _MAX_ASPECT * min(width, height)
    if max(width, height) <= limit:
        return image
    left, top = max(0, (width - limit) // 2), max(0, (height - limit) // 2)
    return image.crop((left, top, left + min(width, limit), top + min(height, limit)))
