"""A decoded frame as a picture: RGB by the video's own colour matrix and range, upright, its pixels square."""

from __future__ import annotations

import struct
from typing import Any

from PIL import Image

# The last two give the same pixels on every processor.
_BICUBIC, _AREA, _ACCURATE, _BIT_EXACT = (
    4,
    32,
    0x40000,
    0x80000,
)  # flags of swscale
_BT709, _BT2020 = 1, 9  # matrices from YUV to RGB
_LIMITED, _FULL = 1, 2  # colour ranges: 16 to 235, and 0 to 255


class FrameDrawer:
    """Draws the frames of one video; transparency is laid on white, as that of pictures is."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()  # keeps FFmpeg's tables; a frame by itself makes them anew

    def draw(
        self, frame: Any, ratio: float = 1.0, side: int | None = None, quick: bool = False
    ) -> Image.Image:
        """Returns an RGB picture.

        Args:
            frame: a decoded av.VideoFrame of any format.
            ratio: width over height of its pixels; the longer side of what is not square is shortened.
            side: a short side that is longer becomes that, in FFmpeg: the picture is never held in full size.
            quick: resize by the mean of areas, in half the time of bicubic.
        """
        width, height = frame.width, frame.height
        if 1 / 8 <= ratio <= 8:  # what is wider or narrower than any format of pixels is no ratio
            width, height = width * min(1.0, ratio), height * min(1.0, 1 / ratio)
        scale = min(1.0, side / min(width, height)) if side else 1.0
        size = max(1, round(width * scale)), max(1, round(height * scale))
        alpha = any(part.is_alpha for part in frame.format.components)
        colours: dict[str, int] = {}
        if not frame.format.is_rgb:
            # The frame's own matrix and range: left to itself, swscale takes every video for BT.601. PyAV hands them
            # on only where the target's matrix is another, and RGB has none.
            full = frame.color_range == _FULL or frame.format.name.startswith("yuvj")
            colours = {
                "src_colorspace": frame.colorspace,
                "src_color_range": _FULL if full else _LIMITED,
                "dst_colorspace": _BT2020 if frame.colorspace != _BT2020 else _BT709,
            }
        resized = size != (frame.width, frame.height)
        # In its own size these flags would cost ten times what they do here, for a rounding.
        flags = (_AREA if quick else _BICUBIC) | (_ACCURATE | _BIT_EXACT if resized else 0)
        plane = self._reformatter.reformat(
            frame, *size, format="rgba" if alpha else "rgb24", interpolation=flags, **colours
        ).planes[0]
        mode = "RGBA" if alpha else "RGB"
        image = Image.frombytes(mode, size, memoryview(plane), "raw", mode, plane.line_size, 1)
        if alpha:
            white = Image.new("RGBA", size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image).convert("RGB")
        turn = _turn(frame)
        return image if turn is None else image.transpose(turn)


_TURNS = {  # by the signs of the display matrix's (a, b, c, d): x' = a x + c y, y' = b x + d y, y pointing down
    (1, 0, 0, 1): None,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


def _turn(frame: Any) -> Image.Transpose | None:
    """What puts the frame upright. Turns between the quarters are rounded to them, broken matrices left out."""
    try:
        a, b, _, c, d, *_ = struct.unpack("=9i", bytes(frame.side_data["DISPLAYMATRIX"]))
    except (KeyError, struct.error):
        return None
    sign = lambda value: (value > 0) - (value < 0)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        signs = (sign(a), 0, 0, sign(d))
    else:
        signs = (0, sign(b), sign(c), 0)
    return _TURNS.get(signs)
