"""The one on-disk schema: a TFDS data set of instruction records in ArrayRecord files, without TensorFlow.

A record holds its images (and its videos' frames) as encoded files, and its turns, clips and meta as JSON text. TFDS
4.9.10 serializes and reads such features with numpy and protobuf alone. Whoever makes records writes shards
of them (`ShardWriter`, any number at once), and `finish` makes the shards one data set. TFDS's own writers
would hold all records in memory, or pass them through one process.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from etils import epath
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.core.splits import SplitDict

from input_pipeline.errors import UserError, in_one_line, nearest
from input_pipeline.partial import partial_of
from input_pipeline.types import Clip, Record, Turn

HASHES = "hashes.json"
OLDER = ("1.1.0",)  # versions that are read too


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Nothing of ours lies in TFDS's bucket, and looking there leaves an empty folder behind each time."""


class Records(tfds.core.GeneratorBasedBuilder):
    """Instruction records; one TFDS split per (arm, train or heldout)."""

    VERSION = tfds.core.Version("1.2.0")
    # Nothing is downloaded. TFDS would look for checksums with a package that it does not declare.
    url_infos = None

    def _info(self) -> tfds.core.DatasetInfo:
        return _Info(builder=self, features=_features())

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        raise UserError("the data set 'records' is written by `jaxllava prepare`, not by TFDS")

    def _generate_examples(self) -> Iterator[Any]:
        raise UserError("the data set 'records' is written by `jaxllava prepare`, not by TFDS")


def _features() -> tfds.features.FeaturesDict:
    text = tfds.features.Text()
    encoded = tfds.features.Tensor(shape=(), dtype=np.object_)  # bytes, never decoded by TFDS
    return tfds.features.FeaturesDict(
        {
            "id": text,
            "task": text,
            "images": tfds.features.Sequence(encoded),
            "clips": text,  # JSON: [[first image, [seconds or null, ...]], ...]
            "conversations": text,  # JSON: [[role, text], ...]
            "meta": text,  # JSON object
        }
    )


def to_example(record: Record) -> dict[str, Any]:
    """Returns the record in the fields of the schema."""
    return {
        "id": record.id,
        "task": record.task,
        "images": list(record.images),
        "clips": json.dumps([[clip.first, [_or_null(t) for t in clip.times]] for clip in record.clips]),
        "conversations": json.dumps([[t.role, t.text] for t in record.conversations], ensure_ascii=False),
        "meta": msgspec.json.encode(record.meta, order="sorted").decode(),
    }


def _or_null(time: float) -> float | None:
    return None if math.isnan(time) else round(time, 6)


def from_example(example: Mapping[str, Any]) -> Record:
    """Returns the record that `to_example` wrote, here or in version 1.1.0, which had no clips."""
    clips = json.loads(example["clips"]) if "clips" in example else []
    if len(example.get("videos", ())):
        raise ValueError("it holds a video's file, as an older version wrote it; prepare the data set again")
    if not all(times for _, times in clips):
        raise ValueError("it has a clip without frames")
    return Record(
        id=example["id"].decode(),
        task=example["task"].decode(),
        images=tuple(bytes(image) for image in example["images"]),
        conversations=tuple(Turn(role, text) for role, text in json.loads(example["conversations"])),
        meta=json.loads(example["meta"]),
        clips=tuple(
            Clip(first, tuple(math.nan if time is None else time for time in times)) for first, times in clips
        ),
    )


class ShardWriter:
    """Writes one shard of each split that gets a record: '<split>.<name>' in a folder.

    Use it as a context manager; on an error nothing is left.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._features = _features()
        self._serializer = ExampleSerializer(self._features.get_serialized_info())  # pyright: ignore
        self._writers: dict[str, Any] = {}
        self.sizes: dict[str, tuple[int, int]] = {}  # {split: (records, bytes)}

    def add(self, split: str, record: Record) -> None:
        """Adds a record to a split's shard."""
        example = self._serializer.get_tf_example(self._features.encode_example(to_example(record)))
        # Otherwise the order of the fields, and with it `data_hash`, would change from process to process.
        data = example.SerializeToString(deterministic=True)
        writer = self._writers.get(split)
        if writer is None:
            # One record a chunk, as TFDS has it: any other grouping makes random access read whole groups.
            writer = self._writers[split] = ArrayRecordWriter(str(self._partial(split)), "group_size:1")
        writer.write(data)
        count, size = self.sizes.get(split, (0, 0))
        self.sizes[split] = count + 1, size + len(data)

    def _partial(self, split: str) -> Path:
        return partial_of(self._folder / f"{split}.{self._name}")

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for split, writer in self._writers.items():
            writer.close()
            if kind is None:
                self._partial(split).replace(self._folder / f"{split}.{self._name}")
            else:
                self._partial(split).unlink(missing_ok=True)


def finish(shards: Mapping[str, Sequence[tuple[Path, int, int]]], folder: Path) -> dict[str, int]:
    """Makes shards one data set and returns the lengths of its splits. The shards stay where they are as well: who is
    interrupted here can do it again.

    Args:
        shards: by split, in order: (file of a ShardWriter, records in it, their bytes); none may be empty.
        folder: created; must not hold a data set yet.
    """
    builder = Records(data_dir=str(folder), file_format="array_record")
    version = folder / builder.name / str(builder.VERSION)
    version.mkdir(parents=True)
    infos = []
    for split, parts in sorted(shards.items()):
        template = tfds.core.ShardedFileTemplate(
            data_dir=epath.Path(version),
            dataset_name=builder.name,
            split=split,
            filetype_suffix="array_record",
        )
        for index, (path, _, _) in enumerate(parts):
            _link(path, Path(template.sharded_filepath(shard_index=index, num_shards=len(parts))))
        lengths, size = [count for _, count, _ in parts], sum(size for _, _, size in parts)
        infos.append(tfds.core.SplitInfo(split, lengths, size, template))
    builder.info.set_splits(SplitDict(infos))
    builder.info.write_to_directory(version)
    hashes = {split: _hash_files(version, split) for split in shards}
    (version / HASHES).write_text(json.dumps(hashes, indent=1, sort_keys=True))
    return {info.name: sum(info.shard_lengths) for info in infos}


