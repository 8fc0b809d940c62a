"""Anyres against the original's grids and token counts, and pixels against transformers, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from input_pipeline.anyres import ORDERS, Anyres, check_pinpoints

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "anyres_goldens.json").read_text())
CASES = GOLDENS["cases"]
NAMES = [f"{case['w']}x{case['h']}" for case in CASES]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_grids_and_counts_are_those_of_both_codes(case, order):
    pinpoints = tuple(tuple(p) for p in GOLDENS["pinpoints"])
    anyres = Anyres(pinpoints, 336, GOLDENS["patch_grid"], order)
    size = case["w"], case["h"]
    expected = case["orig" if order == "original" else "hf"]
    rows, columns = anyres.unpadded(*size)
    assert list(anyres.grid(*size)) == expected["grid_wh"]
    assert columns.stop - columns.start == expected["unpad_w"]
    assert rows.stop - rows.start == expected["unpad_h"]
    assert len(anyres.feature_index(*size)) == expected["tokens"]


def test_the_index_gathers_what_transformers_packs():
    """Features that hold their own place: base first, then each row of the picture and a newline."""
    torch = pytest.importorskip("torch")
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    anyres = Anyres(order="hf")
    for width, height in [(1920, 1080), (200, 100), (37, 2000), (512, 512), (333, 500)]:
        across, down = anyres.grid(width, height)
        views = 1 + across * down
        places = torch.arange(views * 576)
        tiles = places[576:].view(down, across, 24, 24).permute(0, 2, 1, 3).reshape(1, down * 24, across * 24)
        kept = unpad_image(tiles, (height, width))[0]
        newline = torch.full((len(kept), 1), views * 576)
        expected = torch.cat([places[:576], torch.cat([kept, newline], 1).flatten()])
        np.testing.assert_array_equal(anyres.feature_index(width, height), expected.numpy())


@pytest.mark.parametrize(
    "size",
    [(336, 336), (1024, 899), (200, 100), (100, 1000), (37, 1500), (640, 481), (1, 1), (1, 5000), (5000, 1)],
)
def test_views_are_those_of_transformers_bit_for_bit(size):
    pytest.importorskip("torch")
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    pixels = np.random.default_rng(sum(size)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(pixels)
    anyres = Anyres(order="hf")
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": 336},
        crop_size={"height": 336, "width": 336},
        image_grid_pinpoints=[list(p) for p in GOLDENS["pinpoints"]],
        do_rescale=False,
        do_normalize=False,
    )
    expected = processor(image, return_tensors="np")["pixel_values"][0]  # [views, 3, 336, 336]
    found = anyres.views(image).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(found, expected[: len(found)])
    assert not expected[len(found) :].any()


def test_pinpoints_that_are_no_whole_views_are_refused():
    assert check_pinpoints([[336, 672]], 336) == ((336, 672),)
    for wrong in ([], [[336]], [[336, 500]], [[0, 336]]):
        with pytest.raises(ValueError, match="multiples of 336"):
            check_pinpoints(wrong, 336)
