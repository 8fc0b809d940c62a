"""lmms-eval's own evaluator on a jaxllava checkpoint, against what jaxllava's own calls answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from input_pipeline.errors import UserError
from input_pipeline.types import Turn
from jaxllava import generate as generation
from jaxllava.api import Model
from jaxllava.weights import orbax
from tests.conftest import png
from tests.jaxllava import tiny_models as tiny

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: pip install 'jaxllava[lmms-eval]'")
pytestmark = pytest.mark.usefixtures("compiled_quickly")

TASKS = ["tiny_written", "tiny_cut", "tiny_chosen", "tiny_rounds"]
CHOICES = ["red", "the blue box is on the left", "3 of 10", "green"]
# Two pictures, one, none; and questions of unequal lengths, so that order and padding matter.
QUESTIONS = [
    ("which colour", [0]), ("how many people like the red ball on the left", [1]), ("like", [2, 3]),
    ("is it red", []), ("what is on the left", [4]), ("box", [5]), ("which colour", [6]),
]  # fmt: skip

UTILS = """
import io
from PIL import Image

def visuals(doc):
    return [Image.open(io.BytesIO(data)) for data in doc["pictures"]]

def right(doc, results):
    return {"right": float(results[0] == doc["answer"])}

def next_round(doc, lmms_eval_specific_kwargs=None, previous_output=None, round_idx=None, previous_round_info=None):
    if round_idx is None:
        return doc["question"]
    asked = (previous_round_info or 0) + 1
    text = f"you said {previous_output[-1]}, {doc['question']}"
    return visuals(doc), text, round_idx == 1 + doc["id"] % 2, previous_output, asked

def rounds(doc, results):
    return {"rounds": len(results[0])}
"""

TASK = """
task: {name}
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {folder}/{data}.parquet
test_split: test
output_type: {kind}
doc_to_text: question
doc_to_visual: !function {folder}/utils.visuals
doc_to_target: answer
{more}
metadata:
  version: 0.0
"""
WRITTEN = """
generation_kwargs:
  max_new_tokens: 12
  until: {until}
process_results: !function {folder}/utils.right
metric_list:
  - metric: right
    aggregation: mean
    higher_is_better: true
"""
CHOSEN = """
doc_to_choice: choices
metric_list:
  - metric: acc
  - metric: acc_norm
"""
ROUNDS = """
generation_kwargs:
  max_new_tokens: 8
process_results: !function {folder}/utils.rounds
metric_list:
  - metric: rounds
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Model:
    tokenizer = tiny.tokenizer_in(tmp_path_factory.mktemp("tokenizer"))
    config = tiny.llava_for(tokenizer, vision=tiny.VISION.replace(layers=2))
    config = config.replace(decoder=config.decoder.replace(layers=1))  # what is compiled here takes the time
    return Model(config, jax.tree.map(jnp.asarray, tiny.random_params(config)), tokenizer, "v1_bare")


