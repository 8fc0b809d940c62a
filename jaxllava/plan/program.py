"""The programs of a run as the compiler gets them: the real train step and generation, on shapes in place of arrays.

Nothing is allocated: parameters, the optimizer's state and the batch are `jax.ShapeDtypeStruct`s with the shardings
that a run gives them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from input_pipeline.errors import UserError
from jaxllava import flops, generate, initial, preflight, settings
from jaxllava import optimizer as optimizer_lib
from jaxllava import rules as rules_lib
from jaxllava import sharding as sharding_lib
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.llava import LlavaConfig, init_params
from jaxllava.objectives import Causal
from jaxllava.rules import Params
from jaxllava.train_step import make_step

QUESTION = 64  # tokens of a question to a LLaMA-VID, and as many questions as pictures


@dataclass(frozen=True)
class Program:
    """A program for a mesh, lowered and not compiled.

    rows: of a call, over all chips and micro-batches. params_bytes, optimizer_bytes: of one chip. tokens: positions
    that a call works on. model_flops: of a call over all chips with every position in use (`flops`), None for
    generation.
    """

    lowered: Any
    rows: int
    params_bytes: int
    optimizer_bytes: int
    tokens: int
    model_flops: float | None


def batch_shapes(config: ConfigDict, model: LlavaConfig, rows: int, mesh: Mesh) -> Params:
    """A packed batch of so many rows, over all chips: what `input_pipeline.rows.PackedRows` gives the step."""
    cut = sharding_lib.batch_sharding(mesh)
    make = lambda shape, dtype: jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=cut)
    names = ("tokens", "targets", "positions", "segment_ids", "sources", "image_index")
    batch: Params = {name: make((config.row_tokens,), jnp.int32) for name in names}
    batch |= {"weights": make((config.row_tokens,), jnp.float32)}
    size = model.vision.image_size
    images = {"images": make((config.row_images, size, size, 3), jnp.uint8)}
    if not isinstance(model, LlamaVidConfig):
        return batch | images
    slots = slots_of(config, model)
    if config.features:
        return batch | {"pooled": make((slots, model.image_tokens, model.vision.hidden_size), jnp.bfloat16)}
    questions = (config.row_images, QUESTION)
    asked = {name: make((slots,), jnp.int32) for name in ("slot_frame", "slot_question")}
    asked |= {"questions": make(questions, jnp.int32), "question_valid": make(questions, jnp.bool_)}
    return batch | images | asked


def slots_of(config: ConfigDict, model: LlamaVidConfig) -> int:
    """Slots that a LLaMA-VID's row is planned with; a run counts those of its data (`input_pipeline.rows.Asked`).

    Two for each picture, as of records whose pictures are asked about twice; of kept features as many as fill a row.
    """
    most = config.row_tokens // model.image_tokens
    return most if config.features else min(2 * config.row_images, most)


def train_step(config: ConfigDict, model: LlavaConfig, mesh: Mesh, rows: int) -> Program:
    """A step of `rows` rows over all chips and micro-batches. Raises UserError where they do not divide."""
    preflight.check_batch(rows, config.accumulate, mesh)
    config = config.copy_and_resolve_references()
    config.steps = config.steps or 1000  # of the schedule, which the program is the same for
    model = settings.with_settings(config, model)
    objective = Causal(model.module(), config)
    params = _laid_out(initial.final_shapes(objective.init, config), mesh, config.sharding_rules)
    optimizer, _ = optimizer_lib.make_optimizer(config, params)
    trained, frozen = optimizer_lib.partition(params, config.lr_rules)
    whole = NamedSharding(mesh, PartitionSpec())
    state = state_shapes(optimizer, trained, whole)
    layout = lambda tree: jax.tree.map(lambda leaf: leaf.sharding, tree)
    step = make_step(
        objective.loss,
        optimizer,
        accumulate=config.accumulate,
        seed=config.seed,
        shardings=(layout(trained), layout(state), whole),
    )
    number = jax.ShapeDtypeStruct((), jnp.int32)
    stop = jax.ShapeDtypeStruct(
        (mesh.size,), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec(sharding_lib.AXES))
    )
    with jax.set_mesh(mesh):
        lowered = step.lower(trained, state, frozen, batch_shapes(config, model, rows, mesh), number, stop)
    cost = flops.of_trained(model, trained, bool(config.features))
    length = config.row_tokens
    slots = rows * slots_of(config, model) if isinstance(model, LlamaVidConfig) else 0
    return Program(
        lowered,
        rows,
        _bytes_of_chip(params),
        _bytes_of_chip(state),
        rows * length,
        cost.of(
            rows * length,
            rows * length * (length + 1) / 2,
            rows * config.row_images,
            slots,
            slots * QUESTION,
        ),
    )


def generation(
    config: ConfigDict,
    model: LlavaConfig,
    mesh: Mesh,
    *,
    rows: int,
    prompt: int,
    new: int,
    images: int = 1,
    dtype: str = "bfloat16",
) -> Program:
    """Prefill of prompts [rows, prompt] and up to `new` greedy tokens, as `generate`.

    Each prompt has `images` pictures; a LLaMA-VID's has the frames that fill it, whose features are kept by then.
    """
    if rows % (mesh.shape["data"] * mesh.shape["fsdp"]):
        raise UserError(
            f"--rows {rows} does not divide over {mesh.shape['data'] * mesh.shape['fsdp']} data shards (mesh data x "
            "fsdp); take a multiple, or another --config.mesh"
        )
    model = settings.with_settings(config, model).with_dtypes(config.dtype or dtype, dtype)
    shapes = jax.eval_shape(partial(init_params, model), jax.random.key(0))
    params = _laid_out(shapes, mesh, config.sharding_rules)
    cut = sharding_lib.batch_sharding(mesh)
    row = lambda shape, dtype: jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=cut)
    size = model.vision.image_size
    shown = row((images, size, size, 3), jnp.uint8)  # type: ignore[arg-type]
    if isinstance(model, LlamaVidConfig):
        kept = (prompt // model.image_tokens, model.image_tokens, model.vision.hidden_size)
        shown = row(kept, model.vision.dtype)  # type: ignore[arg-type]
    prompts = generate.Prompts(
        tokens=row((prompt,), jnp.int32),  # type: ignore[arg-type]
        valid=row((prompt,), jnp.bool_),  # type: ignore[arg-type]
        image_index=row((prompt,), jnp.int32),  # type: ignore[arg-type]
        images=shown,  # type: ignore[arg-type]
    )
    with jax.set_mesh(mesh):
        lowered = generate.lower(model.module(), params, prompts, generate.bucket(new))
    return Program(lowered, rows, _bytes_of_chip(params), 0, rows * new, None)


def state_shapes(optimizer: optax.GradientTransformation, trained: Params, whole: NamedSharding) -> Any:
    """The optimizer's state: moments laid out as their parameters are, as `optimizer.initial_state` leaves them."""
    places = {path: (leaf.shape, leaf.sharding) for path, leaf in rules_lib.flatten(trained).items()}

    def place(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        # A moment stands in the state under the path of its parameter.
        names = [str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey)]
        found = next(
            (places[tail] for i in range(len(names)) if (tail := "/".join(names[i:])) in places), None
        )
        sharding = found[1] if found and found[0] == leaf.shape else whole
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(place, jax.eval_shape(optimizer.init, trained))


def _laid_out(shapes: Params, mesh: Mesh, rules: str) -> Params:
    places = sharding_lib.param_shardings(shapes, mesh, sharding_lib.RULES[rules])
    return jax.tree.map(lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), shapes, places)


def _bytes_of_chip(tree: Any) -> int:
    total = 0
    for leaf in jax.tree.leaves(tree):
        count = 1
        for size in leaf.sharding.shard_shape(leaf.shape):
            count *= size
        total += count * leaf.dtype.itemsize
    return total
