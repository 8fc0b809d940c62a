"""LLaVA conversation files and plain texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from input_pipeline.sources import llava_json, text
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Turn

_ASK = {"from": "human", "value": "<image>\nWhat?"}
_SAY = {"from": "gpt", "value": "A cat."}


def _read(folder: Path, *rows: Any) -> list[llava_json.Sample | Rejected]:
    path = folder / "a.json"
    path.write_text(json.dumps(list(rows)))
    (folder / "images/coco").mkdir(parents=True, exist_ok=True)
    for name in ("coco/1.jpg", "2.jpg"):
        (folder / "images" / name).write_bytes(b"x")
    return list(llava_json.read(path, folder / "images"))


def test_one_image_several_and_none(tmp_path: Path) -> None:
    text_only = [{"from": "human", "value": "Hi"}, _SAY]
    two = [{"from": "human", "value": "<image><image> same?"}, _SAY]
    items = _read(
        tmp_path,
        {"id": 7, "image": "coco/1.jpg", "conversations": [_ASK, _SAY]},
        {"id": "b", "image": ["coco/1.jpg", "2.jpg"], "conversations": two},
        {"conversations": text_only},
    )
    assert items[0] == llava_json.Sample(
        "7",
        f"{tmp_path}/a.json:0",
        (str(tmp_path / "images/coco/1.jpg"),),
        (Turn("human", "<image>\nWhat?"), Turn("gpt", "A cat.")),
    )
    assert isinstance(items[1], llava_json.Sample)
    assert isinstance(items[2], llava_json.Sample)
    assert [Path(path).name for path in items[1].images] == ["1.jpg", "2.jpg"]
    assert (items[2].id, items[2].images) == ("a.json:2", ())
    assert [item.split_key for item in items] == ["1", "1", "a.json:2"]  # type: ignore[union-attr]


def test_names_may_repeat_the_images_folder(tmp_path: Path) -> None:
    (item,) = _read(tmp_path, {"id": 1, "image": "images/2.jpg", "conversations": [_ASK, _SAY]})
    assert isinstance(item, llava_json.Sample)
    assert item.images == (str(tmp_path / "images/2.jpg"),)


def test_a_leading_answer_is_cut_off_as_llava_does(tmp_path: Path) -> None:
    (item,) = _read(tmp_path, {"id": 1, "image": "2.jpg", "conversations": [_SAY, _ASK, _SAY]})
    assert isinstance(item, llava_json.Sample)
    assert [turn.role for turn in item.conversations] == ["human", "gpt"]


@pytest.mark.parametrize(
    ("row", "kind", "reason"),
    [
        (3, "bad", "element is not an object"),
        ({"id": 1}, "bad", "no list of conversations"),
        ({"conversations": []}, "bad", "conversation does not end with an answer"),
        ({"conversations": [_ASK]}, "bad", "conversation does not end with an answer"),
        ({"conversations": [_ASK, _ASK, _SAY]}, "bad", "turns do not alternate"),
        ({"conversations": [{"from": "system", "value": "x"}]}, "bad", "a turn is neither human nor gpt"),
        ({"conversations": [{"from": "human", "value": " "}, _SAY]}, "bad", "a turn has no text"),
        ({"conversations": [_ASK, _SAY]}, "bad", "number of <image> marks and of images differ"),
        (
            {"image": ["2.jpg", "2.jpg"], "conversations": [_ASK, _SAY]},
            "bad",
            "number of <image> marks and of images differ",
        ),
        (
            {"image": {"a": 1}, "conversations": [_ASK, _SAY]},
            "bad",
            "image is neither a file name nor a list of them",
        ),
        (
            {"image": "2.jpg", "conversations": [_ASK, {"from": "gpt", "value": "<image>"}]},
            "bad",
            "<image> in an answer",
        ),
        (
            {"image": "../../etc/passwd", "conversations": [_ASK, _SAY]},
            "bad",
            "image lies outside the images folder",
        ),
        (
            {"image": "/etc/passwd", "conversations": [_ASK, _SAY]},
            "bad",
            "image lies outside the images folder",
        ),
        ({"image": "none.jpg", "conversations": [_ASK, _SAY]}, "gone", "media is gone"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, row: Any, kind: str, reason: str) -> None:
    first, second = _read(tmp_path, row, {"id": 1, "image": "2.jpg", "conversations": [_ASK, _SAY]})
    assert isinstance(first, Rejected)
    assert (first.kind, first.reason, first.origin) == (kind, reason, f"{tmp_path}/a.json:0")
    assert isinstance(second, llava_json.Sample)


def test_texts(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"id": 1, "text": " hello "}\n{"text": "x"}\n{"id": "e", "text": ""}\nbroken\n')
    items = list(text.read(path))
    assert items[0] == text.Document("1", f"{path}:1", "hello")
    assert items[1] == text.Document("t.jsonl:2", f"{path}:2", "x")
    assert [(i.id, i.reason) for i in items[2:] if isinstance(i, Rejected)] == [
        ("e", "no text"),
        ("", "line is not JSON"),
    ]
