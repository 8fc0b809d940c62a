"""yt-dlp's and video2dataset's info files."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.errors import UserError
from input_pipeline.sources import media, youtube
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Comment, Post, Scene, Span

REAL = Path(os.environ.get("JAXLLAVA_REAL_DATA", Path(__file__).parents[3] / "shared/data")) / "youtube"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no real sample data")

_INFO: dict[str, Any] = {
    "id": "v1", "title": "A film ", "channel": "Films", "uploader": "u", "duration": 41, "like_count": 20,
    "view_count": 800, "age_limit": 0, "upload_date": "20230210", "description": "About.",
    "webpage_url": "https://www.youtube.com/watch?v=v1", "categories": ["Music", None], "tags": ["x"],
    "comments": [
        {"id": "c1", "text": "first one here", "author": "@a", "like_count": 9, "timestamp": 5},
        {"text": "second", "like_count": None, "parent": "c1"},
        {"id": "c3", "text": None},
        "broken",
    ],
}  # fmt: skip
_VTT = "WEBVTT\n\n00:00.000 --> 00:01.000\n{}\n"
_numbers = itertools.count()


def _library(folder: Path) -> media.Library:
    return media.build([folder], folder / f"{next(_numbers)}.sqlite")


def _read(folder: Path, info: Any, thumbnail: str = "v1.webp", **options: Any) -> list[Post | Rejected]:
    path = folder / "v1.info.json"
    path.write_text(info if isinstance(info, str) else json.dumps(info))
    if thumbnail:
        (folder / thumbnail).write_bytes(b"x")
    return list(youtube.read_video(path, _library(folder), **options))


def _post(folder: Path, info: Any, **options: Any) -> Post:
    post = _read(folder, info, **options)[0]
    assert isinstance(post, Post)
    return post


def test_a_video_becomes_a_post_and_its_broken_comments_are_named(tmp_path: Path) -> None:
    post, *rejected = _read(tmp_path, _INFO)
    origin = f"{tmp_path}/v1.info.json"
    assert post == Post(
        id="v1", source="youtube", title="A film", origin=f"{origin}:1", media=(str(tmp_path / "v1.webp"),),
        community="Films", author="u", created=1675987200.0, likes=20, views=800, like_rate=0.025, duration=41.0,
        comments=(Comment("c1", "first one here", "@a", 9, 5.0), Comment("v1#1", "second")),
        url="https://www.youtube.com/watch?v=v1", description="About.", categories=("Music",),
    )  # fmt: skip
    assert rejected == [
        Rejected(f"{origin}:4", "c3", "comment", "comment without text"),
        Rejected(f"{origin}:5", "", "comment", "comment is not an object"),
    ]


@pytest.mark.parametrize(
    ("changes", "rate"),
    [
        ({"like_count": None}, None),
        ({"view_count": 0}, None),
        ({"like_count": 900}, None),
        ({"like_count": -1}, None),
        ({"like_count": 0}, 0.0),
    ],
)
def test_like_rate_is_known_only_from_sound_counts(tmp_path: Path, changes: dict, rate: float | None) -> None:
    assert _post(tmp_path, {**_INFO, **changes}).like_rate == rate


@pytest.mark.parametrize(("comments", "rejected"), [(None, 0), ([], 0), ("x", 1)])
def test_comments_may_be_missing(tmp_path: Path, comments: Any, rejected: int) -> None:
    post, *others = _read(tmp_path, {**_INFO, "comments": comments})
    assert isinstance(post, Post)
    assert post.comments == ()
    assert len(others) == rejected


@pytest.mark.parametrize(
    ("rows", "duration", "replay"),
    [
        ([{"start_time": 2, "end_time": 4, "value": 1}, {"start_time": 0, "end_time": 2, "value": "0.5"}], 4,
         (Span(0, 2, 0.5), Span(2, 4, 1))),
        ([{"value": 0.5}, {"value": 1}], 41, (Span(0, 20.5, 0.5), Span(20.5, 41, 1))),
        ([{"value": 0.5}, None, {"value": 1}], None, (Span(0, 1, 0.5), Span(2, 3, 1))),
        ([{"start_time": 2, "end_time": 1, "value": 1}, {"value": 7}, {"value": None}], 6, (Span(0, 2, 1),)),
        ("x", 6, ()),
    ],
)  # fmt: skip
def test_the_replay_graph_has_times(
    tmp_path: Path, rows: Any, duration: Any, replay: tuple[Span, ...]
) -> None:
    assert _post(tmp_path, {**_INFO, "heatmap": rows, "duration": duration}).replay == replay


def test_chapters_are_scenes_without_words(tmp_path: Path) -> None:
    chapters = [
        {"start_time": 0, "end_time": 5.5, "title": "<Untitled Chapter 1>"},
        {"start_time": 5.5, "end_time": 9, "title": " A goal "},
        {"title": "no times"},
        {},
        7,
    ]
    post = _post(tmp_path, {**_INFO, "chapters": chapters})
    assert post.scenes == (Scene("", 0, 5.5), Scene("", 5.5, 9))


@pytest.mark.parametrize(
    ("changes", "created"),
    [
        ({"timestamp": 1676067580}, 1676067580.0),
        ({"release_timestamp": "7"}, 7.0),
        ({"timestamp": 1e30, "upload_date": "20200101"}, 1577836800.0),
        ({"upload_date": "2020"}, None),
    ],
)
def test_the_date_of_any_age_is_read(tmp_path: Path, changes: dict, created: float | None) -> None:
    assert _post(tmp_path, {**_INFO, **changes}).created == created


@pytest.mark.parametrize("duration", [0, -5, 1e300, "x"])
def test_what_is_no_duration_is_none(tmp_path: Path, duration: Any) -> None:
    assert _post(tmp_path, {**_INFO, "duration": duration}).duration is None


@pytest.mark.parametrize(("limit", "nsfw"), [(18, True), ("21", True), (16, False), (None, False)])
def test_age_limits(tmp_path: Path, limit: Any, nsfw: bool) -> None:
    assert _post(tmp_path, {**_INFO, "age_limit": limit}).nsfw is nsfw


@pytest.mark.parametrize(
    ("info", "thumbnail", "kind", "reason"),
    [
        ("{", "v1.jpg", "bad", "file is not JSON"),
        ("[" * 100_000, "v1.jpg", "bad", "file is not JSON"),
        ([1], "v1.jpg", "bad", "file is not a JSON object"),
        ({"title": "x"}, "v1.jpg", "bad", "video without an id"),
        ({"id": " ", "title": "x"}, "v1.jpg", "bad", "video without an id"),
        ({"id": "v1"}, "v1.jpg", "bad", "video without a title"),
        ({"id": "p", "title": "x", "_type": "playlist"}, "", "skipped", "a playlist, not a video"),
        (_INFO, "", "gone", "media is gone"),
        (_INFO, "v2.jpg", "gone", "media is gone"),
        ({"url": "https://youtu.be/-pXlicO85dk", "status": "failed_to_download", "yt_meta_dict": None}, "v1.jpg",
         "gone", "video was not downloaded"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path: Path, info: Any, thumbnail: str, kind: str, reason: str) -> None:
    (item,) = _read(tmp_path, info, thumbnail)
    assert isinstance(item, Rejected)
    assert (item.kind, item.reason, item.source) == (kind, reason, "youtube")
    assert item.origin == f"{tmp_path}/v1.info.json:1"


def test_a_file_that_has_vanished_is_named(tmp_path: Path) -> None:
    (item,) = youtube.read_video(tmp_path / "gone.info.json", _library(tmp_path))
    assert isinstance(item, Rejected)
    assert item.reason == "file cannot be read"


def test_thumbnails_lie_beside_the_file_or_anywhere_under_the_id(tmp_path: Path) -> None:
    for folder in ("a", "b", "thumbnails"):
        (tmp_path / folder).mkdir()
    # yt-dlp's default names: the title may hold dots.
    for name in (
        "a/Mr. X vs. 2.0 [v1].jpg",
        "a/Mr. X vs. 2.webp",
        "b/Mr. X vs. 2.0 [v1].jpg",
        "thumbnails/v1.png",
    ):
        (tmp_path / name).write_bytes(b"x")
    library = _library(tmp_path)
    for name, picture in (
        ("b/Mr. X vs. 2.0 [v1]", "b/Mr. X vs. 2.0 [v1].jpg"),
        ("b/Mr. X", "thumbnails/v1.png"),
    ):
        path = tmp_path / f"{name}.info.json"
        path.write_text(json.dumps(_INFO))
        post = next(youtube.read_video(path, library))
        assert isinstance(post, Post)
        assert post.media == (str(tmp_path / picture),)


def test_names_that_are_not_utf8_become_writable(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/v\xff.info.json"))
    try:
        path.write_text(json.dumps(_INFO))
    except OSError:
        pytest.skip("this file system has no such names")
    (tmp_path / "v1.jpg").write_bytes(b"x")
    post, *rejected = youtube.read_video(path, _library(tmp_path))
    assert isinstance(post, Post)
    assert len(rejected) == 2
    assert post.media == (str(tmp_path / "v1.jpg"),)
    assert msgspec.json.decode(msgspec.json.encode(post), type=Post) == post


def test_captions_beside_the_file_are_the_asr(tmp_path: Path) -> None:
    (tmp_path / "v1.de.vtt").write_text(_VTT.format("deutsch"))
    (tmp_path / "v1.en-orig.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nheard\n")
    assert _post(tmp_path, _INFO).asr == "heard"
    assert _post(tmp_path, _INFO, languages=("fr", "de", "en")).asr == "deutsch"
    assert _post(tmp_path, _INFO, languages=("fr",)).asr == ""
    events = {"events": [{"tStartMs": 0, "segs": [{"utf8": "plain"}]}]}
    (tmp_path / "v1.en.json3").write_text(json.dumps(events))
    assert _post(tmp_path, _INFO).asr == "plain"
    (tmp_path / "v1.en.json3").write_text(json.dumps({"events": [{"segs": [{"utf8": "[Music]"}]}]}))
    assert _post(tmp_path, _INFO).asr == "heard"  # a track without words hides no other
    (tmp_path / "v1.en.json3").write_text(json.dumps(events))
    # People's own track goes before an automatic one with a better code.
    (tmp_path / "v1.en-NZ.vtt").write_text(_VTT.format("written"))
    assert _post(tmp_path, _INFO).asr == "plain"
    assert (
        _post(tmp_path, {**_INFO, "automatic_captions": {"en": []}, "subtitles": {"en-NZ": []}}).asr
        == "written"
    )


def test_broken_captions_are_named_and_others_tried(tmp_path: Path) -> None:
    (tmp_path / "v1.en.vtt").write_text("<html>")
    info = {**_INFO, "comments": None}
    post, rejected = _read(tmp_path, info)
    assert isinstance(post, Post)
    assert post.asr == ""
    assert rejected == Rejected(f"{tmp_path}/v1.en.vtt:1", "v1", "captions", "captions without times")
    track = {"ext": "vtt", "data": _VTT.format("inside"), "url": "https://x.org"}
    post, _ = _read(tmp_path, {**info, "requested_subtitles": {"en": track, "en-/../x\0": {}}})
    assert isinstance(post, Post)
    assert post.asr == "inside"


def test_the_longest_names_are_read(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 245 + ".info.json")  # the name of its captions would be too long for a file
    path.write_text(json.dumps(_INFO))
    (tmp_path / "v1.jpg").write_bytes(b"x")
    assert isinstance(next(youtube.read_video(path, _library(tmp_path))), Post)


def test_video2datasets_form(tmp_path: Path) -> None:
    rows = [{"start": "00:00:00.000", "end": "00:00:01.000", "lines": ["one language"]}]
    record: dict[str, Any] = {
        "url": "https://www.youtube.com/watch?v=-pXlicO85dk&t=3", "key": "0000008_00001", "status": "success",
        "yt_meta_dict": {"info": {"title": "t"}, "subtitles": rows}, "clips": [[8.4, 48.6]],
    }  # fmt: skip
    post = _post(tmp_path, record)
    assert (post.id, post.url, post.asr) == ("-pXlicO85dk", record["url"], "one language")
    record["yt_meta_dict"]["subtitles"] = {"de": [{}], "en": rows}
    assert _post(tmp_path, record).asr == "one language"
    record["yt_meta_dict"]["subtitles"] = [{"start": 1}]
    post, rejected = _read(tmp_path, record)
    assert isinstance(post, Post)
    assert post.asr == ""
    assert isinstance(rejected, Rejected)
    assert (rejected.stage, rejected.reason) == ("captions", "captions without lines")


@pytest.mark.parametrize(
    ("url", "video_id"),
    [
        ("https://youtu.be/-pXlicO85dk?si=x", "-pXlicO85dk"),
        ("https://www.youtube.com/shorts/-pXlicO85dk", "-pXlicO85dk"),
        ("https://m.youtube.com/watch?app=m&v=-pXlicO85dk&t=1", "-pXlicO85dk"),
        ("https://www.youtube.com/watch?v=short", ""),
        ("https://x.org/[", ""),
    ],
)
def test_ids_in_urls(tmp_path: Path, url: str, video_id: str) -> None:
    record = {"url": url, "key": "k", "status": "success", "yt_meta_dict": {"info": {"title": "t"}}}
    (item,) = _read(tmp_path, record)
    assert item.id == (video_id or "v1")
    assert isinstance(item, Post) == bool(video_id)


def test_folders_are_searched_and_missing_ones_reported(tmp_path: Path) -> None:
    (tmp_path / "channel").mkdir()
    for name in ("b.info.json", "channel/a.info.json", "c.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "channel/00000_1.json").write_text('{"url": "u", "yt_meta_dict": {}}')
    (tmp_path / "d.json").mkdir()
    names = [path.name for path in youtube.list_files(tmp_path)]
    assert names == ["b.info.json", "00000_1.json", "a.info.json"]
    assert youtube.list_files(tmp_path / "c.json") == [tmp_path / "c.json"]
    with pytest.raises(UserError, match="no such folder"):
        youtube.list_files(tmp_path / "none")


_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from([10**30, -1, 1e308, "1e400", "nan", "\ud800", "a\0b", "en", "success", "video", "7"]),
    st.text(st.characters(), max_size=5),
)
_JUNK = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


def _objects(*keys: str, **known: st.SearchStrategy) -> st.SearchStrategy:
    fields: dict[str, Any] = dict.fromkeys(keys, _JUNK)
    fields.update({key: value | _LEAVES for key, value in known.items()})
    return st.fixed_dictionaries({}, optional=fields)


_COMMENTS = st.lists(_objects("id", "text", "author", "like_count", "timestamp") | _LEAVES, max_size=4)
_CUES = st.lists(_objects("lines", start=st.just("00:00:01.000"), end=st.just("00:00:02.000")), max_size=3)
_TRACKS = st.dictionaries(
    st.sampled_from(["en", "en-US", "en-\0", "de"]), _objects("ext", data=st.just(_VTT)) | _CUES, max_size=2
)
_INFOS = _objects(
    "channel", "uploader", "duration", "like_count", "view_count", "age_limit", "upload_date", "timestamp",
    "description", "webpage_url", "categories", "url", "status",
    id=st.just("v1"), title=st.just("t"), comments=_COMMENTS, requested_subtitles=_TRACKS, subtitles=_TRACKS,
    heatmap=st.lists(_objects("start_time", "end_time", "value"), max_size=3),
    chapters=st.lists(_objects("start_time", "end_time", "title"), max_size=3),
)  # fmt: skip
_RECORDS = st.one_of(
    _INFOS,
    _objects("url", "status", yt_meta_dict=_objects(info=_INFOS, subtitles=_CUES | _TRACKS)),
    _JUNK,
)


@given(record=_RECORDS)
@settings(max_examples=200, deadline=None)
def test_any_record_is_a_post_or_a_reason(tmp_path_factory: pytest.TempPathFactory, record: Any) -> None:
    folder = tmp_path_factory.getbasetemp() / "any_record"
    folder.mkdir(exist_ok=True)
    (folder / "v1.info.json").write_text(json.dumps(record))
    index = folder / "index"
    (folder / "v1.jpg").write_bytes(b"x")
    library = media.Library(index) if index.exists() else media.build([folder], index)
    first, *rest = youtube.read_video(folder / "v1.info.json", library)
    assert all(isinstance(item, Rejected) for item in rest)
    if isinstance(first, Rejected):
        assert not rest
        return
    assert msgspec.json.decode(msgspec.json.encode(first), type=Post) == first
    info = record.get("yt_meta_dict", {}).get("info") if "yt_meta_dict" in record else record
    rows = info.get("comments")
    lost = [item for item in rest if isinstance(item, Rejected) and item.stage == "comment"]
    expected = len(rows) if isinstance(rows, list) else int(rows is not None)
    assert len(first.comments) + len(lost) == expected
    places = [item.origin for item in lost]
    assert len(set(places)) == len(places)


@needs_real
def test_a_real_file(tmp_path: Path) -> None:
    name = "ytdlp_kfsKda_lNWs.info.json"
    (item,) = youtube.read_video(REAL / name, _library(tmp_path))
    assert isinstance(item, Rejected)
    assert item.kind == "gone"
    shutil.copyfile(REAL / name, tmp_path / name)
    (tmp_path / "ytdlp_kfsKda_lNWs.jpg").write_bytes(b"x")
    (post,) = youtube.read_video(tmp_path / name, _library(tmp_path))
    assert isinstance(post, Post)
    assert (post.id, post.likes, post.views, post.comments) == ("kfsKda_lNWs", 28322, 1007094, ())
    assert post.like_rate == pytest.approx(0.0281225)
    assert len(post.replay) == 100
    assert post.replay[1] == Span(0.41, 0.82, 0.0)
    assert (post.categories, post.created, post.asr, post.scenes) == (("Gaming",), 1676067580.0, "", ())


@needs_real
def test_a_real_video2dataset_file(tmp_path: Path) -> None:
    assert [path.name for path in youtube.list_files(REAL)] == [
        "video2dataset_0000008_00001.json",
        "ytdlp_kfsKda_lNWs.info.json",
    ]
    (tmp_path / "-pXlicO85dk.webp").write_bytes(b"x")
    (post,) = youtube.read_video(REAL / "video2dataset_0000008_00001.json", _library(tmp_path))
    assert isinstance(post, Post)
    assert (post.id, post.community, post.likes, post.views) == ("-pXlicO85dk", "Movieclips", 238, 56918)
    assert (post.categories, post.duration) == (("Film & Animation",), 143.0)
    assert post.asr.startswith("you know after I let me stab you mr. wrong a word I was so different")
    assert post.asr.endswith("every last one of us welcome home miss Debbie")
