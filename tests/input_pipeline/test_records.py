"""Records go to disk and come back equal, without TensorFlow, in an order that only the data decides."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from input_pipeline import records
from input_pipeline.behavior.engine import beam
from input_pipeline.errors import UserError
from input_pipeline.types import Record, Turn


def _records(count: int) -> list[Record]:
    return [
        Record(
            id=f"é{i}",
            task="behavior",
            images=tuple(bytes([0, 255, i, k]) * 50 for k in range(i % 3)),
            conversations=(Turn("human", "<image>\n" * (i % 3) + "wie geht’s? 👍"), Turn("gpt", f'"{i}"\n')),
            meta={"like_rate": None if i % 2 else 0.5, "comments": ["a", "ü"], "title": ""},
        )
        for i in range(count)
    ]


def _write(folder: Path, **splits: list[Record]) -> dict[str, int]:
    return records.write(
        {
            name: beam.Create([(f"{n}", record) for n, record in enumerate(items)])
            for name, items in splits.items()
        },
        folder,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "records"
    assert _write(path, behavior_train=_records(20), text_train=_records(3)) == {
        "behavior_train": 20,
        "text_train": 3,
    }
    return path


def test_everything_comes_back(folder: Path) -> None:
    source = records.open_split(folder, "behavior_train")
    assert len(source) == 20
    assert sorted(source, key=lambda r: int(r.id[1:])) == _records(20)
    assert source[-1] == source[19]
    assert source[2:4] == [source[2], source[3]]
    with pytest.raises(IndexError):
        source[20]


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


def test_order_and_hash_are_functions_of_the_data(folder: Path, tmp_path: Path) -> None:
    shuffled = _records(20)
    keyed = list(enumerate(shuffled))[::-1]
    records.write({"behavior_train": beam.Create([(str(n), r) for n, r in keyed])}, tmp_path / "again")
    ours = records.open_split(folder, "behavior_train")
    assert list(records.open_split(tmp_path / "again", "behavior_train")) == list(ours)
    assert records.data_hash(tmp_path / "again", "behavior_train") == records.data_hash(
        folder, "behavior_train"
    )
    other = [*shuffled[:-1], shuffled[0]]
    _write(tmp_path / "other", behavior_train=other)
    assert records.data_hash(tmp_path / "other", "behavior_train") != records.data_hash(
        folder, "behavior_train"
    )


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
        "from input_pipeline.behavior.engine import beam\n"
        "from input_pipeline.types import Record, Turn\n"
        "r = Record('a', 't', (b'x',), (Turn('gpt', 'x'),), {})\n"
        f"records.write({{'s': beam.Create([('a', r)])}}, Path({str(tmp_path / 'r')!r}))\n"
        "assert not {'tensorflow', 'torch', 'jax'} & set(sys.modules)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert (done.stdout, done.stderr) == ("", "")
