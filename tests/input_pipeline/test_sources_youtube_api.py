"""Saved answers of the YouTube Data API."""

from __future__ import annotations

import gzip
import itertools
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.errors import UserError
from input_pipeline.sources import media, youtube_api
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Comment, Post, Reply

REAL = Path(os.environ.get("JAXLLAVA_REAL_DATA", Path(__file__).parents[3] / "shared/data")) / "youtube"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no real sample data")

_VIDEO: dict[str, Any] = {
    "kind": "youtube#video", "id": "v1",
    "snippet": {"publishedAt": "2019-11-29T20:00:11.000Z", "title": "A &amp; B ", "channelTitle": "Films",
                "description": "About.", "categoryId": "28", "tags": ["x"]},
    "statistics": {"viewCount": "800", "likeCount": "20"},
    "contentDetails": {"duration": "PT1H2M3S", "contentRating": {"ytRating": "ytAgeRestricted"}},
    "status": {"uploadStatus": "processed"},
}  # fmt: skip


def _comment(comment_id: str, **snippet: Any) -> dict[str, Any]:
    return {"kind": "youtube#comment", "id": comment_id, "snippet": {"textOriginal": "hi", **snippet}}


def _thread(first: Any, *replies: Any, **snippet: Any) -> dict[str, Any]:
    item = {"kind": "youtube#commentThread", "id": "t1", "snippet": {"topLevelComment": first, **snippet}}
    return {**item, "replies": {"comments": list(replies)}} if replies else item


def _answer(*items: Any) -> dict[str, Any]:
    return {"kind": "youtube#someListResponse", "etag": "e", "items": list(items)}


_numbers = itertools.count()


def _read(folder: Path, answers: Any, name: str = "api.json") -> list[Post | Reply | Rejected]:
    path = folder / name
    path.write_text(answers if isinstance(answers, str) else json.dumps(answers))
    (folder / "v1.jpg").write_bytes(b"x")
    return list(youtube_api.read(path, media.build([folder], folder / f"{next(_numbers)}.sqlite")))


def test_a_video_becomes_a_post(tmp_path: Path) -> None:
    (post,) = _read(tmp_path, _answer(_VIDEO))
    assert post == Post(
        id="v1", source="youtube", title="A &amp; B", origin=f"{tmp_path}/api.json:1",
        media=(str(tmp_path / "v1.jpg"),), community="Films", author="Films", created=1575057611.0, nsfw=True,
        likes=20, views=800, like_rate=0.025, duration=3723.0, url="https://www.youtube.com/watch?v=v1",
        description="About.", categories=("Science & Technology",),
    )  # fmt: skip


def test_search_results_and_playlists_name_their_videos(tmp_path: Path) -> None:
    snippet = {"title": "A &amp; B", "channelTitle": "Keeper", "publishedAt": "2020-01-01T00:00:00Z"}
    found = {
        "kind": "youtube#searchResult",
        "id": {"kind": "youtube#video", "videoId": "v1"},
        "snippet": snippet,
    }
    channel = {"kind": "youtube#searchResult", "id": {"channelId": "c"}, "snippet": snippet}
    listed = {
        "kind": "youtube#playlistItem",
        "id": "p",
        "snippet": {**snippet, "resourceId": {"videoId": "v1"}, "videoOwnerChannelTitle": "Owner"},
        "contentDetails": {"videoId": "v1", "videoPublishedAt": "1970-01-01T00:00:09+00:00"},
    }
    first, second, third = _read(tmp_path, _answer(found, channel, listed))
    assert isinstance(first, Post)
    assert isinstance(second, Rejected)
    assert isinstance(third, Post)
    assert (first.id, first.title, first.likes, first.duration, first.like_rate) == (
        "v1",
        "A & B",
        None,
        None,
        None,
    )
    assert (second.kind, second.reason) == ("skipped", "neither a video nor a comment")
    assert (third.id, third.title, third.community, third.created) == ("v1", "A &amp; B", "Owner", 9.0)


