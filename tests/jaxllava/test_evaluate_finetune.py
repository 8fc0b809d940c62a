"""A benchmark's training split as records that `train` takes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from input_pipeline import records
from input_pipeline.errors import UserError
from input_pipeline.video import ENDS_EARLY
from jaxllava.evaluate.finetune import prepare
from jaxllava.evaluate.tasks.task import Choose, Finetune, Item, Rejected, Task
from tests.conftest import png
from tests.input_pipeline.test_video import film

MOODS = ("joy", "fear")


def load(folder: Path, split: str):
    for number in range(40):
        video = number % 4 == 3
        path = folder / (f"{number}.npy" if video else f"{number}.png")
        yield Item(f"i{number}", "Which mood is it?", (path,), MOODS[number % 2])
    yield Rejected("labels.txt:41", "an unknown label")


TASK = Task(
    name="moods", family="toys", title="Moods", metric="top-1, %", folder="moods",
    needs={"test": ("labels.txt",), "train": ("labels.txt",)}, get="Make it.", load=load, protocol=Choose(MOODS),
    score=None, tested="fixture", finetune=Finetune(lambda item: item.truth),
)  # fmt: skip


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "data" / "moods"
    folder.mkdir(parents=True)
    (folder / "labels.txt").write_text("")
    for number in range(40):
        if number % 4 == 3:
            np.save(folder / f"{number}.npy", np.full((5, 3, 16, 16), number, np.uint8))
        else:
            (folder / f"{number}.png").write_bytes(png(number))
    return folder.parent


def rows(out: Path, split: str) -> list:
    source = records.open_split(out / "records", split)
    return [source[i] for i in range(len(source))]


def test_records_are_the_questions_that_are_asked(root, tmp_path):
    summary = prepare(TASK, root, tmp_path / "out", frames=2)
    train, held = rows(tmp_path / "out", "instruct_train"), rows(tmp_path / "out", "instruct_heldout")
    assert summary["splits"] == {"instruct_train": 38, "instruct_heldout": 2} == {
        "instruct_train": len(train), "instruct_heldout": len(held),
    }  # fmt: skip
    assert {r.id for r in train} | {r.id for r in held} == {f"i{n}" for n in range(40)}
    for record in train:
        number = int(record.id[1:])
        frames = 2 if number % 4 == 3 else 1
        question, answer = record.conversations
        assert (
            question.text == "<image>\n" * frames + "Which mood is it?" and answer.text == MOODS[number % 2]
        )
        assert len(record.images) == frames
        if frames == 1:
            assert record.images[0] == png(number)  # as it came, not encoded again
    assert json.loads((tmp_path / "out" / "quarantine.jsonl").read_text())["where"] == "labels.txt:41"


def test_a_smaller_share_is_part_of_a_larger(root, tmp_path):
    ids = {}
    for share in (0.25, 0.5, 1.0):
        prepare(TASK, root, tmp_path / str(share), fraction=share, heldout=0)
        ids[share] = {r.id for r in rows(tmp_path / str(share), "instruct_train")}
    assert ids[0.25] < ids[0.5] < ids[1.0] and [len(ids[s]) for s in ids] == [10, 20, 40]


def test_what_cannot_be_used_is_named(root, tmp_path):
    (root / "moods" / "0.png").unlink()
    summary = prepare(TASK, root, tmp_path / "out")
    assert summary["unusable"] == 1 and summary["used"] == 39
    assert "0.png: no such file" in (tmp_path / "out" / "quarantine.jsonl").read_text()
    for number in (1, 2, 4):
        (root / "moods" / f"{number}.png").unlink()
    with pytest.raises(UserError, match="4 of 40 training questions cannot be used"):
        prepare(TASK, root, tmp_path / "more")


def test_faults_of_a_video_that_is_used_are_named(root, tmp_path):
    whole = film(tmp_path / "a.mkv", 12, gop=1).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    cut, none = tmp_path / "cut.mkv", tmp_path / "none.png"

    def load_one_more(folder: Path, split: str):
        yield from load(folder, split)
        yield Item("cut", "Which mood is it?", (cut,), "joy")
        yield Item("half", "Which mood is it?", (cut, none), "joy")

    made = prepare(dataclasses.replace(TASK, load=load_one_more), root, tmp_path / "out", 4)
    named = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert [row["where"] for row in named if row["reason"] == f"used, but: {ENDS_EARLY}"] == ["cut"]
    assert (made["faulty"], made["unusable"]) == (1, 1), "of a question that is left out no fault counts"


def test_mistakes_are_one_line(root, tmp_path):
    with pytest.raises(UserError, match="no training split"):
        prepare(Task(**{**vars(TASK), "finetune": None}), root, tmp_path / "out")
    with pytest.raises(UserError, match="--fraction 0"):
        prepare(TASK, root, tmp_path / "out", fraction=0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("")
    with pytest.raises(UserError, match="is not empty"):
        prepare(TASK, root, tmp_path / "full")
