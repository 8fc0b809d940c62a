"""Decoding of awkward files, and equality with transformers' CLIP processor and LLaVA's padding."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from input_pipeline import images

REAL = Path(os.environ.get("JAXLLAVA_REAL_DATA", Path(__file__).parents[3] / "shared/data")) / "images"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no real sample data")


def _noise(width: int, height: int, seed: int = 0) -> Image.Image:
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def _reference(image: Image.Image, size: int) -> np.ndarray:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        do_rescale=False,
        do_normalize=False,
    )
    return np.asarray(processor(image)["pixel_values"][0]).transpose(1, 2, 0)


def _bytes(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [30, 224, 336])
@pytest.mark.parametrize("shape", [(640, 427), (427, 640), (100, 100), (31, 29), (750, 30), (1, 1), (3, 7)])
def test_square_is_bit_equal_to_transformers(shape: tuple[int, int], size: int) -> None:
    image = _noise(*shape)
    got = images.preprocess(image, size, "square")
    assert got.dtype == np.uint8
    assert got.shape == (size, size, 3)
    np.testing.assert_array_equal(got, _reference(image, size))


@pytest.mark.parametrize("shape", [(640, 427), (426, 641), (5, 4), (64, 64)])
def test_pad_is_expand2square_then_the_processor(shape: tuple[int, int]) -> None:
    image = _noise(*shape)
    side = max(shape)
    canvas = np.empty((side, side, 3), np.uint8)
    canvas[:] = (122, 116, 104)
    top, left = (side - shape[1]) // 2, (side - shape[0]) // 2
    canvas[top : top + shape[1], left : left + shape[0]] = np.asarray(image)
    expected = _reference(Image.fromarray(canvas), 56)
    np.testing.assert_array_equal(images.preprocess(image, 56, "pad"), expected)


def test_mean_and_std_are_transformers() -> None:
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    assert list(images.CLIP_MEAN) == OPENAI_CLIP_MEAN
    assert list(images.CLIP_STD) == OPENAI_CLIP_STD
    assert tuple(int(255 * m) for m in images.CLIP_MEAN) == images.PAD_COLOR


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="'square' or 'pad'"):
        images.preprocess(_noise(4, 4), 4, "anyres")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_on_white_as_transformers_does(mode: str) -> None:
    generator = np.random.default_rng(1)
    bands = 4 if mode == "RGBA" else 2
    image = Image.fromarray(generator.integers(0, 256, (20, 30, bands), dtype=np.uint8), mode)
    got = images.preprocess(images.open_image(_bytes(image)), 24)
    np.testing.assert_array_equal(got, _reference(image, 24))


def test_sixteen_bit_grey_keeps_its_upper_bits() -> None:
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    got = np.asarray(images.open_image(_bytes(Image.fromarray(values))))
    np.testing.assert_array_equal(got[..., 0], values >> 8)


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (40, 20), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 20, 20))  # left half red
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise: left becomes top
    upright = images.open_image(_bytes(image, exif=exif))
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 5)) == (255, 0, 0)
    assert upright.getpixel((10, 35)) == (0, 0, 255)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty file"), (b"<html>404</html>", "not an image"), ("no/such/file.png", "no such file")],
)
def test_what_is_no_image_says_why(data: bytes | str, reason: str) -> None:
    with pytest.raises(images.ImageError) as caught:
        images.open_image(data)
    assert caught.value.reason == reason


def test_every_truncation_of_a_file_is_an_image_error_or_an_image() -> None:
    for kind in ("PNG", "JPEG", "GIF", "WEBP"):
        whole = _bytes(_noise(16, 16), kind)
        for length in range(0, len(whole) - 1, 7):
            try:
                assert images.open_image(whole[:length]).mode == "RGB"
            except images.ImageError as error:
                assert error.reason


def test_too_many_pixels_is_refused_before_decoding() -> None:
    bomb = _bytes(Image.new("1", (20000, 20000)))
    with pytest.raises(images.ImageError, match="too many pixels"):
        images.open_image(bomb)


def test_an_extreme_shape_is_cut_not_blown_up() -> None:
    got = images.preprocess(Image.new("RGB", (1, 60000), (9, 9, 9)), 336)
    assert got.shape == (336, 336, 3)
    assert (got == 9).all()


@needs_real
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("animated.webp", (200, 200)),
        ("dispose_bgnd.gif", (100, 100)),
        ("high_ascii_chars.png", (750, 30)),
        ("hopper.webp", (128, 128)),
        ("hopper_gray.jpg", (128, 128)),
        ("hopper_orientation_6.jpg", (128, 128)),
        ("i_trns.png", (64, 64)),
        ("pil123p.png", (162, 150)),
        ("pil123rgba.png", (162, 150)),
        ("pil_sample_cmyk.jpg", (100, 100)),
        ("progressive_cat.jpg", (320, 240)),
        ("tRNS_null_1x1.png", (1, 1)),
    ],
)
def test_real_files_open(name: str, size: tuple[int, int]) -> None:
    path = REAL / name
    image = images.open_image(path)
    assert (image.mode, image.size) == ("RGB", size)
    np.testing.assert_array_equal(np.asarray(images.open_image(path.read_bytes())), np.asarray(image))
    np.testing.assert_array_equal(images.preprocess(image, 112), _reference(image, 112))
    if name != "hopper_orientation_6.jpg" and name != "i_trns.png":  # where we differ on purpose
        np.testing.assert_array_equal(images.preprocess(image, 112), _reference(Image.open(path), 112))


@needs_real
@pytest.mark.parametrize("name", ["broken_data_stream.png", "truncated_jpeg.jpg"])
def test_real_broken_files_are_refused(name: str) -> None:
    with pytest.raises(images.ImageError, match="broken image"):
        images.open_image(REAL / name)
