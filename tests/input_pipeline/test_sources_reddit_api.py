"""Saved answers of Reddit's API and of search services: what is nested, what is left out, what is broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.errors import UserError
from input_pipeline.sources import media, reddit_api
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Post, Reply


def _post(name: str) -> dict[str, Any]:
    return {"kind": "t3", "data": {"id": name, "title": "t", "is_self": True, "score": 3}}


def _comment(name: str, *replies: Any, post: str = "p") -> dict[str, Any]:
    inner = _listing(*replies) if replies else ""
    return {"kind": "t1", "data": {"id": name, "body": "b", "link_id": f"t3_{post}", "replies": inner}}


def _listing(*children: Any) -> dict[str, Any]:
    return {"kind": "Listing", "data": {"after": None, "children": list(children)}}


def _more(*names: str) -> dict[str, Any]:
    return {"kind": "more", "data": {"count": len(names), "children": list(names)}}


def _read(folder: Path, text: str) -> list[Any]:
    path = folder / "a.json"
    path.write_text(text)
    return list(reddit_api.read(path, media.of_folder(folder / "none", folder / "index.sqlite")))


def _names(items: list[Any]) -> list[str]:
    return [
        item.id if isinstance(item, Post) else item.comment.id if isinstance(item, Reply) else item.reason
        for item in items
    ]


_PAGE = [
    _listing(_post("p")),
    _listing(_comment("a", _comment("b", _comment("c")), _comment("d")), _comment("e")),
]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_page_of_comments_is_read_in_its_order(tmp_path: Path, indent: int | None) -> None:
    items = _read(tmp_path, json.dumps(_PAGE, indent=indent))
    assert _names(items) == ["p", "a", "b", "c", "d", "e"]
    assert {item.post_id for item in items[1:]} == {"p"}
    assert items[0].likes == 3


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(_listing(_post("p"), _post("q"))),
        json.dumps(_listing(_post("p"), _post("q")), indent=1),
        json.dumps([_listing(_post("p")), _listing(_post("q"))]),
        json.dumps([[_listing(_post("p"))], [_listing(_post("q"))]], indent=1),
        "\n".join(json.dumps(_listing(_post(name))) for name in "pq"),
        "\n\n".join(json.dumps([_listing(_post(name))]) for name in "pq"),
        "\n".join(json.dumps(_listing(_post(name)), indent=1) for name in "pq"),
        "\n".join(json.dumps([_listing(_post(name))], indent=1) for name in "pq"),
        json.dumps({"data": [_post("p")["data"], _post("q")["data"]]}),
        json.dumps({"json": {"errors": [], "data": {"things": [_post("p"), _post("q")]}}}),
        json.dumps([_post("p"), _post("q")["data"]]),
    ],
)
def test_answers_are_kept_in_many_ways(tmp_path: Path, text: str) -> None:
    assert _names(_read(tmp_path, text)) == ["p", "q"]


def test_a_long_list_on_one_line_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reddit_api, "_LONG", 100)
    items = _read(tmp_path, json.dumps([_listing(_post(name)) for name in "pqr"]))
    assert _names(items) == ["p", "q", "r"]
    assert [item.origin.rpartition("/")[2] for item in items] == ["a.json:0.1", "a.json:1.1", "a.json:2.1"]


def test_search_answers_tell_posts_from_comments_by_their_fields(tmp_path: Path) -> None:
    items = _read(
        tmp_path,
        json.dumps(
            {
                "data": [
                    {"id": "p", "title": "t", "is_self": True},
                    {"id": "c", "body": "b", "link_id": "t3_p"},
                ],
                "error": None,
            }
        ),
    )
    assert [type(item) for item in items] == [Post, Reply]


def test_what_is_no_record_says_why(tmp_path: Path) -> None:
    answers: list[Any] = [
        _listing(_comment("a", _more("x", "y")), _more(), {"kind": "t5", "data": {}}),
        {"error": 404, "message": "Not Found"},
        {"data": None, "error": "rate limit"},
        {"json": {"errors": [["RATELIMIT", "wait", "ratelimit"]]}},
        {"kind": "Listing", "data": {"children": None}},
        {"kind": "t1", "data": None},
        {"kind": "t3", "data": {"id": "p"}},
        {"kind": {}, "x": 1},
        7,
        {"data": []},
    ]
    items = _read(tmp_path, "\n".join(map(json.dumps, answers)) + "\n{broken\n")
    found = [
        (item.origin.rpartition(":")[2], item.reason, item.kind)
        for item in items
        if isinstance(item, Rejected)
    ]
    assert found == [
        ("1.2", "comments left out by the API", "skipped"),
        ("1.3", "comments left out by the API", "skipped"),
        ("1.4", "neither a post nor a comment", "skipped"),
        ("2.1", "the API answered with an error", "bad"),
        ("3.1", "the API answered with an error", "bad"),
        ("4.1", "the API answered with an error", "bad"),
        ("5.1", "listing without its children", "bad"),
        ("6.1", "not a JSON object where a record should be", "bad"),
        ("7.1", "submission without a title", "bad"),
        ("8.1", "not an answer of the API", "bad"),
        ("9.1", "not a JSON object where a record should be", "bad"),
        ("11", "line is not JSON", "bad"),
    ]
    assert len(items) == len(found) + 1
    assert {item.file for item in items if isinstance(item, Rejected)} == {str(tmp_path / "a.json")}


def test_a_broken_answer_in_a_list_costs_only_itself(tmp_path: Path) -> None:
    parts = [json.dumps(_listing(_post(name)), indent=1) for name in "pqr"]
    items = _read(tmp_path, f"[{parts[0]}, {parts[1].replace('3', '3x')}, {parts[2]}]")
    first, *between, last = _names(items)
    assert (first, set(between), last) == ("p", {"element is not JSON"}, "r")


def test_deep_threads_are_walked(tmp_path: Path) -> None:
    thread = _comment("c0")
    for depth in range(1, 150):
        thread = _comment(f"c{depth}", thread)
    assert _names(_read(tmp_path, json.dumps(_listing(thread)))) == [f"c{n}" for n in range(149, -1, -1)]
    deeper = '{"json": ' * 5000 + "1" + "}" * 5000
    assert _names(_read(tmp_path, deeper + "\n" + json.dumps(_listing(_post("p"))))) == [
        "line is not JSON",
        "p",
    ]
    nested = '{"json": ' * 900 + json.dumps(_post("p")) + "}" * 900
    assert _names(_read(tmp_path, nested)) == ["p"]


def test_a_missing_file_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.json: no such file"):
        list(reddit_api.read(tmp_path / "no.json", media.of_folder(tmp_path / "none", tmp_path / "i.sqlite")))


_THREADS = st.recursive(
    st.builds(_more) | st.builds(_comment, st.just("c")) | st.just({"kind": "t1", "data": {"id": "c"}}),
    lambda inner: st.lists(inner, max_size=3).map(lambda replies: _comment("c", *replies)),
    max_leaves=12,
)
_RECORDS = st.just(_post("p")) | st.just({"kind": "t3", "data": {}}) | _THREADS


def _count(thing: dict[str, Any]) -> int:
    replies = thing["data"].get("replies") or {"data": {"children": []}}
    return 1 + sum(map(_count, replies["data"]["children"]))


@settings(max_examples=80, deadline=None)
@given(
    answers=st.lists(st.lists(_RECORDS, max_size=3), min_size=1, max_size=3),
    form=st.sampled_from(["lines", 1, None]),
)
def test_every_record_is_accounted_for(tmp_path_factory, answers: list[list[Any]], form: Any) -> None:
    listings = [_listing(*records) for records in answers]
    text = "\n".join(map(json.dumps, listings)) if form == "lines" else json.dumps(listings, indent=form)
    items = _read(tmp_path_factory.mktemp("api"), text)
    assert len(items) == sum(_count(record) for records in answers for record in records)
    assert len({item.origin for item in items if isinstance(item, Post | Rejected)}) == sum(
        isinstance(item, Post | Rejected) for item in items
    )


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["kind", "data", "children", "json", "things", "replies", "body", "title", "error"]
            ),
            inner,
        )
        | st.fixed_dictionaries({"kind": st.sampled_from(["Listing", "t1", "t3", "more"]), "data": inner})
    ),
    max_leaves=15,
)


@settings(max_examples=200, deadline=None)
@given(answers=st.lists(_JSON, max_size=3), tail=st.text(max_size=10))
def test_nothing_raises(tmp_path_factory, answers: list[Any], tail: str) -> None:
    text = "\n".join(map(json.dumps, answers)) + tail
    for item in _read(tmp_path_factory.mktemp("junk"), text):
        assert isinstance(item, Post | Reply | Rejected)