def _link(path: Path, name: Path) -> None:
    """Gives a file a second name, or makes a copy where the file system has no such names."""
    try:
        name.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, name)


def write(splits: Mapping[str, Iterable[Record]], folder: Path) -> dict[str, int]:
    """Writes records that one process has, in the order given, and returns the lengths of the splits."""
    folder.mkdir(parents=True, exist_ok=True)
    with ShardWriter(folder, "0") as writer:
        for split, items in splits.items():
            for record in items:
                writer.add(split, record)
    lengths = finish(
        {split: [(folder / f"{split}.0", *size)] for split, size in writer.sizes.items()}, folder
    )
    for split in writer.sizes:
        (folder / f"{split}.0").unlink()
    return lengths


class RecordSource(Sequence[Record]):
    """A split as a random-access sequence of records. It pickles to its path, for Grain's workers."""

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split = folder, split

    @functools.cached_property
    def _source(self) -> Any:
        return _builder(self.folder).as_data_source(self.split)  # pyright: ignore

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
        index %= len(self)
        try:
            return from_example(self._source[index])
        except (
            Exception
        ) as error:  # of the file, of its bytes, or of what they say: the reader has no class for it
            first_line = str(error).strip().split("\n")[0]
            raise UserError(
                f"{self._shard(index)}: record {index} of split {self.split} cannot be read "
                f"({type(error).__name__}: {first_line}); copy the file again, or prepare the data set again"
            ) from error

    def _shard(self, index: int) -> Path:
        """The file that holds record `index`."""
        info = _builder(self.folder).info.splits[self.split]
        shard = int(np.searchsorted(np.cumsum(info.shard_lengths), index, side="right"))
        return Path(info.filepaths[shard])

    def __repr__(self) -> str:
        return f"RecordSource({str(self.folder)!r}, {self.split!r})"


def open_split(data_dir: str | Path, split: str) -> RecordSource:
    """Opens a split, such as 'behavior_train', of a prepared data set.

    Args:
        data_dir: what `prepare` wrote, or its 'records' folder.
        split: its name; an unknown one is a UserError that lists the others.

    Raises: UserError for a file of the split that is missing, cut short or not of this data set.
    """
    folder = _version_folder(Path(data_dir))
    known = _lengths(folder)
    if split not in known:
        raise UserError(f"{data_dir}: no split {split!r}.{nearest(split, known)}")
    _check_shards(folder, split)
    return RecordSource(folder, split)


def _check_shards(folder: Path, split: str) -> None:
    """Each file of a split must be there, be whole and hold as many records as the data set says."""
    info = _builder(folder).info.splits[split]
    remedy = "copy it from where the data was prepared, or prepare the data set again"
    for path, length in zip(map(Path, info.filepaths), info.shard_lengths, strict=True):
        if not path.is_file():
            raise UserError(f"{path}: this file of split {split} is missing; {remedy}")
        try:
            reader = ArrayRecordReader(str(path))
            try:
                found = reader.num_records()
            finally:
                reader.close()
        except Exception as error:  # the reader's own, of no class of its own
            said = str(error).strip().split("\n")[0] or "it has no end"
            raise UserError(
                f"{path}: this file of split {split} is cut short or damaged ({said}); {remedy}"
            ) from error
        if found != length:
            raise UserError(
                f"{path}: this file of split {split} holds {found} records and the data set says {length}; {remedy}"
            )


def splits(data_dir: str | Path) -> dict[str, int]:
    """Returns the splits of a prepared data set with their lengths."""
    return _lengths(_version_folder(Path(data_dir)))


def data_hash(data_dir: str | Path, split: str) -> str:
    """Returns a hex digest of a split's files: equal for equal records, on any machine."""
    folder = _version_folder(Path(data_dir))
    open_split(folder, split)  # for its error
    stored = folder / HASHES
    try:
        hashes = json.loads(stored.read_text("utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        hashes = None
    known = hashes.get(split) if isinstance(hashes, dict) else None
    return known if isinstance(known, str) and known else _hash_files(folder, split)


def _lengths(folder: Path) -> dict[str, int]:
    info = _builder(folder).info
    return {name: split.num_examples for name, split in sorted(info.splits.items())}


def _builder(folder: Path) -> Any:
    """TFDS's reader of a data set. Raises UserError where what it says of itself cannot be read."""
    try:
        return tfds.builder_from_directory(str(folder))
    except Exception as error:  # protobuf's, JSON's, TFDS's own
        raise UserError(
            f"{folder}: dataset_info.json or features.json cannot be read ({in_one_line(error)}); copy them from where "
            "the data was prepared, or prepare the data set again"
        ) from error


def _version_folder(path: Path) -> Path:
    """Finds the folder with dataset_info.json in or under `path`."""
    name = Records.name
    for version in (str(Records.VERSION), *OLDER):
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
