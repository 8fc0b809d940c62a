"""The same picture twice, pictures that only look the same to a hash, and pictures of evaluation sets."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from input_pipeline.behavior.duplicates import (
    Fingerprint,
    Pictures,
    find_duplicates,
    fingerprint,
    merge,
)
from input_pipeline.behavior.rules import Rules
from input_pipeline.images import ImageError, open_image
from input_pipeline.types import Comment, Post

RULES = Rules()
REAL = Path(os.environ.get("JAXLLAVA_REAL_DATA", Path(__file__).parents[3] / "shared/data")) / "images"


def _scene(seed: int, size: int = 96) -> Image.Image:
    """A drawing: flat ellipses on a flat ground."""
    generator = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), tuple(generator.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, w, h = (generator.uniform(0, size, 4) * [1, 1, 0.5, 0.5]).tolist()
        draw.ellipse((x, y, x + w, y + h), fill=tuple(generator.integers(0, 256, 3).tolist()))
    return image


def _photo(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Something like a photo: soft shapes of all sizes and a little noise."""
    generator = np.random.default_rng(seed)
    total = np.zeros((size[1], size[0], 3))
    for grid in (3, 6, 12, 24):
        coarse = Image.fromarray(generator.integers(0, 256, (grid, grid, 3), np.uint8))
        total += np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), float) * 6 / (grid + 3)
    total += generator.normal(0, 6, total.shape)
    total = (total - total.min()) / (total.max() - total.min()) * 255
    return Image.fromarray(total.astype(np.uint8))


def _print(image: Image.Image, kind: str = "PNG", **options: Any) -> Fingerprint:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    data = buffer.getvalue()
    return fingerprint(data, open_image(data))


def _same(a: Fingerprint, b: Fingerprint, rules: Rules = RULES) -> bool:
    return find_duplicates([a, b], rules) == {0: 0, 1: 0}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "change",
    [
        lambda image: _print(image, "JPEG", quality=85),
        lambda image: _print(image, "JPEG", quality=30),
        lambda image: _print(image, "WEBP", quality=70),
        lambda image: _print(image.resize((200, 150), Image.Resampling.LANCZOS), "JPEG", quality=75),
        lambda image: _print(image.resize((640, 480), Image.Resampling.BILINEAR), "JPEG", quality=60),
        lambda image: _print(image.filter(ImageFilter.GaussianBlur(1))),
    ],
)
def test_a_photo_stored_again_is_the_same(seed: int, change: Any) -> None:
    image = _photo(seed)
    assert _same(_print(image), change(image))


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda image: image.rotate(90),
        lambda image: image.crop((60, 40, 260, 200)),
        lambda image: Image.merge("RGB", image.split()[::-1]),
    ],
)
def test_another_picture_of_the_same_thing_is_not(change: Any) -> None:
    image = _photo(0)
    assert not _same(_print(image), _print(change(image)))


def test_no_two_photos_are_the_same() -> None:
    assert find_duplicates([_print(_photo(seed)) for seed in range(40)], RULES) == {}


def test_copies_resized_and_recompressed_are_found_and_others_are_not() -> None:
    prints: list[Fingerprint] = []
    expected: dict[int, int] = {}
    for seed in range(60):
        image, first = _scene(seed), len(prints)
        prints.append(_print(image))
        if seed % 3 == 0:
            prints += [_print(image), _print(image.resize((70, 70)), "JPEG", quality=60)]
            expected |= dict.fromkeys((first, first + 1, first + 2), first)
    assert find_duplicates(prints, RULES) == expected
    last = len(prints) - 1
    backwards = find_duplicates(prints[::-1], RULES)
    groups = {frozenset(i for i in expected if expected[i] == first) for first in expected.values()}
    assert {frozenset(last - i for i in backwards if backwards[i] == f) for f in backwards.values()} == groups
    assert all(first == min(i for i in backwards if backwards[i] == first) for first in backwards.values())


def test_colour_separates_what_the_grey_hash_confuses() -> None:
    prints = [_print(Image.new("RGB", (64, 64), color)) for color in ((200, 0, 0), (0, 0, 255))]
    assert prints[0].hash == prints[1].hash
    assert find_duplicates(prints, RULES) == {}
    assert find_duplicates(prints, Rules(thumbnail_distance=255.0)) == {0: 0, 1: 0}


def test_a_recoloured_drawing_is_another() -> None:
    drawing, recoloured = Image.new("RGB", (96, 96), "white"), Image.new("RGB", (96, 96), "white")
    # Two colours of the same grey: the shapes, and so the hashes, are equal.
    for image, color in ((drawing, (200, 40, 40)), (recoloured, (40, 100, 220))):
        ImageDraw.Draw(image).ellipse((10, 20, 80, 70), fill=color)
        ImageDraw.Draw(image).rectangle((50, 60, 90, 90), fill=color)
    first, second = _print(drawing), _print(recoloured)
    assert (first.hash ^ second.hash).bit_count() <= RULES.hash_distance
    assert not _same(first, second)