@pytest.fixture(scope="module")
def folder(own: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, the tasks and their data."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("lmms")
    orbax.save_model(folder / "model", own.params, own.config, own.tokenizer, own.template)
    (folder / "utils.py").write_text(UTILS)
    answers = _answers(own)
    stop = max(answers, key=len)[4:6]  # in the middle of an answer
    likeliest = own.score([q for q, _ in QUESTIONS], _pictures(), CHOICES, end=False, batch_size=4).argmax(
        axis=1
    )
    rows: list[dict[str, Any]] = [
        {"id": i, "question": question, "pictures": [png(n) for n in numbers], "choices": CHOICES}
        for i, (question, numbers) in enumerate(QUESTIONS)
    ]
    for data, truth in (("written", answers), ("chosen", likeliest.tolist())):
        table = [row | {"answer": answer} for row, answer in zip(rows, truth, strict=True)]
        pq.write_table(pa.Table.from_pylist(table), folder / f"{data}.parquet")
    bad = [rows[0], rows[1] | {"pictures": [b"no picture"]}, rows[2] | {"question": "red " * 600}, rows[3]]
    bad = [row | {"answer": 0 if i else 1} for i, row in enumerate(bad)]
    pq.write_table(pa.Table.from_pylist(bad), folder / "bad.parquet")
    for name, data, kind, more in (
        ("tiny_written", "written", "generate_until", WRITTEN.format(until="[]", folder=folder)),
        ("tiny_cut", "written", "generate_until", WRITTEN.format(until=json.dumps([stop]), folder=folder)),
        ("tiny_chosen", "chosen", "multiple_choice", CHOSEN),
        ("tiny_rounds", "written", "generate_until_multi_round", ROUNDS.format(folder=folder)),
        ("bad_written", "bad", "generate_until", WRITTEN.format(until="[]", folder=folder)),
        ("bad_chosen", "bad", "multiple_choice", CHOSEN),
    ):
        text = TASK.format(name=name, data=data, kind=kind, folder=folder, more=more)
        if "multi_round" in kind:
            text = text.replace("doc_to_text: question", f"doc_to_text: !function {folder}/utils.next_round")
        (folder / f"{name}.yaml").write_text(text)
    (folder / "stop.txt").write_text(stop)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def harness(folder: Path):
    """The model as lmms-eval's registry finds and makes it."""
    from lmms_eval import models  # pyright: ignore[reportMissingImports]

    made = models.get_model("jaxllava")
    return made.create_from_arg_string(f"pretrained={folder / 'model'},batch_size=4", {"batch_size": 1})


@pytest.fixture(scope="module")
def evaluated(folder: Path, harness: Any) -> dict[str, Any]:
    return _evaluate(folder, TASKS, harness, use_cache=str(folder / "cache"), model_args="x=1")


def _pictures() -> list[list[bytes]]:
    return [[png(number) for number in numbers] for _, numbers in QUESTIONS]


def _answers(own: Model, **changes: Any) -> list[str]:
    return own.generate(
        [q for q, _ in QUESTIONS], _pictures(), **{"max_new_tokens": 12, "batch_size": 4, **changes}
    )


def _evaluate(folder: Path, tasks: list[str], model: Any, **arguments: Any) -> dict[str, Any]:
    from lmms_eval import evaluator  # pyright: ignore[reportMissingImports]
    from lmms_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = evaluator.simple_evaluate(
        model=model, tasks=tasks, task_manager=manager, bootstrap_iters=0, **arguments
    )
    assert found is not None
    return found


def _said(found: dict[str, Any], task: str) -> list[Any]:
    return [sample["filtered_resps"][0] for sample in found["samples"][task]]


def test_generation_and_choices_are_those_of_our_own_calls(
    own: Model, folder: Path, harness: Any, evaluated: dict[str, Any]
) -> None:
    found = evaluated
    answers = _answers(own)
    assert _said(found, "tiny_written") == answers and len(set(answers)) > 4
    assert found["results"]["tiny_written"]["right,none"] == 1.0
    stop = (folder / "stop.txt").read_text()
    cut = [answer.partition(stop)[0].strip() for answer in answers]
    assert _said(found, "tiny_cut") == cut != answers
    # Its gold is what `score` finds likeliest: lmms-eval takes the least of what it is given.
    assert found["results"]["tiny_chosen"]["acc,none"] == 1.0
    sums = own.score([q for q, _ in QUESTIONS], _pictures(), CHOICES, end=False, batch_size=4)
    by_length = (sums / [len(text) for text in CHOICES]).argmax(axis=1)
    assert found["results"]["tiny_chosen"]["acc_norm,none"] == np.mean(by_length == sums.argmax(axis=1))
    told = np.array([sample["filtered_resps"] for sample in found["samples"]["tiny_chosen"]])  # [N, C, 2]
    np.testing.assert_allclose(told[..., 0], -sums, rtol=1e-5, atol=1e-4)
    greedy = own.continuations([q for q, _ in QUESTIONS], _pictures(), [CHOICES] * len(QUESTIONS))[2]
    np.testing.assert_array_equal(told[..., 1], greedy)
    assert not harness.failed


def test_another_run_compiles_nothing(folder: Path, harness: Any, evaluated: dict[str, Any]) -> None:
    sizes = lambda: (generation._decode._cache_size(), generation._score._cache_size())
    before = sizes()
    found = _evaluate(folder, ["tiny_written", "tiny_chosen"], harness)
    assert sizes() == before
    assert _said(found, "tiny_written") == _said(evaluated, "tiny_written")


def test_mean_loss_counts_the_end(own: Model, folder: Path) -> None:
    from jaxllava.lmms.model import JaxLlava

    model = JaxLlava(str(folder / "model"), batch_size=4, reduction="mean")
    found = _evaluate(folder, ["tiny_chosen"], model)
    for number in (0, 2):
        question, pictures = QUESTIONS[number][0], _pictures()[number]
        sums, counts = own.loglikelihood([question] * 4, [pictures] * 4, CHOICES, end=True)
        got = [loss for loss, _ in found["samples"]["tiny_chosen"][number]["filtered_resps"]]
        np.testing.assert_allclose(got, -sums / counts, rtol=1e-5, atol=1e-5)


def test_rounds(own: Model, evaluated: dict[str, Any]) -> None:
    said = _said(evaluated, "tiny_rounds")
    assert [len(rounds) for rounds in said] == [1 + i % 2 for i in range(len(QUESTIONS))]
    first = _answers(own, max_new_tokens=8)
    assert [rounds[0] for rounds in said] == first
    second = own.generate([f"you said {first[1]}, {QUESTIONS[1][0]}"], [_pictures()[1]], max_new_tokens=8)
    assert said[1][1] == second[0]


def test_cached_answers_are_used(
    folder: Path, harness: Any, evaluated: dict[str, Any], monkeypatch: Any
) -> None:
    calls: list[int] = []
    for name in ("generate_until", "generate_until_multi_round", "loglikelihood"):
        monkeypatch.setattr(harness, name, lambda requests: calls.append(len(requests)))
    found = _evaluate(folder, TASKS, harness, use_cache=str(folder / "cache"), model_args="x=1")
    assert found["results"] == evaluated["results"] and not calls


def test_bad_requests_are_named_and_counted(folder: Path, own: Model, harness: Any) -> None:
    from loguru import logger  # pyright: ignore[reportMissingImports]

    from jaxllava.lmms.model import JaxLlava

    said_loudly: list[str] = []
    sink = logger.add(said_loudly.append, level="ERROR", format="{message}")

    found = _evaluate(folder, ["bad_written"], harness)
    said = _said(found, "bad_written")
    assert said[1:3] == ["", ""] and said[0] == _answers(own)[0] and said[3]
    assert harness.failed.keys() == {"task bad_written, doc 1", "task bad_written, doc 2"}
    assert "cannot" in harness.failed["task bad_written, doc 1"]
    assert "the model has 512 places" in harness.failed["task bad_written, doc 2"]
    logger.remove(sink)
    assert "2 requests could not be read" in said_loudly[-1]
    with pytest.raises(UserError, match="2 of 4 requests cannot be read: task bad_chosen, doc 1: "):
        _evaluate(folder, ["bad_chosen"], harness)
    with pytest.raises(UserError, match="2 of 4 requests cannot be read"):
        _evaluate(folder, ["bad_written"], JaxLlava(str(folder / "model"), strict=True))


def test_an_answer_gets_the_places_that_are_left(own: Model, folder: Path) -> None:
    """A task may ask for more new tokens than the model has places; lmms-eval's do, up to 49152."""
    from lmms_eval import models  # pyright: ignore[reportMissingImports]

    model = models.get_model("jaxllava")(str(folder / "model"), batch_size=2)
    prompts = ["red " * 468, "red " * 460]
    rows = own.read(prompts)
    left = [512 - len(row[0]) for row in rows]
    assert 0 < left[0] < left[1] < 60
    model.task_dict = {"t": {"test": [{}, {}]}}
    requests = [_request(i, prompt, {"max_new_tokens": 49152}) for i, prompt in enumerate(prompts)]
    assert model.generate_until(requests) == own.answer(rows, left)
    assert own.answer(rows, left)[0] == own.answer(rows, left[0])[0] != own.answer(rows, left[0] - 5)[0]


def _request(doc_id: int, context: str, given: dict[str, Any]) -> Any:
    from lmms_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]

    metadata = {"task": "t", "doc_id": doc_id, "repeats": 1}
    return Instance("generate_until", (context, given, None, doc_id, "t", "test"), 0, metadata)


