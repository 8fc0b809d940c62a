"""`prepare` with one of every source that people have, and the switches of its config."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs.prepare import get_config
from input_pipeline import records
from input_pipeline.errors import UserError
from input_pipeline.prepare import prepare
from input_pipeline.types import Clip
from tests.input_pipeline import films

POSTS = 3  # of each source


def _picture(seed: int, side: int = 48) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST).save(out, "PNG")
    return out.getvalue()


def _say(number: int) -> str:
    return f"comment number {number} speaks of river{number} and of lamp{number}"


def _corpus(root: Path) -> ConfigDict:
    """Three posts of every source; returns the config that names them."""
    media = root / "media"
    media.mkdir(parents=True)
    with tarfile.open(media / "shard.tar", "w") as tar:
        for n in range(POSTS):
            for name, seed in ((f"b{n}.png", 100 + n), (f"api{n}.png", 200 + n)):
                info = tarfile.TarInfo(f"deep/{name}")
                data = _picture(seed)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    for n in range(POSTS):
        for prefix, seed in (("y", 300), ("k", 400), ("t", 500), ("film", 600)):
            (media / f"{prefix}{n}.png").write_bytes(_picture(seed + n))
    config = get_config()
    config.heldout_fraction = 0.0

    children: list[dict[str, Any]] = []
    for n in range(POSTS):
        post = {"id": f"api{n}", "title": f"an api post {n}", "url": f"https://i.redd.it/api{n}.png", "author": "a",
                "created_utc": 1.6e9, "score": 4, "upvote_ratio": 0.75, "subreddit": "pics"}  # fmt: skip
        children.append({"kind": "t3", "data": post})
        for k in range(2):
            said = {
                "id": f"c{n}{k}",
                "link_id": f"t3_api{n}",
                "body": _say(10 * n + k),
                "author": "b",
                "score": k,
            }
            children.append({"kind": "t1", "data": said})
    listing = {"kind": "Listing", "data": {"children": children}}
    (root / "listing.json").write_text(json.dumps(listing))
    config.reddit_api = ({"json": str(root / "listing.json"), "media": str(media)},)

    videos = [
        {"kind": "youtube#video", "id": f"y{n}", "snippet": {"title": f"a video {n}", "channelTitle": "c"},
         "statistics": {"viewCount": "20000", "likeCount": "500"}, "contentDetails": {"duration": "PT2M"}}
        for n in range(POSTS)
    ]  # fmt: skip
    threads = [
        {"kind": "youtube#commentThread", "snippet": {"videoId": f"y{n}", "topLevelComment": {
            "kind": "youtube#comment", "id": f"yc{n}", "snippet": {"textOriginal": _say(40 + n), "likeCount": 3}}}}
        for n in range(POSTS)
    ]  # fmt: skip
    (root / "videos.json").write_text(json.dumps({"kind": "youtube#videoListResponse", "items": videos}))
    (root / "threads.json").write_text(
        json.dumps({"kind": "youtube#commentThreadListResponse", "items": threads})
    )
    config.youtube_api = (
        {"json": [str(root / "videos.json"), str(root / "threads.json")], "media": str(media)},
    )

    blift = [
        {"url": f"https://i.redd.it/b{n}.png", "permalink": f"/r/pics/comments/b{n}/x/", "subreddit": "pics",
         "comments": [_say(60 + 10 * n), _say(61 + 10 * n)], "num_comments": 2, "title": f"a blift post {n}"}
        for n in range(POSTS)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(blift), root / "train-0.parquet")
    config.blift = ({"files": str(root / "train-*.parquet"), "media": str(media)},)

    corpus = [
        {"video_id": f"k{n}", "likes": 100, "views": 50_000, "metadata": {"title": f"an advert {n}"},
         "asr_raw": [{"start": 0, "end": 2, "text": "buy this now", "words": []}],
         "replay_graphs": {"markers": [{"start": 0, "end": 5, "replay_score": 0.5}]}}
        for n in range(POSTS)
    ]  # fmt: skip
    (root / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    config.corpus = ({"files": str(root / "corpus.jsonl"), "media": str(media)},)

    with (root / "posts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "headline", "picture", "likes", "views"])
        for n in range(POSTS):
            writer.writerow([f"t{n}", f"a table post {n}", f"t{n}.png", 5, 10])
    (root / "said.jsonl").write_text(
        "".join(json.dumps({"key": f"t{n % POSTS}", "text": _say(100 + n)}) + "\n" for n in range(2 * POSTS))
    )
    config.tables = (
        {
            "posts": str(root / "posts.csv"),
            "comments": str(root / "said.jsonl"),
            "media": str(media),
            "columns": {"id": "key", "title": "headline", "media": "picture"},
            "comment_columns": {"post_id": "key"},
        },
    )

    questions = [
        {"question_id": n, "video_name": f"{n}.npy", "question": f"How memorable is ad {n}?\n<image>\n"}
        for n in range(POSTS)
    ]
    answers = [{"question_id": n, "answer": f"{n:02d}"} for n in range(POSTS)]
    (root / "bs_q.json").write_text(json.dumps(questions))
    (root / "bs_a.json").write_text(json.dumps(answers))
    config.memorability = ({"json": str(root / "bs_q.json"), "videos": str(media), "text_only": True},)

    films.write(media / "film.mp4", films.greys(6))
    turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "a film"}]
    pair = [{"from": "human", "value": "<image>\n<image>\nWhat?"}, {"from": "gpt", "value": "two"}]
    instruct = [
        {"id": "v", "video": "film.mp4", "conversations": turns},
        {"id": "p", "image": ["film0.png", "film1.png"], "conversations": pair},
        {"id": "n", "conversations": [{**turn, "value": "no media"} for turn in turns]},
    ]
    (root / "instruct.json").write_text(json.dumps(instruct))
    config.instruct = ({"json": str(root / "instruct.json"), "images": str(media)},)
    return config


def _by_id(out: Path, split: str) -> dict[str, Any]:
    return {record.id: record for record in records.open_split(out, split)}


def test_every_source_becomes_records(tmp_path: Path) -> None:
    config = _corpus(tmp_path)
    config.arms = ("behavior", "ad", "shuffled", "likes", "comments", "titles")
    summary = prepare(config, tmp_path / "out")
    assert summary["quarantine"]["count"] == 0
    posts = _by_id(tmp_path / "out", "behavior_train")
    assert sorted(posts) == sorted(f"{p}{n}" for p in ("api", "b", "k", "t", "y") for n in range(POSTS))
    assert posts["api1"].images == (_picture(201),)
    assert posts["api1"].meta["comments"] == [_say(11), _say(10)]  # the more popular first
    assert "Of the votes on it, 75.0% will be upvotes" in posts["api1"].conversations[1].text
    assert posts["b2"].meta["comments"] == [_say(80), _say(81)]
    assert 'The audio in the video says "buy this now".' in posts["k0"].conversations[0].text
    assert "liked by 0.2% of viewers." in posts["k0"].conversations[1].text
    assert posts["y0"].meta["like_rate"] == 0.025
    assert posts["t1"].meta["comments"] == [_say(101), _say(104)]
    assert {posts[name].meta["template"] for name in ("b0", "y0", "t0")} == {
        "reddit_image_v1", "youtube_thumbnail_v1", "image_behavior_v1"
    }  # fmt: skip

    likes, comments = (_by_id(tmp_path / "out", f"{arm}_train") for arm in ("likes", "comments"))
    assert "comments" not in likes["api0"].conversations[1].text
    assert "%" not in comments["api0"].conversations[1].text
    titles = _by_id(tmp_path / "out", "titles_train")
    assert "a table post 0" in titles["t0"].conversations[1].text
    assert "a table post 0" not in titles["t0"].conversations[0].text

    memorability = _by_id(tmp_path / "out", "memorability_train")
    assert [turn.text for turn in memorability["2"].conversations][1] == "02"
    instruct = _by_id(tmp_path / "out", "instruct_train")
    film = instruct["v"]
    assert film.clips == (Clip(0, (0.0, 1.0, 2.0)),) and len(film.images) == 3, (
        "two frames a second, one shown"
    )
    levels = [np.asarray(Image.open(io.BytesIO(data)))[..., 0].mean() for data in film.images]
    assert levels == pytest.approx([0, 2 * films.STEP, 4 * films.STEP], abs=4)
    assert instruct["p"].images == (_picture(600), _picture(601))
    assert instruct["n"].images == ()


def test_what_is_in_an_evaluation_set_is_not_trained_on(tmp_path: Path) -> None:
    config = _corpus(tmp_path)
    (tmp_path / "ids.txt").write_text("y1\nnothing\n")
    (tmp_path / "bench").mkdir()
    Image.open(io.BytesIO(_picture(102))).resize((64, 64)).convert("RGB").save(
        tmp_path / "bench/x.jpg", quality=90
    )
    config.clean.evaluation_ids = (str(tmp_path / "ids.txt"),)
    config.clean.evaluation_images = (str(tmp_path / "bench"),)
    summary = prepare(config, tmp_path / "out")
    assert summary["funnel"]["reasons"]["evaluation set"] == {
        "id of an evaluation set": {"posts": 1, "comments": 1},
        "picture of an evaluation set": {"posts": 1, "comments": 2},
    }
    assert not {"y1", "b2"} & set(_by_id(tmp_path / "out", "behavior_train"))
    config.clean.evaluation_ids = ("none.txt",)
    with pytest.raises(UserError, match=r"none.txt: no such file or folder"):
        prepare(config, tmp_path / "other")


def test_large_images_are_stored_smaller_where_asked(tmp_path: Path) -> None:
    config = _corpus(tmp_path)
    (tmp_path / "media/t0.png").write_bytes(_picture(500, side=480))
    config.max_image_side = 96
    prepare(config, tmp_path / "out")
    posts = _by_id(tmp_path / "out", "behavior_train")
    assert posts["t1"].images == (_picture(501),)  # small enough: as it came
    image = Image.open(io.BytesIO(posts["t0"].images[0]))
    assert (image.format, image.size) == ("JPEG", (96, 96))
    # Every arm has the same bytes.
    assert _by_id(tmp_path / "out", "ad_train")["t0"].images == posts["t0"].images


def test_communities_are_picked_while_reading(tmp_path: Path) -> None:
    rows = [
        {"id": f"p{n}", "title": f"title {n}", "url": f"https://i.redd.it/t{n % 3}.png", "author": "a", "score": 1,
         "created_utc": 1.6e9, "upvote_ratio": 0.5, "subreddit": ("Pics", "funny")[n >= 2]}
        for n in range(6)
    ]  # fmt: skip
    config = _corpus(tmp_path)
    (tmp_path / "rs.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("reddit_api", "youtube_api", "blift", "corpus", "tables", "memorability", "instruct"):
        config[name] = ()
    config.reddit = ({"submissions": str(tmp_path / "rs.ndjson"), "media": str(tmp_path / "media")},)
    config.clean.reddit.communities = ("pics",)
    config.clean.reddit.min_comments = 0
    summary = prepare(config, tmp_path / "out")
    assert summary["passed"] == {"of another community": 4}
    assert summary["funnel"]["steps"][0]["kept_posts"] == 2
    assert "passed over 4 records of another community" in summary["summary"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"templates": {"reddit": "image_behavior_v1"}}, "template names none for youtube, other"),
        ({"templates": {"redit": "x"}}, "template.redit: no such source. Did you mean 'reddit'"),
        ({"behaviors": ("likes", "replay")}, "behaviors names replay, which no template in use tells"),
        ({"template": "memorability_v1"}, "behaviors names comments, likes, which no template in use tells"),
        ({"arms": ("behavior", "replay")}, "tells comments, likes, and arm 'replay' replay"),
        ({"arms": ()}, "arms=(): at least one, and each once"),
        ({"arms": ("ad", "ad")}, "at least one, and each once"),
        (
            {"template": "video_scenes_in_question_v0"},
            "says nothing of the content, so there can be no arm 'ad'",
        ),
        ({"beam": {"runner": "FooRunner"}}, "--runner FooRunner: "),
        ({"behaviors": ("like",)}, "no behavior 'like'. Did you mean 'likes'"),
        ({"clean": {"reddit": {"min_words": "3"}}}, "clean.reddit.min_words: must be a number, not '3'"),
        ({"clean": {"reddit": {"communities": "pics"}}}, "clean.reddit.communities: must be a list of words"),
        ({"clean": {"reddit": {"languages": ("english",)}}}, "'english' is not a language code"),
        (
            {"clean": {"youtube": {"similarity": 0}}},
            "clean.youtube.similarity: must be above 0 and at most 1",
        ),
        ({"clean": {"hash_distance": 65}}, "clean: hash_distance must be from 0 to 64 bits"),
        ({"clean": {"other": {"created_from": "soon"}}}, "'soon' is not a day"),
        ({"max_image_side": -1}, "max_image_side=-1 is not a whole number from 0 on"),
        ({"beam": {"workers": 0}}, "--workers 0: at least 1 is needed"),
        (
            {"tables": ({"posts": "x", "media": ".", "source": "redit"},)},
            "tables: no source 'redit'. Did you mean 'reddit'",
        ),
        ({"tables": ({"posts": "x"},)}, "an entry of 'tables' needs posts, [comments], media"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(UserError) as caught:
        prepare({**get_config().to_dict(), "text": (str(tmp_path / "t.jsonl"),), **change}, tmp_path / "out")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_papers_listing_of_a_video_with_scenes(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media/ad.png").write_bytes(_picture(1))
    scenes = [
        {"caption": "a man who runs", "start": 0, "end": 4, "tags": "man, track", "foreground": ["red", "mud green"],
         "background": "white", "tone": "warm"},
        {"caption": "a bottle", "start": 4, "end": 9},
    ]  # fmt: skip
    row = {"id": "ad", "title": "Run", "media": "ad.png", "community": "Gatorade", "likes": 20, "views": 1000,
           "asr": "go on", "scenes": scenes, "replay": [{"start": 0, "end": 3, "value": 0.061},
                                                        {"start": 3, "end": 9, "value": 0.234}],
           "comments": [{"text": "I ran as well today", "score": 1},
                        {"text": "best ad I ever saw", "score": 9}]}  # fmt: skip
    (tmp_path / "ads.jsonl").write_text(json.dumps(row) + "\n")
    config = get_config()
    config.tables = ({"posts": str(tmp_path / "ads.jsonl"), "media": str(tmp_path / "media")},)
    config.template = "video_listing_v1"
    config.behaviors = ("likes", "comments", "replay")
    config.arms = ("behavior", "ad")
    config.heldout_fraction = 0.0
    prepare(config, tmp_path / "out")
    (record,) = records.open_split(tmp_path / "out", "behavior_train")
    assert [turn.text for turn in record.conversations] == [
        'The video advertisement is titled "Run" for the brand Gatorade. The audio in the ad says "go on". '
        "Analyze this video deeply, then write scene by scene description of the video and answer the "
        "following questions. What percentage of viewers would like this video, and what would be the "
        "top-5 popular comments on this video? What "
        "would the replay graph values for each scene be?\n<image>",
        "The scene-by-scene descriptions are:\n\n"
        "Scene 1: The scene shows a man who runs. The foreground colors of the scene are red, mud green, "
        "and the background colors are white. The dominant tone of the scene is warm. "
        "This scene is categorized by the tags: man, track.\n"
        "Scene 2: The scene shows a bottle.\n\n"
        ">>> BEHAVIOR <<<\n\n"
        "The video will be liked by 2.0% of viewers, and the popular comments could be:\n"
        '1. "best ad I ever saw"\n'
        '2. "I ran as well today"\n\n'
        "The replay values for each scene would be:\n"
        "Scene 1: 0.23\n"
        "Scene 2: 0.23",
    ]
    assert record.meta["replay"] == [[0, 3, 0.061], [3, 9, 0.234]]
    (control,) = records.open_split(tmp_path / "out", "ad_train")
    assert "BEHAVIOR" not in control.conversations[1].text
    assert "percentage" not in control.conversations[0].text
