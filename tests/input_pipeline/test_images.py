"""Decoding of awkward files, and equality with transformers' CLIP and SigLIP processors and LLaVA's padding."""

from __future__ import annotations

import io
import os
import struct
import zlib
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


def _reference_stretch(image: Image.Image, size: int) -> np.ndarray:
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    processor = SiglipImageProcessorPil(
        size={"height": size, "width": size}, do_rescale=False, do_normalize=False
    )
    return np.asarray(processor(image)["pixel_values"][0]).transpose(1, 2, 0)


def _padded(image: Image.Image, color: tuple[int, int, int] = images.PAD_COLOR) -> Image.Image:
    """LLaVA's expand2square in numpy."""
    side = max(image.size)
    canvas = np.empty((side, side, 3), np.uint8)
    canvas[:] = color
    top, left = (side - image.height) // 2, (side - image.width) // 2
    canvas[top : top + image.height, left : left + image.width] = np.asarray(image)
    return Image.fromarray(canvas)


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
    np.testing.assert_array_equal(images.preprocess(image, 56, "pad"), _reference(_padded(image), 56))


@pytest.mark.parametrize("shape", [(640, 427), (427, 640), (100, 100), (750, 30), (3, 7)])
def test_stretch_is_bit_equal_to_transformers(shape: tuple[int, int]) -> None:
    image = _noise(*shape)
    got = images.preprocess(image, 56, "stretch")
    assert (got.dtype, got.shape) == (np.uint8, (56, 56, 3))
    np.testing.assert_array_equal(got, _reference_stretch(image, 56))


@pytest.mark.parametrize("seed", range(24))
def test_all_modes_are_bit_equal_for_any_size(seed: int) -> None:
    """Also for shapes of which only a part is resized, since the sizes share divisors, and for hard edges."""
    generator = np.random.default_rng(seed)
    size = int(generator.choice([14, 30, 56, 112, 224]))
    if seed % 2:
        width, height = generator.integers(1, 400, 2)
    else:
        width, height = np.array([(4, 3), (3, 4), (3, 2), (2, 5)][seed // 2 % 4]) * generator.integers(2, 120)
    image = _noise(int(width), int(height), seed)
    if seed % 3 == 0:
        image = image.point([0] * 128 + [255] * 128 + [0] * 128 + [255] * 128 + [0] * 128 + [255] * 128)
    red, green, blue = (int(c) for c in generator.integers(0, 256, 3))
    color = (red, green, blue)
    padded = images.preprocess(image, size, "pad", color)
    np.testing.assert_array_equal(images.preprocess(image, size), _reference(image, size))
    np.testing.assert_array_equal(padded, _reference(_padded(image, color), size))
    np.testing.assert_array_equal(images.preprocess(image, size, "stretch"), _reference_stretch(image, size))


@pytest.mark.parametrize(("width", "height"), [(2000, 1500), (1500, 2000), (2048, 1365)])
def test_large_pictures_are_bit_equal_too(width: int, height: int) -> None:
    image = _noise(width, height)
    np.testing.assert_array_equal(images.preprocess(image, 336), _reference(image, 336))
    np.testing.assert_array_equal(images.preprocess(image, 336, "pad"), _reference(_padded(image), 336))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1)])
def test_one_pixel_and_long_lines_are_bit_equal(shape: tuple[int, int]) -> None:
    image = _noise(*shape)
    np.testing.assert_array_equal(images.preprocess(image, 24), _reference(image, 24))
    np.testing.assert_array_equal(images.preprocess(image, 24, "pad"), _reference(_padded(image), 24))
    np.testing.assert_array_equal(images.preprocess(image, 24, "stretch"), _reference_stretch(image, 24))


def test_mean_and_std_are_transformers() -> None:
    from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    assert list(images.CLIP_MEAN) == OPENAI_CLIP_MEAN
    assert list(images.CLIP_STD) == OPENAI_CLIP_STD
    assert tuple(int(255 * m) for m in images.CLIP_MEAN) == images.PAD_COLOR


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="'square', 'pad' or 'stretch'"):
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


@pytest.mark.parametrize("kind", ["L", "1", "P"])
def test_grey_bits_and_palette_are_those_of_transformers(kind: str) -> None:
    image = _noise(30, 20).convert(kind)
    opened = images.open_image(_bytes(image))
    assert opened.mode == "RGB"
    np.testing.assert_array_equal(images.preprocess(opened, 24), _reference(image, 24))


