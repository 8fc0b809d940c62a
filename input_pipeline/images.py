"""Decoding of image files people really have, and the preprocessing of CLIP and SigLIP in Pillow and numpy.

`preprocess` ends where the device begins: it returns the uint8 picture that `CLIPImageProcessorPil` or
`SiglipImageProcessorPil` of transformers 5.23 holds before it rescales and normalises; the model normalises on
the device (CLIP with `CLIP_MEAN` and `CLIP_STD`). docs/pixels.md says what is bit-equal to what, and how fast.
"""

from __future__ import annotations

import io
import math
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
_MAX_SIDE = 16384  # of a picture to pad or stretch: the padded square is a gigabyte then
_QUALITY = 92  # of JPEG, with full colour: differences are below what preprocessing to 336 pixels leaves
_ORIENTATION = 0x0112  # the EXIF tag; 2 to 8 ask for a turn or a mirror


class ImageError(ValueError):
    """A picture that cannot be read. `reason` is short and names no path, so that reports can count it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def open_image(data: bytes | str | Path | Image.Image, most_pixels: int = _MAX_PIXELS) -> Image.Image:
    """Returns the first frame of a picture as a fully loaded RGB image, upright and on white.

    The EXIF orientation is applied; transparency is composited on white as transformers does; 16-bit grey
    keeps its upper 8 bits (Pillow's own conversion clips them to white); float grey up to 1 is spread over
    0 to 255.

    Args:
        data: an encoded file's bytes, its path, or an image of any mode. An upright RGB image comes back as it
            is, not as a copy.
        most_pixels: a larger picture is not decoded.

    Raises:
        ImageError: the file is missing, empty, of an unknown format, truncated, broken, or too large.
    """
    try:
        if isinstance(data, Image.Image):
            image = data
        else:
            encoded = data if isinstance(data, bytes) else Path(data).read_bytes()
            if not encoded:
                raise ImageError("empty file")
            image = Image.open(io.BytesIO(encoded), formats=_FORMATS)
        if image.width * image.height > most_pixels:
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


MODES = ("square", "pad", "stretch")


def preprocess(
    image: Image.Image, size: int, mode: str = "square", pad_color: tuple[int, int, int] = PAD_COLOR
) -> np.ndarray:
    """Returns the picture as the vision model sees it, uint8 [size, size, 3], before rescaling and normalisation.

    All resizing is bicubic and antialiased.

    Args:
        image: of any mode; what is not RGB goes through `open_image`.
        size: side in pixels.
        mode: `square` is CLIPImageProcessorPil: the shortest edge is brought to `size`, then the centre is cut
            out. `pad` first makes the picture square on `pad_color` (LLaVA-1.5's `image_aspect_ratio: pad`), so
            that nothing is cropped. `stretch` is SiglipImageProcessorPil: both edges are brought to `size`, the
            shape is lost.
        pad_color: RGB, 0 to 255: int(255 * mean) of the vision model.

    Where the result would not fit in memory on the way, `square` first cuts a picture longer than 64 times its
    width to that, and the others first shrink one longer than 16384 pixels by a whole factor.
    """
    if image.mode != "RGB":
        image = open_image(image)
    if mode == "square":
        return _square(_limit_aspect(image), size)
    if mode == "pad":
        return np.asarray(_pad(_limit_side(image), size, pad_color))
    if mode == "stretch":
        return np.asarray(_limit_side(image).resize((size, size), Image.Resampling.BICUBIC))
    raise ValueError(f"image mode {mode!r}: use 'square', 'pad' or 'stretch'")


def shrink(data: bytes, max_side: int) -> bytes:
    """Returns an encoded picture, made again as JPEG where a side is longer than `max_side` pixels.

    A picture small enough is returned as it came. Raises ImageError for what cannot be read.
    """
    image = open_image(data)
    if max(image.size) <= max_side:
        return data
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_QUALITY, subsampling=0)
    return out.getvalue()


def _square(image: Image.Image, size: int) -> np.ndarray:
    width, height = image.size
    # Truncation, not rounding, as torchvision and transformers do it.
    if width <= height:
        wide, high = size, int(size * height / width)
    else:
        wide, high = int(size * width / height), size
    left, top = (wide - size) // 2, (high - size) // 2
    first, last, x0, x1 = _on_whole_pixels(left, left + size, width, wide)
    upper, lower, y0, y1 = _on_whole_pixels(top, top + size, height, high)
    part = (last - first, lower - upper)
    resized = np.asarray(image.resize(part, Image.Resampling.BICUBIC, box=(x0, y0, x1, y1)))  # [H, W, 3]
    left, top = left - first, top - upper
    return np.ascontiguousarray(resized[top : top + size, left : left + size])  # [size, size, 3]


def _pad(image: Image.Image, size: int, color: tuple[int, int, int]) -> Image.Image:
    """What centring the picture on a square (offsets rounded down) and resizing that gives, without the square."""
    width, height = image.size
    side = max(width, height)
    if width == height:
        return image.resize((size, size), Image.Resampling.BICUBIC)
    if width > height:
        # Pillow resizes each row by itself, then each column: rows of nothing but colour need no resizing.
        rows = image.resize((size, height), Image.Resampling.BICUBIC)
        square = Image.new("RGB", (size, side), color)
        square.paste(rows, (0, (side - height) // 2))
        return square.resize((size, size), Image.Resampling.BICUBIC)
    # The same for columns, whose places in the rows must not move: only those that see the picture are resized.
    reach = math.ceil(2 * max(side / size, 1)) + 1  # pixels that a column looks to either side
    left = (side - width) // 2
    first = max((left - reach) * size // side, 0)
    last = min(-(-(left + width + reach) * size // side), size)
    first, last, x0, x1 = _on_whole_pixels(first, last, side, size)
    start, stop = max(x0 - reach, 0), min(x1 + reach, side)
    canvas = Image.new("RGB", (stop - start, side), color)
    canvas.paste(image, (left - start, 0))
    box = (x0 - start, 0, x1 - start, side)
    square = Image.new("RGB", (size, size), color)
    square.paste(canvas.resize((last - first, size), Image.Resampling.BICUBIC, box=box), (first, 0))
    return square


def _on_whole_pixels(first: int, last: int, length: int, resized: int) -> tuple[int, int, int, int]:
    """Widens [first, last) of an edge resized from `length` until both ends fall between two source pixels.

    Returns that range, and the range of source pixels it shows. Resizing only these gives the pixels that
    resizing the whole edge gives: Pillow's weights depend on the scale, the same fraction, and on the distance to
    the start, a whole number. From another start (`box` takes fractions) they would differ in the last bits, and
    one value in some ten thousand by 1. Where `length` and `resized` share no divisor the whole edge is returned.
    """
    step = resized // math.gcd(length, resized)
    first, last = first // step * step, min(-(-last // step) * step, resized)
    return first, last, first * length // resized, last * length // resized


def _upright(image: Image.Image) -> Image.Image:
    try:
        # exif_transpose copies what it need not turn.
        return ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION, 1) != 1 else image
    except Exception:  # Broken EXIF says nothing about the picture: keep it as stored.
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or image.info.get("transparency") is not None:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> np.ndarray:
    """uint8 [H, W] of a grey picture of 16 bits, 32 bits or floats."""
    values = np.asarray(image)  # [H, W]
    if image.mode == "F":
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
        peak = values.max()
        grey = values * 255 if peak <= 1 else values / 256 if peak > 255 else values
    else:
        # Mode I also holds 8-bit values, and nothing says which they are.
        grey = values >> 8 if image.mode != "I" or values.max() > 255 else values
        transparent = image.info.get("transparency")  # the one value of PNG's tRNS, to be seen on white
        if isinstance(transparent, int):
            grey = np.where(values == transparent, 255, grey)
    return np.clip(grey, 0, 255).astype(np.uint8)


def _limit_aspect(image: Image.Image) -> Image.Image:
    width, height = image.size
    limit = _MAX_ASPECT * min(width, height)
    if max(width, height) <= limit:
        return image
    left, top = max(0, (width - limit) // 2), max(0, (height - limit) // 2)
    return image.crop((left, top, left + min(width, limit), top + min(height, limit)))


def _limit_side(image: Image.Image) -> Image.Image:
    factor = -(-max(image.size) // _MAX_SIDE)
    return image.reduce(factor) if factor > 1 else image
