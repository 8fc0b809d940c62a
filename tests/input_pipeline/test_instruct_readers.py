"""Pictures in words out of COCO, LVIS and JSON lines; whatever is wrong in them is named and counted."""

from __future__ import annotations

import gzip
import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from input_pipeline.errors import UserError
from input_pipeline.instruct import prompts, readers, subjects, symbolic
from input_pipeline.instruct.pool import Pool
from input_pipeline.sources import lines, members
from input_pipeline.sources.rejected import Rejected

REAL = Path(os.environ.get("JAXLLAVA_REAL_DATA", Path(__file__).parents[3] / "shared/data")) / "llava"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no real sample data")

CAPTIONS = {
    "info": {"year": 2014},
    "images": [
        {"id": 7, "file_name": "COCO_val2014_000000000007.jpg"},
        {"id": 8, "file_name": "COCO_val2014_000000000008.jpg", "width": 200, "height": 100},
        {"id": 9, "width": 200},
    ],
    "annotations": [
        {"image_id": 8, "id": 1, "caption": "A dog\nruns. "},
        {"image_id": 7, "id": 2, "caption": "A cup."},
        {"image_id": 7, "id": 3, "caption": "  "},
        {"image_id": 99, "id": 4, "caption": "Nobody's."},
        {"id": 5, "caption": "Of nothing."},
    ],
}
# Categories behind the annotations, as some exporters have them.
INSTANCES = {
    "images": [{"id": 7, "file_name": "7.jpg", "width": 200, "height": 100}],
    "annotations": [
        {
            "image_id": 7,
            "bbox": [20, 10, 100, 50],
            "category_id": 3,
            "segmentation": [[1, 2, 3]],
            "iscrowd": 0,
        },
        {"image_id": 7, "bbox": [-20, 10, 100, 50], "category_id": 3},
        {"image_id": 7, "bbox": [300, 10, 100, 50], "category_id": 3},
        {"image_id": 7, "bbox": [20, 10, 0, 50], "category_id": 3},
        {"image_id": 7, "bbox": [20, math.nan, 5, 50], "category_id": 3},
        {"image_id": 7, "bbox": [20, 10, 5], "category_id": 3},
        {"image_id": 7, "bbox": [20, 10, 5, 5], "category_id": 4},
        {"image_id": 7, "category_id": 3},
    ],
    "categories": [{"id": 3, "name": "cup"}],
}
LVIS = {
    "images": [
        {
            "id": 7,
            "coco_url": "http://images.cocodataset.org/val2017/000000000007.jpg",
            "width": 200,
            "height": 100,
            "neg_category_ids": [3],
            "not_exhaustive_category_ids": [],
        }
    ],
    "annotations": [{"image_id": 7, "bbox": [0.0, 0.0, 20.06, 100.0], "category_id": 3, "area": 1.0}],
    "categories": [{"id": 3, "name": "bat_(animal)", "synset": "bat.n.01"}],
}


def fill(folder: Path, *files: dict, jsonl: str = "") -> tuple[Pool, list[Rejected]]:
    pool = Pool(folder / "pool.sqlite")
    found = []
    for number, content in enumerate(files):
        path = folder / f"{number}.json"
        path.write_text(json.dumps(content))
        found += readers.coco(path, pool, number)
    if jsonl:
        path = folder / "pictures.jsonl"
        path.write_text(jsonl)
        found += readers.jsonl(path, pool)
    pool.finish()
    return pool, [*found, *readers.strays(pool)]


