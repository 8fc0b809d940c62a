"""The content-behavior-corpus, in the shapes that its columns may have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from input_pipeline.errors import UserError
from input_pipeline.sources import cells, content_corpus, media
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Post, Scene, Span

_ROW: dict[str, Any] = {
    "video_id": "vid_1",
    "asr_raw": [
        {"start": 0.0, "end": 1.5, "text": " Run ", "words": [{"word": "Run"}]},
        {"start": 1.5, "end": 2.0, "text": "faster.", "words": []},
    ],
    "asr_grouped": ["Run faster."],
    "ocr": [["SHOE", "50%"], []],
    "blip2_annotations": {
        "actions": ["running", "jumping"],
        "captions": ["a man runs", "a shoe"],
        "objects": [["man", "road", "man"], ["shoe"]],
    },
    "replay_graphs": {
        "original_marker_duration": 1.2,
        "processed_marker_duration": 2.4,
        "multiplier": 2,
        "markers": [
            {"start": 2.4, "end": 4.8, "replay_score": 0.25},
            {"start": 0.0, "end": 2.4, "replay_score": 1.0},
        ],
    },
    "likes": 30,
    "views": 1200,
    "metadata": {"title": "An ad ", "channel": "Shoes", "duration": 5, "upload_date": "20210131"},
}
_REPLAY = (Span(0.0, 2.4, 1.0), Span(2.4, 4.8, 0.25))
_SCENES = (
    Scene(caption="a man runs", tags=("man", "road"), text="SHOE, 50%"),
    Scene(caption="a shoe", tags=("shoe",)),
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> media.Library:
    folder = tmp_path_factory.mktemp("media")
    (folder / "vid_1.jpg").write_bytes(b"x")
    return media.build([folder], tmp_path_factory.mktemp("index") / "media.sqlite")


def _read(folder: Path, library: media.Library, *rows: Any) -> list[Post | Rejected]:
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(content_corpus.read(path, library))


def _post(folder: Path, library: media.Library, row: Any) -> Post:
    (item,) = _read(folder, library, row)
    assert isinstance(item, Post), item
    return item


def test_parquet_and_json_give_the_same(tmp_path: Path, library: media.Library) -> None:
    pq.write_table(pa.Table.from_pylist([_ROW]), tmp_path / "a.parquet")
    (tmp_path / "b.json").write_text(json.dumps([_ROW]))
    post = _post(tmp_path, library, _ROW)
    assert [media.name_of(reference) for reference in post.media] == ["vid_1.jpg"]
    assert msgspec.structs.replace(post, media=()) == Post(
        id="vid_1",
        source="youtube",
        title="An ad",
        origin=f"{tmp_path}/a.jsonl:1",
        community="Shoes",
        created=1612051200.0,
        likes=30,
        views=1200,
        like_rate=0.025,
        duration=5.0,
        asr="Run faster.",
        replay=_REPLAY,
        scenes=_SCENES,
    )
    for name in ("a.parquet", "b.json"):
        (other,) = content_corpus.read(tmp_path / name, library)
        assert isinstance(other, Post)
        assert msgspec.structs.replace(other, origin=post.origin) == post


def test_structures_may_be_json_text(tmp_path: Path, library: media.Library) -> None:
    packed = {
        key: json.dumps(value) if isinstance(value, list | dict) else value for key, value in _ROW.items()
    }
    assert _post(tmp_path, library, packed) == _post(tmp_path, library, _ROW)


def test_structures_may_be_columns(tmp_path: Path, library: media.Library) -> None:
    row = {
        **_ROW,
        "asr_raw": {"start": [0, 1], "text": ["Run", "faster."]},
        "replay_graphs": {"markers": {"start": [2.4, 0], "end": [4.8, 2.4], "replay_score": [0.25, 1]}},
        "blip2_annotations": {
            "captions": _ROW["blip2_annotations"]["captions"],
            "objects": ["man, road", "shoe"],
        },
    }
    assert _post(tmp_path, library, row) == _post(tmp_path, library, _ROW)


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"asr_raw": None}, "asr", "Run faster."),
        ({"asr_raw": {"text": "all", "segments": [{"text": "a"}, {"text": "b"}]}}, "asr", "a b"),
        ({"asr_raw": "said"}, "asr", "said"),
        ({"asr_raw": [], "asr_grouped": None}, "asr", ""),
        ({"replay_graphs": None}, "replay", ()),
        ({"replay_graphs": {"markers": [None, {"start": 1}, 7, "x", _ROW["replay_graphs"]["markers"][0]]}}, "replay",
         (Span(2.0, 3.0, 1.0), Span(2.4, 4.8, 0.25 / 7))),
        ({"ocr": ["one for two scenes"]}, "scenes", tuple(msgspec.structs.replace(s, text="") for s in _SCENES)),
        ({"blip2_annotations": {"captions": "one text"}}, "scenes", ()),
        ({"blip2_annotations": {"captions": [None, ""]}}, "scenes", ()),
        ({"blip2_annotations": 3}, "scenes", ()),
        ({"likes": 3000}, "like_rate", None),
        ({"views": 0}, "like_rate", None),
        ({"likes": None}, "like_rate", None),
        ({"likes": "30", "views": 1200.0}, "like_rate", 0.025),
        ({"metadata": {"title": "x", "brand": "B"}}, "community", "B"),
    ],
)  # fmt: skip
def test_what_is_not_there_or_of_another_shape(
    tmp_path: Path, library: media.Library, change: Any, field: str, value: Any
) -> None:
    assert getattr(_post(tmp_path, library, {**_ROW, **change}), field) == value


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        ({"video_id": None}, "bad", "video without an id"),
        ({"video_id": "other"}, "gone", "media is gone"),
        ({"metadata": None}, "bad", "video without a title"),
        ({"metadata": "{broken"}, "bad", "video without a title"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path, library: media.Library, change: Any, kind: str, reason: str
) -> None:
    first, second = _read(tmp_path, library, {**_ROW, **change}, _ROW)
    assert isinstance(first, Rejected)
    assert (first.kind, first.reason, first.source) == (kind, reason, "youtube")
    assert isinstance(second, Post)


def test_another_file_is_the_users_mistake(tmp_path: Path, library: media.Library) -> None:
    with pytest.raises(UserError, match="no column video_id; it has id"):
        _read(tmp_path, library, {"id": 1})


def test_replay_values_without_times_share_the_duration() -> None:
    assert cells.spans("[0.5, 1]", duration=10) == (Span(0.0, 5.0, 0.5), Span(5.0, 10.0, 1.0))
    assert cells.spans([4, None, 8]) == (Span(0.0, 1.0, 0.5), Span(2.0, 3.0, 1.0))
    assert cells.spans([float("nan"), -1, 1e400]) == ()


_junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=5)
    | st.sampled_from(["[" * 9999, '{"text": 1}', "[1, {}]", "9" * 5000]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["text", "markers", "captions", "objects", "start", "end", "replay_score", "title"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.dictionaries(st.sampled_from(content_corpus.COLUMNS), _junk, max_size=4) | _junk, max_size=5)
)
def test_nothing_raises_and_every_record_is_told_of(
    tmp_path: Path, library: media.Library, records: list[Any]
) -> None:
    found = [_ROW, *({**_ROW, **record} if isinstance(record, dict) else record for record in records)]
    items = _read(tmp_path, library, *found)
    assert len(items) == len(found)
    for item in items:
        msgspec.json.encode(item)
        if isinstance(item, Post):
            assert all(0 <= span.value <= 1 and span.start < span.end for span in item.replay)