@pytest.mark.skipif(not REAL.is_dir(), reason="no real sample data")
def test_real_pictures_stored_again_are_the_same() -> None:
    count = 0
    for path in sorted(REAL.iterdir()):
        try:
            image = open_image(path)
        except ImageError:
            continue
        if min(image.size) < 32:
            continue
        count += 1
        smaller = image.resize((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.LANCZOS)
        assert _same(fingerprint(path.read_bytes(), image), _print(smaller, "JPEG", quality=80)), path.name
    assert count >= 5


# --- the index of hashes --------------------------------------------------------------------------


def _made(value: int, number: int, shade: int = 0) -> Fingerprint:
    return Fingerprint(number.to_bytes(32, "big"), value, bytes([shade]) * 192)


def _brute(seen: Sequence[Fingerprint], item: Fingerprint, rules: Rules) -> int | None:
    for number, other in enumerate(seen):
        difference = np.frombuffer(other.thumbnail, np.uint8).astype(int) - np.frombuffer(
            item.thumbnail, np.uint8
        )
        alike = np.abs(difference).mean() <= rules.thumbnail_distance
        if (other.hash ^ item.hash).bit_count() <= rules.hash_distance and alike:
            return number
    return None


@pytest.mark.parametrize("distance", (0, 1, 6, 11, 20))
def test_find_is_what_comparing_with_all_gives(distance: int) -> None:
    generator = np.random.default_rng(distance)
    rules = Rules(hash_distance=distance)
    pictures = Pictures(rules)
    seen: list[Fingerprint] = []
    for number in range(150):
        value = int.from_bytes(generator.bytes(8), "big")
        seen.append(_made(value, number, int(generator.integers(0, 3)) * 3))
        assert pictures.add(seen[-1]) == number
    found = 0
    for number in range(400):
        value = seen[int(generator.integers(len(seen)))].hash
        # As many changed bits as are just allowed, or one more, in any of the bits.
        for bit in generator.choice(64, distance + int(generator.integers(0, 2)), replace=False).tolist():
            value ^= 1 << bit
        item = _made(value, 1000 + number, int(generator.integers(0, 3)) * 3)
        expected = _brute(seen, item, rules)
        assert pictures.find(item) == expected
        found += expected is not None
    assert 50 < found < 350


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6), st.data())
def test_find_with_hashes_that_are_close(values: list[int], data: st.DataObject) -> None:
    rules = Rules(hash_distance=data.draw(st.integers(0, 12)))
    flips = st.lists(st.integers(0, 63), max_size=13)
    pictures, seen = Pictures(rules), []
    for number in range(10):
        value = data.draw(st.sampled_from(values))
        for bit in data.draw(flips):
            value ^= 1 << bit
        item = _made(value, number)
        assert pictures.find(item) == _brute(seen, item, rules)
        pictures.add(item)
        seen.append(item)


def test_thousands_of_pictures_keep_their_numbers() -> None:
    pictures = Pictures(RULES)
    generator = np.random.default_rng(0)
    hashes = [int.from_bytes(generator.bytes(8), "big") for _ in range(2500)]
    for number, value in enumerate(hashes):
        assert pictures.add(_made(value, number, number % 25 * 10)) == number
    for number in (1, 1023, 1024, 2047, 2048, 2499):
        shade = number % 25 * 10
        assert pictures.find(_made(hashes[number] ^ 1 << 63, 9999, shade)) == number
        assert pictures.find(_made(hashes[number] ^ 1 << 63, 9999, shade + 5)) is None


def test_the_same_file_is_found_whatever_its_hash() -> None:
    pictures = Pictures(RULES)
    pictures.add(_made(0, 1))
    assert pictures.find(_made(2**64 - 1, 1, 255)) == 0
    pictures.same(_made(2**40 - 1, 2, 255), 0)
    assert pictures.find(_made(2**50 - 1, 2)) == 0


def test_a_chain_of_changes_does_not_join_its_ends() -> None:
    prints = [_made(0, 0), _made(0b111111, 1), _made(0b111111111111, 2)]
    assert find_duplicates(prints, RULES) == {0: 0, 1: 0}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=2, max_size=12), st.sampled_from([0.0, 1.0, 4.0, 30.0, 255.0]))
def test_brightness_hides_nothing_that_is_near(levels: list[int], reach: float) -> None:
    rules = Rules(thumbnail_distance=reach)
    pictures, seen = Pictures(rules), []
    for number, level in enumerate(levels):
        item = _made(0, number, level)
        assert pictures.find(item) == _brute(seen, item, rules)
        pictures.add(item)
        seen.append(item)


# --- merging --------------------------------------------------------------------------------------


def _post(post_id: str, created: float, comments: Sequence[str]) -> Post:
    made = tuple(Comment(comment, f"{comment} of {post_id}") for comment in comments)
    return Post(post_id, "reddit", "t", "f:1", created=created, comments=made)


def test_merge_adds_comments_to_the_first_unless_switched_off() -> None:
    posts = [_post("a", 1.0, ["z", "x"]), _post("b", 2.0, ["x", "y"]), _post("c", 3.0, [])]
    first, lost = merge(posts, merge_comments=True)
    assert (first.id, [c.text for c in first.comments], lost) == (
        "a",
        ["z of a", "x of a", "x of b", "y of b"],  # ids are those of one post: both x are there
        0,
    )
    first, lost = merge(posts, merge_comments=False)
    assert (first, lost) == (posts[0], 2)