def test_coco_files_meet_and_nothing_is_lost(tmp_path) -> None:
    pool, rejected = fill(tmp_path, CAPTIONS, INSTANCES, LVIS)
    one, two = pool.read()
    assert (one.id, one.image) == ("000000000007", "COCO_val2014_000000000007.jpg")
    assert one.captions == ("A cup.",)
    assert [str(box) for box in one.boxes] == [
        "cup: [0.1, 0.1, 0.6, 0.6]",
        "cup: [0.0, 0.1, 0.4, 0.6]",
        "bat (animal): [0.0, 0.0, 0.1, 1.0]",
    ]
    assert one.faults == {
        "a caption without text": 1,
        "a box that reaches beyond the picture (cut to it)": 1,
        "a box outside the picture": 1,
        "a box without area": 1,
        "a box with something that is not a number": 1,
        "a box that is not four numbers": 1,
        "a box without a category": 1,
    }
    assert (two.id, two.captions, two.boxes, two.faults) == ("000000000008", ("A dog runs.",), (), {})
    assert sorted((item.id, item.reason) for item in rejected) == [
        ("", "annotations: no image_id"),
        ("000000000007", "annotations: neither caption nor bbox"),
        ("000000000009", "images: no file name"),
        ("000000000099", "annotations of an image that is not listed"),
    ]


def test_lvis_alone_is_asked_without_a_conversation(tmp_path) -> None:
    pool, rejected = fill(tmp_path, LVIS)
    (one,) = pool.read()
    assert (one.image, rejected) == ("000000000007.jpg", [])
    subject = subjects.of_picture(one)
    assert isinstance(subject, subjects.Subject)
    assert set(subject.told) == {"detail", "complex"}
    assert subject.cannot == {"conversation": "no captions for a conversation"}
    assert subject.told["detail"] == "bat (animal): [0.0, 0.0, 0.1, 1.0]"


def test_json_lines(tmp_path) -> None:
    cup = lambda numbers: {"category": "cup", "bbox": numbers}
    rows = [
        {"id": "a", "image": "a.jpg", "captions": ["x y"], "instances": [cup([0, 0.25, 1.02, 0.5])]},
        {"image": "dir/b.png", "width": 10, "height": 20, "captions": "one", "instances": [cup([1, 2, 5, 4])]},
        {"id": "c", "captions": [], "instances": [cup([1, 2, 5, 4])]},
        {"id": "a", "captions": ["again"]},
        {"captions": ["of nothing"]},
        {"id": "d", "captions": {"a": 1}},
        {"id": "e"},
    ]  # fmt: skip
    text = "\n".join(map(json.dumps, rows)) + '\n"just text"\n{"id": \n'
    pool, rejected = fill(tmp_path, jsonl=text)
    a, b, c, e = pool.read()
    assert (a.id, list(map(str, a.boxes))) == ("a", ["cup: [0.0, 0.25, 1.0, 0.5]"])
    assert (b.id, b.image, b.captions) == ("b", "dir/b.png", ("one",))
    assert list(map(str, b.boxes)) == ["cup: [0.1, 0.1, 0.5, 0.2]"]
    assert c.faults == {"a box in pixels of a picture whose size is not known": 1}
    assert subjects.of_picture(c) == subjects.of_picture(e) == "neither captions nor boxes"
    assert {item.reason for item in rejected} == {
        "an id that another record has already", "neither id nor image", "captions is no list",
        "element is not JSON", "line is not an object",
    }  # fmt: skip


def test_of_too_many_boxes_the_largest_stay_in_their_order() -> None:
    boxes = [("cup", [0, 0, 0.001 * n, 0.5], "fractions") for n in (500, 300, 900, 100, 700)]
    one = symbolic.describe("a", "a.jpg", [], boxes, most_boxes=3)
    assert [box.x2 for box in one.boxes] == [0.5, 0.9, 0.7]
    assert one.faults == {"a box beyond the 3 largest": 2}
    assert len(symbolic.describe("a", "", [], boxes * 1000).boxes) == symbolic.MOST_BOXES


numbers = st.one_of(st.floats(), st.integers(), st.text(max_size=3), st.none())


@given(st.one_of(st.lists(numbers, max_size=5), numbers), st.sampled_from(["fractions", "corners", "sides"]),
       st.one_of(st.none(), st.floats(1, 5000)), st.one_of(st.text(), st.none()))  # fmt: skip
