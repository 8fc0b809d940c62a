"""The same picture twice, and pictures that only look the same to a hash."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from input_pipeline.behavior.clean import Rules
from input_pipeline.behavior.duplicates import Fingerprint, find_duplicates, fingerprint, merge
from input_pipeline.types import Comment, Post

RULES = Rules()


def _scene(seed: int, size: int = 96) -> Image.Image:
    generator = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), tuple(generator.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, w, h = (generator.uniform(0, size, 4) * [1, 1, 0.5, 0.5]).tolist()
        draw.ellipse((x, y, x + w, y + h), fill=tuple(generator.integers(0, 256, 3).tolist()))
    return image


def _print(key: str, image: Image.Image, created: float = 0.0, kind: str = "PNG", **options) -> Fingerprint:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    data = buffer.getvalue()
    return fingerprint(key, created, data, Image.open(io.BytesIO(data)).convert("RGB"))


def test_copies_resized_and_recompressed_are_found_and_others_are_not() -> None:
    prints, expected = [], {}
    for seed in range(60):
        image = _scene(seed)
        prints.append(_print(f"r/{seed}", image, created=1.0))
        if seed % 3 == 0:
            prints.append(_print(f"r/{seed}-same", image, created=2.0))
            prints.append(_print(f"r/{seed}-small", image.resize((70, 70)), 3.0, "JPEG", quality=60))
            expected |= dict.fromkeys((f"r/{seed}", f"r/{seed}-same", f"r/{seed}-small"), f"r/{seed}")
    assert find_duplicates(prints[::-1], RULES) == expected


def test_colour_separates_what_the_grey_hash_confuses() -> None:
    red, blue = Image.new("RGB", (64, 64), (200, 0, 0)), Image.new("RGB", (64, 64), (0, 0, 255))
    prints = [_print("a", red), _print("b", blue)]
    assert prints[0].hash == prints[1].hash
    assert find_duplicates(prints, RULES) == {}
    loose = Rules(thumbnail_distance=255.0)
    assert find_duplicates(prints, loose) == {"a": "a", "b": "a"}


def test_the_first_is_the_oldest_and_unknown_times_come_last() -> None:
    image = _scene(1)
    prints = [_print("late", image, 9.0), _print("early", image, 1.0)]
    unknown = fingerprint("a", None, b"x", image)
    found = find_duplicates([unknown, *prints], RULES)
    assert found == {"late": "early", "early": "early", "a": "early"}


def _post(post_id: str, created: float, comments: Sequence[str]) -> Post:
    made = tuple(Comment(comment, comment) for comment in comments)
    return Post(post_id, "reddit", "t", (), "f:1", created=created, comments=made)


def test_merge_adds_comments_to_the_first_unless_switched_off() -> None:
    posts = [_post("b", 2.0, ["x", "y"]), _post("a", 1.0, ["z", "x"])]
    first, repeats = merge(posts, "reddit/a", merge_comments=True)
    assert (first.id, [c.id for c in first.comments]) == ("a", ["z", "x", "y"])
    assert [post.id for post in repeats] == ["b"]
    first, _ = merge(posts, "reddit/a", merge_comments=False)
    assert [c.id for c in first.comments] == ["z", "x"]
