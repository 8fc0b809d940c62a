"""Posts and their audience in words."""

from __future__ import annotations

import hashlib
import json

import pytest

from input_pipeline import records
from input_pipeline.behavior import told_scenes
from input_pipeline.errors import UserError
from input_pipeline.instruct import posts
from input_pipeline.instruct.subjects import Subject
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Clip, Comment, Post, Record, Scene, Span, Turn

FILM = Post(
    "v1",
    "youtube",
    "Bread at four",
    "f:1",
    like_rate=0.0315,
    comments=(Comment("1", "I can smell this."), Comment("2", "  ")),
    scenes=(
        Scene(
            "a baker with bread.",
            0.0,
            5.0,
            foreground=("Brown",),
            background=("navy_blue", "Brown"),
            tone="warm",
        ),
        Scene("", 5.0, 9.0),
        Scene("an empty street", 9.0, 12.0),
    ),
    replay=(Span(0.0, 4.0, 0.4), Span(4.0, 8.0, 0.823), Span(8.0, 12.0, 0.1)),
)


def test_what_is_told() -> None:
    assert posts.told(FILM).split("\n") == [
        "Title: Bread at four",
        "Scene 1: a baker with bread. Colours: brown, navy blue. Tone: warm.",
        "Scene 3: an empty street.",
        "",
        "Liked by 3.1% of those who saw it.",
        "Comment: I can smell this.",
        "Replay value of scene 1: 0.82",
        "Replay value of scene 3: 0.10",
    ]
    picture = Post("p", "reddit", "", "f:1", content="A dog.", likes=12)
    assert posts.told(picture) == "Shown: A dog.\n\nLikes: 12"
    assert posts.told(Post("p", "reddit", "Title alone", "f:1")) == ""
    assert posts.told(Post("p", "reddit", "", "f:1", likes=3)) == ""


def record(name: str, **meta) -> Record:
    known = {
        "post_id": name,
        "source": "reddit",
        "title": "A dog",
        "like_rate": 0.9,
        "comments": ["Good dog!"],
    }
    turns = (Turn("human", "<image>\nWhat?"), Turn("gpt", "That."))
    return Record(name, "behavior", (name.encode(), b"2"), turns, {**known, **meta}, (Clip(0, (0.0, 1.0)),))


def test_posts_of_records(tmp_path) -> None:
    other = Record("x", "text", (), (Turn("gpt", "text"),), {})
    records.write(
        {
            "behavior_train": [record("a"), record("b", title="", content=""), other],
            "behavior_heldout": [record("c"), record("a")],
            "ad": [record("a")],
        },
        tmp_path / "data",
    )
    found = list(posts.read(tmp_path / "data", ("behavior_train", "behavior_heldout")))
    subjects = [item for item in found if isinstance(item, Subject)]
    assert [(one.id, one.split_key, one.reference, one.media) for one in subjects] == [
        ("reddit/a", "train", "behavior_train:0", 1),
        ("reddit/c", "heldout", "behavior_heldout:0", 1),
    ]
    assert [(item.reason, item.kind) for item in found if isinstance(item, Rejected)] == [
        ("content or audience not known", "skipped"),
        ("a record that is not of a post", "bad"),
        ("a post that another record tells already", "bad"),
    ]
    with pytest.raises(UserError, match="--split ad"):
        list(posts.read(tmp_path / "data", ("ad",)))
    with pytest.raises(UserError, match="no split 'behavour_train'"):
        list(posts.read(tmp_path / "data", ("behavour_train",)))


def test_scenes_of_verbalise_are_told(tmp_path) -> None:
    line = {
        "media": "a.png",
        "sha256": hashlib.sha256(b"a").hexdigest(),
        "scenes": [{"caption": "a dog on grass"}],
    }
    (tmp_path / "scenes.jsonl").write_text(json.dumps(line) + "\n")
    told_scenes.build(tmp_path / "scenes.jsonl", "sha256", tmp_path / "index")
    post = posts.of_record(record("a"), told_scenes.load(tmp_path / "index"))
    assert isinstance(post, Post)
    assert "Scene 1: a dog on grass." in posts.told(post)


@pytest.mark.parametrize(
    "meta",
    [{"replay": [[1.0, 2.0]]}, {"replay": 7}, {"like_rate": "most"}, {"scene_times": [[1]]}, {"comments": [3]},
     {"title": ["A"]}, {"likes": "12"}],
)  # fmt: skip
def test_a_post_that_is_told_otherwise_is_named_and_costs_no_other(tmp_path, meta) -> None:
    records.write({"behavior_train": [record("a", **meta), record("b")]}, tmp_path)
    bad, good = posts.read(tmp_path, ["behavior_train"])
    assert (
        isinstance(bad, Rejected) and bad.reason == "a record whose post is not as jaxllava prepare tells one"
    )
    assert isinstance(good, Subject) and good.id == "reddit/b"


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_a_data_set_whose_description_is_damaged_is_said_in_one_line(tmp_path, name) -> None:
    records.write({"behavior_train": [record("a")]}, tmp_path)
    (path,) = tmp_path.rglob(name)
    path.write_bytes(b"{\x8b")
    with pytest.raises(UserError, match=r"dataset_info\.json or features\.json cannot be read") as error:
        list(posts.read(tmp_path, ["behavior_train"]))
    assert "\n" not in str(error.value)


def test_hashes_that_are_damaged_are_made_anew(tmp_path) -> None:
    records.write({"behavior_train": [record("a")]}, tmp_path)
    (path,) = tmp_path.rglob(records.HASHES)
    known = records.data_hash(tmp_path, "behavior_train")
    for content in ("[", "[]", '{"behavior_train": 3}'):
        path.write_text(content)
        assert records.data_hash(tmp_path, "behavior_train") == known