def test_a_box_is_sound_or_has_a_reason(values, form, size, category) -> None:
    box = symbolic.box(category, values, form, size, size)
    if isinstance(box, str):
        assert box.startswith("a box")
    else:
        assert 0 <= box.x1 < box.x2 <= 1
        assert 0 <= box.y1 < box.y2 <= 1
        assert box.category.strip()
        symbolic.is_outside(tuple(values), form, size, size)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["images", "annotations", "info", "x"]), st.lists(json_values) | json_values),
       st.sampled_from([1, 2, 7, 64]), st.sampled_from([None, 1]))  # fmt: skip
def test_members_of_any_object_are_read_whatever_the_chunks(tmp_path_factory, content, chunk, indent) -> None:
    path = tmp_path_factory.mktemp("members") / "x.json"
    path.write_text(json.dumps(content, indent=indent))
    original, lines._CHUNK = lines._CHUNK, chunk
    try:
        found = list(members.read(path, ("images", "annotations")))
    finally:
        lines._CHUNK = original
    wanted = [
        (name, f"{path}:{name}/{index}", value)
        for name, values in content.items()
        if name in ("images", "annotations") and isinstance(values, list)
        for index, value in enumerate(values)
    ]
    assert found == wanted


def test_broken_objects_are_told(tmp_path) -> None:
    whole = json.dumps({"images": [{"id": 1}, {"id": 2}], "annotations": [{"id": 3}]})
    path = tmp_path / "x.json.gz"
    reasons = set()
    for end in range(len(whole)):
        path.write_bytes(gzip.compress(whole[:end].encode()))
        found = list(members.read(path, ("images", "annotations")))
        bad = [item for item in found if isinstance(item, Rejected)]
        assert len(bad) == 1
        assert found[: len(found) - 1] == [item for item in found if not isinstance(item, Rejected)]
        reasons.add(bad[0].reason)
    assert len(reasons) > 2
    path.write_bytes(gzip.compress(whole.encode())[:-10])
    assert (
        "compressed file is broken"
        in [i.reason for i in members.read(path, ()) if isinstance(i, Rejected)][-1]
    )
    path.write_bytes(gzip.compress(whole.replace('{"id": 1}', '{"id": oops}').encode()))
    kinds = [
        item.reason if isinstance(item, Rejected) else item[2]
        for item in members.read(path, ("images", "annotations"))
    ]
    assert kinds == ["element is not JSON", {"id": 2}, {"id": 3}]


def test_prompt_folders(tmp_path) -> None:
    def fails(text: str) -> None:
        with pytest.raises(UserError, match=text):
            prompts.load(tmp_path, ("conversation",))

    (tmp_path / "conversations").mkdir()
    fails("no folder 'conversation' .* Did you mean 'conversations'")
    folder = (tmp_path / "conversations").rename(tmp_path / "conversation")
    fails("system_message.txt: no such file")
    (folder / "system_message.txt").write_text("Talk.\n")
    (folder / "000_caps.txt").write_text("A cup.")
    fails("000_conv.txt: is missing")
    (folder / "000_conv.txt").write_text(" \n")
    fails("000_conv.txt: is empty")
    (folder / "000_conv.txt").write_text("Question: ...")
    found = prompts.load(tmp_path, ("conversation",))["conversation"]
    assert found.messages("A dog.") == (
        ("system", "Talk."), ("user", "A cup."), ("assistant", "Question: ..."), ("user", "A dog.")
    )  # fmt: skip


@needs_real
def test_the_release_reads_as_it_is_written(tmp_path) -> None:
    pool = Pool(tmp_path / "pool")
    assert list(readers.jsonl(REAL / "caps_boxes_coco2014_val.jsonl", pool)) == []
    pool.finish()
    rows = {
        row["id"]: row
        for row in map(json.loads, (REAL / "caps_boxes_coco2014_val.jsonl").read_text().splitlines())
    }
    found = list(pool.read())
    assert len(found) == 40
    for one in found:
        row = rows[one.id]
        told = "\n".join([*(" ".join(c.split()) for c in row["captions"]), "", *(
            f"{box['category']}: {box['bbox']}" for box in row["instances"]
        )])  # fmt: skip
        assert one.text(boxes=True) == told.strip()
        assert not one.faults


