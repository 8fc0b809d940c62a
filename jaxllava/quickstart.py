"""`jaxllava quickstart`: draws a corpus, trains every stage on it, compares the arms, reports and exports.

Every stage leaves its result in the workdir before the next one starts, so the same command goes on where an earlier
one was interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerFast

from configs import prepare as prepare_config
from configs.quickstart import ARMS
from input_pipeline import records
from input_pipeline.errors import UserError
from input_pipeline.plaza import write as plaza
from input_pipeline.prepare import prepare
from input_pipeline.tokenizer import IMAGE_TOKEN, load_tokenizer, train_tokenizer
from jaxllava import api
from jaxllava.evaluate import metrics, report
from jaxllava.evaluate import plaza as plaza_tasks
from jaxllava.models.clip import ClipConfig, ClipTextConfig, ClipVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llava import LlavaConfig
from jaxllava.progress import Stages
from jaxllava.train import Trained, train
from jaxllava.weights import check, hf_export
from jaxllava.weights.checkpoint import Checkpoint

STAGES = 15  # numbered lines on the terminal, without the repeats of --seeds


@dataclass(frozen=True)
class Foundation:
    """What arms are compared on: one corpus, its records, one tokenizer, one base model, the same held-out posts."""

    corpus: Path
    data: Path  # records
    tokenizer: PreTrainedTokenizerFast
    model: LlavaConfig
    base: Path
    heldout: plaza_tasks.Heldout
    runs: dict[str, Trained]  # the stages that led to the base

    @property
    def gold(self) -> Path:
        return self.corpus / "gold.json"

    @classmethod
    def at(cls, workdir: Path, config: ConfigDict, runs: dict[str, Trained] | None = None) -> Foundation:
        """What `lay_foundation` has laid there; nothing of it is checked."""
        corpus, data = workdir / "plaza", workdir / "data" / "records"
        tokenizer = load_tokenizer(workdir / "tokenizer")
        _, model = model_configs(config, len(tokenizer), tokenizer)
        gold, asked = corpus / "gold.json", config.evaluate
        heldout = plaza_tasks.load_heldout(data, gold, asked.posts, asked.questions)
        return cls(corpus, data, tokenizer, model, workdir / "models" / "base" / "model", heldout, runs or {})


def quickstart(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Runs all stages; returns (and leaves in `workdir/results.json`) the results. See configs/quickstart.py."""
    workdir.mkdir(parents=True, exist_ok=True)
    with programs_kept_in(workdir / "compiled"):
        return _run_stages(config, workdir)


@contextlib.contextmanager
def programs_kept_in(folder: Path) -> Iterator[None]:
    """The arms run the same program: the second and third find it compiled. Nothing of it lasts beyond the block."""
    wanted = {
        "jax_compilation_cache_dir": str(folder.resolve()),
        "jax_persistent_cache_min_compile_time_secs": 0.5,
    }
    before = {name: getattr(jax.config, name) for name in wanted}
    for name, value in wanted.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def lay_foundation(config: ConfigDict, workdir: Path, stages: Stages) -> Foundation:
    """Corpus, cleaning, tokenizer, CLIP, decoder, stages 1 and 2: what is there already is taken as it is."""
    corpus, models = workdir / "plaza", workdir / "models"

    # -- data --------------------------------------------------------------------------------------------------
    with stages.stage("draw", "drawing plaza") as bar:
        if not (corpus / "gold.json").exists():
            unfinished = corpus.with_name("plaza.tmp")  # of an interrupted run: the seed draws it again
            shutil.rmtree(unfinished, ignore_errors=True)
            plaza.write(unfinished, config.seed, **config.plaza.to_dict(), progress=bar)
            unfinished.rename(corpus)
        claim(workdir / "quickstart.json", config, ("seed", "plaza", "vocab_size", "evaluate"))
    with stages.stage("prepare", "cleaning, writing records") as bar:
        prepare_config.fill(config.prepare, corpus / "raw")
        prepare(config.prepare, workdir / "data", progress=bar)
        data = workdir / "data" / "records"
        tokenizer = make_tokenizer(data, workdir / "tokenizer", config.vocab_size)

    # -- the base model ----------------------------------------------------------------------------------------
    clip_config, model_config = model_configs(config, len(tokenizer), tokenizer)
    runs: dict[str, Trained] = {}

    def run(name: str, title: str, stage: ConfigDict, model: ClipConfig | LlavaConfig = model_config) -> Path:
        stage = stage.copy_and_resolve_references()
        stage.data = str(data)
        with stages.stage(name, title) as bar:
            runs[name] = train(stage, model, tokenizer, models / name, progress=bar)
        return runs[name].model

    clip = run("clip", "training CLIP", config.clip, clip_config)
    language = run("language", "training the decoder on text", config.language)
    config.align.init = (
        (r"vision/.*", str(clip)),
        (r"decoder/.*", str(language)),
        (r"projector/.*", None),
    )
    aligned = run("align", "stage 1: projector", config.align)
    config.instruct.base = str(aligned)
    run("base", "stage 2: objects, colours, counts", config.instruct)
    return Foundation.at(workdir, config, runs)


