"""Reddit dumps: the fields of all years, media by file name, and what is wrong with a record."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from input_pipeline.sources import media, reddit
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Comment, Post

REAL = Path(os.environ.get("JAXLLAVA_REAL_DATA", Path(__file__).parents[3] / "shared/data")) / "reddit"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no real sample data")


def _submissions(folder: Path, *rows: dict[str, Any], files: tuple[str, ...] = ()) -> list[Post | Rejected]:
    path = folder / "RS.ndjson"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "media").mkdir(exist_ok=True)
    for name in files:
        (folder / "media" / name).write_bytes(b"x")
    media.forget()
    return list(reddit.read_submissions(path, folder / "media"))


def test_a_submission_becomes_a_post(tmp_path: Path) -> None:
    row = {
        "id": "abc",
        "title": "Cats &amp; dogs",
        "url": "https://i.redd.it/x1.png?width=3&amp;s=1",
        "author": None,
        "created_utc": "1514764800",
        "over_18": False,
        "score": 12,
        "upvote_ratio": 0.91,
        "subreddit": "pics",
    }
    (post,) = _submissions(tmp_path, row, files=("x1.png",))
    assert isinstance(post, Post)
    assert (post.title, post.author, post.created) == ("Cats & dogs", "[deleted]", 1514764800.0)
    assert (post.likes, post.like_rate, post.community) == (12, 0.91, "pics")
    assert post.media == (str(tmp_path / "media/x1.png"),)
    assert post.origin == f"{tmp_path}/RS.ndjson:1"


@pytest.mark.parametrize(
    ("row", "file"),
    [
        ({"url": "http://imgur.com/Ab12"}, "Ab12.jpg"),
        ({"url": "http://i.imgur.com/Ab12.gifv"}, "Ab12.gif"),
        ({"url": "https://i.redd.it/ab12.PNG"}, "AB12.png"),
        (
            {"url": "https://elsewhere.org/p?id=1", "url_overridden_by_dest": "https://x.org/ab12.jpeg"},
            "ab12.jpeg",
        ),
        ({"url": "https://x.org/photo/ab12", "post_hint": "image"}, "ab12.webp"),
        ({"url": "https://x.org/a%20b.jpg"}, "a b.jpg"),
        (
            {"url": "https://www.reddit.com/gallery/q", "gallery_data": {"items": [{"media_id": "ab12"}]}},
            "ab12.jpg",
        ),
    ],
)
def test_media_is_found_by_file_name(tmp_path: Path, row: dict[str, Any], file: str) -> None:
    (post,) = _submissions(tmp_path, {"id": "p", "title": "t", **row}, files=(file,))
    assert isinstance(post, Post)
    assert [Path(path).name for path in post.media] == [file]


@pytest.mark.parametrize(
    "row",
    [
        {"url": "https://www.reddit.com/r/a/comments/x/ab12/", "is_self": True},
        {"url": "https://news.org/ab12"},
        {"url": "http://imgur.com/a/ab12"},
        {"url": "http://["},
        {"is_self": True},  # old dumps, and posts that Reddit emptied
        {"url": "https://i.redd.it/"},
    ],
)
def test_a_post_without_an_image_link_has_no_media(tmp_path: Path, row: dict[str, Any]) -> None:
    (post,) = _submissions(tmp_path, {"id": "p", "title": "t", **row}, files=("ab12.jpg",))
    assert isinstance(post, Post)
    assert post.media == ()


def test_gone_media_and_missing_fields_are_rejected_with_their_reason(tmp_path: Path) -> None:
    items = _submissions(
        tmp_path,
        {"id": "p1", "title": "t", "url": "https://i.redd.it/gone.png"},
        {"title": "t"},
        {"id": "p2"},
        {"id": "p3", "title": "t"},
        {"id": "p4", "title": "t", "url": None, "is_self": False},
        {"id": "c1", "body": "hi", "link_id": "t3_p"},
        {"id": "a/../b", "title": "t"},
    )
    assert [(i.id, i.stage, i.reason, i.kind) for i in items if isinstance(i, Rejected)] == [
        ("p1", "media", "media is gone", "gone"),
        ("", "fields", "submission without an id", "bad"),
        ("p2", "fields", "submission without a title", "bad"),
        ("p3", "fields", "submission without a url", "bad"),
        ("p4", "fields", "submission without a url", "bad"),
        ("c1", "fields", "a comment among submissions", "bad"),
        ("", "fields", "submission without an id", "bad"),
    ]
    assert items[6].origin.endswith("RS.ndjson:7")


@pytest.mark.parametrize(
    "row",
    [{"removed_by_category": "moderator"}, {"selftext": "[removed]"}, {"title": "[deleted by user]"}],
)
def test_removal_is_noted(tmp_path: Path, row: dict[str, Any]) -> None:
    (post,) = _submissions(tmp_path, {"id": "p", "title": "t", **row})
    assert isinstance(post, Post)
    assert post.extra["removed"]


def test_comments(tmp_path: Path) -> None:
    path = tmp_path / "RC.ndjson"
    rows = [
        {"id": "c1", "link_id": "t3_p", "body": "a &gt; b", "author": None, "score": -3, "created_utc": 1.5},
        {"name": "t1_c2", "link_id": "p", "body": "x", "ups": "4", "parent_id": 99},
        {"id": "c3", "link_id": "t3_p"},
        {"id": "c4", "body": "x"},
        {"link_id": "t3_p", "body": "x"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = list(reddit.read_comments(path))
    assert items[0] == ("p", Comment("c1", "a > b", "[deleted]", -3, 1.5))
    assert items[1] == ("p", Comment("c2", "x", None, 4, None))
    assert [item.reason for item in items[2:] if isinstance(item, Rejected)] == [
        "comment without a body",
        "comment without a link_id",
        "comment without an id",
    ]


@needs_real
@pytest.mark.parametrize(
    ("name", "gone", "no_image"),
    [
        ("RS_image_posts.ndjson", 290, 16),
        ("RS_image_posts_part.zst", 50, 2),
        ("RS_dump_mixed_years.ndjson", 0, 12),
        ("RS_pushshift_api_science.ndjson", 2, 63),
    ],
)
def test_real_submissions(tmp_path: Path, name: str, gone: int, no_image: int) -> None:
    items = list(reddit.read_submissions(REAL / name, tmp_path))
    counts = Counter(item.kind if isinstance(item, Rejected) else "post" for item in items)
    assert counts == +Counter(gone=gone, post=no_image)
    for item in items:
        if isinstance(item, Post):
            assert item.created is not None
            assert item.created > 1e9


@needs_real
@pytest.mark.parametrize(
    ("name", "count", "deleted"),
    [
        ("RC_image_posts.ndjson", 859, 19),
        ("RC_image_posts_part.zst", 136, None),
        ("RC_dump_mixed_years.ndjson", 14, None),
        ("RC_pushshift_api_science.ndjson", 685, 177),
    ],
)
def test_real_comments(name: str, count: int, deleted: int | None) -> None:
    items = list(reddit.read_comments(REAL / name))
    comments = [item[1] for item in items if not isinstance(item, Rejected)]
    assert len(comments) == len(items) == count
    if deleted is not None:
        assert sum(comment.author == "[deleted]" for comment in comments) == deleted


@needs_real
def test_the_real_zst_holds_lines_of_its_plain_twin(tmp_path: Path) -> None:
    plain = {item.id: item for item in reddit.read_submissions(REAL / "RS_image_posts.ndjson", tmp_path)}
    packed = list(reddit.read_submissions(REAL / "RS_image_posts_part.zst", tmp_path))
    assert len(packed) == 52
    assert all(item.id in plain for item in packed)