def _coco(path: Path, value: str | dict) -> tuple[Pool, list[Rejected]]:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    pool = Pool(path.with_suffix(".sqlite"))
    rejected = list(readers.coco(path, pool))
    pool.finish()
    return pool, rejected


def test_a_picture_says_from_which_file_it_is(tmp_path) -> None:
    pool, _ = _coco(
        tmp_path / "captions.json", {"images": [{"id": 7, "file_name": "7.jpg"}], "annotations": []}
    )
    assert [one.origin for one in pool.read()] == ["captions.json:0"]


def test_of_two_with_one_id_in_a_file_the_first_stays_and_the_other_is_named(tmp_path) -> None:
    value = {
        "images": [{"id": 7, "file_name": "7.jpg"}, {"id": 7, "file_name": "8.jpg"}],
        "annotations": [{"image_id": 7.5, "caption": "Of nothing."}, {"image_id": 7.0, "caption": "A cup."}],
        "categories": [{"id": 3, "name": "cup"}, {"id": 3, "name": "dog"}],
    }
    pool, rejected = _coco(tmp_path / "a.json", value)
    another = "an id that another record has already"
    assert [(one.origin.rpartition(":")[2], one.reason) for one in rejected] == [
        ("1", f"images: {another}"),
        ("0", "annotations: no image_id"),
        ("1", f"categories: {another}"),
    ]
    (one,) = pool.read()
    assert (one.image, one.captions) == ("7.jpg", ("A cup.",))
    assert len(list(readers.coco(tmp_path / "a.json", pool, 1))) == 3, "another file may list it too"


def test_ids_that_look_like_numbers_in_words_stay_apart(tmp_path) -> None:
    rows = [
        {"id": name, "file_name": f"{number}.jpg"} for number, name in enumerate(("1e3", "1000", "1_000"))
    ]
    pool, rejected = _coco(tmp_path / "a.json", {"images": rows, "annotations": []})
    assert rejected == []
    assert [one.id for one in pool.read()] == ["000000001000", "1_000", "1e3"]


def test_a_broken_last_element_costs_the_next_list_nothing(tmp_path) -> None:
    text = (
        '{"images": [{"id": 7, "file_name": "7.jpg"}, {"id": 8, "file_name": nul}], '
        '"annotations": [{"image_id": 7, "caption": "A cup."}]} {"images": []}'
    )
    pool, rejected = _coco(tmp_path / "a.json", text)
    assert [one.reason for one in rejected] == [
        "element is not JSON",
        "text after the end of the JSON object",
    ]
    assert [one.captions for one in pool.read()] == [("A cup.",)]


@pytest.mark.parametrize("broken", ['{"id": "b", "image": nul}', '{"id": "b"}]', 'x"id": "b"}'])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_broken_line_costs_no_other_whatever_key_it_begins_with(tmp_path, broken, is_first) -> None:
    path, pool = tmp_path / "a.jsonl", Pool(tmp_path / "p.sqlite")
    sound = ['{"captions": ["A cup."], "id": "a"}', '{"instances": [], "image": "c.jpg"}']
    path.write_text("\n".join([broken, *sound] if is_first else [sound[0], broken, sound[1]]) + "\n")
    rejected = list(readers.jsonl(path, pool))
    pool.finish()
    assert [one.reason for one in rejected if one.reason != "neither id nor image"]
    assert {"a", "c"} <= {one.id for one in pool.read()}


def test_a_prompt_that_is_a_folder_is_said_in_one_line(tmp_path) -> None:
    (tmp_path / "conversation/system_message.txt").mkdir(parents=True)
    with pytest.raises(UserError, match=r"system_message\.txt: cannot be read \(Is a directory\)"):
        prompts.load(tmp_path, ["conversation"])
