"""LLaVA conversation files and plain texts."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from input_pipeline.sources import llava_json, media, text
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


def _media(folder: Path) -> Path:
    root = folder / "root"
    root.mkdir(exist_ok=True)
    for name in ("1.jpg", "v.mp4", "v.jpg"):
        (root / name).write_bytes(b"x")
    return root


def _one(folder: Path, library: media.Library | None = None, **row: Any) -> llava_json.Sample | Rejected:
    (folder / "v.json").write_text(json.dumps([{"id": "a", **row}]))
    (item,) = llava_json.read(folder / "v.json", _media(folder), library)
    return item


@pytest.mark.parametrize(
    ("row", "text", "order"),
    [
        ({"video": "v.mp4"}, "<image>\nWhat?", None),
        ({"video": "v.mp4"}, "<video>\nWhat?", None),
        ({"video": ["v.mp4", "v.mp4"]}, "<video> or <video>?", None),
        ({"video": "v.mp4", "image": "1.jpg"}, "<video> like <image>?", ["video", "image"]),
        ({"video": "v.mp4", "image": "1.jpg"}, "<image> like <image>?", ["image", "video"]),
    ],
)
def test_videos(tmp_path: Path, row: Any, text: str, order: list[str] | None) -> None:
    item = _one(tmp_path, **row, conversations=[{"from": "human", "value": text}, _SAY])
    assert isinstance(item, llava_json.Sample)
    assert {Path(path).name for path in item.videos} == {"v.mp4"}
    assert item.conversations[0].text == text.replace("<video>", "<image>")
    assert item.meta == ({"media": order} if order else {})
    assert item.split_key == ("1" if "image" in row else "v")


@pytest.mark.parametrize(
    ("row", "text", "reason"),
    [
        ({"video": "v.mp4"}, "What?", "number of <image> marks and of media differ"),
        ({"video": "v.mp4"}, "<video><image>", "number of <image> marks and of media differ"),
        (
            {"video": "v.mp4", "image": "1.jpg"},
            "<video><video>",
            "number of <image> marks and of media differ",
        ),
        ({"image": "1.jpg"}, "<video> What?", "number of <image> marks and of images differ"),
        ({"image": "1.jpg"}, "What?", "number of <image> marks and of images differ"),
        ({"video": ""}, "<video>", "video is neither a file name nor a list of them"),
        ({"video": "../v.mp4"}, "<video>", "video lies outside the images folder"),
        ({"video": "w.mp4"}, "<video>", "media is gone"),
        ({"image": "n" * 5000}, "<image>", "media is gone"),
        ({"image": "\0\ud800"}, "<image>", "media is gone"),
    ],
)
def test_what_is_wrong_with_videos_is_said(tmp_path: Path, row: Any, text: str, reason: str) -> None:
    item = _one(tmp_path, **row, conversations=[{"from": "human", "value": text}, _SAY])
    assert isinstance(item, Rejected)
    assert item.reason == reason


def test_without_a_video_its_mark_is_a_word(tmp_path: Path) -> None:
    item = _one(tmp_path, conversations=[{"from": "human", "value": "What is <video> in HTML?"}, _SAY])
    assert isinstance(item, llava_json.Sample)
    assert item.conversations[0].text == "What is <video> in HTML?"


def test_images_may_lie_in_shards(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    with tarfile.open(shards / "0.tar", "w") as tar:
        for name in ("deep/7.jpg", "film.jpg"):
            header = tarfile.TarInfo(name)
            header.size = 3
            tar.addfile(header, io.BytesIO(b"abc"))
    library = media.build([shards], tmp_path / "index.sqlite")
    item = _one(tmp_path, library, image="x/7.jpg", conversations=[_ASK, _SAY])
    assert isinstance(item, llava_json.Sample)
    assert media.read(item.images[0]) == b"abc"
    assert item.split_key == "7"
    item = _one(tmp_path, library, video="film.mp4", conversations=[_ASK, _SAY])  # its thumbnail is no video
    assert isinstance(item, Rejected)
    assert item.kind == "gone"


def test_other_names_of_turns(tmp_path: Path) -> None:
    pair = [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "A cat."}]
    want = (Turn("human", "<image>\nWhat?"), Turn("gpt", "A cat."))
    for key, turns in (("conversation", [_ASK, _SAY]), ("conversations", pair), ("messages", pair)):
        item = _one(tmp_path, None, image="1.jpg", **{key: turns})
        assert isinstance(item, llava_json.Sample)
        assert item.conversations == want
    parts = [{"role": "user", "content": [{"type": "text", "text": "x"}]}, pair[1]]
    item = _one(tmp_path, messages=parts)
    assert isinstance(item, Rejected)
    assert item.reason == "a turn has no text"


_junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=4)
    | st.sampled_from(["<image>", "<video>", "human", "gpt", "1.jpg", "v.mp4", "/", "..", "."]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["from", "value", "role", "content"]), inner, max_size=2)
    ),
    max_leaves=6,
)
_turn = st.sampled_from([_ASK, _SAY, {"from": "human", "value": "<video>"}]) | _junk
_row = st.fixed_dictionaries(
    {}, optional={"id": _junk, "image": _junk, "video": _junk, "conversations": st.lists(_turn, max_size=4) | _junk}
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_row | _junk, max_size=5))
def test_nothing_raises_and_every_record_is_told_of(tmp_path: Path, rows: list[Any]) -> None:
    path = tmp_path / "h.json"
    path.write_text(json.dumps(rows))
    items = list(llava_json.read(path, _media(tmp_path)))
    assert len(items) == len(rows)
    for item in items:
        if isinstance(item, llava_json.Sample):
            marks = sum(turn.text.count("<image>") for turn in item.conversations)
            assert marks == len(item.images) + len(item.videos)


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