def _run_stages(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    extra = 2 * len(ARMS) * (config.seeds - 1)
    stages = Stages(STAGES + extra, workdir / "seconds.json")
    ground = lay_foundation(config, workdir, stages)
    heldout, base, runs = ground.heldout, ground.base, ground.runs

    # -- the arms, from that one base --------------------------------------------------------------------------
    columns: dict[str, list[plaza_tasks.Columns]] = {arm: [] for arm in ("base", *ARMS)}

    def judge(arm: str, name: str, folder: Path) -> None:
        path = workdir / "evaluation" / f"{name}.json"
        with stages.stage(f"evaluate-{name}", f"evaluating {name}") as bar:
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                write_json(path, plaza_tasks.evaluate(api.load(folder), heldout, bar))
            columns[arm].append(json.loads(path.read_text()))

    judge("base", "base", base)
    folders: dict[str, Path] = {"base": base}
    for seed in range(config.seeds):
        for arm in ARMS:
            name = arm if seed == 0 else f"{arm}-seed{seed}"
            stage = arm_stage(config, arm, ground.data, base, seed)
            with stages.stage(name, f"arm: {name}") as bar:
                runs[name] = train(
                    stage, ground.model, ground.tokenizer, workdir / "models" / name, progress=bar
                )
            folder = runs[name].model
            folders.setdefault(arm, folder)
            judge(arm, name, folder)

    # -- export and report -------------------------------------------------------------------------------------
    with stages.stage("export", "exporting to Hugging Face"):
        exported = workdir / "export" / "behavior-hf"
        best = api.load(folders["behavior"])
        if not exported.exists():
            hf_export.export(Checkpoint.of(best.params, best.config, best.tokenizer, best.template), exported)
        export = {"path": str(exported), **check.against_transformers(best, exported, heldout.posts)}
    with stages.stage("report", "writing the report"):
        samples = write_samples(workdir, folders, heldout, config)
    results = {
        "arms": {arm: _over_seeds(found) for arm, found in columns.items()},
        "by_seed": {
            arm: [_as_dicts(plaza_tasks.estimates(c)) for c in found] for arm, found in columns.items()
        },
        "differences": {
            other: _differences(columns["behavior"], columns[other]) for other in ("base", "ad", "shuffled")
        },
        "chance": heldout.chance(),
        "seeds": list(range(config.seeds)),
        "seconds": stages.seconds,
        "tokens_per_second": {name: result.tokens_per_second for name, result in runs.items()},
        "curves": {name: result.curve for name, result in runs.items()},
        "facts": {name: result.facts for name, result in runs.items()},
        "funnel": json.loads((workdir / "data" / "funnel.json").read_text()),
        "quarantine": quarantine(workdir / "data" / "quarantine.jsonl"),
        "samples": samples,
        "export": export,
        "machine": machine(),
    }
    write_json(workdir / "results.json", results)
    report.write_html(results, workdir / "report.html")
    return results


def arm_stage(
    config: ConfigDict,
    name: str,
    data: Path,
    base: Path,
    seed: int,
    split: str = "",
    instruct: float = 1.0,
) -> ConfigDict:
    """The stage of an arm: `split` (default: its own name) and `instruct` samples of stage 2 for each of its own."""
    stage = config.arm.copy_and_resolve_references()
    stage.update(stage=name, data=str(data), base=str(base), seed=seed)
    stage.mixture = ((f"{split or name}_train", 1.0), ("instruct_train", instruct))
    return stage


def machine() -> str:
    """One line on what the figures were made with."""
    return (
        f"{os.cpu_count()} x {platform.machine()} {platform.system()}, {jax.default_backend()}, "
        f"jax {jax.__version__}, Python {platform.python_version()}"
    )


def claim(path: Path, config: ConfigDict, keys: Collection[str]) -> None:
    """Binds a workdir to keys of the config of which nothing else notices a change; `prepare` and `train` know theirs.

    Called when the corpus is whole, so that a mistake in the command does not claim the folder.
    """
    parts = {key: value for key, value in config.to_dict().items() if key in keys}
    flat = {key: repr(value) for key, value in flatten_dict(parts, sep=".").items()}
    if not path.exists():
        write_json(path, flat)
    saved = json.loads(path.read_text())
    if changed := sorted(key for key in flat.keys() | saved.keys() if flat.get(key) != saved.get(key)):
        raise UserError(
            f"{path.parent} holds a run with another config.{', config.'.join(changed)}; use a new --workdir"
        )


def quarantine(path: Path, examples: int = 12) -> dict[str, Any]:
    """The rejected records of a prepared data set: how many, why, and some of them."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    by_reason = Counter(f"{row['stage']}: {row['reason']}" for row in rows)
    return {"count": len(rows), "by_reason": dict(by_reason.most_common()), "examples": rows[:examples]}


def make_tokenizer(data: Path, folder: Path, vocab_size: int):
    """A BPE tokenizer over the training text of every split, trained once."""
    if not folder.exists():
        texts = []
        for split in ("text_train", "chat_train", "instruct_train", "behavior_train"):
            source = records.open_split(data, split)
            for number in range(len(source)):
                texts.extend(turn.text.replace(IMAGE_TOKEN, "") for turn in source[number].conversations)
        unfinished = folder.with_name(folder.name + ".tmp")
        train_tokenizer(texts, vocab_size, unfinished)
        unfinished.rename(folder)
    return load_tokenizer(folder)


def model_configs(config: ConfigDict, vocab_size: int, tokenizer) -> tuple[ClipConfig, LlavaConfig]:
    """The two models of the quickstart: CLIP, and the LLaVA that takes its vision tower."""
    vision = ClipVisionConfig(**config.vision)
    text = ClipTextConfig(**config.text, vocab_size=vocab_size, eos_id=tokenizer.eos_token_id)
    decoder = LlamaConfig(vocab_size=vocab_size, **config.decoder)
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    return ClipConfig(vision, text, projection_dim=vision.hidden_size), LlavaConfig(
        vision, decoder, image_token
    )


def write_samples(
    workdir: Path, folders: dict[str, Path], heldout: plaza_tasks.Heldout, config: ConfigDict
) -> list[dict[str, Any]]:
    """Comments that the models write for the first held-out posts, beside the true ones."""
    posts = heldout.posts[: config.evaluate.samples]
    truths = heldout.truths[: config.evaluate.samples]
    written: dict[str, list[str]] = {}
    for arm in ("base", "behavior"):
        model = api.load(folders[arm])
        prompts = [record.conversations[0].text for record in posts]
        images = [record.images[0] for record in posts]
        # Sampled: the likeliest comment of a small model is the same for every post.
        written[arm] = model.generate(
            prompts, images, max_new_tokens=config.evaluate.new_tokens, temperature=0.7, seed=config.seed
        )
    samples = []
    folder = workdir / "samples"
    folder.mkdir(exist_ok=True)
    for number, (record, truth) in enumerate(zip(posts, truths, strict=True)):
        image = folder / f"{number}.png"
        image.write_bytes(record.images[0])
        samples.append(
            {
                "image": str(image),
                "title": record.meta["title"],
                "true_comments": record.meta["comments"][:5],
                "true_like_rate": record.meta["like_rate"],
                "generated": {arm: texts[number] for arm, texts in written.items()},
                "mood": truth["mood"],
                "topic": truth["topic"],
            }
        )
    return samples


def _over_seeds(found: list[plaza_tasks.Columns]) -> dict[str, dict[str, Any]]:
    per_seed = [plaza_tasks.estimates(columns) for columns in found]
    return {task: metrics.over_seeds([e[task] for e in per_seed]).to_dict() for task in per_seed[0]}


def _differences(
    first: list[plaza_tasks.Columns], second: list[plaza_tasks.Columns]
) -> dict[str, dict[str, Any]]:
    """first - second, paired by item in each seed, then over seeds. The base has but one run."""
    second = second * len(first) if len(second) == 1 else second
    per_seed = [plaza_tasks.differences(a, b) for a, b in zip(first, second, strict=True)]
    return {task: metrics.over_seeds([d[task] for d in per_seed]).to_dict() for task in per_seed[0]}


def _as_dicts(found: dict[str, metrics.Estimate]) -> dict[str, dict[str, Any]]:
    return {task: estimate.to_dict() for task, estimate in found.items()}


def write_json(path: Path, data: Any) -> None:
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(data, indent=1))
    unfinished.rename(path)
