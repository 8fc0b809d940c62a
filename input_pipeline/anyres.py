"""LLaVA-NeXT's anyres: a picture as one small overall view and tiles of a larger one, and which features of them count.

The reference pads the larger view with black, computes features of all tiles, cuts the padding off the feature map and
puts a newline feature behind each of its rows (`llava/mm_utils.py`, `llava/model/llava_arch.py`). What it
does on tensors is here one index array per image, made on the host: the device only gathers, whatever the shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

Order = Literal["original", "hf"]
ORDERS: tuple[Order, ...] = ("original", "hf")
NEWLINE = -2  # in an image_index: the newline feature stands here

# (width, height) of the published models, in the order that decides ties.
PINPOINTS: tuple[tuple[int, int], ...] = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


@dataclass(frozen=True)
class Anyres:
    """What a model asks of anyres.

    Args:
        pinpoints: resolutions (as they stand in a config) that a picture may be brought to.
        size: side of a view in pixels.
        patches: features along the side of a view.
        order: how ties between pinpoints are settled. Both read them in their order, `original` as (width, height)
            and `hf` as (height, width): over the published, symmetric set they differ for some 2 % of sizes.
    """

    pinpoints: tuple[tuple[int, int], ...] = PINPOINTS
    size: int = 336
    patches: int = 24
    order: Order = "original"

    def resolution(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) to bring a picture to: most of its pixels kept, then least area wasted."""
        best, best_key = (0, 0), (-1, 0)
        for first, second in self.pinpoints:
            wide, high = (first, second) if self.order == "original" else (second, first)
            scale = min(wide / width, high / height)
            effective = min(int(width * scale) * int(height * scale), width * height)
            key = (effective, effective - wide * high)
            if key > best_key:
                best, best_key = (wide, high), key
        return best

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Tiles (across, down) of a picture."""
        wide, high = self.resolution(width, height)
        return wide // self.size, high // self.size

    def unpadded(self, width: int, height: int) -> tuple[slice, slice]:
        """Rows and columns of the tiles' joined feature map that show the picture and not its padding."""
        across, down = self.grid(width, height)
        columns, rows = across * self.patches, down * self.patches
        kept = int if self.order == "original" else (lambda value: int(round(value, 7)))
        if width / height > columns / rows:
            cut = (rows - kept(height * (columns / width))) // 2
            return slice(cut, rows - cut), slice(0, columns)
        cut = (columns - kept(width * (rows / height))) // 2
        return slice(0, rows), slice(cut, columns - cut)

    def feature_index(self, width: int, height: int) -> np.ndarray:
        """Which features stand for a picture, in order: int32 [tokens].

        Numbers are places in the flat [views * patches**2] features of the picture's views, the overall one first;
        views * patches**2 itself is the newline.
        """
        across, down = self.grid(width, height)
        side, area = self.patches, self.patches**2
        rows, columns = self.unpadded(width, height)
        y, x = np.mgrid[rows, columns]  # of the joined map
        tile = (y // side) * across + x // side
        places = (1 + tile) * area + (y % side) * side + x % side  # [h, w]
        newline = np.full((len(places), 1), (1 + across * down) * area)
        joined = np.concatenate([places, newline], axis=1).ravel()
        return np.concatenate([np.arange(area), joined]).astype(np.int32)

    def spliced(self, sizes: Sequence[tuple[int, int]]) -> tuple[list[np.ndarray], list[int]]:
        """For the pictures of one row, given as (width, height): their image_index int32 [tokens], and their views.

        The index counts through the features of all views of the row; `NEWLINE` stands for the newline feature.
        """
        found, views = [], []
        before = 0
        for width, height in sizes:
            across, down = self.grid(width, height)
            views.append(1 + across * down)
            area = views[-1] * self.patches**2
            index = self.feature_index(width, height)
            found.append(np.where(index == area, NEWLINE, index + before).astype(np.int32))
            before += area
        return found, views

    def views(self, image: Image.Image) -> np.ndarray:
        """uint8 [1 + tiles, size, size, 3]: the whole picture squeezed into a square, then its tiles row by row."""
        wide, high = self.resolution(*image.size)
        padded = _resize_and_pad(image, wide, high)
        square = np.asarray(image.resize((self.size, self.size), Image.Resampling.BICUBIC))
        tiles = np.asarray(padded).reshape(high // self.size, self.size, wide // self.size, self.size, 3)
        return np.concatenate([square[None], tiles.swapaxes(1, 2).reshape(-1, self.size, self.size, 3)])


def _resize_and_pad(image: Image.Image, wide: int, high: int) -> Image.Image:
    """Fits an RGB picture into (wide, high), in the middle of black."""
    width, height = image.size
    across, down = wide / width, high / height
    if across < down:
        size = wide, min(math.ceil(height * across), high)
    else:
        size = min(math.ceil(width * down), wide), high
    padded = Image.new("RGB", (wide, high))
    corner = ((wide - size[0]) // 2, (high - size[1]) // 2)
    padded.paste(image.resize(size, Image.Resampling.BICUBIC), corner)
    return padded


def check_pinpoints(pinpoints: Sequence[Sequence[int]], size: int) -> tuple[tuple[int, int], ...]:
    """The pinpoints of a config as tuples. ValueError where one is not made of whole views."""
    if not pinpoints or any(
        len(p) != 2 or p[0] <= 0 or p[1] <= 0 or p[0] % size or p[1] % size for p in pinpoints
    ):
        raise ValueError(f"image_grid_pinpoints {pinpoints}: pairs of multiples of {size} are needed")
    return tuple((int(p[0]), int(p[1])) for p in pinpoints)
