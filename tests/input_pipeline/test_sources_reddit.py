"""Reddit dumps: the fields of all years, media by file name, and what is wrong with a record."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.sources import lines, media, reddit
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Comment, Post, Reply

REAL = Path(os.environ.get("JAXLLAVA_REAL_DATA", Path(__file__).parents[3] / "shared/data")) / "reddit"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no real sample data")


def _library(folder: Path, *files: str) -> media.Library:
    (folder / "media").mkdir(exist_ok=True)
    for name in files:
        (folder / "media" / name).write_bytes(b"x")
    return media.of_folder(folder / "media", folder / "index.sqlite")


def _submissions(folder: Path, *rows: dict[str, Any], files: tuple[str, ...] = ()) -> list[Any]:
    path = folder / "RS.ndjson"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(reddit.read_submissions(path, _library(folder, *files)))


def _comments(folder: Path, *rows: dict[str, Any], communities: Collection[str] = ()) -> list[Any]:
    path = folder / "RC.ndjson"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(reddit.read_comments(path, communities))


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
    assert post.removed


@pytest.mark.parametrize(
    "url",
    [
        "https://www.youtube.com/watch?v=dQw4w9WgXcQ",
        "http://youtube.com/watch?feature=player_embedded&amp;v=dQw4w9WgXcQ&amp;t=3s",
        "https://m.youtube.com/watch?v=dQw4w9WgXcQ#t=10",
        "https://youtu.be/dQw4w9WgXcQ",
        "https://youtu.be/dQw4w9WgXcQ?si=abc",
        "https://youtu.be/dQw4w9WgXcQ&amp;feature=share",
        "https://www.YouTube.com/shorts/dQw4w9WgXcQ",
        "https://www.youtube-nocookie.com/embed/dQw4w9WgXcQ?start=1",
        "https://www.youtube.com/v/dQw4w9WgXcQ",
        "https://www.youtube.com/attribution_link?a=x&amp;u=%2Fwatch%3Fv%3DdQw4w9WgXcQ%26feature%3Dshare",
    ],
)
def test_a_link_to_youtube_is_a_post_about_the_video(tmp_path: Path, url: str) -> None:
    row = {"id": "p", "title": "t", "url": url, "post_hint": "rich:video"}
    (post,) = _submissions(tmp_path, row, files=("dQw4w9WgXcQ.jpg",))
    assert isinstance(post, Post)
    assert [Path(path).name for path in post.media] == ["dQw4w9WgXcQ.jpg"]
    assert (post.url, post.duration) == ("https://www.youtube.com/watch?v=dQw4w9WgXcQ", None)


@pytest.mark.parametrize(
    "url",
    [
        "https://www.youtube.com/channel/UCabcdefghij",
        "https://www.youtube.com/watch?v=short",
        "https://www.youtube.com/watch?v=dQw4w9WgXcQQ",
        "https://www.youtube.com/watch",
        "https://notyoutube.com/watch?v=dQw4w9WgXcQ",
        "https://youtube.com/attribution_link?u=/attribution_link?u=/watch?v=dQw4w9WgXcQ",
        "https://[youtu.be/dQw4w9WgXcQ",
        "",
    ],
)
def test_other_links_lead_to_no_video(url: str) -> None:
    assert reddit.video_id(url) is None


def test_the_seconds_of_a_video_are_asked_for_by_its_id(tmp_path: Path) -> None:
    path = tmp_path / "RS.ndjson"
    path.write_text('{"id": "p", "title": "t", "url": "https://youtu.be/dQw4w9WgXcQ"}\n')
    asked = {"dQw4w9WgXcQ": 212.0}
    library = _library(tmp_path, "dQw4w9WgXcQ.webp")
    (post,) = reddit.read_submissions(path, library, durations=asked.get)
    assert isinstance(post, Post)
    assert post.duration == 212.0
    (gone,) = reddit.read_submissions(path, media.of_folder(tmp_path / "none", tmp_path / "empty.sqlite"))
    assert isinstance(gone, Rejected)
    assert (gone.id, gone.kind) == ("p", "gone")


@pytest.mark.parametrize(
    "parent",
    [
        {"gallery_data": {"items": [{"media_id": "ab12"}]}},
        {"url": "https://i.redd.it/ab12.jpg", "over_18": True},
    ],
)
def test_a_crosspost_takes_the_media_of_the_post_it_passes_on(tmp_path: Path, parent: dict) -> None:
    row = {"id": "p", "title": "t", "url": "/r/pics/comments/q/", "crosspost_parent_list": [parent, 3]}
    (post,) = _submissions(tmp_path, row, files=("ab12.jpg", "own.jpg"))
    assert isinstance(post, Post)
    assert [Path(path).name for path in post.media] == ["ab12.jpg"]
    assert post.nsfw == parent.get("over_18", False)
    (post,) = _submissions(tmp_path, {**row, "url": "https://i.redd.it/own.jpg"})
    assert [Path(path).name for path in post.media] == ["own.jpg"]


def test_comments(tmp_path: Path) -> None:
    items = _comments(
        tmp_path,
        {"id": "c1", "link_id": "t3_p", "body": "a &gt; b", "author": None, "score": -3, "created_utc": 1.5},
        {"name": "t1_c2", "link_id": "p", "body": "x", "ups": "4", "parent_id": 99},
        {"id": "c3", "link_id": "t3_p"},
        {"id": "c4", "body": "x"},
        {"link_id": "t3_p", "body": "x"},
    )
    assert items[0] == Reply("reddit", "p", Comment("c1", "a > b", "[deleted]", -3, 1.5))
    assert items[1] == Reply("reddit", "p", Comment("c2", "x", None, 4, None))
    assert [(item.id, item.reason, item.origin[-1]) for item in items[2:]] == [
        ("c3", "comment without a body", "3"),
        ("c4", "comment without a link_id", "4"),
        ("", "comment without an id", "5"),
    ]


def test_an_id_given_as_a_number_is_written_as_reddit_writes_it(tmp_path: Path) -> None:
    (reply,) = _comments(tmp_path, {"id": 41497293111, "link_id": int("zyw8x9", 36), "body": "x"})
    assert reply.post_id == "zyw8x9"
    assert int(reply.comment.id, 36) == 41497293111


def test_other_communities_are_counted(tmp_path: Path) -> None:
    row = {"link_id": "t3_p", "body": "x"}
    rows = [
        {"id": str(n), "subreddit": name} for n, name in enumerate(["Pics", "funny", "funny", None, "pics"])
    ]
    items = _comments(tmp_path, *({**row, **more} for more in rows), communities={"pics"})
    assert [item.comment.id for item in items[:-1]] == ["0", "3", "4"]
    assert items[-1] == lines.Passed(f"{tmp_path}/RC.ndjson", 2, "of another community")
    assert len(_comments(tmp_path, *({**row, **more} for more in rows))) == 5


def test_a_broken_line_is_named_also_where_communities_are_chosen(tmp_path: Path) -> None:
    path = tmp_path / "RS.ndjson"
    path.write_bytes(b'{"id": "p", "title": "t", "url": "u"\n[1]\n{"x": "\xff"}\n')
    items = list(reddit.read_submissions(path, _library(tmp_path), {"pics"}))
    assert [item.reason for item in items if isinstance(item, Rejected)] == [
        "line is not JSON",
        "line is not a JSON object",
        "line is not UTF-8",
    ]


# What the two JSON decoders differ in, and what the fields have held over the years and worse.
_ODD = [
    'NaN', 'Infinity', '1e400', '-0.0', '9' * 30, '"\\ud800"', '"a\\udc00b"', '"\\ud83d\\ude00"', 'null', 'true',
    '""', '"a\x01"', '[1,]', '{"a": {}}', '"t3_p"', '"t1_c"', '123', '"123"', '1.5e9', '"1.5e9"', '01', '"pics"',
    '"&#' + '9' * 5000 + ';"', '"https://youtu.be/dQw4w9WgXcQ"', '"https://i.redd.it/x.png"', '"http://["',
    '{"items": [{"media_id": "m"}, 1]}', '[{"url": "https://i.redd.it/x.png", "score": []}]', '"[deleted]"',
    '"a &amp; b \u00e9"',
]  # fmt: skip
_KEYS = sorted({*reddit._PostRow.__struct_fields__, *reddit._CommentRow.__struct_fields__, "edited", "x"})
_VALUES = st.sampled_from(_ODD) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
).map(json.dumps)
_SOUND = [("id", '"ab1"'), ("title", '"t"'), ("body", '"b"'), ("link_id", '"t3_p"'), ("url", '"u"')]


def _line(sound: bool, pairs: list[tuple[str, str]]) -> bytes:
    pairs = (_SOUND if sound else []) + pairs
    return ("{" + ", ".join(f'"{key}": {value}' for key, value in pairs) + "}").encode()


def _spoilt(line: bytes, at: int, byte: int) -> bytes:
    at %= len(line)
    return line[:at] + bytes([byte]) + line[at + 1 :]


_WRITTEN = st.builds(_line, st.booleans(), st.lists(st.tuples(st.sampled_from(_KEYS), _VALUES), max_size=6))
_LINES = (
    _WRITTEN
    | st.builds(_spoilt, _WRITTEN, st.integers(0, 500), st.integers(11, 255))
    | st.binary(min_size=1, max_size=30).filter(
        lambda line: b"\n" not in line and bool(line.strip(lines._BLANK))
    )
)


@settings(max_examples=300, deadline=None)
@given(rows=st.lists(_LINES, max_size=5), communities=st.sampled_from([frozenset(), frozenset({"pics"})]))
def test_the_fast_way_gives_what_the_tolerant_way_gives(
    tmp_path_factory, rows: list[bytes], communities: frozenset[str]
) -> None:
    folder = tmp_path_factory.mktemp("both")
    library = _library(folder, "x.png", "m.png")
    path = folder / "a.ndjson"

    def read(data: bytes) -> list[list[Any]]:
        path.write_bytes(data)
        return [
            list(reddit.read_comments(path, communities)),
            list(reddit.read_submissions(path, library, communities, lambda name: 1.0)),
        ]

    fast = read(b"{}\n" + b"".join(row + b"\n" for row in rows))
    # Only Python's own JSON takes a byte-order mark at the start of a line.
    slow = read(b"{}\n" + b"".join(b"\xef\xbb\xbf" + row + b"\n" for row in rows))
    assert fast == slow
    for items in fast:
        passed = sum(item.count for item in items if isinstance(item, lines.Passed))
        assert sum(not isinstance(item, lines.Passed) for item in items) + passed == 1 + len(rows)
        assert msgspec.json.encode([item for item in items if isinstance(item, Post | Reply)])


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
    items = list(reddit.read_submissions(REAL / name, _library(tmp_path)))
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
    comments = [item.comment for item in items if isinstance(item, Reply)]
    assert len(comments) == len(items) == count
    if deleted is not None:
        assert sum(comment.author == "[deleted]" for comment in comments) == deleted


@needs_real
def test_the_real_zst_holds_lines_of_its_plain_twin(tmp_path: Path) -> None:
    def ids(name: str) -> list[str]:
        items = reddit.read_submissions(REAL / name, _library(tmp_path))
        return [item.id for item in items if isinstance(item, Post | Rejected)]

    packed = ids("RS_image_posts_part.zst")
    assert len(packed) == 52
    assert set(packed) <= set(ids("RS_image_posts.ndjson"))


@needs_real
def test_a_dump_of_comments_reads_the_same_when_every_line_takes_the_tolerant_way(tmp_path: Path) -> None:
    data = (REAL / "RC_pushshift_api_science.ndjson").read_bytes().splitlines(keepends=True)
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"".join(b"\xef\xbb\xbf" + line for line in data))
    assert list(reddit.read_comments(path)) == list(
        reddit.read_comments(REAL / "RC_pushshift_api_science.ndjson")
    )
