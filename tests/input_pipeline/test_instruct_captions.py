"""Captions for stage 1: every record is a pair or is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from input_pipeline.errors import UserError
from input_pipeline.instruct import captions, plan
from input_pipeline.instruct.captions import Caption
from input_pipeline.sources import llava_json
from input_pipeline.sources.rejected import Rejected
from tests.conftest import png


def _read(path: Path, *rows: object) -> list[Caption | Rejected]:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return list(captions.read([path]))


def test_no_record_is_passed_over(tmp_path) -> None:
    found = _read(
        tmp_path / "a.jsonl",
        {"image": "a.jpg", "captions": []},
        {"image": "b.jpg", "captions": ["A cup.", None]},
        {"image": "c.jpg", "caption": "An <image> of it."},
    )
    assert [one.text if isinstance(one, Caption) else one.reason for one in found] == [
        "no caption",
        "A cup.",
        "no caption",
        "<image> in a caption",
    ]


def test_a_broken_line_costs_no_other_whatever_key_it_begins_with(tmp_path) -> None:
    found = _read(
        tmp_path / "a.jsonl",
        '{"image": "a.jpg", "caption": nul}',
        {"caption": "A cup.", "image": "b.jpg"},
        {"blip_caption": "A dog.", "image": "c.jpg"},
    )
    assert [one.text if isinstance(one, Caption) else one.reason for one in found] == [
        "element is not JSON",
        "A cup.",
        "A dog.",
    ]


@pytest.mark.parametrize("kind", ["captions", "instruct"])
def test_no_picture_is_taken_from_outside_the_folder(tmp_path, kind) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "secret.png").write_bytes(png(0))
    (tmp_path / "images/a.png").write_bytes(png(1))
    names = ["../secret.png", str(tmp_path / "secret.png"), "a.png"]
    file = tmp_path / "a.jsonl"
    rows = [
        {"id": str(n), "image": name, "caption": "A cup.", "captions": ["A cup."]}
        for n, name in enumerate(names)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    work = tmp_path / "work"
    work.mkdir()
    if kind == "captions":
        recipe = captions.Recipe((str(file),), str(tmp_path / "images"), max_bad_fraction=1.0)
        summary = captions.make(recipe, work, work)
        told = summary["not_used"]
        assert summary["splits"] and sum(summary["splits"].values()) == 1
    else:
        recipe = plan.Recipe(jsonl=(str(file),), images=str(tmp_path / "images"), max_bad_fraction=1.0)
        told = plan.Plan(recipe, work).survey(work / "quarantine.jsonl").rejected
    assert told == {llava_json.OUTSIDE: 2}


def test_a_share_of_the_pictures_is_no_share_of_what_is_wrong_with_the_file(tmp_path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(['{"id": "a", "captions": ["A cup."]}', *["5"] * 9]))
    asked = set()
    for seed in range(12):
        recipe = plan.Recipe(jsonl=(str(file),), share=0.5, max_bad_fraction=1.0, seed=seed)
        try:
            found = plan.Plan(recipe, tmp_path).survey(tmp_path / "quarantine.jsonl")
        except UserError as error:
            asked.add(False)
            assert "9 records: line is not an object" in str(error)
        else:
            asked.add(bool(found.asked))
            assert found.rejected.total() == 9
    assert len(asked) == 2, "the picture is in some shares alone"
