"""The held-out rule, and the specs of the arms."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from input_pipeline.behavior import arms, samples, templates
from input_pipeline.behavior.heldout import is_heldout
from input_pipeline.behavior.samples import Spec
from input_pipeline.sources.llava_json import Sample
from input_pipeline.types import Comment, Post, Scene, Span, Turn

V1 = templates.get("image_behavior_v1")


def test_heldout_is_stable_and_of_the_right_share() -> None:
    held = [is_heldout(f"post{i}", 0.15) for i in range(20_000)]
    assert abs(sum(held) / len(held) - 0.15) < 0.01
    # Fixed for ever: another answer would move posts between train and held out.
    assert [is_heldout(key, 0.5) for key in ("a", "b", "c", "d")] == [False, True, True, True]
    assert not is_heldout("x", 0.0)
    assert is_heldout("x", 1.0)


def _post(post_id: str, **more: Any) -> Post:
    return Post(
        post_id, "reddit", f"title {post_id}", "/raw/RS.ndjson:3", (f"/raw/{post_id}.png", "/raw/2.png"),
        community="pics", like_rate=0.25, likes=4, content="Content.", duration=3.0,
        comments=tuple(Comment(c, f"{post_id} says {c}") for c in "uvwxyz"), **more,
    )  # fmt: skip


def _behavior(*args: Any) -> Spec:
    spec = samples.behavior(*args)
    assert spec is not None
    return spec


def test_behavior_specs_and_their_control() -> None:
    spec = _behavior(_post("p"), V1)
    assert (spec["key"], spec["id"], spec["task"], spec["images"]) == (
        "reddit/p",
        "p",
        "behavior",
        ["/raw/p.png"],
    )
    assert spec["meta"] == {
        "post_id": "p", "source": "reddit", "origin": "RS.ndjson:3", "template": "image_behavior_v1",
        "behaviors": ["comments", "likes"], "title": "title p", "community": "pics", "content": "Content.",
        "duration": 3.0, "asr_words": 0, "scenes": 0, "likes": 4, "views": None, "like_rate": 0.25,
        "comments": [f"p says {c}" for c in "uvwxyz"],
    }  # fmt: skip
    ad = _behavior(_post("p"), V1, (), "ad")
    assert ad["task"] == "ad"
    assert ad["meta"] == {**spec["meta"], "behaviors": []}
    assert ad["images"] == spec["images"]
    assert "says" in json.dumps(spec["conversations"])
    assert "says" not in json.dumps(ad["conversations"])
    assert json.loads(json.dumps(spec)) == spec


def test_an_ablation_tells_less() -> None:
    spec = _behavior(_post("p"), V1, {"likes", "replay"}, "likes_only")
    assert (spec["task"], spec["meta"]["behaviors"]) == ("likes_only", ["likes"])
    assert spec["conversations"][1] == [
        "gpt",
        "Content.\n>>> BEHAVIOR <<<\nIt will be liked by 25.0% of viewers.",
    ]


def test_a_post_without_behaviour_tells_its_content_in_every_arm() -> None:
    post = msgspec.structs.replace(_post("p"), like_rate=None, comments=())
    assert _behavior(post, V1)["conversations"] == _behavior(post, V1, (), "ad")["conversations"]
    assert samples.behavior(msgspec.structs.replace(post, content=""), V1) is None
    # A template whose answers are behaviour alone has no control.
    assert samples.behavior(_post("p"), templates.get("video_scenes_in_question_v0"), ()) is None


def test_a_video_tells_its_scenes() -> None:
    scenes = (Scene("a boat", 0, 2), Scene("a cup", 2, 4))
    post = _post("v", asr="one two three", scenes=scenes, replay=(Span(0, 2, 0.5), Span(2, 4, 1.0)))
    meta = _behavior(post, templates.get("video_listing_v1"))["meta"]
    assert (meta["asr_words"], meta["scenes"]) == (3, 2)
    assert meta["behaviors"] == ["comments", "likes", "replay"]


def test_shuffled_tells_the_behaviour_of_another_post() -> None:
    posts = {post_id: _post(post_id) for post_id in "abcde"}
    dealt = dict(zip("abcde", "bcdea", strict=True))
    for post_id, donor in dealt.items():
        spec = samples.shuffled(posts[post_id], posts[donor], V1)
        assert spec is not None
        human, gpt = (text for _, text in spec["conversations"])
        assert (spec["id"], spec["task"], spec["meta"]["dealt_from"]) == (post_id, "shuffled", donor)
        assert f"title {post_id}" in human
        assert f"{donor} says u" in gpt
        assert f"{post_id} says" not in gpt
        assert spec["meta"]["comments"][0] == f"{post_id} says u"  # the truth, for evaluation
        likes = samples.shuffled(posts[post_id], posts[donor], V1, {"likes"})
        assert likes is not None
        assert "says" not in likes["conversations"][1][1]


def test_shuffled_titles_are_the_donors() -> None:
    title = templates.get("title_v1")
    spec = samples.shuffled(_post("a"), _post("b"), title)
    assert spec is not None
    assert "title a" not in json.dumps(spec["conversations"])
    assert spec["conversations"][1][1].endswith('It would be titled "title b".')


def test_loading_reads_the_images(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"picture")
    spec = _behavior(msgspec.structs.replace(_post("p"), media=(str(tmp_path / "x.png"),)), V1)
    record = samples.load(spec)
    assert (record.id, record.images, record.task) == ("p", (b"picture",), "behavior")
    assert [turn.role for turn in record.conversations] == ["human", "gpt"]
    assert samples.load(spec, lambda reference: reference.encode()).images == (spec["images"][0].encode(),)


def test_a_conversation_keeps_what_its_source_said() -> None:
    sample = Sample("s", "/raw/x.json:4", ("/raw/a.jpg",), (Turn("human", "<image>"), Turn("gpt", "A cup.")))
    assert samples.conversation(sample, "instruct", "0:4")["meta"] == {
        "origin": "x.json:4",
        "images": ["a.jpg"],
    }
    film = replace(sample, images=(), videos=("/raw/1.npy",), meta={"memorability": 7})
    assert samples.conversation(film, "memorability", "0:4")["meta"] == {
        "memorability": 7,
        "origin": "x.json:4",
        "images": [],
        "videos": ["1.npy"],
    }


def test_reactions_are_likes_and_comments_without_the_replay_graph() -> None:
    (arm,) = arms.make(("reactions",), "film_behavior_v1", ("likes", "comments", "replay"))
    post = _post("p", scenes=(Scene("", 0, 1), Scene("", 1, 3)), replay=(Span(0, 3, 0.5),))
    spec = arm.spec(post, None)
    assert spec is not None
    assert (spec["task"], spec["meta"]["behaviors"]) == ("reactions", ["comments", "likes"])
    told = json.dumps(spec["conversations"])
    assert "25.0%" in told and "p says u" in told and "eplay" not in told
