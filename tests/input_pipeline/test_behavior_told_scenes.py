"""Scenes that a model told of media reach the posts of these media, and the samples made of the posts."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from configs.prepare import get_config
from input_pipeline import records
from input_pipeline.behavior import told_scenes
from input_pipeline.errors import UserError
from input_pipeline.prepare import prepare
from input_pipeline.types import Post, Scene
from tests.conftest import png

SCENES = [
    {"start": 0.0, "end": 4.0, "caption": "a man who runs", "tags": ["man", "track"], "foreground": ["red", "tan"],
     "background": ["white"], "tone": "warm"},
    {"start": 4.0, "end": 9.0, "caption": "a bottle", "tags": [], "foreground": [], "background": [], "tone": ""},
]  # fmt: skip
TOLD = (
    Scene("a man who runs", 0.0, 4.0, ("man", "track"), ("red", "tan"), ("white",), "warm"),
    Scene("a bottle", 4.0, 9.0),
)


def line(name: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {"media": name, "sha256": hashlib.sha256(data).hexdigest(), "scenes": SCENES, **more}


def written(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def index(tmp_path: Path, by: str, *rows: dict[str, Any]) -> told_scenes.ToldScenes:
    told_scenes.build(written(tmp_path / "scenes.jsonl", *rows), by, tmp_path / "index")
    return pickle.loads(pickle.dumps(told_scenes.ToldScenes(tmp_path / "index")))


def post(**changes: Any) -> Post:
    return Post(
        **({"id": "p", "source": "youtube", "title": "t", "origin": "o:1", "media": ("x/v1.jpg",)} | changes)
    )


def test_by_the_hash_of_the_medium(tmp_path):
    found = index(tmp_path, "sha256", line("v1.mp4", b"one", asr="go on"), line("twin.mp4", b"one"))
    sha256 = hashlib.sha256(b"one").hexdigest()
    told = found.tell(post(scenes=(Scene("another", 0.0, 9.0),)), sha256)
    assert told.scenes == TOLD and told.asr == "go on"
    assert found.tell(post(asr="own words"), sha256).asr == "own words"
    other = post()
    assert found.tell(other, hashlib.sha256(b"two").hexdigest()) is other
    assert told_scenes.load(tmp_path / "none") is None


@pytest.mark.parametrize("who", [{}, {"id": "v1", "media": ("x/other.jpg",)}])
def test_by_the_name_of_the_medium_or_the_id(tmp_path, who):
    found = index(tmp_path, "name", line("deep/v1.mp4", b"one"), line("v1.webm", b"one"))
    assert found.tell(post(**who), "").scenes == TOLD
    assert found.tell(post(id="v2", media=("x/v3.jpg",)), "").scenes == ()


def test_two_media_of_one_name_are_an_error_by_name_alone(tmp_path):
    rows = (line("a/v1.mp4", b"one"), line("b/v1.mp4", b"two"))
    assert index(tmp_path, "sha256", *rows).scenes_of(rows[1]["sha256"])
    (tmp_path / "index").unlink()
    with pytest.raises(UserError, match=r"a/v1\.mp4 and b/v1\.mp4 have the same name and differ"):
        index(tmp_path, "name", *rows)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("row", ["{", "[]", '{"media": "a", "scenes": []}', '{"media": "a", "sha256": "b"}'])
def test_a_line_of_another_kind_is_named(tmp_path, row):
    path = written(tmp_path / "scenes.jsonl", line("a", b"a"))
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(UserError, match=r"scenes\.jsonl:2: not a line of jaxllava verbalise"):
        told_scenes.build(path, "sha256", tmp_path / "index")


@pytest.fixture
def ads(tmp_path) -> dict[str, Any]:
    (tmp_path / "media").mkdir()
    rows = []
    for number in range(2):
        (tmp_path / "media" / f"ad{number}.png").write_bytes(png(number))
        rows.append({"id": f"i{number}", "title": "Run", "media": f"ad{number}.png", "likes": 20, "views": 1000,
                     "replay": [{"start": 0, "end": 3, "value": 0.06}, {"start": 3, "end": 9, "value": 0.23}],
                     "comments": [{"text": "best ad I ever saw"}, {"text": "I ran as well"}]})  # fmt: skip
    (tmp_path / "ads.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = get_config()
    config.tables = ({"posts": str(tmp_path / "ads.jsonl"), "media": str(tmp_path / "media")},)
    config.template, config.behaviors, config.arms = "video_listing_v1", ("likes", "replay"), ("behavior",)
    config.heldout_fraction = 0.0
    return config.to_dict()


def test_prepare_tells_them_in_the_papers_listing(ads, tmp_path):
    scenes = written(tmp_path / "scenes.jsonl", line("whatever.mp4", png(0), asr="go on"))
    found = prepare(ads | {"scenes": str(scenes)}, tmp_path / "out")
    assert found["told_scenes"] == 1 and "1 posts were given scenes in words" in found["summary"]
    by_id = {record.id: record for record in records.open_split(tmp_path / "out", "behavior_train")}
    question, answer = (turn.text for turn in by_id["i0"].conversations)
    assert 'The audio in the ad says "go on".' in question and "scene by scene" in question
    assert (
        "Scene 1: The scene shows a man who runs. The foreground colors of the scene are red, tan, and the "
        "background colors are white. The dominant tone of the scene is warm. This scene is categorized by the tags: "
        "man, track.\nScene 2: The scene shows a bottle.\n" in answer
    )
    assert answer.endswith("Scene 1: 0.23\nScene 2: 0.23")
    assert "The scene shows" not in by_id["i1"].conversations[1].text and by_id["i1"].meta["scenes"] == 0
    # Other scenes are other data; the same are not made again.
    assert prepare(ads | {"scenes": str(scenes)}, tmp_path / "out")["reused"]
    written(scenes, line("whatever.mp4", png(0)))
    with pytest.raises(UserError, match="another config or other input files"):
        prepare(ads | {"scenes": str(scenes)}, tmp_path / "out")


def test_prepare_says_where_no_scene_has_found_its_post(ads, tmp_path):
    scenes = written(tmp_path / "scenes.jsonl", line("ad0.mp4", b"the video, not its thumbnail"))
    found = prepare(ads | {"scenes": str(scenes)}, tmp_path / "a")
    assert "by its sha256: none was given scenes; scenes_by='name' goes by file names" in found["summary"]
    found = prepare(ads | {"scenes": str(scenes), "scenes_by": "name"}, tmp_path / "b")
    assert found["told_scenes"] == 1 and not any("scenes" in warning for warning in found["warnings"])
    for change, said in (
        ({"scenes": "/nowhere"}, "/nowhere: no such file"),
        ({"scenes_by": "nam"}, "'name'"),
    ):
        with pytest.raises(UserError, match=said):
            prepare(ads | change, tmp_path / "c")
