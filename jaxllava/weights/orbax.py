"""The model folder: config.json, params/ (Orbax), tokenizer/. What `jaxllava train` leaves and
`jaxllava.load` reads.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from transformers import PreTrainedTokenizerFast

from input_pipeline import asker as asker_lib
from input_pipeline.asker import Asker
from input_pipeline.conversation import get_template
from input_pipeline.errors import UserError, in_one_line
from input_pipeline.tokenizer import load_tokenizer, save_tokenizer
from jaxllava.models.clip import ClipConfig
from jaxllava.models.eva import EvaVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.models.siglip import SiglipVisionConfig
from jaxllava.rules import Params, flatten, unflatten
from jaxllava.weights import manifest, tables
from jaxllava.weights.checkpoint import Checkpoint
from jaxllava.weights.folders import whole_folder
from jaxllava.weights.lazy import Leaf, Tensor, is_stacked
from jaxllava.weights.side_files import read_json
from jaxllava.weights.tables import AnyConfig

FORMAT = "jaxllava"
KINDS: dict[str, type[AnyConfig]] = {
    "llava": LlavaConfig,
    "clip": ClipConfig,
    "llama_vid": LlamaVidConfig,
    "siglip": SiglipVisionConfig,
    "eva": EvaVisionConfig,
    "llama": LlamaConfig,
}
CHUNK_BYTES = 64 * 2**20  # of a parameter on disk: what a reader of one layer has to read at least


def save_model(
    directory: str | Path,
    params: Params,
    config: AnyConfig,
    tokenizer: PreTrainedTokenizerFast | None,
    template: str,
    progress: Callable[[int], None] = lambda done: None,
    generation: dict[str, Any] | None = None,
    asker: Asker | None = None,
) -> None:
    """Writes a model folder, whole or not at all. On several hosts all of them call this (the arrays may be
    sharded).

    Args: params: jax or numpy arrays, or `Leaf`s, which are read one layer at a time as they are written;
    tokenizer, template: what only a LLaVA needs; asker: what a LLaMA-VID needs beside; progress is told the bytes of
    each layer written; generation: a generation_config.json to keep.
    """
    if isinstance(config, LlavaConfig):
        get_template(template)
    if isinstance(config, LlamaVidConfig) and asker is None:
        raise ValueError("a LLaMA-VID is saved with its question tokenizer")
    kind = next(name for name, type_ in KINDS.items() if type(config) is type_)
    entries: dict[str, manifest.Entry] = {}

    def prepared(path: str, leaf: Any) -> Any:
        if isinstance(leaf, jax.Array):
            if leaf.is_fully_addressable:
                entries[path] = manifest.entry([np.asarray(leaf)], leaf.shape, leaf.dtype)
            return leaf
        return _Stream(path, leaf if isinstance(leaf, Leaf) else Leaf.of(leaf, path), entries, progress)

    with whole_folder(directory) as folder:
        flat = {path: prepared(path, leaf) for path, leaf in flatten(params).items()}
        chunks = {
            path: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES, shard_axes=(0,) if is_stacked(path) else ())
            for path in flat
        }
        with ocp.Checkpointer(_handler()) as checkpointer:
            save_args = unflatten(chunks)
            checkpointer.save(
                folder / "params", args=ocp.args.PyTreeSave(unflatten(flat), save_args=save_args)
            )
        if jax.process_index() == 0:
            if len(entries) == len(flat):
                manifest.write(folder, entries)
            if tokenizer is not None:
                save_tokenizer(tokenizer, folder / "tokenizer")
            if asker is not None:
                asker.save(folder / asker_lib.FOLDER)
            header = {"format": FORMAT, "kind": kind} | ({"template": template} if template else {})
            header |= {"generation": generation} if generation else {}
            (folder / "config.json").write_text(json.dumps(header | config.to_json(), indent=1) + "\n")


class _Stream:
    """A leaf on its way into Orbax: what its handlers ask of an array, and the parts to write."""

    def __init__(
        self, path: str, leaf: Leaf, entries: dict[str, manifest.Entry], progress: Callable[[int], None]
    ):
        self.shape, self.dtype, self.size, self.nbytes = leaf.shape, leaf.dtype, leaf.size, leaf.nbytes
        self.ndim = len(leaf.shape)
        self._path, self._leaf, self._entries, self._progress = path, leaf, entries, progress

    def write(self, store: tensorstore.TensorStore) -> None:
        def parts() -> Any:
            for i, part in enumerate(self._leaf.parts()):
                target = store[i] if self._leaf.stacked else store
                written = target.write(part, can_reference_source_data_indefinitely=True)
                yield part  # is hashed meanwhile
                written.result()
                self._progress(part.nbytes)

        self._entries[self._path] = manifest.entry(parts(), self.shape, self.dtype)


class _StreamHandler(ocp.type_handlers.NumpyHandler):
    """Writes `_Stream`s one after another, so that one layer is in memory and not all the parameters."""

    def __init__(self) -> None:
        super().__init__(deepcopy_host_arrays=False)
        self._turn = asyncio.Lock()
        self._failed = False

    async def _open_and_write(self, value: Any, tspec: Any, ts_context: Any) -> None:
        async with self._turn:
            if self._failed:  # Orbax closes the event loop at the first failure: no thread may outlive it
                return
            try:
                spec = tensorstore.Spec(tspec)
                store = await tensorstore.open(spec, create=True, open=True, context=ts_context)
                await asyncio.to_thread(value.write, store)
            except BaseException:
                self._failed = True
                raise


def _handler() -> ocp.PyTreeCheckpointHandler:
    registry = ocp.type_handlers.create_type_handler_registry(
        (_Stream, _StreamHandler()), (jax.Array, ocp.type_handlers.ArrayHandler())
    )
    # Float weights do not get smaller by compression, only slower to write.
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_compression=False)


def locate(directory: str | Path) -> Path:
    """The model folder that a path means: itself, or the `model` in the workdir of a training run."""
    directory = Path(directory)
    inside = directory / "model"
    return inside if is_model_folder(inside) and not is_model_folder(directory) else directory


def is_model_folder(directory: str | Path) -> bool:
    """Whether `save_model` wrote this folder (or one of an older make with the same layout)."""
    return (Path(directory) / "params").is_dir() and (Path(directory) / "config.json").is_file()


def read_config(directory: str | Path) -> tuple[AnyConfig, str]:
    """(config, template name; '' where the model has none) of a model folder."""
    path = Path(directory) / "config.json"
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable config.json ({error}).") from error
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise UserError(f'{path}: not a jaxllava model folder (its "format" is not {FORMAT!r}).')
    kind, template = values.pop("kind", "llava"), values.pop("template", "")
    values.pop("generation", None)
    if kind not in KINDS:
        raise UserError(f"{path}: unknown kind {kind!r}.")
    if template or kind in ("llava", "llama_vid"):
        get_template(template)
    return KINDS[kind].from_json(values), template


def open_model(directory: str | Path) -> Checkpoint:
    """A model folder as a `Checkpoint`: nothing is read but what describes it.

    Raises UserError where the folder is missing or its tree is not the one its config describes.
    """
    directory = _existing(directory)
    config, template = read_config(directory)
    with ocp.StandardCheckpointer() as checkpointer:
        saved = _metadata(directory, checkpointer)
    opened = _Arrays(directory / "params")
    leaves = {path: opened.leaf(path, metadata) for path, metadata in saved.items()}
    folder = directory / "tokenizer"
    tokenizer = load_tokenizer(folder, isinstance(config, LlavaConfig)) if folder.is_dir() else None
    generation = read_json(directory / "config.json").get("generation", {})
    asker = Asker.load(directory / asker_lib.FOLDER) if isinstance(config, LlamaVidConfig) else None
    return Checkpoint(unflatten(leaves), config, tokenizer, template, generation, asker=asker)


class _Arrays:
    """The arrays of an Orbax folder, opened by themselves (OCDBT holding zarr: Orbax's documented format)."""

    def __init__(self, params: Path):
        self._params = params
        self._held: tuple[str, np.ndarray] | None = None

    def leaf(self, path: str, metadata: Any) -> Leaf:
        shape, dtype = tuple(metadata.shape), np.dtype(metadata.dtype)
        if not is_stacked(path):
            return Leaf((Tensor(shape, dtype, lambda: self._read(path)),), False)
        chunk = metadata.storage.chunk_shape if metadata.storage else None
        read = self._read if chunk and chunk[0] == 1 else self._from_whole
        pieces = [Tensor(shape[1:], dtype, lambda i=i: read(path, i)) for i in range(shape[0])]
        return Leaf(tuple(pieces), True)

    def _read(self, path: str, layer: int | None = None) -> np.ndarray:
        kvstore = {"driver": "ocdbt", "base": f"file://{self._params}/", "path": path.replace("/", ".") + "/"}
        spec = {"driver": "zarr", "kvstore": kvstore, "fill_missing_data_reads": False}
        try:
            store = tensorstore.open(spec, open=True, read=True).result()
            return (store if layer is None else store[layer]).read().result()
        except ValueError as error:
            raise UserError(
                f"{self._params}: {path} cannot be read ({in_one_line(error)}); fetch or train it again."
            ) from error

    def _from_whole(self, path: str, layer: int) -> np.ndarray:
        """A layer of a parameter that was written as one chunk: the last one read is kept."""
        if self._held is None or self._held[0] != path:
            self._held = None  # before reading: two of them need not fit
            self._held = (path, self._read(path))
        return self._held[1][layer]


def _existing(directory: str | Path) -> Path:
    directory = locate(directory).absolute()
    if not is_model_folder(directory):
        raise UserError(f"{directory}: no model folder (config.json, params/, tokenizer/) is there.")
    return directory


def _metadata(directory: Path, checkpointer: ocp.StandardCheckpointer) -> dict[str, Any]:
    """Path -> array metadata. UserError unless they are the parameters that config.json describes."""
    params = directory / "params"
    # Looked for first: Orbax meets a folder without them with a dozen tracebacks.
    lost = [name for name in ("_METADATA", "manifest.ocdbt") if not (params / name).is_file()]
    try:
        tree = None if lost else _tree(checkpointer.metadata(params))
    except Exception as error:
        raise UserError(
            f"{params}: cannot be read ({in_one_line(error)}); fetch or train it again."
        ) from error
    if not isinstance(tree, dict):
        why = f"{', '.join(lost)} missing" if lost else "no tree of parameters"
        raise UserError(f"{params}: cannot be read ({why}); fetch or train it again.")
    saved = flatten(tree)
    expected = tables.shapes(read_config(directory)[0])
    problems = [f"missing {path}" for path in sorted(expected.keys() - saved.keys())]
    problems += [f"no place for {path}" for path in sorted(saved.keys() - expected.keys())]
    problems += [
        f"{path} has shape {tuple(saved[path].shape)}, config.json needs {shape}"
        for path, shape in sorted(expected.items())
        if path in saved and tuple(saved[path].shape) != shape
    ]
    if problems:
        raise UserError(f"{directory}: params/ do not fit config.json: " + "; ".join(problems))
    return saved


def _tree(metadata: Any) -> Any:
    """The bare tree of array metadata, however this Orbax wraps it."""
    for name in ("item_metadata", "tree"):
        metadata = getattr(metadata, name, metadata)
    return metadata