def test_threads_give_their_comment_and_replies(tmp_path: Path) -> None:
    markup = 'Lot&#39;s <b>&lt;b&gt;</b><br />of <a href="http://x.org">x.org</a> 1 < 2'
    first = _comment(
        "c1", authorDisplayName="@a", likeCount=4, publishedAt="1970-01-01T00:00:05Z", textOriginal="a <b>"
    )
    other = {"id": "c2", "snippet": {"textDisplay": markup, "likeCount": "7", "parentId": "c1"}}
    items = _read(tmp_path, _answer(_thread(first, other, _comment("c3", videoId="v9"), videoId="v1")))
    assert items == [
        Reply("youtube", "v1", Comment("c1", "a <b>", "@a", 4, 5.0)),
        Reply("youtube", "v1", Comment("c2", "Lot's <b>\nof x.org 1 < 2", None, 7)),
        Reply("youtube", "v9", Comment("c3", "hi")),
    ]


def test_what_cannot_be_used_is_named_and_counted_over_the_file(tmp_path: Path) -> None:
    items = _read(
        tmp_path,
        [
            _answer(
                _thread(None, _comment("c0"), videoId="v1"),
                _thread(_comment("c1")),
                _comment("c2", parentId="c1"),
                _comment("", videoId="v1"),
                _comment("c4", videoId="v1", textOriginal=None),
                _comment("c5", videoId="v1", textOriginal=None, textDisplay="shown"),
            ),
            {"error": {"code": 403, "errors": [{"reason": "commentsDisabled"}]}},
            {"kind": "youtube#videoListResponse", "items": None},
            7,
            _answer(),
            _answer(
                {**_VIDEO, "id": None},
                {"kind": "youtube#video", "id": "v1", "statistics": {}},
                {**_VIDEO, "id": "v2"},
                {"kind": "youtube#caption", "id": "k"},
                {"kind": "youtube#channel", "id": "c", "snippet": {"title": "t"}},
                None,
            ),
        ],
    )
    found = [
        (item.reason, item.stage, item.kind, item.id, item.source)
        for item in items
        if isinstance(item, Rejected)
    ]
    assert found == [
        ("comment is not an object", "comment", "bad", "", ""),
        ("comment without its video", "comment", "bad", "c1", ""),
        ("reply without its video", "comment", "bad", "c2", ""),
        ("comment without an id", "comment", "bad", "", ""),
        ("comment without text", "comment", "bad", "c4", ""),
        ("an error answer of the API", "read", "bad", "", ""),
        ("answer without a list of items", "read", "bad", "", ""),
        ("answer is not an object", "read", "bad", "", ""),
        ("video without an id", "fields", "bad", "", "youtube"),
        ("video without a title", "fields", "bad", "v1", "youtube"),
        ("media is gone", "media", "gone", "v2", "youtube"),
        ("a caption track without its words", "fields", "skipped", "k", ""),
        ("neither a video nor a comment", "fields", "skipped", "c", ""),
        ("item is not an object", "fields", "bad", "", ""),
    ]
    numbers = [int(item.origin.rpartition(":")[2]) for item in items if isinstance(item, Rejected)]
    assert numbers == [1, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16]


_ANSWERS = [_answer(_VIDEO), _answer(_thread(_comment("c1"), videoId="v1"))]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(_ANSWERS),
        json.dumps(_ANSWERS, indent=2),
        "\n".join(map(json.dumps, _ANSWERS)),
        "\ufeff\n" + "\r\n".join(map(json.dumps, _ANSWERS)),
        "\n".join(json.dumps(answer, indent=2) for answer in _ANSWERS),
        json.dumps(_answer(*_ANSWERS[0]["items"], *_ANSWERS[1]["items"]), indent=1),
        json.dumps([item for answer in _ANSWERS for item in answer["items"]]),
        "\n".join(json.dumps(item) for answer in _ANSWERS for item in answer["items"]),
    ],
)
def test_every_way_to_save_answers_is_read(tmp_path: Path, text: str) -> None:
    assert [type(item) for item in _read(tmp_path, text)] == [Post, Reply]
    packed = tmp_path / "api.json.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    library = media.build([tmp_path], tmp_path / "index")
    assert [type(item) for item in youtube_api.read(packed, library)] == [Post, Reply]


