"""`jaxllava plan`: the train step, or generation, compiled for TPUs that are not here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from input_pipeline.conversation import TEMPLATES
from input_pipeline.errors import UserError
from jaxllava import settings, sharding
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.models.presets import PRESETS, preset
from jaxllava.plan import program
from jaxllava.plan import text as text_lib
from jaxllava.plan.estimate import Estimate, estimate
from jaxllava.plan.search import Planner, Report, remedy
from jaxllava.plan.text import name_of
from jaxllava.plan.topology import Slice, open_slice


class DoesNotFit(UserError):
    """`found`: what is known of the program all the same, as `--json` has it, with "fits" false and "advice"."""

    def __init__(self, message: str, found: dict[str, Any]) -> None:
        super().__init__(message)
        self.found = found


def plan(
    config: ConfigDict,
    topology: str,
    *,
    what: str = "train",
    rows: int = 0,
    prompt: int = 1024,
    new: int = 128,
    report: Report = lambda text: None,
) -> tuple[str, dict[str, Any]]:
    """(text, JSON) of a plan. `topology.prepare` has to have run before jax was imported.

    what: "train" or "generate". rows: over all chips (0: for train the most that fit, for generate one for each data
    shard). Raises UserError; DoesNotFit for a config that does not, with by how much, and what would make it fit.
    """
    model = architecture(config)
    # A recipe may leave the template to the base model, whose weights are not read.
    checked = config.copy_and_resolve_references()
    checked.template = config.template or next(iter(TEMPLATES))
    settings.check(checked)
    on = open_slice(topology)
    if what == "generate":
        return _generate(config, model, on, rows, prompt, new)
    planner = Planner(config, model, on, report)
    if rows:
        best: Estimate | None = planner.of_rows(rows)
        assert best is not None
        first = best
    else:
        best, first = planner.largest(), planner.at(1)
    if best is None or not best.fits:
        fewer = planner.largest() if rows else None
        advice = f"{fewer.rows} rows fit" if fewer else remedy(config, model, on, first, report)
        named = {"topology": topology, "architecture": name_of(config), "advice": advice}
        raise DoesNotFit(
            f"{config.stage} of {name_of(config)} does not fit {topology} with {first.rows} rows a step: {first.over}; "
            f"{advice}",
            first.to_json() | named,
        )
    fitting = [each for each in planner.known.values() if each.fits]
    fastest = max(fitting, key=lambda each: each.mfu or 0.0)
    found = fastest.to_json() | {
        "topology": topology,
        "architecture": name_of(config),
        "mesh": list(planner.mesh.devices.shape),
        "remat": config.remat or model.decoder.remat,
        "row_tokens": config.row_tokens,
        "tokens_per_step": fastest.rows * config.row_tokens,
        "largest_rows": best.rows if not rows else None,
        "tried": [each.to_json() for each in planner.known.values()],
    }
    return text_lib.of_training(config, model, planner, fastest, best if not rows else None), found


def architecture(config: ConfigDict) -> LlavaConfig:
    """The model of a config: its base's, or the published one that it names. Raises UserError where neither is."""
    if config.base or config.vision_tower or config.decoder:
        from jaxllava.bases import open_base

        return open_base(config).config
    if not config.architecture:
        raise UserError(
            f"no model: set --config.base=DIR, or --config.architecture to one of {', '.join(PRESETS)}"
        )
    return preset(config.architecture)


def _generate(
    config: ConfigDict, model: LlavaConfig, on: Slice, rows: int, prompt: int, new: int
) -> tuple[str, dict[str, Any]]:
    mesh = sharding.make_mesh(config.mesh, on.devices, config.devices)
    rows = rows or mesh.shape["data"] * mesh.shape["fsdp"]
    if prompt <= model.image_tokens:
        raise UserError(
            f"--prompt {prompt}: a picture alone takes {model.image_tokens} positions; take a longer one"
        )
    made = program.generation(config, model, mesh, rows=rows, prompt=prompt, new=new)
    found = estimate(made, on, dict(config.tpu_options))
    if not found.fits:
        shards, all_chips = mesh.shape["data"] * mesh.shape["fsdp"], (1, 1, len(on.devices))
        changes = ["fewer --rows"] if rows > shards else []
        changes += ["a shorter --prompt"]
        if mesh.devices.shape != all_chips and model.decoder.heads % len(on.devices) == 0:
            changes += [f"weights cut over all chips (--config.mesh={','.join(map(str, all_chips))})"]
        advice = f"take {', '.join(changes)} or a larger slice"
        raise DoesNotFit(
            f"generating {rows} x {prompt + new} tokens with {name_of(config)} does not fit {on.name}: {found.over}; "
            f"{advice}",
            found.to_json() | {"topology": on.name, "architecture": name_of(config), "advice": advice},
        )
    named: dict[str, Any] = {"topology": on.name, "architecture": name_of(config)}
    named |= {"mesh": list(mesh.devices.shape), "prompt": prompt, "new": new}
    if found.prefill_s is not None and found.decode_step_s is not None:
        named["projected_answer_s"] = found.prefill_s + new * found.decode_step_s
    shown = "a picture"
    if isinstance(model, LlamaVidConfig):
        shown = f"{prompt // model.image_tokens} frames, seen before,"
    text = text_lib.of_generation(config, on, mesh, found, prompt, new, shown)
    return text, found.to_json() | named


def write_json(found: dict[str, Any], to: Path | None) -> None:
    text = json.dumps(found, indent=2)
    if to is None:
        print(text)
    else:
        to.write_text(text + "\n")
