"""Records go to disk and come back equal, without TensorFlow, in an order that only the data decides."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from input_pipeline import records
from input_pipeline.errors import UserError
from input_pipeline.types import Clip, Record, Turn


def _records(count: int) -> list[Record]:
    return [
        Record(
            id=f"é{i}",
            task="behavior",
            images=tuple(bytes([0, 255, i, k]) * 50 for k in range(i % 3)),
            conversations=(Turn("human", "<image>\n" * (i % 3) + "wie geht’s? 👍"), Turn("gpt", f'"{i}"\n')),
            meta={"like_rate": None if i % 2 else 0.5, "comments": ["a", "ü"], "title": ""},
            clips=(Clip(0, (0.0, 1.5)),) if i % 3 == 2 else (),
        )
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "records"
    assert records.write({"behavior_train": _records(20), "text_train": _records(3)}, path) == {
        "behavior_train": 20,
        "text_train": 3,
    }
    return path


def test_everything_comes_back(folder: Path) -> None:
    source = records.open_split(folder, "behavior_train")
    assert len(source) == 20
    assert list(source) == _records(20)
    assert source[-1] == source[19]
    assert source[2:4] == [source[2], source[3]]
    with pytest.raises(IndexError):
        source[20]


def test_data_sets_without_clips_are_still_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 1.1.0 had the files of videos in place of clips."""
    old = {"id": "a", "task": "instruct", "images": [b"x"], "videos": [], "conversations": "[]", "meta": "{}"}
    features = records._features()
    text = {name: feature for name, feature in features.items() if name != "clips"}
    monkeypatch.setattr(
        records, "_features", lambda: tfds.features.FeaturesDict(text | {"videos": features["images"]})
    )
    monkeypatch.setattr(records, "to_example", lambda record: old)
    monkeypatch.setattr(records.Records, "VERSION", tfds.core.Version("1.1.0"))
    records.write({"a_train": [Record("a", "", (), ())]}, tmp_path / "old")
    monkeypatch.undo()
    assert (tmp_path / "old/records/1.1.0").is_dir()
    assert list(records.open_split(tmp_path / "old", "a_train")) == [Record("a", "instruct", (b"x",), ())]


def test_the_source_pickles(folder: Path) -> None:
    source = records.open_split(folder, "behavior_train")
    first = source[0]
    data = pickle.dumps(source)
    assert len(data) < 1000
    assert pickle.loads(data)[0] == first