def test_a_broken_line_or_answer_costs_no_other(tmp_path: Path) -> None:
    whole = json.dumps(_ANSWERS[0])
    for text in (
        f"{{broken}}\n{whole}\n",
        f"{whole}\n{{broken}}\n",
        f'{whole}\n{whole[:90]}\n{{"broken": 1}}',
    ):
        items = _read(tmp_path, text)
        assert Counter(type(item) for item in items)[Post] == 1
        assert any(isinstance(item, Rejected) for item in items)
        assert len({item.origin for item in items if not isinstance(item, Reply)}) == len(items)


def test_answers_cut_down_to_chosen_fields_are_read_line_by_line(tmp_path: Path) -> None:
    video = json.dumps({"items": [{"id": "v1", "snippet": {"title": "t"}}]})
    reply = json.dumps({"items": [{"id": "c1", "snippet": {"textDisplay": "t", "videoId": "v1"}}]})
    for texts in ([video, '{"items": [}', reply], ['{"items": [}', video, reply]):
        items = _read(tmp_path, "\n".join(texts))
        assert Counter(type(item) for item in items) == {Post: 1, Reply: 1, Rejected: 1}


def test_a_cut_answer_gives_its_whole_items(tmp_path: Path) -> None:
    text = json.dumps(_answer(_VIDEO, _VIDEO, {**_VIDEO, "id": "v2"}), indent=2)
    kinds = [type(item) for item in _read(tmp_path, text[:-100])]
    assert kinds[:3] == [Rejected, Post, Post]


def test_files_that_hold_nothing_or_are_missing(tmp_path: Path) -> None:
    for text, reason in (("", "file is empty"), ("<html>", "file is neither a JSON list nor JSON lines")):
        (item,) = _read(tmp_path, text)
        assert isinstance(item, Rejected)
        assert (item.reason, item.origin) == (reason, f"{tmp_path}/api.json:1")
    assert _read(tmp_path, _answer()) == []
    with pytest.raises(UserError, match="no such file"):
        list(youtube_api.read(tmp_path / "none.json", media.Library(tmp_path / "index")))


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("PT1H2M3S", 3723.0),
        ("P1DT2H", 93600.0),
        ("P1W", 604800.0),
        ("PT0.5S", 0.5),
        ("PT", None),
        ("P0D", None),  # what a live stream says before it ends
        ("1:02", None),
        ("", None),
        ("PT" + "9" * 5000 + "S", None),
    ],
)
def test_durations(text: str, length: float | None) -> None:
    assert youtube_api.seconds(text) == length


@pytest.mark.parametrize(
    ("category", "names"), [("10", ("Music",)), (24, ("Entertainment",)), ("77", ("77",)), (None, ())]
)
def test_categories_have_names(tmp_path: Path, category: Any, names: tuple[str, ...]) -> None:
    (post,) = _read(tmp_path, _answer({**_VIDEO, "snippet": {**_VIDEO["snippet"], "categoryId": category}}))
    assert isinstance(post, Post)
    assert post.categories == names


def test_uploads_that_were_taken_away_are_marked(tmp_path: Path) -> None:
    (post,) = _read(tmp_path, _answer({**_VIDEO, "status": {"uploadStatus": "rejected"}}))
    assert isinstance(post, Post)
    assert post.removed == "rejected"


_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(
        [10**30, "1e400", "\ud800", "a\0b", "v1", "PT1S", "2019-11-29T20:00:11.000Z", "&#" + "9" * 5000]
    ),
    st.sampled_from(["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"]),
    st.text(st.characters(), max_size=5),
)
_JUNK = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2)
)