def test_messages_keep_pictures_in_place(own: Model, folder: Path) -> None:
    from lmms_eval import models  # pyright: ignore[reportMissingImports]
    from lmms_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]

    model = models.get_model("jaxllava_chat")(str(folder / "model"), batch_size=2)
    first, second = (Image.new("RGB", (20, 20), colour) for colour in ("red", "blue"))

    def messages(document: dict[str, Any]) -> list[dict[str, Any]]:
        content = [
            {"type": "text", "text": "is this"}, {"type": "image", "url": first},
            {"type": "text", "text": "or this"}, {"type": "image", "url": second},
            {"type": "text", "text": document["question"]},
        ]  # fmt: skip
        return [{"role": "user", "content": content}]

    model.task_dict = {"t": {"test": [{"question": "red"}]}}
    metadata = {"task": "t", "doc_id": 0, "repeats": 1}
    request = Instance("generate_until", ("", messages, {"max_new_tokens": 8}, 0, "t", "test"), 0, metadata)
    turns = [Turn("human", "is this<image>\nor this<image>\nred")]
    assert model.generate_until([request]) == own.generate([turns], [[first, second]], max_new_tokens=8)
    assert request.args[2] == {"max_new_tokens": 8}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (1024, 0.0, 1.0)),
        ({"max_new_tokens": 5, "temperature": 0.7, "do_sample": False}, (5, 0.0, 1.0)),
        ({"max_gen_toks": 7, "temperature": 0.7, "top_p": 0.9}, (7, 0.7, 0.9)),
        ({"do_sample": True, "top_p": None}, (1024, 1.0, 1.0)),
        ({"do_sample": True, "temperature": 0}, (1024, 0.0, 1.0)),
    ],
)
def test_generation_arguments(given: dict[str, Any], expected: tuple) -> None:
    from jaxllava.lmms.requests import Writing, read_writing

    assert read_writing(given)[0] == Writing(*expected)


