"""Files as releases really have them: marks, line ends, headers, broken lines; and what the table of tasks promises."""

from __future__ import annotations

import csv
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from input_pipeline.errors import UserError
from jaxllava.evaluate.tasks import (
    ads,
    captions,
    highlights,
    hvu,
    image_emotion,
    lvu,
    memorability,
    releases,
    text,
    video_emotion,
    video_qa,
)
from jaxllava.evaluate.tasks.task import SETTINGS, Rejected

PAPER = [
    task
    for module in (
        ads,
        captions,
        highlights,
        hvu,
        image_emotion,
        lvu,
        memorability,
        text,
        video_emotion,
        video_qa,
    )
    for task in module.TASKS
]


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-marked"])
def test_text_of_any_mark(codec, tmp_path):
    data = b"\xff\xfe" + "Zoë\r\n\r\n x ".encode("utf-16-le") if codec.endswith("marked") else None
    path = tmp_path / "a.txt"
    path.write_bytes(data or "Zoë\r\n\r\n x ".encode(codec))
    assert list(releases.lines(path)) == [(f"{path}:1", "Zoë"), (f"{path}:3", "x")]
    path.write_bytes(b"caf\xe9")  # neither: Latin-1
    assert releases.text(path) == "café"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"a\.txt: begins as utf-16 and is not"):
        releases.text(path)
    with pytest.raises(UserError, match="no such file"):
        releases.text(tmp_path / "b.txt")
    with pytest.raises(UserError, match="cannot be read as a file"):
        releases.text(tmp_path)


@pytest.mark.parametrize(
    "content",
    ['id,Score\n a , 1 \n\n"b,c",2\n', "Score;id\r\n1;a\r\n2;b,c\r\n", "id\tx\tscore\na\t9\t1\nb,c\t9\t2\n"],
)
def test_tables_by_their_header(content, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(content, newline="")
    found = list(releases.table(path, {"id": ("name", "ID"), "score": ("score",)}, {"more": ("y",)}))
    rows = [row for _, row in found]
    assert rows == [{"id": "a", "score": "1", "more": ""}, {"id": "b,c", "score": "2", "more": ""}]
    assert found[0][0] in (f"{path}:2", f"{path}:3")


def test_short_rows_are_named_and_missing_columns_raise(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a b c\n1 2 3\n1 2\n")
    assert list(releases.table(path, {"a": ("a",)})) == [
        (f"{path}:2", {"a": "1"}),
        Rejected(f"{path}:3", "too few cells"),
    ]
    with pytest.raises(UserError, match=r"t\.csv: no column 'label'"):
        list(releases.table(path, {"label": ("label", "class")}))
    path.write_text('a,b\n1,"' + "x" * 200_000)
    limit = csv.field_size_limit(131_072)  # Python's own: a library may have raised it
    try:
        with pytest.raises(UserError, match=r"t\.csv:\d+: not a table"):
            list(releases.table(path, {"a": ("a",)}))
    finally:
        csv.field_size_limit(limit)


def test_objects_of_lists_of_names_and_of_lines(tmp_path):
    path = tmp_path / "o.json"
    path.write_text(json.dumps([{"a": 1}, 2]))
    assert list(releases.objects(path)) == [(f"{path}:1", {"a": 1}), Rejected(f"{path}:2", "not an object")]
    path.write_text(json.dumps({"x": {"a": 1}, "y": {"id": 7}, "z": 3}))
    assert list(releases.objects(path)) == [
        (f"{path}:x", {"id": "x", "a": 1}),
        (f"{path}:y", {"id": 7}),
        Rejected(f"{path}:z", "not an object"),
    ]
    path.write_text('{"a": 1}\n\n{"a": \n{"a": 3}')
    found = list(releases.objects(path))
    assert [one[1] for one in found if isinstance(one, tuple)] == [{"a": 1}, {"a": 3}]
    assert [one.where for one in found if isinstance(one, Rejected)] == [f"{path}:3"]
    path.write_text('{"a": 1}')
    assert list(releases.objects(path)) == [(f"{path}:1", {"a": 1})]
    for content, error in (
        ("", "neither JSON nor lines"),
        ("<html>", "neither JSON nor lines"),
        ("3", "no list"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=error):
            list(releases.objects(path))


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_user_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("f") / "x.json"
    path.write_bytes(data)
    for reads in (
        lambda: list(releases.objects(path)),
        lambda: list(releases.table(path, {"a": ("a",)})),
        lambda: list(releases.lines(path)),
    ):
        try:
            reads()
        except UserError as error:
            assert "\n" not in str(error)


def test_cells():
    assert releases.names("['a', \"b c\"]") == ["a", "b c"] and releases.names("[a, b]") == ["a", "b"]
    assert releases.names("a; b") == releases.names("a|b") == releases.names(["a", " b "]) == ["a", "b"]
    assert releases.names(None) == releases.names("") == []
    assert releases.number("1e3") == 1000 and releases.number(" 2 ") == 2
    assert {releases.number(v) for v in ("", "x", None, True, "nan", "inf")} == {None}
    of = releases.word_of({"joy": ("Happiness",), "ex-friend": ()})
    assert (of("JOY"), of("happiness"), of("Ex_Friend"), of("ex friend"), of("sad")) == (
        "joy", "joy", "ex-friend", "ex-friend", "",
    )  # fmt: skip


def test_the_table_keeps_its_word():
    assert len({task.name for task in PAPER}) == len(PAPER) == 46
    for task in PAPER:
        assert task.split in task.needs and set(task.reported) <= set(SETTINGS) and task.reported
        assert task.finetune is None or task.finetune.split in task.needs
        assert (task.score is None) == bool(task.judge)
        assert "http" in task.get or task.name == "dense_captions"
        for reported in task.reported.values():
            assert not reported.best or reported.best in reported.figures
            assert reported.figures and all(isinstance(v, float) for v in reported.figures.values())
            assert "Behavior-LLaVA" in reported.figures or task.family in ("lvu", "hvu")