def _objects(*keys: str, **known: st.SearchStrategy) -> st.SearchStrategy:
    fields: dict[str, Any] = dict.fromkeys(keys, _JUNK)
    fields.update({key: value | _LEAVES for key, value in known.items()})
    return st.fixed_dictionaries({}, optional=fields)


_KINDS = st.sampled_from(
    [f"youtube#{name}" for name in ("video", "searchResult", "playlistItem", "comment", "caption", "channel")]
)
_SNIPPETS = _objects(
    "title", "description", "publishedAt", "channelTitle", "categoryId", "textOriginal", "textDisplay", "videoId",
    "likeCount", "parentId", "resourceId", "authorDisplayName",
)  # fmt: skip
_SINGLE = _objects(
    "contentDetails", "status", kind=_KINDS, id=st.just("v1") | _objects("videoId"), snippet=_SNIPPETS,
    statistics=_objects("likeCount", "viewCount"),
)  # fmt: skip
_THREADS = st.builds(
    lambda first, replies, video: _thread(first, *replies, videoId=video),
    _SINGLE | _LEAVES,
    st.lists(_SINGLE | _LEAVES, max_size=2),
    _LEAVES,
)
_PAGES = st.builds(lambda items: _answer(*items), st.lists(_SINGLE | _THREADS | _LEAVES, max_size=4))


def _records(answer: Any) -> int:
    if not isinstance(answer, dict) or not isinstance(answer.get("items"), list):
        return 1
    threads = [item for item in answer["items"] if isinstance(item, dict) and "replies" in item]
    return len(answer["items"]) + sum(len(thread["replies"]["comments"]) for thread in threads)


@given(st.lists(_PAGES | _JUNK | _objects("error", "items"), max_size=4))
@settings(max_examples=200, deadline=None)
def test_every_record_is_accounted_for(tmp_path_factory: pytest.TempPathFactory, answers: list[Any]) -> None:
    folder = tmp_path_factory.getbasetemp() / "any_answers"
    folder.mkdir(exist_ok=True)
    (folder / "v1.jpg").write_bytes(b"x")
    index, path = folder / "index", folder / "api.json"
    library = media.Library(index) if index.exists() else media.build([folder], index)
    path.write_text(json.dumps(answers))
    items = list(youtube_api.read(path, library))
    assert len(items) == sum(map(_records, answers))
    numbered = [item.origin for item in items if not isinstance(item, Reply)]
    assert len(set(numbered)) == len(numbered)
    for item in items:
        if not isinstance(item, Rejected):
            assert msgspec.json.decode(msgspec.json.encode(item), type=type(item)) == item


@given(st.text(st.characters(), max_size=80) | st.binary(max_size=80))
@settings(max_examples=100, deadline=None)
def test_no_file_raises(tmp_path_factory: pytest.TempPathFactory, text: str | bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / "any_file.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    list(youtube_api.read(path, media.Library(folder / "never_asked")))


@needs_real
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("api_videos_info_multi.json", {"Post": 2}),
        ("api_videos_chart_paged_1.json", {"media is gone": 5}),
        ("api_comment_threads_by_video_paged_1.json", {"Reply": 5}),
        ("api_comments_by_parent_paged_1.json", {"reply without its video": 2}),
        ("api_captions_by_video.json", {"a caption track without its words": 2}),
    ],
)
def test_real_answers(tmp_path: Path, name: str, counts: dict[str, int]) -> None:
    for video_id in ("D-lhorsDlUQ", "ovdbrdCIP7U"):
        (tmp_path / f"{video_id}.jpg").write_bytes(b"x")
    items = list(youtube_api.read(REAL / name, media.build([tmp_path], tmp_path / "index")))
    assert Counter(i.reason if isinstance(i, Rejected) else type(i).__name__ for i in items) == counts
    for item in items:
        if isinstance(item, Post):
            assert item.categories in (("Science & Technology",), ("Sports",))
            assert item.created
            assert item.likes is None or item.duration
        if isinstance(item, Reply):
            assert (item.post_id, item.comment.created is None) == ("F1UP7wRCPH8", False)
