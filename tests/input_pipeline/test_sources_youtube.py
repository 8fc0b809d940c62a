"""yt-dlp's info files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from input_pipeline.errors import UserError
from input_pipeline.sources import media, youtube
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Post

REAL = Path(os.environ.get("JAXLLAVA_REAL_DATA", Path(__file__).parents[3] / "shared/data")) / "youtube"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no real sample data")

_INFO: dict[str, Any] = {
    "id": "v1", "title": "A film ", "channel": "Films", "uploader": "u", "duration": 41, "like_count": 20,
    "view_count": 800, "age_limit": 0, "upload_date": "20230210", "heatmap": [{"value": 0.5}, {"value": 1}],
    "comments": [
        {"id": "c1", "text": "first one here", "author": "@a", "like_count": 9, "timestamp": 5},
        {"text": "second", "like_count": None},
        {"id": "c3", "text": None},
        "broken",
    ],
}  # fmt: skip


def _read(folder: Path, info: Any, thumbnail: str = "v1.webp") -> Post | Rejected:
    path = folder / "v1.info.json"
    path.write_text(info if isinstance(info, str) else json.dumps(info))
    if thumbnail:
        (folder / thumbnail).write_bytes(b"x")
    media.forget()
    return youtube.read_video(path)


def test_a_stem_with_dots_finds_its_thumbnail_and_no_other(tmp_path: Path) -> None:
    # yt-dlp's default names: the title may hold dots.
    for name in ("Mr. X vs. 2.0 [v1].jpg", "Mr. X vs. 2.webp", "a.b.png"):
        (tmp_path / name).write_bytes(b"x")
    media.forget()
    assert media.find(str(tmp_path), "Mr. X vs. 2.0 [v1]") == str(tmp_path / "Mr. X vs. 2.0 [v1].jpg")
    assert media.find(str(tmp_path), "a.b.jpg") == str(tmp_path / "a.b.png")
    assert media.find(str(tmp_path), "Mr. X vs. 2.5") is None


def test_a_video_becomes_a_post(tmp_path: Path) -> None:
    post = _read(tmp_path, _INFO)
    assert isinstance(post, Post)
    assert (post.id, post.title, post.community, post.duration) == ("v1", "A film", "Films", 41.0)
    assert (post.likes, post.views, post.like_rate) == (20, 800, 0.025)
    assert post.created == 1675987200.0
    assert post.media == (str(tmp_path / "v1.webp"),)
    assert post.extra["heatmap"] == [0.5, 1.0]
    assert [(c.id, c.text, c.score) for c in post.comments] == [
        ("c1", "first one here", 9),
        ("v1#1", "second", None),
    ]


@pytest.mark.parametrize(
    ("changes", "rate"),
    [
        ({"like_count": None}, None),
        ({"view_count": 0}, None),
        ({"like_count": 900}, None),
        ({"like_count": 0}, 0.0),
    ],
)
def test_like_rate_is_known_only_from_sound_counts(tmp_path: Path, changes: dict, rate: float | None) -> None:
    post = _read(tmp_path, {**_INFO, **changes})
    assert isinstance(post, Post)
    assert post.like_rate == rate


@pytest.mark.parametrize("comments", [None, [], "x"])
def test_comments_may_be_missing(tmp_path: Path, comments: Any) -> None:
    post = _read(tmp_path, {**_INFO, "comments": comments})
    assert isinstance(post, Post)
    assert post.comments == ()


@pytest.mark.parametrize(
    ("info", "thumbnail", "kind", "reason"),
    [
        ("{", "v1.jpg", "bad", "file is not JSON"),
        ([1], "v1.jpg", "bad", "file is not a JSON object"),
        ({"title": "x"}, "v1.jpg", "bad", "video without an id"),
        ({"id": "v1"}, "v1.jpg", "bad", "video without a title"),
        ({"id": "p", "title": "x", "_type": "playlist"}, "", "skipped", "a playlist, not a video"),
        (_INFO, "", "gone", "media is gone"),
        (_INFO, "v2.jpg", "gone", "media is gone"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, info: Any, thumbnail: str, kind: str, reason: str) -> None:
    item = _read(tmp_path, info, thumbnail)
    assert isinstance(item, Rejected)
    assert (item.kind, item.reason) == (kind, reason)
    assert item.origin == f"{tmp_path}/v1.info.json:1"


def test_folders_are_searched_and_missing_ones_reported(tmp_path: Path) -> None:
    (tmp_path / "channel").mkdir()
    for name in ("b.info.json", "channel/a.info.json", "c.json"):
        (tmp_path / name).write_text("{}")
    assert [path.name for path in youtube.list_files(tmp_path)] == ["b.info.json", "a.info.json"]
    with pytest.raises(UserError, match="no such folder"):
        youtube.list_files(tmp_path / "none")


@needs_real
def test_a_real_file(tmp_path: Path) -> None:
    name = "ytdlp_kfsKda_lNWs.info.json"
    assert isinstance(item := youtube.read_video(REAL / name), Rejected)
    assert item.kind == "gone"
    shutil.copyfile(REAL / name, tmp_path / name)
    (tmp_path / "ytdlp_kfsKda_lNWs.jpg").write_bytes(b"x")
    media.forget()
    post = youtube.read_video(tmp_path / name)
    assert isinstance(post, Post)
    assert (post.id, post.likes, post.views, post.comments) == ("kfsKda_lNWs", 28322, 1007094, ())
    assert post.like_rate == pytest.approx(0.0281225)
    assert len(post.extra["heatmap"]) == 100