def test_splits_and_folders(folder: Path) -> None:
    assert records.splits(folder) == {"behavior_train": 20, "text_train": 3}
    assert records.splits(folder.parent) == records.splits(folder)
    with pytest.raises(UserError, match=r"no split 'behavior_trian'. Did you mean 'behavior_train'"):
        records.open_split(folder, "behavior_trian")
    with pytest.raises(UserError, match="no prepared data here"):
        records.open_split(folder.parent.parent, "behavior_train")
    # A split of another data set.
    named = f"{folder}:behavior_train"
    assert len(records.open_split("/nowhere", named)) == len(records.open_split(folder, "behavior_train"))
    assert records.data_hash("/nowhere", named) == records.data_hash(folder, "behavior_train")


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """The two files of a split."""
    parts = []
    for name, items in (("0", _records(7)), ("1", _records(20)[7:])):
        with records.ShardWriter(tmp_path, name) as writer:
            for record in items:
                writer.add("s_train", record)
        parts.append((tmp_path / f"s_train.{name}", *writer.sizes["s_train"]))
    records.finish({"s_train": parts}, tmp_path / "records")
    return sorted((tmp_path / "records").rglob("*array_record-0*"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda whole: None, "is missing"),
        (lambda whole: whole[: len(whole) // 2], "is cut short or damaged"),
        (lambda whole: whole[:-10], "is cut short or damaged"),
        (lambda whole: b"", "is cut short or damaged"),
        (lambda whole: b"<html>" * 20_000, "is cut short or damaged"),
    ],
)
def test_a_shard_that_is_not_whole_is_named_when_the_split_is_opened(
    shards: list[Path], spoil, message: str
) -> None:
    whole = shards[1].read_bytes()
    shards[1].unlink()  # not written over: its other name is the same file
    data = spoil(whole)
    if data is not None:
        shards[1].write_bytes(data)
    with pytest.raises(
        UserError, match=rf"s_train.array_record-00001-of-00002: .*{message}.*prepare"
    ) as caught:
        records.open_split(shards[1].parent, "s_train")
    assert "\n" not in str(caught.value)


def test_a_shard_of_another_data_set_is_named(shards: list[Path]) -> None:
    first = shards[0].read_bytes()
    shards[1].unlink()
    shards[1].write_bytes(first)
    with pytest.raises(UserError, match=r"-00001-of-00002: .* holds 7 records and the data set says 13"):
        records.open_split(shards[1].parent, "s_train")


def test_a_record_that_cannot_be_read_is_named_with_its_file(shards: list[Path]) -> None:
    data = bytearray(shards[1].read_bytes())
    data[1000:1064] = bytes(64)
    shards[1].unlink()
    shards[1].write_bytes(data)
    source, good, bad = records.open_split(shards[1].parent, "s_train"), 0, 0
    for number, record in enumerate(_records(20)):
        try:
            assert source[number] == record
            good += 1
        except UserError as error:
            start = f"{shards[1]}: record {number} of split s_train cannot be read"
            assert str(error).startswith(start)
            bad += 1
    assert good >= 17
    assert bad


def test_order_and_hash_are_functions_of_the_data(folder: Path, tmp_path: Path) -> None:
    ours = _records(20)
    records.write({"behavior_train": ours}, tmp_path / "again")
    assert list(records.open_split(tmp_path / "again", "behavior_train")) == ours
    digest = records.data_hash(folder, "behavior_train")
    assert records.data_hash(tmp_path / "again", "behavior_train") == digest
    records.write({"behavior_train": [*ours[:-1], ours[0]]}, tmp_path / "other")
    assert records.data_hash(tmp_path / "other", "behavior_train") != digest


def test_the_hash_is_the_same_in_every_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from input_pipeline import records\n"
        "from tests.input_pipeline.test_records import _records\n"
        "records.write({'s': _records(5)}, Path(sys.argv[1]))\n"
        "print(records.data_hash(sys.argv[1], 's'))\n"
    )
    root = Path(__file__).parents[2]
    digests = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / seed)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            cwd=root,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(digests) == 1


def test_shards_of_several_writers_are_one_split(tmp_path: Path) -> None:
    parts = []
    for name, items in (("0", _records(7)), ("1", _records(20)[7:])):
        with records.ShardWriter(tmp_path, name) as writer:
            for record in items:
                writer.add("s_train", record)
        parts.append((tmp_path / f"s_train.{name}", *writer.sizes["s_train"]))
    assert records.finish({"s_train": parts}, tmp_path / "records") == {"s_train": 20}
    assert list(records.open_split(tmp_path / "records", "s_train")) == _records(20)
    # What TFDS itself says of the folder, without any of our code.
    info = tfds.builder_from_directory(str(tmp_path / "records/records/1.2.0")).info
    assert info.splits["s_train"].shard_lengths == [7, 13]


def test_a_shard_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), records.ShardWriter(tmp_path, "0") as writer:
        writer.add("s_train", _records(1)[0])
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_reading_imports_neither_tensorflow_nor_beam(folder: Path) -> None:
    code = (
        "import sys; from input_pipeline import records\n"
        f"print(len(records.open_split({str(folder)!r}, 'behavior_train')[0].conversations))\n"
        "print([m for m in ('tensorflow', 'torch', 'jax', 'apache_beam') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.splitlines() == ["2", "[]"]


def test_writing_says_nothing_and_needs_no_tensorflow(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from input_pipeline import records\n"
        "from input_pipeline.types import Record, Turn\n"
        "r = Record('a', 't', (b'x',), (Turn('gpt', 'x'),), {})\n"
        f"records.write({{'s': [r]}}, Path({str(tmp_path / 'r')!r}))\n"
        "assert not {'tensorflow', 'torch', 'jax'} & set(sys.modules)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert (done.stdout, done.stderr) == ("", "")
