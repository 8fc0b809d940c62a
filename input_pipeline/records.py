"""The one on-disk schema: a TFDS data set of instruction records in ArrayRecord files, without TensorFlow.

A record holds its images as the encoded files they came as, and its turns and meta as JSON text. TFDS
4.9.10 writes (through Beam) and reads such features with numpy and protobuf alone. The order inside a split
is TFDS's hash of the records' keys: a function of the data, not of the run.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.errors import UserError, nearest
from input_pipeline.types import Record, Turn

if TYPE_CHECKING:  # Beam is slow to import, and who reads records does not need it
    from apache_beam import PTransform

    from input_pipeline.behavior.engine import Engine

HASHES = "hashes.json"


class Records(tfds.core.GeneratorBasedBuilder):
    """Instruction records; one TFDS split per (arm, train or heldout)."""

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded. TFDS would look for checksums with a package that it does not declare.
    url_infos = None

    def __init__(self, generators: Mapping[str, PTransform] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._generators = dict(generators or {})

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        encoded = tfds.features.Tensor(shape=(), dtype=np.object_)  # bytes, never decoded by TFDS
        features = tfds.features.FeaturesDict(
            {
                "id": text,
                "task": text,
                "images": tfds.features.Sequence(encoded),
                "conversations": text,  # JSON: [[role, text], ...]
                "meta": text,  # JSON object
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, PTransform]:
        from input_pipeline.behavior.engine import beam

        del dl_manager
        to_examples = beam.MapTuple(lambda key, record: (key, to_example(record)))
        return {
            split: generator | f"Examples {split}" >> to_examples
            for split, generator in self._generators.items()
        }

    def _generate_examples(self) -> Iterator[Any]:
        raise NotImplementedError  # the Beam transforms do it


def to_example(record: Record) -> dict[str, Any]:
    """Returns the record in the fields of the schema."""
    return {
        "id": record.id,
        "task": record.task,
        "images": list(record.images),
        "conversations": json.dumps([[t.role, t.text] for t in record.conversations], ensure_ascii=False),
        "meta": json.dumps(record.meta, ensure_ascii=False, sort_keys=True),
    }


def from_example(example: Mapping[str, Any]) -> Record:
    """Returns the record that `to_example` wrote."""
    return Record(
        id=example["id"].decode(),
        task=example["task"].decode(),
        images=tuple(bytes(image) for image in example["images"]),
        conversations=tuple(Turn(role, text) for role, text in json.loads(example["conversations"])),
        meta=json.loads(example["meta"]),
    )


def write(splits: Mapping[str, PTransform], folder: Path, engine: Engine | None = None) -> dict[str, int]:
    """Writes splits and returns their lengths.

    Args:
        splits: by name, each a transform of a pipeline into (unique key, Record) pairs; none may be empty.
        folder: created; must not hold a data set yet.
        engine: where Beam runs.
    """
    from input_pipeline.behavior.engine import Engine

    engine = engine or Engine()
    tfds.disable_progress_bar()
    builder = Records(splits, data_dir=str(folder))
    # TFDS announces sizes and folders on stdout, which belongs to our own command line's report.
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(
                beam_runner=engine.instance(), beam_options=engine.options()
            ),
        )
    version = _version_folder(folder)
    hashes = {split: _hash_files(version, split) for split in splits}
    (version / HASHES).write_text(json.dumps(hashes, indent=1, sort_keys=True))
    return {name: info.num_examples for name, info in sorted(builder.info.splits.items())}


class RecordSource(Sequence[Record]):
    """A split as a random-access sequence of records. It pickles to its path, for Grain's workers."""

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split = folder, split

    @functools.cached_property
    def _source(self) -> Any:
        return tfds.builder_from_directory(str(self.folder)).as_data_source(self.split)  # pyright: ignore

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "split": self.split}

    @functools.cached_property
    def _length(self) -> int:
        return len(self._source)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = int(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} in {self.split}")
        return from_example(self._source[index % len(self)])

    def __repr__(self) -> str:
        return f"RecordSource({str(self.folder)!r}, {self.split!r})"


def open_split(data_dir: str | Path, split: str) -> RecordSource:
    """Opens a split, such as 'behavior_train', of a prepared data set.

    Args:
        data_dir: what `prepare` wrote, or its 'records' folder.
        split: its name; an unknown one is a UserError that lists the others.
    """
    folder = _version_folder(Path(data_dir))
    known = _lengths(folder)
    if split not in known:
        raise UserError(f"{data_dir}: no split {split!r}.{nearest(split, known)}")
    return RecordSource(folder, split)


def splits(data_dir: str | Path) -> dict[str, int]:
    """Returns the splits of a prepared data set with their lengths."""
    return _lengths(_version_folder(Path(data_dir)))


def data_hash(data_dir: str | Path, split: str) -> str:
    """Returns a hex digest of a split's files: equal for equal records, on any machine."""
    folder = _version_folder(Path(data_dir))
    open_split(folder, split)  # for its error
    stored = folder / HASHES
    hashes = json.loads(stored.read_text()) if stored.exists() else {}
    return hashes.get(split) or _hash_files(folder, split)


def _lengths(folder: Path) -> dict[str, int]:
    info = tfds.builder_from_directory(str(folder)).info
    return {name: split.num_examples for name, split in sorted(info.splits.items())}


def _version_folder(path: Path) -> Path:
    """Finds the folder with dataset_info.json in or under `path`."""
    name, version = Records.name, str(Records.VERSION)
    for folder in (path, path / name / version, path / "records" / name / version):
        if (folder / "dataset_info.json").is_file():
            return folder
    raise UserError(f"{path}: no prepared data here; run `jaxllava prepare` and give its output folder")


def _hash_files(folder: Path, split: str) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob(f"{Records.name}-{split}.array_record-*")):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()
