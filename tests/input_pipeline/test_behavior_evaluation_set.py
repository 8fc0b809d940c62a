"""The ids and pictures of benchmarks are recognised."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from input_pipeline.behavior import evaluation_set
from input_pipeline.behavior.evaluation_set import EvaluationSet
from input_pipeline.errors import UserError
from input_pipeline.types import Post
from tests.input_pipeline.test_behavior_duplicates import RULES, _photo, _print


@pytest.mark.parametrize(
    ("changes", "inside"),
    [
        ({"id": "abc"}, True),
        ({"id": "abcd"}, False),
        ({"id": "ABC"}, False),
        ({"media": ("/data/abc.jpg",)}, True),
        ({"media": ("/data/other.jpg", "/data/abc.webp")}, True),
        ({"media": ("/data/shard.tar::512:70:abc.png",)}, True),
        ({"media": ("/data/abc/other.jpg",)}, False),
        ({"media": ("/data/abc.f137.jpg",)}, True),
        ({"media": ("/data/2.0 vs. 1.jpg",)}, True),
        ({"media": ("/data/COCO_42.jpg",)}, True),
        ({"media": ("/data/COCO_42.png",)}, False),
        ({"url": "https://www.youtube.com/watch?v=dQw4w9WgXcQ"}, True),
        ({"url": "https://www.youtube.com/watch?v=dQw4w9WgXcQ&t=42"}, True),
        ({"url": "https://m.youtube.com/watch?feature=share&v=dQw4w9WgXcQ"}, True),
        ({"url": "https://youtu.be/dQw4w9WgXcQ?si=1"}, True),
        ({"url": "https://www.youtube.com/watch?v=xxxxxxxxxxx"}, False),
        ({"url": "https://i.redd.it/abc.png?width=9"}, True),
        ({"url": ""}, False),
    ],
)
def test_a_post_is_known_by_its_id_media_or_link(changes: dict, inside: bool) -> None:
    known = EvaluationSet(["abc", "dQw4w9WgXcQ", "2.0 vs. 1", "COCO_42.jpg"], [], RULES)
    post = Post(**{"id": "p", "source": "reddit", "title": "abc", "origin": "abc:1", **changes})
    assert known.has_post(post) == inside
    assert not EvaluationSet([], [], RULES).has_post(post)


def test_a_picture_of_an_evaluation_set_is_known_however_it_is_stored() -> None:
    known = EvaluationSet([], [_print(_photo(1)), _print(_photo(2))], RULES)
    assert known.has_picture(_print(_photo(2).resize((160, 120)), "JPEG", quality=70))
    assert known.has_picture(_print(_photo(1)))
    assert not known.has_picture(_print(_photo(3)))


def test_prints_under_a_folder_and_its_tars(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "deep").mkdir(parents=True)
    _photo(1).save(folder / "deep" / "one.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture either")
    _photo(2).save(tmp_path / "two.png")
    with tarfile.open(folder / "shard.tar", "w") as tar:
        tar.add(tmp_path / "two.png", "two.png")
    found = dict(evaluation_set.prints_under(str(folder), tmp_path / "index"))
    names = {reference.rpartition("/")[2].rpartition(":")[2]: item for reference, item in found.items()}
    assert names == {"one.png": _print(_photo(1)), "two.png": _print(_photo(2)), "broken.jpg": None}


def test_read_ids(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes("\ufeffabc\r\n\n  d e \nécole".encode())
    assert list(evaluation_set.read_ids(str(path))) == ["abc", "d e", "école"]
    path.write_bytes(b"\xff\xfe\x00")
    for wrong in (path, tmp_path):
        with pytest.raises(UserError, match="must be a text file with an id a line"):
            list(evaluation_set.read_ids(str(wrong)))


def test_what_could_not_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    _photo(1).save(tmp_path / "bench/1.png")
    (tmp_path / "bench/2.png").write_bytes(b"torn")
    rules = replace(RULES, evaluation_images=(str(tmp_path / "bench"),))
    path = tmp_path / "evaluation"
    assert evaluation_set.warnings(path, rules) == []
    evaluation_set.load.cache_clear()
    evaluation_set.write(path, rules)
    assert evaluation_set.warnings(path, rules)[0].startswith(
        "1 pictures of evaluation sets could not be read"
    )
    known = evaluation_set.load(path, rules)
    assert known is not None
    assert known.has_picture(_print(_photo(1)))