def test_ends_and_arguments_without_meaning() -> None:
    from jaxllava.lmms.requests import cut, read_writing

    _, until, unknown = read_writing({"until": "\n", "num_beams": 5, "n": 1, "image_aspect_ratio": "pad"})
    assert (until, unknown) == (("\n",), ["num_beams", "image_aspect_ratio"])
    assert cut("a b\n\nQ: c", ["Q:", "\n\n", ""]) == "a b"


def test_pictures_of_every_kind(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    from jaxllava.lmms.requests import Ask, prompt_of

    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for level in range(0, 240, 10):  # 24 frames, ever brighter
            frame = av.VideoFrame.from_image(Image.new("RGB", (32, 32), (level,) * 3))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    read = lambda visual, most=None: prompt_of(Ask("t", 0, "what", lambda: visual), 4, most)[1]
    frames = read([str(path)])
    # 24 frames of a tenth of a second: those at 0.3, 0.9, 1.5 and 2.1, the middles of four parts.
    assert [round(np.asarray(frame).mean(), -1) for frame in frames] == pytest.approx(
        [30, 90, 150, 210], abs=10
    )
    assert len(read({"type": "video", "url": str(path)})) == 4
    picture = Image.new("RGB", (4, 4))
    assert read([[picture, png(0)], {"bytes": png(1), "path": None}]) == [picture, png(0), png(1)]
    assert read([png(i) for i in range(5)], 3) == [png(0), png(2), png(4)]
    assert read(None) == []
    for visual, reason in (
        ([3], "a int is neither"),
        ({"video_start": 1, "url": "a.mp4"}, "video_start"),
        ("https://example.com/a.png", "not on this machine"),
        (str(tmp_path / "none.mp4"), "no such file"),
        ("a.wav", "sound"),
    ):
        with pytest.raises(UserError, match=reason):
            read(visual)
    with pytest.raises(UserError, match="could not make its pictures: KeyError"):
        prompt_of(Ask("t", 0, "what", lambda: {}["image"]), 4, None)
    with pytest.raises(UserError, match="empty"):
        prompt_of(Ask("t", 0, " "), 4, None)
    text, _, note = prompt_of(Ask("t", 0, "<image> or <image>", lambda: [picture]), 4, None)
    assert text == "or" and "marks" in note


def test_arguments_are_checked(folder: Path) -> None:
    from jaxllava.lmms.model import JaxLlava

    for arguments, reason in (
        ("", "pretrained=FOLDER"),
        ("pretrained=x,tempalte=v1", "Did you mean 'template'"),
        ("pretrained=x,batch_size=auto", "batch_size is 'auto'"),
        ("pretrained=x,reduction=sums", "Did you mean 'sum'"),
        ("pretrained=x,frames=0", "frames is 0"),
        (f"pretrained={folder / 'none'}", "no such model folder"),
    ):
        with pytest.raises(UserError, match=reason):
            JaxLlava.create_from_arg_string(arguments, {"batch_size": "1", "device": None})