@pytest.mark.parametrize("transparency", [3, bytes(range(0, 256, 4))])
def test_a_palette_with_transparency_is_seen_on_white(transparency: int | bytes) -> None:
    image = _noise(30, 20).quantize(64)
    encoded = _bytes(image, transparency=transparency)
    opened = images.open_image(encoded)
    np.testing.assert_array_equal(
        images.preprocess(opened, 24), _reference(Image.open(io.BytesIO(encoded)), 24)
    )
    if isinstance(transparency, int):
        assert (np.asarray(opened)[np.asarray(image) == 3] == 255).all()
        assert (np.asarray(image) == 3).any()


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_jpegs_are_not_negatives(adobe: bool) -> None:
    """Pillow writes them inverted with Adobe's marker; without the marker browsers take them as inverted too."""
    colors = [(255, 255, 255), (0, 0, 0), (230, 30, 30), (30, 30, 230)]
    image = Image.new("RGB", (64, 16))
    for i, color in enumerate(colors):
        image.paste(color, (16 * i, 0, 16 * i + 16, 16))
    encoded = _bytes(image.convert("CMYK"), "JPEG", quality=95)
    marker = encoded.index(b"\xff\xee\x00\x0eAdobe")
    if not adobe:
        encoded = encoded[:marker] + encoded[marker + 16 :]
    assert Image.open(io.BytesIO(encoded)).mode == "CMYK"
    got = np.asarray(images.open_image(encoded))[8, 8::16].astype(int)
    np.testing.assert_allclose(got, colors, atol=6)


@pytest.mark.parametrize(("color_type", "bands"), [(2, 3), (6, 4)])
def test_sixteen_bit_colour_keeps_its_upper_bits(color_type: int, bands: int) -> None:
    """Pillow cannot write such a PNG, so this one is put together by hand."""
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, bands)).astype(">u2")
    values[..., 3:] = 65535  # opaque
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 7, 5, 16, color_type, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
    ]
    encoded = b"\x89PNG\r\n\x1a\n"
    for kind, data in [*chunks, (b"IEND", b"")]:
        encoded += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    np.testing.assert_array_equal(np.asarray(images.open_image(encoded)), values[..., :3] >> 8)


@pytest.mark.parametrize(("scale", "factor"), [(1.0, 255.0), (200.0, 1.0), (65535.0, 1 / 256)])
def test_float_grey_is_read_by_its_range(scale: float, factor: float) -> None:
    values = np.linspace(0, scale, 64, dtype=np.float32).reshape(8, 8)
    values[0, 0] = np.nan
    got = np.asarray(images.open_image(_bytes(Image.fromarray(values), "TIFF")))
    np.testing.assert_array_equal(got[..., 1], (np.nan_to_num(values) * factor).astype(np.uint8))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (20, 10), color) for color in [(255, 0, 0), (0, 0, 255)]]
    encoded = _bytes(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    assert getattr(Image.open(io.BytesIO(encoded)), "n_frames", 1) == 2
    np.testing.assert_allclose(np.asarray(images.open_image(encoded))[5, 5].astype(int), (255, 0, 0), atol=3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation: int) -> None:
    upright = np.asarray(_noise(7, 5))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = _bytes(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    np.testing.assert_array_equal(np.asarray(images.open_image(encoded)), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_leaves_the_picture_as_stored() -> None:
    image = _noise(7, 5)
    for exif in (b"Exif\0\0nonsense", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"):
        opened = images.open_image(_bytes(image, exif=exif))
        np.testing.assert_array_equal(np.asarray(opened), np.asarray(image))


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


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_half_file_says_that_it_is_truncated(kind: str) -> None:
    whole = _bytes(_noise(64, 64), kind)
    with pytest.raises(images.ImageError) as caught:
        images.open_image(whole[: len(whole) // 2])
    assert caught.value.reason == "broken image: image file is truncated"


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty file"), (b"no picture\n", "not an image")])
def test_a_reason_names_no_path(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    with pytest.raises(images.ImageError) as caught:
        images.open_image(path)
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


@pytest.mark.parametrize("shape", [(1, 60000), (60000, 1)])
def test_an_extreme_shape_is_cut_or_shrunk_not_blown_up(shape: tuple[int, int]) -> None:
    image = Image.new("RGB", shape, (9, 9, 9))
    for mode in images.MODES:
        got = images.preprocess(image, 336, mode, (9, 9, 9))
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
